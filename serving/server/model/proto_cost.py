"""What a proto costs when it is parsed, told from its bytes before it is.

Protobuf turns two bytes into an object of up to 200 (an empty string, an empty message, an entry of a map), one byte
into eight (a packed varint), and holds Python's lock while it does. Tensors and images that are sent as bytes
(`tensor_content`, `string_val`) cost their size.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.descriptor import FieldDescriptor

from graftline.serving.server.errors import invalid

# Below this nothing is looked at: its costliest proto takes 30 MB, and 20 ms to parse.
_SMALL = 256 << 10
_FIELDS, _BYTES_OF_A_FIELD = 1 << 17, 64  # so many fields, and one more for so many bytes
# The same for packed varints of 32 bits; one of 64 bits counts as four. 13 million are parsed in 0.1 s.
_VALUES, _BYTES_OF_A_VALUE = 9 << 20, 16
_NAME_BYTES = 1 << 20  # of all strings that are text. Python's text takes up to four times their bytes.
_MAX_DEPTH = 100  # protobuf's own
_PIECE = 1 << 20  # bytes that are looked at at once

_TEXT, _BYTES, _PACKED, _UNKNOWN = 0, 1, 2, 3
_VARINTS = {
    FieldDescriptor.TYPE_INT64: 4,
    FieldDescriptor.TYPE_UINT64: 4,
    FieldDescriptor.TYPE_SINT64: 4,
    FieldDescriptor.TYPE_INT32: 1,
    FieldDescriptor.TYPE_UINT32: 1,
    FieldDescriptor.TYPE_SINT32: 1,
    FieldDescriptor.TYPE_BOOL: 1,
    FieldDescriptor.TYPE_ENUM: 1,
}


class _Field(NamedTuple):
    kind: int
    weight: int = 0  # of a packed varint
    message: Any = None  # the descriptor of a message


_UNKNOWN_FIELD = _Field(_UNKNOWN)


@functools.cache
def _fields_of(descriptor: Any) -> Mapping[int, _Field]:
    fields = {}
    for field in descriptor.fields:
        if field.message_type is not None:
            fields[field.number] = _Field(_UNKNOWN, message=field.message_type)
        elif field.type == FieldDescriptor.TYPE_STRING:
            fields[field.number] = _Field(_TEXT)
        elif field.type in _VARINTS and field.label == FieldDescriptor.LABEL_REPEATED:
            fields[field.number] = _Field(_PACKED, _VARINTS[field.type])
        else:
            fields[field.number] = _Field(_BYTES)
    return fields


def check_cost(message: bytes, descriptor: Any) -> None:
    """Raise INVALID_ARGUMENT for a message that is out of proportion to its bytes when it is parsed.

    Bytes that are not a proto pass, at the first that shows it: the parser stops there too.
    """
    if len(message) <= _SMALL:
        return
    walk = _Walk(message)
    try:
        walk.look(0, len(message), descriptor, 0)
    except IndexError:
        return


class _Walk:
    """Counts the fields of one message. It takes 0.5 us for each."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._most_fields = _FIELDS + len(data) // _BYTES_OF_A_FIELD
        self._most_values = _VALUES + len(data) // _BYTES_OF_A_VALUE
        self._fields = self._values = self._names = 0

    def look(self, at: int, end: int, descriptor: Any, depth: int) -> None:
        """Count the fields of the message in `data[at:end]`. Raises IndexError where it is not a proto."""
        data, fields = self._data, _fields_of(descriptor)
        if depth > _MAX_DEPTH:
            raise IndexError
        while at < end:
            self._fields += 1
            if self._fields > self._most_fields:
                raise invalid(
                    f"the request has more than {self._most_fields} values and messages, the limit for its "
                    f"{len(data)} bytes: send tensors of numbers as tensor_content, and fewer strings in a request"
                )
            tag, at = self._varint(at) if data[at] > 127 else (data[at], at + 1)
            wire = tag & 7
            if wire == 0:
                at = self._varint(at)[1]
            elif wire == 1:
                at += 8
            elif wire == 5:
                at += 4
            elif wire == 2:
                size, at = self._varint(at) if data[at] > 127 else (data[at], at + 1)
                if at + size > end:
                    raise IndexError
                field = fields.get(tag >> 3, _UNKNOWN_FIELD)
                if field.message is not None:
                    self.look(at, at + size, field.message, depth + 1)
                elif field.kind == _PACKED:
                    self._count_values(at, size, field.weight)
                elif field.kind == _TEXT:
                    self._count_name(size)
                at += size
            # 3 and 4 begin and end a group, which no message of ours has: its fields are counted as if they were ours.
            elif wire > 5:
                raise IndexError

    def _varint(self, at: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, at
        raise IndexError

    def _count_values(self, at: int, size: int, weight: int) -> None:
        """Count packed varints: each ends with a byte under 128."""
        for start in range(at, at + size, _PIECE):
            piece = np.frombuffer(self._data, np.uint8, min(_PIECE, at + size - start), start)
            self._values += weight * int(np.count_nonzero(piece < 128))
            if self._values > self._most_values:
                raise invalid(
                    f"the request has more than {self._most_values // weight} integers in lists such as int64_val, the "
                    f"limit for its {len(self._data)} bytes: send the tensor as tensor_content"
                )

    def _count_name(self, size: int) -> None:
        self._names += size
        if self._names > _NAME_BYTES:
            raise invalid(f"the names in the request take more than {_NAME_BYTES} bytes: send shorter ones")
