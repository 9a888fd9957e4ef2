"""The same DAG as a pipeline spec for a cluster, held against the official protos of kfp-pipeline-spec."""

import json
import pathlib
import re
import socket

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from graftline.components.pusher.settings import PushSettings, VertexSettings
from graftline.components.serving_validator.settings import ServingValidationSettings
from graftline.errors import UserError
from graftline.pipeline import compile as compiling
from graftline.pipeline import config_file
from graftline.pipeline.config import Config
from graftline.pipeline.site import pipeline_name

_NODES = {
    "ImageExampleGen",
    "StatisticsGen",
    "SchemaGen",
    "ExampleValidator",
    "Transform",
    "Trainer",
    "ServingValidator",
    "Evaluator",
    "Pusher",
}


@pytest.fixture(scope="module")
def settings() -> Config:
    given = {
        "images": "gs://bucket/photos",
        "workspace": "gs://bucket/graftline",
        "cluster.image": "registry/graftline:1",
    }
    return config_file.load(None, ["backbone.weights=none"], given)


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
def test_the_dag_compiles_to_a_valid_spec(settings: Config, tmp_path: pathlib.Path, target: compiling.Target) -> None:
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
    assert "graftline.trainer.run_fn.run_fn" in json.dumps(trainer["run_fn"])
    transform = json_format.MessageToDict(spec.root.dag.tasks["Transform"].inputs)["parameters"]
    assert "graftline.components.transform.preprocessing.preprocessing_fn" in json.dumps(transform["preprocessing_fn"])
    root = pathlib.Path(__file__).parents[2]
    for private in (str(root), str(pathlib.Path.home()) + "/", str(tmp_path), socket.gethostname()):
        assert private not in text


def _compiled(settings: Config, target: compiling.Target, folder: pathlib.Path) -> pipeline_spec_pb2.PipelineSpec:
    compiling.compile_pipeline(settings, target, folder / "out")
    return _spec(target, (folder / "out").read_text())


@pytest.mark.parametrize("target", ["vertex", "kubeflow"])
def test_what_the_serving_validation_refuses_is_neither_blessed_nor_pushed(
    settings: Config, tmp_path: pathlib.Path, target: compiling.Target
) -> None:
    tasks = _compiled(settings, target, tmp_path).root.dag.tasks
    for node in ("Evaluator", "Pusher"):
        found = tasks[node].inputs.artifacts["infra_blessing"].task_output_artifact
        assert (found.producer_task, found.output_artifact_key) == ("ServingValidator", "blessing")
    assert "Evaluator" not in tasks["ServingValidator"].dependent_tasks


@pytest.mark.parametrize("target", ["vertex", "kubeflow"])
def test_who_looks_at_the_served_versions_never_comes_from_the_cluster_s_cache(
    settings: Config, tmp_path: pathlib.Path, target: compiling.Target
) -> None:
    tasks = _compiled(settings, target, tmp_path).root.dag.tasks
    assert {node for node in _NODES if not tasks[node].caching_options.enable_cache} == {
        "ServingValidator",
        "Evaluator",
        "Pusher",
    }
    served = "gs://bucket/graftline/models/photos"
    for node in ("ServingValidator", "Evaluator", "Pusher"):
        assert served in json_format.MessageToJson(tasks[node].inputs), node


def test_a_push_goes_where_the_config_says(settings: Config, tmp_path: pathlib.Path) -> None:
    elsewhere = settings.model_copy(update={"push": PushSettings(path="gs://other/roses", keep_versions=9)})
    tasks = _compiled(elsewhere, "vertex", tmp_path).root.dag.tasks
    assert "gs://other/roses" in json_format.MessageToJson(tasks["Pusher"].inputs)
    given = tasks["Pusher"].inputs.parameters["custom_config"].runtime_value.constant_value.string_value
    assert json.loads(given)["settings"]["keep_versions"] == 9
    assert "gs://other/roses" in json_format.MessageToJson(tasks["Evaluator"].inputs)


def test_a_vertex_endpoint_is_in_the_spec(settings: Config, tmp_path: pathlib.Path) -> None:
    vertex = VertexSettings(project="my-project", region="europe-west4", endpoint="roses")
    to_endpoint = settings.model_copy(update={"push": PushSettings(vertex=vertex)})
    spec = _compiled(to_endpoint, "vertex", tmp_path)
    executors = json_format.MessageToDict(spec.deployment_spec)["executors"]
    assert executors["Pusher_executor"]["container"]["args"][:2] == [
        "--executor_class_path",
        "tfx.extensions.google_cloud_ai_platform.pusher.executor.Executor",
    ]
    inputs = json_format.MessageToJson(spec.root.dag.tasks["Pusher"].inputs)
    for told in ("my-project", "europe-west4", "roses", "ai_platform_enable_vertex"):
        assert told in inputs


def test_tfx_s_infra_validator_is_refused_for_it_does_not_compile(settings: Config, tmp_path: pathlib.Path) -> None:
    docker = settings.model_copy(update={"serving_validation": ServingValidationSettings(engine="docker")})
    with pytest.raises(UserError) as caught:
        compiling.compile_pipeline(docker, "vertex", tmp_path / "out")
    assert str(caught.value).startswith(
        "serving_validation.engine is docker, but TFX's InfraValidator does not compile"
    )
    assert not (tmp_path / "out").exists()


def test_executors_and_artifact_types_import_by_the_names_in_the_spec() -> None:
    from tfx.utils import import_utils

    from graftline.components.evaluator.component import Executor
    from graftline.components.image_example_gen.artifacts import Quarantine

    assert import_utils.import_class_by_path(Quarantine.TYPE_NAME) is Quarantine
    assert Quarantine.TYPE_NAME.startswith("graftline."), "nothing else of Graftline is installed"
    assert import_utils.import_class_by_path("graftline.components.evaluator.component.Executor") is Executor


def test_settings_that_no_folder_suits_are_refused_before_anything_is_compiled(tmp_path: pathlib.Path) -> None:
    both = config_file.load(None, ["data.manifest=labels.csv", "data.spans=2"], {"images": "gs://bucket/photos"})
    with pytest.raises(UserError, match=r"data.manifest is labels.csv, but a manifest .* combined with data.spans"):
        compiling.compile_pipeline(both, "vertex", tmp_path / "out")
    changes = ["backbone.weights=none", "training.transfer_images_per_class=10"]
    random = config_file.load(None, changes, {"images": "gs://bucket/photos"})
    with pytest.raises(UserError, match=r"training.transfer_images_per_class compares .* set .*=0"):
        compiling.compile_pipeline(random, "kubeflow", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_path_is_pointed_out_as_one_of_the_cluster() -> None:
    local = config_file.load(None, ["backbone.weights=none"], {"images": "photos", "workspace": "/mnt/graftline"})
    assert [warning.split(":")[0] for warning in compiling.warnings(local)] == [
        "images is 'photos'",
        "workspace is '/mnt/graftline'",
    ]
    shipped = config_file.load(
        None, ["backbone.weights=procedural", "backbone.options={alpha: 0.35}"], {"images": "photos"}
    )
    assert not [warning for warning in compiling.warnings(shipped) if "weights" in warning]  # they are in the package


def test_each_model_has_a_pipeline_of_its_own_so_that_its_baseline_is_its_own() -> None:
    served = ("cats", "Dogs_2", "dogs-2", "dogs.2", "dogs-2_")
    names = [pipeline_name(config_file.load(None, [f"model.name={name}"], {})) for name in served]
    assert len(set(names)) == len(served)
    assert names[0] == "graftline-cats"
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)
