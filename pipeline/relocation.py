"""Mends the absolute paths in a workspace that was moved or copied, so that nothing leads to the old place.

ML Metadata holds the path of each artifact, `models/models.config` that of each model. A run and a rollback call `mend`
first. After a copy the old place is still there, and a run in the copy must neither read nor change it. Imports no TFX.
"""

import os
from collections.abc import Iterable

from ml_metadata.proto import metadata_store_pb2

from graftline.pipeline import lineage
from graftline.serving.versions import labels
from graftline.workspace import Workspace


def mend(workspace: Workspace) -> list[str]:
    """Return the folders in which the workspace was before, after naming its own folder in their place.

    `workspace.root` is an absolute path. The caller holds the workspace's lock.

    Raises:
      ml_metadata.errors.StatusError: the metadata cannot be read or written.
    """
    if not os.path.isfile(workspace.metadata):
        return []
    store = lineage.connect(workspace.metadata)
    artifacts = store.get_artifacts()
    before = sorted({root for artifact in artifacts if (root := _root_of(artifact.uri))} - {workspace.root})
    moves = [(old, new) for root in before for old, new in _moves(Workspace(root), workspace)]
    if changed := [artifact for artifact in artifacts if _move(artifact, moves)]:
        store.put_artifacts(changed)
    if before:
        labels.relocate(workspace.models, [Workspace(root).models for root in before])
    return before


def _root_of(uri: str) -> str:
    """Return `<root>` of an artifact's path, `<root>/artifacts/<node>/<output>/<execution>`; "" for other paths."""
    artifacts = os.path.dirname(os.path.dirname(os.path.dirname(uri)))
    root = os.path.dirname(artifacts)
    return root if os.path.isabs(root) and Workspace(root).artifacts == artifacts else ""


def _moves(old: Workspace, new: Workspace) -> Iterable[tuple[str, str]]:
    """Return the beginnings of paths under the old folders, and what takes their place."""
    return ((f"{before}{os.sep}", f"{after}{os.sep}") for before, after in zip(old.folders, new.folders, strict=True))


def _move(artifact: metadata_store_pb2.Artifact, moves: Iterable[tuple[str, str]]) -> bool:
    """Name the new folders in an artifact's path and properties; return whether that changed any."""
    changed = False
    for old, new in moves:
        if artifact.uri.startswith(old):
            artifact.uri, changed = new + artifact.uri.removeprefix(old), True
        for values in (artifact.properties, artifact.custom_properties):
            for value in values.values():
                if value.string_value.startswith(old):
                    value.string_value, changed = new + value.string_value.removeprefix(old), True
    return changed
