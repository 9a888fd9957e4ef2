"""The text of models.config, version policies and labels, against TF Serving's serving_config.md and server_core.cc."""

import subprocess
import sys

import pytest

from graftline.errors import UserError
from graftline.serving.versions import model_config
from graftline.serving.versions.model_config import ModelConfig, VersionPolicy

FOUND = [1, 2, 5, 7]


@pytest.mark.parametrize(
    ("text", "served", "written"),
    [
        ("latest", [7], "latest:1"),
        ("latest:1", [7], "latest:1"),
        ("latest:3", [7, 5, 2], "latest:3"),
        ("latest:9", [7, 5, 2, 1], "latest:9"),
        ("all", [7, 5, 2, 1], "all"),
        ("specific:2", [2], "specific:2"),
        ("specific:7, 1,3", [7, 1], "specific:1,3,7"),
        ("specific:0", [], "specific:0"),
    ],
)
def test_a_policy_chooses_versions_the_highest_first(text, served, written):
    policy = VersionPolicy.parse(text)
    assert policy.choose(FOUND) == served
    assert str(policy) == written


@pytest.mark.parametrize(
    "text", ["", "newest", "latest:0", "latest:x", "latest:1,2", "all:1", "specific", "specific:-1"]
)
def test_a_policy_that_is_none_says_what_there_is(text):
    with pytest.raises(UserError) as caught:
        VersionPolicy.parse(text)
    assert str(caught.value) == f"version policy '{text}': give latest, latest:2, all or specific:1,3"


def one(more: str = "", platform: str = "model_platform: 'tensorflow'") -> str:
    return f"model_config_list {{ config {{ name: 'm' base_path: '/m' {platform} {more} }} }}"


@pytest.mark.parametrize(
    ("more", "policy"),
    [
        ("", "latest:1"),
        ("model_version_policy {}", "latest:1"),
        ("model_version_policy { latest {} }", "latest:1"),
        ("model_version_policy { latest { num_versions: 2 } }", "latest:2"),
        ("model_version_policy { all {} }", "all"),
        ("model_version_policy { specific { versions: 42 versions: 43 } }", "specific:42,43"),
    ],
)
def test_a_policy_is_read_from_models_config(more, policy):
    (model,) = model_config.decode(one(more).encode(), "models.config")
    assert (model.name, model.base_path, str(model.policy), model.labels) == ("m", "/m", policy, {})


def test_labels_are_read_from_models_config():
    text = one("version_labels { key: 'a' value: 42 } version_labels { key: 'b' value: 43 }")
    (model,) = model_config.decode(text.encode(), "x")
    assert model.labels == {"a": 42, "b": 43}


def test_the_old_field_for_the_platform_is_read():
    (model,) = model_config.decode(one(platform="model_type: TENSORFLOW").encode(), "x")
    assert model == ModelConfig("m", "/m")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model {", "models.config is no ModelServerConfig: 1:1 : "),
        ("", "models.config names no model: write model_config_list { config { … } }"),
        (
            "model_config_list { config { name: 'm' base_path: '/m' model_type: TENSORFLOW } config { name: 'm' } }",
            "models.config: Illegal to list model m multiple times in config list",
        ),
        (
            one().replace("/m", "m"),
            "models.config: Expected model m to have an absolute path or URI; got base_path()=m",
        ),
        (
            one(platform=""),
            "models.config: Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            "ModelServerConfig::model_platform.",
        ),
        (
            one(platform="model_type: TENSORFLOW model_platform: 'tensorflow'"),
            "models.config: Illegal setting both ModelServerConfig::model_type (deprecated) and "
            "ModelServerConfig::model_platform.",
        ),
        (one(platform="model_type: OTHER"), "models.config: ModelServerConfig::model_type choice 2 not supported."),
        (one(platform="model_platform: 'caffe'"), "models.config: Model m requests unsupported platform caffe"),
    ],
)
def test_a_config_that_cannot_be_served_is_told_why(text, message):
    with pytest.raises(UserError) as caught:
        model_config.decode(text.encode(), "models.config")
    assert str(caught.value).startswith(message)


def test_a_config_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError) as caught:
        model_config.read_bytes(str(tmp_path / "models.config"))
    assert str(caught.value) == f"cannot read the models config {tmp_path}/models.config: No such file or directory"


def test_version_numbers_that_no_answer_could_carry_are_passed_over(tmp_path):
    for version in ("3", str(1 << 63)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "saved_model.pb").touch()
    assert ModelConfig("m", str(tmp_path)).find() == {3: str(tmp_path / "3")}


def test_importing_it_does_not_import_tensorflow():
    code = (
        "import sys, graftline.serving.versions.model_config\n"
        "sys.exit('tensorflow' in sys.modules or 'google.protobuf' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
