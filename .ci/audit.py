"""Check the pins of constraints.txt against the list of known vulnerabilities in .ci/vulnerabilities.toml.

    make audit                                    needs no network
    .venv/bin/python .ci/audit.py --online        also asks OSV, with pip-audit (pip install pip-audit)
    .venv/bin/python .ci/audit.py --serve-lock    print constraints-serve.txt: what `graftline serve` needs

A pin in the range of an advisory needs a decision about this pin: is it reachable here, why, and what lifts it. When
the pin changes, the decision must be made again. An advisory stays when no pin is in its range any more, so that nobody
goes back.
"""

import argparse
import collections
import importlib.metadata
import pathlib
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tomli
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[1]
PINS = ROOT / "constraints.txt"
ADVISORIES = ROOT / ".ci/vulnerabilities.toml"
DECISION = ("pinned", "reachable", "reason", "lifted_by")
REACHABLE = ("no", "limited", "yes")
SERVE_HEAD = """# What `graftline serve` needs of constraints.txt: pip install -c constraints-serve.txt '.[serve]'
# Made by `.venv/bin/python .ci/audit.py --serve-lock > constraints-serve.txt`."""


def read_pins(text: str) -> dict[str, str]:
    """Return the version of each package of a file of constraints."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def check(pins: Mapping[str, str], advisories: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Return a sentence for each pin without a decision, and each decision or advisory that is not well-formed."""
    seen: set[str] = set()
    for advisory in advisories:
        package, ids = canonicalize_name(advisory.get("package", "?")), advisory.get("ids", [])
        name = f"{package}: {', '.join(ids) or 'an advisory without ids'}"
        if again := seen & set(ids):
            yield f"{name}: {', '.join(sorted(again))} is listed twice"
        seen |= set(ids)
        missing = [key for key in ("package", "ids", "affected", "summary") if not advisory.get(key)]
        if missing:
            yield f"{name}: no {', '.join(missing)}"
            continue
        if package not in pins:
            yield f"{name}: {package} is not pinned; remove the advisory"
            continue
        pin = pins[package]
        if not SpecifierSet(advisory["affected"]).contains(pin, prereleases=True):
            if decided := [key for key in DECISION if key in advisory]:
                yield f"{name}: the pin {pin} is not affected; remove {', '.join(decided)}"
        elif not any(key in advisory for key in DECISION):
            yield f"{name}: the pin {pin} is affected ({advisory['affected']}) and has no decision"
        elif missing := [key for key in DECISION if not str(advisory.get(key, "")).strip()]:
            yield f"{name}: the decision has no {', '.join(missing)}"
        elif advisory["pinned"] != pin:
            yield f"{name}: the decision is about {advisory['pinned']}, the pin is {pin}; decide again"
        elif advisory["reachable"] not in REACHABLE:
            yield f"{name}: reachable is {advisory['reachable']!r}, not one of {', '.join(REACHABLE)}"


def serve_lock(pins: Mapping[str, str]) -> list[str]:
    """Return the pins of graftline[serve] and of all that it requires, by the metadata of what is installed."""
    found: set[tuple[str, str]] = set()  # packages and one of their extras, or ""
    pending = [("graftline", ""), ("graftline", "serve")]
    while pending:
        package, extra = pending.pop()
        for requirement in map(Requirement, importlib.metadata.requires(package) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                name = canonicalize_name(requirement.name)
                new = {(name, wanted) for wanted in ("", *requirement.extras)} - found
                found |= new
                pending += new
    return [f"{name}=={pins[name]}" for name in sorted({name for name, _ in found})]


def main() -> None:
    """Run the command that the module's docstring describes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--online", action="store_true", help="also ask OSV, with pip-audit")
    parser.add_argument("--serve-lock", action="store_true", help="print constraints-serve.txt")
    arguments = parser.parse_args()
    pins = read_pins(PINS.read_text())
    if arguments.serve_lock:
        print(SERVE_HEAD, *serve_lock(pins), sep="\n")
        return
    listed = tomli.loads(ADVISORIES.read_text())
    advisories = listed["advisory"]
    faults = list(check(pins, advisories))
    for fault in faults:
        print(fault, file=sys.stderr)
    reachable = collections.Counter(a["reachable"] for a in advisories if "reachable" in a)
    print(
        f"{len(pins)} pins, {len(advisories)} advisories as of {listed['as_of']}; they affect "
        f"{len({a['package'] for a in advisories if 'pinned' in a})} pins: {reachable['no']} not reachable, "
        f"{reachable['limited']} limited, {reachable['yes']} reachable; {len(faults)} faults"
    )
    status = 1 if faults else 0
    if arguments.online:
        ignored = [f"--ignore-vuln={name}" for advisory in advisories for name in advisory["ids"]]
        command = [sys.executable, "-m", "pip_audit", "-r", str(PINS), "--no-deps", "--disable-pip", "-s", "osv"]
        status = subprocess.run([*command, *ignored], check=False).returncode or status
    sys.exit(status)


if __name__ == "__main__":
    main()
