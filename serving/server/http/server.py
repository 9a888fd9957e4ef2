"""A small HTTP/1.1 server on the standard library: reads whole requests, within bounds, and writes whole answers.

Called by `serving.server`, which binds it before TensorFlow is imported. What the requests mean is `rest`'s business.
"""

import contextlib
import email.errors
import http.server
import json
import logging
import re
import socket
import socketserver
import threading
import time
import zlib
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
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\n]*)?\r?\n")
# The others are of a Content-Type, which is not looked at. After the first of these the parser drops what follows.
_NO_HEADERS = (email.errors.MissingHeaderBodySeparatorDefect, email.errors.FirstHeaderLineIsContinuationDefect)
_ORIGIN = re.compile(r"\Ahttps?://[^/?#]*", re.I)  # before the path when the target is a whole URL: RFC 9112, 3.2.2
_MAX_TRAILERS = 100  # lines after the last chunk


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
    """An error in TF Serving's form. With a 503 (a full queue, say) the client is told when to ask again."""
    body = json.dumps({"error": message}, ensure_ascii=False).encode("utf-8", "replace")
    headers = {"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return Answer(status, body, headers=headers)


class RefusedError(Exception):
    """A request that is not read to its end; the client gets `answer`, and its connection is closed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.answer = error_answer(status, message)


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB" if count >= 1 << 10 else f"{count} bytes"


def _too_large(most: int) -> RefusedError:
    return RefusedError(413, f"request body is larger than {_size(most)}: send fewer or smaller images at once")


def _too_slow() -> RefusedError:
    return RefusedError(408, f"request body took more than {IDLE_SECONDS:.0f} s to come")


def _bad_chunk() -> RefusedError:
    return RefusedError(400, "Malformed request: bad chunk of a chunked body")


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
                self._answer(self._plain(self._body()))
        except RefusedError as refused:
            # What is left of the body cannot be told from a next request: the connection has to end.
            self.close_connection = True
            self._write(refused.answer)

    def _answer(self, body: bytes) -> None:
        path = _ORIGIN.sub("", self.path).split("?", 1)[0] or "/"
        try:
            answer = self.server.handle_request_text(self.command, path, body)
        except Exception:
            _logger.exception("unexpected fault while answering %s %s", self.command, path)
            answer = error_answer(500, "internal error of the model server: see its log")
        self._write(answer)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = _respond  # noqa: N815

    def handle_expect_100(self) -> bool:
        """As the standard library's, which leaves the line in the buffer: the client would wait for it in vain."""
        proceed = super().handle_expect_100()
        self.wfile.flush()
        return proceed

    def _body(self) -> bytes:
        """The request's body. One whose end may be read in two ways is refused: RFC 9112, section 6.3.

        A proxy that read it the other way would take what is left of it for its next client's request.
        """
        until = time.monotonic() + IDLE_SECONDS
        lengths, codings = (self.headers.get_all(name, []) for name in ("Content-Length", "Transfer-Encoding"))
        broken = any(isinstance(defect, _NO_HEADERS) for defect in self.headers.defects)
        if broken or len(set(lengths)) > 1 or (lengths and codings):
            raise RefusedError(400, "Malformed request: its headers contradict each other or are no headers")
        if codings:
            if [coding.strip().lower() for coding in codings] != ["chunked"]:
                raise RefusedError(
                    501, f"Transfer-Encoding {', '.join(codings)} is not supported: send chunked or none"
                )
            return self._chunked(until)
        text = lengths[0].strip() if lengths else "0"
        if not (text.isascii() and text.isdecimal()):
            raise RefusedError(400, f"Malformed request: Content-Length {text!r} is no number")
        # Thousands of digits are a number, too, and Python takes its time over them.
        return self._exactly(int(text[-20:]) if len(text.lstrip("0")) <= 20 else 1 << 63, 0, until)

    def _plain(self, body: bytes) -> bytes:
        """The body of a POST as it was before its Content-Encoding, where that is gzip.

        Of a broken one nothing is left, as in TF Serving (ReadRequestGzipBytes in its evhttp_request.cc), whose API
        then calls the document empty. Other encodings are not looked at.
        """
        if self.command != "POST" or not body or "gzip" not in (self.headers["Content-Encoding"] or "").lower():
            return body
        most = self.server.max_body
        unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)  # 16: of gzip alone
        try:
            plain = unpacker.decompress(body, most + 1)  # no more than that is ever made of it: a bomb stays small
        except zlib.error:
            return b""
        if len(plain) > most:
            raise _too_large(most)
        return plain if unpacker.eof and not unpacker.unused_data else b""

    def _exactly(self, length: int, before: int, until: float) -> bytes:
        """`length` bytes, where `before` of this body have been read already; all of it has to be there by `until`."""
        most = self.server.max_body if self.command == "POST" else _SMALL
        if before + length > most:
            raise _too_large(most)
        body = bytearray()
        while len(body) < length:
            # Piece by piece: a length that is promised takes no memory until it comes.
            piece = self.rfile.read1(min(length - len(body), _PIECE))
            if not piece:
                raise RefusedError(400, f"Malformed request: body ended after {len(body)} of {length} bytes")
            body += piece
            if time.monotonic() > until and len(body) < length:
                raise _too_slow()
        return bytes(body)

    def _chunked(self, until: float) -> bytes:
        body = bytearray()
        while True:
            size = _CHUNK_SIZE.fullmatch(self.rfile.readline(128))
            if size is None:
                raise _bad_chunk()
            if time.monotonic() > until:
                raise _too_slow()
            count = int(size[1], 16)
            if not count:
                break
            body += self._exactly(count, len(body), until)
            if self.rfile.readline(3) not in (b"\r\n", b"\n"):
                raise _bad_chunk()
        for _ in range(_MAX_TRAILERS):
            if self.rfile.readline(1 << 16) in (b"\r\n", b"\n"):
                return bytes(body)
        raise _bad_chunk()

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
        # At once, and not when the request counts as answered: the process may end then.
        self.wfile.flush()

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
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads to be had
            self._places.release()
            raise

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
