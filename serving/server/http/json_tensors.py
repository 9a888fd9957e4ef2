"""Reads the JSON of TF Serving's predict as numpy arrays. `json_examples` reads classify and regress.

Source: https://www.tensorflow.org/tfx/serving/api_rest and TF Serving's util/json_tensor.cc.
"""

import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from graftline.serving.server.deadline import NO_DEADLINE, Deadline
from graftline.serving.server.errors import Code, ServingError, invalid
from graftline.serving.server.http.json_answers import COLUMN, ROW
from graftline.serving.server.http.json_messages import cut, show, type_of
from graftline.serving.server.http.json_numbers import MAX_RANK, Numbers, flatten, shape_of
from graftline.serving.server.model.tensors import dtype_name, shape_text

# Rows that are read together. A step over all rows of a large request would let no other thread run.
_BLOCK = 1024
_BASE64_PIECE = 1 << 20  # characters, a multiple of 4: 2 ms, in which no other thread runs
_WHITE_SPACE = b" \t\n\v\f\r"

_INT_RANGES = {
    # TF Serving reads every narrow integer type as an int32.
    **dict.fromkeys((tf.int8, tf.int16, tf.int32, tf.uint8), (-(1 << 31), (1 << 31) - 1)),
    tf.int64: (-(1 << 63), (1 << 63) - 1),
    tf.uint32: (0, (1 << 32) - 1),
    tf.uint64: (0, (1 << 64) - 1),
}
_FLOATS = (tf.float32, tf.float64)


def encode(text: str) -> bytes:
    """Return the bytes of a JSON text."""
    try:
        return text.encode()
    except UnicodeEncodeError:  # from `_parse_bytes`
        return text.encode("utf-8", "surrogateescape")


def signature_name(document: Mapping[str, Any]) -> str:
    """Return the signature that the request names; "" when it names none."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {show(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return cut(name)


def is_base64(value: Any) -> bool:
    """Return whether a value stands for bytes: an object with the one key b64."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def decode_base64(text: str) -> bytes:
    """Decode as absl does: white space is skipped, padding is optional, and any other character is an error."""
    if text.isascii():
        data = text.encode()
        decoded = _decode_packed(data)
        if decoded is None:
            pieces = (data[at : at + _BASE64_PIECE] for at in range(0, len(data), _BASE64_PIECE))
            decoded = _decode_packed(b"".join(piece.translate(None, _WHITE_SPACE) for piece in pieces))
        if decoded is not None:
            return decoded
    raise invalid("Unable to base64 decode")


def _decode_packed(text: bytes) -> bytes | None:
    data = text.rstrip(b"=.")
    missing, padding = -len(data) % 4, len(text) - len(data)
    if missing == 3 or padding not in (0, missing):
        return None
    last = len(data) - len(data) % _BASE64_PIECE
    try:
        pieces = [binascii.a2b_base64(data[at : at + _BASE64_PIECE]) for at in range(0, last, _BASE64_PIECE)]
        pieces.append(binascii.a2b_base64(data[last:] + b"=" * missing))
    except ValueError:  # wrong padding
        return None
    # Python skips unknown characters; then the result is shorter than the characters mean.
    return b"".join(pieces) if sum(map(len, pieces)) == len(data) * 3 // 4 else None


def _leaf(value: Any, dtype: tf.DType) -> Any:
    if isinstance(value, dict) and dtype == tf.string:
        if not is_base64(value):
            raise invalid(f"JSON Value: {show(value)} not formatted correctly for base64 data")
        return decode_base64(value["b64"])
    fits, kind = False, type(value)
    if dtype == tf.string:
        fits = kind is str
    elif dtype in _FLOATS:
        fits = kind in (int, float)
    elif dtype == tf.bool:
        fits = kind is bool
    elif dtype in _INT_RANGES:
        low, high = _INT_RANGES[dtype]
        fits = kind is int and low <= value <= high
    elif kind is not dict:
        raise ServingError(Code.UNIMPLEMENTED, f"Conversion of JSON Value: {show(value)} to type: {dtype_name(dtype)}")
    if not fits:
        raise invalid(f"JSON Value: {show(value)} Type: {type_of(value)} is not of expected type: {dtype_name(dtype)}")
    return encode(value) if dtype == tf.string else value


def _shape(value: Any) -> list[int]:
    shape = shape_of(value)
    if len(shape) > MAX_RANK:
        raise invalid(f"a tensor has no more than {MAX_RANK} dimensions")
    return shape


def _fill(value: Any, shape: list[int], level: int, dtype: tf.DType, into: list[Any]) -> None:
    if not isinstance(value, list | Numbers):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {show(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        into.append(_leaf(value, dtype))
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        sizes = f"{len(value)} at level: {level} expected size: {shape[level]}"
        raise invalid(f"Encountered list at unexpected size: {sizes}")
    for element in value:
        _fill(element, shape, level + 1, dtype, into)


def _pack(flat: list[Any], shape: Sequence[int], dtype: tf.DType) -> np.ndarray:
    if dtype in (tf.int8, tf.int16, tf.uint8):
        # By way of int64, so that 300 for a uint8 wraps as in TF Serving's int_val instead of raising.
        return _cast(np.array(flat, np.int64), dtype).reshape(shape)
    if dtype == tf.float32:
        return _cast(np.array(flat, np.float64), dtype).reshape(shape)
    return np.array(flat, dtype.as_numpy_dtype).reshape(shape)


def _cast(values: np.ndarray, dtype: tf.DType) -> np.ndarray:
    if dtype == tf.float32:
        # By way of double, as RapidJSON's GetFloat: rounded, and infinite beyond the range.
        exact = values if values.dtype.itemsize < 8 else values.astype(np.float64, copy=False)
        with np.errstate(over="ignore"):
            return exact.astype(np.float32)
    return values.astype(dtype.as_numpy_dtype, copy=False)


def _misfit(numbers: Numbers, dtype: tf.DType) -> int | None:
    """Return the place of the first number, in the flat array, that has no form in `dtype`; None when all have."""
    values = numbers.values.reshape(-1)
    if dtype in _FLOATS or dtype == tf.bool:
        return None if (values.dtype.kind == "b") == (dtype == tf.bool) else 0
    if dtype not in _INT_RANGES or values.dtype.kind == "b":
        return 0
    low, high = _INT_RANGES[dtype]
    whole = values[: numbers.first_decimal]
    if len(whole) and not (low <= int(whole.min()) and int(whole.max()) <= high):
        for start in range(0, len(whole), _BLOCK):
            for place, number in enumerate(whole[start : start + _BLOCK].tolist(), start):
                if not low <= int(number) <= high:
                    return place
    return numbers.first_decimal


def _from_numbers(numbers: Numbers, dtype: tf.DType) -> np.ndarray:
    place = _misfit(numbers, dtype)
    if place is not None:
        _leaf(numbers.element(place), dtype)  # it raises
    return _cast(numbers.values, dtype)


def _regular(value: Any, dtype: tf.DType) -> np.ndarray | None:
    """Return correct nested lists as an array; None for others, in which `_array` finds the fault, leaf by leaf.

    This exists for speed alone: it needs no Python call for each number.
    """
    if isinstance(value, Numbers):
        return _cast(value.values, dtype) if _misfit(value, dtype) is None else None
    if isinstance(value, list) and set(map(type, value)) == {Numbers}:
        return _stack(value, dtype)
    shape = _shape(value)
    flat = flatten(value, shape)
    if flat is None:
        return None
    kinds = set(map(type, flat))
    if dtype == tf.string and kinds == {dict} and all(map(is_base64, flat)):
        return _pack([decode_base64(element["b64"]) for element in flat], shape, dtype)
    if dtype == tf.string and kinds <= {str}:
        return _pack(list(map(encode, flat)), shape, dtype)
    if dtype in _INT_RANGES and kinds <= {int}:
        low, high = _INT_RANGES[dtype]
        return _pack(flat, shape, dtype) if not flat or (low <= min(flat) and max(flat) <= high) else None
    fits = (dtype == tf.bool and kinds <= {bool}) or (dtype in _FLOATS and kinds <= {int, float})
    return _pack(flat, shape, dtype) if fits else None


def _stack(rows: list[Numbers], dtype: tf.DType) -> np.ndarray | None:
    if len({row.shape for row in rows}) > 1 or any(_misfit(row, dtype) is not None for row in rows):
        return None
    stacked = np.empty((len(rows), *rows[0].shape), dtype.as_numpy_dtype)
    for place, row in enumerate(rows):
        stacked[place] = _cast(row.values, dtype)
    return stacked


def _array(value: Any, dtype: tf.DType) -> np.ndarray:
    """Return nested lists (or one value) as an array of `dtype`; strings as an object array of bytes."""
    array = _regular(value, dtype)
    if array is not None:
        return array
    shape = _shape(value)
    flat: list[Any] = []
    _fill(value, shape, 0, dtype, flat)
    return _pack(flat, shape, dtype)


def read_inputs(
    document: Mapping[str, Any], signature: Any, deadline: Deadline = NO_DEADLINE
) -> tuple[str, dict[str, np.ndarray]]:
    """Return ROW or COLUMN, and the request's tensors by name in the SignatureDef's types.

    Raises INVALID_ARGUMENT or DEADLINE_EXCEEDED.
    """
    dtypes = {name: tf.as_dtype(info.dtype) for name, info in signature.inputs.items()}
    if not dtypes:
        raise invalid(f"Failed to get input map for signature: {signature_name(document) or 'DEFAULT'}")
    if ROW in document and COLUMN in document:
        raise invalid(
            f"JSON Value: {show(document)} Not formatted correctly expecting only "
            f"one of '{COLUMN}' or '{ROW}' keys to exist "
        )
    if ROW in document:
        return ROW, _rows(document, dtypes, deadline)
    if COLUMN in document:
        return COLUMN, _columns(document[COLUMN], dtypes)
    raise invalid("Missing 'inputs' or 'instances' key")


def _rows(document: Mapping[str, Any], dtypes: dict[str, tf.DType], deadline: Deadline) -> dict[str, np.ndarray]:
    instances = document[ROW]
    if not isinstance(instances, list | Numbers):
        raise invalid(f"JSON Value: {show(document)} Expecting '{ROW}' to be an list/array")
    if not len(instances):
        raise invalid(f"JSON Value: {show(document)} No values in '{ROW}' array")
    objects = not isinstance(instances, Numbers) and isinstance(instances[0], dict)
    if not objects and len(dtypes) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required "
            "as per tensorinfo_map"
        )
    if isinstance(instances, Numbers):
        ((name, dtype),) = dtypes.items()
        return {name: _numeric_rows(instances, dtype)}
    first_rows: dict[str, np.ndarray] = {}
    blocks = []
    for start in range(0, len(instances), _BLOCK):
        deadline.check()
        block = instances[start : start + _BLOCK]
        arrays = _regular_rows(block, dtypes, _named(instances[0]))
        if arrays is None or any(
            name in first_rows and first_rows[name].shape != arrays[name].shape[1:] for name in arrays
        ):
            arrays = _read_each_row(block, start, dtypes, _named(instances[0]), first_rows)
        first_rows = first_rows or {name: array[0] for name, array in arrays.items()}
        blocks.append(arrays)
    return (
        {name: np.concatenate([block[name] for block in blocks]) for name in dtypes} if len(blocks) > 1 else blocks[0]
    )


def _numeric_rows(instances: Numbers, dtype: tf.DType) -> np.ndarray:
    try:
        return _from_numbers(instances, dtype)
    except ServingError as error:
        place = _misfit(instances, dtype) or 0
        raise _row_error(f"element: {place // int(np.prod(instances.shape[1:]))}", error) from error


def _row_error(where: str, error: ServingError) -> ServingError:
    return invalid(f"Failed to process {where} of '{ROW}' list. Error: {error.code.name}: {error.message}")


def _named(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _regular_rows(rows: list[Any], dtypes: dict[str, tf.DType], objects: bool) -> dict[str, np.ndarray] | None:
    """Return rows as arrays when they are alike; None for others, in which `_read_each_row` finds the fault."""
    try:
        if not objects and not any(map(_named, rows)):
            columns = {next(iter(dtypes)): rows}
        elif objects and all(_named(row) and row.keys() == dtypes.keys() for row in rows):
            columns = {name: [row[name] for row in rows] for name in dtypes}
        else:
            return None
        arrays = {name: _regular(column, dtypes[name]) for name, column in columns.items()}
    except ServingError:
        return None
    found = {name: array for name, array in arrays.items() if array is not None}
    return found if len(found) == len(arrays) else None


def _read_each_row(
    rows: list[Any], start: int, dtypes: dict[str, tf.DType], objects: bool, first_rows: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Read row by row. The error names the row, counted from `start`, and the key of the first fault."""
    columns: dict[str, list[np.ndarray]] = {}
    for index, instance in enumerate(rows, start):
        if objects and not _named(instance):
            raise invalid(f"Expecting object but got list at item {index} of input list")
        if not objects and _named(instance):
            raise invalid(f"Expecting value/list but got object at item {index} of input list")
        row = instance if objects else {next(iter(dtypes)): instance}
        for name, value in row.items():
            where = f"element: {index} key: {cut(name)}" if objects else f"element: {index}"
            try:
                if name not in dtypes:
                    raise invalid(f"JSON object: does not have named input: {cut(name)}")
                array = _array(value, dtypes[name])
                column = columns.setdefault(name, [])
                _check_same(first_rows.get(name, column[0] if column else array), array)
            except ServingError as error:
                raise _row_error(where, error) from error
            column.append(array)
        if set(row) != set(dtypes):
            raise invalid(
                f"Failed to process element: {index} of '{ROW}' list. JSON object: {show(row)} "
                f"keys must be equal to: {','.join(sorted(dtypes))}"
            )
    return {name: np.stack(values) for name, values in columns.items()}


def _check_same(first: np.ndarray, array: np.ndarray) -> None:
    if first.size != array.size:
        raise invalid(f"Expecting tensor size: {first.size} but got: {array.size}")
    if first.shape != array.shape:
        raise invalid(f"Expecting shape {shape_text(first)} but got: {shape_text(array)}")


def _columns(value: Any, dtypes: dict[str, tf.DType]) -> dict[str, np.ndarray]:
    if not _named(value):
        if len(dtypes) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required "
                "as per tensorinfo_map"
            )
        return {name: _array(value, dtype) for name, dtype in dtypes.items()}
    for name in sorted(dtypes.keys() - value.keys()):
        raise invalid(f"Missing named input: {name} in 'inputs' object.")
    return {name: _array(value[name], dtype) for name, dtype in dtypes.items()}
