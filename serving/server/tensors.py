"""Between TensorProto and numpy, and the check of a request's tensors against a signature.

Answers carry typed fields (`float_val`, `string_val`, …) as TF Serving's do: third-party clients read those.
TensorFlow's own `make_tensor_proto` writes `tensor_content` instead.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from serving.server.errors import invalid

MAX_TENSOR_ELEMENTS = 1 << 28  # a TensorProto may claim any shape for one repeated value: 1 GiB of float32 at most

# dtype → the field of TensorProto that holds its values; the rule is the comment on each field in tensor.proto.
_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int8: "int_val",
    tf.int16: "int_val",
    tf.int32: "int_val",
    tf.uint8: "int_val",
    tf.uint16: "int_val",
    tf.uint32: "uint32_val",
    tf.int64: "int64_val",
    tf.uint64: "uint64_val",
    tf.bool: "bool_val",
    tf.string: "string_val",
}
_HALF = (tf.float16, tf.bfloat16)


def from_proto(name: str, proto: Any) -> np.ndarray:
    """The values of a TensorProto, in its own shape and dtype (strings as an object array of bytes).

    Raises INVALID_ARGUMENT naming the input when the proto contradicts itself.
    """
    shape = [dim.size for dim in proto.tensor_shape.dim]
    # TensorFlow pads a short list of values to the shape given: without this bound, one value could claim all memory.
    if any(size < 0 for size in shape) or np.prod(shape, dtype=np.float64) > MAX_TENSOR_ELEMENTS:
        raise invalid(f"tensor parsing error: {name}: shape {shape} is negative or too large")
    try:
        return np.asarray(tf.make_ndarray(proto))
    except (ValueError, TypeError, KeyError) as error:
        raise invalid(f"tensor parsing error: {name}: {error}") from error


def to_proto(values: np.ndarray) -> Any:
    """A TensorProto of `values`, in typed fields."""
    dtype = tf.as_dtype(tf.string if values.dtype.kind in "OSU" else values.dtype)
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    for size in values.shape:
        proto.tensor_shape.dim.add(size=size)
    flat = values.ravel()
    if dtype in _HALF:
        proto.half_val.extend(flat.view(np.uint16).tolist())
    elif dtype in (tf.complex64, tf.complex128):
        field = proto.scomplex_val if dtype == tf.complex64 else proto.dcomplex_val
        field.extend(np.stack([flat.real, flat.imag], axis=-1).ravel().tolist())
    elif dtype in _FIELDS:
        getattr(proto, _FIELDS[dtype]).extend(flat.tolist())
    else:
        raise invalid(f"an output of type {dtype.name} cannot be sent")
    return proto


def _sorted_set(names: Any) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def check_inputs(signature: Any, inputs: Mapping[str, np.ndarray]) -> None:
    """Raise INVALID_ARGUMENT, naming the input, unless `inputs` are what the SignatureDef asks for.

    Looked at: the names, each dtype, and each shape as far as the signature fixes it.
    """
    wanted = signature.inputs
    extra, missing = set(inputs) - set(wanted), set(wanted) - set(inputs)
    if len(inputs) != len(wanted):
        raise invalid(
            f"input size does not match signature: {len(inputs)}!={len(wanted)} "
            f"len({_sorted_set(inputs)}) != len({_sorted_set(wanted)}). "
            f"Sent extra: {_sorted_set(extra)}. Missing but required: {_sorted_set(missing)}."
        )
    for name in sorted(extra):
        raise invalid(
            f"input tensor alias not found in signature: {name}. "
            f"Inputs expected to be in the set {_sorted_set(wanted)}."
        )
    for name, values in inputs.items():
        expected = tf.as_dtype(wanted[name].dtype)
        found = tf.as_dtype(tf.string if values.dtype.kind in "OSU" else values.dtype)
        if found != expected:
            raise invalid(f"input {name} is expected to be of type {expected.name} but is {found.name}")
        shape = tf.TensorShape(wanted[name].tensor_shape)
        if not shape.is_compatible_with(values.shape):
            raise invalid(f"input {name} is expected to have shape {_show(shape)} but has shape {list(values.shape)}")


def _show(shape: Any) -> str:
    """`[?, 3]`: a partly known shape of known rank, as a person reads it."""
    return "[" + ", ".join("?" if size is None else str(size) for size in shape.as_list()) + "]"


def check_outputs(signature: Any, output_filter: list[str]) -> list[str]:
    """The outputs to answer with: those asked for, or all of the signature, sorted.

    Raises INVALID_ARGUMENT for an output that the signature does not have, or that is named twice.
    """
    seen: set[str] = set()
    for name in output_filter:
        if name not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {_sorted_set(signature.outputs)}."
            )
        if name in seen:
            raise invalid(f"duplicate output tensor alias: {name}")
        seen.add(name)
    return list(output_filter) or sorted(signature.outputs)
