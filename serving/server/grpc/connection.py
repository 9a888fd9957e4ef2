"""One connection of the gRPC port: a client on one side, grpc.aio on the other."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast

import grpc

from graftline.serving.server.grpc import frames
from graftline.serving.server.grpc.frames import Passage

MAX_STREAMS = 128  # of a connection; gRPC's clients keep further calls back
_MAX_HEADERS = 32 << 10  # bytes of a header block: gRPC's own limit is 16 KiB
_MAX_PIECES = 16  # frames of a header block
_MAX_UNREAD = 1 << 20  # bytes that a client leaves unread of what is written to it here
_CLOSE_SECONDS = 2.0  # for the last bytes to leave
_HOLDS = {"flood", "bytes"}  # reasons not to read that also keep back what was read
# What a frame that asks for nothing costs, in seconds. A call that is opened and reset takes 150 us of Python.
_RESET_COST, _ANSWERED_COST, _FRAME_COST = 150e-6, 10e-6, 2e-6
_SMALL = 1024  # bytes of a DATA frame that is not the last: below them the frame is charged
# Seconds of such work that a connection has for nothing: at the start, for each answered call, and at most.
_FIRST_CREDIT, _CREDIT, _MOST_CREDIT = 1e-3, 2e-4, 1e-2


class Port(Protocol):
    """What a connection asks of `relay`, where all connections meet."""

    buffer: memoryview
    message_seconds: float
    refusal: tuple[grpc.StatusCode, str] | None
    open_calls: int

    def connect(self, connection: "Connection") -> None:
        """Give a connection its way to grpc.aio."""

    def remove(self, connection: "Connection") -> None:
        """Forget a connection that has ended."""

    def make_room(self) -> None:
        """End a call when there are too many."""

    def take(self, connection: "Connection", call: "Call", size: int) -> bool:
        """Count bytes of a message, and return whether they may pass now."""

    def finish(self, call: "Call") -> None:
        """Take note that a message is whole."""

    def give_back(self, call: "Call") -> None:
        """Give back the bytes of a call that has ended."""

    def seconds_to_wait(self, cost: float) -> float:
        """Return for how long a connection must wait after a frame that asks for nothing."""


@dataclass(eq=False)
class Call:
    """A stream, from its HEADERS to its end."""

    since: float
    size: int = 0  # bytes that came
    counted: int = 0  # the part of them that limits count
    whole: bool = False  # whether the client has sent all
    answered: bool = False  # whether headers were sent to the client


class _Backend(asyncio.BufferedProtocol):
    """The side of grpc.aio."""

    def __init__(self, connection: "Connection", buffer: memoryview) -> None:
        self._buffer = buffer
        self.transport: asyncio.Transport | None = None
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._connection.connected()

    def get_buffer(self, size: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, size: int) -> None:
        self._connection.to_client.feed(bytes(self._buffer[:size]))

    def pause_writing(self) -> None:
        self._connection.stop_reading("backend")

    def resume_writing(self) -> None:
        self._connection.read_again("backend")

    def connection_lost(self, error: Exception | None) -> None:
        self._connection.close()

    def write(self, data: bytes) -> None:
        if self.transport and not self.transport.is_closing():
            self.transport.write(data)

    def abort(self) -> None:
        if self.transport:
            self.transport.abort()


class Connection(asyncio.BufferedProtocol):
    """The side of the client, and what is known of its calls."""

    def __init__(self, port: Port, host: str, loop: asyncio.AbstractEventLoop) -> None:
        self.host = host
        self.peer = ""  # what grpc.aio takes for the client's address
        self.answered = False  # whether a call was ever answered
        self.since = loop.time()  # when a call was last answered, or when the client came
        self.calls: dict[int, Call] = {}  # by stream, the oldest first
        self.opening: asyncio.Task[None] | None = None
        self.backend = _Backend(self, port.buffer)
        self.to_backend = Passage(self.backend, self._on_client_frame, skip=len(frames.PREFACE))
        self.to_client = Passage(self, self._on_backend_frame)
        self._port = port
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._start = b""  # the preface, and what comes until grpc.aio is connected
        self._stopped: set[str] = set()  # why the client is not read
        self._last_stream = 0
        self._block = [0, 0]  # bytes and frames of the header block under way
        self._credit = _FIRST_CREDIT
        self._closing = False

    def arriving(self) -> Iterator[tuple[int, Call]]:
        """Return the streams and calls whose message is not whole."""
        return ((stream, call) for stream, call in self.calls.items() if not call.whole)

    @property
    def waiting(self) -> bool:
        """Return whether a call waits for its answer."""
        return any(call.whole and not call.answered for call in self.calls.values())

    @property
    def busy(self) -> bool:
        """Return whether a call waits for its answer, or for the rest of it."""
        unsent = self._transport.get_write_buffer_size() if self._transport and not self._closing else 0
        return bool(unsent) or any(call.whole for call in self.calls.values())

    # The client's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the client's side."""
        self._transport = cast(asyncio.Transport, transport)
        if self._closing:
            self._transport.abort()

    def get_buffer(self, size: int) -> memoryview:
        """Return where to read to."""
        return self._port.buffer

    def buffer_updated(self, size: int) -> None:
        """Pass bytes on, or keep the preface until there is somewhere to pass it on to."""
        data = bytes(self._port.buffer[:size])
        if self.backend.transport:
            self.to_backend.feed(data)
            return
        self._start += data
        if not self._start.startswith(frames.PREFACE[: len(self._start)]):
            self.close()  # it is not HTTP/2
        elif len(self._start) >= len(frames.PREFACE) and "connect" not in self._stopped:
            self.stop_reading("connect")
            self._port.connect(self)

    def connected(self) -> None:
        """Pass on what has come, and all that will come."""
        if self._closing:
            self.backend.abort()
            return
        self.to_backend.feed(self._start)
        self._start = b""
        self.read_again("connect")

    def pause_writing(self) -> None:
        """Leave the answers to grpc.aio: the client does not read them."""
        if self.backend.transport:
            self.backend.transport.pause_reading()

    def resume_writing(self) -> None:
        """Take answers again."""
        if self.backend.transport:
            self.backend.transport.resume_reading()

    def write(self, data: bytes) -> None:
        """Send bytes to the client."""
        if self._transport and not self._transport.is_closing():
            self._transport.write(data)
            if self._transport.get_write_buffer_size() > _MAX_UNREAD:
                self._transport.abort()

    def stop_reading(self, reason: str) -> None:
        """Leave the client's bytes in the network, until `read_again` has been called with every reason."""
        self._stopped.add(reason)
        if self._transport:
            self._transport.pause_reading()

    def read_again(self, reason: str) -> None:
        """Take a reason not to read away."""
        self._stopped.discard(reason)
        if self._closing:
            return
        if self.to_backend.held and not self._stopped & _HOLDS:
            self.to_backend.held = False
            self.to_backend.feed(b"")
        if self._transport and not self._stopped:
            self._transport.resume_reading()

    # The end

    def connection_lost(self, error: Exception | None) -> None:
        """Close both sides."""
        self.close()

    def drain(self) -> None:
        """Refuse the calls whose message is not whole, and send the client elsewhere."""
        for stream, _ in list(self.arriving()):
            self._refuse_in_drain(stream)
        if self._transport and self.backend.transport:
            self.to_client.insert(frames.go_away(self._last_stream, frames.NO_ERROR))

    def close(self, error: int | None = None) -> None:
        """Close both sides. A client that is to know why gets a GOAWAY."""
        if self._closing:
            return
        self._closing = True
        self.to_backend.held = True  # frames that have come already are not looked at
        for stream in list(self.calls):
            self._end(stream)
        if self.opening and not self._transport:
            self.opening.cancel()
        self.backend.abort()
        if self._transport:
            if error is not None:
                self.to_client.insert(frames.go_away(self._last_stream, error))
            self._transport.close()
            self._loop.call_later(_CLOSE_SECONDS, self._transport.abort)
        self._port.remove(self)

    # Calls

    def _on_client_frame(self, kind: int, flags: int, stream: int, length: int) -> bool:
        call = self.calls.get(stream)
        if kind == frames.DATA:
            if call and not self._port.take(self, call, length):
                self.stop_reading("bytes")
                return False
            if length < _SMALL and not flags & frames.END_STREAM:
                self._spend(_FRAME_COST)
        elif kind in (frames.HEADERS, frames.CONTINUATION):
            self._count_headers(kind, length)
            if kind == frames.HEADERS and not call and not self._closing:
                self._open(stream)
        elif kind == frames.RST_STREAM and call:
            self._end(stream)
            self._spend(_RESET_COST)
        else:
            self._spend(_ANSWERED_COST if kind in (frames.PING, frames.SETTINGS) else _FRAME_COST)
        if kind in (frames.DATA, frames.HEADERS) and flags & frames.END_STREAM and stream in self.calls:
            self.calls[stream].whole = True
            self._port.finish(self.calls[stream])
        return True

    def _open(self, stream: int) -> None:
        if stream <= self._last_stream:
            return  # trailers of a call that has ended
        self._last_stream = stream
        if len(self.calls) >= MAX_STREAMS:
            self._spend(_RESET_COST)  # grpc.aio refuses it
            return
        self.calls[stream] = Call(self._loop.time())
        self._port.open_calls += 1
        if self._port.refusal:
            self._refuse_in_drain(stream)
        else:
            self._port.make_room()

    def _on_backend_frame(self, kind: int, flags: int, stream: int, length: int) -> bool:
        call = self.calls.get(stream)
        if not call:
            return True
        if kind == frames.RST_STREAM:
            self._end(stream)
            self._spend(_RESET_COST)  # the client has made grpc.aio reset the stream
        elif kind in (frames.HEADERS, frames.DATA):
            call.answered = True
            if flags & frames.END_STREAM:
                self._end(stream)
                self.answered, self.since = True, self._loop.time()
                self._credit = min(_MOST_CREDIT, self._credit + _CREDIT)
        return True

    def _end(self, stream: int) -> None:
        call = self.calls.pop(stream)
        self._port.open_calls -= 1
        self._port.give_back(call)

    def refuse(self, stream: int, code: grpc.StatusCode, message: str) -> None:
        """End a call from here: grpc.aio sees that it is cancelled, the client gets a status."""
        call = self.calls[stream]
        self._end(stream)
        self.to_backend.insert(frames.reset(stream, frames.CANCEL))
        if call.answered:
            self.to_client.insert(frames.reset(stream, frames.ENHANCE_YOUR_CALM))
        else:
            status = frames.status(stream, code.value[0], message)
            self.to_client.insert(status + frames.reset(stream, frames.NO_ERROR))

    def _refuse_in_drain(self, stream: int) -> None:
        if self._port.refusal:
            self.refuse(stream, *self._port.refusal)

    def end_late(self, before: float) -> None:
        """Refuse the calls that began earlier and whose message is not whole, and leave a client that began none."""
        for stream in [stream for stream, call in self.arriving() if call.since < before]:
            message = f"the message took more than {self._port.message_seconds:g} s to arrive"
            self.refuse(stream, grpc.StatusCode.DEADLINE_EXCEEDED, message)
        if not self.backend.transport and self.since < before:
            self.close()

    # Floods

    def _count_headers(self, kind: int, length: int) -> None:
        if kind == frames.HEADERS:
            self._block = [0, 0]
        else:
            self._spend(_FRAME_COST)
        self._block[0] += length
        self._block[1] += 1
        if self._block[0] > _MAX_HEADERS or self._block[1] > _MAX_PIECES:
            self.close(frames.ENHANCE_YOUR_CALM)

    def _spend(self, cost: float) -> None:
        """Count a frame that asks for nothing: from the connection's credit, then from what all connections share."""
        if cost <= self._credit:
            self._credit -= cost
            return
        seconds = self._port.seconds_to_wait(cost)
        if seconds and "flood" not in self._stopped:
            self.to_backend.held = True
            self.stop_reading("flood")
            self._loop.call_later(seconds, self.read_again, "flood")
