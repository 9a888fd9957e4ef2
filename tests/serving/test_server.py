"""The life of a server: ports, loading, warm-up, new versions, the end."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from graftline.errors import UserError
from graftline.serving.server import ModelServer, ServerOptions, serve
from graftline.serving.versions import locate
from tests.images import image_of
from tests.serving.rest import Rest, b64
from tests.serving.versions.saved_models import publish


def started(path, **options) -> ModelServer:
    return ModelServer(locate.find_models(str(path)), **{"rest_port": 0, "grpc_port": 0, **options})


def score(rest: Rest, model: str = "roses") -> float:
    return rest.predict(model, {"instances": [b64(image_of("red"))]})[1]["predictions"][0]["score"]


def states(rest: Rest, model: str = "roses") -> dict[str, str]:
    found = rest.ask("GET", f"/v1/models/{model}")[1]["model_version_status"]
    return {entry["version"]: entry["state"] for entry in found}


def write_warmup(saved_model: pathlib.Path, images: list[bytes]) -> None:
    """Write a warm-up file as the Trainer does: one PredictionLog for each request."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    (saved_model / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(saved_model / "assets.extra/tf_serving_warmup_requests")) as writer:
        for image in images:
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.signature_name = "serving_default"
            request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([image]))
            writer.write(log.SerializeToString())


# Ports


def test_a_rest_port_in_use_is_named(workspace):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError) as caught:
            started(workspace, rest_port=port).start()
    assert str(caught.value) == f"port {port} is in use: stop what uses it or choose another with --rest-port"


def test_a_grpc_port_in_use_is_named(workspace):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError) as caught:
            started(workspace, grpc_port=port).start()
    assert str(caught.value) == f"port {port} is in use: stop what uses it or choose another with --grpc-port"


@pytest.mark.parametrize("host", ["999.1.1.1", "192.0.2.1", "no..name", "::zz", "fe80::1%lo"])
def test_the_error_of_a_foreign_host_names_the_host_and_no_port(workspace, host):
    with pytest.raises(UserError) as caught:
        started(workspace, host=host).start()
    assert str(caught.value).startswith(f"cannot listen on --host {host}: ")
    assert str(caught.value).endswith("; give an address of this machine, or 0.0.0.0 for every one")


def test_a_link_local_address_needs_its_interface(workspace):
    with pytest.raises(UserError) as caught:
        started(workspace, host="fe80::1").start()
    assert str(caught.value) == (
        "cannot listen on --host fe80::1: a link-local address needs its interface, as in fe80::1%eth0"
    )


def test_a_server_that_other_machines_reach_says_so(workspace, caplog):
    with started(workspace, host="0.0.0.0") as server:
        assert Rest(server).ask("GET", "/v1/models/colours")[0] == 200
        assert Rest(server).ask("GET", "/v1/models/colours", headers={"Host": "a-service"})[0] == 200
    assert (
        f"listening on 0.0.0.0: everyone who reaches port {server.rest_port} or {server.grpc_port} of this machine may "
        "use every model. There is no access control and no encryption (--ssl-config-file)"
    ) in caplog.text


def test_an_empty_host_is_refused():
    with pytest.raises(UserError, match="--host is empty: give an address"):
        ServerOptions(host="")


def test_a_grpc_port_in_use_is_the_only_message(workspace):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [
            sys.executable,
            "-m",
            "graftline.serving.server",
            str(workspace),
            "--rest-port",
            "0",
            "--grpc-port",
            port,
        ]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr == f"error: port {port} is in use: stop what uses it or choose another with --grpc-port\n"


def test_two_servers_never_share_a_grpc_port(workspace, server):
    with pytest.raises(UserError, match=f"port {server.grpc_port} is in use"):
        started(workspace, grpc_port=server.grpc_port).start()


def test_a_port_in_use_is_found_before_tensorflow_is_imported(workspace):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-X", "importtime", "-m", "graftline.serving.server", str(workspace)]
        command += ["--rest-port", str(taken.getsockname()[1]), "--grpc-port", "0"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "error: port" in ended.stderr
    assert "| tensorflow\n" not in ended.stderr


def test_a_failed_start_gives_its_ports_back(workspace, tmp_path):
    broken = tmp_path / "export"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"garbage")
    failed = started(broken)
    with pytest.raises(UserError):
        failed.start()
    socket.create_server(("127.0.0.1", failed.rest_port)).close()
    socket.create_server(("127.0.0.1", failed.grpc_port)).close()


# Loading


def test_a_model_that_cannot_be_loaded_is_named_with_the_reason(tmp_path):
    broken = tmp_path / "roses/2"
    broken.mkdir(parents=True)
    (broken / "saved_model.pb").write_bytes(b"garbage")
    with pytest.raises(UserError) as caught:
        started(tmp_path / "roses").start()
    assert str(caught.value).startswith(f"model 'roses' version 2: cannot load {broken}: Cannot parse file")
    assert str(caught.value).endswith("; push it again")


def test_a_single_saved_model_is_served_as_version_one(colour_model):
    with started(colour_model) as running:
        assert states(Rest(running), "export") == {"1": "AVAILABLE"}


def test_warm_up_requests_are_replayed(colour_model, tmp_path):
    from graftline.serving.server.model.loaded_model import LoadedModel

    saved_model = pathlib.Path(shutil.copytree(colour_model, tmp_path / "export"))
    write_warmup(saved_model, [image_of("red"), image_of("blue")])
    model = LoadedModel(str(saved_model))
    assert model.warm_up() == 2
    model.retire()


def test_a_model_that_fails_its_own_warm_up_is_not_served(colour_model, tmp_path):
    saved_model = pathlib.Path(shutil.copytree(colour_model, tmp_path / "export"))
    write_warmup(saved_model, [image_of("red"), b"no image"])
    with pytest.raises(UserError, match=r"warm-up request 2 of .* failed: Unknown image file format"):
        started(saved_model).start()


def test_warm_up_requests_that_cannot_be_read_are_named(colour_model, tmp_path):
    saved_model = pathlib.Path(shutil.copytree(colour_model, tmp_path / "export"))
    (saved_model / "assets.extra").mkdir()
    (saved_model / "assets.extra/tf_serving_warmup_requests").write_bytes(b"no TFRecord at all")
    with pytest.raises(UserError, match="cannot read the warm-up requests of "):
        started(saved_model).start()


def test_a_warm_up_record_that_is_not_a_request_is_named(colour_model, tmp_path):
    import tensorflow as tf

    saved_model = pathlib.Path(shutil.copytree(colour_model, tmp_path / "export"))
    (saved_model / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(saved_model / "assets.extra/tf_serving_warmup_requests")) as writer:
        writer.write(b"\xff\xff\xff")
    with pytest.raises(UserError, match=r"cannot read the warm-up requests of .*Error parsing message"):
        started(saved_model).start()


# New versions


@pytest.fixture
def roses(tmp_path, colour_model) -> pathlib.Path:
    """A base path with version 1."""
    publish(colour_model, str(tmp_path / "roses"))
    return tmp_path / "roses"


def test_a_new_version_takes_over_by_itself(roses, sharper_model):
    with started(roses, poll_seconds=0.1) as running:
        rest = Rest(running)
        before = score(rest)
        publish(sharper_model, str(roses))
        deadline = time.monotonic() + 20
        while states(rest) != {"2": "AVAILABLE", "1": "END"}:  # each call is a request
            assert time.monotonic() < deadline
        assert score(rest) > before
        answer = rest.ask("POST", "/v1/models/roses/versions/1:predict", {"instances": [b64(image_of("red"))]})
        assert answer == (404, {"error": "Servable not found for request: Specific(roses, 1)"})


def test_no_request_fails_while_versions_change(roses, colour_model, sharper_model):
    with started(roses, poll_seconds=60) as running:
        rest = Rest(running)
        answers: list[int] = []
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                answers.append(rest.predict("roses", {"instances": [b64(image_of("red"))]})[0])

        clients = [threading.Thread(target=ask) for _ in range(3)]
        for client in clients:
            client.start()
        for source in (sharper_model, colour_model, sharper_model):
            publish(source, str(roses))
            running.manager.poll()
        done.set()
        for client in clients:
            client.join()
        assert set(answers) == {200}
        assert states(rest) == {"4": "AVAILABLE", "3": "END", "2": "END", "1": "END"}


def test_the_old_version_answers_when_the_new_one_is_broken(roses):
    (roses / "2").mkdir()
    (roses / "2/saved_model.pb").write_bytes(b"")
    with started(roses / "1") as fixed:  # version 1 alone is not polled
        fixed.manager.poll()
        assert states(Rest(fixed)) == {"1": "AVAILABLE"}
    shutil.move(roses / "2", roses / "aside")
    with started(roses, poll_seconds=60) as running:
        rest = Rest(running)
        (roses / "aside/saved_model.pb").write_bytes(b"garbage")
        shutil.move(roses / "aside", roses / "2")
        running.manager.poll()
        status, answer = rest.ask("GET", "/v1/models/roses/versions/2")
        assert status == 200
        (found,) = answer["model_version_status"]
        assert (found["state"], found["status"]["error_code"]) == ("END", "INVALID_ARGUMENT")
        assert f"cannot load {roses}/2" in found["status"]["error_message"]
        assert score(rest) > 0


def test_a_removed_version_falls_back_to_the_one_below(roses, sharper_model):
    publish(sharper_model, str(roses))
    with started(roses, poll_seconds=60) as running:
        shutil.rmtree(roses / "2")
        running.manager.poll()
        assert states(Rest(running)) == {"2": "END", "1": "AVAILABLE"}


def test_the_loaded_version_answers_when_its_base_path_is_removed(roses):
    with started(roses, poll_seconds=60) as running:
        shutil.rmtree(roses)
        running.manager.poll()
        assert score(Rest(running)) > 0


# The end


def test_a_stopped_server_frees_its_ports_and_may_be_stopped_again(colour_model):
    running = started(colour_model).start()
    running.stop()
    running.stop()
    socket.create_server(("127.0.0.1", running.rest_port)).close()
    socket.create_server(("127.0.0.1", running.grpc_port)).close()


def test_serve_blocks_until_a_signal_and_restores_the_handlers(colour_model):
    before = signal.getsignal(signal.SIGTERM)
    seen: list[tuple[int, int]] = []

    def ready(running: ModelServer) -> None:
        seen.append((running.rest_port, running.grpc_port))
        os.kill(os.getpid(), signal.SIGTERM)

    serve(locate.find_models(colour_model), rest_port=0, grpc_port=0, ready=ready)
    assert seen and all(port > 0 for port in seen[0])
    assert signal.getsignal(signal.SIGTERM) is before


def child(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "graftline.serving.server", *arguments, "--rest-port", "0", "--grpc-port", "0"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_a_server_process_writes_its_ports_answers_and_ends_with_status_zero(colour_model):
    process = child(colour_model, "--name", "roses")
    try:
        before = ""
        while not (line := process.stderr.readline()).startswith("serving "):
            assert line, before
            before += line
        head, name, rest, rpc = line.split()
        assert (head, name) == ("serving", "roses")
        assert rest.startswith("rest=127.0.0.1:") and rpc.startswith("grpc=127.0.0.1:")
        url = "http://" + rest.removeprefix("rest=") + "/v1/models/roses"
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert json.load(answer)["model_version_status"][0]["state"] == "AVAILABLE"
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
        assert process.wait(timeout=20) == 0
        times = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO ")
        told = [times.sub("", line, count=1) for line in (before + said).splitlines() if times.match(line)]
        assert told == [
            f"serving roses version 1 from {colour_model}",
            "SIGTERM: stopping",
            "draining: no new requests; those under way get 22.5 s",
            "drained",
            "stopped",
        ]
        assert "Traceback" not in said
    finally:
        process.kill()
        process.communicate()


def test_a_signal_while_tensorflow_is_imported_ends_the_server_at_once(colour_model):
    process = child(colour_model)
    try:
        # TensorFlow's import has begun; the models are loaded seconds later.
        while "tensorflow" not in pathlib.Path(f"/proc/{process.pid}/maps").read_text():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def test_a_path_without_a_model_gives_one_line_and_status_two(tmp_path):
    command = [sys.executable, "-m", "graftline.serving.server", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: no model in {tmp_path}: it is empty")
    assert ended.stderr.count("\n") == 1
