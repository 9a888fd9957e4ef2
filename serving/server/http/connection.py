"""One HTTP/1.1 connection: h11 parses, and each request is read whole, then answered.

`HttpServer` holds the connections and decides which of them goes when places, descriptors or bytes are scarce.
"""

import asyncio
import contextlib
import email.utils
import enum
import logging
import socket
import ssl
from http import HTTPStatus
from typing import Any, Protocol

import h11

from graftline import __version__
from graftline.serving.server.http import messages
from graftline.serving.server.http.messages import Answer, Application, Message, RefusedError

_logger = logging.getLogger(__name__)

FREE_BYTES = 64 << 10  # of each request and each answer: not counted in the budget
_HANDSHAKE_SECONDS = 10.0  # of TLS
_LINGER_SECONDS = 2.0
_MAX_HEAD = 32 << 10  # bytes of a request line with its headers, and of trailers
_SMALL = 64 << 10  # bytes of a body that nobody is going to read
_PIECE = 64 << 10
_PIECES = 256  # of a chunked body that are read, in 1.3 ms, before other connections get their turn
_ANSWER_PIECE = 256 << 10  # bytes of an answer that are written at once
_CRLF = b"\r\n"
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_SERVER = (b"Server", f"graftline/{__version__}".encode())


class State(enum.IntEnum):
    """What a connection waits for, in the order in which connections are closed when places are scarce."""

    NEW = 0  # the client's first request, or the end of the TLS handshake
    IDLE = 1  # the client's next request
    ARRIVING = 2  # the rest of a request
    LEAVING = 3  # the client, which must read its answer
    ANSWERING = 4  # the application. Such a connection is never closed


class Server(Protocol):
    """What a connection needs of its `HttpServer`."""

    application: Application
    max_body: int
    request_seconds: float
    tls: ssl.SSLContext | None
    draining: bool

    def enter(self, connection: "Connection", state: State | None) -> None:
        """Note that a connection comes into a state; None: it ends."""

    def hold(self, connection: "Connection", size: int) -> None:
        """Count the bytes that are held for a connection. Raises RefusedError."""

    def release(self, connection: "Connection") -> None:
        """Give back all bytes of a connection."""


class Connection:
    """One client: each request is read whole, then answered, until one of the two closes."""

    def __init__(self, server: Server, client: socket.socket) -> None:
        self._server = server
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._reader = asyncio.StreamReader(_PIECE)
        self._protocol = asyncio.StreamReaderProtocol(self._reader)
        self._writer: asyncio.StreamWriter | None = None
        self._ending = False
        self._shed: Answer | None = None  # the answer to a request that had to make room
        self._http = self._new_parser()
        self._rest = b""  # what came after the last request
        self._method = b""
        self._start: Message = {}
        self.held = 0  # bytes that the budget counts
        self.state = State.NEW
        self._enter(State.NEW)
        self.task = self._loop.create_task(self._run())

    # What the server asks and decides

    @property
    def cost(self) -> float:
        """Return the bytes held, times the seconds for which the client has made the server wait."""
        return self.held * (self._loop.time() - self.since + 1e-3)

    def close(self) -> None:
        """End the connection at once."""
        self._ending = True
        self._server.enter(self, None)
        self._server.release(self)
        self.task.cancel()
        if self._writer and self.state is State.LEAVING:
            self._writer.transport.abort()  # what the client does not read would keep the socket open

    def refuse(self, answer: Answer) -> None:
        """End the connection because its bytes are needed. A request that is arriving gets the answer."""
        if self.state is not State.ARRIVING:
            self.close()
            return
        self._shed = answer
        self._server.release(self)
        self.task.cancel()

    def dispose(self) -> None:
        """Give back what the connection has. The task has ended, or was cancelled before it began."""
        self._server.enter(self, None)
        self._server.release(self)
        if self._writer:
            self._writer.close()
        else:
            self._client.close()

    def _enter(self, state: State) -> None:
        self._server.enter(self, None if self._ending else state)
        self.state, self.since = state, self._loop.time()

    # The life of a connection

    async def _run(self) -> None:
        try:
            await self._connect()
            await self._serve()
        except (OSError, ssl.SSLError, asyncio.CancelledError):
            _logger.debug("a connection ended early", exc_info=True)
        except Exception:
            _logger.exception("unexpected fault on an HTTP connection")

    async def _connect(self) -> None:
        transport, _ = await self._loop.connect_accepted_socket(
            lambda: self._protocol,
            self._client,
            ssl=self._server.tls,
            ssl_handshake_timeout=_HANDSHAKE_SECONDS if self._server.tls else None,
        )
        self._writer = asyncio.StreamWriter(transport, self._protocol, self._reader, self._loop)
        transport.set_write_buffer_limits(high=0)  # `drain` then waits until all has left

    async def _serve(self) -> None:
        """Answer requests until the connection ends. A refused request is its last one."""
        refusal = await self._answer_all()
        if refusal:  # outside of the handler: an exception keeps the body that was being read
            await self._refuse(refusal)

    async def _answer_all(self) -> Answer | None:
        """Answer requests until the connection ends, or until one is refused: then return its answer."""
        try:
            while request := await self._read_in_time():
                self._enter(State.ANSWERING)
                await self._answer(*request)
                self._server.release(self)
                if self._server.draining or self._http.our_state is not h11.DONE:
                    return None
                self._rest, _ = self._http.trailing_data
                await asyncio.sleep(0)  # the reading of requests that came at once gives no turn
        except RefusedError as refused:
            return refused.answer
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
                return _large_head().answer
            return messages.error_answer(error.error_status_hint, f"Malformed request: {error}")
        except asyncio.CancelledError:
            if self._shed is None:
                raise
            return self._shed
        return None

    # Reading

    @staticmethod
    def _new_parser() -> h11.Connection:
        return h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)

    async def _read_in_time(self) -> tuple[h11.Request, list[bytes]] | None:
        """Return what `_read` returns; None for a client that sends nothing in time."""
        seconds = self._server.request_seconds
        self._enter(State.NEW if self.state is State.NEW else State.IDLE)
        timer = self._loop.call_later(seconds, self._reader.set_exception, TimeoutError())
        try:
            if not self._rest:
                self._rest = await self._reader.read(_PIECE)
                timer.cancel()
                timer = self._loop.call_later(seconds, self._reader.set_exception, TimeoutError())
            self._enter(State.ARRIVING)
            return await self._read()
        except TimeoutError:
            if self.state is not State.ARRIVING:
                return None
            raise RefusedError(408, f"the request took more than {seconds:g} s to arrive") from None
        finally:
            timer.cancel()

    async def _read(self) -> tuple[h11.Request, list[bytes]] | None:
        """Return the next request and its body; None when the client has closed.

        The application takes the body out of its list, so that nothing keeps it while a slow client reads the answer.

        A body whose end may be read in two ways is refused: RFC 9112, section 6.3. A proxy that reads it the other way
        takes the rest of it for the next client's request. h11 refuses the cases that are not refused here.
        """
        self._method = b""  # a malformed request must not count as the HEAD before it
        self._http = self._new_parser()
        if self._rest == _CRLF[:1]:
            self._rest += await self._reader.read(_PIECE)
        # One empty line before a request is passed over: RFC 9112, section 2.2.
        start = self._rest.removeprefix(_CRLF) or (self._rest and await self._reader.read(_PIECE))
        received = len(start)
        self._http.receive_data(start)
        while (request := self._http.next_event()) is h11.NEED_DATA:
            received += await self._receive()
        if not isinstance(request, h11.Request):
            return None
        if received - len(self._http.trailing_data[0]) > _MAX_HEAD:
            raise _large_head()
        self._method, limit = request.method, self._check(request)
        body, pieces = bytearray(), 0
        while not isinstance(event := await self._next_event(), h11.EndOfMessage):
            body += event.data
            if len(body) > limit:
                raise messages.too_large(limit)
            self._server.hold(self, len(body))
            pieces += 1
            if not pieces % _PIECES:
                await asyncio.sleep(0)
        if sum(len(name) + len(value) + 4 for name, value in event.headers) > _MAX_HEAD:
            raise _large_head()
        return request, [bytes(body)]

    def _check(self, request: h11.Request) -> int:
        """Return the most bytes that the body may have. Raises RefusedError."""
        headers = dict(request.headers)
        if request.method == b"CONNECT":  # h11 takes an answer of 200 for a tunnel
            raise RefusedError(400, f"Malformed request: CONNECT {request.target.decode()}")
        if not request.http_version.startswith(b"1."):
            raise RefusedError(505, f"HTTP {request.http_version.decode()} is not supported on this port: use HTTP 1.1")
        if b"content-length" in headers and b"transfer-encoding" in headers:
            raise RefusedError(400, "Malformed request: it has a Content-Length and a Transfer-Encoding")
        limit = self._server.max_body if request.method == b"POST" else _SMALL
        if int(headers.get(b"content-length", 0)) > limit:
            raise messages.too_large(limit)
        return limit

    async def _next_event(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                proceed = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
                self._writer_of().write(self._http.send(proceed) or b"")
            await self._receive()
        return event

    async def _receive(self) -> int:
        data = await self._reader.read(_PIECE)
        self._http.receive_data(data)
        await asyncio.sleep(0)  # `read` gives no turn while it has data at hand
        return len(data)

    # Answering

    def _writer_of(self) -> asyncio.StreamWriter:
        assert self._writer is not None
        return self._writer

    async def _answer(self, request: h11.Request, bodies: list[bytes]) -> None:
        path, _, query = request.target.partition(b"?")
        scope: Message = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": request.http_version.decode(),
            "method": request.method.decode(),
            "scheme": "https" if self._server.tls else "http",
            "path": path.decode("latin-1"),
            "raw_path": path,
            "query_string": query,
            "headers": list(request.headers),
        }

        async def receive() -> Message:
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}

        await self._server.application(scope, receive, self._send)

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        status = self._start["status"]
        headers = [*self._start["headers"], _SERVER, (b"Date", email.utils.formatdate(usegmt=True).encode())]
        # An offer of HTTP 2 (`Upgrade: h2c`, by default in Java's client) is passed over, and the connection is kept.
        kept = self._http.their_state in (h11.DONE, h11.MIGHT_SWITCH_PROTOCOL)
        # The time may end in the turn in which the request becomes whole: the reader then reads no more.
        if self._server.draining or self._reader.exception() or not kept:
            headers.append((b"Connection", b"close"))
        head = h11.Response(status_code=status, headers=headers, reason=_PHRASES.get(status, "").encode())
        body = b"" if self._method == b"HEAD" else message["body"]
        writer = self._writer_of()
        # One write: TCP holds back a second one until the first is acknowledged. asyncio copies what the socket does
        # not take at once, so a large answer is written in pieces.
        first = h11.Data(data=body[:_ANSWER_PIECE])
        writer.write(b"".join(self._http.send(event) or b"" for event in (head, first)))
        unread = writer.transport.get_write_buffer_size() + max(0, len(body) - _ANSWER_PIECE)
        if not unread:
            self._http.send(h11.EndOfMessage())  # no bytes: the answer has a Content-Length
            return
        self._server.release(self)
        self._enter(State.LEAVING)
        timer = self._loop.call_later(self._server.request_seconds, writer.transport.abort)
        try:
            self._server.hold(self, unread)
            for start in range(_ANSWER_PIECE, len(body), _ANSWER_PIECE):
                await writer.drain()
                writer.write(self._http.send(h11.Data(data=body[start : start + _ANSWER_PIECE])) or b"")
            await writer.drain()
            self._http.send(h11.EndOfMessage())
        except RefusedError:  # the bytes of this answer are needed
            writer.transport.abort()
        finally:
            timer.cancel()

    async def _refuse(self, answer: Answer) -> None:
        """Answer a request that was not read to its end, then read the rest of it for a while.

        A close with unread data is a reset, which destroys an answer that is still on its way.
        """
        self._server.release(self)
        await messages.send_answer(self._send, answer)
        writer = self._writer_of()
        if writer.can_write_eof():  # not with TLS
            writer.write_eof()
        with contextlib.suppress(asyncio.TimeoutError, OSError):
            await asyncio.wait_for(self._drop_rest(), _LINGER_SECONDS)

    async def _drop_rest(self) -> None:
        while await self._reader.read(_PIECE):
            await asyncio.sleep(0)


def _large_head() -> RefusedError:
    size = f"{_MAX_HEAD >> 10} KiB"
    return RefusedError(
        431, f"the request's headers (or its trailers) are larger than {size}: send fewer or shorter ones"
    )
