"""Graftline beside the tutorials' plain Keras script: wall time and accuracy, one after the other on the same machine.

    python -m benchmarks.against_plain_keras [--images DIR] [--weights FILE] [--epochs 5] [--repeats 1]

Both take the same images, MobileNetV2 1.0 at 224 px, the same numbers of epochs in both phases and the top 30 layers at
1e-5. The script learns its head at the tutorial's 1e-4, Graftline at its own default; the script holds back its own
random fifth of the images. Wall time is that of the whole process, imports and export included.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

from tests import assets


def timed(command: list[str]) -> tuple[float, dict]:
    """Wall seconds of the command, and the JSON object that its last line is."""
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(done.stderr)
    return time.monotonic() - began, json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Prints a line for each way and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=pathlib.Path, default=assets.FLOWERS)
    parser.add_argument("--weights", type=pathlib.Path, default=assets.MOBILENET_V2_100)
    parser.add_argument("--epochs", type=int, default=5, help="of each phase")
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    if not arguments.images.is_dir():
        raise SystemExit(f"no images at {arguments.images}: give --images and --weights, or set GRAFTLINE_ASSETS")
    epochs = str(arguments.epochs)
    for repeat in range(arguments.repeats):
        with tempfile.TemporaryDirectory(prefix="graftline-benchmark-") as folder:
            script = [sys.executable, "-m", "benchmarks.plain_keras", "--images", str(arguments.images)]
            script += ["--weights", str(arguments.weights), "--epochs", epochs, "--fine-tune-epochs", epochs]
            script += ["--seed", str(repeat), "--output", f"{folder}/plain"]
            plain_seconds, plain = timed(script)
            command = [str(pathlib.Path(sys.executable).with_name("graftline")), "run", "--json"]
            command += ["--images", str(arguments.images), "--workspace", f"{folder}/workspace"]
            for setting in (
                f"backbone.weights={arguments.weights}",
                f"feature_extraction.epochs={epochs}",
                f"feature_extraction.patience={epochs}",
                f"fine_tuning.epochs={epochs}",
                f"fine_tuning.patience={epochs}",
                f"data.split_seed={repeat}",
                "gate.accuracy.min=0",
            ):
                command += ["--set", setting]
            seconds, graftline = timed(command)
        training = plain["seconds"]["phase1"] + plain["seconds"]["phase2"] + plain["seconds"]["export"]
        trainer = graftline["seconds"]["Trainer"]
        accuracy = plain["accuracy"]
        print(f"plain Keras  {plain_seconds:6.1f} s, phases and export {training:6.1f} s, accuracy {accuracy:.4f}")
        print(
            f"graftline    {seconds:6.1f} s, Trainer             {trainer:6.1f} s, accuracy {graftline['accuracy']:.4f}"
        )
        stages = ", ".join(f"{node} {value:.1f}" for node, value in graftline["seconds"].items())
        print(f"             start {graftline['startup_seconds']:.1f}, {stages}")
        print(f"ratio        whole {seconds / plain_seconds:.2f}, training {trainer / training:.2f}", flush=True)


if __name__ == "__main__":
    main()
