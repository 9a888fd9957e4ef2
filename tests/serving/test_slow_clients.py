"""What slow clients, and too many of them, can hold of the HTTP port, and what they get as the server stops."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time

import pytest

from graftline.serving.server.http import server as http_server
from graftline.serving.server.http.messages import Answer, Message, Receive, Send, send_answer
from graftline.serving.server.limits import ByteBudget
from graftline.serving.server.threads import LoopThread
from tests.serving.http_port import CHUNKED, HEAD, NEXT, connected, exchange, is_open, post, running


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
