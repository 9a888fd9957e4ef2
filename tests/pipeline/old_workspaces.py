"""A workspace that an earlier version made, unpacked where a test runs: as if it had been moved there.

`data/workspace_of_0_1.tar.xz` was made by the version of Graftline at commit 857b485, before everything was imported
as `graftline.*` and before workspaces held the number of their format:

    graftline run --images photos --workspace ws --set backbone.name=MobileNet --set backbone.options={alpha: 0.25}
      --set backbone.input_size=32 --set backbone.weights=none --set fine_tuning.epochs=1

on 28 drawn images of two classes. Caches, logs, the report and TensorBoard's events are left out: no later run reads
them. Every path in it begins with /workspace.
"""

import pathlib
import tarfile

_ARCHIVE = pathlib.Path(__file__).parent / "data" / "workspace_of_0_1.tar.xz"
ROOT = "/workspace/ws"  # where it was made

SETTINGS = (
    "backbone.name=MobileNet",
    "backbone.options={alpha: 0.25}",
    "backbone.input_size=32",
    "backbone.weights=none",
)


def unpack(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Unpack the workspace of version 0.1; return its images and the workspace. Its paths are those of `ROOT`."""
    with tarfile.open(_ARCHIVE) as archive:
        archive.extractall(folder)
    return folder / "workspace" / "photos", folder / "workspace" / "ws"
