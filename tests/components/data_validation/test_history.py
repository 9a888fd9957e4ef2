"""Tests of the statistics that are kept from run to run."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import pytest

from graftline import features
from graftline.components.data_validation import history, statistics
from tests.components.data_validation.drawn_statistics import usual


def test_each_run_is_compared_with_the_last_one_of_other_images(tmp_path: pathlib.Path) -> None:
    folder = str(tmp_path / "statistics")
    numbers = {name: usual(seed) for seed, name in enumerate("ABC")}

    def run(images: str) -> tuple[int, int | None]:
        number = history.reference(folder, images)
        before = history.load(folder, number)
        history.accept(folder, images, number, numbers[images])
        if before is None:
            return number, None
        (same,) = (name for name, each in numbers.items() if _images_of(each) == _images_of(before))
        return number, "ABC".index(same)

    assert run("A") == (0, None)
    assert run("A") == (0, None), "the same images: compared with what they were compared with"
    assert run("B") == (2, 0)
    assert run("B") == (2, 0)
    assert run("A") == (4, 1), "images that return are compared with those that were there between"
    assert run("B")[1] == 0
    assert history.reference(folder, "") == 6, "where nobody knows the images it is the last run"
    assert len(os.listdir(folder)) == 3


def _images_of(statistics_by_split: Mapping[str, Any]) -> dict[str, float]:
    return {
        part: statistics.feature_of(each, features.BRIGHTNESS).num_stats.mean
        for part, each in statistics_by_split.items()
    }


def test_statistics_that_somebody_removed_are_no_reference(tmp_path: pathlib.Path) -> None:
    history.accept(str(tmp_path), "A", 0, usual())
    (tmp_path / "000001.pb").unlink()
    assert history.load(str(tmp_path), history.reference(str(tmp_path), "B")) is None


@pytest.mark.parametrize(
    "text", ["", "{", "\0\0\0", "[]", "{}", '{"number": 1}', '{"number": "x", "images": "A", "compared_with": 0}']
)
def test_a_damaged_record_of_the_last_run_is_passed_over_and_written_anew(tmp_path: pathlib.Path, text: str) -> None:
    history.accept(str(tmp_path), "A", 0, usual())
    (tmp_path / "last.json").write_text(text)
    assert history.reference(str(tmp_path), "B") == 0
    history.accept(str(tmp_path), "B", 0, usual())
    assert history.load(str(tmp_path), history.reference(str(tmp_path), "C")) is not None


@pytest.mark.parametrize("content", [b"", b"no protobuf"])
def test_damaged_statistics_are_no_reference(tmp_path: pathlib.Path, content: bytes) -> None:
    history.accept(str(tmp_path), "A", 0, usual())
    (tmp_path / "000001.pb").write_bytes(content)
    assert history.load(str(tmp_path), history.reference(str(tmp_path), "B")) is None


def test_a_record_of_a_newer_version_is_read(tmp_path: pathlib.Path) -> None:
    history.accept(str(tmp_path), "A", 0, usual())
    fields = json.loads((tmp_path / "last.json").read_text())
    (tmp_path / "last.json").write_text(json.dumps({**fields, "added": 1}))
    assert history.reference(str(tmp_path), "B") == 1
