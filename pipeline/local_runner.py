"""Run the DAG on this machine: TFX's LocalDagRunner, Beam's direct runner, ML Metadata on SQLite in the workspace."""

import contextlib
import importlib
import logging
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from graftline import imports, proxies
from graftline.components.storage import versions
from graftline.errors import UserError
from graftline.pipeline import run_summary
from graftline.pipeline.config import BYTE_BATCHES, Config
from graftline.pipeline.console import Event
from graftline.pipeline.run_summary import RunSummary
from graftline.pipeline.site import Site
from graftline.uri import is_uri
from graftline.workspace import Workspace

BEAM_OPTIONS = (
    "--direct_running_mode=in_memory",
    "--direct_num_workers=1",
    # No remote workers here. Without an image name each Beam stage packages TFX's sources (1-2 s, 42 MB).
    "--sdk_container_image=none",
    BYTE_BATCHES,
)


def run(
    config: Config, fingerprint: str, progress: Callable[[Event], None], reset_baseline: bool = False
) -> RunSummary:
    """Run every node that is not cached, and read back what the run did.

    `images` is set, and `pipeline.preflight` has checked the config. `fingerprint` is of the images' content.
    `progress` is called as each node starts and ends. With `reset_baseline` the gate compares with nothing.
    """
    began = time.monotonic()
    if config.push.vertex.project is not None:
        raise UserError("push.vertex.project is set, but only a cluster's run deploys to Vertex: see graftline compile")
    proxies.exempt_loopback(os.environ)  # TFX's InfraValidator asks a server on this machine
    with imports.exempt_from_gc():
        from absl import logging as absl_logging
        from tfx.orchestration.local.local_dag_runner import LocalDagRunner
        from tfx.orchestration.metadata import sqlite_metadata_connection_config

        from graftline.components.image_example_gen import mend_splits
        from graftline.pipeline import durable, housekeeping
        from graftline.pipeline.dag import RUN_FN, create_pipeline
        from graftline.trainer import check_training

        importlib.import_module(RUN_FN.rpartition(".")[0])  # by its name, as the Trainer does
    # Wrong weights are reported in seconds, not after ingest.
    for warning in check_training(config.backbone, config.head, config.fine_tuning, config.training):
        progress(Event("Check", "finished", 0.0, f"WARNING: {warning}"))

    workspace = Workspace(str(pathlib.Path(config.workspace).resolve()))
    _recover(workspace, progress)
    lost_splits = mend_splits(workspace.root, config.data.ingest)
    site = Site(workspace, fingerprint, readable=True)
    site = replace(site, served=versions.served_version(site.base_path(config)))
    pipeline = create_pipeline(
        _with_absolute_paths(config),
        site,
        reset_baseline,
        beam_pipeline_args=[*BEAM_OPTIONS, *config.beam.options],
        metadata_connection_config=sqlite_metadata_connection_config(workspace.metadata),
    )
    startup_seconds = time.monotonic() - began
    absl_logging.set_verbosity(absl_logging.INFO)
    with watched(absl_logging.get_absl_logger(), progress) as seconds, durable.outputs():
        LocalDagRunner().run(pipeline)
    summary = run_summary.read(config, workspace, seconds, startup_seconds)
    if lost_splits:
        summary = replace(summary, data_warnings=[lost_splits, *summary.data_warnings])
    housekeeping.after_run(config, progress)
    return summary


def _recover(workspace: Workspace, progress: Callable[[Event], None]) -> None:
    """Mend the paths of a workspace that was moved; take outputs that lost files out of the cache, and say so.

    Raises UserError if the file of ML Metadata is damaged.
    """
    if not os.path.isfile(workspace.metadata) or not os.path.getsize(workspace.metadata):
        _set_aside(workspace, progress)
        return
    from ml_metadata import errors

    from graftline.pipeline import durable, lineage, relocation

    began = time.monotonic()
    try:
        for place in relocation.mend(workspace):
            logging.info("the workspace was in %s before: its paths are mended", place)
        damaged = durable.withdraw_damaged(lineage.connect(workspace.metadata))
    except (errors.StatusError, RuntimeError) as error:
        raise UserError(
            f"{workspace.metadata} cannot be read ({str(error)[:100]}): restore the file from a backup, or move it "
            "away; without it every node runs again, and the pushed versions stay"
        ) from error
    if damaged:
        detail = f"files of {len(damaged)} outputs were lost, such as in {damaged[0]}: their nodes run again"
        progress(Event("Recovery", "finished", time.monotonic() - began, detail))


def _set_aside(workspace: Workspace, progress: Callable[[Event], None]) -> None:
    """Rename the outputs that no ML Metadata knows: new ones get the numbers, and so the folders, of these."""
    if os.path.isdir(workspace.artifacts) and os.listdir(workspace.artifacts):
        aside = f"{workspace.artifacts}-{time.strftime('%Y%m%d-%H%M%S')}"
        os.rename(workspace.artifacts, aside)
        detail = f"{workspace.metadata} is missing or empty: every node runs again; {aside} may be deleted"
        progress(Event("Recovery", "finished", 0.0, detail))


def _with_absolute_paths(config: Config) -> Config:
    """Return the config with absolute paths in place of relative ones: TFX's cache knows a folder by its name.

    The model keeps the name that it has by the path as the user gave it.
    """

    def absolute(path: str) -> str:
        return path if is_uri(path) else str(pathlib.Path(path).resolve())

    manifest = config.data.manifest and absolute(config.data.manifest)
    data = config.data.model_copy(update={"manifest": manifest})
    model = config.model.model_copy(update={"name": config.model_name})
    images = [absolute(path) for path in config.image_folders]
    return config.model_copy(update={"images": images, "data": data, "model": model})


@contextlib.contextmanager
def watched(logger: logging.Logger, progress: Callable[[Event], None]) -> Iterator[dict[str, float]]:
    """Report the nodes that LocalDagRunner runs inside the `with`, and yield a dict that gets the seconds of each."""
    seconds: dict[str, float] = {}
    watcher = _NodeWatcher(progress, seconds)
    logger.addHandler(watcher)
    try:
        yield seconds
    except BaseException as error:
        watcher.fail("stopped" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    finally:
        logger.removeHandler(watcher)


class _NodeWatcher(logging.Handler):
    """Makes Events of LocalDagRunner's log records: the runner has no other way to say where it is."""

    def __init__(self, progress: Callable[[Event], None], seconds: dict[str, float]) -> None:
        super().__init__(logging.INFO)
        self._progress, self._seconds = progress, seconds
        self._node, self._began, self._cached = "", 0.0, False

    def emit(self, record: logging.LogRecord) -> None:
        """Look at the format strings of the runner and the launcher only."""
        if record.msg == "Component %s is running.":
            self._node, self._began, self._cached = str(record.args[0]), time.monotonic(), False  # type: ignore[index]
            self._progress(Event(self._node, "started", 0.0))
        elif record.msg == "A cached execution %d is used.":
            self._cached = True
        elif record.msg == "Component %s is finished.":
            self._end("cached" if self._cached else "finished")

    def fail(self, state: str) -> None:
        """Report that the node that was running failed or was stopped."""
        if self._node:
            self._end(state)

    def _end(self, state: str) -> None:
        self._seconds[self._node] = time.monotonic() - self._began
        self._progress(Event(self._node, state, self._seconds[self._node]))  # type: ignore[arg-type]
        self._node = ""
