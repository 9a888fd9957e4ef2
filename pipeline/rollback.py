"""`graftline rollback`: serves an earlier version again, and withdraws the served one, also in ML Metadata.

The withdrawal is a file next to the versions (`serving.versions.withdrawals`), which every orchestrator reads. In a
local workspace the blessing in ML Metadata is removed too, so that a warm start begins from the model before.
Imports no TFX.
"""

import os
from dataclasses import asdict, dataclass
from typing import Any

from graftline.components.storage.versions import ObjectStore, destination
from graftline.errors import UserError
from graftline.serving.versions import locate, rollback
from graftline.serving.versions.rollback import RolledBack
from graftline.uri import is_uri
from graftline.workspace import Workspace


@dataclass(frozen=True)
class Outcome:
    """What was done; `trouble` says why ML Metadata could not be updated."""

    rolled_back: RolledBack
    trouble: str = ""

    @property
    def text(self) -> str:
        """A text for the user."""
        did = self.rolled_back
        fate = f"version {did.before} is withdrawn: its model is not pushed again unless push.allow_withdrawn is true"
        if not did.withdrawn:
            fate = f"the rollback from version {did.of} is undone"
        result = f"rolled back from version {did.before} to {did.of}, which is now version {did.version}: {did.path}"
        return f"{result}\n{fate}" + (f"\nnote: {self.trouble}" if self.trouble else "")

    def as_json(self) -> dict[str, Any]:
        """Return the outcome as values for JSON."""
        return {**asdict(self.rolled_back), "note": self.trouble or None}


def run(path: str, name: str | None = None, to: int | None = None) -> Outcome:
    """Roll back a model to version `to`, or to the last good one.

    `path` is a workspace, or the base path of a model's versions, on disk or as a URI. `name` is the model, if there
    are several, and for a workspace at a URI. UserError: the model or version does not exist, or there is none to go
    back to.
    """
    base_path = _base_path(path, name)
    if workspace := Workspace.of_base_path(base_path):
        workspace.check_format("name another workspace")
    done = rollback.roll_back(destination(base_path), to)
    return Outcome(done, _update_metadata(base_path, done))


def _base_path(path: str, name: str | None) -> str:
    if is_uri(path):
        if ObjectStore(path).versions():
            return path
        if name is None:
            raise UserError(
                f"{path} holds no versions: give the folder of a model's versions, or name the model with --name"
            )
        return Workspace(path).base_path(name)
    model = locate.find_model(path, name)
    if model.base_path is None:
        raise UserError(f"{path} is a single model without other versions: give a workspace, or a folder of versions")
    return model.base_path


def _update_metadata(base_path: str, done: RolledBack) -> str:
    """Withdraw the blessing and record the push; return why that failed, or "" (also if there is no metadata)."""
    workspace = Workspace.of_base_path(base_path)
    if workspace is None or not os.path.isfile(workspace.metadata):
        return ""
    from ml_metadata import errors

    from graftline.pipeline import lineage, relocation

    name = os.path.basename(base_path)
    try:
        relocation.mend(Workspace(os.path.realpath(workspace.root)))
        store = lineage.connect(workspace.metadata)
        descent = lineage.descent(store)
        if done.withdrawn:
            lineage.withdraw(store, lineage.pushed_as(descent, name, done.before))
        restored = lineage.pushed_as(descent, name, done.of)
        if done.withdrawn is None:
            lineage.withdraw(store, restored, back=True)
        if restored:
            lineage.record_rollback(store, restored, done.path, done.version)
    except (errors.StatusError, RuntimeError) as error:  # the versions are already right
        why = f"{workspace.metadata} could not be updated ({str(error)[:100]})"
        return f"{why}: a warm start may still begin from the withdrawn model"
    return ""
