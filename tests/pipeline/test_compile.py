"""The same DAG as a pipeline spec for a cluster, held against the official protos of kfp-pipeline-spec."""

import json
import pathlib
import re
import socket

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from pipeline import compile as compiling
from pipeline import config
from pipeline.dag import code_hash, pipeline_name

_NODES = {
    "ImageExampleGen",
    "StatisticsGen",
    "SchemaGen",
    "ExampleValidator",
    "Transform",
    "Trainer",
    "Evaluator",
    "Pusher",
}


@pytest.fixture(scope="module")
def settings() -> config.Config:
    given = {
        "images": "gs://bucket/photos",
        "workspace": "gs://bucket/graftline",
        "cluster.image": "registry/graftline:1",
    }
    return config.load(None, ["backbone.weights=none"], given)


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("compiling must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def _spec(target: compiling.Target, text: str) -> pipeline_spec_pb2.PipelineSpec:
    """Parsed strictly: an unknown field fails."""
    if target == "vertex":
        job = json_format.Parse(text, pipeline_spec_pb2.PipelineJob())
        return json_format.ParseDict(json_format.MessageToDict(job.pipeline_spec), pipeline_spec_pb2.PipelineSpec())
    return json_format.ParseDict(yaml.safe_load(text), pipeline_spec_pb2.PipelineSpec())


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("target", ["vertex", "kubeflow"])
def test_the_dag_compiles_to_a_valid_spec(
    settings: config.Config, tmp_path: pathlib.Path, target: compiling.Target
) -> None:
    output = tmp_path / "out"
    compiling.compile_pipeline(settings, target, output)
    text = output.read_text()
    spec = _spec(target, text)
    assert spec.pipeline_info.name == "graftline-photos"
    assert spec.schema_version == {"vertex": "2.0.0", "kubeflow": "2.1.0"}[target]
    assert set(spec.root.dag.tasks) >= _NODES
    assert compiling.FINGERPRINT_PARAMETER in spec.root.input_definitions.parameters

    executors = json_format.MessageToDict(spec.deployment_spec)["executors"]
    for node in _NODES:
        container = executors[f"{node}_executor"]["container"]
        assert container["image"] == "registry/graftline:1"
        assert container["args"][0] == "--executor_class_path"

    # User functions go by import path, and nothing of this machine is in it.
    trainer = json_format.MessageToDict(spec.root.dag.tasks["Trainer"].inputs)["parameters"]
    assert "trainer.run_fn.run_fn" in json.dumps(trainer["run_fn"])
    transform = json_format.MessageToDict(spec.root.dag.tasks["Transform"].inputs)["parameters"]
    assert "components.preprocessing.preprocessing_fn" in json.dumps(transform["preprocessing_fn"])
    root = pathlib.Path(__file__).parents[2]
    for private in (str(root), str(pathlib.Path.home()) + "/", str(tmp_path), socket.gethostname()):
        assert private not in text


def test_executors_and_artifact_types_import_by_the_names_in_the_spec() -> None:
    from tfx.utils import import_utils

    from components.evaluator import Executor
    from components.image_example_gen.artifacts import Quarantine

    assert import_utils.import_class_by_path(Quarantine.TYPE_NAME) is Quarantine
    assert import_utils.import_class_by_path("components.evaluator.Executor") is Executor


def test_every_path_is_pointed_out_as_one_of_the_cluster() -> None:
    local = config.load(None, ["backbone.weights=none"], {"images": "photos", "workspace": "/mnt/graftline"})
    assert [warning.split(":")[0] for warning in compiling.warnings(local)] == [
        "images is 'photos'",
        "workspace is '/mnt/graftline'",
    ]


def test_each_model_has_a_pipeline_of_its_own_so_that_its_baseline_is_its_own() -> None:
    served = ("cats", "Dogs_2", "dogs-2", "dogs.2", "dogs-2_")
    names = [pipeline_name(config.load(None, [f"model.name={name}"], {})) for name in served]
    assert len(set(names)) == len(served)
    assert names[0] == "graftline-cats"
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)


def test_an_edited_source_changes_the_cache_key(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "a.py").write_text("x = 1\n")
    monkeypatch.setattr("pipeline.dag._ROOT", tmp_path)
    before = code_hash("room")
    assert code_hash("room") == before
    (tmp_path / "room" / "a.py").write_text("x = 2\n")
    assert code_hash("room") != before
