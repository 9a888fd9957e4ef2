"""Folders of files that only look like images, for tests of ingest's scan and of storage."""

import pathlib
from collections.abc import Iterable

from graftline.components.image_example_gen.layouts import Layout

FOUR = ("cats/1.jpg", "cats/2.jpg", "dogs/1.jpg", "dogs/2.jpg")


def write_file(root: pathlib.Path, path: str, content: bytes) -> pathlib.Path:
    """Write `content` to `root/path`, make the folders above it and return the path."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def write_stubs(root: pathlib.Path, paths: Iterable[str] = FOUR) -> pathlib.Path:
    """Write files that begin as a JPEG does and all differ, and return `root`."""
    for path in paths:
        write_file(root, path, b"\xff\xd8\xff" + path.encode())
    return root


def write_splits(root: pathlib.Path, *splits: str) -> None:
    """Write the same four files of two classes for each split."""
    for split in splits:
        for path in FOUR:
            write_file(root, f"{split}/{path}", b"x")


def refusals(layout: Layout) -> dict[str, str]:
    """Return the reason for each refused path."""
    return {path: reason for path, _, reason in layout.refused}
