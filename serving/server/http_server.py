"""A small HTTP/1.1 server on the standard library: reads whole requests, within bounds, and writes whole answers.

Called by `serving.server`, which binds it before TensorFlow is imported. What the requests mean is `rest`'s business.
"""

import contextlib
import http.server
import json
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from graftline import __version__

_logger = logging.getLogger(__name__)

MAX_BODY = 64 << 20  # bytes
MAX_CONNECTIONS = 512  # each has a thread
IDLE_SECONDS = 60.0  # that a client may keep a connection without sending, and that a whole body may take to come
_SMALL = 64 << 10  # bytes of a body that nobody is going to read
_PIECE = 1 << 20


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)  # beside Content-Type and Content-Length


Handle = Callable[[str, str, bytes], Answer]  # (method, path, body) → the answer
Admit = Callable[[], contextlib.AbstractContextManager[None]]  # held while a POST is read and answered


def error_answer(status: int, message: str) -> Answer:
    """An error in TF Serving's form."""
    return Answer(status, json.dumps({"error": message}, ensure_ascii=False).encode("utf-8", "replace"))


class RefusedError(Exception):
    """A request that is not read to its end; the client gets `answer`, and its connection is closed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.answer = error_answer(status, message)


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB" if count >= 1 << 10 else f"{count} bytes"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep-alive
    server_version = f"graftline/{__version__}"
    sys_version = ""
    disable_nagle_algorithm = True
    timeout = IDLE_SECONDS
    wbufsize = -1  # head and body leave in one write
    server: "HttpServer"

    def _respond(self) -> None:
        try:
            with self.server.admit() if self.command == "POST" else contextlib.nullcontext():
                self._answer(self._body())
        except RefusedError as refused:
            # What is left of the body cannot be told from a next request: the connection has to end.
            self.close_connection = True
            self._write(refused.answer)

    def _answer(self, body: bytes) -> None:
        path = self.path.split("?", 1)[0]
        try:
            answer = self.server.handle_request_text(self.command, path, body)
        except Exception:
            _logger.exception("unexpected fault while answering %s %s", self.command, path)
            answer = error_answer(500, "internal error of the model server: see its log")
        self._write(answer)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = _respond  # noqa: N815

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return self._chunked()
        text = self.headers.get("Content-Length", "0").strip()
        if not (text.isascii() and text.isdecimal()):
            raise RefusedError(400, f"Malformed request: Content-Length {text!r} is no number")
        # Thousands of digits are a number, too, and Python takes its time over them.
        return self._exactly(int(text[-20:]) if len(text.lstrip("0")) <= 20 else 1 << 63, 0)

    def _exactly(self, length: int, before: int) -> bytes:
        """`length` bytes, where `before` of this body have been read already."""
        most = self.server.max_body if self.command == "POST" else _SMALL
        if before + length > most:
            raise RefusedError(413, f"request body is larger than {_size(most)}: send fewer or smaller images at once")
        body = bytearray()
        until = time.monotonic() + IDLE_SECONDS
        while len(body) < length:
            # Piece by piece: a length that is promised takes no memory until it comes.
            piece = self.rfile.read1(min(length - len(body), _PIECE))
            if not piece:
                raise RefusedError(400, f"Malformed request: body ended after {len(body)} of {length} bytes")
            body += piece
            if time.monotonic() > until and len(body) < length:
                raise RefusedError(408, f"request body took more than {IDLE_SECONDS:.0f} s to come")
        return bytes(body)

    def _chunked(self) -> bytes:
        body = bytearray()
        while True:
            size_text = self.rfile.readline(128).split(b";")[0].strip()
            try:
                size = int(size_text, 16)
            except ValueError:
                size = -1
            if size < 0:
                raise RefusedError(400, "Malformed request: bad chunk of a chunked body")
            body += self._exactly(size, len(body))
            self.rfile.readline(8)  # the line end after the chunk, or the one after the last chunk's trailer
            if not size:
                return bytes(body)

    def _write(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library itself refuses (bad request line, unknown method), in TF Serving's form."""
        self.close_connection = True
        self.command = getattr(self, "command", None) or "GET"
        if code == HTTPStatus.NOT_IMPLEMENTED:  # a method we do not know: TF Serving calls it malformed
            code, message = HTTPStatus.BAD_REQUEST, f"Malformed request: {self.command} {self.path}"
        self._write(error_answer(code, message or HTTPStatus(code).phrase))

    def log_message(self, format: str, *args: object) -> None:
        """Requests go to the log at debug level, not to standard error."""
        _logger.debug("%s " + format, self.client_address[0], *args)


class HttpServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Binds and listens when made; answers once `handle` is set and `serve_forever` runs.

    Raises OSError when the port cannot be had.
    """

    daemon_threads = True
    block_on_close = False  # an idle keep-alive connection would hold up the end
    request_queue_size = 128

    def __init__(self, host: str, port: int, max_body: int = MAX_BODY, admit: Admit = contextlib.nullcontext) -> None:
        self.handle: Handle | None = None
        self.max_body = max_body
        self.admit = admit
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    @property
    def port(self) -> int:
        """The port in use, also when 0 was asked for."""
        return int(self.server_address[1])

    def server_bind(self) -> None:
        """Without the standard library's reverse name look-up, which can hang for seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread of its own, or close it when there are too many."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """As the standard library's, and gives the place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_request_text(self, method: str, path: str, body: bytes) -> Answer:
        """Pass a request on to `handle`."""
        if self.handle is None:
            return error_answer(503, "the model server is still loading its models")
        return self.handle(method, path, body)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away or never sent what it promised is no fault of ours."""
        _logger.debug("connection of %s ended early", client_address, exc_info=True)
