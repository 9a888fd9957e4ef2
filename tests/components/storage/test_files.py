"""Tests of the reading of files, and of the files that are refused."""

import os
import pathlib
import re

import pytest

from graftline.components.storage import files
from tests import assets
from tests.folders import write_file

HELLO = b"hello, world"


def refusal(path: pathlib.Path | str) -> str:
    with pytest.raises(OSError) as caught:
        files.read(str(path), 100)
    return str(caught.value.strerror)


@pytest.mark.parametrize("limit", [len(HELLO), len(HELLO) + 1, 1 << 40])
def test_a_file_within_the_limit_is_read_whole(tmp_path: pathlib.Path, limit: int) -> None:
    assert files.read(str(write_file(tmp_path, "a", HELLO)), limit) == (HELLO, len(HELLO))


def test_of_a_file_above_the_limit_only_the_size_is_told(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert files.read(str(path), 100) == (b"", 1 << 40)


def test_a_file_whose_size_is_not_told_beforehand_is_still_bounded() -> None:
    assert files.read("/proc/self/status", 10)[0] == b""  # its size is 0 until it is read
    assert files.read("/proc/self/status", 1 << 20)[0].startswith(b"Name:")


@pytest.mark.parametrize("told", [0, 10, 1 << 20])
def test_a_file_that_grows_or_shrinks_once_it_is_open_is_read_as_it_is_and_bounded(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, told: int
) -> None:
    content = bytes(range(256)) * 1000
    path = write_file(tmp_path, "a", content)
    earlier = write_file(tmp_path, "earlier", bytes(told)).stat()
    monkeypatch.setattr(os, "fstat", lambda _: earlier)
    assert files.read(str(path), 1 << 20) == (content, len(content))
    assert files.read(str(path), len(content)) == (content if told <= len(content) else b"", max(told, len(content)))
    if told < 1000:
        assert files.read(str(path), 1000) == (b"", 1001)


def test_why_a_file_cannot_be_read_is_plain_words(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe") == "is a named pipe, not a file"
    assert refusal(tmp_path) == "is a folder, not a file"
    assert refusal(tmp_path / "gone") == "No such file or directory"


def test_the_head_is_what_is_looked_at_for_the_format(tmp_path: pathlib.Path) -> None:
    path = write_file(tmp_path, "a", b"\x89PNG\r\n\x1a\n" + bytes(1000))
    assert len(files.head(str(path))) == files.HEAD_BYTES
    assert files.sniff(files.head(str(path))) == "png"


def test_no_other_room_knows_beams_file_systems() -> None:
    rooms = ("components", "pipeline", "trainer", "serving")
    sources = [path for room in rooms for path in (assets.ROOT / room).rglob("*.py") if path.parent.name != "storage"]
    assert len(sources) > 100
    assert [
        path.name for path in sources if re.search(r"apache_beam\.io\.(aws|gcp|filesystem)", path.read_text())
    ] == []
