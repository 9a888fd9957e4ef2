"""Folders in the form of SavedModels, for tests of code that only moves them."""

import pathlib


def export(path: pathlib.Path, content: bytes = b"weights", files: int = 3) -> pathlib.Path:
    """Write a folder in the form of a SavedModel."""
    (path / "variables").mkdir(parents=True)
    (path / "assets").mkdir()
    (path / "saved_model.pb").write_bytes(b"graph")
    for number in range(files):
        (path / f"variables/{number}").write_bytes(content)
    return path
