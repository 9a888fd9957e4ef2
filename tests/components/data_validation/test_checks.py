"""Tests of the checks, without and with a curated schema."""

import hashlib
import math
import pathlib
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from graftline import features
from graftline.components.data_validation import schema_file, statistics
from graftline.components.data_validation.settings import ValidationSettings
from graftline.errors import UserError
from tests import assets
from tests.components.data_validation.drawn_statistics import ALL_STOP as _ALL_STOP
from tests.components.data_validation.drawn_statistics import drawn, found, split, usual

# --- chance does not cry wolf -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [30, 100, 600])
def test_a_fresh_random_split_gives_no_finding(count: int) -> None:
    for seed in range(3):
        assert found(split(drawn(count, seed), seed), split(drawn(count, 100 + seed), 100 + seed)) == []


def photos(folder: pathlib.Path) -> pd.DataFrame:
    """What ingest says of a folder of real photos."""
    from graftline.components.image_example_gen import decoding

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


def test_a_new_label_that_looks_like_an_expected_one_is_told_with_it() -> None:
    new, *_ = found(usual(1, ("a", "b", "C ")), usual(), _ALL_STOP)
    assert new.message == "class 'C ' (100 images): not in the last run of other images; 'C ' looks like 'c'"


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
        ("feature {", "not a TFDV schema in text form"),
        ("\x00\x01", "not a TFDV schema in text form"),
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
