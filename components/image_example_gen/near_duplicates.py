"""Groups of near copies: the same picture saved again, resized or made a little brighter.

Two images are near if their 64-bit perceptual hashes differ in at most a few bits. Near copies of near copies belong to
the same group. The hash is imagehash's `phash`: for each of the 64 lowest frequencies of a 32 x 32 luma picture,
whether it is above their median. So nearly always 32 bits are set and distances are even: 3 finds the same as 2.
This module works on numbers, not on images.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

_BITS = 64
_BITS_SET = np.array([bin(number).count("1") for number in range(1 << 16)], np.uint8)
_MERGE_AT = 1 << 20  # pairs that wait to be merged: 16 MB
_LARGE = 50
_LARGE_SHARE = 0.01
_CLASS_SHARE = 0.5


def groups(hashes: Sequence[int] | np.ndarray, distance: int) -> list[np.ndarray]:
    """Return the groups of images that hashes link which differ in at most `distance` bits. The search is exact.

    The pigeonhole principle finds candidates (Norouzi et al., "Fast Search in Hamming Space with Multi-Index Hashing",
    2012): of `distance` + k bands of bits at least k are equal in two near hashes, so only hashes with k equal bands
    are compared. For 100,000 random hashes this is about one pair in 1,000. Memory grows with the number of hashes, not
    with the number of near pairs.
    The hashes are unsigned 64-bit numbers [n], and the distance is 0 .. 8. Each group is an ascending int64 array of
    two or more indices; the groups are ordered by their first index.
    """
    distinct, which = np.unique(np.asarray(hashes, np.uint64), return_inverse=True)
    component = np.arange(len(distinct))
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    count = 0
    for pair in _close_pairs(distinct, distance):
        waiting.append(pair)
        count += len(pair[0])
        if count >= _MERGE_AT:
            component, waiting, count = connect(component, waiting), [], 0
    return members(connect(component, waiting)[which])


def join(
    hashes: np.ndarray, tied: np.ndarray, labels: Sequence[Collection[str]], distance: int
) -> tuple[list[np.ndarray], int]:
    """Return the groups of near copies that stay together, each small enough to be plausible.

    Copies of one picture are few. Among scans of one digit or drawings of one shape, links form long chains: the images
    are similar without being copies, and the split would put a whole class on one side. So a group may add to the
    images that are tied anyway at most 50 images or a hundredth of all, whichever is more, and at most half of any
    class. A larger group is divided by the next smaller distance, down to equal hashes; if it is still too large, it is
    not a group.

    Args:
        hashes: uint64 [n]; 0 stands for no hash and links nothing, because a flat picture's hash is not meaningful.
        tied: int64 [n], a number for each image; images that belong together anyway have the same number.
        labels: the classes of each image [n].
        distance: largest number of different bits.

    Returns:
        The groups as ascending index arrays, ordered by first index; and the number of images in too large groups.
    """
    sizes = Counter(label for own in labels for label in own)
    near: list[np.ndarray] = []
    chained = 0
    suspects = [np.arange(len(hashes))]
    for allowed in range(distance, -1, -1):
        suspects, checked = [], suspects
        for indices in checked:
            found, units = _linked(hashes, tied, indices, allowed)
            for unit, inside in units:
                if _is_too_large(unit, tied, labels, sizes):
                    suspects.append(unit)
                else:
                    near += [found[number] for number in inside]
        if allowed == distance:
            chained = sum(map(len, suspects))
    return sorted(near, key=lambda group: int(group[0])), chained


def connect(component: np.ndarray, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return new component numbers, int64 [n], after merging the components of linked pairs of indices."""
    pairs = list(pairs)
    if not pairs:
        return component
    first, second = (component[np.concatenate(side)] for side in zip(*pairs, strict=True))
    count = len(component)
    graph = coo_matrix((np.ones(len(first), np.int8), (first, second)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)[component]


def members(component: np.ndarray) -> list[np.ndarray]:
    """Return the indices of each component of two or more, ascending, ordered by their first index."""
    shared = np.flatnonzero(np.bincount(component)[component] > 1) if len(component) else component
    order = shared[np.argsort(component[shared], kind="stable")]
    found = np.split(order, np.flatnonzero(np.diff(component[order])) + 1) if len(order) else []
    return sorted(found, key=lambda group: int(group[0]))


def star(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs that link the first index of a group with all others."""
    return np.full(len(group) - 1, group[0]), group[1:]


def bits_between(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the number of different bits, int64 [n], of two uint64 arrays [n]."""
    return _BITS_SET[(hashes ^ others).view(np.uint16)].reshape(-1, 4).sum(axis=1, dtype=np.int64)


def _close_pairs(hashes: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of all pairs of distinct hashes within `distance`; a pair may come several times."""
    for mask in _masks(distance):
        masked = hashes & mask
        order = np.argsort(masked)
        masked = masked[order]
        # Each sorted hash is compared with those after it, as long as they are in the same bucket.
        position, step = np.arange(len(hashes)), 0
        while len(position):
            step += 1
            position = position[: np.searchsorted(position, len(hashes) - step)]
            position = position[masked[position] == masked[position + step]]
            first, second = order[position], order[position + step]
            near = bits_between(hashes[first], hashes[second]) <= distance
            if near.any():
                yield first[near], second[near]


def _masks(distance: int) -> Iterator[np.uint64]:
    """Yield bit masks. Two near hashes are equal under at least one mask; 100,000 hashes fall into small buckets."""
    equal = 1 if distance <= 3 else 2
    # Neighbouring bits of a phash are neighbouring frequencies and correlate: scattered bits fill buckets evenly.
    scattered = np.random.default_rng(0).permutation(_BITS)
    bands = [sum(1 << int(bit) for bit in band) for band in np.array_split(scattered, distance + equal)]
    for chosen in combinations(bands, equal):
        yield np.uint64(sum(chosen))


def _linked(
    hashes: np.ndarray, tied: np.ndarray, indices: np.ndarray, distance: int
) -> tuple[list[np.ndarray], list[tuple[np.ndarray, list[int]]]]:
    """Return the groups among `indices`, and the units of groups and tied images, each with its groups' numbers."""
    hashed = indices[hashes[indices] != 0]
    found = [hashed[group] for group in groups(hashes[hashed], distance)]
    own = np.unique(tied[indices], return_inverse=True)[1]
    unit_of = connect(own, [star(np.searchsorted(indices, group)) for group in found])
    inside: dict[int, list[int]] = defaultdict(list)
    for number, group in enumerate(found):
        inside[int(unit_of[np.searchsorted(indices, group[0])])].append(number)
    units = [(indices[unit], inside.get(int(unit_of[unit[0]]), [])) for unit in members(unit_of)]
    return found, [(unit, numbers) for unit, numbers in units if numbers]


def _is_too_large(unit: np.ndarray, tied: np.ndarray, labels: Sequence[Collection[str]], sizes: Counter[str]) -> bool:
    numbers = np.unique(tied[unit], return_inverse=True)[1]
    added = unit[numbers != np.bincount(numbers).argmax()]  # a large group from the layout is not a chain
    if len(added) >= max(_LARGE, _LARGE_SHARE * len(tied)):
        return True
    counts = Counter(label for index in added for label in labels[index])
    return any(count > _CLASS_SHARE * sizes[label] for label, count in counts.items())
