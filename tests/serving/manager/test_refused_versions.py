"""Versions that cannot be loaded: the others answer, and the refused one is tried again."""

import os
import pathlib
import shutil
import threading
import time

import pytest

from graftline.errors import UserError
from graftline.serving.server.errors import Code
from graftline.serving.server.model.loaded_model import LoadedModel
from graftline.serving.server.model.manager import ModelManager
from graftline.serving.server.model.refusals import Refusals
from tests.serving.manager.managers import answers, break_version, config, states


def test_the_start_skips_a_broken_newest_version(push, managed):
    base_path = push(1)
    break_version(base_path, 2)
    manager = managed(config(base_path))
    assert answers(manager) == 1
    broken, sound = manager.states("m")
    assert (broken.version, broken.state, broken.code, sound.state) == (2, "END", Code.INVALID_ARGUMENT, "AVAILABLE")
    assert f"cannot load {base_path}/2: " in broken.message


def test_a_broken_version_is_tried_again_when_its_file_changes(push, managed, adder):
    base_path = push(1)
    loads: list[int] = []

    def load(path: str, name: str, version: int) -> LoadedModel:
        loads.append(version)
        return LoadedModel(path)

    manager = managed(config(base_path), load=load)
    break_version(base_path, 2)
    manager.poll()
    manager.poll()
    assert loads == [1, 2]
    shutil.rmtree(f"{base_path}/2")
    push(2)
    manager.poll()
    assert answers(manager) == 2


def test_a_version_that_is_there_in_part_is_loaded_when_the_rest_has_come(push, managed, adder):
    base_path = push(1)
    manager = managed(config(base_path))
    whole = pathlib.Path(adder(2))
    (partly := pathlib.Path(base_path, "2")).mkdir()
    shutil.copy(whole / "saved_model.pb", partly)
    manager.poll()
    assert (answers(manager), states(manager)[2]) == (1, "END")
    shutil.copytree(whole, partly, dirs_exist_ok=True, ignore=shutil.ignore_patterns("saved_model.pb"))
    manager.poll()
    assert answers(manager) == 2


def test_a_version_whose_files_go_on_arriving_is_tried_once_in_each_look(push, managed):
    tries: list[int] = []

    def load(path: str, name: str, version: int) -> LoadedModel:
        tries.append(version)
        if version == 2 and tries.count(2) < 4:
            pathlib.Path(path, f"more-{len(tries)}").write_bytes(b"x")  # arrives while the version is loaded
            raise ValueError("not all of it is there")
        return LoadedModel(path)

    base_path = push(1)
    manager = managed(config(base_path), load=load)
    push(2)
    for look in range(1, 4):
        manager.poll()
        assert (tries.count(2), answers(manager)) == (look, 1)
    manager.poll()
    assert answers(manager) == 2


def test_a_version_that_failed_for_a_passing_reason_is_tried_again_and_the_log_says_it_once(push, managed, caplog):
    tries: list[int] = []

    def load(path: str, name: str, version: int) -> LoadedModel:
        tries.append(version)
        if version == 2 and tries.count(2) < 4:
            raise MemoryError("no memory just now")
        return LoadedModel(path)

    base_path = push(1)
    manager = managed(config(base_path), load=load)
    now = 0.0
    manager._served["m"].refusals = Refusals(clock=lambda: now)
    push(2)
    for now in range(36):  # noqa: B007 - once a second, by the clock above
        manager.poll()
    assert tries == [1, 2, 2, 2, 2]  # at 0, 5, 15 and 35 seconds
    assert answers(manager) == 2
    refused = [record for record in caplog.records if record.getMessage().startswith("refused")]
    assert len(refused) == 1
    assert "no memory just now" in refused[0].getMessage()
    assert "it is tried again from time to time" in refused[0].getMessage()


def test_the_interval_between_two_tries_grows_to_ten_minutes():
    now, tries = 0.0, []
    refusals = Refusals(clock=lambda: now)
    for now in range(4_000):
        if not refusals.hold("/m/1", lambda _: "same"):
            tries.append(now)
            refusals.add("/m/1", "same", "broken")
    assert tries == [0, 5, 15, 35, 75, 155, 315, 635, 1235, 1835, 2435, 3035, 3635]


def test_one_version_under_two_names_is_served_once(push, managed):
    base_path = push(1)
    os.rename(f"{push(8, adds=108)}/8", f"{base_path}/008")
    manager = managed(config(base_path, "all"))
    assert answers(manager) == 108
    push(8)
    manager.poll()
    assert (answers(manager), states(manager)) == (8, {8: "AVAILABLE", 1: "AVAILABLE"})


def test_a_version_whose_load_raises_anything_is_skipped_and_polling_goes_on(push, managed):
    tried = {2: threading.Event(), 3: threading.Event()}

    def load(path: str, name: str, version: int) -> LoadedModel:
        if version in tried:
            tried[version].set()
        if version == 2:
            raise AttributeError("a fault that nobody thought of")
        return LoadedModel(path)

    base_path = push(1)
    manager = managed(config(base_path), load=load)
    manager.start_polling(0.01)
    for version in tried:
        os.rename(f"{push(version, 'aside')}/{version}", f"{base_path}/{version}")
        assert tried[version].wait(30)
    until = time.monotonic() + 30
    while manager.available_versions("m") != [3] and time.monotonic() < until:
        time.sleep(0.01)
    manager.close()
    third, second, first = manager.states("m")
    assert (third.state, second.state, first.state) == ("AVAILABLE", "END", "END")
    assert second.message == f"cannot load {base_path}/2: AttributeError('a fault that nobody thought of')"


def test_the_start_fails_with_the_reason_when_no_version_loads(push):
    break_version(str(push(1)), 1)
    base_path = os.path.dirname(push(1, "other"))
    manager = ModelManager([config(f"{base_path}/m")])
    with pytest.raises(UserError, match=r"model 'm' version 1: cannot load .*/m/1: .*; push it again"):
        manager.load()


def test_the_start_reports_a_missing_specific_version(push):
    manager = ModelManager([config(push(1), "specific:9")])
    with pytest.raises(UserError, match=r"model 'm': the policy is specific:9, but .*/m holds 1$"):
        manager.load()


def test_the_start_reports_an_empty_base_path(tmp_path):
    manager = ModelManager([config(str(tmp_path))])
    with pytest.raises(UserError, match="model 'm': no numbered version with a SavedModel in "):
        manager.load()
