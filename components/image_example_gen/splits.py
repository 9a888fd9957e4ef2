"""The split of an image by its content: copies are never on both sides, and added images never move old ones.

An image's place is a number in [0, 1) from the seed and the hash of its bytes. Images below `eval_fraction` are in the
eval split. Neither the name of an image nor its neighbours matter, with three exceptions:
- images that must stay together (near copies, groups of the layout) have one place, that of the smallest content hash;
- a fixed split, which the layout gives or an earlier run chose, is kept, and images that must stay with a fixed image
  follow it;
- the tiny-class rule of `assign`: if hashing leaves a class without an image on one side, one image is moved there.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain

from graftline.features import EVAL, TRAIN

Bundle = Sequence[str]  # sha256s that move together
Unit = Sequence[Bundle]  # bundles that are near one another: parted only if a class would be missing from a split

_RESOLUTION = 1 << 64


def place_of(sha256_hex: str, split_seed: int) -> int:
    """Return an image's place in 0 .. 2**64-1: the first 8 bytes of sha256("<seed>:<hex digest of its bytes>")."""
    return int.from_bytes(hashlib.sha256(f"{split_seed}:{sha256_hex}".encode()).digest()[:8], "big")


def split_of(sha256_hex: str, eval_fraction: float, split_seed: int) -> str:
    """Return "train" or "eval" by the content hash alone."""
    return EVAL if place_of(sha256_hex, split_seed) < eval_fraction * _RESOLUTION else TRAIN


def assign(
    labels_of: Mapping[str, Collection[str]],
    eval_fraction: float,
    split_seed: int,
    units: Sequence[Unit] = (),
    fixed: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Choose the split of every distinct image, so that each class is on both sides if possible.

    Args:
        labels_of: the labels of each distinct image (sha256 in hex); more than one label is a conflict.
        eval_fraction: share of the images to evaluate on, 0 < eval_fraction < 1.
        split_seed: salts the hash: another seed gives another split.
        units: images that stay together, each image in at most one unit. A unit consists of bundles, which are never
            parted.
        fixed: settled splits ("train", "eval", "test"), the earliest first. They are never changed, so a bundle with
            settled images in two splits stays in both. Images that are not in `labels_of` are ignored.

    Returns:
        The split of each sha256, in the order of `labels_of`. An image gets its fixed split; otherwise the split of the
        earliest fixed image of its bundle, or of its unit; otherwise `split_of` of the unit's smallest sha256. Then the
        tiny-class rule follows. A class without an image in train gets its unit with the highest place there. A class
        of two or more images without an image in eval gets its unit with the lowest place there. Small units move
        before large ones. A unit with fixed images stays. A unit with images of other classes moves only if no other
        unit can, and never takes another class's last image from a side. If no whole unit can move, a single bundle
        moves.
    """
    fixed = {sha: split for sha, split in fixed.items() if sha in labels_of} if fixed else {}
    splits = {sha: fixed.get(sha) or split_of(sha, eval_fraction, split_seed) for sha in labels_of}
    whole: dict[str, Bundle] = {}  # the images that move together with each image
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
    """Return the bundles in the order to move: of one label, then small, then nearest to the border, then by hash."""
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
    """Move the first of `candidates` that may move, and return whether there was one."""
    for bundle in candidates:
        left = splits[bundle[0]]
        if any(splits[sha] != left for sha in bundle):  # parted for another class
            continue
        counts = Counter(label for sha in bundle for label in labels_of[sha])
        # Only the single image of a class may leave its side empty, and only to move to train.
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
