"""A server as a supervisor sees it: health, readiness, the end with requests under way, and `graftline serve`."""

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from graftline.serving.server import ModelServer, ServerOptions
from graftline.serving.server.options import BatchingParameters
from graftline.serving.versions import locate
from tests.serving.conftest import Child
from tests.serving.rest import Rest

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def get(address: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def hold_by_rest(address: str, inputs: dict[str, str]) -> tuple[int, dict]:
    body = json.dumps({"inputs": inputs}).encode()
    with urllib.request.urlopen(f"http://{address}/v1/models/holding:predict", body, timeout=60) as answer:
        return answer.status, json.load(answer)


def get_error(address: str, inputs: dict[str, str]) -> None:
    with contextlib.suppress(urllib.error.HTTPError):
        hold_by_rest(address, inputs)


def hold_by_grpc(address: str, inputs: dict[str, str], timeout: float = 60):
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "holding"
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    with grpc.insecure_channel(address) as channel:
        return prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=timeout)


def holding(model: str, *flags: str) -> Child:
    # A held run keeps one of TensorFlow's threads; by default there is one for each core.
    return Child(model, "--name=holding", "--tensorflow-inter-op-parallelism=8", "--num-batch-threads=4", *flags)


# Health and readiness


def test_grpc_health_is_serving_for_the_server_and_its_services(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "tensorflow.serving.PredictionService"):
            assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_server_is_alive_and_ready(server):
    address = f"127.0.0.1:{server.rest_port}"
    assert get(address, "/healthz") == (200, "ok\n")
    assert get(address, "/readyz") == (200, "ready\n")


def test_a_loading_server_is_alive_and_not_ready(colour_model, monkeypatch):
    from graftline.serving.server.model import manager

    seen: list[tuple[int, str]] = []
    load = manager.ModelManager.load

    def look_and_load(self) -> None:
        address = f"127.0.0.1:{running.rest_port}"
        seen.extend(get(address, path) for path in ("/healthz", "/readyz", "/v1/models/export"))
        load(self)

    monkeypatch.setattr(manager.ModelManager, "load", look_and_load)
    running = ModelServer(locate.find_models(colour_model), 0, 0)
    with running:
        assert [status for status, _ in seen] == [200, 503, 503]
        assert json.loads(seen[2][1]) == {"error": "the model server is still loading its models"}
        assert get(f"127.0.0.1:{running.rest_port}", "/readyz") == (200, "ready\n")


def test_a_server_without_a_model_is_not_ready(holding_model):
    from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

    with ModelServer(locate.find_models(holding_model, "holding"), 0, 0) as running:
        assert get(f"127.0.0.1:{running.rest_port}", "/readyz") == (200, "ready\n")
        reload = model_management_pb2.ReloadConfigRequest()
        reload.config.model_config_list.SetInParent()
        with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
            model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(reload, timeout=30)
        assert get(f"127.0.0.1:{running.rest_port}", "/readyz") == (503, "no model is served\n")


def test_a_server_whose_grpc_port_does_not_answer_is_not_ready(holding_model):
    with ModelServer(locate.find_models(holding_model, "holding"), 0, 0) as running:
        address = f"127.0.0.1:{running.rest_port}"
        assert get(address, "/readyz") == (200, "ready\n")
        running._loop.run(running._rpc.close())
        until = time.monotonic() + 30
        while get(address, "/readyz") != (503, "the gRPC port does not answer\n"):  # asked once in a second
            assert time.monotonic() < until
            time.sleep(0.1)


def test_a_server_with_a_run_that_has_not_ended_in_three_times_its_time_is_not_ready(holding_model, held):
    request = held()
    options = ServerOptions(port=0, rest_api_port=0, rest_api_timeout_in_ms=100)
    with (
        ModelServer(locate.find_models(holding_model, "holding"), options=options) as running,
        ThreadPoolExecutor(1) as pool,
    ):
        address = f"127.0.0.1:{running.rest_port}"
        answer = pool.submit(get_error, address, request.inputs)
        request.wait_until_started()
        until = time.monotonic() + 30
        while get(address, "/readyz")[0] == 200:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert get(address, "/readyz") == (
            503,
            "1 runs of a model have not ended in three times their time: restart the server\n",
        )
        request.let_go()
        answer.result(30)
        assert get(address, "/readyz") == (200, "ready\n")


# The end


def test_the_end_is_told_to_every_watcher_of_health_and_waits_for_none(holding_model):
    with ModelServer(locate.find_models(holding_model, "holding"), 0, 0) as running, contextlib.ExitStack() as channels:
        stubs = [
            health_pb2_grpc.HealthStub(channels.enter_context(grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}")))
            for _ in range(3)
        ]
        watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=60) for stub in stubs]
        assert [next(watch).status for watch in watches] == [SERVING] * 3
        watches[0].cancel()
        began = time.monotonic()
        running.stop()
        assert time.monotonic() - began < 10  # the grace is 25 s
        assert [next(watch).status for watch in watches[1:]] == [NOT_SERVING] * 2


def test_after_sigterm_requests_under_way_are_answered_and_new_ones_refused(holding_model, held):
    by_rest, by_grpc = held(), held()
    with holding(holding_model) as child, ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(hold_by_rest, child.rest, by_rest.inputs)]
        answers += [pool.submit(hold_by_grpc, child.grpc, by_grpc.inputs)]
        by_rest.wait_until_started()
        by_grpc.wait_until_started()
        with grpc.insecure_channel(child.grpc) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
            assert next(watch).status == SERVING
            child.process.send_signal(signal.SIGTERM)
            assert next(watch).status == NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            hold_by_grpc(child.grpc, by_grpc.inputs)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        by_rest.let_go()
        by_grpc.let_go()
        assert answers[0].result(30) == (200, {"outputs": True})
        assert list(answers[1].result(30).outputs["done"].bool_val) == [True]
        child.end()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(tuple(child.rest.split(":")), timeout=5)


def test_a_signal_to_another_thread_ends_the_server(holding_model):
    """The kernel may send a process's signal to any of its threads. Python runs the handler in the main thread."""
    with holding(holding_model) as child:
        process = child.process.pid
        other = min(int(thread) for thread in os.listdir(f"/proc/{process}/task") if int(thread) != process)
        assert ctypes.CDLL(None).tgkill(process, other, int(signal.SIGTERM)) == 0
        child.end()


def test_a_second_signal_ends_the_server_at_once(holding_model, held):
    request = held()
    with holding(holding_model) as child, ThreadPoolExecutor(1) as pool:
        lost = pool.submit(hold_by_grpc, child.grpc, request.inputs)
        request.wait_until_started()
        with grpc.insecure_channel(child.grpc) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
            assert next(watch).status == SERVING
            child.process.send_signal(signal.SIGTERM)
            assert next(watch).status == NOT_SERVING
        child.process.send_signal(signal.SIGTERM)
        assert child.process.wait(timeout=30) == -signal.SIGTERM
        assert lost.exception(30).code() is grpc.StatusCode.UNAVAILABLE


def test_requests_that_never_end_are_dropped_after_the_grace_and_the_process_ends(holding_model, held):
    by_rest, by_grpc = held(), held()
    with holding(holding_model, "--shutdown-grace-seconds=0.2") as child, ThreadPoolExecutor(2) as pool:
        lost_by_rest = pool.submit(hold_by_rest, child.rest, by_rest.inputs)
        lost_by_grpc = pool.submit(hold_by_grpc, child.grpc, by_grpc.inputs)
        by_rest.wait_until_started()
        by_grpc.wait_until_started()
        child.process.send_signal(signal.SIGTERM)
        assert lost_by_grpc.exception(30).code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        assert isinstance(lost_by_rest.exception(30), ConnectionError)
        assert child.process.wait(10) == 0  # the limit of a request would stop the run after 30 s


# Limits


def test_requests_beyond_the_limit_are_refused_and_probes_are_answered(holding_model, held):
    first, second, third = held(), held(), held()
    with holding(holding_model, "--max-in-flight=2") as child, ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(hold_by_grpc, child.grpc, each.inputs) for each in (first, second)]
        first.wait_until_started()
        second.wait_until_started()
        with pytest.raises(grpc.RpcError) as refused:
            hold_by_grpc(child.grpc, third.inputs)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refused.value.details() == "2 requests are under way, and no more are taken: try again"
        with pytest.raises(urllib.error.HTTPError) as refused_by_rest:
            hold_by_rest(child.rest, third.inputs)
        assert refused_by_rest.value.code == 429
        assert get(child.rest, "/readyz")[0] == get(child.rest, "/v1/models/holding")[0] == 200
        first.let_go()
        second.let_go()
        for each in waiting:
            each.result(30)
        again = pool.submit(hold_by_rest, child.rest, third.inputs)
        third.wait_until_started()
        third.let_go()
        assert again.result(30)[0] == 200


def test_a_run_that_takes_too_long_is_stopped_and_frees_its_place(holding_model):
    with ModelServer(
        locate.find_models(holding_model, "holding"),
        options=ServerOptions(
            port=0, rest_api_port=0, rest_api_timeout_in_ms=200, batching=BatchingParameters(num_batch_threads=1)
        ),
    ) as running:
        forever = {"signature_name": "forever", "inputs": [1.0]}
        for _ in range(2):
            status, answer = Rest(running).predict("holding", forever)
            assert (status, answer) == (504, {"error": "Timed out waiting for notification"})
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = "holding", "forever"
        request.inputs["x"].dtype = 1
        request.inputs["x"].tensor_shape.dim.add(size=1)
        request.inputs["x"].float_val.append(1)
        with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
            for timeout in (None, 0.1):  # the server's own limit, and the client's
                with pytest.raises(grpc.RpcError) as caught:
                    prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=timeout)
                assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


# graftline serve


def events(lines: list[str]) -> list[str]:
    """The lines in the log of `graftline serve`. Each has its time, which is cut off here."""
    time = re.compile(r"graftline: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO ")
    assert all(time.match(line) for line in lines), lines
    return [time.sub("", line).strip() for line in lines]


def test_graftline_serve_writes_its_addresses_on_one_line_answers_and_ends_with_status_zero(workspace):
    command = [sys.executable, "-c", "from graftline.pipeline.cli import main; main()", "serve", str(workspace)]
    env = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}  # as a user's
    process = subprocess.Popen([*command, "--rest-port=0", "--port", "0"], stderr=subprocess.PIPE, text=True, env=env)
    try:
        log = [process.stderr.readline() for _ in range(2)]
        line = process.stderr.readline()
        found = re.fullmatch(
            r"graftline: serving colours \(version 3\), numbers \(version 1\): "
            r"REST http://(127\.0\.0\.1:\d+)/v1/models/colours, gRPC 127\.0\.0\.1:\d+; Ctrl-C ends it\n",
            line,
        )
        assert found, line
        models = workspace / "models"
        assert events(log) == [
            f"serving colours version 3 from {models}/colours/3",
            f"serving numbers version 1 from {models}/numbers/1",
        ]
        assert get(found[1], "/v1/models/numbers")[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert events(process.stderr.readlines()) == [
            "SIGINT: stopping",
            "draining: no new requests; those under way get 22.5 s",
            "drained",
            "stopped",
        ]
    finally:
        process.kill()
        process.communicate()


def test_tensorflow_servings_flags_reach_the_server(workspace, tmp_path):
    models, batching = tmp_path / "models.config", tmp_path / "batching.config"
    models.write_text(
        f"""model_config_list {{ config {{
          name: "sums" base_path: "{workspace}/models/numbers" model_platform: "tensorflow" }} }}"""
    )
    batching.write_text("max_batch_size { value: 2 }\nenable_large_batch_splitting { value: false }")
    flags = ["--model_config_file", str(models), "--enable_batching", "--batching_parameters_file", str(batching)]
    with Child(*flags, "--file_system_poll_wait_seconds=0", "--monitoring=false") as child:
        assert get(child.rest, "/v1/models/sums")[0] == 200
        assert get(child.rest, "/monitoring/prometheus/metrics")[0] == 404
        body = json.dumps({"instances": [[1.0, 2.0]] * 3}).encode()
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://{child.rest}/v1/models/sums:predict", body, timeout=30)
        assert json.load(caught.value) == {"error": "Task size 3 is larger than maximum input batch size 2"}
