"""Which versions answer: policies, labels, and swaps under requests."""

import pytest

from graftline.errors import UserError
from graftline.serving.server.errors import Code, ServingError
from graftline.serving.server.model.loaded_model import LoadedModel
from graftline.serving.server.model.manager import ModelManager
from graftline.serving.versions.locate import Model
from tests.serving.manager.managers import added, answers, break_version, config, not_loaded, refusal, states

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
