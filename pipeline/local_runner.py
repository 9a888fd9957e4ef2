"""Runs the DAG on this machine: TFX's LocalDagRunner, Beam's direct runner, MLMD on SQLite, all under the workspace."""

import json
import logging
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

from graftline import imports
from graftline.blessings import SERVING_VALIDATION_FILE
from graftline.components.data_validation import findings
from graftline.components.evaluator import verdict as gate
from graftline.errors import UserError
from graftline.pipeline.config import BYTE_BATCHES, Config
from graftline.pipeline.console import Event
from graftline.pipeline.run_summary import Phase, RunSummary
from graftline.uri import is_uri
from graftline.workspace import Workspace

# What the page of copies shows, as counted in ingest's summary.
_COPIES = ("duplicates", "conflicts", "near_conflicts", "near_copies", "leaks")
ARTIFACTS = "artifacts"
QUARANTINE = "quarantine"
BEAM_OPTIONS = (
    "--direct_running_mode=in_memory",
    "--direct_num_workers=1",
    # Remote workers' image, of which there are none: without a name here each Beam stage packs TFX's sources for them,
    # which takes a second or two and leaves 42 MB in the temporary directory.
    "--sdk_container_image=none",
    BYTE_BATCHES,
)


def run(
    config: Config, fingerprint: str, progress: Callable[[Event], None], reset_baseline: bool = False
) -> RunSummary:
    """Runs every node that is not cached and reads what came of it.

    Args:
      config: `images` is set and was found good by `pipeline.preflight`.
      fingerprint: of the images' content.
      progress: called as each node starts and ends.
      reset_baseline: the gate compares with nothing, as in a first run.

    Raises:
      UserError: the user's mistake, found by a node or just before the first.
    """
    began = time.monotonic()
    if config.push.vertex.project is not None:
        raise UserError("push.vertex.project is set, but only a cluster's run deploys to Vertex: see graftline compile")
    workspace = pathlib.Path(config.workspace).resolve()
    with imports.kept():
        from absl import logging as absl_logging
        from tfx.orchestration.local.local_dag_runner import LocalDagRunner
        from tfx.orchestration.metadata import sqlite_metadata_connection_config

        from graftline.pipeline import lineage
        from graftline.pipeline.dag import create_pipeline
        from graftline.trainer import run_fn  # noqa: F401 - the Trainer looks for it by name
    _check_trunk(config)

    pipeline = create_pipeline(
        _resolved(config),
        pipeline_root=str(workspace / ARTIFACTS),
        models=str(workspace / Workspace.MODELS),
        fingerprint=fingerprint,
        served=_served(config, str(workspace / Workspace.MODELS)),
        reset_baseline=reset_baseline,
        report_dir=str(workspace / QUARANTINE),
        state=str(workspace),
        beam_pipeline_args=[*BEAM_OPTIONS, *config.beam.options],
        metadata_connection_config=sqlite_metadata_connection_config(str(workspace / lineage.METADATA_FILE)),
    )
    startup = time.monotonic() - began
    seconds: dict[str, float] = {}
    watcher = _NodeWatcher(progress, seconds)
    absl_logging.set_verbosity(absl_logging.INFO)
    logger = absl_logging.get_absl_logger()
    logger.addHandler(watcher)
    try:
        LocalDagRunner().run(pipeline)
    except BaseException:
        watcher.failed()
        raise
    finally:
        logger.removeHandler(watcher)
    summary = _summarise(config, workspace, seconds, startup)
    from graftline.pipeline import housekeeping

    housekeeping.after_run(config, progress)
    return summary


def _resolved(config: Config) -> Config:
    """The config with absolute paths, where they are none of a URI: TFX's cache knows a folder by its name."""

    def absolute(path: str) -> str:
        return path if is_uri(path) else str(pathlib.Path(path).resolve())

    manifest = config.data.manifest and absolute(config.data.manifest)
    data = config.data.model_copy(update={"manifest": manifest})
    return config.model_copy(update={"images": [absolute(path) for path in config.image_folders], "data": data})


def _check_trunk(config: Config) -> None:
    """Builds the trunk and finds the layers to unfreeze: wrong weights are told in seconds, not after ingest."""
    import keras

    from graftline.trainer import models

    trunk = models.build_trunk(config.backbone, config.head.cut_at)
    if config.fine_tuning.epochs > 0:
        models.layers_to_unfreeze(trunk, config.fine_tuning.unfreeze_from)
    # Keras numbers the layers that it names itself: the Trainer, in this process, must find the same names.
    keras.utils.clear_session()


def _served(config: Config, models: str) -> str:
    """Place of the version that a model server takes up: the highest. Empty when there is none."""
    from graftline.components.storage import versions as object_store
    from graftline.pipeline.dag import base_path

    return object_store.served_version(base_path(config, models))


class _NodeWatcher(logging.Handler):
    """Turns LocalDagRunner's log records into Events: it has no other way to say where it is."""

    def __init__(self, progress: Callable[[Event], None], seconds: dict[str, float]) -> None:
        super().__init__(logging.INFO)
        self._progress, self._seconds = progress, seconds
        self._node, self._began, self._cached = "", 0.0, False

    def emit(self, record: logging.LogRecord) -> None:
        """Only the format strings of the runner and the launcher matter."""
        if record.msg == "Component %s is running.":
            self._node, self._began, self._cached = str(record.args[0]), time.monotonic(), False  # type: ignore[index]
            self._progress(Event(self._node, "started", 0.0))
        elif record.msg == "A cached execution %d is used.":
            self._cached = True
        elif record.msg == "Component %s is finished.":
            self._end("cached" if self._cached else "finished")

    def failed(self) -> None:
        """The node that was running did not end well."""
        if self._node:
            self._end("failed")

    def _end(self, state: str) -> None:
        self._seconds[self._node] = time.monotonic() - self._began
        self._progress(Event(self._node, state, self._seconds[self._node]))  # type: ignore[arg-type]
        self._node = ""


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _note(note: str, config: Config, models: pathlib.Path) -> str:
    """The gate's note; where nothing is served by this name, but other models are, it names these."""
    if gate.NOTHING_SERVED not in note or config.push.path or not models.is_dir():
        return note
    from graftline.components.storage import versions as object_store

    others = [
        folder.name
        for folder in sorted(models.iterdir())
        if folder.name != config.model_name and object_store.served_version(str(folder))
    ]
    if not others:
        return note
    served = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
    one = "it" if len(others) == 1 else "one of them"
    return note.replace(
        gate.NOTHING_SERVED,
        f"{gate.NOTHING_SERVED} (this run's model is called {config.model_name}; the workspace serves {served}: set "
        f"model.name to go on with {one})",
    )


def _serving(blessing: str) -> dict[str, Any]:
    """What the serving validation measured; empty where TFX's InfraValidator asked in its place."""
    path = pathlib.Path(blessing, SERVING_VALIDATION_FILE)
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _summarise(config: Config, workspace: pathlib.Path, seconds: dict[str, float], startup: float) -> RunSummary:
    from graftline.components.image_example_gen import quarantine
    from graftline.components.image_example_gen.duplicates_report import HTML_NAME
    from graftline.pipeline import lineage
    from graftline.trainer.run_fn import REPORT, TRAINING_FILE

    run_id, nodes = lineage.latest_run(lineage.connect(str(workspace / lineage.METADATA_FILE)))
    evaluation = pathlib.Path(nodes["Evaluator"].outputs["evaluation"].uri)
    verdict = gate.Verdict.from_json((evaluation / gate.VERDICT_FILE).read_text())
    model = pathlib.Path(nodes["Trainer"].outputs["model"].uri)
    training = json.loads((model / TRAINING_FILE).read_text())
    left_out = pathlib.Path(nodes["ImageExampleGen"].outputs["quarantine"].uri)
    counts = json.loads((left_out / quarantine.SUMMARY_NAME).read_text())
    pushed = nodes["Pusher"].outputs["pushed_model"].properties
    version, path, new = None, None, False
    if pushed.get("pushed"):
        version, path = int(pushed["pushed_version"]), str(pushed["pushed_destination"])
        new = bool(pushed["new_version"]) and not nodes["Pusher"].cached
    return RunSummary(
        run_id=run_id,
        blessed=verdict.blessed,
        pushed_version=version,
        pushed_path=path,
        accuracy=verdict.candidate.get("accuracy"),
        baseline_accuracy=verdict.baseline.get("accuracy"),
        examples=counts["examples"],
        quarantined=counts["quarantined"],
        duplicates=counts["duplicates"],
        seconds={node: round(value, 3) for node, value in seconds.items()},
        classes=training["labels"],
        phases=[
            Phase(p["name"], p["epochs"], _number(p["accuracy"]), p["val_accuracy"], p["ended"], p["kept"])
            for p in training["phases"]
        ],
        activations=training["activations"],
        training_notes=training["notes"],
        transfer=training["transfer"],
        data_findings=findings.from_json(
            pathlib.Path(nodes["ExampleValidator"].outputs["anomalies"].uri, findings.FILE).read_text()
        ),
        report_dir=str(model / REPORT),
        checks=verdict.checks,
        cached=[name for name, node in nodes.items() if node.cached],
        new_version=new,
        quarantine_file=str(left_out / quarantine.CSV_NAME) if counts["quarantined"] else None,
        note=_note(verdict.note, config, workspace / Workspace.MODELS),
        serving=_serving(nodes["ServingValidator"].outputs["blessing"].uri),
        push_refused=str(pushed.get("refused", "")),
        accuracy_interval=verdict.intervals.get("accuracy"),
        compared_accuracy=verdict.compared.get("accuracy") if verdict.other_classes else None,
        compared_examples=verdict.compared_examples,
        verdict_file=str(evaluation / gate.VERDICT_TEXT),
        splits=counts["by_split"],
        conflicts=counts["conflicts"],
        near_conflicts=counts["near_conflicts"],
        near_copies=counts["near_copies"],
        leaks=counts["leaks"],
        copies_file=str(left_out / HTML_NAME) if any(counts[kind] for kind in _COPIES) else None,
        data_warnings=counts["warnings"],
        startup_seconds=round(startup, 3),
    )
