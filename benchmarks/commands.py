"""What the benchmarks share: both programs as timed commands in fresh processes, with settings for equal work."""

import argparse
import contextlib
import csv
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from graftline.components.image_example_gen.scan import scan
from tests import assets

GRAFTLINE = pathlib.Path(sys.executable).with_name("graftline")
_NOT_BLESSED = 3


def existing(path: str) -> pathlib.Path:
    """Return the path of an existing file or folder; an argparse type."""
    if not pathlib.Path(path).exists():
        raise argparse.ArgumentTypeError(f"{path} does not exist; give another, or set GRAFTLINE_ASSETS")
    return pathlib.Path(path)


def parser(description: str | None, images: bool = True, trunk: bool = True) -> argparse.ArgumentParser:
    """Return a parser with `--images`, and with `--weights` and `--alpha` of the MobileNetV2 for both programs.

    From now on each printed line is flushed, and TensorFlow logs errors alone.
    """
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    if images:
        add("--images", type=existing, default=str(assets.FLOWERS), help="a folder with one folder a class")
    if trunk:
        add("--weights", type=existing, default=str(assets.MOBILENET_V2_100), help="of MobileNetV2, no top")
        add("--alpha", type=float, default=1.0, help="MobileNetV2's width multiplier, that of the weights")
    return made


@contextlib.contextmanager
def temporary_folder() -> Iterator[pathlib.Path]:
    """Provide a new folder, and remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="graftline-benchmark-") as name:
        yield pathlib.Path(name)


def timed(command: Sequence[object]) -> tuple[float, dict[str, Any]]:
    """Return the wall seconds of a command, and the JSON object in the last line of its standard output.

    If the command fails, its messages end the program. A model that was not blessed is no failure.
    """
    began = time.monotonic()
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    if done.returncode not in (0, _NOT_BLESSED):
        raise SystemExit(done.stderr)
    return seconds, json.loads(done.stdout.strip().splitlines()[-1])


def in_process(function: Callable[..., None], *arguments: object) -> dict[str, Any]:
    """Return the JSON object that a function of a benchmark prints in a fresh process; it gets strings as arguments."""
    module = function.__globals__["__spec__"].name  # `__module__` is "__main__" in the program itself
    code = f"import sys; from {module} import {function.__name__} as run; run(*sys.argv[1:])"
    return timed([sys.executable, "-c", code, *arguments])[1]


def graftline(
    images: pathlib.Path, workspace: pathlib.Path, settings: Mapping[str, object]
) -> tuple[float, dict[str, Any]]:
    """Run `graftline run --json` with settings by dotted key; return its wall seconds and its summary."""
    command: list[object] = [GRAFTLINE, "run", "--json", "--images", images, "--workspace", workspace]
    for key, value in settings.items():
        command += ["--set", f"{key}={value if isinstance(value, str | pathlib.Path) else json.dumps(value)}"]
    return timed(command)


def settings(weights: object, alpha: float, epochs: int, fine_tune_epochs: int) -> dict[str, object]:
    """Return settings for a MobileNetV2, exactly so many epochs in each phase, and a gate that a first model passes."""
    return {
        "backbone.weights": weights,
        "backbone.options": {"alpha": alpha},
        "feature_extraction.epochs": epochs,
        "feature_extraction.patience": epochs,
        "fine_tuning.epochs": fine_tune_epochs,
        "fine_tuning.patience": fine_tune_epochs,
        "gate.accuracy.min": 0,
    }


def plain_keras(
    arguments: argparse.Namespace, folder: pathlib.Path, summary: Mapping[str, Any], epochs: int, *options: object
) -> tuple[float, dict[str, Any]]:
    """Run the tutorials' script on the split of the Graftline run in `summary`; return its wall seconds and its JSON.

    `arguments` come from `parser`, `epochs` is the number in each phase, and `folder` holds the script's files.
    """
    split = folder / "split.json"
    split.write_text(json.dumps(split_of(arguments.images, summary)))
    command = [sys.executable, "-m", "benchmarks.plain_keras", "--images", arguments.images, "--split", split]
    command += ["--weights", arguments.weights, "--alpha", arguments.alpha, "--output", folder / "plain"]
    return timed([*command, "--epochs", epochs, "--fine-tune-epochs", epochs, *options])


def peak_gib() -> float:
    """Return the peak memory of this process in GiB.

    `getrusage` would not do: its ru_maxrss also counts the parent process, if that was larger.
    """
    (kilobytes,) = re.findall(r"^VmHWM:\s+(\d+) kB$", pathlib.Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(kilobytes) / 2**20


def compared(ours: float, theirs: float) -> str:
    """Return the ratio of seconds in words."""
    faster = f"{theirs / ours:.2f} times faster" if ours <= theirs else f"{ours / theirs:.2f} times slower"
    return f"ratio {ours / theirs:.2f}, {faster}"


def plain_training(plain: Mapping[str, Any]) -> float:
    """Return the script's seconds for the Trainer's work: both phases, of which the first decodes, and export."""
    return sum(plain["seconds"][part] for part in ("phase1", "phase2", "export"))


def split_of(images: pathlib.Path, summary: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the files in each split of a run, {"train", "eval"}, relative to `images`.

    The run's report names the files of eval. The train split holds all other files that are not quarantined and not a
    copy of another file.
    """
    held_back = _column(pathlib.Path(summary["report_dir"], "predictions.csv"), "filename")
    left_out = set(_column(pathlib.Path(summary["quarantine_file"]), "path") if summary["quarantine_file"] else [])
    seen = {_digest(images / path) for path in held_back}
    train = []
    for path, *_ in scan(images).files:
        if path not in left_out and (digest := _digest(images / path)) not in seen:
            seen.add(digest)
            train.append(path)
    split = {"train": train, "eval": held_back}
    counts = {name: len(paths) for name, paths in split.items()}
    if counts != summary["splits"]:
        raise SystemExit(f"{images} changed while the benchmark ran: {summary['splits']} images, now {counts}")
    return split


def _column(path: pathlib.Path, name: str) -> list[str]:
    with path.open(newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


def _digest(path: pathlib.Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
