"""The fast path from JSON to an array agrees with the careful path, which reads each value by itself."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

from graftline.serving.server.errors import Code, ServingError
from graftline.serving.server.http import json_documents, json_tensors

_INT64 = st.integers(-(1 << 63), (1 << 64) - 1)
_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-300, 300),
    st.sampled_from([1 << 24, (1 << 24) - 1, 1 << 31, (1 << 32) - 1, 1 << 53, 1 << 63, -(1 << 63), (1 << 64) - 1]),
    _INT64,
    st.floats(),
    st.sampled_from([3.4028234663852886e38, 3.5e38, -1e300]),
    st.text(max_size=3),
    st.sampled_from([{"b64": "dGY="}, {"b64": "*"}, {"a": 1}, {}]),
)
_NESTED = st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=8)
_ALIKE = st.one_of([st.lists(st.lists(leaf, min_size=2, max_size=2), max_size=3) for leaf in (
    st.integers(-300, 300), st.floats(), st.booleans(), st.text(max_size=3), _INT64, st.just({"b64": "dGY="}),
)])  # fmt: skip
_TYPES = st.sampled_from(
    [
        tf.float32,
        tf.float64,
        tf.bool,
        tf.string,
        tf.int8,
        tf.uint8,
        tf.int32,
        tf.int64,
        tf.uint32,
        tf.uint64,
        tf.float16,
    ]
)


def outcome(read, *arguments):
    try:
        return read(*arguments)
    except ServingError as error:
        return error.code, error.message


def slowly(value, dtype) -> np.ndarray:
    shape, flat = json_tensors._shape(value), []
    json_tensors._fill(value, shape, 0, dtype, flat)
    return json_tensors._pack(flat, shape, dtype)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.one_of(_NESTED, _ALIKE), _TYPES)
@pytest.mark.filterwarnings("error")
def test_the_fast_and_the_careful_path_agree(value, dtype):
    quick, slow = outcome(json_tensors._array, value, dtype), outcome(slowly, value, dtype)
    if isinstance(slow, tuple):
        assert quick == slow
    else:
        assert quick.dtype == slow.dtype
        np.testing.assert_array_equal(quick, slow)


def test_regular_lists_take_the_fast_path():
    assert json_tensors._regular([[1, 2.5], [3, float("nan")]], tf.float32) is not None
    assert json_tensors._regular([{"b64": "dGY="}] * 2, tf.string) is not None


def test_text_that_is_not_utf_8_is_read_as_bytes():
    document = json_documents.parse(b'{"inputs": ["\xff\xfe"], "n": 100000000000000000000000}')
    assert document["n"] == 1e23
    assert json_tensors._array(document["inputs"], tf.string).tolist() == [b"\xff\xfe"]
    with pytest.raises(ServingError, match="JSON Parse error: "):
        json_documents.parse(b'{"inputs": ["\xff\xfe"')


@pytest.mark.parametrize("layout", ["instances", "inputs"])
def test_lists_deeper_than_a_tensor_may_be_are_refused(layout):
    signature = SignatureDef()
    signature.inputs["x"].dtype = tf.float32.as_datatype_enum

    def shape(depth: int) -> tuple[int, ...]:
        value: object = 1.0
        for _ in range(depth):
            value = [value]
        return json_tensors.read_inputs({layout: value}, signature)[1]["x"].shape

    assert shape(31) == (1,) * 31
    for depth in (33, 40, 500):
        with pytest.raises(ServingError, match="a tensor has no more than 31 dimensions") as caught:
            shape(depth)
        assert caught.value.code is Code.INVALID_ARGUMENT
