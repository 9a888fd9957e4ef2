"""Data validation: what it finds, what it does not, what a stop leaves behind, and what comes from the cache."""

import functools
import hashlib
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from components.data_validation import checks, findings, history, schema_file, statistics
from components.image_example_gen.settings import ValidationSettings
from graftline import features
from graftline.errors import UserError
from tests import assets

_ALL_STOP = ValidationSettings(
    new_label="stop", missing_class="stop", drift="stop", skew="stop", schema_violation="stop"
)


# --- drawn data sets --------------------------------------------------------------------------------------------------


def drawn(count: int, seed: int, classes: tuple[str, ...] = ("a", "b", "c"), **changed: Any) -> pd.DataFrame:
    """What ingest says of so many images: labels by turns, usual sizes and odd ones, quality as of photos."""
    random = np.random.default_rng(seed)
    height = np.where(
        random.random(count) < 0.7, random.choice([213, 240, 333], count), random.integers(90, 500, count)
    )
    values: dict[str, Any] = {
        features.LABEL: [classes[number % len(classes)] for number in range(count)],
        features.FORMAT: "jpeg",
        features.HEIGHT: height,
        features.WIDTH: height * 4 // 3,
        features.BRIGHTNESS: random.beta(6, 8, count).astype(np.float32),
        features.CONTRAST: random.beta(5, 16, count).astype(np.float32),
        features.SHARPNESS: random.lognormal(-1.4, 0.6, count).astype(np.float32),
    }
    return pd.DataFrame({**values, **changed})


def split(images: pd.DataFrame, seed: int) -> dict[str, Any]:
    """Statistics of a random fifth for eval, and of the rest."""
    held_back = np.random.default_rng([seed, 1]).random(len(images)) < 0.2
    return {
        part: tfdv.generate_statistics_from_dataframe(images[rows], statistics.stats_options())
        for part, rows in ((features.TRAIN, ~held_back), (features.EVAL, held_back))
    }


@functools.cache
def usual(seed: int = 0, classes: tuple[str, ...] = ("a", "b", "c")) -> dict[str, Any]:
    """Statistics of 300 images as they usually are; not to be changed."""
    return split(drawn(300, seed, classes), seed)


def found(
    now: Mapping[str, Any],
    before: Mapping[str, Any] | None = None,
    settings: ValidationSettings | None = None,
    schema: schema_pb2.Schema | None = None,
) -> list[findings.Finding]:
    """The findings; with a schema that is a curated one."""
    file = "" if schema is None else "photos.pbtxt"
    return checks.validate(
        now, schema or statistics.infer_schema(now), file, before, settings or ValidationSettings()
    ).findings


# --- chance does not cry wolf -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [30, 100, 600])
def test_a_fresh_random_split_gives_no_finding(count: int) -> None:
    for seed in range(3):
        assert found(split(drawn(count, seed), seed), split(drawn(count, 100 + seed), 100 + seed)) == []


def photos(folder: pathlib.Path) -> pd.DataFrame:
    """What ingest says of a folder of real photos."""
    from components.image_example_gen import decoding

    rows = []
    for path in sorted(folder.glob("*/*")):
        good = decoding.decode(path.read_bytes())
        assert isinstance(good, decoding.Decoded)
        quality = [np.float32(value) for value in (good.brightness, good.contrast, good.sharpness)]
        rows.append([path.parent.name, good.format, good.height, good.width, *quality])
    return pd.DataFrame(rows, columns=[*statistics.WORDS, *statistics.NUMBERS])


@assets.needs_assets
@pytest.mark.parametrize("folder", [assets.FLOWERS, assets.EUROSAT], ids=lambda folder: folder.name)
def test_nor_does_one_of_real_photos(folder: pathlib.Path) -> None:
    images = photos(folder)
    before = split(images, 0)
    for seed in range(1, 4):
        now = split(images, seed)
        assert found(now, before) == []
        before = now


@pytest.mark.parametrize(("first", "second", "cells"), [(48, 12, 3), (60, 60, 12), (480, 120, 12), (800, 200, 100)])
def test_samples_of_one_distribution_hardly_ever_differ_by_more_than_chance(
    first: int, second: int, cells: int
) -> None:
    from scipy.spatial.distance import jensenshannon

    random = np.random.default_rng(0)
    shares = random.dirichlet(np.full(cells, 5.0), 2_000)
    ours, theirs = (np.stack([random.multinomial(count, share) for share in shares]) for count in (first, second))
    divergences = jensenshannon(ours, theirs, base=2, axis=1) ** 2
    bound = statistics.chance(first, second, cells)
    assert divergences.max() < bound
    assert divergences.max() > bound / 6, "a bound that nothing comes near would hide real drift"


def test_one_huge_image_is_no_drift() -> None:
    images = drawn(200, 0)
    images.loc[7, [features.HEIGHT, features.WIDTH]] = 12_000
    assert found(split(images, 1), split(drawn(200, 2), 2)) == []


# --- drift and skew ---------------------------------------------------------------------------------------------------


def test_images_that_became_darker_are_drift_of_their_brightness_alone() -> None:
    before, now = drawn(300, 0), drawn(300, 1)
    now[features.BRIGHTNESS] *= np.float32(0.5)
    (drift,) = found(split(now, 1), split(before, 0), ValidationSettings(drift="stop"))
    assert (drift.check, drift.action, drift.feature) == ("drift", "stop", features.BRIGHTNESS)
    assert drift.value is not None
    assert drift.threshold is not None
    assert 0.2 == drift.threshold < drift.value <= 1
    median = [np.median(images[features.BRIGHTNESS]) for images in (now, before)]
    assert f"median {median[0]:.1g}" in drift.message
    assert "the last run of other images" in drift.message
    assert f"divergence {drift.value:.2f}, the threshold is 0.20" in drift.message


@pytest.mark.parametrize(
    ("changed", "features_found"),
    [
        ({features.FORMAT: "png"}, [features.FORMAT]),
        ({features.HEIGHT: 64, features.WIDTH: 64}, [features.HEIGHT, features.WIDTH]),
        ({features.SHARPNESS: np.float32(0.01)}, [features.SHARPNESS]),
        ({features.CONTRAST: np.float32(0.9)}, [features.CONTRAST]),
    ],
)
def test_what_changes_is_named(changed: dict[str, Any], features_found: list[str]) -> None:
    seen = found(split(drawn(300, 1, **changed), 1), usual())
    assert [(finding.check, finding.feature) for finding in seen] == [("drift", name) for name in features_found]


def test_sizes_that_were_all_alike_and_are_not_now_are_drift() -> None:
    before = drawn(300, 0, **{features.HEIGHT: 64, features.WIDTH: 64})
    assert {finding.feature for finding in found(usual(1), split(before, 0))} == {
        features.HEIGHT,
        features.WIDTH,
    }


def test_labels_in_other_shares_are_drift_and_the_shares_are_told() -> None:
    now = drawn(300, 1, ("a", "a", "a", "a", "a", "a", "a", "b", "c"))
    before = drawn(300, 0, ("a", "b", "b", "b", "b", "b", "c"))
    (drift,) = found(split(now, 1), split(before, 0))
    assert drift.feature == features.LABEL
    assert "'b' 1" in drift.message
    assert "against 7" in drift.message


def test_of_few_images_more_is_asked_than_the_threshold_and_of_very_few_nothing() -> None:
    settings = ValidationSettings(drift_threshold=0.01)
    dark = {features.BRIGHTNESS: np.float32(0.01)}
    (drift,) = found(split(drawn(40, 1, **dark), 1), split(drawn(40, 0), 0), settings)
    assert drift.value is not None
    assert drift.threshold is not None
    assert 0.2 < drift.threshold < drift.value
    assert found(split(drawn(12, 1, **dark), 1), split(drawn(12, 0), 0), settings) == []
    assert statistics.chance(12, 0, 2) == math.inf


def test_train_and_eval_that_differ_are_skew() -> None:
    now = dict(usual())
    now[features.EVAL] = split(drawn(300, 1, **{features.CONTRAST: np.float32(0.8)}), 1)[features.EVAL]
    (skew,) = found(now, None, _ALL_STOP)
    assert (skew.check, skew.action, skew.feature) == ("skew", "stop", features.CONTRAST)
    assert "the eval split" in skew.message
    assert found(now, None, ValidationSettings(skew_threshold=1)) == []


# --- labels -----------------------------------------------------------------------------------------------------------


def test_without_a_curated_schema_a_new_label_never_stops_and_a_missing_class_may() -> None:
    before, now = usual(), usual(1, ("a", "b", "d"))
    new, missing, *_ = found(now, before, _ALL_STOP)
    assert (new.check, new.action, new.classes) == ("new_label", "warn", ("d",))
    assert new.message == "class 'd' (100 images): not in the last run of other images"
    assert (missing.check, missing.action, missing.classes) == ("missing_class", "stop", ("c",))
    assert found(now, None, _ALL_STOP) == [], "a first run has nothing to be compared with"


def curated(classes: tuple[str, ...] = ("a", "b", "c")) -> schema_pb2.Schema:
    """What a user would keep of an inferred schema."""
    return statistics.infer_schema(usual(0, classes))


def test_with_a_curated_schema_its_domain_decides_not_the_last_run() -> None:
    before, now = usual(0, ("a", "b", "d")), usual(1, ("a", "b", "d"))
    new, missing = found(now, before, _ALL_STOP, curated())
    assert (new.check, new.action, new.classes) == ("new_label", "stop", ("d",))
    assert "data.schema_file photos.pbtxt" in new.message
    assert (missing.check, missing.classes) == ("missing_class", ("c",))


def test_a_curated_schema_without_a_domain_for_labels_leaves_it_to_the_last_run() -> None:
    schema = curated()
    tfdv.get_feature(schema, features.LABEL).ClearField("domain")
    now, before = usual(1, ("a", "b", "d")), usual()
    new, _, *_ = found(now, before, _ALL_STOP, schema)
    assert (new.check, new.action) == ("new_label", "warn")


def test_all_of_many_classes_are_known() -> None:
    """TFDV alone would infer no domain, and count 1,000."""
    classes = tuple(f"{number:05}" for number in range(1_500))
    images = drawn(3_000, 0, classes)
    now = {
        part: tfdv.generate_statistics_from_dataframe(images, statistics.stats_options()) for part in features.SPLITS
    }
    assert tfdv.get_domain(statistics.infer_schema(now), features.LABEL).value == list(classes)
    assert found(now, now) == []
    fewer = drawn(3_000, 0, classes[:-1])
    before = dict.fromkeys(features.SPLITS, tfdv.generate_statistics_from_dataframe(fewer, statistics.stats_options()))
    (new,) = found(now, before)
    assert new.classes == ("01499",)
    (missing,) = found(before, now)
    assert missing.classes == ("01499",)


@pytest.mark.parametrize("classes", [("0", "1"), ("1", "2", "3"), ("false", "true")])
def test_names_that_are_numbers_are_classes_like_any_other(classes: tuple[str, ...]) -> None:
    schema = curated(classes)
    assert tfdv.get_domain(schema, features.LABEL).value == list(classes)
    assert found(usual(0, classes), None, _ALL_STOP, schema) == []
    new, _ = found(split(drawn(200, 1, (*classes[:-1], "7")), 1), None, _ALL_STOP, schema)
    assert (new.check, new.action, new.classes) == ("new_label", "stop", ("7",))


def test_many_new_classes_are_one_finding_that_names_the_first_ten() -> None:
    now = split(drawn(200, 1, tuple(f"new {number:02}" for number in range(20))), 1)
    new, *_ = found(now, usual())
    assert len(new.classes) == 20
    assert "'new 09' and 10 more" in new.message


# --- the rest of a curated schema -------------------------------------------------------------------------------------


def test_what_a_curated_schema_does_not_allow_is_told_once_for_all_splits() -> None:
    schema = curated()
    tfdv.set_domain(schema, features.HEIGHT, schema_pb2.IntDomain(min=32, max=400))
    (high,) = found(usual(), None, _ALL_STOP, schema)
    assert (high.check, high.action, high.feature) == ("schema_violation", "stop", features.HEIGHT)
    assert "image/height in eval and train:" in high.message


def test_a_feature_that_a_curated_schema_does_not_name_is_compared_and_is_no_violation() -> None:
    schema = curated()
    kept = [each for each in schema.feature if each.name in (features.IMAGE, features.LABEL, features.FORMAT)]
    del schema.feature[:]
    schema.feature.extend(kept)
    before = usual()
    assert found(usual(1), before, None, schema) == []
    (drift,) = found(split(drawn(300, 1, **{features.CONTRAST: np.float32(0.9)}), 1), before, None, schema)
    assert drift.feature == features.CONTRAST


def test_a_threshold_in_a_curated_schema_goes_before_the_config() -> None:
    schema = curated()
    comparator = tfdv.get_feature(schema, features.BRIGHTNESS).drift_comparator
    comparator.jensen_shannon_divergence.threshold = 0.9
    now, before = drawn(300, 1), usual()
    now[features.BRIGHTNESS] *= np.float32(0.5)
    assert found(split(now, 1), before, None, schema) == []


_GOOD = text_format.MessageToString(
    schema_pb2.Schema(
        feature=[
            schema_pb2.Feature(
                name=name,
                type=schema_pb2.BYTES,
                presence=schema_pb2.FeaturePresence(min_fraction=1),
                shape=schema_pb2.FixedShape(dim=[schema_pb2.FixedShape.Dim(size=1)]),
            )
            for name in (features.IMAGE, features.LABEL)
        ]
    )
)


def test_a_schema_file_is_known_by_its_content(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "schema.pbtxt"
    path.write_text(_GOOD)
    assert schema_file.check(str(path)) == hashlib.sha256(_GOOD.encode()).hexdigest()
    assert schema_file.check("gs://bucket/schema.pbtxt") == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "there is no file"),
        ("feature {", "no TFDV schema as text"),
        ("\x00\x01", "no TFDV schema as text"),
        ("", "lacks the feature image/encoded"),
        (_GOOD.replace(features.LABEL, "label"), "lacks the feature image/class/text"),
        (_GOOD.replace("BYTES", "INT"), "must have type: BYTES"),
        (_GOOD.replace("min_fraction: 1.0", ""), "presence { min_fraction: 1"),
        (_GOOD.replace("type: BYTES", 'type: BYTES domain: "x"', 1), "no string_domain"),
    ],
)
def test_a_schema_file_that_cannot_be_used_is_told_before_the_run(
    tmp_path: pathlib.Path, text: str | None, told: str
) -> None:
    path = tmp_path / "schema.pbtxt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=r"^data\.schema_file") as error:
        schema_file.check(str(path))
    assert told in str(error.value)
    assert str(path) in str(error.value)


# --- what is kept from run to run -------------------------------------------------------------------------------------


def test_each_run_is_compared_with_the_last_one_of_other_images(tmp_path: pathlib.Path) -> None:
    folder = str(tmp_path / "statistics")
    numbers = {name: usual(seed) for seed, name in enumerate("ABC")}

    def run(images: str) -> tuple[int, int | None]:
        number = history.reference(folder, images)
        before = history.load(folder, number)
        history.accept(folder, images, number, numbers[images])
        if before is None:
            return number, None
        (same,) = (name for name, each in numbers.items() if _images_of(each) == _images_of(before))
        return number, "ABC".index(same)

    assert run("A") == (0, None)
    assert run("A") == (0, None), "the same images: compared with what they were compared with"
    assert run("B") == (2, 0)
    assert run("B") == (2, 0)
    assert run("A") == (4, 1), "images that return are compared with those that were there between"
    assert run("B")[1] == 0
    assert history.reference(folder, "") == 6, "where nobody knows the images it is the last run"
    assert len(os.listdir(folder)) == 3


def _images_of(statistics_by_split: Mapping[str, Any]) -> dict[str, float]:
    return {
        part: statistics.feature_of(each, features.BRIGHTNESS).num_stats.mean
        for part, each in statistics_by_split.items()
    }


def test_statistics_that_somebody_removed_are_no_reference(tmp_path: pathlib.Path) -> None:
    history.accept(str(tmp_path), "A", 0, usual())
    (tmp_path / "000001.pb").unlink()
    assert history.load(str(tmp_path), history.reference(str(tmp_path), "B")) is None


# --- as nodes of a pipeline -------------------------------------------------------------------------------------------


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

        from components.data_validation.component import ExampleValidator, ImportSchemaGen, SchemaGen
        from pipeline import lineage
        from pipeline.local_runner import BEAM_OPTIONS

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

    from pipeline.local_runner import BEAM_OPTIONS

    Executor(Executor.Context(beam_pipeline_args=[*BEAM_OPTIONS], tmp_dir="unused", unique_id="1"))
    limits = batch_util.GetBatchElementsKwargs(None)
    assert limits["max_batch_size"] == 20 << 20
    assert limits["element_size_fn"](b"x" * 4_000_000) == 4_000_000


# --- how it is shown --------------------------------------------------------------------------------------------------


def test_findings_survive_their_file() -> None:
    told = found(split(drawn(200, 1, ("a", "ü")), 1), usual())
    assert {finding.check for finding in told} >= {"new_label", "missing_class"}
    assert findings.from_json(findings.to_json(told)) == told


def test_what_only_warns_stops_nothing() -> None:
    warning = findings.Finding("drift", "warn", features.LABEL, "labels differ", "Look")
    findings.require_none_to_stop([warning])
    with pytest.raises(UserError) as stopped:
        findings.require_none_to_stop([warning, findings.Finding("skew", "stop", "", "they differ", "Look again")])
    assert str(stopped.value).splitlines()[1:] == ["- they differ. Look again, or set data.validation.skew=warn"]


def test_the_summary_warns_and_the_json_lists() -> None:
    from pipeline import console
    from pipeline.report import RunSummary

    warning = findings.Finding("new_label", "warn", features.LABEL, "class 'd' (3 images): not in x", "Look", ("d",))
    run = RunSummary("1", True, None, None, None, None, 60, 0, 0, {}, data_findings=[warning])
    assert "WARNING: new label: class 'd' (3 images): not in x" in console.summary(run, "ws")
    (listed,) = run.as_json()["data_findings"]
    assert (listed["check"], listed["action"], list(listed["classes"])) == ("new_label", "warn", ["d"])


# --- the DAG ----------------------------------------------------------------------------------------------------------


def test_the_run_to_compare_with_is_part_of_the_cache_key(tmp_path: pathlib.Path) -> None:
    from pipeline import config
    from pipeline.dag import create_pipeline, pipeline_name

    settings = config.load(None, ["backbone.weights=none"], {"images": str(tmp_path / "photos")})

    def reference(images: str) -> int:
        pipeline = create_pipeline(
            settings, pipeline_root="artifacts", models="models", fingerprint=images, state=str(tmp_path)
        )
        (validator,) = (node for node in pipeline.components if node.id == "ExampleValidator")
        assert validator.exec_properties["images"] == images
        return validator.exec_properties["reference"]

    assert reference("A") == 0
    history.accept(str(tmp_path / "statistics" / pipeline_name(settings)), "A", 0, usual())
    assert (reference("A"), reference("B")) == (0, 1)


@pytest.mark.parametrize("target", ["vertex", "kubeflow"])
def test_on_a_cluster_nothing_is_made_of_the_images_before_they_are_validated(
    tmp_path: pathlib.Path, target: Any
) -> None:
    import yaml

    from pipeline import compile as compiling
    from pipeline import config

    given = {"images": "gs://bucket/photos", "workspace": "gs://bucket/graftline"}
    settings = ["backbone.weights=none", "data.schema_file=gs://bucket/schema.pbtxt"]
    compiling.compile_pipeline(config.load(None, settings, given), target, tmp_path / "out")
    spec = yaml.safe_load((tmp_path / "out").read_text())
    tasks = spec.get("pipelineSpec", spec)["root"]["dag"]["tasks"]
    assert "ExampleValidator" in tasks["Transform"]["dependentTasks"]
    assert {"ImportSchemaGen", "StatisticsGen"} <= set(tasks["ExampleValidator"]["dependentTasks"])
    assert "SchemaGen" not in tasks
    assert "gs://bucket/graftline/statistics/graftline-photos" in str(tasks["ExampleValidator"])
