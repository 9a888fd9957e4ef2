"""One more of everything than the server takes: the newest client is served, and honest clients are all the while."""

import contextlib
import selectors
import socket
import time
from collections.abc import Iterator

import pytest

from graftline.serving.server.http.server import MAX_CONNECTIONS
from tests.serving.oracle import http2
from tests.serving.oracle.http2 import Http2
from tests.serving.oracle.live import Live
from tests.serving.oracle.witness import Witness

_HEAD = b"POST /v1/models/numbers:predict HTTP/1.1\r\nHost: localhost\r\n"
_BODY = b'{"instances": [[1.0, 2.0]]}'
_HALF = _HEAD + b"Content-Length: %d\r\n\r\n" % len(_BODY) + _BODY[:5]
_HANGING = 20.0  # seconds: nobody waits so long, on however busy a machine


class Addresses:
    """The two ports of a server, and its honest users."""

    def __init__(self, rest: str, grpc: str, users: Witness) -> None:
        self.rest, self.grpc, self.users = rest, grpc, users

    def connect(self, count: int, data: bytes, address: str) -> list[socket.socket]:
        """Open so many connections and send the same on each. One that the server has closed counts, too."""
        host, _, port = address.rpartition(":")
        opened = [socket.create_connection((host, int(port)), timeout=_HANGING) for _ in range(count)]
        for connection in opened:
            with contextlib.suppress(OSError):
                connection.sendall(data)
        return opened

    @contextlib.contextmanager
    def serving_all_the_while(self) -> Iterator[contextlib.ExitStack]:
        """Check that no honest request fails within the `with`, and half a second longer; then close what it opened."""
        self.users.look()
        with contextlib.ExitStack() as opened:
            yield opened
            time.sleep(0.5)
            for name, window in self.users.look().items():
                assert not window.faults, (name, window.faults[:3])
                assert window.count > 1, name
                assert window.longest < _HANGING, name


@pytest.fixture(scope="module")
def addresses(server) -> Iterator[Addresses]:
    """The server of the session; its users are in a process of their own."""
    rest, grpc = f"127.0.0.1:{server.rest_port}", f"127.0.0.1:{server.grpc_port}"
    with Witness(rest, grpc) as users:
        yield Addresses(rest, grpc, users)


def _count_closed(connections: list[socket.socket]) -> int:
    """Return how many the server has closed; wait until it has closed one."""
    closed, until = 0, time.monotonic() + _HANGING
    with selectors.DefaultSelector() as selector:  # `select` takes no descriptor above 1023
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
        while not closed and time.monotonic() < until:
            for key, _ in selector.select(1.0):
                with contextlib.suppress(ConnectionResetError):
                    if key.fileobj.recv(1 << 16):
                        continue
                closed += 1
    return closed


def _answer(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return connection.recv(1 << 16)


@pytest.mark.parametrize(
    ("data", "rest"),
    [(b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"), (_HALF, _BODY[5:])],
    ids=["idle", "half a body"],
)
def test_one_connection_too_many_closes_another_one_and_is_served(addresses, data, rest):
    with addresses.serving_all_the_while() as opened:
        connections = addresses.connect(MAX_CONNECTIONS + 1, data, addresses.rest)
        for connection in connections:
            opened.callback(connection.close)
        assert _answer(connections[-1], rest).startswith(b"HTTP/1.1 200 ")
        assert _count_closed(connections[:-1])


def test_headers_and_bodies_that_never_end_keep_nobody_from_an_answer(addresses):
    lines = b"X: " + b"y" * 30_000
    chunk = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n186a0\r\n" + b" " * 100_000 + b"\r\n"
    with addresses.serving_all_the_while() as opened:
        for data in (_HEAD + lines, chunk, chunk[:-2] + b"\r\n0\r\n" + lines):
            for connection in addresses.connect(60, data, addresses.rest):
                opened.callback(connection.close)


def test_idle_connections_of_grpc_keep_nobody_from_an_answer(addresses):
    with addresses.serving_all_the_while() as opened:
        for connection in addresses.connect(600, b"", addresses.grpc):
            opened.callback(connection.close)


@pytest.mark.parametrize(("connections", "calls"), [(1, 1000), (200, 2)])
def test_calls_that_send_no_message_keep_nobody_from_an_answer(addresses, connections, calls):
    with addresses.serving_all_the_while() as opened:
        for _ in range(connections):
            connection = Http2(addresses.grpc, _HANGING)
            opened.callback(connection.close)
            connection.read_all_the_while()
            with contextlib.suppress(OSError):  # the server may close a connection of too many
                for _ in range(calls):
                    connection.open_call()


@pytest.mark.parametrize("kind", ["resets", "pings", "settings", "ended calls"])
def test_a_flood_of_frames_keeps_nobody_from_an_answer(addresses, kind):
    connection = Http2(addresses.grpc, _HANGING)
    headers = http2.call_headers()

    def frames() -> bytes:
        if kind == "pings":
            return http2.frame(http2.PING, 0, 0, bytes(8))
        if kind == "settings":
            return http2.frame(http2.SETTINGS, 0, 0)
        stream, ends = connection.next_stream(), http2.END_STREAM * (kind == "ended calls")
        call = http2.frame(http2.HEADERS, http2.END_HEADERS | ends, stream, headers)
        return call if ends else call + http2.frame(http2.RST_STREAM, 0, stream, b"\0\0\0\x08")

    with addresses.serving_all_the_while() as opened:
        opened.callback(connection.close)
        connection.read_all_the_while()
        with contextlib.suppress(OSError):
            for _ in range(40):
                connection.send(b"".join(frames() for _ in range(50)))


@pytest.mark.slow
@pytest.mark.parametrize("port", ["rest", "grpc"])
def test_more_connections_than_descriptors_keep_nobody_from_an_answer(workspace, port):
    with Live(str(workspace), descriptors=128) as live, Witness(live.rest, live.grpc) as users:
        addresses = Addresses(live.rest, live.grpc, users)
        with addresses.serving_all_the_while() as opened:
            for connection in addresses.connect(200, b"", getattr(live, port)):
                opened.callback(connection.close)
            time.sleep(3)
