"""Which split an image belongs to, from its content alone: a copy never sits on both sides, and adding never moves.

An image's place is a number in [0, 1) made of the seed and the hash of its bytes; below `eval_fraction` it evaluates.
Neither its name nor its neighbours matter, with one exception, the tiny-class rule of `assign`: a class that
hashing leaves without an image on one side gets its nearest image moved there. Such an image may move back when
images are added, since no assignment is kept between runs yet.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping

from graftline.features import EVAL, TRAIN

_RESOLUTION = 1 << 64


def place_of(sha256_hex: str, split_seed: int) -> int:
    """The image's place, uniform in 0 .. 2**64-1: the first 8 bytes of sha256("<seed>:<hex digest of its bytes>")."""
    return int.from_bytes(hashlib.sha256(f"{split_seed}:{sha256_hex}".encode()).digest()[:8], "big")


def split_of(sha256_hex: str, eval_fraction: float, split_seed: int) -> str:
    """ "train" or "eval", by content hash alone."""
    return EVAL if place_of(sha256_hex, split_seed) < eval_fraction * _RESOLUTION else TRAIN


def assign(labels_of: Mapping[str, Collection[str]], eval_fraction: float, split_seed: int) -> dict[str, str]:
    """Split every distinct image, so that each class has both sides where it can.

    Args:
        labels_of: the labels under which each distinct image (sha256 in hex) was found; more than one is a conflict.
        eval_fraction: share of the images to evaluate on, 0 < eval_fraction < 1.
        split_seed: salts the hash: another seed is another split.

    Returns:
        The split of each sha256. By `split_of`, but for the tiny-class rule: a class without an image in train gets
        its image with the highest place, and one of two or more images without one in eval its lowest. An image
        with several labels moves only when no other of the class can, and never empties another class's side.
    """
    splits = {sha: split_of(sha, eval_fraction, split_seed) for sha in labels_of}
    members: dict[str, list[str]] = defaultdict(list)
    for sha, labels in labels_of.items():
        for label in labels:
            members[label].append(sha)
    sizes = Counter((label, splits[sha]) for label, shas in members.items() for sha in shas)
    for label in sorted(members):
        for wanted in _missing(label, sizes):
            _move_one(_candidates(members[label], wanted, labels_of, split_seed), wanted, splits, sizes, labels_of)
    return splits


def _missing(label: str, sizes: Counter[tuple[str, str]]) -> list[str]:
    if not sizes[label, TRAIN]:
        return [TRAIN]
    return [EVAL] if not sizes[label, EVAL] and sizes[label, TRAIN] > 1 else []


def _candidates(shas: list[str], wanted: str, labels_of: Mapping[str, Collection[str]], split_seed: int) -> list[str]:
    """The class's images, the fittest to move first: of one label, then nearest to the border, then by name."""
    sign = 1 if wanted == EVAL else -1
    return sorted(shas, key=lambda sha: (len(labels_of[sha]) > 1, sign * place_of(sha, split_seed), sha))


def _move_one(
    candidates: Iterable[str],
    wanted: str,
    splits: dict[str, str],
    sizes: Counter[tuple[str, str]],
    labels_of: Mapping[str, Collection[str]],
) -> None:
    for sha in candidates:
        left = splits[sha]
        # Only a class's sole image may leave its side empty, and only for train.
        if all(sizes[label, left] > 1 or (wanted == TRAIN and not sizes[label, TRAIN]) for label in labels_of[sha]):
            splits[sha] = wanted
            for label in labels_of[sha]:
                sizes[label, left] -= 1
                sizes[label, wanted] += 1
            return
