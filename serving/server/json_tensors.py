"""Between the JSON of TF Serving's REST predict API and numpy.

Source: https://www.tensorflow.org/tfx/serving/api_rest and the error texts of TF Serving's util/json_tensor.cc.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from serving.server.errors import Code, ServingError, invalid

ROW, COLUMN = "instances", "inputs"
_SHOWN = 120  # characters of a client's own JSON that an error message repeats

_INT_RANGES = {
    # TF Serving reads every narrow integer type as an int32.
    **dict.fromkeys((tf.int8, tf.int16, tf.int32, tf.uint8), (-(1 << 31), (1 << 31) - 1)),
    tf.int64: (-(1 << 63), (1 << 63) - 1),
    tf.uint32: (0, (1 << 32) - 1),
    tf.uint64: (0, (1 << 64) - 1),
}
_FLOAT_DIGITS = {tf.float32: 24, tf.float64: 53}


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _type(value: Any) -> str:
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return str(value)
    kinds: dict[type, str] = {dict: "Object", list: "Array", str: "String"}
    return kinds.get(type(value), "Number")


def parse(body: bytes) -> dict[str, Any]:
    """The request's JSON object; NaN and Infinity are numbers. Raises INVALID_ARGUMENT with the place of the fault."""
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except json.JSONDecodeError as error:
        reason = "Invalid value." if error.msg == "Expecting value" else f"{error.msg}."
        raise invalid(f"JSON Parse error: {reason} at offset: {error.pos}") from error
    except RecursionError as error:
        raise invalid("JSON Parse error: nested too deeply") from error
    except ValueError as error:  # bytes that are no UTF-8
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_show(document)} Is not object")
    return document


def signature_name(document: Mapping[str, Any]) -> str:
    """The signature that the request names, "" when it names none."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {_show(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _decode_base64(text: str) -> bytes:
    """As absl's decoder: white space is passed over, padding may be left out, any other stray character is an error."""
    packed = "".join(text.split())
    try:
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("Unable to base64 decode") from error


def _leaf(value: Any, dtype: tf.DType) -> Any:
    """One JSON value as an element of type `dtype`."""
    wrong_type = f"JSON Value: {_show(value)} Type: {_type(value)} is not of expected type: {dtype.name}"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if dtype == tf.string:
        if isinstance(value, str):
            return value.encode("utf-8", "surrogatepass")
        if _is_base64(value):
            return _decode_base64(value["b64"])
        if isinstance(value, dict):
            raise invalid(f"JSON Value: {_show(value)} not formatted correctly for base64 data")
        raise invalid(wrong_type)
    if dtype in _FLOAT_DIGITS:
        if not number:
            raise invalid(wrong_type)
        limit = float(dtype.max)
        if (isinstance(value, int) and abs(value) >= 1 << _FLOAT_DIGITS[dtype]) or limit < abs(value) < float("inf"):
            kind = "float" if dtype == tf.float32 else "double"
            raise invalid(f"Cannot convert JSON value: {_show(value)} to {kind} without loss of precision.")
        return value
    if dtype == tf.bool:
        if not isinstance(value, bool):
            raise invalid(wrong_type)
        return value
    if dtype in _INT_RANGES:
        low, high = _INT_RANGES[dtype]
        if not number or isinstance(value, float) or not low <= value <= high:
            raise invalid(wrong_type)
        return value
    raise ServingError(Code.UNIMPLEMENTED, f"Conversion of JSON Value: {_show(value)} to type: {dtype.name}")


def _shape(value: Any) -> list[int]:
    """The shape of nested lists, going by the first element of each."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def _fill(value: Any, shape: list[int], level: int, dtype: tf.DType, into: list[Any]) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {_show(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        into.append(_leaf(value, dtype))
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for element in value:
        _fill(element, shape, level + 1, dtype, into)


def _array(value: Any, dtype: tf.DType) -> np.ndarray:
    """Nested lists (or one value) as an array of `dtype`; strings as an object array of bytes."""
    shape = _shape(value)
    flat: list[Any] = []
    _fill(value, shape, 0, dtype, flat)
    # Through int64 for narrow integers, so that 300 for a uint8 wraps as TF Serving's int_val does, and does not raise.
    if dtype in (tf.int8, tf.int16, tf.uint8):
        return np.array(flat, np.int64).astype(dtype.as_numpy_dtype).reshape(shape)
    return np.array(flat, object if dtype == tf.string else dtype.as_numpy_dtype).reshape(shape)


def read_inputs(document: Mapping[str, Any], signature: Any) -> tuple[str, dict[str, np.ndarray]]:
    """(ROW or COLUMN, the request's tensors by name), read as the SignatureDef's types. Raises INVALID_ARGUMENT."""
    dtypes = {name: tf.as_dtype(info.dtype) for name, info in signature.inputs.items()}
    if ROW in document and COLUMN in document:
        raise invalid(
            f"JSON Value: {_show(document)} Not formatted correctly expecting only "
            f"one of '{COLUMN}' or '{ROW}' keys to exist "
        )
    if ROW in document:
        return ROW, _rows(document, dtypes)
    if COLUMN in document:
        return COLUMN, _columns(document[COLUMN], dtypes)
    raise invalid("Missing 'inputs' or 'instances' key")


def _rows(document: Mapping[str, Any], dtypes: dict[str, tf.DType]) -> dict[str, np.ndarray]:
    instances = document[ROW]
    if not isinstance(instances, list):
        raise invalid(f"JSON Value: {_show(document)} Excepting '{ROW}' to be an list/array")
    if not instances:
        raise invalid(f"JSON Value: {_show(document)} No values in '{ROW}' array")
    if not isinstance(instances[0], dict) and len(dtypes) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required "
            "as per tensorinfo_map"
        )

    def named(value: Any) -> bool:
        return isinstance(value, dict) and not _is_base64(value)

    objects = named(instances[0])
    columns: dict[str, list[np.ndarray]] = {}
    for index, instance in enumerate(instances):
        if objects and not named(instance):
            raise invalid(f"Expecting object but got list at item {index} of input list")
        if not objects and named(instance):
            raise invalid(f"Expecting value/list but got object at item {index} of input list")
        row = instance if objects else {next(iter(dtypes)): instance}
        for name, value in row.items():
            where = f"element: {index} key: {name}" if objects else f"element: {index}"
            try:
                if name not in dtypes:
                    raise invalid(f"JSON object: does not have named input: {name}")
                array = _array(value, dtypes[name])
                _check_same(columns.setdefault(name, []), array)
            except ServingError as error:
                raise invalid(
                    f"Failed to process {where} of '{ROW}' list. Error: {error.code.name}: {error.message}"
                ) from error
            columns[name].append(array)
        if set(row) != set(dtypes):
            raise invalid(
                f"Failed to process element: {index} of '{ROW}' list. JSON object: {_show(row)} "
                f"keys must be equal to: {','.join(sorted(dtypes))}"
            )
    return {name: np.stack(values) for name, values in columns.items()}


def _check_same(before: list[np.ndarray], array: np.ndarray) -> None:
    """Every instance must have the shape of the first."""
    if before and before[0].size != array.size:
        raise invalid(f"Expecting tensor size: {before[0].size} but got: {array.size}")
    if before and before[0].shape != array.shape:
        raise invalid(f"Expecting shape {_join(before[0])} but got: {_join(array)}")


def _join(array: np.ndarray) -> str:
    return "[" + ",".join(map(str, array.shape)) + "]"


def _columns(value: Any, dtypes: dict[str, tf.DType]) -> dict[str, np.ndarray]:
    if not isinstance(value, dict) or _is_base64(value):
        if len(dtypes) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required "
                "as per tensorinfo_map"
            )
        return {name: _array(value, dtype) for name, dtype in dtypes.items()}
    for name in sorted(dtypes):
        if name not in value:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
    return {name: _array(value[name], dtype) for name, dtype in dtypes.items()}


def _jsonable(name: str, values: np.ndarray) -> Any:
    """`values` as nested lists that json writes as TF Serving does."""
    if values.dtype.kind == "f" or values.dtype == tf.bfloat16.as_numpy_dtype:
        # By way of text: the shortest decimals that read back as this float32 (0.2, not 0.20000000298023224).
        texts = values.astype(np.float32 if values.dtype.itemsize < 4 else values.dtype).astype("U32")
        flat: list[Any] = [float(text) for text in texts.ravel()]
    elif values.dtype.kind in "OSU":
        raw = [value if isinstance(value, bytes) else str(value).encode() for value in values.ravel()]
        if name.endswith("_bytes"):
            flat = [{"b64": base64.b64encode(value).decode()} for value in raw]
        else:
            flat = [value.decode("utf-8", "replace") for value in raw]
    elif values.dtype.kind in "iub":
        return values.tolist()
    else:
        raise invalid(f"Failed to write JSON value for tensor type: {values.dtype.name}")
    boxed = np.empty(len(flat), object)
    boxed[:] = flat
    return boxed.reshape(values.shape).tolist()


def write_outputs(layout: str, outputs: Mapping[str, np.ndarray]) -> bytes:
    """The body of the answer, in the layout of the request.

    One output is written bare, several as objects by name. Raises INVALID_ARGUMENT when outputs of a ROW request
    have no common batch dimension.
    """
    answer: Any
    if layout == COLUMN:
        columns = {name: _jsonable(name, values) for name, values in outputs.items()}
        answer = {"outputs": columns if len(columns) > 1 else next(iter(columns.values()))}
    else:
        batch = None
        for name, values in outputs.items():
            if not values.ndim:
                raise invalid(f"Tensor name: {name} has no shape information ")
            if batch is not None and len(values) != batch:
                raise invalid(f"Tensor name: {name} has inconsistent batch size: {len(values)} expecting: {batch}")
            batch = len(values)
        columns = {name: _jsonable(name, values) for name, values in outputs.items()}
        if len(columns) == 1:
            answer = {"predictions": next(iter(columns.values()))}
        else:
            rows = zip(*columns.values(), strict=True)
            answer = {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]}
    return json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace")
