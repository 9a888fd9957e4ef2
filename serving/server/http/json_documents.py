"""Parses the body of a REST request within bounds of memory and time, and without holding up other threads.

TF Serving uses RapidJSON: the grammar is the same (NaN and Infinity are numbers), and so are the words and the
offsets of errors.

A call of RapidJSON lets no other thread run before it ends, so it reads a large body in small pieces. Long lists of
numbers become arrays before that: `json_numbers`. All other values of a large body have a limit of weight.
"""

import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, cast

import rapidjson

from graftline.serving.server.deadline import NO_DEADLINE, Deadline
from graftline.serving.server.errors import invalid
from graftline.serving.server.http.json_messages import show
from graftline.serving.server.http.json_numbers import NUMBER_MODE, Numbers, Packed, pack
from graftline.serving.server.http.json_outline import MAX_DEPTH, outline

SMALL = 256 << 10  # bytes of a body that RapidJSON reads at once: in 5 ms at most
MAX_WEIGHT = 64 << 20  # of the values that become Python objects: a million numbers
_PIECE = 64 << 10
_BOM = b"\xef\xbb\xbf"
_NO_ASCII = re.compile(rb"[\x80-\xff]")
# python-rapidjson's RapidJSON is newer than TF Serving's (1.1.0), which words these differently.
_SINCE_RENAMED = {
    "Missing a comma or '}' after an object member.": "Missing a comma or } after an object member.",
    "Missing a comma or ']' after an array element.": "Missing a comma or ] after an array element.",
    "Invalid encoding in string.": "Invalid escape character in string.",
}


def parse(body: bytes, deadline: Deadline = NO_DEADLINE, with_numbers: bool = False) -> dict[str, Any]:
    """Return the request's JSON object; NaN and Infinity are numbers.

    `with_numbers`: long regular lists of numbers become `Numbers`. Raises INVALID_ARGUMENT, with the fault's offset, or
    DEADLINE_EXCEEDED.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    start = len(_BOM) if body.startswith(_BOM) else 0
    document = _parse_large(body, start, deadline, with_numbers) if len(body) > SMALL else _parse_small(body, start)
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {show(document)} Is not object")
    return document


def _parse_small(body: bytes, start: int) -> Any:
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        outline(body, NO_DEADLINE)  # it refuses deep nesting
    text = body[start:] if start else body
    try:
        return _call(lambda: rapidjson.loads(text, number_mode=NUMBER_MODE), lambda offset: start + offset)
    except UnicodeDecodeError:
        # Faults of the JSON itself are reported first, in the usual words and at the usual offset.
        plain = _NO_ASCII.sub(b"?", text)
        _call(lambda: rapidjson.loads(plain, number_mode=NUMBER_MODE), lambda offset: start + offset)
        return _parse_bytes(text)


def _parse_large(body: bytes, start: int, deadline: Deadline, with_numbers: bool) -> Any:
    found = outline(body, deadline)
    runs = found.runs if with_numbers else []
    lists = [packed for run in runs if (packed := pack(body, *run, deadline))]
    weight = found.weight - sum(each.weight for each in lists)
    if weight > MAX_WEIGHT:
        raise invalid(
            f"the JSON of {len(body)} bytes holds so many values that they would take {weight >> 20} MiB of memory, "
            f"and the limit is {MAX_WEIGHT >> 20} MiB: send fewer rows at once, or one list of numbers for all rows by "
            "the key inputs"
        )
    text = _Text(body, start, lists, deadline)
    decode = _Decoder(number_mode=NUMBER_MODE)
    decode.values = {name: packed.numbers for name, packed in zip(text.names, lists, strict=True)}
    try:
        return _call(lambda: decode(cast(IO[bytes], text), chunk_size=_PIECE), text.offset)
    except UnicodeDecodeError as error:
        raise invalid(
            "JSON Parse error: a string is not UTF-8: send bytes as base64, in an object with the key b64"
        ) from error


class _Decoder(rapidjson.Decoder):
    """Puts values in the place of their names."""

    values: Mapping[str, Numbers]

    def string(self, text: str) -> Any:
        """Return what a string of the text stands for."""
        return self.values.get(text, text)


class _Text:
    """The text of a body, piece by piece, with a name in the place of each list that is an array already."""

    def __init__(self, body: bytes, start: int, lists: Sequence[Packed], deadline: Deadline) -> None:
        self._start, self._lists, self._deadline = start, lists, deadline
        secret = secrets.token_hex(16)  # no string of the client's is such a name
        self.names = [f"{secret}{place}" for place in range(len(lists))]
        self._pieces = _cut(body, start, self.names, lists)

    def read(self, size: int) -> bytes:
        """Return the next bytes; none at the end. Raises DEADLINE_EXCEEDED."""
        self._deadline.check()
        return next(self._pieces, b"")

    def offset(self, place: int) -> int:
        """Return where in the body a place of this text is."""
        place += self._start
        for name, packed in zip(self.names, self._lists, strict=True):
            if place <= packed.start:
                break
            place += packed.end - packed.start - len(name) - 2
        return place


def _cut(body: bytes, start: int, names: Sequence[str], lists: Sequence[Packed]) -> Iterator[bytes]:
    """Return the pieces of a `_Text`. A method would make a cycle, which keeps the body until it is collected."""
    for name, packed in zip(names, lists, strict=True):
        yield from (body[at : min(at + _PIECE, packed.start)] for at in range(start, packed.start, _PIECE))
        yield f'"{name}"'.encode()
        start = packed.end
    yield from (body[at : at + _PIECE] for at in range(start, len(body), _PIECE))


def _call(load: Callable[[], Any], offset: Callable[[int], int]) -> Any:
    """Return what RapidJSON loads. `offset` turns the offset of its error into that of the body.

    Raises INVALID_ARGUMENT or UnicodeDecodeError.
    """
    try:
        return load()
    except rapidjson.JSONDecodeError as error:
        match = re.fullmatch(r"Parse error at offset (\d+): (.*)", str(error), re.S)
        place, reason = (int(match[1]), match[2]) if match else (0, str(error))
        raise invalid(f"JSON Parse error: {_SINCE_RENAMED.get(reason, reason)} at offset: {offset(place)}") from error
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
