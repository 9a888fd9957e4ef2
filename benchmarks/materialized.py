"""What does a Transform that writes images cost? Compare TFX's float32 features with `data.materialize`.

    python -m benchmarks.materialized [--images DIR] [--size 224] [--times 1] [--few 8]

Both executors run on the same tf.Examples, for MobileNetV2, each in its own process. Imports are not counted. Each runs
on all photos (each of them `--times` times) and on a few: the difference is the time above the fixed cost. TFX writes
the result of `preprocessing_fn`, in gzipped TFRecords. Then the training input reads all images in a random order, once
by decoding the files and once from the stored images. The largest difference of their pixels is given in levels of
0..255.
"""

import hashlib
import json
import pathlib
import time

from benchmarks import commands
from graftline import features
from graftline.components.image_example_gen.scan import scan
from tests import artifacts

_WAYS = ("float32", "uint8")


def write_examples(images: pathlib.Path, folder: pathlib.Path, times: int, few: int | None = None) -> int:
    """Write raw examples as ingest does, every fifth photo into the eval split, and their schema; return how many."""
    import tensorflow as tf
    import tensorflow_transform as tft

    files = [file for file in scan(images).files if file.path.lower().endswith((".jpg", ".jpeg"))]
    files = files if few is None else files[:: max(1, len(files) // few)][:few]
    writers = {}
    for split in features.SPLITS:
        path = folder / "examples" / f"Split-{split}" / "images-00000-of-00001"
        path.parent.mkdir(parents=True)
        writers[split] = tf.io.TFRecordWriter(str(path))
    for number, file in enumerate(files * times):
        image = (images / file.path).read_bytes()
        sha256 = hashlib.sha256(image + str(number).encode()).hexdigest()  # each repetition is a different image
        example = artifacts.example(image, file.label, file.path, sha256)
        writers[features.EVAL if number % 5 == 0 else features.TRAIN].write(example)
    for writer in writers.values():
        writer.close()
    spec = {name: tf.io.FixedLenFeature([1], tf.string) for name in (features.IMAGE, features.LABEL)}
    (folder / "schema").mkdir()
    (folder / "schema" / "schema.pbtxt").write_text(str(tft.DatasetMetadata.from_feature_spec(spec).schema))
    return len(files) * times


def transform(way: str, folder: str, size: str) -> None:
    """Run one executor, in the measured process; print the seconds and the bytes written."""
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
    custom = {"preprocessing": "tf", "input_size": int(size), "materialize": way == "uint8"}
    properties = {
        "preprocessing_fn": "graftline.components.transform.preprocessing.preprocessing_fn",
        "custom_config": json.dumps(custom),
        "disable_statistics": 1,
    }
    executor = tfx_executor.Executor if way == "float32" else materializing.Executor
    context = executor.Context(beam_pipeline_args=[*BEAM_OPTIONS], tmp_dir=folder, unique_id="1")
    began = time.monotonic()
    results = {"transform_graph": [graph], "transformed_examples": [written]}
    executor(context).Do({"examples": [examples], "schema": [schema]}, results, properties)
    seconds = time.monotonic() - began
    sizes = [path.stat().st_size for path in pathlib.Path(written.uri).rglob("*") if path.is_file()]
    print(json.dumps({"seconds": seconds, "bytes": sum(sizes)}))


def read(folder: str, size: str) -> None:
    """Read the training input both ways, in the measured process; print the seconds and the largest difference."""
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
    result: dict[str, float] = {}
    for way, pixels in ways.items():
        for chosen in (rows[:32], rows):  # the first pass traces the graph
            began = time.monotonic()
            for _ in pixels.batches(records, lambda chosen=chosen: chosen, 32):
                pass
        result[way] = time.monotonic() - began
    pairs = zip(*(pixels.batches(records, lambda: rows, 32) for pixels in ways.values()), strict=True)
    # MobileNetV2's pixels are -1..1.
    result["levels"] = 127.5 * max(float(np.abs(one.numpy() - other.numpy()).max()) for (one, _), (other, _) in pairs)
    print(json.dumps(result))


def main() -> None:
    """Print a line for each way to store, and one for the training input."""
    parser = commands.parser(__doc__, trunk=False)
    parser.add_argument("--size", type=int, default=224, help="side of the trunk's input, pixels")
    parser.add_argument("--times", type=int, default=1, help="crops of each photo")
    parser.add_argument("--few", type=int, default=8, help="photos whose seconds count as the fixed cost")
    arguments = parser.parse_args()
    with commands.temporary_folder() as root:
        fewer = write_examples(arguments.images, root / "few", 1, arguments.few)
        count = write_examples(arguments.images, root / "all", arguments.times)
        above, sizes = {}, {}
        for way in _WAYS:
            few, every = (commands.in_process(transform, way, root / part, arguments.size) for part in ("few", "all"))
            above[way], sizes[way] = every["seconds"] - few["seconds"], every["bytes"]
            rate = (count - fewer) / above[way]
            print(
                f"{way:7} {count:,} images: {every['seconds']:.1f} s, {above[way]:.1f} s above those of "
                f"{fewer} images, {rate:.0f} images a second; {sizes[way] / 1e6:.1f} MB, "
                f"{sizes[way] / 1e3 / count:.1f} KB an image"
            )
        print(
            f"uint8 is {above['float32'] / above['uint8']:.2f} times as fast above the fixed cost, "
            f"and takes {sizes['uint8'] / sizes['float32']:.3f} of the bytes"
        )
        result = commands.in_process(read, root / "all", arguments.size)
        decoding, reading = (count / result[way] for way in _WAYS)
        print(
            f"training input: {decoding:.0f} images a second from files, {reading:.0f} from the stored images, "
            f"{reading / decoding:.2f} times as fast; largest difference {result['levels']:.3f} of 255 levels"
        )


if __name__ == "__main__":
    main()
