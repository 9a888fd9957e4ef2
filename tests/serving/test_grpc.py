"""The gRPC API by the official stubs on loopback, as clients of images use it. The tables are in conformance/."""

import asyncio
import threading

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from graftline.serving.client import Client
from graftline.serving.server import ModelServer, ServerOptions
from graftline.serving.server.errors import Code, ServingError
from graftline.serving.server.grpc import health
from graftline.serving.server.grpc.relay import Relay
from graftline.serving.server.grpc.server import GrpcServer
from graftline.serving.server.limits import InFlight
from graftline.serving.server.metrics import Metrics
from graftline.serving.server.model.loaded_model import LoadedModel
from graftline.serving.server.model.manager import ModelManager
from graftline.serving.server.model.tensors import from_proto
from graftline.serving.server.threads import LoopThread, RequestThreads
from graftline.serving.versions.locate import Model, find_models
from tests.images import image_of
from tests.serving.oracle.http2 import DATA, Http2, frame
from tests.serving.predict_requests import request


@pytest.fixture(scope="module")
def channel(server):
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options) as channel:
        yield channel


@pytest.fixture(scope="module")
def prediction(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def status(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus


def refused(call, message):
    """Return the status code and the details of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call(message, timeout=30)
    return caught.value.code(), caught.value.details()


def test_images_are_classified_in_typed_fields(prediction):
    images = [image_of("red"), image_of("blue", fmt="JPEG")]
    response = prediction.Predict(request("colours", image_bytes=images), timeout=30)
    assert list(response.outputs["label"].string_val) == [b"red", b"blue"]
    assert len(response.outputs["probabilities"].float_val) == 6
    assert [dim.size for dim in response.outputs["probabilities"].tensor_shape.dim] == [2, 3]
    assert not response.outputs["probabilities"].tensor_content


def test_an_answer_names_its_model_version_and_signature(prediction):
    response = prediction.Predict(request("colours", image_bytes=[image_of("red")]), timeout=30)
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("colours", 3, "serving_default")


def test_an_empty_batch_gives_empty_outputs(prediction):
    empty = tf.make_tensor_proto([], tf.string, shape=[0])
    response = prediction.Predict(request("colours", image_bytes=empty), timeout=30)
    assert [dim.size for dim in response.outputs["probabilities"].tensor_shape.dim] == [0, 3]


def test_only_the_requested_outputs_are_sent(prediction):
    message = request("colours", outputs=["score", "label"], image_bytes=[image_of("red")])
    assert sorted(prediction.Predict(message, timeout=30).outputs) == ["label", "score"]


def test_an_extra_input_is_named(prediction):
    code, details = refused(prediction.Predict, request("numbers", x=[[1.0, 2.0]], z=[1.0]))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details.endswith("Sent extra: {z}. Missing but required: {}.")


def test_an_input_of_another_name_is_named(prediction):
    code, details = refused(prediction.Predict, request("numbers", z=[[1.0, 2.0]]))
    assert (code, details) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Signature input alias: x(feed name: serving_default_x:0) not found in request and no default value provided. "
        "Inputs expected to be in the request {z}, or default input alias set: ",
    )


def test_bytes_that_are_not_an_image_are_refused_and_the_next_request_is_answered(prediction):
    code, details = refused(prediction.Predict, request("colours", image_bytes=[b"no image"]))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details == "not an image: starts with 'no image'"
    prediction.Predict(request("colours", image_bytes=[image_of("red")]), timeout=30)


def test_a_long_error_beyond_ascii_fits_into_a_header(prediction):
    with pytest.raises(grpc.RpcError) as caught:
        prediction.Predict(request("numbers", "😀" * 1000, x=[[1.0, 2.0]]), timeout=30)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == 'Serving signature key "' + "😀" * 250 + "...TRUNCATED"


def test_messages_over_four_mebibytes_are_accepted_and_sent(prediction):
    text = b"x" * (5 << 20)
    inputs = {"number": tf.make_tensor_proto([1], tf.int64), "flag": [True], "text": [text]}
    response = prediction.Predict(request("numbers", "mixed", **inputs), timeout=30)
    assert response.outputs["text"].string_val[0] == text


def test_a_message_over_the_limit_is_refused(prediction):
    code, details = refused(
        prediction.Predict, request("colours", image_bytes=[b"x" * (ServerOptions.max_request_bytes + 1)])
    )
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in details


def metadata_request(model, *fields, version=None):
    message = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    message.model_spec.name = model
    if version is not None:
        message.model_spec.version.value = version
    return message


def test_a_client_with_an_event_loop_in_the_servers_process_logs_no_error(server, caplog):
    async def predict():
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            for _ in range(200):
                await stub.Predict(request("numbers", x=[[1.0, 2.0]]), timeout=30)

    asyncio.run(predict())
    assert caplog.records == []


def test_the_metadata_hold_the_signatures(prediction):
    response = prediction.GetModelMetadata(metadata_request("colours", "signature_def"), timeout=30)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert (response.model_spec.name, response.model_spec.version.value) == ("colours", 3)
    assert list(signatures.signature_def["serving_default"].inputs) == ["image_bytes"]


def test_the_status_of_a_model_is_available(status):
    message = get_model_status_pb2.GetModelStatusRequest()
    message.model_spec.name = "colours"
    (found,) = status(message, timeout=30).model_version_status
    assert (found.version, found.state) == (3, get_model_status_pb2.ModelVersionStatus.AVAILABLE)


def test_a_client_without_a_model_name_gets_names_beyond_ascii_and_with_commas(float_model):
    with (
        ModelServer([Model("blüten, 漢", None, {1: float_model})], rest_port=0, grpc_port=0) as running,
        Client(f"127.0.0.1:{running.grpc_port}", timeout=30) as client,
    ):
        assert client.predict({"x": np.ones([1, 2], np.float32)})["y"].tolist() == [[2.5, 2.5]]


def test_names_that_are_too_long_for_a_header_are_left_out(float_model):
    loaded = LoadedModel(float_model)
    models = [Model(f"{number:03}" + "m" * 200, None, {1: float_model}) for number in range(40)]
    manager = ModelManager(models, load=lambda path, name, version: loaded)
    manager.load()
    server, loop = GrpcServer(ServerOptions(), Metrics(), InFlight(1), RequestThreads(1)), LoopThread("grpc")
    port = loop.run(server.bind("127.0.0.1", 0))
    loop.run(server.start(manager))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        code, details = refused(stub.Predict, request("none", x=[[1.0, 2.0]]))
    loop.run(server.close())
    loop.stop()
    loaded.retire()
    assert (code, details) == (grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(none)")


def test_calls_without_a_message_do_not_keep_other_calls_from_an_answer(workspace):
    options = ServerOptions(port=0, rest_api_port=0, max_in_flight=1)
    done = threading.Event()

    def nothing():
        done.wait(60)
        yield from ()

    with ModelServer(find_models(str(workspace)), options=options) as server:
        address = f"127.0.0.1:{server.grpc_port}"
        with grpc.insecure_channel(address) as holding, grpc.insecure_channel(address) as channel:
            call = holding.stream_unary("/tensorflow.serving.PredictionService/Predict")
            held = [call.future(nothing()) for _ in range(50)]
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            for _ in range(5):
                stub.Predict(request("numbers", x=[[1.0, 2.0]]), timeout=10)
            assert not any(each.done() for each in held)
            for each in held:
                each.cancel()
            done.set()


@pytest.mark.parametrize("kind", ["DT_FLOAT", "DT_STRING", "DT_BFLOAT16"])
def test_a_few_bytes_that_claim_a_tensor_of_gigabytes_are_refused(kind):
    claimed = tensor_pb2.TensorProto(dtype=types_pb2.DataType.Value(kind))
    claimed.tensor_shape.dim.add(size=1 << 26)
    with pytest.raises(ServingError, match="tensor parsing error: x") as caught:
        from_proto("x", claimed)
    assert caught.value.code is Code.INVALID_ARGUMENT
    claimed.tensor_shape.dim[0].size = 3
    assert from_proto("x", claimed).shape == (3,)


def test_more_dimensions_than_numpy_has_are_refused():
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[1.0])
    for _ in range(33):
        proto.tensor_shape.dim.add(size=1)
    with pytest.raises(ServingError, match="tensor parsing error: x"):
        from_proto("x", proto)


def test_a_compressed_message_is_refused(prediction):
    # gRPC decompresses without a limit: 1 MiB may become 1 GiB.
    with pytest.raises(grpc.RpcError) as caught:
        message = request("numbers", x=np.zeros([5000, 2], np.float32))
        prediction.Predict(message, timeout=30, compression=grpc.Compression.Gzip)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


HELD = 1000


@pytest.mark.parametrize("connections", [1, 100])
def test_held_calls_keep_nobody_from_an_answer(server, connections):
    held = [Http2(f"127.0.0.1:{server.grpc_port}") for _ in range(connections)]
    for each in held:
        each.read_all_the_while()
        for number in range(HELD // connections):
            stream = each.open_call()
            if number % 2:
                each.send(frame(DATA, 0, stream, b"\0\0\0\1\0half"))
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for _ in range(20):
            stub.Predict(request("numbers", x=[[1.0, 2.0]]), timeout=10)
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    for each in held:
        each.close()


def test_of_too_many_watchers_the_oldest_is_refused(server, monkeypatch):
    monkeypatch.setattr(health, "MAX_WATCHERS", 3)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watching = []
        for _ in range(4):
            watching.append(stub.Watch(health_pb2.HealthCheckRequest(), timeout=30))
            next(watching[-1])
        with pytest.raises(grpc.RpcError) as caught:
            next(watching[0])
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not any(each.done() for each in watching[1:])
        for each in watching:
            each.cancel()


@pytest.mark.parametrize(
    ("host", "refused"), [("192.0.2.7", True), ("::ffff:7f00:1", True), ("127.0.0.9", False), ("::1", False)]
)
def test_a_reload_from_another_machine_is_refused(server, monkeypatch, host, refused):
    monkeypatch.setattr(Relay, "host_of", lambda self, peer: host)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        reload = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest
        with pytest.raises(grpc.RpcError) as caught:
            reload(model_management_pb2.ReloadConfigRequest(), timeout=30)  # without a config: never carried out
    assert (caught.value.code() is grpc.StatusCode.PERMISSION_DENIED) == refused


def test_a_call_knows_its_clients_address(server, monkeypatch):
    hosts = []
    host_of = Relay.host_of
    monkeypatch.setattr(Relay, "host_of", lambda self, peer: hosts.append(host_of(self, peer)) or hosts[-1])
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        reload = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest
        with pytest.raises(grpc.RpcError):
            reload(model_management_pb2.ReloadConfigRequest(), timeout=30)
    assert hosts == ["127.0.0.1"]
