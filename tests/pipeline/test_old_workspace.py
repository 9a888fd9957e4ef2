"""A workspace of version 0.1 that was moved goes on with this version, in a story of one workspace."""

import json
import pathlib
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from graftline.pipeline import lineage, rollback
from graftline.serving.versions import locate
from graftline.workspace import Workspace
from tests.pipeline import old_workspaces, workspaces

_SETTINGS = (
    *old_workspaces.SETTINGS,
    "training.warm_start=true",
    "feature_extraction.epochs=1",
    "fine_tuning.epochs=0",
    "gate.accuracy.min=0",
    "gate.accuracy.min_change=-1",
    "housekeeping.keep_runs=1",
)


@dataclass
class Night:
    """The first run of this version in the old workspace: what it printed as JSON, and the splits before it."""

    workspace: pathlib.Path
    splits: dict[str, bytes]
    old_artifacts: set[pathlib.Path]
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    images, workspace = old_workspaces.unpack(tmp_path_factory.mktemp("old"))
    before, old_artifacts = workspaces.tree(workspace / "splits"), set(workspaces.payloads(workspace))
    command = [pathlib.Path(sys.executable).with_name("graftline"), "run", "--json"]
    command += ["--images", images, "--workspace", workspace]
    for setting in _SETTINGS:
        command += ["--set", setting]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Night(workspace, before, old_artifacts, json.loads(done.stdout))


def test_the_run_is_judged_against_the_old_served_version_and_pushes_the_next(night: Night) -> None:
    summary = night.summary
    assert summary["blessed"]
    assert summary["baseline_accuracy"] == 0.875  # what the old run printed of its version 1
    assert (summary["pushed_version"], summary["new_version"]) == (2, True)
    assert "warm start from the last blessed model" in summary["training_notes"]


def test_every_image_keeps_its_split(night: Night) -> None:
    assert workspaces.tree(night.workspace / "splits") == night.splits
    assert night.summary["splits"] == {"train": 20, "eval": 8}


def test_the_workspace_has_a_format_now(night: Night) -> None:
    assert (night.workspace / "format").read_text() == "1\n"


def test_housekeeping_removes_old_artifacts_and_keeps_those_that_served_versions_were_made_from(night: Night) -> None:
    left = set(workspaces.payloads(night.workspace))
    removed = {path.parent.parent.name for path in night.old_artifacts - left}
    assert removed == {"ExampleValidator"}, "nothing is made from its findings"
    assert left == set(workspaces.live(night.workspace))


def test_the_model_server_finds_both_versions(night: Night) -> None:
    (model,) = locate.find_models(str(night.workspace))
    assert (model.name, sorted(model.versions)) == ("photos", [1, 2])


def test_a_rollback_serves_the_old_model_again(night: Night) -> None:
    done = rollback.run(str(night.workspace)).rolled_back
    assert (done.before, done.of, done.version) == (2, 1, 3)
    assert workspaces.tree(pathlib.Path(done.path)) == workspaces.tree(night.workspace / "models" / "photos" / "1")
    descent = lineage.descent(lineage.connect(Workspace(str(night.workspace)).metadata))
    (model,) = lineage.pushed_as(descent, "photos", 3)
    assert pathlib.Path(descent.artifacts[model].uri) == night.workspace / "artifacts" / "Trainer" / "model" / "7"
