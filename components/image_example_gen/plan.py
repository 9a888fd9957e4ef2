"""From what was found out about every file to what becomes of it: kept in a shard, refused, or dropped as a copy.

Pure functions over small rows, one a file; no image bytes come here. Called by `ingest`'s one planning stage.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from components.image_example_gen import splits
from components.image_example_gen.decoding import Decoded, Quarantined
from components.image_example_gen.layouts import File
from components.image_example_gen.settings import IngestSettings
from graftline.features import SPLITS

IMAGES_PER_SHARD = 1_000
BYTES_PER_SHARD = 512 << 20


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Plan:
    """What becomes of all files. Every row given is in exactly one of the shards, `quarantined` and `duplicates`."""

    shards: tuple[Shard, ...]
    quarantined: tuple[Row, ...]
    duplicates: tuple[Row, ...]
    conflicts: tuple[tuple[str, ...], ...]  # paths of one content under several labels: kept once for each label


def make_plan(
    rows: Iterable[Row],
    settings: IngestSettings,
    images_per_shard: int = IMAGES_PER_SHARD,
    bytes_per_shard: int = BYTES_PER_SHARD,
) -> Plan:
    """Decide over all rows, whatever their order. Of exact copies in one class the first by path is kept."""
    kept: dict[tuple[str, str], Row] = {}
    quarantined, duplicates = [], []
    for row in sorted(rows, key=lambda row: row.path):
        if isinstance(row.verdict, Quarantined):
            quarantined.append(row)
        elif (row.sha256, row.label) in kept:
            duplicates.append(row)
        else:
            kept[row.sha256, row.label] = row
    same: dict[str, list[Row]] = defaultdict(list)
    for row in kept.values():
        same[row.sha256].append(row)
    labels_of = {sha: [row.label for row in copies] for sha, copies in same.items()}
    split_by_hash = splits.assign(labels_of, settings.eval_fraction, settings.split_seed)
    by_split: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for row in sorted(kept.values(), key=lambda row: (row.sha256, row.label)):
        by_split[split_by_hash[row.sha256]].append(row)
    return Plan(
        shards=tuple(
            shard for split in SPLITS for shard in _shards(split, by_split[split], images_per_shard, bytes_per_shard)
        ),
        quarantined=tuple(quarantined),
        duplicates=tuple(duplicates),
        conflicts=tuple(sorted(tuple(row.path for row in copies) for copies in same.values() if len(copies) > 1)),
    )


def _shards(split: str, rows: list[Row], images_per_shard: int, bytes_per_shard: int) -> list[Shard]:
    count = max(math.ceil(len(rows) / images_per_shard), math.ceil(sum(row.size for row in rows) / bytes_per_shard))
    count = min(count, len(rows))
    edges = [len(rows) * i // count for i in range(count + 1)] if count else [0]
    return [Shard(split, i, count, tuple(rows[edges[i] : edges[i + 1]])) for i in range(count)]
