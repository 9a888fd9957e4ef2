"""From what was found out about every file to what becomes of it: kept in a shard, refused, or dropped as a copy.

Pure functions over small rows, one a file; no image bytes come here. Called by `ingest`'s one planning stage.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
# Luma's standard deviation, 0..1, under which the hash of a picture is that of its noise. In 1,500 satellite tiles of
# 64 px those below (6 %, open water) lose their near copies to JPEG compression anyway.
_LEAST_CONTRAST = 0.01

Kind = Literal["leak", "conflict", "near", "exact"]
_KINDS: tuple[Kind, ...] = ("leak", "conflict", "near", "exact")


@dataclass(frozen=True, slots=True)
class Row:
    """One file that was looked at."""

    file: File
    sha256: str  # hex; "" when it could not be read
    size: int  # bytes
    verdict: Decoded | Quarantined

    @property
    def path(self) -> str:
        """Relative to the layout's root."""
        return self.file.path

    @property
    def label(self) -> str:
        """The class."""
        return self.file.label


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of records to write: rows sorted by sha256, so that its content depends on the images alone."""

    split: str
    index: int
    of: int
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """File name, as TFX's own ExampleGens give it, but uncompressed: JPEG bytes gain nothing by gzip."""
        return f"data_tfrecord-{self.index:05d}-of-{self.of:05d}"


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a group of copies."""

    path: str
    label: str
    split: str  # where it is kept; of a dropped file: that of its content, or what the layout had given
    distance: int | None = None  # bits between its hash and that of the group's first; None where hashes say nothing


@dataclass(frozen=True, slots=True)
class Copies:
    """Files that show the same or nearly the same. A file may be in several groups, of different kinds.

    exact: one content, of which copies were dropped. conflict: one content under several labels. near: different
    contents that show the same. leak: what should have stayed in one split and is in several.
    """

    kind: Kind
    members: tuple[Member, ...]

    @property
    def in_several_classes(self) -> bool:
        """Whether the members have different labels, of which one at most can be right."""
        return len({member.label for member in self.members}) > 1

    @property
    def paths(self) -> tuple[str, ...]:
        """The members' paths."""
        return tuple(member.path for member in self.members)


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of all files. Every row given is in exactly one of the shards, `quarantined` and `duplicates`."""

    shards: tuple[Shard, ...]
    quarantined: tuple[Row, ...]
    duplicates: tuple[Row, ...]
    splits: Mapping[str, str]  # sha256 of everything kept: its split
    copies: tuple[Copies, ...]  # leaks, conflicts, near and exact copies, in this order, each by path
    warnings: tuple[str, ...] = ()

    @property
    def conflicts(self) -> tuple[tuple[str, ...], ...]:
        """Paths of one content under several labels: it is kept once for each label, in one split."""
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
        """The paths of each group of one kind."""
        return tuple(copies.paths for copies in self.copies if copies.kind == kind)


def make_plan(
    rows: Iterable[Row],
    settings: IngestSettings,
    images_per_shard: int = IMAGES_PER_SHARD,
    bytes_per_shard: int = BYTES_PER_SHARD,
    known: Mapping[str, str] | None = None,
) -> Plan:
    """Decide over all rows, whatever their order.

    Args:
        rows: one for each file.
        settings: see `IngestSettings`.
        images_per_shard: a shard holds at most so many,
        bytes_per_shard: and about so much.
        known: splits of images of earlier runs by sha256, the earliest first: an image keeps its split.

    Returns:
        The plan. Of exact copies in one class the first by path is kept. Where the layout gives one content several
        splits it is kept in test rather than eval, and in eval rather than train; the files that say otherwise are
        dropped as duplicates.
    """
    ordered = sorted(rows, key=attrgetter("path"))
    quarantined = tuple(row for row in ordered if isinstance(row.verdict, Quarantined))
    good = [row for row in ordered if not isinstance(row.verdict, Quarantined)]
    for key in ("label", "sha256"):  # stable sorts: no tuple for each row
        good.sort(key=attrgetter(key))
    files_of = {sha: tuple(same) for sha, same in groupby(good, attrgetter("sha256"))}
    given = {sha: split for sha, same in files_of.items() if (split := _given(same))}
    kept_of: dict[str, tuple[Row, ...]] = {}
    labels_of: dict[str, tuple[str, ...]] = {}
    one_tuple: dict[tuple[str, ...], tuple[str, ...]] = {}  # for all images of a class, not one for each
    duplicates: list[Row] = []
    for sha, same in files_of.items():
        kept: dict[str, Row] = {}
        for row in same:
            if row.label in kept or row.file.split not in ("", given.get(sha)):
                duplicates.append(row)
            else:
                kept[row.label] = row
        kept_of[sha] = same if len(kept) == len(same) else tuple(kept.values())
        labels_of[sha] = one_tuple.setdefault(tuple(kept), tuple(kept))
    near, units, warnings = _together(files_of, kept_of, labels_of, settings.near_duplicates)
    # Of a test split that the layout no longer gives a few images may be left, too few for the gate to judge by.
    tests = TEST in given.values()
    fixed = {
        sha: EVAL if split == TEST and not tests else split for sha, split in (known or {}).items() if sha in kept_of
    } | given
    split_by_sha = splits.assign(labels_of, settings.eval_fraction, settings.split_seed, units, fixed)
    by_split: dict[str, list[Row]] = {split: [] for split in (*SPLITS, TEST)}
    for sha, rows_kept in kept_of.items():
        by_split[split_by_sha[sha]] += rows_kept
    copies = [*_copies_of_one(files_of, split_by_sha), *_copies_of_many(kept_of, near, units, split_by_sha)]
    return Plan(
        shards=tuple(
            shard for split, own in by_split.items() for shard in _shards(split, own, images_per_shard, bytes_per_shard)
        ),
        quarantined=quarantined,
        duplicates=tuple(sorted(duplicates, key=attrgetter("path"))),
        splits=split_by_sha,
        copies=tuple(sorted(copies, key=lambda group: (_KINDS.index(group.kind), group.paths))),
        warnings=warnings,
    )


def _given(same: Sequence[Row]) -> str:
    """The split that the layout gives one content, "" for none; of several the one that training is kept from."""
    found = {row.file.split for row in same}
    return next((split for split in (TEST, EVAL, TRAIN) if split in found), "")


def _together(
    files_of: Mapping[str, Sequence[Row]],
    kept_of: Mapping[str, Sequence[Row]],
    labels_of: Mapping[str, tuple[str, ...]],
    distance: int | None,
) -> tuple[list[list[str]], list[splits.Unit], tuple[str, ...]]:
    """The groups of near copies, what is to stay in one split (near copies and the layout's groups), and warnings."""
    shas = list(kept_of)
    tied = _tied(files_of)
    near: list[np.ndarray] = []
    warnings: tuple[str, ...] = ()
    if distance is not None:
        hashes = np.fromiter((_hash_of(kept[0]) for kept in kept_of.values()), np.uint64, len(shas))
        near, chained = near_duplicates.join(hashes, tied, list(labels_of.values()), distance)
        if chained:
            warnings = (
                f"{chained} images look so much alike that near copies among them cannot be told from the rest: only "
                "the nearest stay in one split. If they are copies, such as frames of one film, say so by the column "
                "group of a manifest; if not, data.near_duplicates=null ends this search",
            )
    units: list[splits.Unit] = []
    for unit in near_duplicates.members(near_duplicates.connect(tied, map(near_duplicates.star, near))):
        bundles: dict[int, list[str]] = defaultdict(list)
        for index in unit:
            bundles[int(tied[index])].append(shas[index])
        units.append(tuple(map(tuple, bundles.values())))
    return [[shas[index] for index in group] for group in near], units, warnings


def _tied(files_of: Mapping[str, Sequence[Row]]) -> np.ndarray:
    """A number for each content, int64 [n]; contents that the layout's groups hold together have the same."""
    first_of: dict[str, int] = {}
    pairs = [
        (index, first_of.setdefault(row.file.group, index))
        for index, same in enumerate(files_of.values())
        for row in same
        if row.file.group
    ]
    numbers = np.array(pairs, np.int64).reshape(-1, 2)
    return near_duplicates.connect(np.arange(len(files_of)), [(numbers[:, 0], numbers[:, 1])])


def _hash_of(row: Row) -> int:
    """The perceptual hash of a good row, 0 for a flat picture, whose hash says nothing."""
    assert isinstance(row.verdict, Decoded), row.path
    return row.verdict.phash if row.verdict.contrast >= _LEAST_CONTRAST else 0


def _copies_of_one(files_of: Mapping[str, Sequence[Row]], split_by_sha: Mapping[str, str]) -> Iterator[Copies]:
    """What is to be told of contents that lie in several files."""
    for sha, same in files_of.items():
        if len(same) == 1:
            continue
        members = sorted(
            (Member(row.path, row.label, row.file.split or split_by_sha[sha], 0) for row in same),
            key=attrgetter("path"),
        )
        first = {member.label: member for member in reversed(members)}
        if len({member.split for member in members}) > 1:
            yield Copies("leak", tuple(members))
        if len(first) > 1:
            yield Copies("conflict", tuple(sorted(first.values(), key=attrgetter("path"))))
        if len(first) < len(members):
            yield Copies("exact", tuple(members))


def _copies_of_many(
    kept_of: Mapping[str, Sequence[Row]],
    near: Sequence[Sequence[str]],
    units: Iterable[splits.Unit],
    split_by_sha: Mapping[str, str],
) -> Iterator[Copies]:
    """What is to be told of different contents that should stay together."""
    parted = (shas for shas in chain(near, *units) if len({split_by_sha[sha] for sha in shas}) > 1)
    told: tuple[tuple[Kind, Iterable[Sequence[str]]], ...] = (("near", near), ("leak", parted))
    for kind, groups in told:
        for shas in groups:
            yield Copies(kind, _members([row for sha in shas for row in kept_of[sha]], split_by_sha))


def _members(rows: Sequence[Row], split_by_sha: Mapping[str, str]) -> tuple[Member, ...]:
    rows = sorted(rows, key=attrgetter("path"))
    hashes = np.array([_hash_of(row) for row in rows], np.uint64)
    between = near_duplicates.bits_between(hashes, np.full_like(hashes, hashes[0]))
    return tuple(
        Member(row.path, row.label, split_by_sha[row.sha256], int(bits) if hashed and hashes[0] else None)
        for row, hashed, bits in zip(rows, hashes, between, strict=True)
    )


def _shards(split: str, rows: list[Row], images_per_shard: int, bytes_per_shard: int) -> list[Shard]:
    count = max(math.ceil(len(rows) / images_per_shard), math.ceil(sum(row.size for row in rows) / bytes_per_shard))
    count = min(count, len(rows))
    edges = [len(rows) * i // count for i in range(count + 1)] if count else [0]
    return [Shard(split, i, count, tuple(rows[edges[i] : edges[i + 1]])) for i in range(count)]
