"""Writes numpy arrays as the JSON of TF Serving's REST answers, digit for digit.

No JSON library writes a float32 as TF Serving does (0.2, 1.0, 9e+06, NaN).
Source: `WriteDecimal`, `MakeJsonFromTensors` and their neighbours in TF Serving's util/json_tensor.cc.
"""

import base64
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring as quoted

import numpy as np
import tensorflow as tf

from graftline.serving.server.errors import invalid
from graftline.serving.server.model.tensors import dtype_name, dtype_of

ROW, COLUMN = "instances", "inputs"  # the two layouts of predict, by the key of the request
_INDENT = "\n    "
# TF Serving's REST API can write these types. It refuses the others (half, uint16, complex, …).
_WRITABLE = (
    *(tf.float32, tf.float64, tf.string, tf.bool),
    *(tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint32, tf.uint64),
)


def decimals(values: np.ndarray) -> list[str]:
    """Return each float32 or float64 of a flat array as TF Serving writes it: six digits if they read back.

    Whole numbers end in `.0`, so that a reader sees one type in a list of numbers.
    """
    texts = [f"{value:g}" for value in values.tolist()]
    digits = 9 if values.dtype == np.float32 else 17  # max_digits10 of each
    inexact = np.array(texts, np.float64).astype(values.dtype) != values
    for place in np.flatnonzero(inexact):
        texts[place] = f"{values[place]:.{digits}g}"
    for place in np.flatnonzero(~np.isfinite(values)):
        texts[place] = str(float(values[place])).replace("nan", "NaN").replace("inf", "Infinity")
    return [text if "." in text or "e" in text or "N" in text or "I" in text else text + ".0" for text in texts]


def _tokens(name: str, values: np.ndarray) -> list[str]:
    """Return the JSON of every element, in the order of the flat array."""
    dtype = dtype_of(values)
    flat = values.ravel()
    if values.size and dtype not in _WRITABLE:
        raise invalid(f"Failed to write JSON value for tensor type: {dtype_name(dtype)}")
    if dtype == tf.string:
        raw = [value if isinstance(value, bytes) else str(value).encode() for value in flat]
        if name.endswith("_bytes"):
            return [f'{{"b64": "{base64.b64encode(value).decode()}"}}' for value in raw]
        # TF Serving copies bytes that are not UTF-8, which makes an answer that is not JSON.
        return [quoted(value.decode("utf-8", "replace")) for value in raw]
    if dtype == tf.bool:
        return ["true" if value else "false" for value in flat.tolist()]
    if dtype in (tf.float32, tf.float64):
        return decimals(flat)
    return [str(value) for value in flat.tolist()]


def _nested(tokens: list[str], shape: Sequence[int]) -> list[str]:
    """Join elements into lists, the innermost dimension first. One string is left for each row."""
    for axis in range(len(shape) - 1, 0, -1):
        size, lists = shape[axis], int(np.prod(shape[:axis], dtype=np.int64))
        tokens = ["[" + ", ".join(tokens[size * place : size * (place + 1)]) + "]" for place in range(lists)]
    return tokens


def _tensor(name: str, values: np.ndarray) -> str:
    tokens = _tokens(name, values)
    return "[" + ", ".join(_nested(tokens, values.shape)) + "]" if values.ndim else tokens[0]


def _body(key: str, value: str) -> bytes:
    return f'{{{_INDENT}"{key}": {value}\n}}'.encode("utf-8", "replace")


def _object(members: Mapping[str, str], indent: str) -> str:
    inside = f",{indent}    ".join(f"{quoted(name)}: {value}" for name, value in members.items())
    return f"{{{indent}    {inside}{indent}}}"


def write_outputs(layout: str, outputs: Mapping[str, np.ndarray]) -> bytes:
    """Return the body of an answer to predict, in the layout of the request.

    One output is written bare, several outputs as objects by name. Raises INVALID_ARGUMENT when the outputs of a ROW
    request have no common batch dimension, or a type without a form in JSON.
    """
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    if layout != ROW:
        columns = {name: _tensor(name, values) for name, values in outputs.items()}
        return _body("outputs", _object(columns, _INDENT) if len(columns) > 1 else next(iter(columns.values())))
    batch = None
    for name, values in outputs.items():
        if not values.ndim:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if batch is not None and len(values) != batch:
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {len(values)} expecting: {batch}")
        batch = len(values)
    cells = {name: _nested(_tokens(name, values), values.shape) for name, values in outputs.items()}
    if len(cells) == 1:
        return _body("predictions", "[" + ", ".join(next(iter(cells.values()))) + "]")
    indent = _INDENT + "    "
    rows = [_object(dict(zip(cells, row, strict=True)), indent) for row in zip(*cells.values(), strict=True)]
    return _body("predictions", "[" + indent + ("," + indent).join(rows) + _INDENT + "]" if rows else "[]")


def write_classes(labels: np.ndarray | None, scores: np.ndarray | None) -> bytes:
    """Return the body of an answer to classify: the [label, score] pairs of each example.

    `labels` are strings [N, C], `scores` float32 [N, C]. Missing labels are written as "", missing scores as 0.0.
    """
    shape = labels.shape if labels is not None else scores.shape if scores is not None else (0, 0)
    names = _tokens("", labels) if labels is not None else ['""'] * (shape[0] * shape[1])
    numbers = decimals(scores.ravel()) if scores is not None else ["0.0"] * (shape[0] * shape[1])
    pairs = [f"[{name}, {number}]" for name, number in zip(names, numbers, strict=True)]
    return _body("results", "[" + ", ".join(_nested(pairs, shape)) + "]")


def write_values(values: np.ndarray) -> bytes:
    """Return the body of an answer to regress: `values` float32 [N]."""
    return _body("results", "[" + ", ".join(decimals(values)) + "]")
