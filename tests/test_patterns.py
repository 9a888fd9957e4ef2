"""Paths that are patterns: a workspace is refused in words, a model's folder is loaded."""

import os
import pathlib
import shutil

import pytest

from graftline import patterns
from graftline.errors import UserError
from graftline.pipeline import preflight
from graftline.serving.predict import predict_with_model
from tests.images import image_of

NAMES = ["d [v2]", "a]b", "st*r", "wh?t", "back\\slash"]
HARMLESS = ["a #%20 b", "q'\"$x ~ü", "{x}", "n\nl", "-x", "~", "a,b:c;d&e", "花" * 80]


@pytest.mark.parametrize("name", NAMES)
def test_a_workspace_that_is_a_pattern_is_refused_with_the_character(tmp_path: pathlib.Path, name: str) -> None:
    character = next(c for c in name if c in "[]*?\\")
    with pytest.raises(UserError) as raised:
        preflight.make_workspace(str(tmp_path / name / "ws"))
    assert str(raised.value) == (
        f"workspace {tmp_path / name / 'ws'}: its path {tmp_path / name / 'ws'} holds '{character}', which makes the "
        "path a pattern for TensorFlow and Beam; give another with --workspace"
    )
    assert not (tmp_path / name).exists()


def test_a_workspace_behind_a_link_and_in_the_working_directory_is_looked_at_too(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d [v2]").mkdir()
    (tmp_path / "link").symlink_to("d [v2]")
    with pytest.raises(UserError, match="holds '\\['"):
        preflight.make_workspace(str(tmp_path / "link"))
    monkeypatch.chdir(tmp_path / "d [v2]")
    with pytest.raises(UserError, match="holds '\\['"):
        preflight.make_workspace("ws")


def test_bytes_that_are_no_text_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="holds a byte that is not UTF-8 for TensorFlow"):
        preflight.make_workspace(os.path.join(tmp_path, os.fsdecode(b"\xff")))


def test_a_place_to_push_to_may_be_a_pattern_and_must_be_text(tmp_path: pathlib.Path) -> None:
    for name in (*NAMES, *HARMLESS):
        preflight.check_push(str(tmp_path / name / "m"))
    with pytest.raises(UserError) as raised:
        preflight.check_push(os.path.join(tmp_path, os.fsdecode(b"\xff")))
    assert str(raised.value) == f"push.path {tmp_path}/\udcff holds a byte that is not UTF-8; give another folder"


@pytest.mark.parametrize("name", HARMLESS)
def test_other_awkward_names_make_a_workspace(
    tmp_path: pathlib.Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    preflight.make_workspace(name)
    assert (tmp_path / name).is_dir()


@pytest.mark.parametrize("name", [*NAMES, "n\nl", os.fsdecode(b"\xff")])
def test_a_model_in_any_folder_is_loaded(
    tmp_path: pathlib.Path, colour_model: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(colour_model, tmp_path / name / "1")
    (tmp_path / "red.png").write_bytes(image_of("red"))
    monkeypatch.chdir(tmp_path)
    (row,) = predict_with_model(name, ["red.png"])
    assert row.label == "red"


def test_a_temporary_folder_that_is_a_pattern_is_not_used(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "[t]").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "[t]"))
    with patterns.plain_path(str(tmp_path / "[t]")) as plain:
        assert not patterns.fault(plain)
        assert os.path.samefile(plain, tmp_path / "[t]")
    assert not os.path.lexists(plain)
