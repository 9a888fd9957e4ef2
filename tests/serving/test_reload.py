"""HandleReloadConfigRequest over gRPC, against model_service_impl.cc and server_core.cc of TF Serving."""

import pathlib
import shutil

import grpc
import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

from graftline.serving.server import ModelServer
from graftline.serving.versions import locate
from tests.serving.rest import Rest


@pytest.fixture(scope="module")
def folder(tmp_path_factory, float_model) -> pathlib.Path:
    """Two base paths: versions 1 and 2 of `first`, version 5 of `second`."""
    folder = tmp_path_factory.mktemp("models")
    for place in ("first/1", "first/2", "second/5"):
        shutil.copytree(float_model, folder / place)
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def running(folder):
    with ModelServer(locate.find_models(str(folder / "first")), rest_port=0, grpc_port=0) as server:
        yield server


@pytest.fixture
def reload(running):
    with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
        call = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest

        def ask(*configs: str, text: str | None = None):
            listed = " ".join(f"config {{ {config} }}" for config in configs)
            text = f"config {{ model_config_list {{ {listed} }} }}" if text is None else text
            return call(text_format.Parse(text, model_management_pb2.ReloadConfigRequest()), timeout=30)

        yield ask


def one(folder: pathlib.Path, name: str, more: str = "") -> str:
    return f"name: '{name}' base_path: '{folder / name}' model_platform: 'tensorflow' {more}"


def predict(rest: Rest, path: str) -> int:
    return rest.ask("POST", f"/v1/models/{path}:predict", {"instances": [[1, 2]]})[0]


def test_models_versions_and_labels_come_and_go(running, reload, folder):
    rest = Rest(running)
    assert [predict(rest, path) for path in ("first/versions/2", "first/versions/1", "second")] == [200, 404, 404]

    both = "model_version_policy { all {} } version_labels { key: 'stable' value: 1 }"
    response = reload(one(folder, "first", both), one(folder, "second"))
    assert response == model_management_pb2.ReloadConfigResponse(status={})
    assert [predict(rest, path) for path in ("first/labels/stable", "first/versions/2", "second")] == [200, 200, 200]

    moved = "model_version_policy { specific { versions: 2 } } version_labels { key: 'stable' value: 2 }"
    reload(one(folder, "first", moved))
    assert [predict(rest, path) for path in ("first/labels/stable", "first/versions/1", "second")] == [200, 404, 404]
    gone = rest.ask("GET", "/v1/models/second")[1]["model_version_status"]
    assert [(found["version"], found["state"]) for found in gone] == [("5", "END")]


def test_a_refused_reload_gives_the_reason_and_changes_nothing(running, reload, folder):
    rest = Rest(running)
    reload(one(folder, "first", "version_labels { key: 'stable' value: 2 }"))
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    only_lists = (
        "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently supported"
    )
    refused = [
        ((), {"text": ""}, invalid, only_lists),
        ((), {"text": "config {}"}, invalid, only_lists),
        ((), {"text": "config { custom_model_config {} }"}, invalid, only_lists),
        ((one(folder, "second"),) * 2, {}, invalid, "Illegal to list model second multiple times in config list"),
        (
            ("name: 'm' base_path: 'm'",),
            {},
            invalid,
            "Expected model m to have an absolute path or URI; got base_path()=m",
        ),
        (
            (one(folder, "second").replace("'tensorflow'", "'caffe'"),),
            {},
            invalid,
            "Model second requests unsupported platform caffe",
        ),
        ((one(folder, "x"),), {}, invalid, f"Could not find base path {folder}/x for servable x"),
        (
            (one(folder, "second"), one(folder, "empty")),
            {},
            grpc.StatusCode.NOT_FOUND,
            f"Unable to find a numerical version path for servable empty at: {folder}/empty",
        ),
        (
            (one(folder, "first", "version_labels { key: 'stable' value: 1 }"),),
            {},
            grpc.StatusCode.FAILED_PRECONDITION,
            "Request to assign label to version 1 of model first, which is not currently available for inference",
        ),
    ]
    for configs, options, code, details in refused:
        with pytest.raises(grpc.RpcError) as caught:
            reload(*configs, **options)
        assert (caught.value.code(), caught.value.details()) == (code, details)
        assert [predict(rest, path) for path in ("first/labels/stable", "second")] == [200, 404]
