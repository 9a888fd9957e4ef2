"""Outputs are flushed before they are recorded, and those that lost files are withdrawn from the cache."""

import json
import os
import pathlib
from typing import Any

import pytest
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration.portable import data_types, launcher
from tfx.proto.orchestration import executable_spec_pb2
from tfx.types import standard_artifacts

from graftline.errors import UserError
from graftline.pipeline import durable, lineage, local_runner
from graftline.pipeline.console import Event
from graftline.workspace import Workspace


@pytest.fixture
def output(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder as a node leaves it."""
    folder = tmp_path / "artifacts/Trainer/model/3"
    (folder / "Format-Serving").mkdir(parents=True)
    (folder / "Format-Serving/saved_model.pb").write_bytes(b"graph")
    (folder / "labels.txt").write_bytes(b"a\nb\n")
    return folder


def record(workspace: Workspace, folder: pathlib.Path, **properties: str) -> int:
    store = lineage.connect(workspace.metadata)
    kind = store.put_artifact_type(metadata_store_pb2.ArtifactType(name="Model"))
    artifact = metadata_store_pb2.Artifact(type_id=kind, uri=str(folder), state=metadata_store_pb2.Artifact.LIVE)
    for name, value in properties.items():
        artifact.custom_properties[name].string_value = value
    return store.put_artifacts([artifact])[0]


def state_of(workspace: Workspace, artifact: int) -> int:
    return lineage.connect(workspace.metadata).get_artifacts_by_id([artifact])[0].state


@pytest.fixture
def workspace(tmp_path: pathlib.Path) -> Workspace:
    places = Workspace(str(tmp_path))
    pathlib.Path(places.metadata).touch()
    return places


class Executor:
    """An executor that writes a file."""

    def __init__(self, context: Any) -> None:
        pass

    def Do(self, inputs: Any, outputs: Any, properties: Any) -> None:  # noqa: N802 (TFX's name)
        pathlib.Path(outputs["model"][0].uri, "file").write_bytes(b"content")


def test_an_output_is_on_disk_and_noted_when_its_executor_has_returned(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append(os.readlink(f"/proc/self/fd/{number}")))
    model = standard_artifacts.Model()
    model.uri = str(tmp_path)
    kind = executable_spec_pb2.PythonClassExecutableSpec
    before = dict(launcher.DEFAULT_EXECUTOR_OPERATORS)
    with durable.outputs():
        operator = launcher.DEFAULT_EXECUTOR_OPERATORS[kind](kind(class_path=f"{__name__}.Executor"))
        places = dict.fromkeys(("execution_output_uri", "stateful_working_dir", "tmp_dir"), str(tmp_path / "elsewhere"))
        info = data_types.ExecutionInfo(output_dict={"model": [model]}, exec_properties={}, **places)
        result = operator.run_executor(info)
    assert before == launcher.DEFAULT_EXECUTOR_OPERATORS
    assert {str(tmp_path / "file"), str(tmp_path)} <= set(flushed)
    (published,) = result.output_artifacts["model"].artifacts
    assert json.loads(published.custom_properties[durable.FILES].string_value) == {"file": 7}


@pytest.mark.parametrize("damage", ["cut", "emptied", "removed", "all removed", "longer"])
def test_an_output_that_lost_files_is_withdrawn_and_the_user_told(
    workspace: Workspace, output: pathlib.Path, damage: str
) -> None:
    noted = {durable.FILES: json.dumps(durable.sizes(str(output)))}
    whole, damaged = (record(workspace, folder, **noted) for folder in (output, output))
    graph = output / "Format-Serving/saved_model.pb"
    events: list[Event] = []
    local_runner._recover(workspace, events.append)
    assert events == []
    {
        "cut": lambda: graph.write_bytes(b"gra"),
        "emptied": lambda: graph.write_bytes(b""),
        "removed": graph.unlink,
        "all removed": lambda: output.rename(output.with_name("4")),
        "longer": lambda: graph.write_bytes(b"graph graph"),
    }[damage]()
    local_runner._recover(workspace, events.append)
    assert [state_of(workspace, one) for one in (whole, damaged)] == [metadata_store_pb2.Artifact.DELETED] * 2
    (event,) = events
    assert event.detail == f"files of 2 outputs were lost, such as in {output}: their nodes run again"
    local_runner._recover(workspace, events.append)
    assert len(events) == 1


def test_added_files_and_outputs_of_earlier_versions_stay(workspace: Workspace, output: pathlib.Path) -> None:
    known = record(workspace, output, **{durable.FILES: json.dumps(durable.sizes(str(output)))})
    unknown = record(workspace, output / "gone")
    (output / ".DS_Store").write_bytes(b"of a file manager")
    local_runner._recover(workspace, lambda event: pytest.fail(str(event)))
    assert [state_of(workspace, one) for one in (known, unknown)] == [metadata_store_pb2.Artifact.LIVE] * 2


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_outputs_without_metadata_are_set_aside(workspace: Workspace, output: pathlib.Path, left: str) -> None:
    """A new ML Metadata counts from 1 again, and a node's new folder must not be an old one that holds files."""
    if left == "nothing":
        pathlib.Path(workspace.metadata).unlink()
    events: list[Event] = []
    local_runner._recover(workspace, events.append)
    assert not output.exists()
    (aside,) = pathlib.Path(workspace.root).glob("artifacts-*")
    assert (aside / "Trainer/model/3/labels.txt").is_file()
    (event,) = events
    assert event.detail == f"{workspace.metadata} is missing or empty: every node runs again; {aside} may be deleted"
    local_runner._recover(workspace, events.append)
    assert len(events) == 1


def test_damaged_metadata_is_one_message(workspace: Workspace) -> None:
    pathlib.Path(workspace.metadata).write_bytes(b"no database, but longer than a page header of SQLite " * 100)
    with pytest.raises(UserError, match=r"metadata\.db cannot be read .*: restore the file from a backup, or move it"):
        local_runner._recover(workspace, lambda event: None)
