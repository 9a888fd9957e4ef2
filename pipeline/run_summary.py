"""What a run did, as one value: read from its metadata and artifacts, printed by `pipeline.cli`."""

from dataclasses import asdict, dataclass, field
from typing import Any

from graftline.components.data_validation.findings import Finding
from graftline.components.evaluator.verdict import Check


@dataclass(frozen=True)
class Phase:
    """One phase of training as it went: `ended` says why it ended (plateau or epochs)."""

    name: str
    epochs: int
    accuracy: float
    val_accuracy: float
    ended: str
    kept: bool = True  # False when it did no good and its weights were taken back


@dataclass(frozen=True)
class RunSummary:
    """What `graftline run` reports. The first ten fields are the JSON contract; `pushed_*` are None when refused."""

    run_id: str
    blessed: bool
    pushed_version: int | None
    pushed_path: str | None
    accuracy: float | None
    baseline_accuracy: float | None
    examples: int
    quarantined: int
    duplicates: int
    seconds: dict[str, float]
    classes: list[str] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    activations: dict[str, int] = field(default_factory=dict)  # images run through the frozen trunk, and not again
    training_notes: list[str] = field(default_factory=list)
    data_findings: list[Finding] = field(default_factory=list)  # what data validation warns of
    report_dir: str | None = None  # curves, confusion matrix, mistakes
    checks: list[Check] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)  # node ids whose outputs came from the cache
    new_version: bool = False  # False when the very same model was there already
    quarantine_file: str | None = None
    splits: dict[str, int] = field(default_factory=dict)  # records by split
    conflicts: int = 0  # pictures that lie under several labels
    near_conflicts: int = 0  # groups of near copies that lie under several labels
    near_copies: int = 0  # images that nearly show the same as another
    leaks: int = 0  # groups of copies that lie in several splits
    copies_file: str | None = None  # a page with their pictures
    data_warnings: list[str] = field(default_factory=list)  # what ingest could not do as asked
    startup_seconds: float = 0.0  # imports and checks before the first node
    note: str = ""  # what the gate has to say beside its checks
    serving: dict[str, Any] = field(default_factory=dict)  # what `components.serving_validator` measured
    push_refused: str = ""  # why a blessed model was not pushed
    accuracy_interval: tuple[float, float] | None = None  # where the accuracy may lie in truth
    # The candidate's on the images of the classes that the served model knows, too, where it knows others.
    compared_accuracy: float | None = None
    compared_examples: int = 0  # images that both models were compared on
    verdict_file: str | None = None  # the verdict as a person reads it
    # With `training.transfer_images_per_class`: that as `images_per_class`, `images` in all, and the accuracies
    # `pretrained` and `random`.
    transfer: dict[str, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields of the command line's contract, and the rest of the story, as JSON-able values."""
        return asdict(self)
