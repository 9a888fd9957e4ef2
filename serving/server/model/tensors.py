"""Converts between TensorProto and numpy, and checks a request's tensors against a signature.

Answers have typed fields (`float_val`, `string_val`, …) as TF Serving's do, because third-party clients read them.
TensorFlow's `make_tensor_proto` writes `tensor_content` instead.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from graftline.serving.server.errors import Code, ServingError, invalid

# A TensorProto may claim any shape for one repeated value: a few bytes would take all memory. TensorFlow's tensor and
# numpy's array of the claim exist at the same time.
MAX_PADDED_BYTES = 16 << 20
_STRING_BYTES = 64  # an empty string takes so many bytes inside TensorFlow
_MAX_RANK = 32  # numpy's
_PIECE = 1 << 16  # values that are converted at once, in 3 ms: other threads run in between
_MAX_NAMES = 1000  # that an error message sorts

_NARROW = (tf.int8, tf.int16, tf.uint8, tf.uint16)  # a larger int_val wraps, as a C++ cast does
# dtype → the field of TensorProto that holds its values; the rule is the comment on each field in tensor.proto.
_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    **dict.fromkeys((*_NARROW, tf.int32), "int_val"),
    tf.uint32: "uint32_val",
    tf.int64: "int64_val",
    tf.uint64: "uint64_val",
    tf.bool: "bool_val",
    tf.string: "string_val",
}
_HALF = (tf.float16, tf.bfloat16)
_COMPLEX = {tf.complex64: "scomplex_val", tf.complex128: "dcomplex_val"}
_BY_ENUM = {dtype.as_datatype_enum: dtype for dtype in (*_FIELDS, *_HALF, *_COMPLEX)}
_METHODS = tuple(f"tensorflow/serving/{verb}" for verb in ("predict", "classify", "regress"))
_NAMES = {tf.float32: "float", tf.float64: "double", tf.float16: "half"}


def dtype_name(dtype: tf.DType) -> str:
    """Return a type's name in TensorFlow's C++ and so in TF Serving's messages: `float`, not `float32`."""
    return _NAMES.get(dtype, dtype.name)


def dtype_of(values: np.ndarray) -> tf.DType:
    """Return the type of an array of a session; arrays of objects hold strings."""
    return tf.string if values.dtype.kind in "OSU" else tf.as_dtype(values.dtype)


def shape_text(values: np.ndarray) -> str:
    """Return a shape as TF Serving's messages have it: `[2,3]`."""
    return "[" + ",".join(map(str, values.shape)) + "]"


def from_proto(name: str, proto: Any) -> np.ndarray:
    """Return the values of a TensorProto in its shape and dtype; strings as an object array of bytes.

    The array may be read-only. Raises INVALID_ARGUMENT with the input's name when the proto contradicts itself.
    """
    dtype = _BY_ENUM.get(proto.dtype)
    shape = [dim.size for dim in proto.tensor_shape.dim]
    # The product of very many sizes would take hours.
    if dtype is None or proto.tensor_shape.unknown_rank or len(shape) > _MAX_RANK or any(size < 0 for size in shape):
        raise invalid(f"tensor parsing error: {name}")
    count = math.prod(shape)
    content = proto.tensor_content
    field = getattr(proto, _FIELDS[dtype]) if dtype in _FIELDS else ()
    try:
        if content and dtype != tf.string and len(content) == count * dtype.size:
            return np.frombuffer(content, dtype.as_numpy_dtype).reshape(shape)
        if not content and len(field) == count and dtype in _FIELDS:
            return _read_field(field, dtype).reshape(shape)
        if padded_bytes(proto) > MAX_PADDED_BYTES:
            raise invalid(f"tensor parsing error: {name}")
        # TensorFlow's own code handles complex and half values, and lists that do not match the shape.
        return np.asarray(tf.io.parse_tensor(proto.SerializeToString(), dtype).numpy()).reshape(shape)
    except (tf.errors.OpError, ValueError) as error:  # also a shape of more than numpy's 32 dimensions
        raise invalid(f"tensor parsing error: {name}") from error


def padded_bytes(proto: Any) -> int:
    """Return the bytes of a TensorProto's shape that TensorFlow fills by repeating the last value; 0 for none."""
    dtype, sizes = _BY_ENUM.get(proto.dtype), [dim.size for dim in proto.tensor_shape.dim[: _MAX_RANK + 1]]
    if dtype is None or proto.tensor_content or min(sizes, default=0) < 0 or len(sizes) > _MAX_RANK:
        return 0
    missing = math.prod(sizes) - (len(getattr(proto, _FIELDS[dtype])) if dtype in _FIELDS else 0)
    return max(0, missing) * (_STRING_BYTES if dtype == tf.string else dtype.size)


def from_protos(protos: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the values of all TensorProtos of a request. Raises INVALID_ARGUMENT as `from_proto` does."""
    padded = 0
    for name, proto in protos.items():
        padded += padded_bytes(proto)
        if padded > MAX_PADDED_BYTES:
            raise invalid(f"tensor parsing error: {name}")
    return {name: from_proto(name, proto) for name, proto in protos.items()}


def _read_field(field: Any, dtype: tf.DType) -> np.ndarray:
    """Return the values of a repeated field. Python's objects for all of them would take up to 32 bytes for each."""
    values = np.empty(len(field), dtype.as_numpy_dtype)
    for start in range(0, len(field), _PIECE):
        piece = field[start : start + _PIECE]
        # A list of bytes would become an array of fixed width.
        values[start : start + _PIECE] = np.array(piece, np.int64) if dtype in _NARROW else piece
    return values


def fill_proto(proto: Any, values: np.ndarray) -> None:
    """Write `values` into an empty TensorProto, in typed fields. Raises INVALID_ARGUMENT for a type without one."""
    dtype = dtype_of(values)
    proto.dtype = dtype.as_datatype_enum
    proto.tensor_shape.SetInParent()
    for size in values.shape:
        proto.tensor_shape.dim.add(size=size)
    flat = values.ravel()
    if dtype in _FIELDS:
        field = getattr(proto, _FIELDS[dtype])
        for start in range(0, len(flat), _PIECE):
            field.extend(flat[start : start + _PIECE].tolist())
    elif dtype in _HALF:
        proto.half_val.extend(flat.view(np.uint16).tolist())
    elif dtype in _COMPLEX:
        getattr(proto, _COMPLEX[dtype]).extend(np.stack([flat.real, flat.imag], axis=-1).ravel().tolist())
    else:
        raise invalid(f"an output of type {dtype_name(dtype)} cannot be sent")


def _sorted_set(names: Any) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def check_names(signature: Any, names: Collection[str]) -> None:
    """Raise INVALID_ARGUMENT unless `names` are the SignatureDef's inputs; one that has a default may be left out.

    A signature that cannot be called, such as a SavedModel's initializer, is INTERNAL. Source: predict_util.cc, and
    GetInputValues in TensorFlow's cc/saved_model/util.cc.
    """
    if signature.method_name not in _METHODS:
        methods = "{" + ", ".join(_METHODS) + "}. Was: " + signature.method_name
        raise ServingError(Code.INTERNAL, f"Expected prediction signature method_name to be one of {methods}")
    inputs, defaults = signature.inputs, signature.defaults
    if len(names) > len(inputs) + _MAX_NAMES:
        raise invalid(f"input size does not match signature: {len(names)}!={len(inputs)}")
    extra, missing = set(names) - set(inputs), set(inputs) - set(names)
    if len(names) > len(inputs) or (len(names) < len(inputs) and not defaults):
        raise invalid(
            f"input size does not match signature: {len(names)}!={len(inputs)} "
            f"len({_sorted_set(names)}) != len({_sorted_set(inputs)}). "
            f"Sent extra: {_sorted_set(extra)}. Missing but required: {_sorted_set(missing)}."
        )
    for name in sorted(missing - set(defaults)):
        raise invalid(
            f"Signature input alias: {name}(feed name: {inputs[name].name}) not found in request and no default value "
            f"provided. Inputs expected to be in the request {_sorted_set(names)}, "
            f"or default input alias set: {','.join(sorted(defaults))}"
        )
    if extra:
        raise invalid(
            f"Inputs contains invalid name. Used request inputs: {','.join(sorted(set(names) - extra))}, "
            f"request input: {','.join(sorted(names))}"
        )


def with_defaults(signature: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return `inputs` with the SignatureDef's default values for missing inputs."""
    left_out = [name for name in signature.defaults if name in signature.inputs and name not in inputs]
    return {**inputs, **{name: from_proto(name, signature.defaults[name]) for name in left_out}}


def check_types(signature: Any, inputs: Mapping[str, np.ndarray]) -> None:
    """Raise INVALID_ARGUMENT unless the types of all inputs are those of the SignatureDef.

    The graph checks the shapes, as in TF Serving: an element-wise model answers in any shape.
    """
    infos = signature.inputs
    for name, values in inputs.items():
        dtype = dtype_of(values)
        if dtype.as_datatype_enum != infos[name].dtype:
            # The session numbers its feeds by the sorted names of the tensors (direct_session.cc).
            place = sorted(info.name for info in infos.values()).index(infos[name].name)
            expected = dtype_name(tf.as_dtype(infos[name].dtype))
            raise invalid(f"Expects arg[{place}] to be {expected} but {dtype_name(dtype)} is provided")


def check_outputs(signature: Any, output_filter: list[str]) -> list[str]:
    """Return the requested outputs, or all outputs of the signature, sorted.

    Raises INVALID_ARGUMENT for an output that the signature lacks or that is named twice.
    """
    for place, name in enumerate(output_filter):
        if name not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {_sorted_set(signature.outputs)}."
            )
        if name in output_filter[:place]:
            raise invalid(f"duplicate output tensor alias: {name}")
    return list(output_filter) or sorted(signature.outputs)
