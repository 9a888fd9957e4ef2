"""Convert between numpy and what travels: TensorFlow's TensorProto over gRPC, JSON over REST.

Strings are object arrays of bytes. Sources: the comments of TensorFlow's tensor.proto and types.proto;
https://www.tensorflow.org/tfx/serving/api_rest, "Encoding binary values".
The server has a codec of its own: it answers in typed fields, bounds what it pads, and refuses in TensorFlow's words.
"""

import base64
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from graftline.serving.client.results import TensorSpec
from graftline.serving.client.wire_pb2 import Tensor, TensorShape

BYTES = "bytes"  # the dtype of strings
_BFLOAT16 = 14  # read as float32, since numpy has no bfloat16


class _Type(NamedTuple):
    number: int  # tensorflow.DataType
    values: str  # the field that holds the values


_TYPES = {
    "float32": _Type(1, "float_val"),
    "float64": _Type(2, "double_val"),
    "int32": _Type(3, "int_val"),
    "uint8": _Type(4, "int_val"),
    "int16": _Type(5, "int_val"),
    "int8": _Type(6, "int_val"),
    BYTES: _Type(7, "string_val"),
    "complex64": _Type(8, "scomplex_val"),
    "int64": _Type(9, "int64_val"),
    "bool": _Type(10, "bool_val"),
    "uint16": _Type(17, "int_val"),
    "complex128": _Type(18, "dcomplex_val"),
    "float16": _Type(19, "half_val"),
    "uint32": _Type(22, "uint32_val"),
    "uint64": _Type(23, "uint64_val"),
}
_NAMES = {0: "invalid", _BFLOAT16: "bfloat16"} | {kind.number: name for name, kind in _TYPES.items()}
_JSON_NAMES = {"DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_STRING": BYTES, "DT_HALF": "float16"}


def spec_of(dtype: int, shape: TensorShape) -> TensorSpec:
    """Return the TensorSpec of a TensorInfo's fields."""
    sizes = None if shape.unknown_rank else tuple(dim.size for dim in shape.dim)
    return TensorSpec(_NAMES.get(dtype, str(dtype)), sizes)


def spec_of_json(info: Mapping[str, Any]) -> TensorSpec:
    """Return the TensorSpec of a TensorInfo in REST's metadata: {"dtype": "DT_FLOAT", "tensor_shape": {...}}."""
    name = str(info["dtype"])
    shape = info["tensor_shape"]
    sizes = None if shape["unknown_rank"] else tuple(int(dim["size"]) for dim in shape["dim"])
    return TensorSpec(_JSON_NAMES.get(name, name.removeprefix("DT_").lower()), sizes)


def as_array(values: Any, dtype: str | None = None) -> np.ndarray:
    """Return `values` as an array. Strings (bytes, str) become objects of bytes; numeric arrays keep their dtype.

    Raises ValueError when the values are no tensor, such as lists of different lengths.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind not in "OSU":
        return values
    array = np.asarray(values, object)
    first = next(iter(array.flat), b"" if dtype == BYTES else 0.0)
    if dtype == BYTES or isinstance(first, bytes | str):
        flat = [value.encode() if isinstance(value, str) else value for value in array.flat]
        if not all(isinstance(value, bytes) for value in flat):
            raise ValueError("strings and other values are mixed in one tensor")
        return _strings(flat).reshape(array.shape)
    return np.asarray(values, dtype)


def to_proto(array: np.ndarray) -> Tensor:
    """Return the TensorProto of an `as_array`. Raises ValueError for a dtype that TensorFlow does not have."""
    name = BYTES if array.dtype == object else array.dtype.name
    if name not in _TYPES:
        raise ValueError(f"an array of {name} cannot be sent")
    proto = Tensor(dtype=_TYPES[name].number)
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if name == BYTES:
        proto.string_val.extend(array.ravel().tolist())
    else:
        proto.tensor_content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return proto


def from_proto(proto: Tensor) -> np.ndarray:
    """Return the values of a TensorProto, in its own shape and dtype.

    Raises ValueError when the proto contradicts itself, or numpy does not have its type.
    """
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if proto.dtype == _BFLOAT16:
        # A bfloat16 is the upper half of a float32.
        return _pad((_half_bits(proto).astype(np.uint32) << 16).view(np.float32), shape)
    name = _NAMES.get(proto.dtype)
    if name not in _TYPES:
        raise ValueError(f"a tensor of type {name or proto.dtype}")
    if name == BYTES:
        return _pad(_strings(proto.string_val), shape)
    dtype = np.dtype(name)
    if proto.tensor_content:
        return np.frombuffer(proto.tensor_content, dtype.newbyteorder("<")).astype(dtype).reshape(shape)
    if name == "float16":
        return _pad(_half_bits(proto).view(np.float16), shape)
    values = getattr(proto, _TYPES[name].values)
    if dtype.kind == "c":
        return _pad(np.array(values, np.dtype(f"f{dtype.itemsize // 2}")).view(dtype), shape)
    return _pad(np.array(values, dtype), shape)


def _strings(values: Iterable[bytes]) -> np.ndarray:
    """Return an object array [N]. numpy's own type for strings would cut zeros off their ends."""
    listed = list(values)
    array = np.empty(len(listed), object)
    array[:] = listed
    return array


def _half_bits(proto: Tensor) -> np.ndarray:
    if proto.tensor_content:
        return np.frombuffer(proto.tensor_content, "<u2").astype(np.uint16)
    return np.array(proto.half_val, np.uint16)


def _pad(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the values in a shape. The last value is repeated where some are missing, zero where all are."""
    count = int(np.prod(shape, dtype=np.int64))
    if 0 < len(values) < count:
        values = np.concatenate([values, np.repeat(values[-1:], count - len(values))])
    elif not len(values) and count:
        values = np.full(count, b"", object) if values.dtype == object else np.zeros(count, values.dtype)
    return values.reshape(shape)


def to_json(array: np.ndarray) -> Any:
    """Return an array as nested lists, with bytes as {"b64": ...}."""
    if array.dtype != object:
        return array.tolist()
    return np.vectorize(lambda value: {"b64": base64.b64encode(value).decode()}, otypes=[object])(array).tolist()


def from_json(values: Any, dtype: str) -> np.ndarray:
    """Return an output in REST's columnar format as an array of `dtype`, a name as in `TensorSpec`.

    Raises ValueError or TypeError for values of another type.
    """
    if dtype == BYTES:
        return as_array(_decode(values), BYTES)
    return np.asarray(values, "float32" if dtype == "bfloat16" else dtype)


def _decode(values: Any) -> Any:
    if isinstance(values, dict):
        return base64.b64decode(values["b64"])
    return [_decode(value) for value in values] if isinstance(values, list) else values
