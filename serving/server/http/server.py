"""HTTP/1.1 for one ASGI application: h11 parses, asyncio holds the connections.

`ModelServer` binds the port before TensorFlow is imported. The application gets whole requests, within the limits;
`routes` gives them a meaning. docs/architecture.md says what was measured before h11 was chosen.
"""

import asyncio
import contextlib
import email.utils
import logging
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import h11

from graftline import __version__
from graftline.serving.server.http import messages
from graftline.serving.server.http.messages import Answer, Message, RefusedError
from graftline.serving.server.options import MAX_REQUEST_BYTES

_logger = logging.getLogger(__name__)

Application = Callable[[Message, messages.Receive, messages.Send], Awaitable[None]]  # ASGI 3.0

MAX_CONNECTIONS = 512
_BACKLOG = 128  # connections that wait to be accepted
# For a request to arrive, from its first byte to its last; for its answer to leave; for a client to send the next.
REQUEST_SECONDS = 60.0
_LINGER_SECONDS = 2.0
# The bytes held of a request line with its headers, a chunk's header or trailers. One piece may be added.
_MAX_HEAD = 32 << 10
_SMALL = 64 << 10  # bytes of a body that nobody is going to read
_PIECE = 64 << 10
_PIECES = 256  # of a chunked body that are read, in 1.3 ms, before other connections get their turn
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_SERVER = (b"Server", f"graftline/{__version__}".encode())


class HttpServer:
    """Listens when made; answers from `start` to `close`, which are run in one event loop.

    A request counts as answered for the application (its last `send` returns) when the answer has left: the process may
    end then. Raises OSError when the port cannot be had.
    """

    def __init__(
        self,
        application: Application,
        host: str,
        port: int,
        max_body: int = MAX_REQUEST_BYTES,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self.application = application
        self.max_body = max_body
        self.request_seconds = request_seconds
        self.draining = False
        self._listener: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
            self._socket.bind((host, port))
            self._socket.listen(_BACKLOG)
        except BaseException:
            self._socket.close()
            raise
        self.port = int(self._socket.getsockname()[1])  # the port in use, also when 0 was asked for

    async def start(self) -> None:
        """Answer from now on."""
        self._listener = await asyncio.start_server(self._accept, sock=self._socket, backlog=_BACKLOG, limit=_PIECE)

    async def drain(self) -> None:
        """Take no new connection and close every one that waits for a request or has sent a part of one."""
        await self._end(lambda connection: not connection.answering)

    async def close(self) -> None:
        """Give the port back and close every connection."""
        await self._end(lambda connection: True)

    async def _end(self, chosen: "Callable[[_Connection], bool]") -> None:
        self.draining = True
        if self._listener:
            self._listener.close()
        self._socket.close()
        ended = [task for task, connection in self._connections.items() if chosen(connection)]
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended)
        await asyncio.sleep(0)  # asyncio closes the sockets after this turn of the loop

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= MAX_CONNECTIONS and not self._close_longest_idle():
            writer.transport.abort()
            return
        self._connections[task] = connection = _Connection(self, reader, writer)
        try:
            await connection.serve()
        except (OSError, asyncio.CancelledError):
            _logger.debug("a connection ended early", exc_info=True)
        except Exception:
            _logger.exception("unexpected fault on an HTTP connection")
        finally:
            del self._connections[task]
            writer.close()

    def _close_longest_idle(self) -> bool:
        idle = [(connection.since, task) for task, connection in self._connections.items() if connection.idle]
        if not idle:
            return False
        task = min(idle, key=lambda entry: entry[0])[1]
        self._connections[task].idle = False  # the task ends later; each new connection must close another one
        return task.cancel()


class _Connection:
    """One client: each request is read whole, then answered, until one of the two closes."""

    def __init__(self, server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.answering = False
        self.idle = True
        self.since = 0.0  # when it became idle
        self._server = server
        self._reader = reader
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self._method = b""
        self._start: Message = {}
        writer.transport.set_write_buffer_limits(high=0)  # `drain` then waits until all has left

    async def serve(self) -> None:
        """Answer requests until the connection ends. A refused request is its last one."""
        try:
            while request := await self._read_in_time():
                self.answering = True
                await self._answer(*request)
                self.answering = False
                if self._server.draining or self._http.our_state is not h11.DONE:
                    return
                self._http.start_next_cycle()
                await asyncio.sleep(0)  # the reading of requests that came at once gives no turn
        except RefusedError as refused:
            await self._refuse(refused.answer)
        except h11.RemoteProtocolError as error:
            await self._refuse(messages.error_answer(error.error_status_hint, f"Malformed request: {error}"))

    async def _read_in_time(self) -> tuple[h11.Request, bytes] | None:
        """Return what `_read` returns; None for a client that sends nothing in time."""
        seconds = self._server.request_seconds
        self.idle, self.since = not self._http.trailing_data[0], self._loop.time()
        timer = self._loop.call_later(seconds, self._reader.set_exception, TimeoutError())
        try:
            if self.idle:
                self._http.receive_data(await self._reader.read(_PIECE))
                self.idle = False
                timer.cancel()
                timer = self._loop.call_later(seconds, self._reader.set_exception, TimeoutError())
            return await self._read()
        except TimeoutError:
            if self.idle:
                return None
            raise RefusedError(408, f"the request took more than {seconds:g} s to arrive") from None
        finally:
            timer.cancel()

    async def _read(self) -> tuple[h11.Request, bytes] | None:
        """Return the next request and its body; None when the client has closed.

        A body whose end may be read in two ways is refused: RFC 9112, section 6.3. A proxy that reads it the other way
        takes the rest of it for the next client's request. h11 refuses the cases that are not refused here.
        """
        self._method = b""  # a malformed request must not count as the HEAD before it
        request = await self._next_event()
        if not isinstance(request, h11.Request):
            return None
        self._method, headers = request.method, dict(request.headers)
        if request.method == b"CONNECT":  # h11 takes an answer of 200 for a tunnel
            raise RefusedError(400, f"Malformed request: CONNECT {request.target.decode()}")
        if not request.http_version.startswith(b"1."):
            raise RefusedError(505, f"HTTP {request.http_version.decode()} is not supported on this port: use HTTP 1.1")
        if b"content-length" in headers and b"transfer-encoding" in headers:
            raise RefusedError(400, "Malformed request: it has a Content-Length and a Transfer-Encoding")
        limit = self._server.max_body if request.method == b"POST" else _SMALL
        if int(headers.get(b"content-length", 0)) > limit:
            raise messages.too_large(limit)
        body, pieces = bytearray(), 0
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data
            if len(body) > limit:
                raise messages.too_large(limit)
            pieces += 1
            if not pieces % _PIECES:
                await asyncio.sleep(0)
        return request, bytes(body)

    async def _next_event(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                proceed = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
                self._writer.write(self._http.send(proceed))
            self._http.receive_data(await self._reader.read(_PIECE))
            await asyncio.sleep(0)  # `read` gives no turn while it has data at hand
        return event

    async def _answer(self, request: h11.Request, body: bytes) -> None:
        path, _, query = request.target.partition(b"?")
        scope: Message = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": request.http_version.decode(),
            "method": request.method.decode(),
            "scheme": "http",
            "path": path.decode("latin-1"),
            "raw_path": path,
            "query_string": query,
            "headers": list(request.headers),
        }

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

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
        body = h11.Data(data=b"" if self._method == b"HEAD" else message["body"])
        # One write: TCP holds back a second one until the first is acknowledged.
        self._writer.write(b"".join(self._http.send(event) or b"" for event in (head, body, h11.EndOfMessage())))
        timer = self._loop.call_later(self._server.request_seconds, self._writer.transport.abort)
        try:
            await self._writer.drain()
        finally:
            timer.cancel()

    async def _refuse(self, answer: Answer) -> None:
        """Answer a request that was not read to its end, then read the rest of it for a while.

        A close with unread data is a reset, which destroys an answer that is still on its way.
        """
        await messages.send_answer(self._send, answer)
        self._writer.write_eof()
        with contextlib.suppress(asyncio.TimeoutError, OSError):
            await asyncio.wait_for(self._drop_rest(), _LINGER_SECONDS)

    async def _drop_rest(self) -> None:
        while await self._reader.read(_PIECE):
            await asyncio.sleep(0)
