"""The Pusher on artifacts as the DAG hands them over: what is pushed, what is not, and what it says of it."""

import json
import pathlib
from typing import Any

import pytest
from tfx.extensions.google_cloud_ai_platform import constants
from tfx.types import Channel, standard_artifacts

from graftline import blessings
from graftline.components.pusher import executor
from graftline.components.pusher.component import pusher
from graftline.components.pusher.settings import PushSettings, VertexSettings
from graftline.serving.versions import rollback
from graftline.serving.versions.base_path import Disk
from tests.serving.versions.saved_models import export


class Case:
    """A trained model and what speaks for and against it."""

    def __init__(self, root: pathlib.Path) -> None:
        self._root = root
        self.base = root / "models" / "roses"
        self.pushes = 0

    def train(self, content: str) -> None:
        """A Model artifact of its own, as the Trainer leaves it."""
        self.model = standard_artifacts.Model()
        self.model.uri = str(self._root / content)
        if not (self._root / content).exists():
            export(self._root / content / "Format-Serving", content.encode())

    def push(self, *, blessed: int = 1, infra: int = 1, **settings: Any) -> standard_artifacts.PushedModel:
        self.pushes += 1
        blessing, infra_blessing = standard_artifacts.ModelBlessing(), standard_artifacts.InfraBlessing()
        for artifact, value in ((blessing, blessed), (infra_blessing, infra)):
            artifact.uri = str(self._root / "blessing")
            artifact.set_int_custom_property("blessed", value)
        pushed = standard_artifacts.PushedModel()
        pushed.uri = str(self._root / f"pushed-{self.pushes}")
        executor.Executor().Do(
            {"model": [self.model], "model_blessing": [blessing], "infra_blessing": [infra_blessing]},
            {"pushed_model": [pushed]},
            {
                "push_destination": json.dumps({"filesystem": {"base_directory": str(self.base)}}),
                "custom_config": json.dumps({"settings": PushSettings(**settings).model_dump(mode="json")}),
            },
        )
        return pushed


@pytest.fixture
def case(tmp_path: pathlib.Path) -> Case:
    made = Case(tmp_path)
    made.train("first")
    return made


def test_a_blessed_model_becomes_a_version_and_the_artifact_tells_which(case: Case) -> None:
    pushed = case.push()
    assert pushed.get_int_custom_property("pushed") == 1
    assert pushed.get_string_custom_property("pushed_destination") == str(case.base / "1")
    assert pushed.get_string_custom_property("pushed_version") == "1"
    assert pushed.get_int_custom_property(blessings.NEW_VERSION) == 1
    assert case.push().get_int_custom_property(blessings.NEW_VERSION) == 0, "the very same model"


@pytest.mark.parametrize("refused", [{"blessed": 0}, {"infra": 0}])
def test_a_model_that_either_validation_refused_is_not_pushed(case: Case, refused: dict[str, int]) -> None:
    pushed = case.push(**refused)
    assert pushed.get_int_custom_property("pushed") == 0
    assert not case.base.exists()


def test_a_model_that_was_rolled_back_from_is_not_pushed_unless_that_is_allowed(case: Case) -> None:
    case.push()
    case.train("second")
    case.push()
    rollback.roll_back(Disk(str(case.base)))
    refused = case.push()
    assert refused.get_int_custom_property("pushed") == 0
    reason = refused.get_string_custom_property(blessings.REFUSED)
    assert reason.startswith("not pushed: this very model was version 2 and was rolled back from, to version 1, on ")
    assert sorted(Disk(str(case.base)).versions()) == [1, 2, 3]
    assert case.push(allow_withdrawn=True).get_string_custom_property("pushed_version") == "4"


def test_old_versions_go_as_the_settings_say(case: Case) -> None:
    for content in ("a", "b", "c", "d"):
        case.train(content)
        case.push(keep_versions=2)
    assert sorted(Disk(str(case.base)).versions()) == [3, 4]


def test_a_vertex_endpoint_is_tfx_s_own_extension_s() -> None:
    channels: dict[str, Any] = {
        "model": Channel(type=standard_artifacts.Model),
        "model_blessing": Channel(type=standard_artifacts.ModelBlessing),
        "infra_blessing": Channel(type=standard_artifacts.InfraBlessing),
    }
    settings = PushSettings(vertex=VertexSettings(project="p", region="europe-west4"))
    node = pusher(settings, "/models/roses", "roses", **channels, served="", code="")
    assert node.EXECUTOR_SPEC.class_path == "tfx.extensions.google_cloud_ai_platform.pusher.executor.Executor"
    config = json.loads(node.exec_properties["custom_config"])
    assert config[constants.ENABLE_VERTEX_KEY] is True
    assert config[constants.VERTEX_REGION_KEY] == "europe-west4"
    assert config[constants.SERVING_ARGS_KEY] == {
        "project_id": "p",
        "endpoint_name": "roses",
        "machine_type": "n1-standard-4",
    }
    assert set(node.inputs) == set(channels), "both blessings are asked for"
