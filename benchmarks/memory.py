"""Does training's memory grow with the number of images? Measure its peak with 600 and with 20,000 images.

    python -m benchmarks.memory [--counts 600 20000] [--size 224] [--alpha 1.0] [--memory-mb 256 0]

The images are drawn: 64 px JPEGs that all differ, a fifth of them for the eval split. The trunk is a MobileNetV2
with random weights. `trainer.run_fn.run_fn` runs on the images with one epoch in each phase, for each value of
`boundary_cache.memory_mb` (256 is the default, 0 holds nothing in memory), each time in its own process. The program
prints the peak memory (VmHWM) of that process, and of a process that only imports the trainer. The process that draws
the report's figures is not counted. `--size 96 --alpha 0.35` makes it quick.
"""

import argparse
import json
import pathlib
import time

from benchmarks import commands
from graftline import features
from tests import artifacts, images

_LIMIT_GIB = 3.0


def write_records(path: pathlib.Path, seeds: range) -> None:
    """Write a TFRecord of drawn images as ingest does, taking the classes in turn."""
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for seed in seeds:
            label = images.CLASSES[seed % len(images.CLASSES)]
            image = images.encode(images.draw(label, seed, (64, 64)))
            writer.write(artifacts.example(image, label, f"{label}/{seed}.jpg"))


def train(args_file: str) -> None:
    """Train in the measured process, or without a file only import; print the peak memory and the seconds."""
    from tfx import v1 as tfx

    from graftline.trainer import run_fn

    began = time.monotonic()
    if args_file:
        run_fn.run_fn(tfx.components.FnArgs(**json.loads(pathlib.Path(args_file).read_text())))
    print(json.dumps({"gib": commands.peak_gib(), "seconds": time.monotonic() - began}))


def settings(arguments: argparse.Namespace, memory_mb: int) -> dict[str, object]:
    """Return `TrainerSettings` for one epoch in each phase."""
    return {
        "backbone": {"weights": "none", "input_size": arguments.size, "options": {"alpha": arguments.alpha}},
        "head": {},
        "training": {},
        "feature_extraction": {"epochs": 1},
        "fine_tuning": {"epochs": 1},
        "boundary_cache": {"memory_mb": memory_mb},
        "seed": 0,
    }


def main() -> None:
    """Print a line for each process."""
    parser = commands.parser(__doc__, images=False, trunk=False)
    parser.add_argument("--counts", type=int, nargs="+", default=[600, 20_000], help="images, in both splits together")
    parser.add_argument("--size", type=int, default=224, help="side of the trunk's input, pixels")
    parser.add_argument("--alpha", type=float, default=1.0, help="MobileNetV2's width multiplier")
    parser.add_argument("--memory-mb", type=int, nargs="+", default=[256, 0], help="values of boundary_cache.memory_mb")
    arguments = parser.parse_args()
    print(f"import only: {commands.in_process(train, '')['gib']:.2f} GiB")
    transform: str | None = None
    first: dict[int, float] = {}
    with commands.temporary_folder() as root:
        for count in arguments.counts:
            folder = root / str(count)
            folder.mkdir()
            write_records(folder / features.EVAL, range(count // 5))
            write_records(folder / features.TRAIN, range(count // 5, count))
            records = str(folder / features.TRAIN)
            transform = transform or artifacts.write_transform(records, folder, "tf", arguments.size)
            for memory_mb in arguments.memory_mb:
                args = {
                    "custom_config": settings(arguments, memory_mb),
                    "transform_output": transform,
                    "train_files": [records],
                    "eval_files": [str(folder / features.EVAL)],
                    "serving_model_dir": str(folder / f"model-{memory_mb}" / "Format-Serving"),
                    "model_run_dir": str(folder / f"logs-{memory_mb}"),
                }
                (folder / "args.json").write_text(json.dumps(args))
                result = commands.in_process(train, folder / "args.json")
                peak = result["gib"]
                growth = peak / first.setdefault(memory_mb, peak)
                verdict = f"{'within' if peak <= _LIMIT_GIB else 'OVER'} {_LIMIT_GIB:g} GiB"
                print(
                    f"{count:7,} images, memory_mb {memory_mb:4}: {peak:.2f} GiB, {growth:.2f} times the first's, "
                    f"{verdict}; {result['seconds']:.0f} s"
                )


if __name__ == "__main__":
    main()
