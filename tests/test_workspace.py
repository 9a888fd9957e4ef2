"""The map of a workspace."""

import pathlib

import pytest

from graftline.errors import UserError
from graftline.pipeline import rollback
from graftline.serving.versions import locate
from graftline.workspace import Workspace


def test_a_workspace_at_a_uri_has_uris():
    workspace = Workspace("gs://bucket/ws/")
    assert workspace.metadata == "gs://bucket/ws/metadata.db"
    assert workspace.boundary_cache == "gs://bucket/ws/cache/boundary"
    assert workspace.base_path("roses") == "gs://bucket/ws/models/roses"


def test_every_folder_lies_in_the_root_and_is_named_once(tmp_path: pathlib.Path):
    folders = Workspace(str(tmp_path)).folders
    assert {str(pathlib.Path(folder).parent) for folder in folders} == {str(tmp_path)}
    assert len(set(folders)) == len(folders)


def test_a_workspace_is_known_by_the_base_path_of_a_model_in_it():
    workspace = Workspace("/data/ws")
    assert Workspace.of_base_path(workspace.base_path("roses")) == workspace


@pytest.mark.parametrize("base_path", ["/data/roses", "/data/models", "gs://bucket/ws/models/roses", "roses"])
def test_other_folders_of_versions_belong_to_no_workspace(base_path: str):
    assert Workspace.of_base_path(base_path) is None


@pytest.mark.parametrize("below", ["", "models", "models/m", "models/m/1"])
def test_no_command_reads_the_models_of_a_newer_workspace(tmp_path: pathlib.Path, below: str) -> None:
    (tmp_path / "models/m/1").mkdir(parents=True)
    (tmp_path / "models/m/1/saved_model.pb").touch()
    (tmp_path / "format").write_text("2\n")
    wanted = (
        f"a newer Graftline made workspace {tmp_path}: its format is 2, and this Graftline knows formats up to 1. "
        "Update Graftline, or name another"
    )
    path = str(tmp_path / below)
    for use in (locate.find_models, lambda path: rollback.run(path)):  # serve, predict and bulk; rollback
        with pytest.raises(UserError) as raised:
            use(path)
        assert str(raised.value).startswith(wanted)
    assert not (tmp_path / ".lock").exists()
    (tmp_path / "format").write_text("1\n")
    assert [model.name for model in locate.find_models(path)] == ["m"]
