"""Removes what old runs left in the workspace, so that nightly runs do not fill the disk.

Called by `pipeline.cli` after a run that ended well, under the workspace's lock: no other run is under way. What stays
are the outputs of the latest runs, every model version under `models/`, the last blessed model of each name (a warm
start goes on from it), and everything that these were made of, also as the weights of a warm start.

An artifact is first marked as DELETED in ML Metadata, as TFX's `artifact_lib.update_artifacts` does it, then its files
are removed. TFX's cache and its resolvers take live artifacts only, so half a folder is used by nobody; the other way
round the cache, which looks only whether the folder is there, would take what is left of it. Files whose removal was
broken off belong to no live artifact, and the next call removes them, like those of executions that were killed.
"""

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

from graftline.components.storage.versions import destination
from graftline.pipeline import lineage
from graftline.pipeline.console import Event
from graftline.workspace import Workspace

if TYPE_CHECKING:
    from graftline.pipeline.config import Config

_NAME = "Housekeeping"  # what stands on its line of the progress
_PUSHER = "Pusher"
# TFX's own folders beside a node's outputs (tfx/orchestration/portable/outputs_utils.py).
_SYSTEM, _EXECUTIONS, _STATEFUL = ".system", "executor_execution", "stateful_working_dir"


@dataclass
class Freed:
    """What was removed: the runs it belonged to and its bytes. `trouble` says what could not be removed, and why."""

    runs: set[str] = field(default_factory=set)
    bytes: int = 0
    trouble: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """`removed artifacts of 3 old runs, 1.2 GB`; empty when nothing was there to be freed."""
        told = []
        if self.bytes:
            runs = "1 old run" if len(self.runs) == 1 else f"{len(self.runs)} old runs"
            what = f"artifacts of {runs}" if self.runs else "leftovers"
            told.append(f"removed {what}, {_size_text(self.bytes)}")
        if self.trouble:
            more = f" and {len(self.trouble) - 1} more" if len(self.trouble) > 1 else ""
            told.append(f"could not remove {self.trouble[0]}{more}")
        return "; ".join(told)


def after_run(config: "Config", progress: Callable[[Event], None]) -> None:
    """Cleans the config's workspace as `housekeeping.keep_runs` says; whatever goes wrong is told and ends nothing."""
    if config.housekeeping.keep_runs is None:
        return
    began = time.monotonic()
    try:
        freed = clean_up(pathlib.Path(config.workspace), config.housekeeping.keep_runs, config.push.path)
        told = freed.text
        for trouble in freed.trouble:
            logging.warning("could not remove %s", trouble)
    except Exception as error:  # the run ended well, whatever becomes of the files of those before it
        logging.warning("the cleaning ended early", exc_info=True)
        told = f"ended early ({type(error).__name__}: {str(error).strip()[:200]})"
    if told:
        logging.info("%s: %s", _NAME, told)
        progress(Event(_NAME, "finished", time.monotonic() - began, told))


def clean_up(workspace: pathlib.Path, keep_runs: int, pushed_to: str | None = None) -> Freed:
    """Removes what belongs neither to the latest `keep_runs` runs nor to the descent of a model that is kept.

    `pushed_to` is another base path of versions that are kept, beside those under the workspace's `models/`.

    Only folders `artifacts/<node>/<output>/<execution>` and TFX's own beside them, of executions that the workspace's
    metadata knows under that node, and `logs/run-*.log`. No link is followed, not even one in place of `artifacts`.

    Raises:
      OSError: the models can't be listed; nothing is removed.
      ml_metadata.errors.StatusError: the metadata can't be read or written; nothing is removed.
    """
    places = Workspace(str(workspace.resolve()))
    store = lineage.connect(places.metadata)
    descent = lineage.descent(store)
    runs = sorted(store.get_contexts_by_type("pipeline_run"), key=lambda run: run.id)[-keep_runs:]
    latest = {execution.id for run in runs for execution in store.get_executions_by_context(run.id)}
    known = _Executions(store)
    kept = descent.upstream(
        descent.made_by(latest)
        | _pushed(descent, _versions(pathlib.Path(places.models)) | _versions_at(pushed_to))
        | _perhaps_pushed(store, descent, known)
        | _last_blessed(store, descent)
    )

    freed = Freed()
    artifacts = pathlib.Path(places.artifacts)
    if artifacts.is_symlink():
        logging.warning("%s is a link: what old runs left there is not removed", artifacts)
    elif artifacts.is_dir():
        marked = _mark(store, descent, kept, artifacts)
        freed.runs |= {known.run(execution) for execution, made in descent.outputs.items() if made & marked}
        _remove_payloads(artifacts, kept, known, freed)
    logs = pathlib.Path(places.logs)
    if runs and logs.is_dir() and not logs.is_symlink():
        since = min(run.create_time_since_epoch for run in runs)
        made = [descent.artifacts[artifact].create_time_since_epoch for artifact in descent.made_by(kept)]
        _remove_logs(logs, since, made, freed)
    return freed


# --- what stays -------------------------------------------------------------------------------------------------------


def _versions(models: pathlib.Path) -> set[tuple[str, str]]:
    """Name and number of every version under `models/<name>/<number>`.

    Raises OSError for a link into nothing, as to a disk that is not mounted: its versions are not gone.
    """
    if not os.path.lexists(models):
        return set()
    bases = [base for base in os.scandir(models) if not base.is_file()]
    return {(base.name, entry.name) for base in bases for entry in os.scandir(base.path) if entry.name.isdecimal()}


def _versions_at(base_path: str | None) -> set[tuple[str, str]]:
    """The same of one base path, a folder or a URI. Raises UserError when it cannot be reached."""
    if base_path is None:
        return set()
    base = destination(base_path)
    return {(pathlib.PurePath(base.path).name, str(version)) for version in base.versions()}


def _pushed(descent: lineage.Descent, versions: set[tuple[str, str]]) -> set[int]:
    """Ids of the artifacts that tell of a push of one of the versions."""
    told: dict[tuple[str, ...], set[int]] = {}
    for artifact in sorted(descent.artifacts.values(), key=lambda artifact: artifact.id):
        properties = lineage.properties(artifact)
        # By its last two parts: the workspace may have been moved since.
        version = pathlib.PurePath(properties.get("pushed_destination", "")).parts[-2:]
        if version in versions:
            if properties.get("new_version"):  # the number is free again when the highest version was removed
                told[version] = set()
            told.setdefault(version, set()).add(artifact.id)
    return set().union(*told.values())


def _perhaps_pushed(store: metadata_store.MetadataStore, descent: lineage.Descent, known: "_Executions") -> set[int]:
    """Ids of what a Pusher took in that was killed or failed: nobody knows whether a version came of it."""
    fruitless = [execution for execution in descent.inputs if not descent.outputs.get(execution)]
    over = (metadata_store_pb2.Execution.COMPLETE, metadata_store_pb2.Execution.CACHED)
    broken = [row.id for row in store.get_executions_by_id(fruitless) if row.last_known_state not in over]
    return {artifact for one in broken if known.node(one) == _PUSHER for artifact in descent.inputs[one]}


def _last_blessed(store: metadata_store.MetadataStore, descent: lineage.Descent) -> set[int]:
    """Of each pipeline the model that TFX's LatestBlessedModelStrategy finds, the highest id, and its blessings."""
    found: set[int] = set()
    for pipeline in store.get_contexts_by_type("pipeline"):
        blessings: dict[int, set[int]] = {}
        ids = {artifact.id for artifact in store.get_artifacts_by_context(pipeline.id)} & set(descent.artifacts)
        for artifact in ids:
            told = lineage.properties(descent.artifacts[artifact])
            if told.get("blessed") == 1 and told.get("current_model_id") in ids:
                blessings.setdefault(told["current_model_id"], set()).add(artifact)
        if blessings:
            newest = max(blessings)
            found |= {newest} | blessings[newest]
    return found


class _Executions:
    """Node and run of executions; each is asked for once."""

    def __init__(self, store: metadata_store.MetadataStore) -> None:
        self._store = store
        self._contexts: dict[int, dict[str, str]] = {}

    def node(self, execution: int) -> str | None:
        """The node's id; None when no such execution is recorded."""
        # TFX names the context of a node "<pipeline>.<node id>".
        return self._names(execution).get("node", "").rpartition(".")[2] or None

    def run(self, execution: int) -> str:
        """The id of the run that it was part of."""
        return self._names(execution).get("pipeline_run", "")

    def _names(self, execution: int) -> dict[str, str]:
        if execution not in self._contexts:
            try:
                contexts = self._store.get_contexts_by_execution(execution)
            except errors.NotFoundError:
                contexts = []
            self._contexts[execution] = {context.type: context.name for context in contexts}
        return self._contexts[execution]


# --- what goes --------------------------------------------------------------------------------------------------------


def _mark(
    store: metadata_store.MetadataStore, descent: lineage.Descent, kept: set[int], root: pathlib.Path
) -> set[int]:
    """Marks as DELETED, all at once, what no kept execution put out, if it lies under `root`; gives the ids."""
    stay = descent.made_by(kept)
    gone = [
        artifact
        for artifact in descent.artifacts.values()
        if artifact.id not in stay and os.path.realpath(artifact.uri).startswith(f"{root}{os.sep}")
    ]
    for artifact in gone:
        artifact.state = metadata_store_pb2.Artifact.DELETED
    if gone:
        store.put_artifacts(gone)
    return {artifact.id for artifact in gone}


def _remove_payloads(root: pathlib.Path, kept: set[int], known: _Executions, freed: Freed) -> None:
    """Removes the folders of executions that are not kept, and TFX's working folders, which outlive no run."""
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
                # Of a node that never had such an execution: from before somebody removed the metadata, or not TFX's.
                ours = folder.name.isdecimal() and known.node(int(folder.name)) == node.name
                if ours and int(folder.name) not in kept and _remove(folder, freed):
                    freed.runs.add(known.run(int(folder.name)))


def _remove_logs(logs: pathlib.Path, since: int, times: list[int], freed: Freed) -> None:
    """Removes the logs of runs that ended before `since`, but for those in which one of `times` lies (ms since 1970).

    Runs follow one another: a time lies in the first log that was written to after it.
    """
    found = [
        (entry.stat().st_mtime * 1000, entry.path)
        for entry in os.scandir(logs)
        if entry.is_file(follow_symlinks=False) and entry.name.startswith("run-") and entry.name.endswith(".log")
    ]
    found.sort()
    stay = {bisect_left(found, (time, "")) for time in times}
    for number, (ended, path) in enumerate(found):
        if ended < since and number not in stay:
            _remove(pathlib.Path(path), freed)


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
    """The folders in a folder, links left out."""
    return sorted(pathlib.Path(entry.path) for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False))


def _is_uuid(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False


def _remove(path: pathlib.Path, freed: Freed) -> bool:
    """Removes a file or a folder; gives whether that freed anything. Links in it go, what they point at stays."""
    failed: list[OSError] = []
    before = _size(path)
    if path.is_dir():
        shutil.rmtree(path, onerror=lambda _function, _path, info: failed.append(info[1]))  # type: ignore[arg-type]
    else:
        try:
            path.unlink()
        except OSError as error:
            failed.append(error)
    if failed:
        freed.trouble.append(f"{path} ({failed[0].strerror or failed[0]})")
    less = before - _size(path)
    freed.bytes += less
    return less > 0


def _size(path: pathlib.Path) -> int:
    """Bytes of all files under a path; 0 when it is not there."""
    if not path.is_dir():
        return path.lstat().st_size if os.path.lexists(path) else 0
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:  # what cannot be looked at is not removed either
                continue
    return total


def _size_text(count: int) -> str:
    """`0 bytes`, `12 kB`, `3.4 MB`, `1.2 GB`."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}" if count < 10 * unit else f"{count / unit:.0f} {name}"
    return f"{count} bytes"
