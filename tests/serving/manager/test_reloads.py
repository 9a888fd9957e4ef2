# ruff: noqa: E501 (a row of a table is a line)
"""Reloads of the configuration, which happen completely or not at all."""

import threading

import pytest

from graftline.serving.server.errors import Code, ServingError
from graftline.serving.server.model.loaded_model import LoadedModel
from tests.serving.manager.managers import answers, break_version, config, refusal, states


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
