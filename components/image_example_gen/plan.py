"""The plan of an ingest: whether each checked file is kept in a shard, quarantined, or dropped as a copy.

Pure functions over one small row for each file, without image bytes. The planning stage of `ingest` calls them.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import attrgetter
from typing import Literal

import numpy as np

from graftline.components.image_example_gen import near_duplicates, splits
from graftline.components.image_example_gen.decoding import Decoded, Quarantined
from graftline.components.image_example_gen.layouts import File
from graftline.components.image_example_gen.settings import IngestSettings
from graftline.features import EVAL, SPLITS, TEST, TRAIN

IMAGES_PER_SHARD = 1_000
BYTES_PER_SHARD = 512 << 20
# Below this standard deviation of luma, 0..1, a picture's hash is that of its noise. In 1,500 satellite tiles of 64 px,
# 6 % (open water) are below it; their near copies are lost to JPEG compression anyway.
_LEAST_CONTRAST = 0.01

Kind = Literal["leak", "conflict", "near", "exact"]
_KINDS: tuple[Kind, ...] = ("leak", "conflict", "near", "exact")


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """One file with the verdict on its content."""

    file: File
    sha256: str  # hex; "" if the file could not be read
    size: int  # bytes
    verdict: Decoded | Quarantined

    @property
    def path(self) -> str:
        """The path relative to the layout's root."""
        return self.file.path

    @property
    def label(self) -> str:
        """The class."""
        return self.file.label


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of records to write. Its rows are sorted by sha256: its content depends only on the images."""

    split: str
    index: int
    of: int
    rows: tuple[CheckedFile, ...]

    @property
    def name(self) -> str:
        """The file name, as of TFX's own ExampleGens, but without ".gz": gzip does not make JPEG bytes smaller."""
        return f"data_tfrecord-{self.index:05d}-of-{self.of:05d}"


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a group of copies."""

    path: str
    label: str
    split: str  # the split in which it is kept; for a dropped file the layout's split, or that of its content
    distance: int | None = None  # bits between its hash and the first member's; None if a hash is not meaningful


@dataclass(frozen=True, slots=True)
class Copies:
    """A group of files that show the same or nearly the same. A file may be in several groups of different kinds.

    exact: files of one content, of which only the first of each class is kept. conflict: one content under several
    labels. near: different contents that show nearly the same. leak: files that should be in one split and are in
    several.
    """

    kind: Kind
    members: tuple[Member, ...]

    @property
    def in_several_classes(self) -> bool:
        """Whether the members have different labels; at most one of the labels can be right."""
        return len({member.label for member in self.members}) > 1

    @property
    def paths(self) -> tuple[str, ...]:
        """The members' paths."""
        return tuple(member.path for member in self.members)


@dataclass(frozen=True, slots=True)
class Plan:
    """The decision on all files. Every file is in exactly one of the shards, `quarantined` or `duplicates`."""

    shards: tuple[Shard, ...]
    quarantined: tuple[CheckedFile, ...]
    duplicates: tuple[CheckedFile, ...]
    splits: Mapping[str, str]  # sha256 of each kept content: its split
    copies: tuple[Copies, ...]  # leaks, conflicts, near and exact copies, in this order, each sorted by path
    warnings: tuple[str, ...] = ()

    @property
    def conflicts(self) -> tuple[tuple[str, ...], ...]:
        """Paths of one content under several labels. It is kept once for each label, in one split."""
        return self.paths("conflict")

    @property
    def near(self) -> tuple[tuple[str, ...], ...]:
        """Paths of kept files that are near copies of one another."""
        return self.paths("near")

    @property
    def leaks(self) -> tuple[tuple[str, ...], ...]:
        """Paths of files that should be in one split and are in several."""
        return self.paths("leak")

    def paths(self, kind: Kind) -> tuple[tuple[str, ...], ...]:
        """Return the paths of each group of one kind."""
        return tuple(copies.paths for copies in self.copies if copies.kind == kind)


def make_plan(
    rows: Iterable[CheckedFile],
    settings: IngestSettings,
    images_per_shard: int = IMAGES_PER_SHARD,
    bytes_per_shard: int = BYTES_PER_SHARD,
    known: Mapping[str, str] | None = None,
) -> Plan:
    """Decide what becomes of each file. The order of the rows does not matter.

    `known` holds the splits of the images of earlier runs by sha256, the earliest first; an image keeps its split.
    A shard has at most `images_per_shard` images and about `bytes_per_shard` bytes.

    Of exact copies in one class the first by path is kept. If the layout gives one content several splits, the content
    is kept in test rather than eval, and in eval rather than train; its files in the other splits are dropped as
    duplicates.
    """
    ordered = sorted(rows, key=attrgetter("path"))
    good = [row for row in ordered if not isinstance(row.verdict, Quarantined)]
    for key in ("label", "sha256"):  # stable sorts need no tuple for each row
        good.sort(key=attrgetter(key))
    files_of = {sha: tuple(same) for sha, same in groupby(good, attrgetter("sha256"))}
    given = {sha: split for sha, same in files_of.items() if (split := _given_split(same))}
    kept_of, labels_of, duplicates = _drop_copies(files_of, given)
    near, units, warnings = _find_units(files_of, kept_of, labels_of, settings.near_duplicates)
    fixed = _fix_splits(known or {}, given, kept_of)
    split_of = splits.assign(labels_of, settings.eval_fraction, settings.split_seed, units, fixed)
    by_split: dict[str, list[CheckedFile]] = {split: [] for split in (*SPLITS, TEST)}
    for sha, kept in kept_of.items():
        by_split[split_of[sha]] += kept
    copies = [*_copies_of_one(files_of, split_of), *_copies_of_many(kept_of, near, units, split_of)]
    return Plan(
        shards=tuple(
            shard for split, own in by_split.items() for shard in _shards(split, own, images_per_shard, bytes_per_shard)
        ),
        quarantined=tuple(row for row in ordered if isinstance(row.verdict, Quarantined)),
        duplicates=tuple(sorted(duplicates, key=attrgetter("path"))),
        splits=split_of,
        copies=tuple(sorted(copies, key=lambda group: (_KINDS.index(group.kind), group.paths))),
        warnings=(*_describe_flat_images(ordered), *warnings),
    )


def _describe_flat_images(ordered: Sequence[CheckedFile]) -> Iterator[str]:
    """Yield a warning for each kind of image in which there is little or nothing to see."""
    good = [(row, row.verdict) for row in ordered if isinstance(row.verdict, Decoded)]
    flat = [row.path for row, verdict in good if verdict.is_of_one_colour]
    few = [row.path for row, verdict in good if verdict.few_levels and not verdict.is_of_one_colour]
    if flat:
        yield (
            f"{len(flat)} of {len(good)} images show one colour and nothing else, such as {flat[0]}: look at them. "
            "Transparent pixels are laid on white"
        )
    if few:
        yield (
            f"{len(few)} of {len(good)} images have 16 bits a sample and use less than a quarter of their range, such "
            f"as {few[0]}: the model sees the high 8 bits, so few grey levels. If they hold 10 to 14 bits, multiply "
            "their samples to fill 16"
        )


def _given_split(same: Sequence[CheckedFile]) -> str:
    """Return the split that the layout gives one content, "" if none; of several the one farthest from training."""
    given = {row.file.split for row in same}
    return next((split for split in (TEST, EVAL, TRAIN) if split in given), "")


def _drop_copies(
    files_of: Mapping[str, tuple[CheckedFile, ...]], given: Mapping[str, str]
) -> tuple[dict[str, tuple[CheckedFile, ...]], dict[str, tuple[str, ...]], list[CheckedFile]]:
    """Return the files to keep and the labels of each content, and the duplicates."""
    kept_of: dict[str, tuple[CheckedFile, ...]] = {}
    labels_of: dict[str, tuple[str, ...]] = {}
    interned: dict[tuple[str, ...], tuple[str, ...]] = {}  # one tuple for all images of a class saves memory
    duplicates: list[CheckedFile] = []
    for sha, same in files_of.items():
        kept: dict[str, CheckedFile] = {}
        for row in same:
            if row.label in kept or row.file.split not in ("", given.get(sha)):
                duplicates.append(row)
            else:
                kept[row.label] = row
        kept_of[sha] = same if len(kept) == len(same) else tuple(kept.values())
        labels_of[sha] = interned.setdefault(tuple(kept), tuple(kept))
    return kept_of, labels_of, duplicates


def _fix_splits(known: Mapping[str, str], given: Mapping[str, str], kept: Collection[str]) -> dict[str, str]:
    """Return the splits that are settled: those of earlier runs, and before them those of the layout.

    If the layout no longer gives a test split, its known images evaluate: the few that are left are too few to judge
    the model by.
    """
    has_test = TEST in given.values()
    earlier = {sha: EVAL if split == TEST and not has_test else split for sha, split in known.items() if sha in kept}
    return earlier | dict(given)


def _find_units(
    files_of: Mapping[str, Sequence[CheckedFile]],
    kept_of: Mapping[str, Sequence[CheckedFile]],
    labels_of: Mapping[str, tuple[str, ...]],
    distance: int | None,
) -> tuple[list[list[str]], list[splits.Unit], tuple[str, ...]]:
    """Return the groups of near copies, the units that stay in one split, and warnings.

    A unit joins near copies and groups of the layout that share an image.
    """
    shas = list(kept_of)
    tied = _number_groups(files_of)
    near: list[np.ndarray] = []
    warnings: tuple[str, ...] = ()
    if distance is not None:
        hashes = np.fromiter((_hash_of(kept[0]) for kept in kept_of.values()), np.uint64, len(shas))
        near, chained = near_duplicates.join(hashes, tied, list(labels_of.values()), distance)
        if chained:
            warnings = (
                f"{chained} images look so similar that near copies among them cannot be recognized: only the nearest "
                "images stay in one split. If they are copies, such as frames of one film, give them one value in the "
                "column group of a manifest; if they are not, data.near_duplicates=null turns this search off",
            )
    units: list[splits.Unit] = []
    for unit in near_duplicates.members(near_duplicates.connect(tied, map(near_duplicates.star, near))):
        bundles: dict[int, list[str]] = defaultdict(list)
        for index in unit:
            bundles[int(tied[index])].append(shas[index])
        units.append(tuple(map(tuple, bundles.values())))
    return [[shas[index] for index in group] for group in near], units, warnings


def _number_groups(files_of: Mapping[str, Sequence[CheckedFile]]) -> np.ndarray:
    """Return a number for each content, int64 [n]; contents of one group of the layout have the same number."""
    first_of: dict[str, int] = {}
    pairs = [
        (index, first_of.setdefault(row.file.group, index))
        for index, same in enumerate(files_of.values())
        for row in same
        if row.file.group
    ]
    numbers = np.array(pairs, np.int64).reshape(-1, 2)
    return near_duplicates.connect(np.arange(len(files_of)), [(numbers[:, 0], numbers[:, 1])])


def _hash_of(row: CheckedFile) -> int:
    """Return the perceptual hash of a good file; 0 for a flat picture, whose hash is not meaningful."""
    assert isinstance(row.verdict, Decoded), row.path
    return row.verdict.phash if row.verdict.contrast >= _LEAST_CONTRAST else 0


def _copies_of_one(files_of: Mapping[str, Sequence[CheckedFile]], split_of: Mapping[str, str]) -> Iterator[Copies]:
    """Yield the leaks, conflicts and exact copies of each content that is in several files."""
    for sha, same in files_of.items():
        if len(same) == 1:
            continue
        members = sorted(
            (Member(row.path, row.label, row.file.split or split_of[sha], 0) for row in same), key=attrgetter("path")
        )
        first = {member.label: member for member in reversed(members)}
        if len({member.split for member in members}) > 1:
            yield Copies("leak", tuple(members))
        if len(first) > 1:
            yield Copies("conflict", tuple(sorted(first.values(), key=attrgetter("path"))))
        if len(first) < len(members):
            yield Copies("exact", tuple(members))


def _copies_of_many(
    kept_of: Mapping[str, Sequence[CheckedFile]],
    near: Sequence[Sequence[str]],
    units: Iterable[splits.Unit],
    split_of: Mapping[str, str],
) -> Iterator[Copies]:
    """Yield the groups of near copies, and the leaks: units of different contents that are in several splits."""
    parted = (shas for shas in chain(near, *units) if len({split_of[sha] for sha in shas}) > 1)
    kinds: tuple[tuple[Kind, Iterable[Sequence[str]]], ...] = (("near", near), ("leak", parted))
    for kind, groups in kinds:
        for shas in groups:
            yield Copies(kind, _members([row for sha in shas for row in kept_of[sha]], split_of))


def _members(rows: Sequence[CheckedFile], split_of: Mapping[str, str]) -> tuple[Member, ...]:
    rows = sorted(rows, key=attrgetter("path"))
    hashes = np.array([_hash_of(row) for row in rows], np.uint64)
    between = near_duplicates.bits_between(hashes, np.full_like(hashes, hashes[0]))
    return tuple(
        Member(row.path, row.label, split_of[row.sha256], int(bits) if hashed and hashes[0] else None)
        for row, hashed, bits in zip(rows, hashes, between, strict=True)
    )


def _shards(split: str, rows: list[CheckedFile], images_per_shard: int, bytes_per_shard: int) -> list[Shard]:
    count = max(math.ceil(len(rows) / images_per_shard), math.ceil(sum(row.size for row in rows) / bytes_per_shard))
    count = min(count, len(rows))
    edges = [len(rows) * i // count for i in range(count + 1)] if count else [0]
    return [Shard(split, i, count, tuple(rows[edges[i] : edges[i + 1]])) for i in range(count)]
