"""Writes numpy arrays as the JSON of TF Serving's REST answers, digit for digit.

No JSON library writes a float32 as TF Serving does (0.2, 1.0, 9e+06, NaN).
Source: `WriteDecimal`, `MakeJsonFromTensors` and their neighbours in TF Serving's util/json_tensor.cc.
"""

import base64
import codecs
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from json.encoder import encode_basestring as quoted

import numpy as np
import tensorflow as tf

from graftline.serving.server.deadline import NO_DEADLINE, Deadline
from graftline.serving.server.errors import invalid
from graftline.serving.server.model.tensors import dtype_name, dtype_of

ROW, COLUMN = "instances", "inputs"  # the two layouts of predict, by the key of the request
_INDENT = "\n    "
# Elements that are written together: each takes 60 bytes or more as a Python string, and 5 to 13 in the answer.
_PIECE = 16 << 10
_STRING_PIECE = 3 << 16  # bytes of a string, a multiple of 3 for base64
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


def _weight(values: np.ndarray) -> int:
    """Return the size of a tensor in elements; 16 bytes of a string count as one more."""
    return values.size + (sum(map(len, values.ravel())) // 16 if values.dtype == object else 0)


def _tensor(name: str, values: np.ndarray) -> Iterator[str]:
    """Return the JSON of a tensor, piece by piece."""
    if values.ndim:
        yield "["
        yield from _rows(name, values)
        yield "]"
    else:
        yield from _string(name, values.item()) if values.dtype == object else _tokens(name, values)


def _rows(name: str, values: np.ndarray) -> Iterator[str]:
    """Return the JSON of a tensor's rows, without brackets around them."""
    size = int(np.prod(values.shape[1:], dtype=np.int64))
    if _weight(values) <= _PIECE:
        yield ", ".join(_nested(_tokens(name, values), values.shape))
    elif size > _PIECE or values.dtype == object:
        for place in range(len(values)):
            yield ", " if place else ""
            yield from _tensor(name, values[place, ...])
    else:
        step = _PIECE // max(size, 1)
        for start in range(0, len(values), step):
            part = values[start : start + step]
            yield (", " if start else "") + ", ".join(_nested(_tokens(name, part), part.shape))


def _string(name: str, value: bytes | str) -> Iterator[str]:
    """Return the JSON of a string, piece by piece. The form is that of `_tokens`."""
    raw = value if isinstance(value, bytes) else value.encode()
    pieces = (raw[at : at + _STRING_PIECE] for at in range(0, len(raw), _STRING_PIECE))
    if name.endswith("_bytes"):
        yield '{"b64": "'
        yield from (base64.b64encode(piece).decode() for piece in pieces)
        yield '"}'
    else:
        yield '"'
        yield from (quoted(text)[1:-1] for text in codecs.iterdecode(pieces, "utf-8", "replace"))
        yield '"'


def _object(members: Mapping[str, np.ndarray], indent: str) -> Iterator[str]:
    """Return the JSON of an object of tensors."""
    yield "{"
    for place, (name, values) in enumerate(members.items()):
        yield f"{',' if place else ''}{indent}    {quoted(name)}: "
        yield from _tensor(name, values)
    yield indent + "}"


def _objects(outputs: Mapping[str, np.ndarray], count: int, indent: str) -> Iterator[str]:
    """Return the JSON of `count` objects: each holds one row of every tensor."""
    weight = sum(map(_weight, outputs.values()))
    step = max(1, count * _PIECE // max(weight, 1))
    for start in range(0, count, step):
        part = {name: values[start : start + step] for name, values in outputs.items()}
        yield "," + indent if start else ""
        if sum(map(_weight, part.values())) > 2 * _PIECE:  # large rows
            for place in range(len(next(iter(part.values())))):
                yield "," + indent if place else ""
                yield from _object({name: values[place, ...] for name, values in part.items()}, indent)
        else:
            cells = [_nested(_tokens(name, values), values.shape) for name, values in part.items()]
            keys = [f"{indent}    {quoted(name)}: " for name in part]
            rows = ([key + cell for key, cell in zip(keys, row, strict=True)] for row in zip(*cells, strict=True))
            yield ("," + indent).join("{" + ",".join(row) + indent + "}" for row in rows)


def _body(key: str, pieces: Iterable[str], deadline: Deadline) -> bytes:
    body = io.BytesIO()  # its value is no copy, unlike a joined list
    body.write(f'{{{_INDENT}"{key}": '.encode())
    for piece in pieces:
        deadline.check()
        body.write(piece.encode("utf-8", "replace"))
    body.write(b"\n}")
    return body.getvalue()


def write_outputs(layout: str, outputs: Mapping[str, np.ndarray], deadline: Deadline = NO_DEADLINE) -> bytes:
    """Return the body of an answer to predict, in the layout of the request.

    One output is written bare, several outputs as objects by name. Raises INVALID_ARGUMENT when the outputs of a ROW
    request have no common batch dimension, or a type without a form in JSON, and DEADLINE_EXCEEDED.
    """
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    if layout != ROW:
        columns = _object(outputs, _INDENT) if len(outputs) > 1 else _tensor(*next(iter(outputs.items())))
        return _body("outputs", columns, deadline)
    batch = None
    for name, values in outputs.items():
        if not values.ndim:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if batch is not None and len(values) != batch:
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {len(values)} expecting: {batch}")
        batch = len(values)
    if len(outputs) == 1:
        return _body("predictions", _tensor(*next(iter(outputs.items()))), deadline)
    indent = _INDENT + "    "
    rows = _objects(outputs, batch or 0, indent)
    return _body("predictions", itertools.chain(("[" + indent,), rows, (_INDENT + "]",)) if batch else "[]", deadline)


def write_classes(labels: np.ndarray | None, scores: np.ndarray | None, deadline: Deadline = NO_DEADLINE) -> bytes:
    """Return the body of an answer to classify: the [label, score] pairs of each example.

    `labels` are strings [N, C], `scores` float32 [N, C]. Missing labels are written as "", missing scores as 0.0.
    Raises DEADLINE_EXCEEDED.
    """
    rows, classes = labels.shape if labels is not None else scores.shape if scores is not None else (0, 0)
    step = max(1, _PIECE // max(classes, 1))

    def write(start: int) -> str:
        shape = min(step, rows - start), classes
        part = slice(start, start + step)
        names = _tokens("", labels[part]) if labels is not None else ['""'] * (shape[0] * classes)
        numbers = decimals(scores[part].ravel()) if scores is not None else ["0.0"] * (shape[0] * classes)
        pairs = [f"[{name}, {number}]" for name, number in zip(names, numbers, strict=True)]
        return (", " if start else "") + ", ".join(_nested(pairs, shape))

    return _body("results", itertools.chain("[", map(write, range(0, rows, step)), "]"), deadline)


def write_values(values: np.ndarray, deadline: Deadline = NO_DEADLINE) -> bytes:
    """Return the body of an answer to regress: `values` float32 [N]. Raises DEADLINE_EXCEEDED."""
    return _body("results", _tensor("", values), deadline)
