"""Lists of numbers in JSON as arrays, without a Python object for each number.

A number is 2 bytes of text or more, and 32 to 40 bytes as an element of a Python list. Here a list and all lists in it
are taken apart piece by piece. numpy checks that they have the form of a tensor, RapidJSON reads the numbers. A list of
another form or with a fault stays text: the parser of the whole document says what is wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import rapidjson

from graftline.serving.server.deadline import Deadline
from graftline.serving.server.http.json_outline import COMMA_WEIGHT, LIST_WEIGHT, LONG_RUN

MAX_RANK = 31  # numpy has 32 dimensions; stacking rows adds one
NUMBER_MODE = rapidjson.NM_NATIVE | rapidjson.NM_NAN
PIECE = 256 << 10  # bytes: 4 ms of RapidJSON, which lets no other thread run
_SHORT = 8 << 10  # bytes of a list that Python takes apart in less time than numpy
_OPEN, _CLOSE, _COMMA = b"[],"
_WITHOUT_BRACKETS = bytes.maketrans(b"[]", b"  ")


@dataclass(frozen=True, eq=False, slots=True)
class Numbers:
    """A list of JSON, with all lists in it, as an array of 1 or more dimensions.

    `values` are bool, float64, or integers of any size. When the list holds decimals, `first_decimal` is the place of
    the first one in the flat array, and the numbers before it are whole numbers.
    """

    values: np.ndarray
    first_decimal: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of the list, of the lists in it, and so on."""
        return self.values.shape

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        """Return the elements one by one: Numbers, or Python's numbers from a list of numbers."""
        for place, values in enumerate(self.values):
            yield Numbers(values, self._first_decimal_from(place * values.size)) if values.ndim else self.element(place)

    def _first_decimal_from(self, start: int) -> int | None:
        return None if self.first_decimal is None else max(0, self.first_decimal - start)

    def element(self, place: int) -> bool | int | float:
        """Return an element of the flat array as Python's number."""
        number: bool | int | float = self.values.reshape(-1)[place].item()
        return int(number) if self.first_decimal is not None and place < self.first_decimal else number


@dataclass(frozen=True, eq=False, slots=True)
class Packed:
    """Numbers, where their text is in the body, and the weight that they no longer have."""

    start: int
    end: int
    numbers: Numbers
    weight: int


class _Structure:
    """Checks brackets and commas of nested lists, piece by piece: all lists of one level must have the same length.

    Between two numbers of such lists there is one comma, so the commas before a place count the numbers before it.
    Lists of one level begin and end at multiples of the same count.
    """

    def __init__(self) -> None:
        self.count = 0  # numbers so far
        self._depth = 0
        self._opened = np.zeros(MAX_RANK + 2, np.int64)  # lists by level
        self._closed = np.zeros(MAX_RANK + 2, np.int64)
        self._sizes = np.zeros(MAX_RANK + 2, np.int64)  # numbers in a list of each level

    def add(self, piece: bytes) -> int | None:
        """Return how many numbers a piece holds that was cut at commas; None when a tensor has another structure."""
        text = np.frombuffer(piece, np.uint8)
        text = text[text > ord(" ")]
        opens, closes, commas = text == _OPEN, text == _CLOSE, text == _COMMA
        before = np.concatenate([[_COMMA], text[:-1]])
        after = np.concatenate([text[1:], [_COMMA]])
        if (opens & (before != _OPEN) & (before != _COMMA)).any() or (
            closes & (after != _CLOSE) & (after != _COMMA)
        ).any():
            return None
        depths = np.cumsum(opens.astype(np.int64) - closes) + self._depth
        if not len(text) or depths.max() > MAX_RANK or depths[:-1].min(initial=1) < 1:
            return None
        places = np.cumsum(commas) + self.count
        for level in np.unique(depths[opens | closes] + closes[opens | closes]):
            if not self._check(level, places[opens & (depths == level)], places[closes & (depths == level - 1)]):
                return None
        self._depth = int(depths[-1])
        numbers = int(commas.sum()) + 1
        self.count += numbers
        return numbers

    def _check(self, level: int, opens: np.ndarray, closes: np.ndarray) -> bool:
        """Return whether the lists of a level that begin and end in a piece are as long as the first one."""
        if not self._closed[level] and len(closes):
            self._sizes[level] = closes[0] + 1
        size = self._sizes[level]
        expected_opens = (self._opened[level] + np.arange(len(opens))) * size
        expected_closes = (self._closed[level] + 1 + np.arange(len(closes))) * size - 1
        self._opened[level] += len(opens)
        self._closed[level] += len(closes)
        return np.array_equal(opens, expected_opens) and np.array_equal(closes, expected_closes)

    def finish(self) -> tuple[tuple[int, ...], int] | None:
        """Return the shape and the number of lists; None when the lists are not complete."""
        rank = int(np.flatnonzero(self._opened)[-1])
        sizes = [*self._sizes[1 : rank + 1].tolist(), 1]
        if self._depth or (self._opened != self._closed).any() or sizes[0] != self.count:
            return None
        if (self._opened * self._sizes)[1 : rank + 1].tolist() != [self.count] * rank:  # a number outside these lists
            return None
        if any(not inner or outer % inner for outer, inner in pairwise(sizes)):
            return None
        return tuple(outer // inner for outer, inner in pairwise(sizes)), int(self._opened.sum())


def pack(body: bytes, start: int, end: int, deadline: Deadline) -> Packed | None:
    """Return the list between two places of the body as Numbers; None when it is none, or no regular one."""
    first, last = body.find(b"[", start, end), body.rfind(b"]", start, end) + 1
    if first < 0 or last - first < LONG_RUN:
        return None
    if last - first <= _SHORT:
        short = _pack_short(body[first:last])
        return Packed(first, last, short, (short.values.size - 1) * COMMA_WEIGHT) if short else None
    structure, parts, first_decimal = _Structure(), [], None
    place = first
    while place < last:
        deadline.check()
        comma = body.find(b",", place + PIECE, last)
        stop = last if comma < 0 else comma
        if stop - place > 2 * PIECE:  # a number of that length, or white space
            return None
        piece, count_before = body[place:stop], structure.count
        count = structure.add(piece)
        part = _read(piece) if count else None
        if part is None or len(part.values) != count:
            return None
        if first_decimal is None and part.first_decimal is not None:
            first_decimal = count_before + part.first_decimal
        parts.append(part.values)
        place = stop + 1
    form = structure.finish()
    if form is None:
        return None
    shape, lists = form
    kinds = {part.dtype.kind.replace("u", "i") for part in parts}
    dtype = np.result_type(*{part.dtype for part in parts})
    if kinds not in ({"b"}, {"i"}, {"f"}, {"i", "f"}) or (kinds == {"i"} and dtype.kind == "f"):
        return None
    values = np.concatenate(parts, dtype=dtype).reshape(shape)
    weight = (structure.count - 1) * COMMA_WEIGHT + lists * LIST_WEIGHT
    return Packed(first, last, Numbers(values, first_decimal), weight)


def _pack_short(text: bytes) -> Numbers | None:
    try:
        value = rapidjson.loads(text, number_mode=NUMBER_MODE)
    except (ValueError, RecursionError):
        return None
    shape = shape_of(value)
    flat = flatten(value, shape) if len(shape) <= MAX_RANK else None
    numbers = _convert(flat) if flat else None
    return Numbers(numbers.values.reshape(shape), numbers.first_decimal) if numbers else None


def shape_of(value: Any) -> list[int]:
    """Return the shape of nested lists, by the first element of each."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            return shape
        value = value[0]
    return [*shape, *value.shape] if isinstance(value, Numbers) else shape


def flatten(value: Any, shape: list[int]) -> list[Any] | None:
    """Return the elements of nested lists in one list; None when a list has not the length that `shape` says."""
    flat = [value]
    for size in shape:
        if set(map(type, flat)) != {list} or set(map(len, flat)) != {size}:
            return None
        flat = list(chain.from_iterable(flat))
    return flat


def _read(piece: bytes) -> Numbers | None:
    """Return the numbers of a piece without its lists; None as `_convert`, or for a fault."""
    try:
        return _convert(rapidjson.loads(b"[" + piece.translate(_WITHOUT_BRACKETS) + b"]", number_mode=NUMBER_MODE))
    except (ValueError, RecursionError):
        return None


def _convert(numbers: list[Any]) -> Numbers | None:
    """Return a flat list as an array; None when it holds anything but numbers, or numbers that no one dtype holds."""
    kinds = set(map(type, numbers))
    if kinds == {bool}:
        return Numbers(np.array(numbers, bool))
    if kinds == {int}:  # small integers stay small: `1,` is 2 bytes of text
        dtype = np.result_type(np.min_scalar_type(min(numbers)), np.min_scalar_type(max(numbers)))
        return Numbers(np.array(numbers, dtype)) if dtype.kind in "iu" else None
    if kinds and kinds <= {int, float}:
        first = next(place for place, number in enumerate(numbers) if type(number) is float)
        return Numbers(np.array(numbers, np.float64), first)
    return None
