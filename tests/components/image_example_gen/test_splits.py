"""Tests of the splits: they follow from the content, and added images move no old image."""

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftline.components.image_example_gen.splits import Unit, assign, split_of
from graftline.features import EVAL, TEST, TRAIN

fractions = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**31)
digests = st.integers(0, 2**64).map(lambda n: hashlib.sha256(str(n).encode()).hexdigest())


def digests_of(count: int) -> list[str]:
    return [hashlib.sha256(str(n).encode()).hexdigest() for n in range(count)]


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_fraction_is_met_over_many_images(fraction: float, seed: int) -> None:
    share = Counter(split_of(sha, fraction, seed) for sha in digests_of(10_000))[EVAL] / 10_000
    assert share == pytest.approx(fraction, abs=4 * (fraction * (1 - fraction) / 10_000) ** 0.5)  # 4 sigma


def test_another_seed_is_another_split() -> None:
    shas = digests_of(1_000)
    moved = sum(split_of(sha, 0.5, 0) != split_of(sha, 0.5, 1) for sha in shas)
    assert 400 < moved < 600


def test_a_larger_fraction_only_adds_to_eval() -> None:
    small, large = ({s for s in digests_of(1_000) if split_of(s, f, 0) == EVAL} for f in (0.1, 0.3))
    assert small < large


@given(st.dictionaries(digests, st.sets(st.sampled_from("abc"), min_size=1), min_size=1, max_size=60), fractions, seeds)
def test_a_class_has_both_sides_where_its_own_images_allow(
    labels_of: dict[str, set[str]], fraction: float, seed: int
) -> None:
    splits = assign(labels_of, fraction, seed)
    assert splits.keys() == labels_of.keys()
    for label in "abc":
        own = [sha for sha, labels in labels_of.items() if labels == {label}]
        sides = {splits[sha] for sha in own}
        if len(own) >= 2:
            shared = {splits[sha] for sha, labels in labels_of.items() if label in labels}
            assert shared == {TRAIN, EVAL}
        elif len(own) == 1 and not any(label in labels for labels in labels_of.values() if len(labels) > 1):
            assert sides == {TRAIN}


@given(
    st.lists(digests, min_size=2, max_size=80, unique=True),
    st.lists(digests, max_size=40, unique=True),
    fractions,
    seeds,
)
def test_an_old_image_never_moves_when_images_are_added(
    old: list[str], new: list[str], fraction: float, seed: int
) -> None:
    # The documented exception: a class that hashing leaves without one side.
    if len({split_of(sha, fraction, seed) for sha in old}) < 2:
        return
    before = assign({sha: {"a"} for sha in old}, fraction, seed)
    after = assign({sha: {"a"} for sha in [*old, *new]} | {sha + "b": {"b"} for sha in new}, fraction, seed)
    assert {sha: after[sha] for sha in old} == before


@given(st.dictionaries(digests, st.sets(st.sampled_from("abc"), min_size=1), max_size=30), fractions, seeds)
def test_the_order_of_images_does_not_matter(labels_of: dict[str, set[str]], fraction: float, seed: int) -> None:
    backwards = dict(reversed(labels_of.items()))
    assert assign(labels_of, fraction, seed) == assign(backwards, fraction, seed)


def test_two_classes_that_are_copies_of_one_another_still_have_both_sides() -> None:
    splits = assign({sha: {"a", "b"} for sha in digests_of(2)}, 0.001, 0)
    assert sorted(splits.values()) == [EVAL, TRAIN]


def pairs_of(shas: list[str]) -> list[Unit]:
    """Two and two as near copies: units of single images."""
    return [((one,), (other,)) for one, other in zip(shas[::2], shas[1::2], strict=False)]


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
def test_the_fraction_is_met_within_a_hundredth_also_with_near_copies_and_tiny_classes(fraction: float) -> None:
    shas = digests_of(10_000)
    labels_of = {sha: {f"tiny {i // 2}" if i < 100 else f"class {i % 10}"} for i, sha in enumerate(shas)}
    splits = assign(labels_of, fraction, 0, units=pairs_of(shas[2_000:4_000]))
    assert Counter(splits.values())[EVAL] / 10_000 == pytest.approx(fraction, abs=0.01)


@st.composite
def images(draw: st.DrawFn) -> tuple[dict[str, set[str]], list[Unit]]:
    """Images of few classes, some in units of bundles."""
    shas = draw(st.lists(digests, min_size=1, max_size=40, unique=True))
    labels_of = {sha: draw(st.sets(st.sampled_from("abc"), min_size=1, max_size=2)) for sha in shas}
    units, rest = [], list(shas)
    while rest and draw(st.booleans()):
        sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
        unit = [[rest.pop() for _ in range(size) if rest] for size in sizes]
        units.append([bundle for bundle in unit if bundle])
    return labels_of, [unit for unit in units if unit]


@given(images(), fractions, seeds)
def test_a_bundle_is_never_parted_and_a_unit_only_for_a_class_that_has_nothing_else(
    drawn: tuple[dict[str, set[str]], list[Unit]], fraction: float, seed: int
) -> None:
    labels_of, units = drawn
    splits = assign(labels_of, fraction, seed, units)
    assert splits.keys() == labels_of.keys()
    assert all(len({splits[sha] for sha in bundle}) == 1 for unit in units for bundle in unit)
    for unit in units:
        if len({splits[sha] for bundle in unit for sha in bundle}) > 1:
            inside = {sha for bundle in unit for sha in bundle}
            classes = {label for sha in inside for label in labels_of[sha]}
            sides = [
                {splits[sha] for sha, labels in labels_of.items() if label in labels and sha not in inside}
                for label in classes
            ]
            assert any(side != {TRAIN, EVAL} for side in sides)


@given(images(), images(), fractions, seeds)
def test_what_was_assigned_once_never_moves_whatever_is_added(
    old: tuple[dict[str, set[str]], list[Unit]],
    new: tuple[dict[str, set[str]], list[Unit]],
    fraction: float,
    seed: int,
) -> None:
    before = assign(old[0], fraction, seed, old[1])
    added = {sha: labels for sha, labels in new[0].items() if sha not in old[0]}
    # Near copies may turn out to tie old ones on both sides.
    tied: list[Unit] = [[[sha] for sha in [*list(old[0])[:5], *added]]]
    after = assign(old[0] | added, fraction, seed, tied, fixed=before)
    assert {sha: after[sha] for sha in before} == before
    assert assign(old[0] | added, fraction, seed, tied, fixed=after) == after


def test_a_new_near_copy_follows_the_earliest_old_one() -> None:
    one, two, new = digests_of(3)
    labels_of = {sha: {"a"} for sha in digests_of(20)}
    for settled in ({one: EVAL, two: TRAIN}, {two: TRAIN, one: EVAL}, {one: TEST, two: TRAIN}):
        splits = assign(labels_of, 0.5, 0, [((two,), (new,), (one,))], settled)
        assert {one: splits[one], two: splits[two]} == settled
        assert splits[new] == next(iter(settled.values()))


def test_a_bundle_follows_its_own_before_its_near_copies() -> None:
    mine, other, new = digests_of(3)
    labels_of = {sha: {"a"} for sha in digests_of(20)}
    splits = assign(labels_of, 0.5, 0, [((other,), (mine, new))], {other: TRAIN, mine: EVAL})
    assert splits[new] == EVAL


def test_a_unit_is_in_eval_no_more_often_than_an_image() -> None:
    shas = digests_of(12_000)
    units = [tuple((sha,) for sha in shas[i : i + 6]) for i in range(0, len(shas), 6)]
    splits = assign({sha: {"a"} for sha in shas}, 0.2, 0, units)
    assert Counter(splits.values())[EVAL] / len(shas) == pytest.approx(0.2, abs=0.03)


def test_a_class_of_one_unit_gets_its_other_side_by_parting_it_but_a_group_is_not_parted() -> None:
    shas = digests_of(4)
    labels_of = {sha: {"a"} for sha in shas}
    assert Counter(assign(labels_of, 0.001, 0, [[[sha] for sha in shas]]).values()) == {TRAIN: 3, EVAL: 1}
    assert Counter(assign(labels_of, 0.001, 0, [[shas]]).values()) == {TRAIN: 4}


@pytest.mark.parametrize("lone", range(6))
def test_a_single_image_is_moved_rather_than_a_unit(lone: int) -> None:
    shas = digests_of(6)
    others = [sha for i, sha in enumerate(shas) if i != lone]
    units: list[Unit] = [[[sha] for sha in others[:3]], [[sha] for sha in others[3:]]]
    splits = assign({sha: {"a"} for sha in shas}, 0.001, 0, units)
    assert [sha for sha, split in splits.items() if split == EVAL] == [shas[lone]]


def test_a_unit_is_where_its_smallest_content_hash_is() -> None:
    shas = digests_of(300)
    units: list[Unit] = [[[sha] for sha in shas[i : i + 3]] for i in range(0, 300, 3)]
    splits = assign({sha: {"a"} for sha in shas}, 0.4, 0, units)
    for i in range(0, 300, 3):
        assert {splits[sha] for sha in shas[i : i + 3]} == {split_of(min(shas[i : i + 3]), 0.4, 0)}


def test_images_that_are_gone_are_ignored() -> None:
    here, gone = digests_of(2)
    assert assign({here: {"a"}}, 0.001, 0, fixed={gone: EVAL}) == {here: TRAIN}
