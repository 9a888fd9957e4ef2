"""A workspace that an earlier version made, unpacked where a test runs.

`data/workspace_of_0_1.tar.xz` was made by the version of Graftline at commit 857b485, before everything was imported
as `graftline.*` and before workspaces held the number of their format:

    graftline run --images photos --workspace ws --set backbone.name=MobileNet --set backbone.options={alpha: 0.25}
      --set backbone.input_size=32 --set backbone.weights=none --set fine_tuning.epochs=1

on 28 drawn images of two classes. Caches, logs, the report and TensorBoard's events are left out: no later run reads
them. Every path in it begins with /workspace.
"""

import contextlib
import pathlib
import sqlite3
import tarfile

_ARCHIVE = pathlib.Path(__file__).parent / "data" / "workspace_of_0_1.tar.xz"
_ROOT = "/workspace"
# Where ML Metadata keeps paths.
_COLUMNS = (("Artifact", "uri"), ("ArtifactProperty", "string_value"), ("ExecutionProperty", "string_value"))

SETTINGS = (
    "backbone.name=MobileNet",
    "backbone.options={alpha: 0.25}",
    "backbone.input_size=32",
    "backbone.weights=none",
)


def unpack(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Unpack the workspace of version 0.1 as if it had been made in `folder`; return its images and the workspace."""
    with tarfile.open(_ARCHIVE) as archive:
        archive.extractall(folder)
    images, workspace = folder / "workspace" / "photos", folder / "workspace" / "ws"
    root = str(workspace.parent)
    with contextlib.closing(sqlite3.connect(workspace / "metadata.db")) as database, database:
        for table, column in _COLUMNS:
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (f"{_ROOT}/", f"{root}/"))
    config = workspace / "models" / "models.config"
    config.write_text(config.read_text().replace(f"{_ROOT}/", f"{root}/"))
    return images, workspace
