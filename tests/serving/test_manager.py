# ruff: noqa: E501 (a row of a table is a line)
"""Which versions answer: policies, labels, swaps under requests, and reloads, which happen completely or not at all."""

import os
import pathlib
import shutil
import threading
import time

import numpy as np
import pytest

from graftline.errors import UserError
from graftline.serving.server.errors import Code, ServingError
from graftline.serving.server.model.loaded_model import LoadedModel
from graftline.serving.server.model.manager import ModelManager
from graftline.serving.server.model.refusals import Refusals
from graftline.serving.versions.locate import Model
from graftline.serving.versions.model_config import ModelConfig, VersionPolicy


@pytest.fixture(scope="module")
def adder(tmp_path_factory):
    """(number) → a SavedModel that adds the number, so that an answer identifies its model."""
    import tensorflow as tf

    made: dict[int, pathlib.Path] = {}

    def make(number: int) -> pathlib.Path:
        if number not in made:
            module = tf.Module()
            spec = tf.TensorSpec([None], tf.float32, name="x")
            module.add = tf.function(lambda x: {"y": x + number}, input_signature=[spec], autograph=False)
            made[number] = tmp_path_factory.mktemp("adder") / "export"
            tf.saved_model.save(module, str(made[number]), signatures=module.add)
        return made[number]

    return make


@pytest.fixture
def push(tmp_path, adder):
    """(version, name, folder) → a base path with one more version, which adds its own or the given number."""

    def pushed(version: int, name: str = "m", adds: int | None = None) -> str:
        shutil.copytree(adder(version if adds is None else adds), tmp_path / name / str(version))
        return str(tmp_path / name)

    return pushed


@pytest.fixture
def managed():
    """(configs or models) → a loaded manager, closed at the end."""
    started: list[ModelManager] = []

    def manage(*models, **options) -> ModelManager:
        started.append(ModelManager(models, **options))
        started[-1].load()
        return started[-1]

    yield manage
    for manager in started:
        manager.close()


def break_version(base_path: str, version: int) -> None:
    os.makedirs(os.path.join(base_path, str(version)), exist_ok=True)
    pathlib.Path(base_path, str(version), "saved_model.pb").write_bytes(b"garbage")


def config(base_path: str, policy: str = "latest", name: str = "m", **labels: int) -> ModelConfig:
    return ModelConfig(name, base_path, VersionPolicy.parse(policy), labels)


def added(model: LoadedModel) -> int:
    return int(model.predict("", {"x": np.zeros(1, np.float32)})["y"][0])


def answers(manager: ModelManager, name: str = "m", version: int | None = None, label: str | None = None) -> int:
    with manager.use(name, version, label) as (number, model):
        found = added(model)
        assert found % 100 == number
        return found


def refusal(manager: ModelManager, *asked) -> tuple[Code, str]:
    with pytest.raises(ServingError) as caught, manager.use(*asked):
        pass
    return caught.value.code, caught.value.message


def states(manager: ModelManager, name: str = "m") -> dict[int, str]:
    return {found.version: found.state for found in manager.states(name)}


def not_loaded(manager: ModelManager, version: int) -> bool:
    return refusal(manager, "m", version) == (
        Code.NOT_FOUND,
        f"Servable not found for request: Specific(m, {version})",
    )


# Policies


@pytest.mark.parametrize(
    ("policy", "served"),
    [("latest", [7]), ("latest:2", [2, 7]), ("all", [0, 2, 7]), ("specific:0", [0]), ("specific:2,7,9", [2, 7])],
)
def test_the_policy_decides_which_versions_answer(push, managed, policy, served):
    base_path = [push(version) for version in (0, 2, 7)][-1]
    manager = managed(config(base_path, policy))
    assert sorted(states(manager)) == served
    assert [answers(manager, version=version) for version in served] == served
    assert answers(manager) == max(served)
    assert all(not_loaded(manager, version) for version in {0, 1, 2, 7, 9} - set(served))


def test_a_saved_model_named_directly_is_one_version(managed, adder):
    path = str(adder(3))
    manager = managed(Model("m", None, {3: path}))
    manager.poll()
    assert answers(manager) == 3


def test_a_new_version_replaces_the_lower_of_the_latest_two(push, managed):
    push(1)
    manager = managed(config(push(2), "latest:2"))
    push(4)
    manager.poll()
    assert states(manager) == {4: "AVAILABLE", 2: "AVAILABLE", 1: "END"}
    assert not_loaded(manager, 1)


def test_a_specific_version_is_served_after_its_push(push, managed):
    manager = managed(config(push(1), "specific:1,3"))
    push(2)
    manager.poll()
    assert states(manager) == {1: "AVAILABLE"}
    push(3)
    manager.poll()
    assert states(manager) == {3: "AVAILABLE", 1: "AVAILABLE"}


def test_the_old_version_answers_while_the_new_one_is_loaded(push, managed):
    seen: list[int] = []

    def load(path: str, name: str, version: int) -> LoadedModel:
        if version == 2:
            seen.append(answers(manager))
        return LoadedModel(path)

    manager = managed(config(push(1)), load=load)
    push(2)
    manager.poll()
    assert seen == [1]
    assert answers(manager) == 2


def test_a_version_is_unloaded_when_its_last_request_is_answered(push, managed):
    manager = managed(config(push(1)))
    with manager.use("m") as (_, first):
        with manager.use("m"):
            push(2)
            manager.poll()
            assert answers(manager) == 2
        assert added(first) == 1
    with pytest.raises((ServingError, RuntimeError), match="closed"):
        added(first)


# Versions that cannot be loaded


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


# Labels


def test_a_label_answers_for_its_version(push, managed):
    push(1)
    manager = managed(config(push(2), "all", stable=1, canary=2, ahead=9))
    assert answers(manager, label="stable") == 1
    assert answers(manager, label="canary") == 2
    assert refusal(manager, "m", None, "ahead") == (Code.NOT_FOUND, "Servable not found for request: Specific(m, 9)")
    unknown = (Code.INVALID_ARGUMENT, "Unrecognized servable version label: x")
    assert refusal(manager, "m", None, "x") == refusal(manager, "nobody", None, "x") == unknown


def test_labels_ahead_of_their_versions_may_be_forbidden(push):
    manager = ModelManager([config(push(1), stable=9)], allow_version_labels_for_unavailable_models=False)
    with pytest.raises(UserError, match="model 'm': label 'stable' names version 9, which is not served; served are 1"):
        manager.load()
    manager.close()


# Reloads


def test_a_reload_serves_its_models_and_no_others(push, managed):
    manager = managed(config(push(1, "gone"), name="gone"), config(push(1)))
    push(2)
    manager.reload([config(push(4, "new"), name="new"), config(push(3), "all")])
    assert manager.names == ["m", "new"]
    assert answers(manager, "new") == 4
    assert states(manager) == {3: "AVAILABLE", 2: "AVAILABLE", 1: "AVAILABLE"}
    assert states(manager, "gone") == {1: "END"}
    assert refusal(manager, "gone") == (Code.NOT_FOUND, "Servable not found for request: Latest(gone)")
    manager.reload([])
    assert manager.names == []


def test_a_reload_does_not_load_a_loaded_version_again(push, managed):
    loads: list[int] = []

    def load(path: str, name: str, version: int) -> LoadedModel:
        loads.append(version)
        return LoadedModel(path)

    push(1)
    manager = managed(config(push(2), "all"), load=load)
    with manager.use("m", 1) as (_, before):
        pass
    manager.reload([config(push(3), "specific:1,3")])
    with manager.use("m", 1) as (_, after):
        pass
    assert loads == [2, 1, 3]
    assert after is before


def test_the_same_version_of_another_base_path_is_loaded(push, managed):
    manager = managed(config(push(1)))
    manager.reload([config(push(1, "other", adds=101))])
    assert answers(manager) == 101
    assert states(manager) == {1: "AVAILABLE"}


def test_no_request_fails_while_configs_change(push, managed):
    push(1)
    push(2)
    base_path = push(3)
    newest = {"specific:1": 1, "latest": 3, "all": 3, "specific:2": 2}
    manager = managed(config(base_path, "specific:1"))
    stop, answered, found, faults = threading.Event(), threading.Condition(), set(), []

    def ask() -> None:
        while not stop.is_set():
            try:
                answer = answers(manager)
                with answered:
                    found.add(answer)
                    answered.notify_all()
            except Exception as error:  # noqa: BLE001 - whatever a client would see
                faults.append(error)

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    for policy, version in list(newest.items()) * 3:
        manager.reload([config(base_path, policy)])
        with answered:
            found.clear()
            assert answered.wait_for(lambda version=version: version in found, 30)
    stop.set()
    for client in clients:
        client.join()
    assert not faults


NOT_AVAILABLE = "Request to assign label to version {} of model m, which is not currently available for inference"


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda good, bad: [good, good], Code.INVALID_ARGUMENT, "Illegal to list model m multiple times in config list"),
        (lambda good, bad: [config("/nowhere")], Code.INVALID_ARGUMENT, "Could not find base path /nowhere for servable m"),
        (lambda good, bad: [good, config(bad + "/empty", name="e")], Code.NOT_FOUND, "Unable to find a numerical version path for servable e at: "),
        (lambda good, bad: [config(good.base_path, "specific:9")], Code.NOT_FOUND, "Unable to find a numerical version path for servable m at: "),
        (lambda good, bad: [good, config(bad, name="b")], Code.UNKNOWN, "1 model(s) did not become available: {{{name: b version: 3} due to error: INVALID_ARGUMENT: cannot load "),
        (lambda good, bad: [config(bad)], Code.UNKNOWN, "1 model(s) did not become available: {{{name: m version: 3} due to error: "),
        (lambda good, bad: [config(good.base_path, "all", stable=3)], Code.FAILED_PRECONDITION, NOT_AVAILABLE.format(3)),
        (lambda good, bad: [config(good.base_path, "all", stable=9)], Code.FAILED_PRECONDITION, NOT_AVAILABLE.format(9)),
    ],
)  # fmt: skip
def test_a_reload_that_fails_changes_nothing(push, managed, tmp_path, change, code, message):
    push(1)
    good = config(push(2), "all", stable=1)
    manager = managed(good)
    break_version(str(tmp_path / "bad"), 3)
    (tmp_path / "bad/empty").mkdir()
    push(3)  # pushed, but not loaded
    before = manager.states("m")
    with pytest.raises(ServingError) as caught:
        manager.reload(change(good, str(tmp_path / "bad")))
    assert (caught.value.code, caught.value.message[: len(message)]) == (code, message)
    assert manager.states("m") == before
    assert manager.names == ["m"]
    assert (answers(manager), answers(manager, label="stable")) == (2, 1)


def test_a_label_in_use_moves_to_a_version_that_is_loaded(push, managed):
    push(1)
    manager = managed(config(push(2), "all", stable=1))
    manager.reload([config(push(3), "all", stable=2, canary=3)])
    assert answers(manager, label="stable") == 2
    assert answers(manager, label="canary") == 3


def test_new_labels_ahead_of_their_versions_may_be_forbidden_to_a_reload(push, managed):
    manager = managed(config(push(1)), allow_version_labels_for_unavailable_models=False)
    with pytest.raises(ServingError, match="version 2 of model m, which is not currently available"):
        manager.reload([config(push(2), canary=2)])
    manager.reload([config(push(3), "all", stable=1)])
    assert answers(manager, label="stable") == 1


def test_each_version_that_is_loaded_unloaded_or_refused_is_one_line(push, managed, caplog):
    base_path = push(1)
    with caplog.at_level("INFO", "graftline.serving"):
        manager = managed(config(base_path))
        push(2)
        break_version(base_path, 3)
        manager.poll()
    assert [(record.levelname, record.getMessage().partition(": Cannot parse")[0]) for record in caplog.records] == [
        ("INFO", f"serving m version 1 from {base_path}/1"),
        ("ERROR", f"refused m version 3: cannot load {base_path}/3"),
        ("INFO", f"serving m version 2 from {base_path}/2"),
        ("INFO", "unloaded m version 1"),
    ]
