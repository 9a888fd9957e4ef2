"""`models.config` beside the base paths: which versions TensorFlow Serving loads, and which labels they have."""

import logging
import pathlib

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from graftline.errors import UserError
from graftline.serving.versions import withdrawals
from graftline.serving.versions.base_path import Disk
from graftline.serving.versions.labels import FILE
from graftline.serving.versions.rollback import roll_back
from tests.serving.versions.saved_models import export, publish


@pytest.fixture
def models(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "models"


def push(models: pathlib.Path, content: str, name: str = "roses", keep: int | None = None) -> int:
    folder = models.parent / content
    if not folder.exists():
        export(folder, content.encode())
    return publish(str(folder), str(models / name), keep).version


def config(models: pathlib.Path) -> "model_server_config_pb2.ModelServerConfig":
    """Parse the file as TensorFlow Serving does: an unknown field is an error."""
    return text_format.Parse((models / FILE).read_text(), model_server_config_pb2.ModelServerConfig())


def entry(models: pathlib.Path, name: str = "roses") -> tuple[dict[str, int], list[int]]:
    (found,) = [each for each in config(models).model_config_list.config if each.name == name]
    return dict(found.version_labels), list(found.model_version_policy.specific.versions)


def test_the_first_version_has_both_labels_so_that_clients_of_either_find_one(models: pathlib.Path) -> None:
    push(models, "a")
    assert entry(models) == ({"stable": 1, "canary": 1}, [1])
    (found,) = config(models).model_config_list.config
    assert (found.name, found.base_path, found.model_platform) == ("roses", str(models / "roses"), "tensorflow")


def test_stable_is_a_push_behind_canary_and_both_are_loaded(models: pathlib.Path) -> None:
    for content in ("a", "b", "c"):
        push(models, content)
    assert entry(models) == ({"stable": 2, "canary": 3}, [2, 3])


def test_the_same_model_again_changes_no_byte(models: pathlib.Path) -> None:
    for content in ("a", "b"):
        push(models, content)
    before = (models / FILE).read_bytes()
    assert push(models, "b") == 2
    assert (models / FILE).read_bytes() == before


def test_after_a_rollback_no_canary_is_out_and_the_next_push_is_one(models: pathlib.Path) -> None:
    for content in ("a", "b", "c"):
        push(models, content)
    roll_back(Disk(str(models / "roses")))
    assert entry(models) == ({"stable": 4, "canary": 4}, [4])
    push(models, "d")
    assert entry(models) == ({"stable": 4, "canary": 5}, [4, 5])


def test_models_beside_one_another_are_in_one_file(models: pathlib.Path) -> None:
    push(models, "a", "roses")
    push(models, "b", "tulips")
    push(models, "c", "roses")
    assert entry(models, "roses") == ({"stable": 1, "canary": 2}, [1, 2])
    assert entry(models, "tulips") == ({"stable": 1, "canary": 1}, [1])


def test_labels_and_versions_that_somebody_added_stay_and_so_do_these_versions(models: pathlib.Path) -> None:
    for content in ("a", "b", "c"):
        push(models, content)
    changed = config(models)
    changed.model_config_list.config[0].version_labels["production"] = 1
    changed.model_config_list.config[0].model_version_policy.specific.versions.append(1)
    changed.model_config_list.config.add(name="foreign", base_path="/elsewhere/foreign", model_platform="tensorflow")
    (models / FILE).write_text(text_format.MessageToString(changed))
    for content in ("d", "e", "f"):
        push(models, content, keep=2)
    assert entry(models) == ({"stable": 5, "canary": 6, "production": 1}, [1, 5, 6])
    assert entry(models, "foreign") == ({}, [])
    assert sorted(Disk(str(models / "roses")).versions()) == [1, 5, 6]


def test_a_policy_that_somebody_chose_stays(models: pathlib.Path) -> None:
    push(models, "a")
    changed = config(models)
    changed.model_config_list.config[0].model_version_policy.latest.num_versions = 3
    (models / FILE).write_text(text_format.MessageToString(changed))
    push(models, "b")
    (found,) = config(models).model_config_list.config
    assert found.model_version_policy.latest.num_versions == 3
    assert dict(found.version_labels) == {"stable": 1, "canary": 2}


def test_a_file_that_cannot_be_read_is_left_alone_and_then_no_version_is_removed(
    models: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    for content in ("a", "b"):
        push(models, content)
    (models / FILE).write_text("no config {")
    with caplog.at_level(logging.WARNING):
        for content in ("c", "d"):
            push(models, content, keep=1)
    assert (models / FILE).read_text() == "no config {"
    assert sorted(Disk(str(models / "roses")).versions()) == [1, 2, 3, 4]
    assert f"{models}/models.config cannot be read" in caplog.text
    assert "no version is removed" in caplog.text


def test_a_rollback_that_was_taken_back_and_killed_before_its_end_is_ended_by_the_next_call(
    models: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in "ab":
        push(models, content)
    base = Disk(str(models / "roses"))
    assert roll_back(base).version == 3

    def killed(*_: object) -> None:  # at the moment between the copy and the end of its withdrawal
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(withdrawals, "reinstate", killed)
        with pytest.raises(KeyboardInterrupt):
            roll_back(base, to=2)
    assert sorted(base.versions()) == [1, 2, 3, 4]
    ended = roll_back(base, to=2)
    assert (ended.before, ended.version, ended.withdrawn) == (4, 4, None)
    assert sorted(base.versions()) == [1, 2, 3, 4]
    assert withdrawals.withdrawn(base) == set()
    assert entry(models)[0] == {"stable": 4, "canary": 4}
    assert push(models, "b") == 4, "and is taken by a push again"


@pytest.mark.parametrize("content", ["", "[]", "{}", "7"])
def test_a_withdrawal_that_cannot_be_read_is_named(models: pathlib.Path, content: str) -> None:
    for each in "ab":
        push(models, each)
    roll_back(Disk(str(models / "roses")))
    (file,) = (models / "roses/.withdrawn").iterdir()
    file.write_text(content)
    with pytest.raises(UserError, match=f"^{file} marks a model that was rolled back from, but Graftline did not"):
        push(models, "b")
