"""Finds the structure of a JSON text before anything is parsed: its nesting, its weight, and its lists of numbers.

Parsed JSON takes far more memory than its text: `[],` becomes 64 bytes, `{"a":0},` more than 300. numpy looks at pieces
of the text: this takes 5 ns a byte, a fixed amount of memory, and lets other threads run.

The outline of malformed text is right up to its first fault, where the parser stops.
"""

from dataclasses import dataclass, field

import numpy as np

from graftline.serving.server.deadline import Deadline
from graftline.serving.server.errors import invalid

MAX_DEPTH = 64  # lists and objects inside each other; a tensor of 31 dimensions needs 33
LONG_RUN = 256  # bytes of a list of numbers that is worth an array of its own
# Bytes of a Python object, at most, with what the conversion to a tensor adds. A string has two quotes. A comma stands
# for a value, and a list holds one value more than it has commas.
COMMA_WEIGHT, LIST_WEIGHT = 48, 160
_BLOCK = 256 << 10
_LONG_STRING = 8 << 20  # bytes; Python decodes longer text in one step of up to 0.3 s that lets no other thread run
_QUOTE, _BACKSLASH = ord('"'), ord("\\")
_MARKS = bytes(byte in b'"\\[]{},' for byte in range(256))
_BARRIERS = np.array([byte in b'"{}' for byte in range(256)])
_STEPS = np.zeros(256, np.int64)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1
_WEIGHTS = np.zeros(256, np.int64)
_WEIGHTS[list(b',[{"')] = COMMA_WEIGHT, LIST_WEIGHT, 256, 64


@dataclass
class Outline:
    """The weight of a text, and its long parts without quotes and braces: first byte, byte after the last."""

    weight: int = 0
    runs: list[tuple[int, int]] = field(default_factory=list)


def outline(body: bytes, deadline: Deadline) -> Outline:
    """Return the outline of a JSON text. Raises INVALID_ARGUMENT when it is nested too deeply."""
    result = Outline()
    start, depth, inside = 0, 0, 0
    last, opens = -1, False  # the last quote or brace, and whether it begins a string
    while start < len(body):
        deadline.check()
        block = body[start : start + _BLOCK]
        places, kinds, escapes_next = _find_marks(block)
        quotes = kinds == _QUOTE
        odd = ((np.cumsum(quotes) + inside) & 1).astype(bool)
        inside = int(odd[-1]) if len(odd) else inside
        kept = quotes | ~odd  # marks inside a string are text
        places, kinds, quotes, odd = places[kept] + start, kinds[kept], quotes[kept], odd[kept]
        depths = np.cumsum(_STEPS[kinds]) + depth
        if depths.max(initial=0) > MAX_DEPTH:
            raise invalid("JSON Parse error: nested too deeply")
        depth = int(depths[-1]) if len(depths) else depth
        result.weight += int(_WEIGHTS[kinds].sum())
        barriers = _BARRIERS[kinds]
        edges = np.concatenate([[last], places[barriers]])
        begins = np.concatenate([[opens], (quotes & odd)[barriers]])
        for place in np.flatnonzero((np.diff(edges) > LONG_RUN) & ~begins[:-1]):
            result.runs.append((int(edges[place]) + 1, int(edges[place + 1])))
        for place in np.flatnonzero((np.diff(edges) > _LONG_STRING) & begins[:-1]):
            _check_ascii(body, int(edges[place]), int(edges[place + 1]))
        last, opens = int(edges[-1]), bool(begins[-1])
        # A backslash at the end begins the next block, which holds what it escapes.
        start += len(block) - (escapes_next and len(block) > 1)
    if len(body) - last > LONG_RUN and not opens:
        result.runs.append((last + 1, len(body)))
    return result


def _check_ascii(body: bytes, start: int, end: int) -> None:
    if not all(body[at : min(at + _BLOCK, end)].isascii() for at in range(start, end, _BLOCK)):
        raise invalid(
            f"a string in the JSON has {end - start - 1} bytes and is not ASCII, and the limit of such strings is "
            f"{_LONG_STRING >> 20} MiB: send bytes as base64, in an object with the key b64"
        )


def _find_marks(block: bytes) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the places and the bytes of all marks that no backslash escapes; and whether the block's end escapes."""
    places = np.flatnonzero(np.frombuffer(block.translate(_MARKS), np.bool_))
    kinds = np.frombuffer(block, np.uint8)[places]
    slashes = kinds == _BACKSLASH
    if not slashes.any():
        return places, kinds, False
    adjacent = np.diff(places, prepend=-2) == 1
    after_slash = adjacent & np.concatenate([[False], slashes[:-1]])
    order = np.arange(len(places))
    first = np.maximum.accumulate(np.where(slashes & ~after_slash, order, 0))  # of the backslashes in a row
    escaping = slashes & ((order - first) % 2 == 0)
    escaped = adjacent & np.concatenate([[False], escaping[:-1]])
    kept = ~slashes & ~escaped
    return places[kept], kinds[kept], bool(escaping[-1]) and int(places[-1]) == len(block) - 1
