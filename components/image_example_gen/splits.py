"""Which split an image belongs to, from its content alone: a copy never sits on both sides, and adding never moves.

An image's place is a number in [0, 1) made of the seed and the hash of its bytes; below `eval_fraction` it evaluates.
Neither its name nor its neighbours matter, with three exceptions:
- what must stay together (near copies, groups of the layout) has one place, that of its smallest content hash;
- a split that is fixed, because the layout gives it or an earlier run chose it, is kept, and what must stay with such
  an image follows it;
- the tiny-class rule of `assign`: a class that hashing leaves without an image on one side gets one moved there.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain

from graftline.features import EVAL, TRAIN

Bundle = Sequence[str]  # sha256s that move together
Unit = Sequence[Bundle]  # bundles that are near one another: parted only where a class would be missing from a split

_RESOLUTION = 1 << 64


def place_of(sha256_hex: str, split_seed: int) -> int:
    """The image's place, uniform in 0 .. 2**64-1: the first 8 bytes of sha256("<seed>:<hex digest of its bytes>")."""
    return int.from_bytes(hashlib.sha256(f"{split_seed}:{sha256_hex}".encode()).digest()[:8], "big")


def split_of(sha256_hex: str, eval_fraction: float, split_seed: int) -> str:
    """ "train" or "eval", by content hash alone."""
    return EVAL if place_of(sha256_hex, split_seed) < eval_fraction * _RESOLUTION else TRAIN


def assign(
    labels_of: Mapping[str, Collection[str]],
    eval_fraction: float,
    split_seed: int,
    units: Sequence[Unit] = (),
    fixed: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Split every distinct image, so that each class has both sides where it can.

    Args:
        labels_of: the labels under which each distinct image (sha256 in hex) was found; more than one is a conflict.
        eval_fraction: share of the images to evaluate on, 0 < eval_fraction < 1.
        split_seed: salts the hash: another seed is another split.
        units: what is to stay together, each image in one at most. A unit is made of bundles, which are never parted.
        fixed: splits ("train", "eval", "test") that are settled, the earliest first; they are never changed, so a
            bundle with settled images in two splits stays in both. Images that are not in `labels_of` are ignored.

    Returns:
        The split of each sha256, in the order of `labels_of`. Without the tiny-class rule: as fixed; else with the
        earliest fixed image of its bundle, or of its unit; else by `split_of` of the unit's smallest sha256. The rule:
        a class without an image in train gets its unit with the highest place, and one of two or more images without
        one in eval its lowest; small units before large ones. A unit with fixed images stays, and one with other
        classes in it moves only when no other can, and never empties another class's side. Where no whole unit can
        move, a single bundle of one does.
    """
    fixed = {sha: split for sha, split in fixed.items() if sha in labels_of} if fixed else {}
    splits = {sha: fixed.get(sha) or split_of(sha, eval_fraction, split_seed) for sha in labels_of}
    whole: dict[str, Bundle] = {}  # what each image moves with
    part: dict[str, Bundle] = {}
    rank = {sha: number for number, sha in enumerate(fixed)} if units else {}
    for unit in units:
        together: Bundle = tuple(chain.from_iterable(unit))
        leader = _earliest(together, rank) or min(together)
        for bundle in unit:
            own_leader = _earliest(bundle, rank) or leader
            split = fixed.get(own_leader) or split_of(own_leader, eval_fraction, split_seed)
            for sha in bundle:
                whole[sha], part[sha], splits[sha] = together, bundle, fixed.get(sha, split)
    shas_of: dict[str, list[str]] = defaultdict(list)
    for sha, labels in labels_of.items():
        for label in labels:
            shas_of[label].append(sha)
    sizes = Counter((label, splits[sha]) for label, shas in shas_of.items() for sha in shas)
    for label in sorted(shas_of):
        for wanted in _missing(label, sizes):
            for bundles_of in (whole, part):
                bundles = {tuple(bundles_of.get(sha, (sha,))) for sha in shas_of[label]}
                free = [bundle for bundle in bundles if fixed.keys().isdisjoint(bundle)]
                if _move_one(_fittest(free, wanted, labels_of, split_seed), wanted, splits, sizes, labels_of):
                    break
    return splits


def _earliest(bundle: Bundle, rank: Mapping[str, int]) -> str:
    return min((sha for sha in bundle if sha in rank), key=rank.__getitem__, default="")


def _missing(label: str, sizes: Counter[tuple[str, str]]) -> list[str]:
    if not sizes[label, TRAIN]:
        return [TRAIN]
    return [EVAL] if not sizes[label, EVAL] and sizes[label, TRAIN] > 1 else []


def _fittest(
    bundles: Iterable[Bundle], wanted: str, labels_of: Mapping[str, Collection[str]], split_seed: int
) -> list[Bundle]:
    """The bundles, the fittest to move first: of one label, then small, then nearest to the border, then by name."""
    sign = 1 if wanted == EVAL else -1

    def fitness(bundle: Bundle) -> tuple[bool, int, int, str]:
        labels = {label for sha in bundle for label in labels_of[sha]}
        first = min(bundle)
        return len(labels) > 1, len(bundle), sign * place_of(first, split_seed), first

    return sorted(bundles, key=fitness)


def _move_one(
    candidates: Iterable[Bundle],
    wanted: str,
    splits: dict[str, str],
    sizes: Counter[tuple[str, str]],
    labels_of: Mapping[str, Collection[str]],
) -> bool:
    """Move the first of `candidates` that may; whether there was one."""
    for bundle in candidates:
        left = splits[bundle[0]]
        if any(splits[sha] != left for sha in bundle):  # parted for another class
            continue
        counts = Counter(label for sha in bundle for label in labels_of[sha])
        # Only a class's sole image may leave its side empty, and only for train.
        if all(
            sizes[label, left] > count or (count == 1 and wanted == TRAIN and not sizes[label, TRAIN])
            for label, count in counts.items()
        ):
            for sha in bundle:
                splits[sha] = wanted
            for label, count in counts.items():
                sizes[label, left] -= count
                sizes[label, wanted] += count
            return True
    return False
