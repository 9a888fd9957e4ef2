"""The report of an ingest: `quarantine.csv`, `summary.json`, and the refusal of a data set that is too bad."""

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field

from graftline import csv_cells
from graftline.components.image_example_gen.decoding import Quarantined
from graftline.components.image_example_gen.plan import CheckedFile, Plan
from graftline.components.image_example_gen.settings import IngestSettings
from graftline.errors import UserError
from graftline.features import EVAL, SPLITS, TEST, TRAIN

CSV_NAME = "quarantine.csv"
SUMMARY_NAME = "summary.json"
SPLITS_NAME = "splits.csv"  # written by `assignments`
COLUMNS = ("path", "reason", "bytes", "sha256")
_SHOWN_GROUPS = 100
_SHOWN_REASONS = 5


@dataclass(frozen=True)
class WrittenShard:
    """The outcome of one shard: the examples in the file, and the images that changed or vanished after the check."""

    split: str
    labels: tuple[tuple[str, int], ...]  # (label, examples)
    quarantined: tuple[CheckedFile, ...]


@dataclass
class Summary:
    """The counts of one ingest, as in `summary.json`: examples + quarantined + duplicates = found."""

    found: int = 0
    examples: int = 0
    quarantined: int = 0
    duplicates: int = 0
    by_split: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))  # "test" only if there is one
    by_class: dict[str, dict[str, int]] = field(default_factory=dict)  # label: each split, quarantined, duplicates
    by_reason: dict[str, int] = field(default_factory=dict)  # phrase: number of files, the most common first
    reason_examples: dict[str, str] = field(default_factory=dict)  # phrase: path of its first file
    conflicts: int = 0  # contents under several labels
    near_conflicts: int = 0  # groups of near copies under several labels
    conflict_paths: list[list[str]] = field(default_factory=list)  # the first 100 conflicts
    near_copies: int = 0  # stored images with a near copy among the others
    near_groups: int = 0  # groups of near copies
    leaks: int = 0  # groups of copies, or of the layout, that are in several splits
    leak_paths: list[list[str]] = field(default_factory=list)  # the first 100 leaks
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """Return indented JSON that is the same in each run."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Summary":
        """Return the summary that `to_json` wrote."""
        return cls(**json.loads(text))


def quarantined_rows(plan: Plan, written: Iterable[WrittenShard]) -> list[CheckedFile]:
    """Return all refused files, also those refused during writing, sorted by path."""
    late = [row for shard in written for row in shard.quarantined]
    return sorted([*plan.quarantined, *late], key=lambda row: row.path)


def summarize(plan: Plan, written: Iterable[WrittenShard], warnings: Iterable[str] = ()) -> Summary:
    """Count the outcome of a plan and of the writing of its shards."""
    written = list(written)
    refused = quarantined_rows(plan, written)
    by_class: dict[str, Counter[str]] = defaultdict(Counter)
    names = (*SPLITS, TEST) if any(shard.split == TEST for shard in written) else SPLITS
    by_split = dict.fromkeys(names, 0)
    for shard in written:
        for label, count in shard.labels:
            by_class[label][shard.split] += count
            by_split[shard.split] += count
    for kind, rows in (("quarantined", refused), ("duplicates", plan.duplicates)):
        for row in rows:
            by_class[row.label][kind] += 1
    phrases = Counter(map(_phrase_of, refused))
    firsts = {_phrase_of(row): row.path for row in reversed(refused)}
    ranked = sorted(phrases.items(), key=lambda item: (-item[1], item[0]))
    examples = sum(by_split.values())
    by_class.pop("", None)  # a link beside the class folders has no class
    lost = sorted(label for label, counts in by_class.items() if not any(counts[split] for split in names))
    without_images = (f"class {label!r} has no image that can be decoded and is left out" for label in lost)
    return Summary(
        found=examples + len(refused) + len(plan.duplicates),
        examples=examples,
        quarantined=len(refused),
        duplicates=len(plan.duplicates),
        by_split=by_split,
        by_class={
            label: {kind: by_class[label][kind] for kind in (*names, "quarantined", "duplicates")}
            for label in sorted(by_class)
        },
        by_reason=dict(ranked),
        reason_examples={phrase: firsts[phrase] for phrase, _ in ranked},
        conflicts=len(plan.conflicts),
        near_conflicts=sum(copies.kind == "near" and copies.in_several_classes for copies in plan.copies),
        conflict_paths=[list(paths) for paths in plan.conflicts[:_SHOWN_GROUPS]],
        near_copies=sum(map(len, plan.near)),
        near_groups=len(plan.near),
        leaks=len(plan.leaks),
        leak_paths=[list(paths) for paths in plan.leaks[:_SHOWN_GROUPS]],
        warnings=[*warnings, *plan.warnings, *without_images],
    )


def _phrase_of(row: CheckedFile) -> str:
    assert isinstance(row.verdict, Quarantined), row.path
    return row.verdict.phrase


def to_csv(rows: Iterable[CheckedFile]) -> str:
    """Return the refused files as CSV with a header line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        assert isinstance(row.verdict, Quarantined), row.path
        writer.writerow((*map(csv_cells.escape, (row.path, row.verdict.reason)), row.size, row.sha256))
    return text.getvalue()


def require_usable(
    summary: Summary, images: str, settings: IngestSettings, csv_path: str, empty: Collection[str] = ()
) -> None:
    """Refuse a data set that is too bad to train on.

    Messages name the root `images` and `csv_path`, the user's list of refused files; "" if it was not kept. The class
    folders in `empty` have no image and are not classes.

    Raises:
        UserError: no image, too many bad files, fewer than two classes with images, or a class without images in
            train or eval. A class may be absent from test.
    """
    where = f" The full list is in {csv_path}." if csv_path else ""
    reasons = f"{_describe_reasons(summary)}{where}"
    if not summary.examples:
        raise UserError(f"{images}: none of {summary.found} files is an image that can be decoded.{reasons}")
    bad = f"{images}: {summary.quarantined} of {summary.found} files"
    if settings.strict and summary.quarantined:
        raise UserError(
            f"{bad} cannot be used, and data.strict allows no such file.{reasons} Repair or remove these files, or set "
            "data.strict=false."
        )
    if summary.quarantined > settings.max_bad_fraction * summary.found:
        raise UserError(
            f"{bad} ({summary.quarantined / summary.found:.1%}) cannot be used; data.max_bad_fraction is "
            f"{settings.max_bad_fraction:g}.{reasons} Repair or remove these files, or raise data.max_bad_fraction."
        )
    usable = {label: counts for label, counts in summary.by_class.items() if _examples(counts)}
    if len(usable) < 2:
        (only,) = usable
        raise UserError(
            f"{images}: only class '{only}' has images that can be decoded; at least two classes are needed.{reasons}"
        )
    for label, counts in summary.by_class.items():
        if label in empty:
            continue
        missing = [split for split in SPLITS if not counts[split]]
        if missing and _examples(counts) < 2:
            raise UserError(
                f"{images}: class '{label}' has {_examples(counts) or 'no'} usable image"
                f"{'s' * (not _examples(counts))} left; it needs at least 2 different images, one to train on and one "
                f"to evaluate on.{reasons} Add images to the class, or remove it."
            )
        if missing:  # because of the layout's splits, of groups, or of removed images of earlier runs
            raise UserError(
                f"{images}: class '{label}' has {_shares(counts)} after splitting, but needs images to train on and "
                f"images to evaluate on.{reasons} Add images that are not copies and belong to no group of the class; "
                "if the folders or a manifest give the splits, move some images; or remove the class."
            )


def _examples(counts: Mapping[str, int]) -> int:
    return sum(counts.get(split, 0) for split in (*SPLITS, TEST))


def _shares(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[split]} in {split}" for split in (TRAIN, EVAL, TEST) if split in counts)


def _describe_reasons(summary: Summary) -> str:
    shown = [
        f"{phrase} ({count}, such as {summary.reason_examples[phrase]})" for phrase, count in summary.by_reason.items()
    ]
    more = f"; and {len(shown) - _SHOWN_REASONS} other reasons" if len(shown) > _SHOWN_REASONS else ""
    return f" Reasons: {'; '.join(shown[:_SHOWN_REASONS])}{more}." if shown else ""
