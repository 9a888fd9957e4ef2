"""HTTP/2 frames (RFC 9113): the nine bytes at the head of each are read, and a few frames are written.

Header blocks are passed on unread. The blocks that are written hold no reference to a table that the peers share.
"""

import urllib.parse
from collections.abc import Callable
from typing import Protocol

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 0x1, 0x4
NO_ERROR, CANCEL, ENHANCE_YOUR_CALM = 0x0, 0x8, 0xB
_HEAD = 9

OnFrame = Callable[[int, int, int, int], bool]  # kind, flags, stream, bytes of the payload; whether it may pass now


class _Writer(Protocol):
    def write(self, data: bytes) -> None: ...


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def reset(stream: int, error: int) -> bytes:
    """Return a RST_STREAM."""
    return _frame(RST_STREAM, 0, stream, error.to_bytes(4, "big"))


def go_away(last_stream: int, error: int) -> bytes:
    """Return a GOAWAY: streams above `last_stream` have not been looked at."""
    return _frame(GOAWAY, 0, 0, last_stream.to_bytes(4, "big") + error.to_bytes(4, "big"))


def status(stream: int, code: int, message: str) -> bytes:
    """Return the one HEADERS frame of an answer that is a gRPC status alone.

    Its fields are literals without indexing (RFC 7541, section 6.2.2): they leave the client's table as it is, so the
    frame may go between those of another encoder.
    """
    details = urllib.parse.quote(message, safe=" !\"#$&'()*+,-./:;<=>?@[]^_`{|}~")
    block = b"\x88"  # :status 200, of the static table
    for name, value in (("content-type", "application/grpc"), ("grpc-status", str(code)), ("grpc-message", details)):
        block += b"\x00" + _string(name) + _string(value)
    return _frame(HEADERS, END_STREAM | END_HEADERS, stream, block)


def _string(text: str) -> bytes:
    data = text.encode("ascii")
    if len(data) < 127:
        return bytes((len(data),)) + data
    rest, length = len(data) - 127, b"\x7f"
    while rest >= 128:
        length, rest = length + bytes((rest % 128 | 128,)), rest // 128
    return length + bytes((rest,)) + data


class Passage:
    """One direction of a connection: it passes bytes on, shows the head of every frame, and takes frames in between."""

    def __init__(self, writer: _Writer, on_frame: OnFrame, skip: int = 0) -> None:
        self.held = False  # whether nothing is passed on
        self._writer = writer
        self._on_frame = on_frame
        self._left = skip  # bytes of the frame under way that are still to come
        self._waiting = b""  # a part of a head; all that came, while held
        self._in_block = False  # no frame may go between HEADERS and the end of their CONTINUATION
        self._inserted = b""
        self._feeding = False

    def insert(self, frame: bytes) -> None:
        """Write a frame as soon as the one under way has passed."""
        self._inserted += frame
        if not self._feeding:
            self.feed(b"")

    def feed(self, data: bytes) -> None:
        """Pass bytes on. `on_frame` is called for each frame before it is passed on, and may set `held`.

        A frame that may not pass waits, with all that come after it, until `held` is False. `on_frame` is then called
        for it once more.
        """
        self._feeding = True
        data, self._waiting = self._waiting + data, b""
        pieces, start = [], 0
        at = min(self._left, len(data))
        self._left -= at
        while not self._left:
            if self._inserted and not self._in_block:
                pieces += [data[start:at], self._inserted]
                self._inserted, start = b"", at
            if self.held or len(data) - at < _HEAD:
                self._waiting = data[at:]
                break
            length, kind, flags = int.from_bytes(data[at : at + 3], "big"), data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + _HEAD], "big") & 0x7FFFFFFF
            if not self._on_frame(kind, flags, stream, length):
                self.held = True
                continue
            if kind in (HEADERS, CONTINUATION):
                self._in_block = not flags & END_HEADERS
            end = at + _HEAD + length
            at = min(end, len(data))
            self._left = end - at
        pieces.append(data[start:at])
        self._feeding = False
        if passed := b"".join(pieces):
            self._writer.write(passed)
