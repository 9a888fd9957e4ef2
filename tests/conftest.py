"""Fixtures that several rooms' tests share."""

import json
import pathlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from graftline import features
from tests import artifacts, images, saved_models

if TYPE_CHECKING:
    from graftline.serving.server import ModelServer

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

    from graftline import proxies

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    proxies.exempt_loopback(os.environ)  # tests ask servers on this machine by urllib and requests


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
    directory = artifacts.write_transform(paths[features.TRAIN], root, "tf", 32)
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
    custom = {"preprocessing": "tf", "input_size": 32, "resize": "pad", "materialize": True}
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


@pytest.fixture(scope="session")
def colour_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SavedModel with Graftline's signatures."""
    return saved_models.save_colour_model(str(tmp_path_factory.mktemp("colours") / "export"))


@pytest.fixture(scope="session")
def float_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SavedModel that Graftline did not make."""
    return saved_models.save_float_model(str(tmp_path_factory.mktemp("numbers") / "export"))


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory, colour_model: str, float_model: str) -> pathlib.Path:
    """A workspace with two models: version 3 of colours, version 1 of numbers. Not to be changed by a test."""
    root = tmp_path_factory.mktemp("workspace")
    shutil.copytree(colour_model, root / "models/colours/3")
    shutil.copytree(float_model, root / "models/numbers/1")
    return root


@pytest.fixture(scope="session")
def server(workspace: pathlib.Path) -> "Iterator[ModelServer]":
    """A server of the workspace, in this process, on free ports."""
    from graftline.serving.server import ModelServer
    from graftline.serving.versions import locate

    with ModelServer(locate.find_models(str(workspace)), rest_port=0, grpc_port=0) as running:
        yield running
