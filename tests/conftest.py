"""Fixtures that several rooms' tests share."""

import json
import pathlib
import shutil
from dataclasses import dataclass

import pytest

from graftline import features
from tests import artifacts, images

# Shared modules that assert: pytest tells of their values as of a test's own.
pytest.register_assert_rewrite(
    "tests.pipeline.histories",
    "tests.components.image_example_gen.ingested",
    "tests.components.image_example_gen.verdicts",
    "tests.trainer.runs",
    "tests.trainer.small_models",
    "tests.trainer.stored_rows",
)


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
    import tensorflow as tf

    root = tmp_path_factory.mktemp("transformed")
    paths = {}
    for split, seeds in ((features.TRAIN, range(24)), (features.EVAL, range(100, 106))):
        paths[split] = str(root / f"{split}.tfrecord")
        with tf.io.TFRecordWriter(paths[split]) as writer:
            for seed in seeds:
                for label in images.CLASSES:
                    image = images.encode(images.draw(label, seed), orientation=seed % 8 + 1)
                    writer.write(artifacts.example(image, label, f"{label}/{seed}.jpg"))
    directory = artifacts.write_transform(paths[features.TRAIN], root, "MobileNetV2", 32)
    return Transformed(directory, paths[features.TRAIN], paths[features.EVAL])


@dataclass(frozen=True)
class Materialized:
    """A Transform's output directory that leads to resized images, and the directory of these."""

    transformed: Transformed
    examples: str


@pytest.fixture(scope="session")
def materialized(transformed: Transformed, tmp_path_factory: pytest.TempPathFactory) -> Materialized:
    """The Transform's executor on the drawn images, padded, for MobileNetV2 at 32 px."""
    from tfx.types import standard_artifacts

    from graftline.components.transform.component import Executor
    from graftline.pipeline.local_runner import BEAM_OPTIONS

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
            "preprocessing_fn": "graftline.components.transform.preprocessing.preprocessing_fn",
            "custom_config": json.dumps(custom),
            "disable_statistics": 1,
        },
    )
    return Materialized(Transformed(graph.uri, transformed.train, transformed.eval), resized.uri)


@pytest.fixture
def drawn(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder of 20 drawn images in each of three classes."""
    return images.write_folder(tmp_path / "images", 20)
