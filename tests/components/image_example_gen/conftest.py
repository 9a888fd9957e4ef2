"""Fixtures that several of ImageExampleGen's tests share."""

import pathlib

import pytest

from tests.folders import FOUR, write_stubs


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    return write_stubs(tmp_path / "photos", FOUR)
