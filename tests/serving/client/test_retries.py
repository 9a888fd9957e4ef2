"""When a call is repeated, and when not: the rule alone, and over connections that really break."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from graftline.serving.client import AsyncClient, Client, Retry, ServiceError
from graftline.serving.client.exchange import Call, Pause, Send, exchange
from graftline.serving.server import ModelServer
from tests.images import image_of

ECHO: Call[bytes] = Call("", "/echo", b"request", bytes)


class World:
    """Answers calls from a script, on a clock that only pauses and answers move."""

    def __init__(self, *answers: bytes | ServiceError, seconds_each: float = 0.0) -> None:
        self.now = 100.0
        self.paused: list[float] = []
        self.timeouts: list[float] = []
        self._answers, self._seconds_each = iter(answers), seconds_each

    def run(self, retry: Retry, timeout: float = 60.0, drawn: float = 1.0) -> bytes:
        steps = exchange(ECHO, retry, timeout, lambda: self.now, lambda: drawn)
        todo = next(steps)
        try:
            while True:
                if isinstance(todo, Pause):
                    self.paused.append(todo.seconds)
                    self.now += todo.seconds
                    todo = steps.send(None)
                    continue
                assert isinstance(todo, Send)
                self.timeouts.append(todo.timeout)
                self.now += self._seconds_each
                answer = next(self._answers)
                todo = steps.throw(answer) if isinstance(answer, ServiceError) else steps.send(answer)
        except StopIteration as end:
            return end.value


GONE = ServiceError("UNAVAILABLE", "connection refused")
FULL = ServiceError("RESOURCE_EXHAUSTED", "too many requests")


def test_passing_troubles_are_tried_again_with_longer_and_longer_pauses() -> None:
    world = World(GONE, FULL, GONE, b"answer")
    assert world.run(Retry(attempts=4, first_pause=0.1)) == b"answer"
    assert world.paused == pytest.approx([0.1, 0.2, 0.4])


def test_pauses_are_drawn_so_that_clients_do_not_come_back_all_at_once() -> None:
    world = World(GONE, GONE, b"answer")
    world.run(Retry(first_pause=0.1), drawn=0.25)
    assert world.paused == pytest.approx([0.025, 0.05])


def test_no_pause_is_longer_than_the_longest() -> None:
    world = World(*[GONE] * 9, b"answer")
    world.run(Retry(attempts=10, first_pause=1.0, longest_pause=5.0))
    assert world.paused == [1, 2, 4, 5, 5, 5, 5, 5, 5]


def test_a_server_that_asks_for_time_gets_it() -> None:
    world = World(ServiceError("UNAVAILABLE", "busy", retry_after=3.0), b"answer")
    world.run(Retry(first_pause=0.1))
    assert world.paused == [3.0]


def test_the_last_error_is_told_when_all_attempts_failed() -> None:
    with pytest.raises(ServiceError, match="too many requests"):
        World(GONE, GONE, FULL).run(Retry(attempts=3))


@pytest.mark.parametrize(
    "code", ["INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN"]
)
def test_what_would_fail_again_is_not_tried_again(code: str) -> None:
    world = World(ServiceError(code, "no"))
    with pytest.raises(ServiceError, match=code):
        world.run(Retry())
    assert world.paused == []


def test_a_message_over_the_limit_will_be_no_smaller_the_next_time() -> None:
    with pytest.raises(ServiceError):
        World(ServiceError("RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 4)")).run(Retry())


def test_all_attempts_share_one_deadline() -> None:
    world = World(GONE, GONE, b"answer", seconds_each=2.0)
    world.run(Retry(first_pause=1.0), timeout=10.0)
    assert world.timeouts == pytest.approx([10.0, 7.0, 3.0])


def test_a_pause_past_the_deadline_is_not_begun() -> None:
    world = World(GONE, seconds_each=1.0)
    with pytest.raises(ServiceError, match="UNAVAILABLE"):
        world.run(Retry(first_pause=5.0), timeout=3.0)
    assert world.paused == []


def test_an_answer_that_is_not_the_apis_is_an_error_of_the_server() -> None:
    call = Call("GET", "/v1/models/m", b"", lambda answer: {}["model_version_status"])
    steps = exchange(call, Retry(), 1.0)
    next(steps)
    with pytest.raises(
        ServiceError, match="INTERNAL: the answer to /v1/models/m has not the form of TensorFlow Serving's"
    ):
        steps.send(b"{}")


# Over real connections


class Flaky:
    """A TCP proxy that closes the first connections after it received the request, and forwards the others."""

    def __init__(self, port: int, broken: int) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.taken = 0
        self._target, self._broken = port, broken
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self.taken += 1
            if self.taken <= self._broken:
                client.recv(1)
                client.close()
                continue
            behind = socket.create_connection(("127.0.0.1", self._target))
            self._open += [client, behind]
            for one, other in ((client, behind), (behind, client)):
                threading.Thread(target=_pass_on, args=(one, other), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()
        for one in self._open:
            one.close()


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    try:
        while data := one.recv(1 << 16):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.fixture(params=["grpc", "rest"])
def flaky(request: pytest.FixtureRequest, server: ModelServer) -> Iterator[Callable[[int], tuple[Flaky, str]]]:
    """A function that starts a proxy which breaks this many connections, and returns its address."""
    made = []

    def make(broken: int) -> tuple[Flaky, str]:
        proxy = Flaky(server.grpc_port if request.param == "grpc" else server.rest_port, broken)
        made.append(proxy)
        return proxy, ("" if request.param == "grpc" else "http://") + f"127.0.0.1:{proxy.port}"

    yield make
    for proxy in made:
        proxy.close()


QUICK = Retry(attempts=20, first_pause=0.05, longest_pause=0.2)


def test_a_lost_connection_is_made_again(flaky: Any) -> None:
    proxy, address = flaky(2)
    with Client(address, "colours", retry=QUICK) as client:
        assert client.classify([image_of("red")])[0].label == "red"
    assert proxy.taken >= 3


def test_a_lost_connection_is_made_again_on_an_event_loop(flaky: Any) -> None:
    proxy, address = flaky(2)

    async def ask() -> str | None:
        async with AsyncClient(address, "colours", retry=QUICK) as client:
            return (await client.classify([image_of("red")]))[0].label

    assert asyncio.run(ask()) == "red"
    assert proxy.taken >= 3


def test_without_retries_a_lost_connection_is_unavailable(flaky: Any) -> None:
    _, address = flaky(1000)
    with Client(address, "colours", retry=Retry(attempts=1)) as client, pytest.raises(ServiceError) as caught:
        client.status()
    assert caught.value.code == "UNAVAILABLE"


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_server_that_says_nothing_runs_into_the_deadline(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"{scheme}127.0.0.1:{silent.getsockname()[1]}"
        with Client(address, "colours", timeout=0.2) as client, pytest.raises(ServiceError) as caught:
            client.status()
    assert caught.value.code == "DEADLINE_EXCEEDED"


def test_a_server_that_comes_up_later_is_waited_for(colour_model: str) -> None:
    from graftline.serving.versions import locate

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    labels: list[str | None] = []

    def ask() -> None:
        with Client(f"127.0.0.1:{port}", "colours", retry=Retry(1000, longest_pause=0.1), timeout=60.0) as client:
            labels.append(client.classify([image_of("red")])[0].label)

    asking = threading.Thread(target=ask)
    asking.start()
    with ModelServer(locate.find_models(colour_model, "colours"), rest_port=0, grpc_port=port):
        asking.join()
    assert labels == ["red"]


def test_an_answer_that_comes_in_drops_runs_into_the_deadline() -> None:
    ended = threading.Event()

    def drip(listening: socket.socket) -> None:
        client, _ = listening.accept()
        with client, contextlib.suppress(OSError):
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
            for _ in range(100):
                client.sendall(b" ")
                ended.wait(0.05)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=drip, args=(listening,))
        server.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with (
            Client(address, "m", timeout=0.5, retry=Retry(attempts=1)) as client,
            pytest.raises(ServiceError) as caught,
        ):
            client.status()
        ended.set()
        server.join()
    assert caught.value.code == "DEADLINE_EXCEEDED"
