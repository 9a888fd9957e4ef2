"""Protos that become much more than their bytes: which are refused unparsed, and what the others cost."""

import contextlib

import grpc
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from tensorflow.core.example.example_pb2 import Example
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from graftline.serving.server.errors import Code, ServingError
from graftline.serving.server.model import inference
from graftline.serving.server.model.proto_cost import check_cost
from graftline.serving.server.model.tensors import MAX_PADDED_BYTES, check_names, from_proto, from_protos
from tests.saved_models import save_float_model
from tests.serving.oracle.gauge import Gauge
from tests.serving.oracle.live import Live

MIB = 1 << 20
N = 60 * MIB


def varint(number):
    data = b""
    while number > 127:
        data, number = data + bytes((number & 127 | 128,)), number >> 7
    return data + bytes((number,))


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor(body, dtype=7, size=None):
    shape = b"" if size is None else field(2, field(2, b"\x08" + varint(size)))
    return b"\x08" + varint(dtype) + shape + body


def predict(body, **claims):
    """Return a PredictRequest for the model `numbers` with one tensor."""
    return field(1, field(1, b"numbers")) + field(2, field(1, b"x") + field(2, tensor(body, **claims)))


def repeat(piece, size):
    return piece * (size // len(piece))


# What is sent, and how: (service's method, request type, bytes). Fields by tensor.proto, predict.proto, example.proto.
COSTLY = {
    "empty strings": ("Predict", PredictRequest, lambda n: predict(repeat(field(8, b""), n))),
    "short strings": ("Predict", PredictRequest, lambda n: predict(repeat(field(8, b"a"), n))),
    "varints of int64_val": ("Predict", PredictRequest, lambda n: predict(field(10, b"\1" * n), dtype=9)),
    "varints of int_val": ("Predict", PredictRequest, lambda n: predict(field(7, b"\1" * n), dtype=3)),
    "varints of bool_val": ("Predict", PredictRequest, lambda n: predict(field(11, b"\1" * n), dtype=10)),
    "varints of half_val": ("Predict", PredictRequest, lambda n: predict(field(13, b"\1" * n), dtype=19)),
    "numbers that are not packed": ("Predict", PredictRequest, lambda n: predict(repeat(b"\x50\1", n), dtype=9)),
    "dimensions": ("Predict", PredictRequest, lambda n: predict(field(2, repeat(field(2, b""), n)))),
    "resource handles": ("Predict", PredictRequest, lambda n: predict(repeat(field(14, b""), n), dtype=20)),
    "variants": ("Predict", PredictRequest, lambda n: predict(repeat(field(15, b""), n), dtype=21)),
    "unknown numbers": ("Predict", PredictRequest, lambda n: repeat(b"\x98\x06\0", n)),
    "unknown strings": ("Predict", PredictRequest, lambda n: repeat(field(99, b""), n)),
    "unknown groups": ("Predict", PredictRequest, lambda n: repeat(b"\x9b\x06\x9c\x06", n)),
    "entries of a map": ("Predict", PredictRequest, lambda n: repeat(field(2, b""), n)),
    "output filters": ("Predict", PredictRequest, lambda n: repeat(field(3, b""), n)),
    "a long name": ("Predict", PredictRequest, lambda n: field(1, field(1, b"a" * n))),
    "a long name of a tensor": ("Predict", PredictRequest, lambda n: field(2, field(1, "😀".encode() * (n // 4)))),
    "examples": ("Classify", ClassificationRequest, lambda n: field(2, field(1, repeat(field(1, b""), n)))),
    "features of an example": (
        "Classify",
        ClassificationRequest,
        lambda n: field(2, field(1, field(1, field(1, repeat(field(1, b""), n))))),
    ),
    "numbers of a feature": (
        "Classify",
        ClassificationRequest,
        lambda n: field(
            2, field(1, field(1, field(1, field(1, field(1, b"x") + field(2, field(3, field(1, b"\1" * n)))))))
        ),
    ),
    "tasks": ("MultiInference", MultiInferenceRequest, lambda n: repeat(field(1, b""), n)),
    "metadata fields": ("GetModelMetadata", GetModelMetadataRequest, lambda n: repeat(field(2, b""), n)),
}


@pytest.mark.parametrize("name", COSTLY)
def test_a_costly_proto_is_refused_before_it_is_parsed(name):
    _, kind, build = COSTLY[name]
    with pytest.raises(ServingError, match="request") as caught:
        check_cost(build(12 * MIB if "varint" in name or "numbers of" in name else 2 * MIB), kind.DESCRIPTOR)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert len(caught.value.message) < 300


def entries(count):
    return b"".join(field(1, field(1, b"%d" % number) + field(2, b"")) for number in range(count))


# As much of each kind as is taken.
TAKEN = {
    "bytes of a tensor": ("Predict", PredictRequest, predict(field(4, bytes(8 * MIB)), dtype=1, size=2 * MIB)),
    "floats": ("Predict", PredictRequest, predict(field(5, bytes(8 * MIB)), dtype=1, size=2 * MIB)),
    "an image": ("Predict", PredictRequest, predict(field(8, bytes(8 * MIB)), size=1)),
    "strings": ("Predict", PredictRequest, predict(field(8, b"x" * 100) * 80_000, size=80_000)),
    "the most short strings": ("Predict", PredictRequest, predict(repeat(field(8, b"a"), 390_000), size=130_000)),
    "the most int64_val": ("Predict", PredictRequest, predict(field(10, b"\1" * 2_380_000), dtype=9, size=2_380_000)),
    "the most int_val": ("Predict", PredictRequest, predict(field(7, b"\1" * 9_700_000), dtype=4, size=9_700_000)),
    "a batch of pixels as int_val": (
        "Predict",
        PredictRequest,
        predict(field(7, b"\xff\1" * 4_816_896), dtype=4, size=4_816_896),
    ),
    "the most entries": ("Classify", ClassificationRequest, field(2, field(1, field(1, field(1, entries(43_000)))))),
    "the most examples": ("Classify", ClassificationRequest, field(2, field(1, repeat(field(1, b""), 260_000)))),
    "a small proto": ("Predict", PredictRequest, predict(repeat(field(8, b""), 200_000))),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_clients_send_is_taken(name):
    _, kind, data = TAKEN[name]
    check_cost(data, kind.DESCRIPTOR)
    kind.FromString(data)


@pytest.mark.parametrize(
    "data", [b"\xff" * MIB, b"\x0a\xff\xff\xff\x7f" + bytes(MIB), b"\x0f" * MIB, field(1, b"\x0a") * 100_000]
)
def test_bytes_that_are_no_proto_are_left_to_the_parser(data):
    check_cost(data, PredictRequest.DESCRIPTOR)
    with pytest.raises(DecodeError):
        PredictRequest.FromString(data)


def test_messages_nested_too_deeply_are_left_to_the_parser():
    data = bytes(MIB)
    for _ in range(300):
        data = field(15, field(3, data))  # TensorProto.variant_val.tensors
    check_cost(data, TensorProto.DESCRIPTOR)
    with pytest.raises(DecodeError):
        TensorProto.FromString(data)


def test_a_reload_of_many_models_is_refused():
    with pytest.raises(ServingError):
        check_cost(repeat(field(1, field(1, field(1, b""))), MIB), ReloadConfigRequest.DESCRIPTOR)


@pytest.mark.parametrize(
    "sizes", [[1 << 62, 1 << 62], [(1 << 63) - 1] * 32, [(1 << 63) - 1] * 20_000, [1 << 40], [0, -1], [0] * 33]
)
def test_a_shape_without_content_is_refused(sizes):
    proto = TensorProto(dtype=1)
    for size in sizes:
        proto.tensor_shape.dim.add(size=size)
    with pytest.raises(ServingError, match="tensor parsing error: x"):
        from_proto("x", proto)


@pytest.mark.parametrize("kind", [20, 21, 11, 0, 120], ids=["resource", "variant", "quantized", "invalid", "reference"])
def test_a_type_that_cannot_be_sent_is_refused(kind):
    with pytest.raises(ServingError, match="tensor parsing error: x"):
        from_proto("x", TensorProto(dtype=kind, tensor_content=b"1234"))


@pytest.mark.parametrize("size", [0, 1, 7, 9, 100])
def test_content_of_another_length_than_the_shape_is_refused(size):
    proto = TensorProto(dtype=1, tensor_content=bytes(size))
    proto.tensor_shape.dim.add(size=2)
    if size:
        with pytest.raises(ServingError, match="tensor parsing error: x"):
            from_proto("x", proto)
    else:
        assert from_proto("x", proto).tolist() == [0, 0]  # as TensorFlow reads it


def test_the_tensors_of_a_request_share_what_they_may_claim():
    proto = TensorProto(dtype=1, float_val=[2.5])
    proto.tensor_shape.dim.add(size=MAX_PADDED_BYTES // 4)
    assert from_protos({"x": proto})["x"].sum() == 2.5 * MAX_PADDED_BYTES // 4
    with pytest.raises(ServingError, match="tensor parsing error: y"):
        from_protos({"x": proto, "y": proto})


def test_values_beyond_a_piece_are_read_in_their_order():
    numbers = np.arange(200_000)
    proto = TensorProto(dtype=9, int64_val=numbers)
    proto.tensor_shape.dim.add(size=200_000)
    assert (from_proto("x", proto) == numbers).all()
    narrow = TensorProto(dtype=4, int_val=numbers)
    narrow.tensor_shape.dim.add(size=200_000)
    assert (from_proto("x", narrow) == numbers.astype(np.uint8)).all()
    texts = TensorProto(dtype=7, string_val=[b"%d\0" % number for number in numbers])
    texts.tensor_shape.dim.add(size=200_000)
    assert list(from_proto("x", texts)) == list(texts.string_val)


def test_very_many_names_are_counted_and_not_sorted():
    signature = SignatureDef(method_name="tensorflow/serving/predict")
    signature.inputs["x"].name = "x:0"
    with pytest.raises(ServingError) as caught:
        check_names(signature, [str(number) for number in range(100_000)])
    assert caught.value.message == "input size does not match signature: 100000!=1"


def test_a_context_that_is_copied_into_every_example_is_bounded():
    message = ClassificationRequest()
    listed = message.input.example_list_with_context
    listed.context.features.feature["x"].bytes_list.value.append(bytes(MIB))
    for _ in range(10):
        listed.examples.append(Example())
    assert len(inference.examples_of(message.input)) == 10
    for _ in range(10):
        listed.examples.append(Example())
    with pytest.raises(ServingError, match=r"the context takes 20971\d+ bytes in the 20 examples"):
        inference.examples_of(message.input)


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    workspace = tmp_path_factory.mktemp("workspace")
    save_float_model(str(workspace / "models" / "numbers" / "1"))
    with Live(str(workspace)) as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("name", {**COSTLY, **TAKEN})
def test_a_proto_costs_a_server_at_most_eight_times_its_bytes(name, live):
    api, _, build = {**COSTLY, **TAKEN}[name]
    data = build(N) if callable(build) else build
    gauge = Gauge(live.pid)
    gauge.settle()
    gauge.reset()
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(live.grpc, options) as channel, contextlib.suppress(grpc.RpcError):
        channel.unary_unary(f"/tensorflow.serving.PredictionService/{api}")(data, timeout=60)
    assert gauge.growth() <= 8 * len(data) + 64 * MIB
    assert gauge.seconds() <= 1 + len(data) / MIB  # a second, and one for each MiB: both are far more than it takes
