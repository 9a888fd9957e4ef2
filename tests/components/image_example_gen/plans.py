"""Checked files and plans for the tests of the plan and of the quarantine."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from graftline.components.image_example_gen.decoding import Decoded, Quarantined
from graftline.components.image_example_gen.layouts import File
from graftline.components.image_example_gen.plan import CheckedFile, Plan, make_plan
from graftline.components.image_example_gen.settings import IngestSettings

GOOD = Decoded("jpeg", 2, 2, 0.5, 0.1, 0.1, phash=0)


def row(
    path: str,
    content: str,
    verdict: Decoded | Quarantined = GOOD,
    size: int = 10,
    split: str = "",
    group: str = "",
) -> CheckedFile:
    return CheckedFile(File(path, path.split("/")[0], split, group), content, size, verdict)


def looks(phash: int, contrast: float = 0.1) -> Decoded:
    return replace(GOOD, phash=phash, contrast=contrast)


def spread(number: int) -> int:
    """A hash far from those of other numbers below 1,000."""
    return int.from_bytes(hashlib.sha256(str(number).encode()).digest()[:8], "big")


SETTINGS = IngestSettings(eval_fraction=0.3)


def planned(rows: Sequence[CheckedFile], known: dict[str, str] | None = None) -> Plan:
    return make_plan(rows, SETTINGS, images_per_shard=5, known=known)


def lost(rows: Sequence[CheckedFile]) -> tuple[CheckedFile, ...]:
    return tuple(replace(r, verdict=Quarantined("changed during the run")) for r in rows)


FOUR = (row("a/1.jpg", "1"), row("a/2.jpg", "2"), row("b/1.jpg", "3"), row("b/2.jpg", "4"))


def in_splits(**splits: str) -> list[CheckedFile]:
    """Images of two classes: `in_splits(a="train train eval", b=...)`."""
    return [
        row(f"{label}/{i}.jpg", f"{label}{i}", split=split)
        for label, named in splits.items()
        for i, split in enumerate(named.split())
    ]
