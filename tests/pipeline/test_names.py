"""The name of a model: as the user knows the folder, one name for each folder, and kept in old workspaces."""

import os
import pathlib
import unicodedata

import pytest

from graftline import folder_name
from graftline.errors import UserError
from graftline.pipeline import app, names, preflight
from graftline.pipeline.config import ModelSettings
from graftline.pipeline.config_file import load
from graftline.workspace import Workspace
from tests import folders


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("花", "動物"),
        ("café", "cafe"),
        ("a b", "a-b"),
        ("a b", "a_b "),
        ("花1", "動物1"),
        ("photos!", "photos"),
        ("花", "model"),
    ],
)
def test_folders_with_different_names_never_make_one_name(one: str, other: str) -> None:
    first, second = names.from_folder(f"/data/{one}"), names.from_folder(f"gs://bucket/{other}/")
    assert first.casefold() != second.casefold()
    assert ModelSettings(name=first).name == first


def test_both_unicode_forms_of_a_folder_make_one_name() -> None:
    forms = {names.from_folder(unicodedata.normalize(form, "/data/café")) for form in ("NFC", "NFD")}
    assert len(forms) == 1


def test_a_link_keeps_its_name_whatever_it_leads_to(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "2026-11-30").mkdir()
    (tmp_path / "photos").symlink_to("2026-11-30")
    monkeypatch.chdir(tmp_path)
    for given in ("photos", "photos/", "./photos/.", "photos/../photos", str(tmp_path / "photos")):
        assert names.from_folder(given) == "photos", given
    monkeypatch.chdir(tmp_path / "photos")
    monkeypatch.setenv("PWD", str(tmp_path / "photos"))  # as a shell has it
    assert names.from_folder(".") == "photos"
    monkeypatch.setenv("PWD", "/nowhere")
    assert names.from_folder(".") == "2026-11-30"


def test_the_folder_above_a_link_is_not_the_one_above_its_target(tmp_path: pathlib.Path) -> None:
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "link").symlink_to(tmp_path / "real" / "inner")
    assert folder_name.of(str(tmp_path / "other" / "link" / "..")) == "real"


def test_a_file_system_that_ignores_case_gives_the_name_as_it_is_written_there(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Photos").mkdir()
    (tmp_path / "PHOTOS").symlink_to("Photos")  # both names reach one folder, and a listing has one of them
    listing = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: [name for name in listing(path) if name != "PHOTOS"])
    assert names.from_folder(str(tmp_path / "PHOTOS")) == "Photos"


def test_the_file_next_to_the_models_is_no_name() -> None:
    assert names.from_folder("/data/models.config").startswith("models.config-")
    with pytest.raises(UserError, match=r"model.name is 'models.config', but must be another name"):
        load(None, ["model.name=models.config"])


# --- in a workspace ---------------------------------------------------------------------------------------------------


def serve(root: pathlib.Path, model: str, *classes: str) -> Workspace:
    """Make a workspace that serves a version of a model with these classes."""
    folders.write_file(root, f"models/{model}/1/saved_model.pb", b"x")
    folders.write_file(root, f"models/{model}/1/assets/labels.txt", "".join(f"{name}\n" for name in classes).encode())
    return Workspace(str(root))


def test_an_old_workspace_keeps_its_model_for_the_folder_that_comes_first(tmp_path: pathlib.Path) -> None:
    workspace = serve(tmp_path, "model", "rose", "tulip")
    assert names.settle(workspace, "/data/花") == "model"
    names.claim(workspace, "model", "/data/花")
    assert names.settle(workspace, "/data/花") == "model"
    assert names.settle(workspace, "/data/動物") == names.from_folder("/data/動物")
    assert names.settle(workspace, "/data/model") not in ("model", names.from_folder("/data/動物"))


def test_an_old_workspace_keeps_its_model_for_a_link(tmp_path: pathlib.Path) -> None:
    """Earlier versions named the model after the folder that a link leads to."""
    (tmp_path / "photos-v1").mkdir()
    (tmp_path / "photos").symlink_to("photos-v1")
    link = str(tmp_path / "photos")
    workspace = serve(tmp_path / "ws", "photos-v1", "a", "b")
    assert names.settle(workspace, link) == "photos-v1"
    names.claim(workspace, "photos-v1", link)
    assert names.settle(workspace, link) == "photos-v1"
    assert names.settle(workspace, str(tmp_path / "photos-v1")).startswith("photos-v1-")
    (tmp_path / "photos").unlink()
    (tmp_path / "photos").symlink_to("2026-11-30")
    assert names.settle(workspace, link) == "photos"


def test_a_name_that_differs_by_case_alone_gets_a_hash(tmp_path: pathlib.Path) -> None:
    workspace = serve(tmp_path, "Photos", "a", "b")
    assert names.settle(workspace, "/data/Photos") == "Photos"
    assert names.settle(workspace, "/data/photos").startswith("photos-")
    serve(tmp_path, "photos", "a", "b")  # an old workspace that has both
    assert names.settle(workspace, "/data/photos") == "photos"


@pytest.mark.parametrize("damage", ["", "[1]", '{"a": '])
def test_a_damaged_record_of_the_names_stops_nothing(tmp_path: pathlib.Path, damage: str) -> None:
    workspace = serve(tmp_path, "photos", "a", "b")
    pathlib.Path(workspace.names).write_text(damage)
    assert names.settle(workspace, "/data/photos") == "photos"
    names.claim(workspace, "photos", "/data/photos")
    assert names.settle(workspace, "/data/photos") == "photos"


def test_a_model_that_shares_no_class_with_the_served_one_is_refused_before_the_training(
    tmp_path: pathlib.Path,
) -> None:
    serve(tmp_path / "ws", "photos", "rose", "tulip")
    config = load(None, ["images=/data/photos", f"workspace={tmp_path / 'ws'}"])
    with pytest.raises(UserError) as caught:
        app._settle_name(config, ["cat", "dog"], reset_baseline=False)
    assert str(caught.value) == (
        f"the model 'photos' is served from {tmp_path / 'ws/models/photos/1'}, and it knows none of the classes cat, "
        "dog: its classes are rose, tulip. If this is another model, name it with --set model.name=NAME. If it takes "
        "the place of the served one, add --reset-baseline"
    )
    assert not (tmp_path / "ws" / "names.json").exists()  # the name is still free for the folder that it was made for
    assert app._settle_name(config, ["cat", "dog"], reset_baseline=True).model.name == "photos"
    assert preflight.check_served_classes(config, ["cat", "tulip"]) == ""
    assert preflight.check_served_classes(config, ["Rose", "tulip"]) == (
        "the served model 'photos' has other classes; these names look alike and are not the same: 'Rose' and 'rose': "
        "give the folders their old names"
    )


def test_served_classes_that_look_alike_are_named(tmp_path: pathlib.Path) -> None:
    serve(tmp_path, "photos", "café", "thé")
    config = load(None, ["images=/data/photos", f"workspace={tmp_path}"])
    with pytest.raises(
        UserError, match=r"look alike and are not the same: 'cafe\u0301' \(cafe\\u0301\) and 'café' \(caf\\xe9\)"
    ):
        preflight.check_served_classes(config, ["cafe\u0301", "the\u0301"])


def test_served_classes_that_cannot_be_read_are_left_to_the_gate(tmp_path: pathlib.Path) -> None:
    serve(tmp_path, "photos", "rose", "tulip")
    config = load(None, ["images=/data/photos", f"workspace={tmp_path}"])
    labels = tmp_path / "models" / "photos" / "1" / "assets" / "labels.txt"
    labels.write_bytes(b"\xff\xfe\n")  # a model of other software, in another encoding
    assert preflight.check_served_classes(config, ["cat", "dog"]) == ""
    labels.unlink()
    assert preflight.check_served_classes(config, ["cat", "dog"]) == ""
