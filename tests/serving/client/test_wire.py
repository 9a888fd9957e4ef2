"""Our messages against TensorFlow's own, and arrays there and back."""

import pathlib
import re
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2,
    predict_pb2,
    prediction_service_pb2,
)

from graftline.serving.client import TensorSpec, tensors, wire_pb2
from graftline.serving.client.protocols import http_error, service_error

PAIRS = [
    (wire_pb2.Tensor, tensor_pb2.TensorProto),
    (wire_pb2.ModelSpec, model_pb2.ModelSpec),
    (wire_pb2.PredictRequest, predict_pb2.PredictRequest),
    (wire_pb2.PredictResponse, predict_pb2.PredictResponse),
    (wire_pb2.GetModelStatusRequest, get_model_status_pb2.GetModelStatusRequest),
    (wire_pb2.GetModelStatusResponse, get_model_status_pb2.GetModelStatusResponse),
    (wire_pb2.GetModelMetadataRequest, get_model_metadata_pb2.GetModelMetadataRequest),
    (wire_pb2.GetModelMetadataResponse, get_model_metadata_pb2.GetModelMetadataResponse),
    (wire_pb2.SignatureDefMap, get_model_metadata_pb2.SignatureDefMap),
    (wire_pb2.SignatureDef, meta_graph_pb2.SignatureDef),
    (wire_pb2.TensorInfo, meta_graph_pb2.TensorInfo),
]
_INT32, _ENUM = 5, 14  # FieldDescriptor's types: an enum travels as an int32


def differences(ours: Any, theirs: Any, seen: frozenset[str] = frozenset()) -> list[str]:
    """List the fields of our message that do not travel as TensorFlow's do, at any depth."""
    found = []
    for field in ours.fields:
        other = theirs.fields_by_number.get(field.number)
        if other is None or (other.name, other.label) != (field.name, field.label):
            found.append(f"{ours.name}.{field.name}")
        elif field.type != other.type and {field.type, other.type} != {_INT32, _ENUM}:
            found.append(f"{ours.name}.{field.name}: type {field.type}, not {other.type}")
        elif field.message_type and field.message_type.name not in seen:
            found += differences(field.message_type, other.message_type, seen | {field.message_type.name})
        if field.enum_type and other.enum_type:
            numbers = {value.name: value.number for value in other.enum_type.values}
            found += [value.name for value in field.enum_type.values if numbers.get(value.name) != value.number]
    return found


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda message: message.DESCRIPTOR.full_name)
def test_our_messages_travel_as_tensorflows(ours: Any, theirs: Any) -> None:
    assert ours.DESCRIPTOR.fields
    assert differences(ours.DESCRIPTOR, theirs.DESCRIPTOR) == []


def test_the_file_for_other_clients_has_methods_of_tensorflow_serving_with_the_messages_compared_above() -> None:
    text = pathlib.Path(wire_pb2.__file__).with_name("service.proto").read_text()
    services = prediction_service_pb2.DESCRIPTOR, model_service_pb2.DESCRIPTOR
    theirs = {
        (method.name, method.input_type.name, method.output_type.name)
        for file in services
        for service in file.services_by_name.values()
        for method in service.methods
    }
    wire = r"graftline\.wire\.(\w+)"
    found = set(re.findall(rf"rpc (\w+)\({wire}\) returns \({wire}\);", text))
    assert len(found) == text.count("rpc ") == 3
    assert found <= theirs
    assert {name for _, *pair in found for name in pair} <= {ours.DESCRIPTOR.name for ours, _ in PAIRS}
    assert re.findall(r'^import "(.*)";', text, re.MULTILINE) == ["wire.proto"]


DTYPES = ["float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
ANY = st.sampled_from([*DTYPES, "bool", "complex64", "complex128"]).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)


@given(ANY)
def test_numbers_are_read_by_tensorflow_as_they_were_sent(array: np.ndarray) -> None:
    proto = tensor_pb2.TensorProto.FromString(tensors.to_proto(array).SerializeToString())
    np.testing.assert_array_equal(tf.make_ndarray(proto), array)


@given(ANY)
def test_tensorflows_tensors_are_read_in_both_of_their_forms(array: np.ndarray) -> None:
    content = tf.make_tensor_proto(array)
    typed = tensor_pb2.TensorProto(dtype=content.dtype, tensor_shape=content.tensor_shape)

    for proto in (content, _typed(array, typed)):
        found = tensors.from_proto(wire_pb2.Tensor.FromString(proto.SerializeToString()))
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def _typed(array: np.ndarray, proto: Any) -> Any:
    """Fill a proto's typed fields, as TensorFlow Serving does in its answers."""
    flat = array.ravel()
    if array.dtype == np.float16:
        proto.half_val.extend(flat.view(np.uint16).tolist())
    elif array.dtype.kind == "c":
        field = proto.scomplex_val if array.dtype == np.complex64 else proto.dcomplex_val
        field.extend(np.stack([flat.real, flat.imag], -1).ravel().tolist())
    else:
        fields = {"float32": "float", "float64": "double", "int64": "int64", "bool": "bool"}
        name = fields.get(array.dtype.name, array.dtype.name if array.dtype.name in ("uint32", "uint64") else "int")
        getattr(proto, f"{name}_val").extend(flat.tolist())
    return proto


@given(st.lists(st.binary(max_size=5), max_size=4))
def test_strings_keep_every_byte(strings: list[bytes]) -> None:
    array = tensors.as_array(strings, "bytes")
    assert array.shape == (len(strings),)
    theirs = tensor_pb2.TensorProto.FromString(tensors.to_proto(array).SerializeToString())
    assert list(tf.make_ndarray(theirs)) == strings
    assert list(tensors.from_proto(tensors.to_proto(array))) == strings
    assert list(tensors.from_json(tensors.to_json(array), "bytes")) == strings


def test_one_value_stands_for_all() -> None:
    proto = wire_pb2.Tensor(dtype=1, float_val=[2.5])
    proto.tensor_shape.dim.add(size=2)
    proto.tensor_shape.dim.add(size=2)
    assert tensors.from_proto(proto).tolist() == [[2.5, 2.5], [2.5, 2.5]]


def test_bfloat16_is_read_as_float32() -> None:
    theirs = tf.make_tensor_proto(tf.constant([1.5, -2.0], tf.bfloat16))
    found = tensors.from_proto(wire_pb2.Tensor.FromString(theirs.SerializeToString()))
    assert (found.dtype, found.tolist()) == (np.float32, [1.5, -2.0])


def test_a_tensor_that_contradicts_itself_is_refused() -> None:
    proto = wire_pb2.Tensor(dtype=1, tensor_content=b"\0" * 8)
    proto.tensor_shape.dim.add(size=3)
    with pytest.raises(ValueError, match="reshape"):
        tensors.from_proto(proto)
    with pytest.raises(ValueError, match="a tensor of type 20"):
        tensors.from_proto(wire_pb2.Tensor(dtype=20))


@pytest.mark.parametrize("values", [[[1, 2], [3]], [b"a", 1]])
def test_what_is_no_tensor_is_refused(values: Any) -> None:
    with pytest.raises(ValueError, match=r"inhomogeneous|mixed"):
        tensors.as_array(values)


def test_text_is_sent_as_utf_8() -> None:
    assert tensors.as_array("ä").tolist() == "ä".encode()
    assert tensors.as_array([["a", b"\0"]]).tolist() == [[b"a", b"\0"]]
    assert tensors.as_array([], "bytes").dtype == object


def test_types_of_both_metadata_are_called_the_same() -> None:
    info = meta_graph_pb2.TensorInfo(dtype=7, tensor_shape=tf.TensorShape([None, 3]).as_proto())
    ours = wire_pb2.TensorInfo.FromString(info.SerializeToString())
    from google.protobuf import json_format

    as_json = json_format.MessageToDict(info, including_default_value_fields=True, preserving_proto_field_name=True)
    expected = TensorSpec("bytes", (-1, 3))
    assert tensors.spec_of(ours.dtype, ours.tensor_shape) == tensors.spec_of_json(as_json) == expected


@pytest.mark.parametrize(
    ("status", "body", "code", "message"),
    [
        (400, b'{"error": "bad"}', "INVALID_ARGUMENT", "bad"),
        (404, b'{"error": "none"}', "NOT_FOUND", "none"),
        (413, b"<html>", "INVALID_ARGUMENT", "HTTP status 413"),
        (429, b'{"error": "full"}', "RESOURCE_EXHAUSTED", "full"),
        (502, b"<html>", "UNAVAILABLE", "HTTP status 502"),
        (504, b"[]", "DEADLINE_EXCEEDED", "HTTP status 504"),
        (599, b"", "INTERNAL", "HTTP status 599"),
    ],
)
def test_http_errors_are_grpcs(status: int, body: bytes, code: str, message: str) -> None:
    error = http_error(status, {}, body)
    assert (error.code, error.message) == (code, message)


@pytest.mark.parametrize(
    ("metadata", "seconds"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        ({"grpc-retry-pushback-ms": "1500"}, 1.5),
        ({"grpc-retry-pushback-ms": "-1"}, None),
        ({}, None),
    ],
)
def test_the_wait_that_a_server_asks_for_is_read(metadata: dict[str, str], seconds: float | None) -> None:
    assert service_error("UNAVAILABLE", "", metadata).retry_after == seconds
