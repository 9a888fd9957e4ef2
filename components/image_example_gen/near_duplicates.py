"""Which images are near copies of one another: the same picture saved again, resized, a little brighter.

Two images are near when their 64-bit perceptual hashes differ in at most a few bits; near copies of near copies belong
together. The hash is imagehash's `phash`: the signs of the 64 lowest frequencies of a 32 x 32 luma picture against
their median, so nearly always 32 bits are set and distances are even: 3 finds what 2 finds. Numbers only, no images.
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
    """Images that are linked by hashes which differ in at most `distance` bits. Exact.

    The pigeonhole principle finds candidates (Norouzi et al., "Fast Search in Hamming Space with Multi-Index Hashing",
    2012): of `distance` + k bands of bits at least k are equal in two near hashes, so only hashes with k equal bands
    are compared. For 100,000 spread hashes that is some of 1,000 of all pairs. Memory grows with the number of hashes
    alone, whatever number of pairs is near.

    Args:
        hashes: unsigned 64-bit numbers [n].
        distance: 0 .. 8.

    Returns:
        int64 index arrays of two or more, each ascending, ordered by their first index.
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
    """Groups of near copies that are to stay together, each small enough to be believed.

    Copies of one picture are few. Where links chain on and on, as among scans of one digit or drawings of one shape,
    images are alike without being copies, and a split would lose a class to one side. So whatever links bring together
    may hold, beside what belongs together anyway, at most 50 images or a hundredth of all, whichever is more, and half
    of any class. A larger group falls apart into those of the next smaller distance, at last of equal hashes; what is
    too large even then is no group.

    Args:
        hashes: uint64 [n]; 0 is none and links nothing: such is the hash of a flat picture, which says nothing.
        tied: int64 [n], a number for each image, the same for images that belong together anyway.
        labels: the classes of each image [n].
        distance: bits, at most.

    Returns:
        The groups as ascending index arrays, ordered by first index; how many images were in groups too large.
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
    """Merge components: the new number of each, int64 [n], from the old ones and pairs of indices that are linked."""
    pairs = list(pairs)
    if not pairs:
        return component
    first, second = (component[np.concatenate(side)] for side in zip(*pairs, strict=True))
    count = len(component)
    graph = coo_matrix((np.ones(len(first), np.int8), (first, second)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)[component]


def members(component: np.ndarray) -> list[np.ndarray]:
    """The indices of each component of two or more, ascending, ordered by their first."""
    shared = np.flatnonzero(np.bincount(component)[component] > 1) if len(component) else component
    order = shared[np.argsort(component[shared], kind="stable")]
    found = np.split(order, np.flatnonzero(np.diff(component[order])) + 1) if len(order) else []
    return sorted(found, key=lambda group: int(group[0]))


def star(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs that link all of a group with its first."""
    return np.full(len(group) - 1, group[0]), group[1:]


def bits_between(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How many bits differ, int64, of uint64 arrays of one shape [n]."""
    return _BITS_SET[(hashes ^ others).view(np.uint16)].reshape(-1, 4).sum(axis=1, dtype=np.int64)


def _close_pairs(hashes: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every pair of distinct hashes within `distance`, some of them several times, a few at a time."""
    for mask in _masks(distance):
        masked = hashes & mask
        order = np.argsort(masked)
        masked = masked[order]
        # Sorted, each hash is compared with the next, the next but one, ..., as long as there is one in its bucket.
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
    """Masks of which one at least leaves near hashes equal, with so many bits that 100,000 fall into small buckets."""
    equal = 1 if distance <= 3 else 2
    # Neighbouring bits of a phash are neighbouring frequencies and go together: scattered ones fill buckets evenly.
    scattered = np.random.default_rng(0).permutation(_BITS)
    bands = [sum(1 << int(bit) for bit in band) for band in np.array_split(scattered, distance + equal)]
    for chosen in combinations(bands, equal):
        yield np.uint64(sum(chosen))


def _linked(
    hashes: np.ndarray, tied: np.ndarray, indices: np.ndarray, distance: int
) -> tuple[list[np.ndarray], list[tuple[np.ndarray, list[int]]]]:
    """Groups among `indices`, and each unit that they make with what is tied, with the numbers of its groups."""
    telling = indices[hashes[indices] != 0]
    found = [telling[group] for group in groups(hashes[telling], distance)]
    own = np.unique(tied[indices], return_inverse=True)[1]
    unit_of = connect(own, [star(np.searchsorted(indices, group)) for group in found])
    inside: dict[int, list[int]] = defaultdict(list)
    for number, group in enumerate(found):
        inside[int(unit_of[np.searchsorted(indices, group[0])])].append(number)
    units = [(indices[unit], inside.get(int(unit_of[unit[0]]), [])) for unit in members(unit_of)]
    return found, [(unit, numbers) for unit, numbers in units if numbers]


def _is_too_large(unit: np.ndarray, tied: np.ndarray, labels: Sequence[Collection[str]], sizes: Counter[str]) -> bool:
    numbers = np.unique(tied[unit], return_inverse=True)[1]
    added = unit[numbers != np.bincount(numbers).argmax()]  # a large group of the user's own is no chain
    if len(added) >= max(_LARGE, _LARGE_SHARE * len(tied)):
        return True
    counts = Counter(label for index in added for label in labels[index])
    return any(count > _CLASS_SHARE * sizes[label] for label, count in counts.items())
