"""--model-config-file of a running server: a change of the file is applied, unless the file is malformed."""

import logging
import pathlib
import shutil
import time

import pytest

from graftline.errors import UserError
from graftline.serving.server import ModelServer, ServerOptions
from graftline.serving.server.config_file import ConfigFile
from graftline.serving.server.model.manager import ModelManager
from graftline.serving.tf_serving import engine


def write(file: pathlib.Path, *entries: str) -> None:
    listed = " ".join(
        f"config {{ {name_and_more(file.parent, entry)} model_platform: 'tensorflow' }}" for entry in entries
    )
    file.write_text(f"model_config_list {{ {listed} }}")


def name_and_more(folder: pathlib.Path, entry: str) -> str:
    name, _, more = entry.partition(" ")
    return f"name: '{name}' base_path: '{folder / name}' {more}"


@pytest.fixture
def file(tmp_path, float_model) -> pathlib.Path:
    """A config that names `first`. The base paths of `first` and `second` are in its folder."""
    for place in ("first/1", "first/2", "second/5"):
        shutil.copytree(float_model, tmp_path / place)
    write(tmp_path / "models.config", "first")
    return tmp_path / "models.config"


@pytest.fixture
def looked(file):
    """(manager, a function that makes it read the file)"""
    config = ConfigFile(str(file))
    manager = ModelManager(config.read())
    manager.load()
    yield manager, lambda: config.look(manager)
    manager.close()


def served(manager: ModelManager) -> dict[str, list[int]]:
    return {
        name: [found.version for found in manager.states(name) if found.state == "AVAILABLE"] for name in manager.names
    }


def test_a_changed_file_is_applied_without_a_restart(file):
    options = ServerOptions(
        port=0,
        rest_api_port=0,
        model_config_file=str(file),
        file_system_poll_wait_seconds=0,
        model_config_file_poll_wait_seconds=0.05,
    )
    with ModelServer([], options=options) as running:
        assert running.served == {"first": [2]}
        write(file, "first model_version_policy { all {} }", "second")
        deadline = time.monotonic() + 20
        while running.served != {"first": [2, 1], "second": [5]}:
            assert time.monotonic() < deadline


def test_how_often_the_file_is_read():
    assert ServerOptions(file_system_poll_wait_seconds=7).config_poll_seconds == 7
    assert ServerOptions(model_config_file_poll_wait_seconds=0).config_poll_seconds == 0
    assert ServerOptions(model_config_file_poll_wait_seconds=3).config_poll_seconds == 3
    with pytest.raises(UserError, match="model_config_file_poll_wait_seconds is -1: give 0 or more"):
        ServerOptions(model_config_file_poll_wait_seconds=-1)


def test_tensorflow_serving_gets_the_same_interval():
    def flag(**options: float) -> list[str]:
        flags = engine.command([], ServerOptions(model_config_file="models.config", **options))
        return [each for each in flags if each.startswith("--model_config_file_poll_wait_seconds=")]

    assert flag() == ["--model_config_file_poll_wait_seconds=2"]
    assert flag(model_config_file_poll_wait_seconds=0.5) == ["--model_config_file_poll_wait_seconds=1"]
    assert flag(model_config_file_poll_wait_seconds=0) == ["--model_config_file_poll_wait_seconds=0"]


def test_a_malformed_file_is_logged_once_for_each_change_and_the_served_models_stay(file, looked, caplog):
    manager, look = looked
    good = file.read_bytes()
    for broken in (b"model_config_list { confi", b"\xff\xfe", b"", None):
        caplog.clear()
        if broken is None:
            file.unlink()
        else:
            file.write_bytes(broken)
        look()
        look()
        (record,) = caplog.records
        assert (record.levelno, str(file) in record.getMessage()) == (logging.ERROR, True)
        assert served(manager) == {"first": [2]}
    file.write_bytes(good)
    caplog.clear()
    look()
    assert not caplog.records


def test_a_file_that_did_not_change_reloads_nothing(file, looked):
    manager, look = looked
    with manager.use("first") as (_, model):
        before = model
    look()
    file.touch()
    look()
    with manager.use("first") as (_, model):
        assert model is before


def test_a_model_listed_before_its_first_push_is_served_after_the_push(file, looked, float_model, caplog):
    manager, look = looked
    write(file, "first", "third")
    look()
    look()
    (record,) = caplog.records
    assert f"{file} is not taken up: Could not find base path" in record.getMessage()
    shutil.copytree(float_model, file.parent / "third/1")
    look()
    assert served(manager) == {"first": [2], "third": [1]}


def test_a_model_that_cannot_be_loaded_is_tried_again_only_when_its_files_change(file, looked, float_model, caplog):
    manager, look = looked
    (file.parent / "third/1").mkdir(parents=True)
    (file.parent / "third/1/saved_model.pb").write_bytes(b"garbage")
    write(file, "third")
    look()
    said = [record.getMessage() for record in caplog.records]
    assert [line for line in said if line.startswith("refused third version 1: cannot load ")]
    assert served(manager) == {"first": [2]}
    look()
    assert len(caplog.records) == len(said)
    shutil.copytree(float_model, file.parent / "third/2")
    look()
    assert served(manager) == {"third": [2]}


def test_a_model_that_is_there_in_part_is_served_when_the_rest_has_come(file, looked, float_model):
    manager, look = looked
    (partly := file.parent / "third/1").mkdir(parents=True)
    shutil.copy(f"{float_model}/saved_model.pb", partly)
    write(file, "third")
    look()
    assert served(manager) == {"first": [2]}
    shutil.copytree(float_model, partly, dirs_exist_ok=True, ignore=shutil.ignore_patterns("saved_model.pb"))
    look()
    assert served(manager) == {"third": [1]}
