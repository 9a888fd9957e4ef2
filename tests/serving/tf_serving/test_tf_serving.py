"""TensorFlow Serving itself: the folder for Docker, and the command that replaces `--engine tensorflow`."""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys

import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from graftline.errors import UserError
from graftline.serving.server import ModelServer
from graftline.serving.server.options import BatchingParameters, ServerOptions
from graftline.serving.tf_serving import configs, engine, write
from graftline.serving.tf_serving.__main__ import main
from graftline.serving.versions import locate
from tests.images import image_of
from tests.serving.versions.saved_models import publish

GRAFTLINE = pathlib.Path(sys.executable).with_name("graftline")


def parse(name: str, text: str):
    """A text proto as TensorFlow Serving reads it. Fields and numbers are those of its session_bundle_config.proto and
    monitoring_config.proto, which tensorflow-serving-api leaves out."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="h.proto", package="tensorflow.serving", syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    messages = {
        "BatchingParameters": [
            ("max_batch_size", 1, "Int64Value"),
            ("batch_timeout_micros", 2, "Int64Value"),
            ("max_enqueued_batches", 3, "Int64Value"),
            ("num_batch_threads", 4, "Int64Value"),
            ("thread_pool_name", 5, "StringValue"),
            ("allowed_batch_sizes", 6, kinds.TYPE_INT64),
            ("pad_variable_length_inputs", 7, kinds.TYPE_BOOL),
            ("enable_large_batch_splitting", 8, "BoolValue"),
            ("max_execution_batch_size", 9, "Int64Value"),
        ],
        "PrometheusConfig": [("enable", 1, kinds.TYPE_BOOL), ("path", 2, kinds.TYPE_STRING)],
        "MonitoringConfig": [("prometheus_config", 1, ".tensorflow.serving.PrometheusConfig")],
    }
    for message, fields in messages.items():
        made = file.message_type.add(name=message)
        for field, number, kind in fields:
            label = kinds.LABEL_REPEATED if field == "allowed_batch_sizes" else kinds.LABEL_OPTIONAL
            if isinstance(kind, str):
                type_name = kind if kind.startswith(".") else f".google.protobuf.{kind}"
                made.field.add(name=field, number=number, label=label, type=kinds.TYPE_MESSAGE, type_name=type_name)
            else:
                made.field.add(name=field, number=number, label=label, type=kind)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    message_class = message_factory.MessageFactory(pool).GetPrototype(
        pool.FindMessageTypeByName(f"tensorflow.serving.{name}")
    )
    return text_format.Parse(text, message_class())


@pytest.fixture
def pushed(tmp_path: pathlib.Path, colour_model: str, sharper_model: str) -> pathlib.Path:
    """A workspace to which two versions of a model were pushed."""
    for model in (colour_model, sharper_model):
        publish(model, str(tmp_path / "workspace/models/colours"))
    return tmp_path / "workspace"


# The folder for Docker


def test_the_folder_has_all_that_its_compose_file_names(pushed, tmp_path):
    assert write(str(pushed), str(tmp_path / "docker")) == ["colours"]
    compose = yaml.safe_load((tmp_path / "docker/compose.yaml").read_text())
    serving = compose["services"]["serving"]
    assert re.fullmatch(r"tensorflow/serving:2\.16\.\d+", serving["image"])
    assert all(port.startswith("127.0.0.1:") for service in compose["services"].values() for port in service["ports"])
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in serving["command"])
    for flag in ("batching_parameters_file", "monitoring_config_file"):
        assert (tmp_path / "docker" / flags[flag].removeprefix("/config/")).is_file()
    assert (tmp_path / "docker/.env").read_text() == f"GRAFTLINE_MODELS='{pushed}/models'\n"
    assert flags["model_config_file"] == "${GRAFTLINE_MODELS:?}/models.config"
    assert (pushed / "models/models.config").is_file()
    scrape = yaml.safe_load((tmp_path / "docker/prometheus.yml").read_text())["scrape_configs"][0]
    monitoring = parse("MonitoringConfig", (tmp_path / "docker/monitoring.config").read_text())
    assert monitoring.prometheus_config.enable
    assert scrape["metrics_path"] == monitoring.prometheus_config.path == "/monitoring/prometheus/metrics"
    assert scrape["static_configs"] == [{"targets": ["serving:8501"]}]


def test_a_folder_that_is_a_file_is_told(pushed, tmp_path, capsys):
    (tmp_path / "file").touch()
    for directory in (tmp_path / "file", tmp_path / "file" / "docker"):
        assert main([str(pushed), str(directory)]) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert re.fullmatch(f"error: {directory} cannot be written: .+; name another folder", said[0])


def test_without_its_messages_it_is_told_what_to_install(pushed, tmp_path, capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    missing = "tensorflow_serving"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name))
    assert main([str(pushed), str(tmp_path / "docker")]) == 2
    run = "run `pip install '.[serve]'` in Graftline's repository"
    said = f"error: this needs tensorflow_serving, which is not installed: {run}\n"
    assert capsys.readouterr().err == said


def test_compose_itself_takes_the_folder(pushed, tmp_path):
    ways = [way for way in (["docker", "compose"], ["docker-compose"]) if shutil.which(way[0])]
    can = [way for way in ways if not subprocess.run([*way, "version"], capture_output=True).returncode]
    if not can:
        pytest.skip("no docker compose on this machine")
    write(str(pushed), str(tmp_path / "docker"))
    command = [*can[0], "--profile", "monitoring", "config", "--format", "json"]
    done = subprocess.run(command, cwd=tmp_path / "docker", capture_output=True, text=True, check=True)
    models = str(pushed / "models")
    volumes = json.loads(done.stdout)["services"]["serving"]["volumes"]
    assert {"type": "bind", "source": models, "target": models, "read_only": True, "bind": {}} in [
        {**volume, "bind": {}} for volume in volumes
    ]


def test_both_labelled_versions_are_loaded(pushed, tmp_path):
    write(str(pushed), str(tmp_path / "docker"))
    text = (pushed / "models/models.config").read_text()
    (model,) = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == (
        "colours",
        str(pushed / "models/colours"),
        "tensorflow",
    )
    assert dict(model.version_labels) == {"stable": 1, "canary": 2}
    assert list(model.model_version_policy.specific.versions) == [1, 2]


def test_models_that_were_not_pushed_by_us_get_their_labels(workspace, tmp_path):
    shutil.copytree(workspace / "models", tmp_path / "models")
    shutil.copytree(tmp_path / "models/colours/3", tmp_path / "models/colours/12")
    assert write(str(tmp_path), str(tmp_path / "docker")) == ["colours", "numbers"]
    text = (tmp_path / "models/models.config").read_text()
    listed = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config
    labels = {model.name: dict(model.version_labels) for model in listed}
    assert labels == {"colours": {"stable": 3, "canary": 12}, "numbers": {"stable": 1, "canary": 1}}


def test_the_models_of_a_workspace_that_was_moved_are_listed_at_the_new_place(pushed, tmp_path):
    before = (pushed / "models/models.config").read_text()
    assert str(pushed) in before
    pushed.rename(tmp_path / "elsewhere")
    write(str(tmp_path / "elsewhere"), str(tmp_path / "docker"))
    after = (tmp_path / "elsewhere/models/models.config").read_text()
    assert after == before.replace(str(pushed), str(tmp_path / "elsewhere"))


def test_a_single_saved_model_and_a_path_with_a_quote_are_refused(colour_model, tmp_path, capsys):
    assert main([colour_model, str(tmp_path / "docker")]) == 2
    assert "is a single SavedModel: TensorFlow Serving serves folders of numbered versions" in capsys.readouterr().err
    shutil.copytree(colour_model, tmp_path / "it's/models/colours/1")
    with pytest.raises(UserError, match="has a quote or a line end in its path"):
        write(str(tmp_path / "it's"), str(tmp_path / "docker"))


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl on PATH")
def test_the_smoke_script_passes_on_a_server_and_fails_on_a_wrong_one(pushed, tmp_path):
    write(str(pushed), str(tmp_path / "docker"))
    image = tmp_path / "red.png"
    image.write_bytes(image_of("red"))
    options = ServerOptions(
        port=0, rest_api_port=0, model_config_file=str(pushed / "models/models.config"), file_system_poll_wait_seconds=0
    )
    with ModelServer(locate.find_models(str(pushed)), options=options) as server:
        environment = {
            **os.environ,
            "GRAFTLINE": str(GRAFTLINE),
            "SERVING_REST": f"127.0.0.1:{server.rest_port}",
            "SERVING_GRPC": f"127.0.0.1:{server.grpc_port}",
        }

        def smoke(model: str) -> subprocess.CompletedProcess[str]:
            command = ["bash", str(tmp_path / "docker/smoke.sh"), "--running", model, str(image)]
            return subprocess.run(command, env=environment, capture_output=True, text=True)

        passed, failed = smoke("colours"), smoke("numbers")
    assert passed.returncode == 0, passed.stderr
    assert "over gRPC, red as over REST" in passed.stdout
    assert len(passed.stdout.splitlines()) == 11
    assert failed.returncode == 1
    assert failed.stderr.startswith("FAILED: status of numbers: HTTP 404, not 200")


# The engine

STAND_IN = """#!{python}
# Stands in for tensorflow_model_server: records its arguments, and the content of the files that they name.
import json, os, sys
files = {{}}
for argument in sys.argv[1:]:
    name, _, value = argument[2:].partition("=")
    if name.endswith("_file"):
        with open(value) as file:
            files[name] = file.read()
with open({record!r}, "w") as record:
    json.dump({{"pid": os.getpid(), "argv": sys.argv[1:], "files": files}}, record)
sys.exit(7)
"""


@pytest.fixture
def record(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The file in which the stand-in for TensorFlow Serving on PATH records how it was started."""
    program = tmp_path / "bin" / engine.EXECUTABLE
    program.parent.mkdir()
    program.write_text(STAND_IN.format(python=sys.executable, record=str(tmp_path / "record.json")))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path / "record.json"


def test_the_process_becomes_tensorflow_serving_with_the_same_settings(pushed, record):
    code = f"""
from graftline.serving.tf_serving import engine
from graftline.serving.versions import locate
from graftline.serving.server.options import BatchingParameters, ServerOptions
batching = BatchingParameters(max_batch_size=8, batch_timeout_micros=5, num_batch_threads=3, allowed_batch_sizes=(1, 8))
options = ServerOptions(
    port=18500, rest_api_port=18501, host="0.0.0.0", version_policy="latest:2", rest_api_timeout_in_ms=0,
    file_system_poll_wait_seconds=0.5, batching=batching, monitoring_path="/metrics", tensorflow_intra_op_parallelism=2,
)
engine.run_tensorflow_model_server(locate.find_models({str(pushed)!r}), options)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    said = child.communicate()[1]
    assert (child.returncode, said) == (7, "")
    started = json.loads(record.read_text())
    assert started["pid"] == child.pid
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in started["argv"])
    assert {name: value for name, value in flags.items() if not name.endswith("_file")} == {
        "port": "18500",
        "rest_api_port": "18501",
        "rest_api_timeout_in_ms": "2147483647",
        "file_system_poll_wait_seconds": "1",
        "enable_model_warmup": "true",
        "tensorflow_intra_op_parallelism": "2",
        "tensorflow_inter_op_parallelism": "0",
        "allow_version_labels_for_unavailable_models": "true",
        "enable_batching": "true",
    }
    batching = parse("BatchingParameters", started["files"]["batching_parameters_file"])
    assert batching.max_batch_size.value == 8
    assert batching.batch_timeout_micros.value == 5
    assert batching.num_batch_threads.value == 3
    assert batching.max_enqueued_batches.value == BatchingParameters().max_enqueued_batches
    assert list(batching.allowed_batch_sizes) == [1, 8]
    assert batching.enable_large_batch_splitting.value
    assert parse("MonitoringConfig", started["files"]["monitoring_config_file"]).prometheus_config.path == "/metrics"
    config = text_format.Parse(started["files"]["model_config_file"], model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path) == ("colours", str(pushed / "models/colours"))
    assert model.model_version_policy.latest.num_versions == 2


def test_files_that_the_user_gives_are_passed_on(pushed):
    options = ServerOptions(model_config_file="a models.config", batching_parameters_file="b", port=1, rest_api_port=2)
    flags = engine.command(locate.find_models(str(pushed)), options)
    assert {"--model_config_file=a models.config", "--batching_parameters_file=b"} < set(flags)


def test_without_batching_no_parameters_are_given(pushed):
    flags = engine.command(locate.find_models(str(pushed)), ServerOptions(enable_batching=False))
    assert "--enable_batching=false" in flags
    assert not [flag for flag in flags if flag.startswith("--batching_parameters_file")]


def test_port_0_is_any_free_one_not_none_at_all(pushed):
    flags = engine.command(locate.find_models(str(pushed)), ServerOptions(port=0, rest_api_port=0))
    ports = [int(flag.split("=")[1]) for flag in flags if re.match("--(rest_api_)?port=", flag)]
    assert len(set(ports)) == 2
    assert min(ports) > 0


@pytest.mark.parametrize(
    ("policy", "said"),
    [("all", "all {\n      }"), ("specific:2,1", "specific {\n        versions: 1\n        versions: 2\n      }")],
)
def test_version_policies(policy, said, pushed):
    text = engine.models_config(locate.find_models(str(pushed)), ServerOptions(version_policy=policy))
    assert said in text


def test_one_version_that_was_named_directly_is_served_alone(pushed):
    text = engine.models_config(locate.find_models(str(pushed / "models/colours/1")), ServerOptions())
    (model,) = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config
    assert (model.name, model.base_path) == ("colours", str(pushed / "models/colours"))
    assert list(model.model_version_policy.specific.versions) == [1]


def test_what_tensorflow_serving_cannot_do_is_refused(pushed, colour_model, monkeypatch):
    models = locate.find_models(str(pushed))
    for name in ("max_in_flight", "max_request_bytes", "max_image_pixels", "max_request_pixels"):
        flag = "--" + name.replace("_", "-")
        said = f"^{flag} and --engine tensorflow exclude each other: tensorflow_model_server has no"
        with pytest.raises(UserError, match=said):
            engine.command(models, ServerOptions(**{name: 3}))
    with pytest.raises(UserError, match=r"serves numbered versions only: move .*/export to .*/export/1"):
        engine.command(locate.find_models(colour_model), ServerOptions())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="--engine tensorflow: no tensorflow_model_server on PATH; install"):
        engine.run_tensorflow_model_server(models, ServerOptions())


def test_the_command_runs_it_and_says_that_it_listens_on_every_address(pushed, record):
    command = [GRAFTLINE, "serve", pushed, "--engine", "tensorflow", "--max_batch_size=4", "--rest-port", "18501"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 7
    said = "tensorflow_model_server listens on every address of this machine, without authentication"
    assert done.stderr.strip() == said
    started = json.loads(record.read_text())
    assert "--rest_api_port=18501" in started["argv"]
    batching = parse("BatchingParameters", started["files"]["batching_parameters_file"])
    assert batching.max_batch_size.value == 4


def test_a_path_with_any_character_survives_the_text_proto():
    path = 'a "quoted" \\ path\n of ö'
    assert parse("MonitoringConfig", configs.monitoring(True, path)).prometheus_config.path == path
