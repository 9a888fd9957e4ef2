"""Folders in the form of SavedModels, for tests of code that only moves them; pushes to a folder on disk."""

import pathlib

from graftline.serving.versions.base_path import Disk
from graftline.serving.versions.publish import Published, push


def export(path: pathlib.Path, content: bytes = b"weights", files: int = 3) -> pathlib.Path:
    """Write a folder in the form of a SavedModel."""
    (path / "variables").mkdir(parents=True)
    (path / "assets").mkdir()
    (path / "saved_model.pb").write_bytes(b"graph")
    for number in range(files):
        (path / f"variables/{number}").write_bytes(content)
    return path


def publish(model: str, base_path: str, keep: int | None = None, allow_withdrawn: bool = False) -> Published:
    """Push to a folder on disk, which is created if it is missing."""
    return push(model, Disk(base_path), keep, allow_withdrawn)
