"""Fixtures that several tests of the pipeline share."""

import pathlib
from collections.abc import Callable

import pytest

from tests.images import write_noise_folder


@pytest.fixture
def write(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes config.yaml in the current directory and gives its name."""
    monkeypatch.chdir(tmp_path)

    def write_config(text: str) -> str:
        pathlib.Path("config.yaml").write_text(text)
        return "config.yaml"

    return write_config


@pytest.fixture
def images(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two classes of two images."""
    return write_noise_folder(tmp_path / "images", cat=2, dog=2)
