"""Removes the files of old runs from the workspace, so that nightly runs do not fill the disk.

`pipeline.local_runner` calls it after a successful run, under the workspace's lock: no other run is active. It keeps
the outputs of the latest runs, every model version under `models/`, the last blessed model of each name (the next warm
start begins from it), and everything that these were made from, including the base models of warm starts.

An artifact is first marked as DELETED in ML Metadata, as TFX's `artifact_lib.update_artifacts` does, then its files are
removed. TFX's cache and resolvers use only live artifacts, so nothing uses a half-removed folder. In the other order
the cache would use it: the cache only checks that the folder exists. After an interrupted removal the files that are
left belong to no live artifact; the next call removes them, as it removes those of killed executions.
"""

import contextlib
import fnmatch
import logging
import os
import pathlib
import shutil
import time
import uuid
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ml_metadata import errors, metadata_store
from ml_metadata.proto import metadata_store_pb2

from graftline.blessings import BLESSED, CURRENT_MODEL, NEW_VERSION, PUSHED_DESTINATION
from graftline.components.storage.versions import destination
from graftline.pipeline import lineage
from graftline.pipeline.console import Event
from graftline.serving.versions.locate import is_version_name
from graftline.workspace import Workspace

if TYPE_CHECKING:
    from graftline.pipeline.config import Config

_NAME = "Housekeeping"  # in the progress and the log
_PUSHER = "Pusher"
# TFX's own folders next to a node's outputs (tfx/orchestration/portable/outputs_utils.py).
_SYSTEM, _EXECUTIONS, _STATEFUL = ".system", "executor_execution", "stateful_working_dir"


@dataclass
class Freed:
    """What was removed: its runs and its bytes. `trouble` says what could not be removed, and why."""

    runs: set[str] = field(default_factory=set)
    bytes: int = 0
    trouble: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """A line such as `removed artifacts of 3 old runs, 1.2 GB`; empty if nothing was to be removed."""
        sentences = []
        if self.bytes:
            runs = "1 old run" if len(self.runs) == 1 else f"{len(self.runs)} old runs"
            what = f"artifacts of {runs}" if self.runs else "leftovers"
            sentences.append(f"removed {what}, {_size_text(self.bytes)}")
        if self.trouble:
            more = f" and {len(self.trouble) - 1} more" if len(self.trouble) > 1 else ""
            sentences.append(f"could not remove {self.trouble[0]}{more}")
        return "; ".join(sentences)


def after_run(config: "Config", progress: Callable[[Event], None]) -> None:
    """Clean up the config's workspace by `housekeeping.keep_runs`. Errors are reported and never end the run."""
    if config.housekeeping.keep_runs is None:
        return
    began = time.monotonic()
    try:
        freed = clean_up(pathlib.Path(config.workspace), config.housekeeping.keep_runs, config.push.path)
        report = freed.text
        for trouble in freed.trouble:
            logging.warning("could not remove %s", trouble)
    except Exception as error:  # the run itself succeeded
        logging.warning("housekeeping stopped early", exc_info=True)
        report = f"stopped early ({type(error).__name__}: {str(error).strip()[:200]})"
    if report:
        logging.info("%s: %s", _NAME, report)
        progress(Event(_NAME, "finished", time.monotonic() - began, report))


def clean_up(workspace: pathlib.Path, keep_runs: int, pushed_to: str | None = None) -> Freed:
    """Remove what belongs neither to the latest runs nor to the descent of a kept model.

    Only these are removed: folders `artifacts/<node>/<output>/<execution>` and TFX's own folders next to them, of
    executions that the workspace's metadata records for that node, and `logs/run-*.log`. No link is followed, not even
    one in the place of `artifacts`.

    The versions under the base path `pushed_to` are kept, in addition to those under the workspace's `models/`.

    Raises:
      OSError: the models cannot be listed; nothing is removed.
      ml_metadata.errors.StatusError: the metadata cannot be read or written; nothing is removed.
    """
    places = Workspace(str(workspace.resolve()))
    store = lineage.connect(places.metadata)
    descent = lineage.descent(store)
    runs = sorted(store.get_contexts_by_type("pipeline_run"), key=lambda run: run.id)[-keep_runs:]
    latest = {execution.id for run in runs for execution in store.get_executions_by_context(run.id)}
    executions = _Executions(store)
    kept_executions = descent.upstream(
        descent.made_by(latest)
        | _pushed(descent, _versions(pathlib.Path(places.models)) | _versions_at(pushed_to))
        | _perhaps_pushed(store, descent, executions)
        | _last_blessed(store, descent)
    )

    freed = Freed()
    artifacts = pathlib.Path(places.artifacts)
    if artifacts.is_symlink():
        logging.warning("%s is a link: the artifacts of old runs in it are not removed", artifacts)
    elif artifacts.is_dir():
        marked = _mark(store, descent, kept_executions, artifacts)
        freed.runs |= {executions.run(execution) for execution, made in descent.outputs.items() if made & marked}
        _remove_payloads(artifacts, kept_executions, executions, freed)
    logs = pathlib.Path(places.logs)
    if runs and logs.is_dir() and not logs.is_symlink():
        since = min(run.create_time_since_epoch for run in runs)
        made = [descent.artifacts[artifact].create_time_since_epoch for artifact in descent.made_by(kept_executions)]
        _remove_logs(logs, since, made, freed)
    return freed


# --- what stays -------------------------------------------------------------------------------------------------------


def _versions(models: pathlib.Path) -> set[tuple[str, str]]:
    """Return name and number of every version under `models/<name>/<number>`."""
    if not os.path.lexists(models):  # OSError below for a link to an unmounted disk: its versions may still exist
        return set()
    bases = [base for base in os.scandir(models) if not base.is_file()]
    names = [(base.name, entry.name) for base in bases for entry in os.scandir(base.path)]
    return {(model, str(int(name))) for model, name in names if is_version_name(name)}


def _versions_at(base_path: str | None) -> set[tuple[str, str]]:
    """Return the same for one base path, a folder or a URI. Raises UserError if it cannot be reached."""
    if base_path is None:
        return set()
    base = destination(base_path)
    return {(pathlib.PurePath(base.path).name, str(version)) for version in base.versions()}


def _pushed(descent: lineage.Descent, versions: set[tuple[str, str]]) -> set[int]:
    """Return ids of the artifacts that record a push of one of the versions."""
    records: dict[tuple[str, ...], set[int]] = {}
    for artifact in sorted(descent.artifacts.values(), key=lambda artifact: artifact.id):
        properties = lineage.properties(artifact)
        # By the last two parts of the path: the workspace may have been moved since.
        version = pathlib.PurePath(properties.get(PUSHED_DESTINATION, "")).parts[-2:]
        if version in versions:
            if properties.get(NEW_VERSION):  # a number is used again after the highest version was removed
                records[version] = set()
            records.setdefault(version, set()).add(artifact.id)
    return set().union(*records.values())


def _perhaps_pushed(
    store: metadata_store.MetadataStore, descent: lineage.Descent, executions: "_Executions"
) -> set[int]:
    """Return ids of the inputs of every Pusher that was killed or failed: it may have pushed a version or not."""
    without_output = [execution for execution in descent.inputs if not descent.outputs.get(execution)]
    over = (metadata_store_pb2.Execution.COMPLETE, metadata_store_pb2.Execution.CACHED)
    broken = [row.id for row in store.get_executions_by_id(without_output) if row.last_known_state not in over]
    return {artifact for one in broken if executions.node(one) == _PUSHER for artifact in descent.inputs[one]}


def _last_blessed(store: metadata_store.MetadataStore, descent: lineage.Descent) -> set[int]:
    """Return for each pipeline the blessed model with the highest id, and its blessings.

    TFX's LatestBlessedModelStrategy finds the same model.
    """
    latest: set[int] = set()
    for pipeline in store.get_contexts_by_type("pipeline"):
        blessings: dict[int, set[int]] = {}
        ids = {artifact.id for artifact in store.get_artifacts_by_context(pipeline.id)} & set(descent.artifacts)
        for artifact in ids:
            properties = lineage.properties(descent.artifacts[artifact])
            if properties.get(BLESSED) == 1 and properties.get(CURRENT_MODEL) in ids:
                blessings.setdefault(properties[CURRENT_MODEL], set()).add(artifact)
        if blessings:
            newest = max(blessings)
            latest |= {newest} | blessings[newest]
    return latest


class _Executions:
    """The node and the run of executions; each is read once."""

    def __init__(self, store: metadata_store.MetadataStore) -> None:
        self._store = store
        self._contexts: dict[int, dict[str, str]] = {}

    def node(self, execution: int) -> str | None:  # None if no such execution is recorded
        # TFX names the context of a node "<pipeline>.<node id>".
        return self._names(execution).get("node", "").rpartition(".")[2] or None

    def run(self, execution: int) -> str:
        return self._names(execution).get("pipeline_run", "")

    def _names(self, execution: int) -> dict[str, str]:
        if execution not in self._contexts:
            self._contexts[execution] = {}
            with contextlib.suppress(errors.NotFoundError):
                contexts = self._store.get_contexts_by_execution(execution)
                self._contexts[execution] = {context.type: context.name for context in contexts}
        return self._contexts[execution]


# --- what goes --------------------------------------------------------------------------------------------------------


def _mark(
    store: metadata_store.MetadataStore, descent: lineage.Descent, kept_executions: set[int], root: pathlib.Path
) -> set[int]:
    """Mark as DELETED, at once, every artifact under `root` that no kept execution made; return the ids."""
    kept_artifacts = descent.made_by(kept_executions)
    deleted = [
        artifact
        for artifact in descent.artifacts.values()
        if artifact.id not in kept_artifacts and os.path.realpath(artifact.uri).startswith(f"{root}{os.sep}")
    ]
    for artifact in deleted:
        artifact.state = metadata_store_pb2.Artifact.DELETED
    if deleted:
        store.put_artifacts(deleted)
    return {artifact.id for artifact in deleted}


def _remove_payloads(root: pathlib.Path, kept_executions: set[int], executions: _Executions, freed: Freed) -> None:
    """Remove the folders of executions that are not kept, and TFX's working folders, which no later run needs."""
    for node in _folders(root):
        for output in _folders(node):
            if output.name == _SYSTEM:
                own = {folder.name: folder for folder in _folders(output)}
                for folder in _folders(own[_STATEFUL]) if _STATEFUL in own else ():
                    if _is_uuid(folder.name):
                        _remove(folder, freed)
                if _EXECUTIONS not in own:
                    continue
                output = own[_EXECUTIONS]
            for folder in _folders(output):
                # Another folder is not TFX's, or from before somebody removed the metadata.
                recorded = folder.name.isdecimal() and executions.node(int(folder.name)) == node.name
                if recorded and int(folder.name) not in kept_executions and _remove(folder, freed):
                    freed.runs.add(executions.run(int(folder.name)))


def _remove_logs(logs: pathlib.Path, since: int, times: list[int], freed: Freed) -> None:
    """Remove the logs of runs that ended before `since`, except those of runs that one of `times` lies in.

    Times are ms since 1970. Runs follow one another: a time belongs to the first log that was last written after it.
    """
    entries = [entry for entry in os.scandir(logs) if fnmatch.fnmatch(entry.name, "run-*.log")]
    files = sorted(
        (entry.stat().st_mtime * 1000, entry.path) for entry in entries if entry.is_file(follow_symlinks=False)
    )
    kept = {bisect_left(files, (time, "")) for time in times}
    for number, (ended, path) in enumerate(files):
        if ended < since and number not in kept:
            _remove(pathlib.Path(path), freed)


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
    """Return the folders in a folder, without links."""
    return sorted(pathlib.Path(entry.path) for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False))


def _is_uuid(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False


def _remove(path: pathlib.Path, freed: Freed) -> bool:
    """Remove a file or a folder; return whether that freed anything. Links in it are removed, their targets are not."""
    failures: list[OSError] = []
    before = _size(path)
    try:
        if path.is_dir():
            shutil.rmtree(path, onerror=lambda _function, _path, info: failures.append(info[1]))  # type: ignore[arg-type]
        else:
            path.unlink()
    except OSError as error:
        failures.append(error)
    if failures:
        freed.trouble.append(f"{path} ({failures[0].strerror or failures[0]})")
    removed = before - _size(path)
    freed.bytes += removed
    return removed > 0


def _size(path: pathlib.Path) -> int:
    """Return the bytes of all files under a path; 0 if it does not exist."""
    if not path.is_dir():
        return path.lstat().st_size if os.path.lexists(path) else 0
    total = 0
    for file in (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names):
        with contextlib.suppress(OSError):  # a file that cannot be read is not removed either
            total += os.lstat(file).st_size
    return total


def size_text(path: str) -> str:
    """Return the size of all files under a path, as a text such as `12 kB`."""
    return _size_text(_size(pathlib.Path(path)))


def _size_text(count: int) -> str:
    """Return a text such as `0 bytes`, `12 kB`, `3.4 MB`, `1.2 GB`."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}" if count < 10 * unit else f"{count / unit:.0f} {name}"
    return f"{count} bytes"
