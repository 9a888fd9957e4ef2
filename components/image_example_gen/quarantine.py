"""What is told of an ingest: `quarantine.csv`, `summary.json`, and the refusal when too much of the data is bad."""

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field

from graftline.components.image_example_gen.decoding import Quarantined
from graftline.components.image_example_gen.plan import Plan, Row
from graftline.components.image_example_gen.settings import IngestSettings
from graftline.errors import UserError
from graftline.features import EVAL, SPLITS, TEST, TRAIN

CSV_NAME = "quarantine.csv"
SUMMARY_NAME = "summary.json"
SPLITS_NAME = "splits.csv"  # as `assignments` writes them
COLUMNS = ("path", "reason", "bytes", "sha256")
_SHOWN_GROUPS = 100
_SHOWN_REASONS = 5


@dataclass(frozen=True)
class Written:
    """What became of one shard's rows: those in the file, and those that changed or vanished since they were read."""

    split: str
    labels: tuple[tuple[str, int], ...]  # (label, examples)
    quarantined: tuple[Row, ...]


@dataclass
class Summary:
    """The counts of one ingest, `summary.json`. Always examples + quarantined + duplicates = found."""

    found: int = 0
    examples: int = 0
    quarantined: int = 0
    duplicates: int = 0
    by_split: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))  # "test" only where there is one
    by_class: dict[str, dict[str, int]] = field(default_factory=dict)  # label: each split, quarantined, duplicates
    by_reason: dict[str, int] = field(default_factory=dict)  # phrase: files, the commonest first
    reason_examples: dict[str, str] = field(default_factory=dict)  # phrase: path of its first file
    conflicts: int = 0  # contents that lie under several labels
    near_conflicts: int = 0  # groups of near copies that do
    conflict_paths: list[list[str]] = field(default_factory=list)  # the first 100 of them
    near_copies: int = 0  # images stored that have a near copy among the others
    near_groups: int = 0  # of which they form so many groups
    leaks: int = 0  # groups of copies, or of the layout, that are in several splits
    leak_paths: list[list[str]] = field(default_factory=list)  # the first 100 of them
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """Readable JSON, stable from run to run."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Summary":
        """The reverse of `to_json`."""
        return cls(**json.loads(text))


def quarantined_rows(plan: Plan, written: Iterable[Written]) -> list[Row]:
    """All refused files, those found on writing among them, sorted by path."""
    late = [row for shard in written for row in shard.quarantined]
    return sorted([*plan.quarantined, *late], key=lambda row: row.path)


def summarize(plan: Plan, written: Iterable[Written], warnings: Iterable[str] = ()) -> Summary:
    """Count what a plan and the writing of its shards came to."""
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
    phrases = Counter(phrase_of(row) for row in refused)
    firsts: dict[str, str] = {}
    for row in refused:
        firsts.setdefault(phrase_of(row), row.path)
    ranked = sorted(phrases.items(), key=lambda item: (-item[1], item[0]))
    examples = sum(by_split.values())
    by_class.pop("", None)  # a link beside the class folders is of no class
    lost = sorted(label for label, counts in by_class.items() if not any(counts[split] for split in names))
    told = [
        *warnings,
        *plan.warnings,
        *(f"class {label!r} has no image that can be decoded and is left out" for label in lost),
    ]
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
        warnings=told,
    )


def phrase_of(row: Row) -> str:
    """Why a refused row was refused, in few words."""
    assert isinstance(row.verdict, Quarantined), row.path
    return row.verdict.phrase


def to_csv(rows: Iterable[Row]) -> str:
    """The refused rows as CSV with a header line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_csv_rows(rows))
    return text.getvalue()


def _csv_rows(rows: Iterable[Row]) -> Iterator[tuple[str, str, int, str]]:
    for row in rows:
        assert isinstance(row.verdict, Quarantined), row.path
        yield row.path, row.verdict.reason, row.size, row.sha256


def require_usable(
    summary: Summary, images: str, settings: IngestSettings, csv_path: str, empty: Collection[str] = ()
) -> None:
    """Refuse a data set that is too bad to train on.

    Args:
        summary: the counts of the ingest.
        images: the root, for the message.
        settings: `max_bad_fraction` is what quarantined / found may be at most, `strict` allows none.
        csv_path: where the user finds the list of refused files; "" when it was not kept.
        empty: class folders that hold no image at all, and so are no classes.

    Raises:
        UserError: no image, too many bad files, fewer than two classes with images, or a class without images in
            train or eval; in test it may be absent.
    """
    where = f" The whole list: {csv_path}." if csv_path else ""
    told = f"{_commonest(summary)}{where}"
    if not summary.examples:
        raise UserError(f"{images}: none of {summary.found} files is an image that can be decoded.{told}")
    bad = f"{images}: {summary.quarantined} of {summary.found} files"
    if settings.strict and summary.quarantined:
        raise UserError(
            f"{bad} can't be used, and data.strict allows none.{told} Mend or remove them, or set data.strict=false."
        )
    if summary.quarantined > settings.max_bad_fraction * summary.found:
        raise UserError(
            f"{bad} ({summary.quarantined / summary.found:.1%}) can't be used, more than data.max_bad_fraction "
            f"({settings.max_bad_fraction:g}) allows.{told} Mend or remove them, or raise data.max_bad_fraction."
        )
    usable = {label: counts for label, counts in summary.by_class.items() if _examples(counts)}
    if len(usable) < 2:
        (only,) = usable
        raise UserError(
            f"{images}: only class '{only}' has images that can be decoded, two classes are needed at least.{told}"
        )
    for label, counts in summary.by_class.items():
        if label in empty:
            continue
        missing = [split for split in SPLITS if not counts[split]]
        if missing and _examples(counts) < 2:
            raise UserError(
                f"{images}: class '{label}' is left with {_examples(counts)} usable image"
                f"{'s' * (not _examples(counts))}, but needs at least 2 different ones, to train and to evaluate on."
                f"{told} Add images to it, or remove the class."
            )
        if missing:  # the layout gave it so, groups hold it together, or images of earlier runs are gone
            raise UserError(
                f"{images}: class '{label}' has {_shares(counts)} after splitting, but needs images to train and to "
                f"evaluate on.{told} Add images to it that are no copies and of no group in it yet, or, where the "
                "folders or a manifest give the splits, move some; or remove the class."
            )


def _examples(counts: Mapping[str, int]) -> int:
    return sum(counts.get(split, 0) for split in (*SPLITS, TEST))


def _shares(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[split]} in {split}" for split in (TRAIN, EVAL, TEST) if split in counts)


def _commonest(summary: Summary) -> str:
    shown = [
        f"{phrase} ({count}, such as {summary.reason_examples[phrase]})" for phrase, count in summary.by_reason.items()
    ]
    more = f"; and {len(shown) - _SHOWN_REASONS} other reasons" if len(shown) > _SHOWN_REASONS else ""
    return f" Why: {'; '.join(shown[:_SHOWN_REASONS])}{more}." if shown else ""
