"""The HTTP server alone: where a request ends, when its answer leaves, and what it costs while it comes."""

import contextlib
import gzip
import json
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from graftline.serving.server.http import server as http_server
from graftline.serving.server.http.server import Answer, HttpServer

HEAD = b"POST /a HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
Asked = list[tuple[str, str, bytes]]


@contextlib.contextmanager
def running(admit: http_server.Admit = contextlib.nullcontext) -> Iterator[tuple[HttpServer, Asked]]:
    asked: Asked = []
    server = HttpServer("127.0.0.1", 0, 1000, admit)

    def answer(method: str, path: str, body: bytes) -> Answer:
        asked.append((method, path, body))
        return Answer(200, b"answered")

    server.handle = answer
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server, asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def told(server: HttpServer, request: bytes) -> bytes:
    """All that the server says to these bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(request)
        said = b""
        while part := client.recv(65536):
            said += part
        return said


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (HEAD + b"Content-Length: 50\r\n" + CHUNKED + b"\r\n0\r\n\r\n", 400),
        (HEAD + b"Content-Length: 0\r\nContent-Length: 50\r\n\r\n", 400),
        (HEAD + b"Name : value\r\nContent-Length: 50\r\n\r\n", 400),
        (b"POST /a HTTP/1.1\r\n folded: x\r\nContent-Length: 50\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", 501),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
        (HEAD + CHUNKED + CHUNKED + b"\r\n0\r\n\r\n", 501),
        (HEAD + CHUNKED + b"\r\n0x0\r\n\r\n", 400),
        (HEAD + CHUNKED + b"\r\n+0\r\n\r\n", 400),
        (HEAD + CHUNKED + b"\r\n1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n", 400),
        (HEAD + CHUNKED + b"\r\n3\r\nabcdef\r\n0\r\n\r\n", 400),
        (HEAD + CHUNKED + b"\r\n0;" + b"a" * 200 + b"\r\n\r\n", 400),
    ],
)
def test_a_body_that_may_be_read_in_two_ways_ends_the_connection(request_: bytes, status: int) -> None:
    with running() as (server, asked):
        said = told(server, request_ + NEXT)
    assert said.startswith(b"HTTP/1.1 %d " % status)
    assert b'{"error": ' in said
    assert asked == []


@pytest.mark.parametrize("kind", [b"multipart/form-data", b"multipart/form-data; boundary=x", b"nonsense", b"\xff"])
def test_a_content_type_is_not_looked_at(kind: bytes) -> None:
    with running() as (server, asked):
        told(server, HEAD + b"Content-Type: " + kind + b"\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
    assert asked == [("POST", "/a", b"{}")]


def test_what_follows_the_last_chunk_is_no_next_request() -> None:
    trailers = b"\r\n3;of=me\r\nabc\r\n0\r\nGET: /hidden\r\nX: y\r\n\r\n"
    with running() as (server, asked):
        said = told(server, HEAD + CHUNKED + trailers + NEXT)
    assert asked == [("POST", "/a", b"abc"), ("GET", "/next", b"")]
    assert said.count(b"HTTP/1.1 200 OK") == 2


def test_trailers_without_end_are_refused() -> None:
    with running() as (server, asked):
        said = told(server, HEAD + CHUNKED + b"\r\n0\r\n" + b"X: y\r\n" * 100)
    assert said.startswith(b"HTTP/1.1 400 ")
    assert asked == []


def test_a_client_that_waits_for_the_leave_to_send_its_body_gets_it() -> None:
    with running() as (server, asked), socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"body")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert asked == [("POST", "/a", b"body")]


def test_a_chunked_body_as_a_whole_has_to_come_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "IDLE_SECONDS", 0.0)
    with running() as (server, asked):
        said = told(server, HEAD + CHUNKED + b"\r\n" + b"1\r\na\r\n" * 3 + b"0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 408 ")
    assert asked == []


def test_a_request_counts_as_under_way_until_its_answer_has_left() -> None:
    received = threading.Event()
    in_time = []

    @contextlib.contextmanager
    def admit() -> Iterator[None]:
        yield
        in_time.append(received.wait(10))

    with running(admit) as (server, _), socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(HEAD + b"Content-Length: 0\r\nConnection: close\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
        received.set()
        assert client.recv(65536) == b""
    assert in_time == [True]


def test_a_thread_that_is_not_to_be_had_costs_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 1)
    with running() as (server, _):
        start: Callable[[threading.Thread], None] = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            monkeypatch.setattr(threading.Thread, "start", start)
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert told(server, b"") == b""
        assert told(server, NEXT).startswith(b"HTTP/1.1 200 OK")


# Content-Encoding


def packed(body: bytes, encoding: bytes = b"gzip") -> bytes:
    head = HEAD + b"Connection: close\r\nContent-Encoding: " + encoding
    return head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (packed(gzip.compress(b"{}")), b"{}"),
        (packed(gzip.compress(b"{}"), b"x-gzip"), b"{}"),
        (packed(gzip.compress(b"a" * 1000)), b"a" * 1000),
        (packed(b"{}", b"identity"), b"{}"),
        (packed(b"{}", b"br"), b"{}"),
        # Of what is broken TensorFlow Serving leaves nothing, and then calls the document empty.
        (packed(b"{}"), b""),
        (packed(gzip.compress(b"{}")[:-1]), b""),
        (packed(gzip.compress(b"{}") + b"{}"), b""),
        (packed(b""), b""),
    ],
)
def test_a_gzipped_body_is_unpacked_as_tensorflow_serving_does_it(request_: bytes, body: bytes) -> None:
    with running() as (server, asked):
        assert told(server, request_).startswith(b"HTTP/1.1 200 OK")
    assert asked == [("POST", "/a", body)]


def test_a_gzip_bomb_is_refused_by_its_unpacked_size_and_never_unpacked_whole() -> None:
    bomb = gzip.compress(b"\0" * (50 << 20))
    with running() as (server, asked):
        server.max_body = 100_000
        assert len(bomb) < server.max_body
        tracemalloc.start()
        said = told(server, packed(bomb))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert said.startswith(b"HTTP/1.1 413 ")
    assert asked == []
    assert peak < 10 << 20


@pytest.mark.parametrize(("status", "later"), [(503, True), (429, False), (400, False), (504, False)])
def test_who_finds_the_queue_full_is_told_when_to_ask_again(status: int, later: bool) -> None:
    with running() as (server, _):
        server.handle = lambda *_: http_server.error_answer(status, "why")
        head, _, body = told(server, NEXT).partition(b"\r\n\r\n")
    assert json.loads(body) == {"error": "why"}
    assert (b"\r\nRetry-After: 1" in head) == later
