"""The HTTP server alone: where a request ends, when its answer leaves, and what slow clients can hold."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from graftline.serving.server.http import server as http_server
from graftline.serving.server.http.messages import Answer, Message, Receive, Send, read_body, send_answer
from graftline.serving.server.http.server import HttpServer
from graftline.serving.server.limits import ByteBudget
from graftline.serving.server.threads import LoopThread

HEAD = b"POST /a HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
Requests = list[tuple[str, str, bytes]]


@contextlib.contextmanager
def running(
    answered: Callable[[], Awaitable[object]] | None = None,
    seconds: float = 10,
    loop: LoopThread | None = None,
    answer: bytes = b"answered",
    max_body: int = 1000,
    budget: ByteBudget | None = None,
) -> Iterator[tuple[HttpServer, Requests]]:
    """A server that records its requests; `answered` is awaited after each answer has left."""
    requests: Requests = []

    async def application(scope: Message, receive: Receive, send: Send) -> None:
        requests.append((scope["method"], scope["path"], await read_body(receive)))
        await send_answer(send, Answer(200, answer))
        if answered:
            await answered()

    server = HttpServer(application, "127.0.0.1", 0, max_body, seconds, budget)
    loop = loop or LoopThread("http")
    loop.run(server.start())
    try:
        yield server, requests
    finally:
        loop.run(server.close())
        loop.stop()


def connected(server: HttpServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def is_open(client: socket.socket) -> bool:
    try:
        return bool(client.recv(1))
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def exchange(server: HttpServer, request: bytes) -> bytes:
    """Send these bytes, and return everything that the server sends until it closes the connection."""
    with connected(server) as client:
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


# Slow clients and too many of them


@pytest.mark.parametrize(
    "start", [b"", b"POST /a HT", HEAD, HEAD + CHUNKED + b"\r\n40\r\na", HEAD + CHUNKED + b"\r\n0\r\n"]
)
def test_a_whole_request_must_arrive_in_time(start: bytes) -> None:
    with running(seconds=0.3) as (server, requests), connected(server) as client:
        client.sendall(start)
        said = b""
        with contextlib.suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
            for _ in range(40):  # each byte would restart a limit on silence
                client.settimeout(0.05)
                try:
                    said = client.recv(65536)
                    break
                except TimeoutError:
                    client.sendall(start[:1] and b"a")
    assert said.partition(b"\r\n")[0] == (b"HTTP/1.1 408 Request Timeout" if start else b"")
    assert requests == []


def test_a_client_that_does_not_read_its_answer_is_dropped_in_time() -> None:
    left = threading.Event()

    async def answered() -> None:
        left.set()

    with running(answered, seconds=0.3, answer=b"a" * 30_000_000) as (server, _), connected(server) as client:
        client.sendall(NEXT)
        assert left.wait(10)


def test_a_request_that_is_whole_as_its_time_ends_is_answered_and_ends_the_connection() -> None:
    async def application(scope: Message, receive: Receive, send: Send) -> None:
        (connection,) = server._connections.values()
        connection._reader.set_exception(TimeoutError())
        await send_answer(send, Answer(200, b"answered"))

    with running() as (server, _):
        server.application = application
        said = exchange(server, HEAD + b"Content-Length: 0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200 OK") and b"\r\nConnection: close\r\n" in said


def test_half_sent_requests_do_not_keep_others_from_an_answer() -> None:
    with running() as (server, _), contextlib.ExitStack() as clients:
        for _ in range(300):
            clients.enter_context(connected(server)).sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        assert exchange(server, NEXT).startswith(b"HTTP/1.1 200 OK")


def test_beyond_the_most_connections_the_longest_idle_one_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 2)
    with running() as (server, _), connected(server) as idle, connected(server) as busy:
        for client in (busy, idle):
            client.sendall(HEAD + b"Content-Length: 0\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
        busy.sendall(HEAD)
        time.sleep(0.1)
        assert exchange(server, NEXT).startswith(b"HTTP/1.1 200 OK")
        assert idle.recv(1) == b""
        with connected(server) as second:
            second.sendall(HEAD)
            time.sleep(0.1)
            assert exchange(server, NEXT).startswith(b"HTTP/1.1 200 OK")
            assert not is_open(busy)  # of two requests that are not whole, the older one makes room
            second.sendall(b"Connection: close\r\nContent-Length: 0\r\n\r\n")
            assert second.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_a_client_that_has_just_connected_is_not_closed_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 3)
    with running() as (server, _), contextlib.ExitStack() as opened:
        for _ in range(3):
            opened.enter_context(connected(server)).sendall(HEAD)
        time.sleep(0.1)
        with connected(server) as client, connected(server) as next_one:
            time.sleep(0.1)
            for each in (client, next_one):
                each.sendall(NEXT)
                assert each.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_many_connections_at_once_do_not_pass_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 4)
    with running() as (server, _), contextlib.ExitStack() as opened:
        clients = [opened.enter_context(socket.socket()) for _ in range(60)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", server.port))
        until = time.monotonic() + 10
        while time.monotonic() < until and sum(map(is_open, clients)) > 4:
            time.sleep(0.05)
        assert sum(map(is_open, clients)) == 4


def post(server: HttpServer, size: int) -> bytes:
    return exchange(server, HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % size + b"a" * size)


def test_large_requests_that_are_not_whole_make_room_for_others() -> None:
    budget = ByteBudget(2_000_000)
    with running(max_body=1_000_000, budget=budget) as (server, _), contextlib.ExitStack() as opened:
        slow = [opened.enter_context(connected(server)) for _ in range(5)]
        for client in slow:
            client.sendall(HEAD + b"Content-Length: 900000\r\n\r\n" + b"a" * 400_000)
            time.sleep(0.05)
        assert budget.taken <= 1_000_000
        assert post(server, 900_000).startswith(b"HTTP/1.1 200 OK")
        refused = slow[0].recv(65536)
        assert refused.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: 1\r\n" in refused
        assert b"requests of 2000000 bytes are under way (max_bytes_in_flight)" in refused
    assert budget.taken == 0


def test_small_requests_are_answered_while_whole_ones_hold_all_bytes() -> None:
    budget = ByteBudget(2_000_000)
    with running(max_body=1_000_000, budget=budget) as (server, _):
        assert budget.try_take(2_000_000)
        assert post(server, 100_000).startswith(b"HTTP/1.1 503 ")
        assert post(server, 60_000).startswith(b"HTTP/1.1 200 OK")
        budget.give_back(2_000_000)
    assert budget.taken == 0


def test_whole_requests_that_are_large_keep_no_photo_out() -> None:
    go_on = threading.Event()

    async def answered() -> None:
        await asyncio.get_running_loop().run_in_executor(None, go_on.wait, 10)

    budget = ByteBudget(8_000_000)
    with running(answered, max_body=1_000_000, budget=budget) as (server, _), contextlib.ExitStack() as opened:
        large = [opened.enter_context(connected(server)) for _ in range(5)]
        for client in large:
            client.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n" + b"a" * 1_000_000)
            client.recv(9)
        assert large[-1].recv(4) == b"503 "
        with connected(server) as photo:
            photo.sendall(HEAD + b"Content-Length: 180000\r\n\r\n" + b"a" * 180_000)
            assert photo.recv(65536).startswith(b"HTTP/1.1 200 OK")
        go_on.set()


def test_answers_that_nobody_reads_make_room_for_others() -> None:
    budget = ByteBudget(60_000_000)
    with running(answer=b"a" * 20_000_000, budget=budget) as (server, _), contextlib.ExitStack() as opened:
        for _ in range(4):
            opened.enter_context(connected(server)).sendall(NEXT)
            time.sleep(0.1)
        assert budget.taken <= 30_000_000
        assert len(exchange(server, NEXT)) > 20_000_000
    assert budget.taken == 0


# A child, because the limit on descriptors is the process's.
_SCARCE = """
import contextlib, resource, sys
from graftline.serving.server.http.messages import Answer, read_body, send_answer
from graftline.serving.server.http.server import HttpServer
from graftline.serving.server.threads import LoopThread

async def application(scope, receive, send):
    await read_body(receive)
    await send_answer(send, Answer(200, b"answered"))

resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
server = HttpServer(application, "127.0.0.1", 0)
loop = LoopThread("http")
loop.run(server.start())
opened = []
with contextlib.suppress(OSError):
    while len(sys.argv) > 2:
        opened.append(open("/dev/null"))
for file in opened[:4]:
    file.close()
print(server.port, flush=True)
sys.stdin.read()
loop.run(server.close())
"""


@pytest.mark.parametrize("arguments", [("128",), ("64", "and take all of them")])
def test_idle_connections_do_not_take_the_last_descriptor(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", _SCARCE, *arguments]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child,
        contextlib.ExitStack() as all_,
    ):
        assert child.stdout
        address = ("127.0.0.1", int(child.stdout.readline()))
        for _ in range(150):
            all_.enter_context(socket.create_connection(address, timeout=10))
        for _ in range(3):
            with socket.create_connection(address, timeout=10) as client:
                client.sendall(NEXT)
                assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_a_request_that_is_on_its_way_as_the_server_stops_is_answered() -> None:
    loop = LoopThread("drained")
    with running(loop=loop) as (server, requests), connected(server) as client, connected(server) as half:
        client.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        client.recv(65536)
        half.sendall(HEAD)
        drained = threading.Thread(target=loop.run, args=(server.drain(10),))
        drained.start()
        while not server.draining:
            time.sleep(0.001)
        client.sendall(b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n")
        said = client.recv(65536)
        assert said.startswith(b"HTTP/1.1 200 OK") and b"\r\nConnection: close\r\n" in said
        drained.join(10)
        assert not drained.is_alive()  # in spite of the half-sent request
    assert [path for _, path, _ in requests] == ["/a", "/b"]


def test_an_answer_that_nobody_reads_does_not_hold_up_the_stop() -> None:
    loop = LoopThread("drained")
    with running(loop=loop, answer=b"a" * 30_000_000) as (server, requests), connected(server) as client:
        client.sendall(NEXT)
        while not requests:
            time.sleep(0.001)
        loop.run(server.drain(0.1))
        loop.run(server.close())
        assert not server._connections


def test_a_drain_closes_the_port_and_waiting_connections_and_answers_requests_under_way() -> None:
    go_on = threading.Event()

    loop = LoopThread("drained")

    async def answered() -> None:
        await asyncio.get_running_loop().run_in_executor(None, go_on.wait, 10)

    with running(answered, loop=loop) as (server, _), connected(server) as idle, connected(server) as half:
        half.sendall(HEAD)
        with connected(server) as busy:
            busy.sendall(HEAD + b"Content-Length: 0\r\n\r\n")
            assert busy.recv(65536).startswith(b"HTTP/1.1 200 OK")
            drained = threading.Thread(target=loop.run, args=(server.drain(10),))
            drained.start()
            assert idle.recv(1) == half.recv(1) == b""
            with pytest.raises(ConnectionRefusedError):
                connected(server)
            busy.setblocking(False)
            with pytest.raises(BlockingIOError):
                busy.recv(1)
            busy.settimeout(10)
            go_on.set()
            assert busy.recv(1) == b""
