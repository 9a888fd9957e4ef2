"""How fast is ingest beside a bare read-and-decode loop, and does its memory grow with the number of images?

    python -m benchmarks.ingest [--images DIR] [--times 10] [--counts 10000 100000]

Speed: `--times` parts of each photo of a folder, at its size, are read and decoded by a bare `tf.data` loop (as many
threads as it likes), and ingested by ImageExampleGen's executor: checked, hashed, measured, split, written. Both in a
process of their own and without imports; the ratio is of images a second.
Memory: drawn JPEGs of 64 px, so many as `--counts` says, are ingested; the peak of the process and the seconds.
`--times 0` leaves the speed out, `--counts` without numbers the memory.
"""

import argparse
import gc
import json
import pathlib
import random
import re
import sys
import tempfile
import time

from benchmarks import commands
from graftline.components.image_example_gen import layouts
from tests import assets


def copies(images: pathlib.Path, to: pathlib.Path, times: int) -> int:
    """Writes so many JPEGs of each, each another part of it at its size, some mirrored; returns how many files.

    So no two are the same or nearly the same, as in a folder of photos: a page of copies would be most of the work.
    """
    from PIL import Image, ImageOps

    draws = random.Random(0)
    count = 0
    for path, *_ in layouts.scan(images).files:
        with Image.open(images / path) as image:
            if image.format != "JPEG":
                continue
            photo = image.convert("RGB")
        place = to / path
        place.parent.mkdir(parents=True, exist_ok=True)
        for number in range(times):
            width, height = (side * draws.uniform(0.6, 0.9) for side in photo.size)
            left, top = draws.uniform(0, photo.width - width), draws.uniform(0, photo.height - height)
            box = (left, top, left + width, top + height)
            part = photo.resize(photo.size, Image.Resampling.BICUBIC, box)
            if draws.random() < 0.5:
                part = ImageOps.mirror(part)
            part.save(place.with_name(f"{place.stem}-{number}.jpg"), quality=90)
            count += 1
    return count


def draw(to: pathlib.Path, count: int) -> None:
    """Writes so many JPEGs of 64 px in ten classes, no two alike."""
    import numpy as np
    from PIL import Image

    for label in range(10):
        (to / str(label)).mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(random.integers(0, 255, (8, 8, 3), np.uint8).astype(np.uint8))
        small.resize((64, 64), Image.Resampling.BILINEAR).save(to / str(number % 10) / f"{number}.jpg", quality=90)


def bare(images: str) -> None:
    """Runs in the measured process: reads and decodes every file, and prints the seconds."""
    import tensorflow as tf

    names = [f"{images}/{path}" for path, *_ in layouts.scan(images).files]

    def decode(path: tf.Tensor) -> tf.Tensor:
        return tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)

    began = time.monotonic()
    dataset = tf.data.Dataset.from_tensor_slices(names).map(decode, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    count = sum(1 for _ in dataset)
    print(json.dumps({"images": count, "seconds": time.monotonic() - began}))


def ingest(images: str, folder: str) -> None:
    """Runs in the measured process: ingests, and prints the seconds and the peak of memory."""
    from tfx.types import standard_artifacts

    from graftline.components.image_example_gen.artifacts import Quarantine
    from graftline.components.image_example_gen.executor import Executor
    from graftline.components.image_example_gen.settings import IngestSettings
    from graftline.pipeline.local_runner import BEAM_OPTIONS

    examples, refused = standard_artifacts.Examples(), Quarantine()
    examples.uri, refused.uri = f"{folder}/examples", f"{folder}/quarantine"
    properties = {"images": json.dumps([images]), "settings": IngestSettings().model_dump_json(), "state": folder}
    context = Executor.Context(beam_pipeline_args=[*BEAM_OPTIONS], tmp_dir=folder, unique_id="1")
    gc.collect()  # half a second over what the imports left, which else falls somewhere into the measured time
    began = time.monotonic()
    Executor(context).Do({}, {"examples": [examples], "quarantine": [refused]}, properties)
    seconds = time.monotonic() - began
    status = pathlib.Path("/proc/self/status").read_text()
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    count = refused.get_int_custom_property("examples")
    print(json.dumps({"images": count, "seconds": seconds, "gib": int(peak) / 2**20}))


def measured(function: str, *arguments: pathlib.Path) -> dict[str, float]:
    """What `bare` or `ingest` says, in a fresh process."""
    code = f"import sys; from benchmarks import ingest; ingest.{function}(*sys.argv[1:])"
    return commands.timed([sys.executable, "-c", code, *arguments])[1]


def main() -> None:
    """Prints a line for each way, and one for each count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=commands.existing, default=str(assets.FLOWERS))
    parser.add_argument("--times", type=int, default=10, help="parts of each photo")
    parser.add_argument("--counts", type=int, nargs="*", default=[10_000, 100_000], help="drawn images")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="graftline-benchmark-") as name:
        root = pathlib.Path(name)
        if arguments.times:
            copies(arguments.images, root / "photos", arguments.times)
            loop = measured("bare", root / "photos")
            ours = measured("ingest", root / "photos", root / "speed")
            rates = {what: found["images"] / found["seconds"] for what, found in (("bare", loop), ("ours", ours))}
            print(f"bare tf.data loop: {loop['images']:,} in {loop['seconds']:.1f} s, {rates['bare']:.0f} a second")
            print(
                f"ImageExampleGen:   {ours['images']:,} in {ours['seconds']:.1f} s, {rates['ours']:.0f} a second, "
                f"{rates['ours'] / rates['bare']:.2f} of the bare loop's speed",
                flush=True,
            )
        first: dict[str, float] = {}
        for count in arguments.counts:
            draw(root / str(count), count)
            found = measured("ingest", root / str(count), root / f"{count}-out")
            first = first or found
            print(
                f"{count:8,} drawn: {found['gib']:.2f} GiB, {found['gib'] / first['gib']:.2f} times the first's; "
                f"{found['seconds']:.1f} s, {count / found['seconds']:.0f} a second",
                flush=True,
            )


if __name__ == "__main__":
    main()
