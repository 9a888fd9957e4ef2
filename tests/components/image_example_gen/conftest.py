"""Fixtures that several of ImageExampleGen's tests share."""

import pathlib

import pytest

from tests.components.image_example_gen.folders import FOUR
from tests.components.image_example_gen.pictures import begun


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    return begun(tmp_path / "photos", FOUR)
