"""What does one hostile client cost the others? Attack a live server, and measure it.

    python -m benchmarks.attacks [NAME…] [--list] [--seconds 25] [--json FILE]

Each attack goes to a server in a process of its own, which serves two small models. Meanwhile a probe asks for
/healthz every 20 ms, and two clients send Predict for the other model, over REST (a new connection each time) and over
gRPC. They, too, have a process of their own. For each attack the program prints what was sent, by how much the server's
peak memory (VmHWM, with its child processes) grew, its processor seconds, the longest wait of the probe, and the
clients' p50 and p99 before and during the attack; of an attack that holds connections or calls also while it opens
them, which has no target for the clients. A figure over its target has the target behind it.

An attack that has no answer after `--seconds` is given up. After an attack that left its mark the next one gets a new
server. Names may be the beginnings of names: `c1` runs all attacks of that kind. A missed target makes the status 1.

Targets: memory at most 8 n + 64 MiB for n bytes of a request, decompressed; the probe within 0.1 s; for c2 and c4 the
clients' p99 at most twice their median before; for c3 no wait over 0.5 s, and 2 processor seconds; for c7 25 s from
SIGTERM to the end. A target that the honest clients missed before the attack, too, is marked: the machine is busy.
"""

import contextlib
import json
import pathlib
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from benchmarks import commands
from benchmarks.attack_cases import ATTACKS, Attack, Server
from tests.saved_models import save_colour_model, save_float_model
from tests.serving.oracle.gauge import Gauge, load
from tests.serving.oracle.live import Live
from tests.serving.oracle.witness import Window, Witness

_MIB = 1 << 20
_BEFORE_SECONDS = 2.0  # of the honest clients alone
_SHORTEST = 2.0  # seconds of a window during an attack


@dataclass
class Row:
    """What was measured of one attack. Times are seconds, sizes bytes."""

    name: str
    answer: str
    sent: int
    unpacked: int
    growth: int
    processor: float
    seconds: float
    before: dict[str, Window]
    during: dict[str, Window]
    opening: dict[str, Window] | None  # while an attack opened what it then held
    load: str
    missed: list[str] = field(default_factory=list)


def measure(attack: Attack, live: Live, witness: Witness, seconds: float) -> Row:
    """Run one attack."""
    send = attack.prepare()
    gauge = Gauge(live.pid)
    gauge.settle()
    witness.look()
    time.sleep(_BEFORE_SECONDS)
    before = witness.look()
    gauge.reset()
    began = time.monotonic()
    opening: list[dict[str, Window]] = []
    server = Server(live.rest, live.grpc, live.pid, began + seconds, lambda: opening.append(witness.look()))
    sent = send(server)
    taken = time.monotonic() - began
    time.sleep(max(0.2, _SHORTEST - taken))
    during = witness.look()
    row = Row(
        attack.name,
        sent.answer,
        sent.size,
        sent.unpacked or sent.size,
        gauge.growth() if live.running else 0,
        gauge.seconds() if live.running else 0.0,
        taken,
        before,
        during,
        opening[0] if opening else None,
        load(),
    )
    row.missed = attack.missed(row)
    return row


def show(row: Row) -> None:
    """Print a row."""

    def of(window: Window) -> str:
        text = f"{1e3 * window.p50:.1f}/{1e3 * window.p99:.0f}"
        return text + (f" ({len(window.faults)} of {window.count} failed)" if window.faults else "")

    size = f"{row.sent:,} B" + (f" ({row.unpacked:,})" if row.unpacked != row.sent else "")
    print(f"{row.name:28} {'met' if not row.missed else 'NOT MET: ' + '; '.join(row.missed)}")
    print(
        f"    sent {size}; {row.answer}; memory +{row.growth / _MIB:,.0f} MiB; processor {row.processor:.1f} s of "
        f"{row.seconds:.1f} s; load {row.load}"
    )
    users = [
        f"{name} p50/p99 {of(row.before[name])} -> {of(row.during[name])} ms, longest "
        f"{1e3 * row.before[name].longest:,.0f} -> {1e3 * row.during[name].longest:,.0f} ms"
        for name in row.during
    ]
    if row.opening:
        users.append("while opening " + ", ".join(f"{name} {of(window)}" for name, window in row.opening.items()))
    print("    " + "; ".join(users))
    for name, window in row.during.items():
        if window.faults:
            print(f"    {name}: {window.faults[0]}")


def is_unharmed(live: Live, row: Row) -> bool:
    """Return whether the server may take the next attack: little memory is gone, and clients are served."""
    well = all(window.longest < 1 and not window.faults for window in row.during.values())
    return live.running and well and row.growth < 64 * _MIB and row.processor < 20


@contextlib.contextmanager
def attacked(workspace: pathlib.Path, attack: Attack) -> Iterator[tuple[Live, Witness]]:
    """Start a server for `attack`, with honest clients."""
    with (
        Live(str(workspace), *attack.flags, descriptors=attack.descriptors) as live,
        Witness(live.rest, live.grpc) as witness,
    ):
        time.sleep(1.0)  # first requests are slow
        yield live, witness


def run(workspace: pathlib.Path, attacks: list[Attack], seconds: float) -> list[Row]:
    """Run all attacks, and print a row for each."""
    rows = []
    waiting = list(attacks)
    while waiting:
        first = waiting[0]
        with attacked(workspace, first) as (live, witness):
            while waiting and (waiting[0].flags, waiting[0].descriptors) == (first.flags, first.descriptors):
                row = measure(waiting.pop(0), live, witness, seconds)
                rows.append(row)
                show(row)
                if not is_unharmed(live, row):
                    break
    return rows


def main() -> None:
    """Attack, print, and count what was not met."""
    parser = commands.parser(__doc__, images=False, trunk=False)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true", help="print the names")
    parser.add_argument("--seconds", type=float, default=25.0, help="of an attack, at most")
    parser.add_argument("--json", type=pathlib.Path, help="write all figures to a file")
    arguments = parser.parse_args()
    attacks = [each for each in ATTACKS if not arguments.names or each.name.startswith(tuple(arguments.names))]
    if arguments.list or not attacks:
        print("\n".join(each.name for each in ATTACKS))
        return
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with commands.temporary_folder() as folder:
        save_colour_model(str(folder / "models/colours/1"))
        save_float_model(str(folder / "models/numbers/1"))
        rows = run(folder, attacks, arguments.seconds)
        shutil.rmtree(folder / "models")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    print(f"{sum(not row.missed for row in rows)} of {len(rows)} attacks: all targets met")
    sys.exit(any(row.missed for row in rows))


if __name__ == "__main__":
    main()
