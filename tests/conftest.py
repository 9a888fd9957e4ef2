"""Fixtures that several rooms' tests share."""

import hashlib
import json
import pathlib
import shutil
from dataclasses import dataclass

import pytest

from graftline import features
from tests import images

# Shared modules that assert: pytest tells of their values as of a test's own.
pytest.register_assert_rewrite("tests.pipeline.histories", "tests.trainer.runs", "tests.trainer.stored_rows")


@pytest.fixture(autouse=True, scope="session")
def _quiet() -> None:
    """TensorFlow's C++ side says a lot on standard error."""
    import os

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@dataclass(frozen=True)
class Transformed:
    """A Transform's output directory, and the TFRecords that it was made from."""

    directory: str
    train: str
    eval: str


@pytest.fixture(scope="session")
def transformed(tmp_path_factory: pytest.TempPathFactory) -> Transformed:
    """The real preprocessing_fn, analysed by TFT on Beam over drawn images, for MobileNetV2 at 32 px."""
    import apache_beam as beam
    import tensorflow as tf
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam
    from tfx_bsl.public import tfxio

    from components.preprocessing import preprocessing_fn

    root = tmp_path_factory.mktemp("transformed")
    paths = {}
    for split, seeds in ((features.TRAIN, range(24)), (features.EVAL, range(100, 106))):
        paths[split] = str(root / f"{split}.tfrecord")
        with tf.io.TFRecordWriter(paths[split]) as writer:
            for seed in seeds:
                for label in images.CLASSES:
                    image = images.encoded(images.draw(label, seed), orientation=seed % 8 + 1)
                    values = {
                        features.IMAGE: image,
                        features.SHA256: hashlib.sha256(image).hexdigest().encode(),
                        features.LABEL: label.encode(),
                        features.FILENAME: f"{label}/{seed}.jpg".encode(),
                    }
                    feature = {k: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v])) for k, v in values.items()}
                    writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    spec = {name: tf.io.FixedLenFeature([1], tf.string) for name in (features.IMAGE, features.LABEL)}
    metadata = tft.DatasetMetadata.from_feature_spec(spec)
    source = tfxio.TFExampleRecord(paths[features.TRAIN], schema=metadata.schema)
    config = {"backbone": "MobileNetV2", "input_size": 32}
    with beam.Pipeline("DirectRunner") as pipeline, tft_beam.Context(temp_dir=str(root / "tmp")):
        transform_fn = (
            (pipeline | source.BeamSource(), source.TensorAdapterConfig())
            | tft_beam.AnalyzeDataset(lambda inputs: preprocessing_fn(inputs, config))
        )  # fmt: skip
        _ = transform_fn | tft_beam.WriteTransformFn(str(root / "transform"))
        _ = metadata | tft_beam.WriteMetadata(str(root / "transform" / "metadata"), pipeline)
    return Transformed(str(root / "transform"), paths[features.TRAIN], paths[features.EVAL])


@dataclass(frozen=True)
class Materialized:
    """A Transform's output directory that leads to resized images, and the directory of these."""

    transformed: Transformed
    examples: str


@pytest.fixture(scope="session")
def materialized(transformed: Transformed, tmp_path_factory: pytest.TempPathFactory) -> Materialized:
    """The Transform's executor on the drawn images, padded, for MobileNetV2 at 32 px."""
    from tfx.types import standard_artifacts

    from components.materializing import Executor
    from pipeline.local_runner import BEAM_OPTIONS

    root = tmp_path_factory.mktemp("materialized")
    examples, schema = standard_artifacts.Examples(), standard_artifacts.Schema()
    examples.uri, schema.uri = str(root / "examples"), str(root / "schema")
    examples.split_names = json.dumps(list(features.SPLITS))
    for split, path in ((features.TRAIN, transformed.train), (features.EVAL, transformed.eval)):
        (root / "examples" / f"Split-{split}").mkdir(parents=True)
        shutil.copy(path, root / "examples" / f"Split-{split}" / "images-00000-of-00001")
    (root / "schema").mkdir()
    shutil.copy(pathlib.Path(transformed.directory, "metadata", "schema.pbtxt"), root / "schema")
    graph, resized = standard_artifacts.TransformGraph(), standard_artifacts.Examples()
    graph.uri, resized.uri = str(root / "transform"), str(root / "resized")
    custom = {"backbone": "MobileNetV2", "input_size": 32, "resize": "pad", "materialize": True}
    Executor(Executor.Context(beam_pipeline_args=[*BEAM_OPTIONS], tmp_dir=str(root), unique_id="1")).Do(
        {"examples": [examples], "schema": [schema]},
        {"transform_graph": [graph], "transformed_examples": [resized]},
        {
            "preprocessing_fn": "components.preprocessing.preprocessing_fn",
            "custom_config": json.dumps(custom),
            "disable_statistics": 1,
        },
    )
    return Materialized(Transformed(graph.uri, transformed.train, transformed.eval), resized.uri)


@pytest.fixture
def drawn(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder of 20 drawn images in each of three classes."""
    return images.folder(tmp_path / "images", 20)
