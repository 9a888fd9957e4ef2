"""Tests of the nodes of data validation in pipelines and in the DAG."""

import hashlib
import os
import pathlib
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv

from graftline import features
from graftline.components.data_validation import findings, history, schema_file, statistics
from graftline.components.data_validation.settings import ValidationSettings
from graftline.errors import UserError
from graftline.workspace import Workspace
from tests.components.data_validation.drawn_statistics import ALL_STOP as _ALL_STOP
from tests.components.data_validation.drawn_statistics import drawn, usual


def write_examples(folder: pathlib.Path, images: pd.DataFrame) -> pathlib.Path:
    """As ingest stores them; the fifth of them that is held back goes by turns."""
    for part, rows in ((features.TRAIN, images.index % 5 != 0), (features.EVAL, images.index % 5 == 0)):
        (folder / f"Split-{part}").mkdir(parents=True)
        with tf.io.TFRecordWriter(str(folder / f"Split-{part}" / "data_tfrecord-00000-of-00001")) as writer:
            for number, row in images[rows].iterrows():
                texts = {name: row[name].encode() for name in statistics.WORDS}
                data = os.urandom(100)
                texts |= {features.IMAGE: data, features.FILENAME: f"{number}.jpg".encode()}
                texts |= {features.SHA256: hashlib.sha256(data).hexdigest().encode()}
                feature = {
                    name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[text])) for name, text in texts.items()
                }
                for name in (features.HEIGHT, features.WIDTH):
                    feature[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[row[name]]))
                for name in (features.BRIGHTNESS, features.CONTRAST, features.SHARPNESS):
                    feature[name] = tf.train.Feature(float_list=tf.train.FloatList(value=[row[name]]))
                writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return folder


class Nights:
    """One workspace; each run is StatisticsGen, SchemaGen or ImportSchemaGen, and ExampleValidator on stored images."""

    def __init__(self, root: pathlib.Path) -> None:
        self._root = root
        self.history = str(root / "statistics")

    def run(
        self, images: pathlib.Path, settings: ValidationSettings | None = None, schema: pathlib.Path | None = None
    ) -> tuple[set[str], list[findings.Finding]]:
        """The nodes that came from the cache, and the findings."""
        from tfx.components import StatisticsGen
        from tfx.dsl.components.common.importer import Importer
        from tfx.orchestration.local.local_dag_runner import LocalDagRunner
        from tfx.orchestration.metadata import sqlite_metadata_connection_config
        from tfx.orchestration.pipeline import Pipeline
        from tfx.types import standard_artifacts

        from graftline.components.data_validation.component import ExampleValidator, ImportSchemaGen, SchemaGen
        from graftline.pipeline import lineage
        from graftline.pipeline.local_runner import BEAM_OPTIONS

        stored = Importer(
            source_uri=str(images),
            artifact_type=standard_artifacts.Examples,
            properties={"split_names": '["train", "eval"]'},
            custom_properties={"payload_format": "FORMAT_TF_EXAMPLE"},
        )
        counted = StatisticsGen(examples=stored.outputs["result"], stats_options=statistics.stats_options())
        schema_gen = (
            ImportSchemaGen(str(schema), schema_file.check(str(schema)))
            if schema
            else SchemaGen(statistics=counted.outputs["statistics"])
        )
        validator = ExampleValidator(
            statistics=counted.outputs["statistics"],
            schema=schema_gen.outputs["schema"],
            settings=settings or ValidationSettings(),
            schema_file=str(schema) if schema else None,
            history=self.history,
            images=images.name,
            reference=history.reference(self.history, images.name),
        )
        database = str(self._root / "metadata.db")
        LocalDagRunner().run(
            Pipeline(
                pipeline_name="nights",
                pipeline_root=str(self._root / "artifacts"),
                components=[stored, counted, schema_gen, validator],
                enable_cache=True,
                beam_pipeline_args=[*BEAM_OPTIONS],
                metadata_connection_config=sqlite_metadata_connection_config(database),
            )
        )
        _, nodes = lineage.latest_run(lineage.connect(database))
        told = pathlib.Path(nodes["ExampleValidator"].outputs["anomalies"].uri, findings.FILE).read_text()
        return {name for name, node in nodes.items() if node.cached and name != "Importer"}, findings.from_json(told)


_NODES = {"StatisticsGen", "SchemaGen", "ExampleValidator"}


def test_the_nights_of_a_pipeline(tmp_path: pathlib.Path) -> None:
    first = write_examples(tmp_path / "first", drawn(200, 0))
    dark = write_examples(tmp_path / "dark", drawn(200, 1, ("a", "b"), **{features.BRIGHTNESS: np.float32(0.02)}))
    nights = Nights(tmp_path)
    assert nights.run(first) == (set(), [])
    assert nights.run(first) == (_NODES, []), "nothing changed"
    assert nights.run(first) == (_NODES, [])

    with pytest.raises(UserError) as stopped:
        nights.run(dark, ValidationSettings(missing_class="stop", drift="stop"))
    message = str(stopped.value)
    assert "before anything was trained" in message
    assert "class 'c': in the last run of other images" in message
    assert "set data.validation.missing_class=warn" in message
    assert "image/quality/brightness" in message
    assert "set data.validation.drift=warn" in message
    assert history.reference(nights.history, "dark") == 1, "what was stopped is nothing to compare with"

    cached, told = nights.run(dark)
    assert cached == {"StatisticsGen", "SchemaGen"}
    assert [finding.check for finding in told] == ["missing_class", "drift"]
    assert {finding.action for finding in told} == {"warn"}
    assert nights.run(dark) == (_NODES, told), "nothing changed, so the same is told"

    cached, told = nights.run(first)
    assert cached == {"StatisticsGen", "SchemaGen"}, "validated again: there are others to compare with now"
    assert [finding.check for finding in told][:1] == ["new_label"]


def test_statistics_and_schema_of_a_pipeline(tmp_path: pathlib.Path) -> None:
    """Names, hashes and images are counted and stay in the schema, which a user can copy and curate."""
    images = write_examples(tmp_path / "images", drawn(200, 0))
    nights = Nights(tmp_path)
    nights.run(images)
    (folder,) = (tmp_path / "artifacts" / "StatisticsGen" / "statistics").iterdir()
    counted = tfdv.load_stats_binary(str(folder / "Split-train" / "FeatureStats.pb"))
    for name in (features.IMAGE, features.FILENAME, features.SHA256):
        feature = statistics.feature_of(counted, name)
        assert feature is not None
        assert feature.WhichOneof("stats") == "bytes_stats"
        assert feature.ByteSize() < 2_000
    (schema,) = (tmp_path / "artifacts" / "SchemaGen" / "schema").glob("*/schema.pbtxt")
    copy = tmp_path / "curated.pbtxt"
    copy.write_text(schema.read_text())
    with_domain = {feature.name for feature in tfdv.load_schema_text(str(schema)).feature if feature.domain}
    assert with_domain == {features.LABEL, features.FORMAT}

    nodes = {"StatisticsGen", "ImportSchemaGen", "ExampleValidator"}
    assert nights.run(images, _ALL_STOP, copy) == ({"StatisticsGen"}, [])
    assert nights.run(images, _ALL_STOP, copy) == (nodes, [])
    copy.write_text(copy.read_text().replace('value: "jpeg"', 'value: "bmp"'))
    with pytest.raises(UserError, match="image/format in eval and train") as stopped:
        nights.run(images, _ALL_STOP, copy)
    assert "set data.validation.schema_violation=warn" in str(stopped.value)


def test_batches_are_bounded_in_bytes_by_the_options_of_a_local_run() -> None:
    from tfx.components.statistics_gen.executor import Executor
    from tfx_bsl.coders import batch_util

    from graftline.pipeline.local_runner import BEAM_OPTIONS

    Executor(Executor.Context(beam_pipeline_args=[*BEAM_OPTIONS], tmp_dir="unused", unique_id="1"))
    limits = batch_util.GetBatchElementsKwargs(None)
    assert limits["max_batch_size"] == 20 << 20
    assert limits["element_size_fn"](b"x" * 4_000_000) == 4_000_000


def test_the_run_to_compare_with_is_part_of_the_cache_key(tmp_path: pathlib.Path) -> None:
    from graftline.pipeline import config_file
    from graftline.pipeline.dag import create_pipeline
    from graftline.pipeline.site import Site

    settings = config_file.load(None, ["backbone.weights=none"], {"images": str(tmp_path / "photos")})
    site = Site(Workspace(str(tmp_path)), fingerprint="", readable=True)

    def reference(images: str) -> int:
        pipeline = create_pipeline(settings, replace(site, fingerprint=images))
        (validator,) = (node for node in pipeline.components if node.id == "ExampleValidator")
        assert validator.exec_properties["images"] == images
        return validator.exec_properties["reference"]

    assert reference("A") == 0
    history.accept(site.statistics(settings), "A", 0, usual())
    assert (reference("A"), reference("B")) == (0, 1)


@pytest.mark.parametrize("target", ["vertex", "kubeflow"])
def test_on_a_cluster_nothing_is_made_of_the_images_before_they_are_validated(
    tmp_path: pathlib.Path, target: Any
) -> None:
    import yaml

    from graftline.pipeline import compile as compiling
    from graftline.pipeline import config_file

    given = {"images": "gs://bucket/photos", "workspace": "gs://bucket/graftline"}
    settings = ["backbone.weights=none", "data.schema_file=gs://bucket/schema.pbtxt"]
    compiling.compile_pipeline(config_file.load(None, settings, given), target, tmp_path / "out")
    spec = yaml.safe_load((tmp_path / "out").read_text())
    tasks = spec.get("pipelineSpec", spec)["root"]["dag"]["tasks"]
    assert "ExampleValidator" in tasks["Transform"]["dependentTasks"]
    assert {"ImportSchemaGen", "StatisticsGen"} <= set(tasks["ExampleValidator"]["dependentTasks"])
    assert "SchemaGen" not in tasks
    assert "gs://bucket/graftline/statistics/graftline-photos" in str(tasks["ExampleValidator"])
