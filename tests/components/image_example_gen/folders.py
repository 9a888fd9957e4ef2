"""Folders of files that only look like images, for the tests of `scan`, and what it refused of them."""

import pathlib

from graftline.components.image_example_gen.layouts import Layout
from tests.components.image_example_gen.pictures import put

FOUR = ("cats/1.jpg", "cats/2.jpg", "dogs/1.jpg", "dogs/2.jpg")


def make_split(root: pathlib.Path, *splits: str) -> None:
    for split in splits:
        for label in ("cats", "dogs"):
            put(root, f"{split}/{label}/1.jpg", b"x")
            put(root, f"{split}/{label}/2.jpg", b"x")


def refusals(layout: Layout) -> dict[str, str]:
    return {path: reason for path, _, reason in layout.refused}
