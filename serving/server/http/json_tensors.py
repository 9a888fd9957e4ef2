"""Reads the JSON of TF Serving's predict as numpy arrays. `json_examples` reads classify and regress.

TF Serving itself uses RapidJSON: the grammar is the same (NaN and Infinity are numbers), and so are the words and the
offsets of errors. Source: https://www.tensorflow.org/tfx/serving/api_rest and TF Serving's
util/json_tensor.cc.
"""

import binascii
import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import rapidjson
import tensorflow as tf

from graftline.serving.server.errors import Code, ServingError, invalid
from graftline.serving.server.http.json_answers import COLUMN, ROW, decimals
from graftline.serving.server.model.tensors import dtype_name, shape_text

_SHOWN = 1024  # characters of a client's JSON that an error message repeats
_MAX_RANK = 31  # numpy has 32 dimensions; stacking rows adds one
_BOM = b"\xef\xbb\xbf"
_NO_ASCII = re.compile(rb"[\x80-\xff]")
_NUMBERS = rapidjson.NM_NATIVE | rapidjson.NM_NAN
# python-rapidjson's RapidJSON is newer than TF Serving's (1.1.0), which words these differently.
_SINCE_RENAMED = {
    "Missing a comma or '}' after an object member.": "Missing a comma or } after an object member.",
    "Missing a comma or ']' after an array element.": "Missing a comma or ] after an array element.",
    "Invalid encoding in string.": "Invalid escape character in string.",
}

_INT_RANGES = {
    # TF Serving reads every narrow integer type as an int32.
    **dict.fromkeys((tf.int8, tf.int16, tf.int32, tf.uint8), (-(1 << 31), (1 << 31) - 1)),
    tf.int64: (-(1 << 63), (1 << 63) - 1),
    tf.uint32: (0, (1 << 32) - 1),
    tf.uint64: (0, (1 << 64) - 1),
}
_FLOATS = (tf.float32, tf.float64)


def show(value: Any) -> str:
    """Return a value as RapidJSON's PrettyWriter writes it. Long values are cut."""
    if isinstance(value, float):
        single = abs(value) <= 3.4028234e38
        return decimals(np.array([value], np.float32 if single else np.float64))[0]
    try:
        text = rapidjson.dumps(value, indent=4, number_mode=_NUMBERS, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = json.dumps(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def type_of(value: Any) -> str:
    """Return RapidJSON's name for the type of a value."""
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return str(value)
    kinds: dict[type, str] = {dict: "Object", list: "Array", str: "String"}
    return kinds.get(type(value), "Number")


def parse(body: bytes) -> dict[str, Any]:
    """Return the request's JSON object; NaN and Infinity are numbers. INVALID_ARGUMENT has the fault's offset."""
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    start = len(_BOM) if body.startswith(_BOM) else 0
    try:
        document = _parse_text(body[start:] if start else body, start)
    except UnicodeDecodeError:
        # Faults of the JSON itself are reported first, in the usual words and at the usual offset.
        _parse_text(_NO_ASCII.sub(b"?", body[start:]), start)
        document = _parse_bytes(body[start:])
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {show(document)} Is not object")
    return document


def _parse_text(text: bytes, start: int) -> Any:
    """Return the JSON of bytes that begin at `start` of the body. Raises as `parse`, or UnicodeDecodeError."""
    try:
        return rapidjson.loads(text, number_mode=_NUMBERS)
    except rapidjson.JSONDecodeError as error:
        match = re.fullmatch(r"Parse error at offset (\d+): (.*)", str(error), re.S)
        offset, reason = (int(match[1]), match[2]) if match else (0, str(error))
        reason = _SINCE_RENAMED.get(reason, reason)
        raise invalid(f"JSON Parse error: {reason} at offset: {start + offset}") from error
    except RecursionError as error:
        raise invalid("JSON Parse error: nested too deeply") from error


def _parse_bytes(body: bytes) -> Any:
    """Return JSON with strings that are not UTF-8. TF Serving keeps their bytes."""
    try:
        return json.loads(body.decode("utf-8", "surrogateescape"), parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from error


def _integer(text: str) -> int | float:
    """Return a whole number as RapidJSON does: one beyond 64 bits becomes a double."""
    return int(text) if len(text) <= 20 and int(text) in range(-(1 << 63), 1 << 64) else float(text)


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
    return name


def is_base64(value: Any) -> bool:
    """Return whether a value stands for bytes: an object with the one key b64."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def decode_base64(text: str) -> bytes:
    """Decode as absl does: white space is skipped, padding is optional, and any other character is an error."""
    decoded = _decode_packed(text)
    if decoded is None:
        decoded = _decode_packed(re.sub(r"[ \t\n\v\f\r]+", "", text))
    if decoded is None:
        raise invalid("Unable to base64 decode")
    return decoded


def _decode_packed(text: str) -> bytes | None:
    data = text.rstrip("=.")
    missing, padding = -len(data) % 4, len(text) - len(data)
    if missing == 3 or padding not in (0, missing):
        return None
    try:
        decoded = binascii.a2b_base64(data + "=" * missing)
    except ValueError:  # wrong padding, or a character outside ASCII
        return None
    # Python skips unknown characters; then the result is shorter than the characters mean.
    return decoded if len(decoded) == len(data) * 3 // 4 else None


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
    """Return the shape of nested lists, by the first element of each."""
    shape: list[int] = []
    while isinstance(value, list):
        if len(shape) == _MAX_RANK:
            raise invalid(f"a tensor has no more than {_MAX_RANK} dimensions")
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def _fill(value: Any, shape: list[int], level: int, dtype: tf.DType, into: list[Any]) -> None:
    if not isinstance(value, list):
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


def _pack(flat: list[Any], shape: list[int], dtype: tf.DType) -> np.ndarray:
    if dtype in (tf.int8, tf.int16, tf.uint8):
        # By way of int64, so that 300 for a uint8 wraps as in TF Serving's int_val instead of raising.
        return np.array(flat, np.int64).astype(dtype.as_numpy_dtype).reshape(shape)
    if dtype == tf.float32:
        # By way of double, as RapidJSON's GetFloat: rounded, and infinite beyond the range.
        with np.errstate(over="ignore"):
            return np.array(flat, np.float64).astype(np.float32).reshape(shape)
    return np.array(flat, dtype.as_numpy_dtype).reshape(shape)


def _regular(value: Any, dtype: tf.DType) -> np.ndarray | None:
    """Return correct nested lists as an array; None for others, in which `_array` finds the fault, leaf by leaf.

    This exists for speed alone: it needs no Python call for each number.
    """
    shape = _shape(value)
    flat = [value]
    for size in shape:
        if set(map(type, flat)) != {list} or set(map(len, flat)) != {size}:
            return None
        flat = list(itertools.chain.from_iterable(flat))
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


def _array(value: Any, dtype: tf.DType) -> np.ndarray:
    """Return nested lists (or one value) as an array of `dtype`; strings as an object array of bytes."""
    array = _regular(value, dtype)
    if array is not None:
        return array
    shape = _shape(value)
    flat: list[Any] = []
    _fill(value, shape, 0, dtype, flat)
    return _pack(flat, shape, dtype)


def read_inputs(document: Mapping[str, Any], signature: Any) -> tuple[str, dict[str, np.ndarray]]:
    """Return ROW or COLUMN, and the request's tensors by name in the SignatureDef's types. Raises INVALID_ARGUMENT."""
    dtypes = {name: tf.as_dtype(info.dtype) for name, info in signature.inputs.items()}
    if not dtypes:
        raise invalid(f"Failed to get input map for signature: {signature_name(document) or 'DEFAULT'}")
    if ROW in document and COLUMN in document:
        raise invalid(
            f"JSON Value: {show(document)} Not formatted correctly expecting only "
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
        raise invalid(f"JSON Value: {show(document)} Expecting '{ROW}' to be an list/array")
    if not instances:
        raise invalid(f"JSON Value: {show(document)} No values in '{ROW}' array")
    if not isinstance(instances[0], dict) and len(dtypes) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required "
            "as per tensorinfo_map"
        )
    regular = _regular_rows(instances, dtypes)
    return regular if regular is not None else _read_each_row(instances, dtypes)


def _named(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _regular_rows(instances: list[Any], dtypes: dict[str, tf.DType]) -> dict[str, np.ndarray] | None:
    """Return all rows when they are alike; None for others, in which `_read_each_row` finds the fault."""
    try:
        if not any(map(_named, instances)):
            columns = {next(iter(dtypes)): instances}
        elif all(_named(row) and row.keys() == dtypes.keys() for row in instances):
            columns = {name: [row[name] for row in instances] for name in dtypes}
        else:
            return None
        arrays = {name: _regular(column, dtypes[name]) for name, column in columns.items()}
    except ServingError:
        return None
    found = {name: array for name, array in arrays.items() if array is not None}
    return found if len(found) == len(arrays) else None


def _read_each_row(instances: list[Any], dtypes: dict[str, tf.DType]) -> dict[str, np.ndarray]:
    """Read row by row. The error names the row and the key of the first fault."""
    objects = _named(instances[0])
    columns: dict[str, list[np.ndarray]] = {}
    for index, instance in enumerate(instances):
        if objects and not _named(instance):
            raise invalid(f"Expecting object but got list at item {index} of input list")
        if not objects and _named(instance):
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
                f"Failed to process element: {index} of '{ROW}' list. JSON object: {show(row)} "
                f"keys must be equal to: {','.join(sorted(dtypes))}"
            )
    return {name: np.stack(values) for name, values in columns.items()}


def _check_same(before: list[np.ndarray], array: np.ndarray) -> None:
    if before and before[0].size != array.size:
        raise invalid(f"Expecting tensor size: {before[0].size} but got: {array.size}")
    if before and before[0].shape != array.shape:
        raise invalid(f"Expecting shape {shape_text(before[0])} but got: {shape_text(array)}")


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
