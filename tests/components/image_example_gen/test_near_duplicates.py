"""Tests of near copies: the search is exact, and too large groups are not accepted."""

import pathlib
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from sklearn.datasets import load_digits

from graftline.components.image_example_gen.decoding import Decoded, decode
from graftline.components.image_example_gen.near_duplicates import bits_between, connect, groups, join, members
from tests.assets import EUROSAT, FLOWERS, needs_assets
from tests.images import encode

FULL = (1 << 64) - 1


@st.composite
def hashes_in_clusters(draw: st.DrawFn) -> list[int]:
    """A few centres, and hashes some flipped bits away from them, so that chains and ties abound."""
    centres = draw(st.lists(st.integers(0, FULL), min_size=1, max_size=4))
    flips = st.lists(st.integers(0, 63), max_size=12)
    members = draw(st.lists(st.tuples(st.sampled_from(centres), flips), max_size=40))
    return [centre ^ sum(1 << bit for bit in set(bits)) for centre, bits in members]


def by_brute_force(hashes: list[int], distance: int) -> list[list[int]]:
    component = list(range(len(hashes)))
    for i, j in combinations(range(len(hashes)), 2):
        if bin(hashes[i] ^ hashes[j]).count("1") <= distance:
            component = [component[i] if number == component[j] else number for number in component]
    found = [[i for i, number in enumerate(component) if number == first] for first in dict.fromkeys(component)]
    return sorted(group for group in found if len(group) > 1)


@settings(deadline=None)
@given(hashes_in_clusters(), st.integers(0, 8))
def test_groups_are_those_of_comparing_all_with_all(hashes: list[int], distance: int) -> None:
    assert [group.tolist() for group in groups(hashes, distance)] == by_brute_force(hashes, distance)


@pytest.mark.parametrize("distance", range(9))
def test_no_pair_is_missed_wherever_its_bits_differ(distance: int) -> None:
    random = np.random.default_rng(distance)
    pairs = []
    for _ in range(200):
        one = int(random.integers(0, 1 << 63))
        pairs += [one, one ^ sum(1 << int(bit) for bit in random.choice(64, distance, replace=False))]
    assert [group.tolist() for group in groups(pairs, distance)] == [[i, i + 1] for i in range(0, 400, 2)]


def test_thousands_of_equal_hashes_are_one_group() -> None:
    assert [len(group) for group in groups([7] * 50_000 + [FULL], 8)] == [50_000]


def test_more_near_pairs_than_wait_at_once_are_all_merged() -> None:
    """2,016 hashes of two set bits: each two are at most four bits apart, two million pairs."""
    hashes = [1 << i | 1 << j for i, j in combinations(range(64), 2)]
    assert [len(group) for group in groups(hashes, 4)] == [2016]


def test_nothing_comes_of_nothing() -> None:
    assert groups([], 3) == groups([1], 3) == []
    assert members(connect(np.arange(0), [])) == []


def joined(hashes: list[int], labels: list[str], distance: int = 3, tied: list[int] | None = None) -> list[list[int]]:
    numbers = np.array(range(len(hashes)) if tied is None else tied)
    near, _ = join(np.array(hashes, np.uint64), numbers, [{label} for label in labels], distance)
    return [group.tolist() for group in near]


def chain(length: int, step: int) -> list[int]:
    """Hashes of which each is `step` bits from the one before, all others farther."""
    return [(1 << 63) | ((1 << (step * i)) - 1) for i in range(length)]


def far(count: int) -> list[int]:
    return [int(n) for n in np.random.default_rng(1).integers(1 << 63, 1 << 64, count, np.uint64)]


def test_copies_within_reason_are_joined() -> None:
    assert joined(chain(5, 2) + far(10), ["a"] * 15) == [[0, 1, 2, 3, 4]]
    assert joined([3, 3, *far(8)], ["a", "b"] * 5) == [[0, 1]]


def test_a_hash_of_zero_is_none() -> None:
    assert joined([0, 0, 1, *far(7)], ["a"] * 10) == []


def test_a_chain_through_most_of_a_class_is_not_believed() -> None:
    assert joined(chain(8, 2) + far(4), ["a"] * 8 + ["b"] * 4) == []
    assert joined(chain(8, 2) + far(4), ["a"] * 12) == []
    assert joined(chain(8, 2) + far(9), ["a"] * 17) == [list(range(8))]


def test_of_a_chain_that_is_too_long_the_nearest_stay_together() -> None:
    hashes = chain(8, 2)
    hashes[5] ^= 1 << 62  # now 3 bits from its neighbours on both sides
    assert joined(hashes + far(2), ["a"] * 10) == [[0, 1, 2, 3, 4], [6, 7]]


def test_more_than_fifty_are_too_many_but_for_large_sets() -> None:
    few, many = far(300), far(6000)
    assert joined([9] * 51 + few, ["a"] * 351) == []
    assert joined([9] * 50 + few, ["a"] * 350) == [list(range(50))]
    assert joined([9] * 51 + many, ["a"] * 6051) == [list(range(51))]


def test_what_belongs_together_anyway_is_no_chain() -> None:
    """A group of the user's own may be as large as it likes, and a near copy of one in it joins."""
    hashes = [5] * 10 + far(4)
    assert joined(hashes, ["a"] * 14, tied=[0] * 9 + list(range(1, 6))) == [list(range(10))]
    assert joined(hashes, ["a"] * 14) == []


def test_groups_of_the_users_are_not_chained_either() -> None:
    """Patients whose pictures look alike: near copies would tie all of them to one split."""
    patients = 10
    hashes = [h for h in far(patients - 1) for _ in range(2)]  # a picture of one looks like one of the next
    hashes = [far(40)[-1], *hashes, far(41)[-1]]
    tied = [number for number in range(patients) for _ in range(2)]
    assert joined(hashes, ["a"] * 20, tied=tied) == []
    assert len(joined(hashes, ["a"] * 20)) == 9


def phashes(pictures: list[Image.Image], image_format: str = "PNG") -> list[int]:
    found = []
    for picture in pictures:
        verdict = decode(encode(picture, image_format))
        assert isinstance(verdict, Decoded)
        found.append(verdict.phash)
    return found


@needs_assets
@pytest.mark.parametrize(("folder", "most"), [(FLOWERS, 2), (EUROSAT, 0)])
def test_real_photos_and_satellite_tiles_are_not_taken_for_copies(folder: pathlib.Path, most: int) -> None:
    hashes = phashes([Image.open(path) for path in sorted(folder.rglob("*.jp*g"))], "BMP")
    assert len(hashes) >= 600
    assert sum(map(len, groups(hashes, 8))) <= most  # two of the flowers are the same photo, cut a little differently


@needs_assets
def test_real_photos_saved_anew_smaller_or_brighter_are_found() -> None:
    photos = [Image.open(path).convert("RGB") for path in sorted(FLOWERS.rglob("*.jpg"))[::10]]
    halves = [photo.resize((photo.width // 2, photo.height // 2), Image.Resampling.LANCZOS) for photo in photos]
    brighter = [ImageEnhance.Brightness(photo).enhance(1.1) for photo in photos]
    found = groups([*phashes(photos), *phashes(halves, "JPEG"), *phashes(brighter, "JPEG")], 3)
    count = len(photos)
    together = sum(group.tolist() == [group[0], group[0] + count, group[0] + 2 * count] for group in found)
    assert together >= 0.95 * count


def test_scans_of_one_digit_are_alike_but_hardly_copies() -> None:
    digits = load_digits()
    hashes = phashes([Image.fromarray(np.round(scan * (255 / 16)).astype(np.uint8)) for scan in digits.images])
    labels = [str(digit) for digit in digits.target]
    assert sum(map(len, joined(hashes, labels, 3))) < 0.02 * len(labels)
    for distance in (6, 8):  # where chains of a hundred and more come up
        near = joined(hashes, labels, distance)
        assert max(map(len, near)) <= 50 < max(map(len, groups(hashes, distance)))


def test_bits_are_counted_over_all_64() -> None:
    one = np.array([0, FULL, 1 << 63, 5], np.uint64)
    assert bits_between(one, np.array([FULL, FULL, 1, 6], np.uint64)).tolist() == [64, 0, 2, 2]
