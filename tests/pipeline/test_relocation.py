"""A workspace that was moved or copied: every path in it leads to the new place, and none to the old one."""

import pathlib
import shutil

from graftline.pipeline import lineage, relocation
from graftline.serving.versions import model_config
from graftline.workspace import Workspace
from tests.pipeline import old_workspaces, workspaces


def paths_of(workspace: pathlib.Path) -> set[str]:
    """Return all paths in ML Metadata's artifacts, and those in `models.config`."""
    artifacts = lineage.connect(str(workspace / "metadata.db")).get_artifacts()
    values = [value for artifact in artifacts for value in lineage.properties(artifact).values()]
    config = (workspace / "models" / "models.config").read_text()
    listed = [line.split('"')[1] for line in config.splitlines() if "base_path" in line]
    return {artifact.uri for artifact in artifacts} | {text for text in map(str, values) if "/" in text} | {*listed}


def test_every_path_of_a_moved_workspace_leads_to_the_new_place(tmp_path: pathlib.Path) -> None:
    _, workspace = old_workspaces.unpack(tmp_path)
    before = paths_of(workspace)
    assert {path for path in before if not path.startswith(f"{old_workspaces.ROOT}/")} == set()
    assert relocation.mend(Workspace(str(workspace))) == [old_workspaces.ROOT]
    assert paths_of(workspace) == {path.replace(old_workspaces.ROOT, str(workspace), 1) for path in before}
    assert all(folder.is_dir() for folder in workspaces.live(workspace) if folder.name != "pushed_model")
    assert relocation.mend(Workspace(str(workspace))) == []


def test_a_copy_leads_to_itself_and_the_original_stays_as_it_is(tmp_path: pathlib.Path) -> None:
    _, original = old_workspaces.unpack(tmp_path / "a")
    relocation.mend(Workspace(str(original)))
    shutil.copytree(original, copy := tmp_path / "b")
    before = workspaces.tree(original)
    assert relocation.mend(Workspace(str(copy))) == [str(original)]
    assert workspaces.tree(original) == before
    assert {path for path in paths_of(copy) if not path.startswith(f"{copy}/")} == set()


def test_a_folder_of_versions_outside_the_workspace_keeps_its_path(tmp_path: pathlib.Path) -> None:
    _, workspace = old_workspaces.unpack(tmp_path)
    store = lineage.connect(str(workspace / "metadata.db"))
    (pushed,) = store.get_artifacts_by_type("PushedModel")
    pushed.custom_properties["pushed_destination"].string_value = "/workspace/elsewhere/photos/1"
    store.put_artifacts([pushed])
    relocation.mend(Workspace(str(workspace)))
    (pushed,) = store.get_artifacts_by_type("PushedModel")
    assert pushed.custom_properties["pushed_destination"].string_value == "/workspace/elsewhere/photos/1"


def test_a_new_workspace_has_nothing_to_mend(tmp_path: pathlib.Path) -> None:
    assert relocation.mend(Workspace(str(tmp_path))) == []
    assert list(tmp_path.iterdir()) == []


def test_the_server_finds_the_models_next_to_a_config_that_was_moved_or_copied(tmp_path: pathlib.Path) -> None:
    _, workspace = old_workspaces.unpack(tmp_path)
    path = workspace / "models" / "models.config"

    def base_path() -> str:
        (config,) = model_config.decode(path.read_bytes(), str(path))
        return config.base_path

    assert base_path() == str(workspace / "models" / "photos")
    path.write_text(path.read_text().replace(old_workspaces.ROOT, str(workspace)))
    shutil.copytree(workspace, copy := tmp_path / "copy")
    path = copy / "models" / "models.config"
    assert base_path() == str(copy / "models" / "photos")
    path.write_text("\n".join(path.read_text().splitlines()[3:]))  # a file that a person wrote means what it says
    assert base_path() == str(workspace / "models" / "photos")
