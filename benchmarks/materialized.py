"""What a Transform costs that writes images: float32 features, as TFX does it, beside `data.materialize`.

    python -m benchmarks.materialized [--images DIR] [--size 224] [--times 1] [--few 8]

Both run their executor on the same tf.Examples, for MobileNetV2, each in a process of its own and without imports, on
all photos (each `--times` times) and on a few: the difference are the seconds above the fixed cost. TFX writes what
`preprocessing_fn` gives, in gzipped TFRecords. Then the training input goes through all images in a random order, once
decoding the files and once reading what was stored; the largest difference of their pixels is told in levels of 0..255.
"""

import argparse
import hashlib
import json
import os
import pathlib
import sys
import tempfile
import time

from benchmarks import commands
from graftline import features
from graftline.components.image_example_gen import layouts
from tests import artifacts, assets

_WAYS = ("float32", "uint8")


def write_examples(images: pathlib.Path, folder: pathlib.Path, times: int, few: int | None = None) -> int:
    """Writes raw examples as ingest does, every fifth photo into the eval split, and their schema; returns how many."""
    import tensorflow as tf
    import tensorflow_transform as tft

    files = [file for file in layouts.scan(images).files if file.path.lower().endswith((".jpg", ".jpeg"))]
    files = files if few is None else files[:: max(1, len(files) // few)][:few]
    writers = {}
    for split in features.SPLITS:
        path = folder / "examples" / f"Split-{split}" / "images-00000-of-00001"
        path.parent.mkdir(parents=True)
        writers[split] = tf.io.TFRecordWriter(str(path))
    for number, file in enumerate(files * times):
        image = (images / file.path).read_bytes()
        sha256 = hashlib.sha256(image + str(number).encode()).hexdigest()  # a copy is another
        example = artifacts.example(image, file.label, file.path, sha256)
        writers[features.EVAL if number % 5 == 0 else features.TRAIN].write(example)
    for writer in writers.values():
        writer.close()
    spec = {name: tf.io.FixedLenFeature([1], tf.string) for name in (features.IMAGE, features.LABEL)}
    (folder / "schema").mkdir()
    (folder / "schema" / "schema.pbtxt").write_text(str(tft.DatasetMetadata.from_feature_spec(spec).schema))
    return len(files) * times


def transform(way: str, folder: str, size: str) -> None:
    """Runs in the measured process: runs the executor of one way, and prints the seconds and the bytes written."""
    from tfx.components.transform import executor as tfx_executor
    from tfx.types import standard_artifacts

    from graftline.components.transform import component as materializing
    from graftline.pipeline.local_runner import BEAM_OPTIONS

    root = pathlib.Path(folder)
    examples, schema = standard_artifacts.Examples(), standard_artifacts.Schema()
    graph, written = standard_artifacts.TransformGraph(), standard_artifacts.Examples()
    examples.uri, schema.uri = str(root / "examples"), str(root / "schema")
    graph.uri, written.uri = str(root / way / "graph"), str(root / way / "written")
    examples.split_names = json.dumps(list(features.SPLITS))
    custom = {"backbone": "MobileNetV2", "input_size": int(size), "materialize": way == "uint8"}
    properties = {
        "preprocessing_fn": "graftline.components.transform.preprocessing.preprocessing_fn",
        "custom_config": json.dumps(custom),
        "disable_statistics": 1,
    }
    executor = tfx_executor.Executor if way == "float32" else materializing.Executor
    context = executor.Context(beam_pipeline_args=[*BEAM_OPTIONS], tmp_dir=folder, unique_id="1")
    began = time.monotonic()
    executor(context).Do(
        {"examples": [examples], "schema": [schema]},
        {"transform_graph": [graph], "transformed_examples": [written]},
        properties,
    )
    seconds = time.monotonic() - began
    sizes = [path.stat().st_size for path in pathlib.Path(written.uri).rglob("*") if path.is_file()]
    print(json.dumps({"seconds": seconds, "bytes": sum(sizes)}))


def read(folder: str, size: str) -> None:
    """Runs in the measured process: the training input of both ways; prints their seconds and largest difference."""
    import numpy as np
    import tensorflow_transform as tft

    from graftline.trainer import export, inputs
    from graftline.trainer.settings import BackboneSettings

    root = pathlib.Path(folder)
    outputs = {way: tft.TFTransformOutput(str(root / way / "graph")) for way in _WAYS}
    records = inputs.Records([str(root / "examples" / "Split-*" / "*")], export.read_labels(outputs["uint8"]))
    backbone = BackboneSettings(input_size=int(size))
    resized = inputs.Resized(str(root / "uint8" / "graph"), backbone, [records])
    rows = np.random.default_rng(0).permutation(len(records))
    ways = {"float32": inputs.Pixels(outputs["float32"]), "uint8": inputs.Pixels(outputs["uint8"], resized=resized)}
    found: dict[str, float] = {}
    for way, pixels in ways.items():
        for chosen in (rows[:32], rows):  # the first traces
            began = time.monotonic()
            for _ in pixels.batches(records, lambda chosen=chosen: chosen, 32):
                pass
        found[way] = time.monotonic() - began
    pairs = zip(*(pixels.batches(records, lambda: rows, 32) for pixels in ways.values()), strict=True)
    # MobileNetV2's pixels are -1..1.
    found["levels"] = 127.5 * max(float(np.abs(one.numpy() - other.numpy()).max()) for (one, _), (other, _) in pairs)
    print(json.dumps(found))


def measured(function: str, *arguments: object) -> dict[str, float]:
    """What `transform` or `read` says, in a fresh process."""
    code = f"import sys; from benchmarks import materialized; materialized.{function}(*sys.argv[1:])"
    return commands.timed([sys.executable, "-c", code, *arguments])[1]


def main() -> None:
    """Prints a line for each way and one for the training input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=commands.existing, default=str(assets.FLOWERS))
    parser.add_argument("--size", type=int, default=224, help="side of the trunk's input, pixels")
    parser.add_argument("--times", type=int, default=1, help="crops of each photo")
    parser.add_argument("--few", type=int, default=8, help="photos whose seconds count as the fixed cost")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory(prefix="graftline-benchmark-") as name:
        root = pathlib.Path(name)
        counts = [
            write_examples(arguments.images, root / "few", 1, arguments.few),
            write_examples(arguments.images, root / "all", arguments.times),
        ]
        above, sizes = {}, {}
        for way in _WAYS:
            few, every = (measured("transform", way, root / part, arguments.size) for part in ("few", "all"))
            above[way], sizes[way] = every["seconds"] - few["seconds"], every["bytes"]
            rate = (counts[1] - counts[0]) / above[way]
            print(
                f"{way:7} {counts[1]:,} images: {every['seconds']:.1f} s, {above[way]:.1f} s above those of "
                f"{counts[0]} images, {rate:.0f} images a second; {sizes[way] / 1e6:.1f} MB, "
                f"{sizes[way] / 1e3 / counts[1]:.1f} KB an image",
                flush=True,
            )
        print(
            f"uint8 is {above['float32'] / above['uint8']:.2f} times as fast above the fixed cost, "
            f"and takes {sizes['uint8'] / sizes['float32']:.3f} of the bytes",
            flush=True,
        )
        found = measured("read", root / "all", arguments.size)
        decoding, reading = (counts[1] / found[way] for way in _WAYS)
        print(
            f"training input: {decoding:.0f} images a second from files, {reading:.0f} from what is stored, "
            f"{reading / decoding:.2f} times as fast; largest difference {found['levels']:.3f} of 255 levels"
        )


if __name__ == "__main__":
    main()
