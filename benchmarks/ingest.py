"""How fast is ingest compared with a bare read-and-decode loop? Does its memory grow with the number of images?

    python -m benchmarks.ingest [--images DIR] [--times 10] [--counts 10000 100000]

Speed: `--times` crops of each photo of a folder, enlarged to the photo's size, are the images. A bare `tf.data` loop
reads and decodes them, with as many threads as it likes. ImageExampleGen's executor ingests them: it checks, hashes,
measures, splits and writes. Each runs in its own process. Imports are not counted. The ratio is of images a second.
Memory: `--counts` drawn JPEGs of 64 px are ingested. The program prints the peak memory of the process and its seconds.
`--times 0` leaves the first part out, `--counts` without numbers the second.
"""

import gc
import json
import pathlib
import random
import time

from benchmarks import commands
from graftline.components.image_example_gen.scan import scan


def copies(images: pathlib.Path, to: pathlib.Path, times: int) -> int:
    """Write JPEGs of each photo, each a different crop at the photo's size, some mirrored; return how many.

    No two are the same or nearly the same, as in a folder of photos. Else the page of copies would be most of the work.
    """
    from PIL import Image, ImageOps

    draws = random.Random(0)
    count = 0
    for path, *_ in scan(images).files:
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
    """Write JPEGs of 64 px in ten classes, no two alike."""
    import numpy as np
    from PIL import Image

    for label in range(10):
        (to / str(label)).mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(random.integers(0, 255, (8, 8, 3), np.uint8).astype(np.uint8))
        small.resize((64, 64), Image.Resampling.BILINEAR).save(to / str(number % 10) / f"{number}.jpg", quality=90)


def bare(images: str) -> None:
    """Read and decode every file, in the measured process; print the seconds."""
    import tensorflow as tf

    names = [f"{images}/{path}" for path, *_ in scan(images).files]

    def decode(path: tf.Tensor) -> tf.Tensor:
        return tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)

    began = time.monotonic()
    dataset = tf.data.Dataset.from_tensor_slices(names).map(decode, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    count = sum(1 for _ in dataset)
    print(json.dumps({"images": count, "seconds": time.monotonic() - began}))


def ingest(images: str, folder: str) -> None:
    """Ingest, in the measured process; print the seconds and the peak memory."""
    from tfx.types import standard_artifacts

    from graftline.components.image_example_gen.artifacts import Quarantine
    from graftline.components.image_example_gen.executor import Executor
    from graftline.components.image_example_gen.settings import IngestSettings
    from graftline.pipeline.local_runner import BEAM_OPTIONS

    examples, refused = standard_artifacts.Examples(), Quarantine()
    examples.uri, refused.uri = f"{folder}/examples", f"{folder}/quarantine"
    properties = {"images": json.dumps([images]), "settings": IngestSettings().model_dump_json(), "state": folder}
    context = Executor.Context(beam_pipeline_args=[*BEAM_OPTIONS], tmp_dir=folder, unique_id="1")
    gc.collect()  # collecting the garbage of the imports takes 0.5 s, which would count as ingest
    began = time.monotonic()
    Executor(context).Do({}, {"examples": [examples], "quarantine": [refused]}, properties)
    seconds = time.monotonic() - began
    count = refused.get_int_custom_property("examples")
    print(json.dumps({"images": count, "seconds": seconds, "gib": commands.peak_gib()}))


def main() -> None:
    """Print a line for each program, and one for each count."""
    parser = commands.parser(__doc__, trunk=False)
    parser.add_argument("--times", type=int, default=10, help="parts of each photo")
    parser.add_argument("--counts", type=int, nargs="*", default=[10_000, 100_000], help="drawn images")
    arguments = parser.parse_args()
    with commands.temporary_folder() as root:
        if arguments.times:
            copies(arguments.images, root / "photos", arguments.times)
            loop = commands.in_process(bare, root / "photos")
            ours = commands.in_process(ingest, root / "photos", root / "speed")
            rates = {what: result["images"] / result["seconds"] for what, result in (("bare", loop), ("ours", ours))}
            print(f"bare tf.data loop: {loop['images']:,} in {loop['seconds']:.1f} s, {rates['bare']:.0f} a second")
            print(
                f"ImageExampleGen:   {ours['images']:,} in {ours['seconds']:.1f} s, {rates['ours']:.0f} a second, "
                f"{rates['ours'] / rates['bare']:.2f} of the bare loop's speed"
            )
        first: dict[str, float] = {}
        for count in arguments.counts:
            draw(root / str(count), count)
            result = commands.in_process(ingest, root / str(count), root / f"{count}-out")
            first = first or result
            print(
                f"{count:8,} drawn: {result['gib']:.2f} GiB, {result['gib'] / first['gib']:.2f} times the first's; "
                f"{result['seconds']:.1f} s, {count / result['seconds']:.0f} a second"
            )


if __name__ == "__main__":
    main()
