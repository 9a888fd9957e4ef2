"""Tests of the report of an ingest, and of the data sets that it refuses."""

import csv
import io

import pytest

from graftline.components.image_example_gen.decoding import Quarantined
from graftline.components.image_example_gen.plan import CheckedFile, make_plan
from graftline.components.image_example_gen.quarantine import (
    Summary,
    WrittenShard,
    quarantined_rows,
    require_usable,
    summarize,
    to_csv,
)
from graftline.components.image_example_gen.settings import IngestSettings
from graftline.errors import UserError
from graftline.features import EVAL, SPLITS, TEST, TRAIN
from tests.components.image_example_gen.plans import FOUR, in_splits, lost, row


def test_the_csv_survives_commas_and_quotes() -> None:
    refused = [row('a/x, "y".jpg', "s", Quarantined("not an image: starts with '<a,b'"), size=7)]
    assert list(csv.DictReader(io.StringIO(to_csv(refused)))) == [
        {"path": 'a/x, "y".jpg', "reason": "not an image: starts with '<a,b'", "bytes": "7", "sha256": "s"}
    ]


def test_files_lost_on_writing_are_listed_too() -> None:
    plan = make_plan(
        [row("b/1.jpg", "s", Quarantined("empty file")), row("a/1.jpg", "t")], IngestSettings(eval_fraction=0.5)
    )
    written = [WrittenShard("train", (), lost([row("a/1.jpg", "t")]))]
    assert [r.path for r in quarantined_rows(plan, written)] == ["a/1.jpg", "b/1.jpg"]


def summary_of(*rows: CheckedFile) -> Summary:
    plan = make_plan(rows, IngestSettings(eval_fraction=0.5))
    return summarize(plan, [WrittenShard(s.split, tuple((r.label, 1) for r in s.rows), ()) for s in plan.shards])


BAD = tuple(row(f"a/bad{i}.jpg", f"bad{i}", Quarantined(f"not an image: starts with '{i}'")) for i in range(2))


def test_too_many_bad_files_are_refused_with_counts_reasons_and_what_to_do() -> None:
    summary = summary_of(*FOUR, *BAD, row("b/0.jpg", "5", Quarantined("truncated JPEG")))
    with pytest.raises(UserError) as error:
        require_usable(summary, "photos", IngestSettings(), "reports/quarantine.csv")
    assert str(error.value) == (
        "photos: 3 of 7 files (42.9%) cannot be used; data.max_bad_fraction is 0.05. "
        "Reasons: not an image (2, such as a/bad0.jpg); truncated JPEG (1, such as b/0.jpg). "
        "The full list is in reports/quarantine.csv. Repair or remove these files, or raise data.max_bad_fraction."
    )
    require_usable(summary, "photos", IngestSettings(max_bad_fraction=3 / 7), "")


def test_strict_allows_not_one() -> None:
    strict = IngestSettings(strict=True, max_bad_fraction=1.0)
    require_usable(summary_of(*FOUR), "photos", strict, "")
    with pytest.raises(UserError) as error:
        require_usable(summary_of(*FOUR, BAD[0]), "photos", strict, "reports/quarantine.csv")
    assert str(error.value) == (
        "photos: 1 of 5 files cannot be used, and data.strict allows no such file. "
        "Reasons: not an image (1, such as a/bad0.jpg). "
        "The full list is in reports/quarantine.csv. Repair or remove these files, or set data.strict=false."
    )


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (BAD, "none of 2 files is an image that can be decoded. Reasons: not an image (2, such as a/bad0.jpg)."),
        (FOUR[:2], "only class 'a' has images that can be decoded; at least two classes are needed."),
        ((FOUR[0], FOUR[2]), "class 'a' has 1 usable image left; it needs at least 2 different images"),
    ],
)
def test_data_that_can_train_nothing_is_refused(rows: tuple[CheckedFile, ...], told: str) -> None:
    with pytest.raises(UserError) as error:
        require_usable(summary_of(*rows), "photos", IngestSettings(max_bad_fraction=1.0), "")
    assert told in str(error.value)


def test_a_class_that_lost_all_its_images_is_warned_of() -> None:
    summary = summary_of(*FOUR, row("c/1.jpg", "9", Quarantined("empty file")))
    assert summary.warnings == ["class 'c' has no image that can be decoded and is left out"]


def test_a_class_may_be_absent_from_test_but_not_from_train_or_eval() -> None:
    summary = summary_of(*in_splits(a="train eval test", b="train eval"))
    assert summary.by_split == {TRAIN: 2, EVAL: 2, TEST: 1}
    assert summary.by_class["b"] == {TRAIN: 1, EVAL: 1, TEST: 0, "quarantined": 0, "duplicates": 0}
    require_usable(summary, "photos", IngestSettings(), "")
    with pytest.raises(UserError, match="class 'b' has 2 in train, 0 in eval, 1 in test after splitting"):
        require_usable(summary_of(*in_splits(a="train eval", b="train train test")), "photos", IngestSettings(), "")


def test_without_given_splits_nothing_is_said_of_test() -> None:
    summary = summary_of(*FOUR)
    assert list(summary.by_split) == list(SPLITS)
    assert list(summary.by_class["a"]) == [TRAIN, EVAL, "quarantined", "duplicates"]
