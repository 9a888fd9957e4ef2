"""What old runs left is removed, never what a kept model descends from, nor what is not the workspace's own."""

import os
import pathlib
import random
import shutil
import time

import pytest

from graftline.pipeline import housekeeping, lineage
from tests.pipeline.histories import History
from tests.pipeline.workspaces import live as _live
from tests.pipeline.workspaces import tree as _tree


@pytest.mark.parametrize("seed", range(4))
def test_all_that_a_kept_model_descends_from_is_there_and_nothing_else(tmp_path: pathlib.Path, seed: int) -> None:
    history, draw = History(tmp_path), random.Random(seed)
    for _ in range(10):
        history.run(
            name=draw.choice("mmn"),
            same=draw.random() < 0.4,
            warm=draw.random() < 0.3,
            blessed=draw.random() < 0.6,
            killed=draw.choice(["", "", "", "Data", "Trainer", "Pusher"]),
        )
        for version in history.versions():
            if draw.random() < 0.3:
                shutil.rmtree(version)
        if draw.random() < 0.6:
            history.run(blessed=draw.random() < 0.5)  # it ended well, so there is a cleaning
            keep_runs = draw.randint(1, 4)
            housekeeping.clean_up(tmp_path, keep_runs)
            history.check(keep_runs)


def test_what_killed_runs_left_goes_at_once_and_is_told_of(tmp_path: pathlib.Path) -> None:
    history = History(tmp_path)
    for node in ("Data", "Trainer"):
        history.run(blessed=False, killed=node)
    history.run()
    freed = housekeeping.clean_up(tmp_path, 10)
    assert freed.runs == {"run-0", "run-1"}
    assert freed.text == f"removed artifacts of 2 old runs, {freed.bytes} bytes"
    history.check(10)
    assert housekeeping.clean_up(tmp_path, 10).text == ""


def test_a_moved_workspace_keeps_what_its_models_descend_from(tmp_path: pathlib.Path) -> None:
    history = History(tmp_path / "here")
    for _ in range(3):
        history.run()
    shutil.rmtree(history.root / "models/m/2")
    (tmp_path / "here").rename(tmp_path / "there")
    housekeeping.clean_up(tmp_path / "there", 1)
    assert {path.name for path in (tmp_path / "there/artifacts/Trainer/model").iterdir()} == {"2", "10"}


def test_nothing_is_touched_outside_the_workspaces_own_folders(tmp_path: pathlib.Path) -> None:
    history = History(tmp_path / "workspace")
    for _ in range(4):
        history.run(blessed=False)
    artifacts, elsewhere = history.root / "artifacts", tmp_path / "elsewhere"
    # A node's folder moved to another disk, a link within a payload, a uri that points elsewhere.
    shutil.move(artifacts / "Data" / "examples", elsewhere)
    (artifacts / "Data" / "examples").symlink_to(elsewhere)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (artifacts / "Trainer" / "model" / "2" / "link").symlink_to(outside)
    store = lineage.connect(str(history.root / "metadata.db"))
    (foreign,) = [one for one in store.get_artifacts() if one.uri.endswith("Evaluator/evaluation/3")]
    foreign.uri = str(outside)
    store.put_artifacts([foreign])
    # Folders of nobody's: an execution that is not recorded, one of another node, names that TFX does not give.
    for folder in ("Trainer/model/999", "Trainer/model/1", "Trainer/model/mine", "Mine/things/2"):
        (artifacts / folder).mkdir(parents=True)
        (artifacts / folder / "precious").write_text("x")
    before, others = _tree(elsewhere), _tree(outside)

    freed = housekeeping.clean_up(history.root, 1)
    assert not freed.trouble
    assert not (artifacts / "Trainer/model/2").exists()
    assert _tree(elsewhere) == before and _tree(outside) == others
    assert outside in _live(history.root), "marked as gone, though it is there"
    assert artifacts / "Data/examples/1" in _live(history.root)
    for folder in ("Trainer/model/999", "Trainer/model/1", "Trainer/model/mine", "Mine/things/2"):
        assert (artifacts / folder / "precious").exists()


@pytest.mark.parametrize("linked", ["artifacts", "logs"])
def test_a_link_in_place_of_the_folder_is_not_followed(tmp_path: pathlib.Path, linked: str) -> None:
    history = History(tmp_path / "workspace")
    (history.root / "logs").mkdir()
    (history.root / "logs" / "run-1.log").write_text("old")
    os.utime(history.root / "logs" / "run-1.log", (0, 0))
    for _ in range(3):
        history.run(blessed=False)
    shutil.move(history.root / linked, tmp_path / "disk")
    (history.root / linked).symlink_to(tmp_path / "disk")
    before = _tree(tmp_path / "disk")
    housekeeping.clean_up(history.root, 1)
    assert _tree(tmp_path / "disk") == before


def test_logs_stay_with_their_runs(tmp_path: pathlib.Path) -> None:
    history = History(tmp_path)
    logs = tmp_path / "logs"
    logs.mkdir()
    for number, blessed in enumerate((False, True, False, False, False)):
        time.sleep(0.02)
        history.run(blessed=blessed)
        time.sleep(0.02)
        (logs / f"run-{number}.log").write_text("said")
    (logs / "mine.txt").write_text("said")
    os.utime(logs / "mine.txt", (0, 0))
    housekeeping.clean_up(tmp_path, 2)
    assert sorted(os.listdir(logs)) == ["mine.txt", "run-1.log", "run-3.log", "run-4.log"]
