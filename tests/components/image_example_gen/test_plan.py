"""Tests of the plan of an ingest: copies, splits, groups and shards."""

import pickle
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from graftline.components.image_example_gen.decoding import Decoded, Quarantined
from graftline.components.image_example_gen.layouts import File
from graftline.components.image_example_gen.plan import CheckedFile, Plan, make_plan
from graftline.components.image_example_gen.quarantine import (
    Summary,
    WrittenShard,
    summarize,
)
from graftline.components.image_example_gen.settings import IngestSettings
from graftline.features import EVAL, TEST, TRAIN
from tests.components.image_example_gen.plans import FOUR, in_splits, looks, lost, planned, row, spread


@st.composite
def rows_of_folders(draw: st.DrawFn) -> list[CheckedFile]:
    """Files of few contents in few classes, so that copies and conflicts abound; odd contents are bad.

    Some have splits or groups of the layout's, and some look alike.
    """
    given_splits = ["", TRAIN, EVAL, TEST] if draw(st.booleans()) else [""]
    groups = ["", "g", "h"] if draw(st.booleans()) else [""]
    look = draw(st.sampled_from([1, 2, 9]))  # how many contents in a row look alike
    files = draw(
        st.lists(
            st.tuples(
                st.sampled_from("abc"), st.integers(0, 12), st.sampled_from(given_splits), st.sampled_from(groups)
            ),
            min_size=1,
            max_size=60,
        )
    )
    return [
        row(
            f"{label}/{i}.jpg",
            f"{content:064x}",
            Quarantined("truncated JPEG") if content % 4 == 3 else looks(spread(content // look)),
            split=split,
            group=group,
        )
        for i, (label, content, split, group) in enumerate(files)
    ]


knowns = st.dictionaries(
    st.integers(0, 20).map(lambda content: f"{content:064x}"), st.sampled_from([TRAIN, EVAL, TEST]), max_size=8
)


def written_as_planned(plan: Plan) -> Summary:
    """The first row of each shard is lost on writing."""
    written = [
        WrittenShard(shard.split, tuple((kept.label, 1) for kept in shard.rows[1:]), lost(shard.rows[:1]))
        for shard in plan.shards
    ]
    return summarize(plan, written)


@settings(deadline=None)
@given(rows_of_folders(), knowns)
def test_every_file_is_an_example_or_quarantined_or_a_duplicate(rows: list[CheckedFile], known: dict[str, str]) -> None:
    plan = planned(rows, known)
    kept = [kept for shard in plan.shards for kept in shard.rows]
    assert sorted([*kept, *plan.quarantined, *plan.duplicates], key=lambda r: r.path) == sorted(
        rows, key=lambda r: r.path
    )
    assert len({(r.sha256, r.label) for r in kept}) == len(kept)
    assert plan.splits.keys() == {r.sha256 for r in kept}
    summary = written_as_planned(plan)
    assert summary.examples + summary.quarantined + summary.duplicates == summary.found == len(rows)
    totals = [sum(counts[kind] for counts in summary.by_class.values()) for kind in ("quarantined", "duplicates")]
    assert totals == [summary.quarantined, summary.duplicates]
    assert sum(summary.by_reason.values()) == summary.quarantined
    assert (TEST in summary.by_split) == any(shard.split == TEST for shard in plan.shards)
    assert {split: sum(c[split] for c in summary.by_class.values()) for split in summary.by_split} == summary.by_split
    assert sum(summary.by_split.values()) == summary.examples
    assert Summary.from_json(summary.to_json()) == summary


@settings(deadline=None)
@given(rows_of_folders(), knowns, st.randoms())
def test_the_plan_does_not_depend_on_the_order_in_which_files_were_checked(
    rows: list[CheckedFile], known: dict[str, str], random: object
) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert planned(shuffled, known) == planned(rows, known)


@settings(deadline=None)
@given(rows_of_folders(), knowns)
def test_what_the_layout_gives_is_kept_and_then_what_is_known(rows: list[CheckedFile], known: dict[str, str]) -> None:
    plan = planned(rows, known)
    tests = any(r.file.split == TEST for r in rows if isinstance(r.verdict, Decoded))
    for shard in plan.shards:
        for kept in shard.rows:
            assert plan.splits[kept.sha256] == shard.split
            assert kept.file.split in ("", shard.split)
            given_splits = {r.file.split for r in rows if r.sha256 == kept.sha256} - {""}
            if given_splits:
                assert shard.split == next(split for split in (TEST, EVAL, TRAIN) if split in given_splits)
            elif kept.sha256 in known:
                # A test split that the layout does not give is none, and its images are not trained on.
                assert shard.split == (EVAL if known[kept.sha256] == TEST and not tests else known[kept.sha256])


@settings(deadline=None)
@given(rows_of_folders(), knowns)
def test_what_belongs_together_is_in_one_split_or_told_as_a_leak(
    rows: list[CheckedFile], known: dict[str, str]
) -> None:
    plan = planned(rows, known)
    split_by_path = {kept.path: shard.split for shard in plan.shards for kept in shard.rows}
    leaks = set(plan.leaks)
    for paths in plan.near:
        assert len(paths) > 1
        assert (len({split_by_path[path] for path in paths}) > 1) == (paths in leaks)
    for group in "gh":
        inside = [r for shard in plan.shards for r in shard.rows if r.file.group == group]
        if len({split_by_path[r.path] for r in inside}) > 1:
            assert any({r.path for r in inside} <= set(paths) for paths in leaks)
    if not known and not any(r.file.split for r in rows):  # then only a class that lacks a side parts near copies
        assert all(paths in plan.near for paths in leaks)


@settings(deadline=None)
@given(rows_of_folders(), rows_of_folders(), knowns)
def test_an_image_once_planned_stays_where_it_is(
    old: list[CheckedFile], new: list[CheckedFile], known: dict[str, str]
) -> None:
    before = planned([replace(r, file=r.file._replace(split="")) for r in old], known)
    added = [replace(r, file=File(f"new/{r.path}", r.label, group=r.file.group)) for r in new]
    after = planned([replace(r, file=r.file._replace(split="")) for r in old] + added, {**known, **before.splits})
    assert {sha: after.splits[sha] for sha in before.splits} == before.splits


@settings(deadline=None)
@given(rows_of_folders())
def test_one_content_is_never_on_both_sides(rows: list[CheckedFile]) -> None:
    split_of: dict[str, str] = {}
    for shard in planned(rows).shards:
        for kept in shard.rows:
            assert split_of.setdefault(kept.sha256, shard.split) == shard.split


def test_shards_are_even_and_sorted_by_content() -> None:
    rows = [row(f"a/{i}.jpg", f"{i * 7919 % 2503:064x}") for i in range(2503)]
    train = [
        shard
        for shard in make_plan(rows, IngestSettings(eval_fraction=0.001), images_per_shard=1000).shards
        if shard.split == "train"
    ]
    assert [shard.name for shard in train] == [f"data_tfrecord-{i:05d}-of-00003" for i in range(3)]
    sizes = [len(shard.rows) for shard in train]
    assert max(sizes) - min(sizes) <= 1
    contents = [kept.sha256 for shard in train for kept in shard.rows]
    assert contents == sorted(contents)


def test_large_files_make_more_shards() -> None:
    rows = [row(f"a/{i}.jpg", f"{i:064x}", size=40 << 20) for i in range(100)]
    assert all(
        sum(r.size for r in shard.rows) <= 560 << 20
        for shard in make_plan(rows, IngestSettings(eval_fraction=0.2)).shards
    )


def test_the_first_copy_by_path_is_kept_and_one_for_each_label() -> None:
    plan = make_plan(
        [row("b/2.jpg", "s"), row("a/2.jpg", "s"), row("a/1.jpg", "s"), row("a/3.jpg", "t")],
        IngestSettings(eval_fraction=0.5),
    )
    assert sorted(kept.path for shard in plan.shards for kept in shard.rows) == ["a/1.jpg", "a/3.jpg", "b/2.jpg"]
    assert [copy.path for copy in plan.duplicates] == ["a/2.jpg"]
    assert plan.conflicts == (("a/1.jpg", "b/2.jpg"),)


def test_bad_copies_are_quarantined_each() -> None:
    """A failed download that left the same error page 50 times is 50 bad files, not one and 49 duplicates."""
    page = Quarantined("not an image: starts with '<html>'")
    plan = make_plan([row(f"a/{i}.jpg", "s", page) for i in range(50)], IngestSettings(eval_fraction=0.5))
    assert (len(plan.quarantined), len(plan.duplicates)) == (50, 0)


def test_of_one_content_in_two_splits_the_copy_in_train_is_dropped_and_told() -> None:
    rows = in_splits(a="train train eval", b="train eval")
    rows += [row("a/copy.jpg", "a0", split=EVAL), row("b/other class.jpg", "a1", split=TEST)]
    plan = planned(rows)
    assert [r.path for r in plan.duplicates] == ["a/0.jpg", "a/1.jpg"]
    assert (plan.splits["a0"], plan.splits["a1"]) == (EVAL, TEST)
    assert plan.leaks == (("a/0.jpg", "a/copy.jpg"), ("a/1.jpg", "b/other class.jpg"))
    assert plan.conflicts == (("a/1.jpg", "b/other class.jpg"),)
    assert [(m.path, m.split) for m in plan.copies[0].members] == [("a/0.jpg", TRAIN), ("a/copy.jpg", EVAL)]
    summary = written_as_planned(plan)
    assert (summary.leaks, summary.leak_paths) == (2, [list(paths) for paths in plan.leaks])


def alike(*hashes: int, label: str = "a", split: str = "") -> list[CheckedFile]:
    return [row(f"{label}/{h:x}.jpg", f"{h:064x}", looks(h), split=split) for h in hashes]


OTHERS = [row(f"{'ab'[i % 2]}/other{i}.jpg", f"{i + 1000:064x}", looks(spread(i))) for i in range(40)]


def test_near_copies_land_in_one_split_also_under_two_labels() -> None:
    """Twenty pairs, half of them under two labels, none parted."""
    pairs = [row(f"a/one{i}.jpg", f"{spread(i):064x}", looks(spread(900 + i))) for i in range(20)]
    pairs += [row(f"{'ab'[i % 2]}/two{i}.jpg", f"{i:064x}", looks(spread(900 + i) ^ 5)) for i in range(20)]
    plan = planned(pairs + OTHERS)
    assert plan.near == tuple(sorted((f"a/one{i}.jpg", f"{'ab'[i % 2]}/two{i}.jpg") for i in range(20)))
    assert (plan.leaks, plan.conflicts, plan.warnings) == ((), (), ())
    assert {plan.splits[r.sha256] for r in pairs} == {TRAIN, EVAL}
    assert [[m.distance for m in group.members] for group in plan.copies] == [[0, 2]] * 20
    summary = written_as_planned(plan)
    assert (summary.near_copies, summary.near_groups, summary.leaks) == (40, 20, 0)


def test_near_copies_can_be_left_alone() -> None:
    rows = alike(7 << 8, 7 << 8 | 1) + OTHERS
    assert planned(rows).near
    assert make_plan(rows, IngestSettings(eval_fraction=0.3, near_duplicates=None)).near == ()
    assert make_plan(rows, IngestSettings(eval_fraction=0.3, near_duplicates=0)).near == ()


def test_flat_pictures_look_like_nothing() -> None:
    flat = [row(f"a/{i}.jpg", f"{i:064x}", looks(1 << 63, contrast=0.001)) for i in range(5)]
    assert planned(flat + OTHERS).near == ()


def test_near_copies_in_splits_of_the_layouts_are_told_and_not_moved() -> None:
    rows = alike(7 << 8, split=TRAIN) + alike(7 << 8 | 1, split=TEST) + OTHERS
    plan = planned(rows)
    assert [plan.splits[f"{h:064x}"] for h in (7 << 8, 7 << 8 | 1)] == [TRAIN, TEST]
    assert plan.leaks == plan.near == (("a/700.jpg", "a/701.jpg"),)


def test_old_images_that_turn_out_to_be_near_are_told_and_not_moved_and_new_ones_follow() -> None:
    one, two, new = (f"{7 << 8 | bits:064x}" for bits in (0, 1, 2))
    plan = planned(alike(7 << 8, 7 << 8 | 1, 7 << 8 | 2) + OTHERS, {two: EVAL, one: TRAIN})
    assert (plan.splits[one], plan.splits[two], plan.splits[new]) == (TRAIN, EVAL, EVAL)
    assert plan.leaks == (("a/700.jpg", "a/701.jpg", "a/702.jpg"),)


def test_groups_of_the_layouts_stay_in_one_split() -> None:
    rows = [row(f"{'ab'[i % 2]}/{i}.jpg", f"{i:064x}", group=f"patient {i // 8}") for i in range(400)]
    plan = planned(rows)
    sides = [{plan.splits[f"{i:064x}"] for i in range(first, first + 8)} for first in range(0, 400, 8)]
    assert all(len(side) == 1 for side in sides)
    assert {TRAIN, EVAL} == set.union(*sides)
    assert plan.leaks == ()


def test_exact_copies_in_two_groups_hold_both_groups_together() -> None:
    rows = [row(f"{'ab'[i % 2]}/{i}.jpg", f"{i:064x}", group=f"g{i // 2}") for i in range(200)]
    rows += [row(f"a/copy{i}.jpg", f"{i:064x}", group=f"g{i // 2 + 1}") for i in range(0, 200, 4)]
    plan = planned(rows)
    assert all(len({plan.splits[f"{i + j:064x}"] for j in range(4)}) == 1 for i in range(0, 200, 4))


def test_a_group_on_both_sides_by_the_layouts_own_splits_is_told() -> None:
    rows = [*FOUR, row("a/3.jpg", "5", split=TRAIN, group="g"), row("a/4.jpg", "6", split=EVAL, group="g")]
    assert planned(rows).leaks == (("a/3.jpg", "a/4.jpg"),)


def test_a_class_whose_images_all_look_alike_is_split_and_told() -> None:
    drawn = [row(f"a/{i}.jpg", f"{i:064x}", looks(7 << 8)) for i in range(30)]
    plan = planned(drawn + OTHERS)
    assert {plan.splits[r.sha256] for r in drawn} == {TRAIN, EVAL}
    assert plan.near == ()
    assert plan.warnings[0].startswith("30 images look so similar")
    assert written_as_planned(plan).warnings == list(plan.warnings)


def test_shards_of_test_are_even_too() -> None:
    rows = [row(f"a/{i}.jpg", f"{i:064x}", split=TEST) for i in range(23)]
    sizes = [len(shard.rows) for shard in planned([*rows, *FOUR]).shards if shard.split == TEST]
    assert sorted(sizes) == [4, 4, 5, 5, 5]


def test_rows_and_plans_cross_a_shuffle() -> None:
    plan = planned(alike(7 << 8, 7 << 8 | 1) + OTHERS)
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert len(pickle.dumps(OTHERS[0])) < 1000


# Images in which there is nothing to see


def test_images_of_one_colour_and_of_few_levels_are_counted_and_the_first_is_named() -> None:
    flat, few = replace(looks(1), contrast=0.0), replace(looks(1), few_levels=True)
    rows = [
        row(f"{label}/{number}.png", f"{label}{number}", looks(spread(number))) for label in "ab" for number in (3, 4)
    ]
    rows += [row(f"a/flat{number}.png", f"flat{number}", flat) for number in (2, 1)]
    rows += [row("b/few.png", "few", few), row("b/both.png", "both", replace(flat, few_levels=True))]
    one_colour, few_levels = planned(rows).warnings
    assert one_colour.startswith("3 of 8 images show one colour and nothing else, such as a/flat1.png: ")
    assert few_levels.startswith(
        "1 of 8 images have 16 bits a sample and use less than a quarter of their range, such "
    )
    assert "as b/few.png: " in few_levels
    assert planned(rows[:4]).warnings == ()
