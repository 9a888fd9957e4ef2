"""Folders shaped as SavedModels, for tests of what only moves them about."""

import pathlib


def export(path: pathlib.Path, content: bytes = b"weights", files: int = 3) -> pathlib.Path:
    """A folder shaped as a SavedModel."""
    (path / "variables").mkdir(parents=True)
    (path / "assets").mkdir()
    (path / "saved_model.pb").write_bytes(b"graph")
    for number in range(files):
        (path / f"variables/{number}").write_bytes(content)
    return path
