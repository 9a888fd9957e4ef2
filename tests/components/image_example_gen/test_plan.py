"""What becomes of every file, and what is told of it: invariants over made-up rows."""

import csv
import io
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.image_example_gen.decoding import Decoded, Quarantined
from components.image_example_gen.layouts import File
from components.image_example_gen.plan import Row, make_plan
from components.image_example_gen.quarantine import (
    Summary,
    Written,
    quarantined_rows,
    require_usable,
    summarize,
    to_csv,
)
from components.image_example_gen.settings import IngestSettings
from graftline.errors import UserError

GOOD = Decoded("jpeg", 2, 2, 0.5, 0.1, 0.1)


def row(path: str, content: str, verdict: Decoded | Quarantined = GOOD, size: int = 10) -> Row:
    return Row(File(path, path.split("/")[0]), content, size, verdict)


@st.composite
def rows_of_folders(draw: st.DrawFn) -> list[Row]:
    """Files of few contents in few classes, so that copies and conflicts abound; odd contents are bad."""
    files = draw(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12)), min_size=1, max_size=60))
    return [
        row(f"{label}/{i}.jpg", f"{content:064x}", Quarantined("truncated JPEG") if content % 4 == 3 else GOOD)
        for i, (label, content) in enumerate(files)
    ]


def written_as_planned(rows: Sequence[Row]) -> Summary:
    plan = make_plan(rows, IngestSettings(eval_fraction=0.3), images_per_shard=5)
    written = [
        Written(shard.split, tuple((kept.label, 1) for kept in shard.rows[1:]), lost(shard.rows[:1]))
        for shard in plan.shards
    ]
    return summarize(plan, written)


def lost(rows: Sequence[Row]) -> tuple[Row, ...]:
    return tuple(replace(r, verdict=Quarantined("changed during the run")) for r in rows)


@given(rows_of_folders())
def test_every_file_is_an_example_or_quarantined_or_a_duplicate(rows: list[Row]) -> None:
    plan = make_plan(rows, IngestSettings(eval_fraction=0.3), images_per_shard=5)
    kept = [kept for shard in plan.shards for kept in shard.rows]
    assert sorted([*kept, *plan.quarantined, *plan.duplicates], key=lambda r: r.path) == sorted(
        rows, key=lambda r: r.path
    )
    assert len({(r.sha256, r.label) for r in kept}) == len(kept)
    summary = written_as_planned(rows)  # where one row of each shard is lost on writing
    assert summary.examples + summary.quarantined + summary.duplicates == summary.found == len(rows)
    totals = [sum(counts[kind] for counts in summary.by_class.values()) for kind in ("quarantined", "duplicates")]
    assert totals == [summary.quarantined, summary.duplicates]
    assert sum(summary.by_reason.values()) == summary.quarantined
    assert Summary.from_json(summary.to_json()) == summary


@given(rows_of_folders(), st.randoms())
def test_the_plan_does_not_depend_on_the_order_in_which_files_were_checked(rows: list[Row], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert make_plan(shuffled, IngestSettings(eval_fraction=0.3)) == make_plan(rows, IngestSettings(eval_fraction=0.3))


@given(rows_of_folders())
def test_one_content_is_never_on_both_sides(rows: list[Row]) -> None:
    split_of: dict[str, str] = {}
    for shard in make_plan(rows, IngestSettings(eval_fraction=0.3), images_per_shard=5).shards:
        for kept in shard.rows:
            assert split_of.setdefault(kept.sha256, shard.split) == shard.split


def test_shards_are_even_and_sorted_by_content() -> None:
    rows = [row(f"a/{i}.jpg", f"{i * 7919 % 2503:064x}") for i in range(2503)]
    train = [shard for shard in make_plan(rows, IngestSettings(eval_fraction=0.001), images_per_shard=1000).shards if shard.split == "train"]
    assert [shard.name for shard in train] == [f"data_tfrecord-{i:05d}-of-00003" for i in range(3)]
    sizes = [len(shard.rows) for shard in train]
    assert max(sizes) - min(sizes) <= 1
    contents = [kept.sha256 for shard in train for kept in shard.rows]
    assert contents == sorted(contents)


def test_large_files_make_more_shards() -> None:
    rows = [row(f"a/{i}.jpg", f"{i:064x}", size=40 << 20) for i in range(100)]
    assert all(sum(r.size for r in shard.rows) <= 560 << 20 for shard in make_plan(rows, IngestSettings(eval_fraction=0.2)).shards)


def test_the_first_copy_by_path_is_kept_and_one_for_each_label() -> None:
    plan = make_plan([row("b/2.jpg", "s"), row("a/2.jpg", "s"), row("a/1.jpg", "s"), row("a/3.jpg", "t")], IngestSettings(eval_fraction=0.5))
    assert sorted(kept.path for shard in plan.shards for kept in shard.rows) == ["a/1.jpg", "a/3.jpg", "b/2.jpg"]
    assert [copy.path for copy in plan.duplicates] == ["a/2.jpg"]
    assert plan.conflicts == (("a/1.jpg", "b/2.jpg"),)


def test_bad_copies_are_quarantined_each() -> None:
    """A failed download that left the same error page 50 times is 50 bad files, not one and 49 duplicates."""
    page = Quarantined("not an image: starts with '<html>'")
    plan = make_plan([row(f"a/{i}.jpg", "s", page) for i in range(50)], IngestSettings(eval_fraction=0.5))
    assert (len(plan.quarantined), len(plan.duplicates)) == (50, 0)


def test_the_csv_survives_commas_and_quotes() -> None:
    refused = [row('a/x, "y".jpg', "s", Quarantined("not an image: starts with '<a,b'"), size=7)]
    assert list(csv.DictReader(io.StringIO(to_csv(refused)))) == [
        {"path": 'a/x, "y".jpg', "reason": "not an image: starts with '<a,b'", "bytes": "7", "sha256": "s"}
    ]


def test_files_lost_on_writing_are_listed_too() -> None:
    plan = make_plan([row("b/1.jpg", "s", Quarantined("empty file")), row("a/1.jpg", "t")], IngestSettings(eval_fraction=0.5))
    written = [Written("train", (), lost([row("a/1.jpg", "t")]))]
    assert [r.path for r in quarantined_rows(plan, written)] == ["a/1.jpg", "b/1.jpg"]


def summary_of(*rows: Row) -> Summary:
    plan = make_plan(rows, IngestSettings(eval_fraction=0.5))
    return summarize(plan, [Written(s.split, tuple((r.label, 1) for r in s.rows), ()) for s in plan.shards])


FOUR = (row("a/1.jpg", "1"), row("a/2.jpg", "2"), row("b/1.jpg", "3"), row("b/2.jpg", "4"))
BAD = tuple(row(f"a/bad{i}.jpg", f"bad{i}", Quarantined(f"not an image: starts with '{i}'")) for i in range(2))


def test_too_many_bad_files_are_refused_with_counts_reasons_and_what_to_do() -> None:
    summary = summary_of(*FOUR, *BAD, row("b/0.jpg", "5", Quarantined("truncated JPEG")))
    with pytest.raises(UserError) as error:
        require_usable(summary, "photos", 0.05, "reports/quarantine.csv")
    assert str(error.value) == (
        "photos: 3 of 7 files (42.9%) can't be used, more than data.max_bad_fraction (0.05) allows. "
        "Why: not an image (2, such as a/bad0.jpg); truncated JPEG (1, such as b/0.jpg). "
        "The whole list: reports/quarantine.csv. Mend or remove them, or raise data.max_bad_fraction."
    )
    require_usable(summary, "photos", 3 / 7, "")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (BAD, "none of 2 files is an image that can be decoded. Why: not an image (2, such as a/bad0.jpg)."),
        (FOUR[:2], "only class 'a' has images that can be decoded, two classes are needed at least."),
        ((FOUR[0], FOUR[2]), "class 'a' is left with 1 usable image, but needs at least 2 different ones"),
    ],
)
def test_data_that_can_train_nothing_is_refused(rows: tuple[Row, ...], told: str) -> None:
    with pytest.raises(UserError) as error:
        require_usable(summary_of(*rows), "photos", 1.0, "")
    assert told in str(error.value)


def test_a_class_that_lost_all_its_images_is_warned_of() -> None:
    summary = summary_of(*FOUR, row("c/1.jpg", "9", Quarantined("empty file")))
    assert summary.warnings == ["class 'c' has no image that can be decoded and is left out"]
