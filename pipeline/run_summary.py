"""What a run did, as one value: read back from ML Metadata and the artifacts, printed by `pipeline.console`."""

import json
import math
import pathlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from graftline import blessings
from graftline.components.data_validation import FINDINGS_FILE, Finding, read_findings
from graftline.components.evaluator import NOTHING_SERVED, VERDICT_FILE, VERDICT_TEXT, Check, Verdict
from graftline.pipeline.config import Config
from graftline.workspace import Workspace

if TYPE_CHECKING:
    from graftline.pipeline.lineage import NodeRun

# Counts of ingest's summary that the page of copies shows.
_COPIES = ("duplicates", "conflicts", "near_conflicts", "near_copies", "leaks")


@dataclass(frozen=True)
class Phase:
    """One phase of training. `ended` is that of `trainer.phases.PhaseResult`."""

    name: str
    epochs: int
    accuracy: float
    val_accuracy: float
    ended: str
    kept: bool = True  # False when no epoch was better than before, and its weights were discarded


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
    activations: dict[str, int] = field(default_factory=dict)  # images run through the frozen trunk: computed, reused
    training_notes: list[str] = field(default_factory=list)
    data_findings: list[Finding] = field(default_factory=list)  # warnings of the data validation
    report_dir: str | None = None  # curves, confusion matrix, mistakes
    checks: list[Check] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)  # node ids whose outputs came from the cache
    new_version: bool = False  # False when the same model was already pushed
    quarantine_file: str | None = None
    splits: dict[str, int] = field(default_factory=dict)  # records by split
    conflicts: int = 0  # pictures that lie under several labels
    near_conflicts: int = 0  # groups of near copies that lie under several labels
    near_copies: int = 0  # images that are nearly the same as another
    leaks: int = 0  # groups of copies that lie in several splits
    copies_file: str | None = None  # a page with their pictures
    data_warnings: list[str] = field(default_factory=list)  # settings that ingest could not follow
    startup_seconds: float = 0.0  # imports and checks before the first node
    note: str = ""  # the gate's remarks, in addition to its checks
    serving: dict[str, Any] = field(default_factory=dict)  # measurements of the ServingValidator
    push_refused: str = ""  # why a blessed model was not pushed
    accuracy_interval: tuple[float, float] | None = None  # confidence interval of the accuracy
    # Accuracy on the images of the classes that both models know, when the served model knows other classes.
    compared_accuracy: float | None = None
    compared_examples: int = 0  # on which the two models were compared
    verdict_file: str | None = None  # the verdict as a person reads it
    # With `training.transfer_images_per_class`: `images_per_class`, all `images`, and the accuracies `pretrained` and
    # `random`.
    transfer: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return all fields as values that JSON can hold."""
        return asdict(self)


def read(config: Config, workspace: Workspace, seconds: Mapping[str, float], startup_seconds: float) -> RunSummary:
    """Read the summary of the latest run: `seconds` are those of each node, `startup_seconds` those before them."""
    from graftline.pipeline import lineage

    run_id, nodes = lineage.latest_run(lineage.connect(workspace.metadata))
    return RunSummary(
        run_id=run_id,
        seconds={node: round(value, 3) for node, value in seconds.items()},
        startup_seconds=round(startup_seconds, 3),
        cached=[name for name, node in nodes.items() if node.cached],
        **_data(nodes),
        **_training(nodes),
        **_serving(nodes),
        **_verdict(nodes, config, workspace),
        **_push(nodes),
    )


def _output(nodes: Mapping[str, "NodeRun"], node: str, output: str) -> pathlib.Path:
    return pathlib.Path(nodes[node].outputs[output].uri)


def _data(nodes: Mapping[str, "NodeRun"]) -> dict[str, Any]:
    from graftline.components.image_example_gen import DUPLICATES_PAGE, INGEST_SUMMARY, QUARANTINE_LIST

    report = _output(nodes, "ImageExampleGen", "quarantine")
    counts = json.loads((report / INGEST_SUMMARY).read_text())
    same_names = ("examples", "quarantined", "duplicates", "conflicts", "near_conflicts", "near_copies", "leaks")
    anomalies = _output(nodes, "ExampleValidator", "anomalies")
    return {name: counts[name] for name in same_names} | {
        "quarantine_file": str(report / QUARANTINE_LIST) if counts["quarantined"] else None,
        "splits": counts["by_split"],
        "copies_file": str(report / DUPLICATES_PAGE) if any(counts[kind] for kind in _COPIES) else None,
        "data_warnings": counts["warnings"],
        "data_findings": read_findings((anomalies / FINDINGS_FILE).read_text()),
    }


def _training(nodes: Mapping[str, "NodeRun"]) -> dict[str, Any]:
    from graftline.trainer import REPORT, TRAINING_FILE

    model = _output(nodes, "Trainer", "model")
    training = json.loads((model / TRAINING_FILE).read_text())

    def phase(of: Mapping[str, Any]) -> Phase:
        accuracy = math.nan if of["accuracy"] is None else of["accuracy"]
        return Phase(of["name"], of["epochs"], accuracy, of["val_accuracy"], of["ended"], of["kept"])

    return {
        "classes": training["labels"],
        "phases": [phase(of) for of in training["phases"]],
        "activations": training["activations"],
        "training_notes": training["notes"],
        "transfer": training["transfer"],
        "report_dir": str(model / REPORT),
    }


def _serving(nodes: Mapping[str, "NodeRun"]) -> dict[str, Any]:
    """Return what the ServingValidator measured; nothing for TFX's InfraValidator, which writes no such file."""
    path = _output(nodes, "ServingValidator", "blessing") / blessings.SERVING_VALIDATION_FILE
    return {"serving": json.loads(path.read_text())} if path.is_file() else {}


def _verdict(nodes: Mapping[str, "NodeRun"], config: Config, workspace: Workspace) -> dict[str, Any]:
    evaluation = _output(nodes, "Evaluator", "evaluation")
    verdict = Verdict.from_json((evaluation / VERDICT_FILE).read_text())
    return {
        "blessed": verdict.blessed,
        "accuracy": verdict.candidate.get("accuracy"),
        "accuracy_interval": verdict.intervals.get("accuracy"),
        "baseline_accuracy": verdict.baseline.get("accuracy"),
        "compared_accuracy": verdict.compared.get("accuracy") if verdict.other_classes else None,
        "compared_examples": verdict.compared_examples,
        "checks": verdict.checks,
        "note": note(verdict.note, config, workspace),
        "verdict_file": str(evaluation / VERDICT_TEXT),
    }


def note(note: str, config: Config, workspace: Workspace) -> str:
    """Return the gate's note. When nothing is served by this name, the note names the other models that are served."""
    from graftline.components.storage.versions import served_version

    models = pathlib.Path(workspace.models)
    if NOTHING_SERVED not in note or config.push.path or not models.is_dir():
        return note
    folders = [folder for folder in sorted(models.iterdir()) if folder.name != config.model_name]
    others = [folder.name for folder in folders if served_version(str(folder))]
    if not others:
        return note
    names = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
    one = "it" if len(others) == 1 else "one of them"
    return note.replace(
        NOTHING_SERVED,
        f"{NOTHING_SERVED} (this run's model is called {config.model_name}; the workspace serves {names}: set "
        f"model.name to go on with {one})",
    )


def _push(nodes: Mapping[str, "NodeRun"]) -> dict[str, Any]:
    push = nodes["Pusher"].outputs["pushed_model"].properties
    pushed = bool(push.get(blessings.PUSHED))
    return {
        "pushed_version": int(push[blessings.PUSHED_VERSION]) if pushed else None,
        "pushed_path": str(push[blessings.PUSHED_DESTINATION]) if pushed else None,
        "new_version": pushed and bool(push[blessings.NEW_VERSION]) and not nodes["Pusher"].cached,
        "push_refused": str(push.get(blessings.REFUSED, "")),
    }
