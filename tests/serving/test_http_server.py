"""The HTTP server alone: where a request ends, and when its answer leaves."""

import asyncio
import socket
import threading
import time

import pytest

from tests.serving.http_port import CHUNKED, HEAD, NEXT, connected, exchange, running


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
        (HEAD + CHUNKED + b"\r\n0;" + b"a" * 200_000, 431),
        (HEAD + CHUNKED + b"\r\n0\r\n" + b"X: y\r\n" * 40_000, 431),
        (HEAD + b"A: " + b"a" * 200_000, 431),
        (b"POST /a HTTP/1.1\r\nContent-Length: 50\r\n\r\n", 400),
        (HEAD + b"Content-Length: -5\r\n\r\n", 400),
        (HEAD + b"Content-Length: 1001\r\n\r\n", 413),
        (HEAD + CHUNKED + b"\r\n3e9\r\n" + b"a" * 1001, 413),
        (b"\x16\x03\x01\x02\x00 TLS\r\n\r\n", 400),
        (b"CONNECT /a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"\r\n\r\n", 400),
        (HEAD + b"A: " + b"a" * 33_000 + b"\r\nContent-Length: 0\r\n\r\n", 431),
        (b"GET /" + b"a" * 33_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (HEAD + CHUNKED + b"\r\n0\r\nA: " + b"a" * 33_000 + b"\r\n\r\n", 431),
    ],
)
def test_a_request_that_is_not_read_to_its_end_is_answered_and_ends_the_connection(
    request_: bytes, status: int
) -> None:
    with running() as (server, requests):
        said = exchange(server, request_ + NEXT)
    assert said.startswith(b"HTTP/1.1 %d " % status)
    assert b'{"error": ' in said
    assert requests == []


@pytest.mark.parametrize("sizes", [(32_000,), (16_000, 16_000)])
def test_headers_of_32_kib_are_taken_in_one_packet_or_several(sizes: tuple[int, ...]) -> None:
    with running() as (server, requests), connected(server) as client:
        client.sendall(HEAD + b"Connection: close\r\nContent-Length: 0\r\nA: ")
        for size in sizes:
            client.sendall(b"a" * size)
            time.sleep(0.01)
        client.sendall(b"\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert requests == [("POST", "/a", b"")]


def test_too_large_headers_are_named() -> None:
    with running() as (server, _):
        said = exchange(server, HEAD + b"A: " + b"a" * 33_000 + b"\r\n\r\n")
    assert said.endswith(
        b'{"error": "the request\'s headers (or its trailers) are larger than 32 KiB: send fewer or shorter ones"}'
    )


@pytest.mark.parametrize("pause", [False, True])
@pytest.mark.parametrize("empty", [b"\r\n", b"\r"])
def test_an_empty_line_before_a_request_is_passed_over(empty: bytes, pause: bool) -> None:
    """RFC 9112, section 2.2: some old clients send one after the body of a POST."""
    first = HEAD + b"Content-Length: 2\r\n\r\n{}"
    with running() as (server, requests), connected(server) as client:
        client.sendall(empty)
        time.sleep(0.05 * pause)
        client.sendall(b"\r\n"[len(empty) :] + first)
        time.sleep(0.05 * pause)
        client.sendall(b"\r\n" + NEXT)
        said = b""
        while part := client.recv(65536):
            said += part
    assert requests == [("POST", "/a", b"{}"), ("GET", "/next", b"")]
    assert said.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize("kind", [b"multipart/form-data", b"multipart/form-data; boundary=x", b"nonsense", b"\xff"])
def test_a_content_type_is_ignored(kind: bytes) -> None:
    with running() as (server, requests):
        exchange(server, HEAD + b"Content-Type: " + kind + b"\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
    assert requests == [("POST", "/a", b"{}")]


def test_trailers_are_not_the_next_request() -> None:
    trailers = b"\r\n3;of=me\r\nabc\r\n0\r\nGET: /hidden\r\nX: y\r\n\r\n"
    with running() as (server, requests):
        said = exchange(server, HEAD + CHUNKED + trailers + NEXT)
    assert requests == [("POST", "/a", b"abc"), ("GET", "/next", b"")]
    assert said.count(b"HTTP/1.1 200 OK") == 2


def test_requests_that_come_at_once_are_answered_in_turn() -> None:
    with running() as (server, requests):
        said = exchange(server, HEAD + b"Content-Length: 2\r\n\r\n{}" + HEAD + b"Content-Length: 0\r\n\r\n" + NEXT)
    assert requests == [("POST", "/a", b"{}"), ("POST", "/a", b""), ("GET", "/next", b"")]
    assert said.count(b"HTTP/1.1 200 OK") == 3


def test_between_requests_that_come_at_once_other_connections_get_their_turn() -> None:
    turns: list[int] = []

    async def answered() -> None:
        asyncio.get_running_loop().call_soon(lambda: turns.append(len(requests)))

    with running(answered) as (server, requests):
        exchange(server, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" * 50 + NEXT)
    assert turns == list(range(1, 52))


def test_a_client_that_offers_http_2_keeps_its_connection() -> None:
    with running() as (server, requests):
        offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
        said = exchange(server, HEAD + offer + b"Content-Length: 2\r\n\r\n{}" + NEXT)
    assert requests == [("POST", "/a", b"{}"), ("GET", "/next", b"")]
    assert said.count(b"HTTP/1.1 200 OK") == 2 and said.count(b"Connection: close") == 1


def test_a_client_that_closed_its_sending_side_is_answered() -> None:
    with running() as (server, _), connected(server) as client:
        client.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_a_body_that_ends_early_is_answered() -> None:
    with running() as (server, requests), connected(server) as client:
        client.sendall(HEAD + b"Content-Length: 50\r\n\r\n{}")
        client.shutdown(socket.SHUT_WR)
        assert b"(received 2 bytes, expected 50)" in client.recv(65536)
    assert requests == []


@pytest.mark.parametrize("header", [b"", b"Connection: keep-alive\r\n"])
def test_a_client_of_http_1_0_is_answered_and_its_connection_closed(header: bytes) -> None:
    with running() as (server, requests):
        said = exchange(server, b"GET /a HTTP/1.0\r\n" + header + b"\r\n")
    assert requests == [("GET", "/a", b"")]
    assert said.startswith(b"HTTP/1.1 200 OK") and b"\r\nConnection: close\r\n" in said


def test_an_answer_to_head_has_the_length_and_no_body() -> None:
    with running() as (server, _):
        said = exchange(server, b"HEAD /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert said.endswith(b"\r\n\r\n") and b"\r\nContent-Length: 8\r\n" in said


def test_a_malformed_request_after_head_is_answered() -> None:
    with running() as (server, _):
        said = exchange(server, b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n")
    assert said.count(b"HTTP/1.1 200 OK") == said.count(b"HTTP/1.1 400 Bad Request") == 1
    assert b'{"error": ' in said


def test_a_refused_client_that_goes_on_sending_gets_its_answer() -> None:
    """A close with unread data would be a reset, and the answer would be lost."""
    with running() as (server, _), connected(server) as client:
        client.sendall(HEAD + b"Content-Length: 5000000\r\n\r\n")
        for _ in range(50):
            client.sendall(b"a" * 100_000)
        assert client.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_expects_100_continue_gets_it() -> None:
    with running() as (server, requests), connected(server) as client:
        client.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"body")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert requests == [("POST", "/a", b"body")]


def test_a_request_counts_as_under_way_until_its_answer_has_left() -> None:
    received = threading.Event()
    in_time: list[bool] = []

    async def answered() -> None:
        in_time.append(await asyncio.get_running_loop().run_in_executor(None, received.wait, 10))

    with running(answered) as (server, _), connected(server) as client:
        client.sendall(HEAD + b"Content-Length: 0\r\nConnection: close\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
        received.set()
        assert client.recv(65536) == b""
    assert in_time == [True]


def test_a_fault_of_the_application_ends_its_connection_alone() -> None:
    async def fail() -> None:
        raise ValueError

    with running(fail) as (server, requests):
        assert exchange(server, HEAD + b"Content-Length: 0\r\n\r\n" + NEXT).startswith(b"HTTP/1.1 200 OK")
        assert exchange(server, NEXT).startswith(b"HTTP/1.1 200 OK")
    assert [path for _, path, _ in requests] == ["/a", "/next"]
