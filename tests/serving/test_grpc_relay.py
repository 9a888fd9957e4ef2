"""What the relay of the gRPC port passes on, and to whom: frames by hand, and a backend that keeps what it gets."""

import asyncio
import contextlib
import os
import socket
import tempfile

import pytest

from graftline.serving.server.grpc import connection, relay
from graftline.serving.server.grpc.relay import Relay
from graftline.serving.server.limits import ByteBudget
from tests.serving.oracle.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    call_headers,
    frame,
    literal,
)

MIB = 1 << 20
GUARD = 30  # seconds after which a test hangs


async def read_frame(reader):
    """Return the kind, the flags, the stream and the payload of the next frame; None at the end."""
    try:
        head = await asyncio.wait_for(reader.readexactly(9), GUARD)
        payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return head[3], head[4], int.from_bytes(head[5:], "big"), payload


class Backend:
    """Keeps the frames of every connection, and answers a PING with its acknowledgement."""

    def __init__(self):
        self.connections = []
        self.size = 0

    async def serve(self, reader, writer):
        got = []
        self.connections.append((got, writer))
        await reader.readexactly(len(PREFACE))
        while (each := await read_frame(reader)) is not None:
            got.append(each)
            self.size += len(each[3])
            if each[0] == PING:
                writer.write(frame(PING, ACK, 0, each[3]))

    def count(self, kind):
        return sum(each[0] == kind for got, _ in self.connections for each in got)


class Client:
    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    def send(self, *frames):
        self.writer.write(b"".join(frames))

    async def next(self, *kinds):
        """Return the next frame of these kinds; None at the end of the connection."""
        while (got := await read_frame(self.reader)) is not None and got[0] not in kinds:
            pass
        return got

    async def ping(self):
        """Return when everything that was sent has passed through, and an answer has come back."""
        self.send(frame(PING, 0, 0, b"12345678"))
        return await self.next(PING)


def opened(stream):
    return frame(HEADERS, END_HEADERS, stream, call_headers())


def run(test, budget=64 * MIB, **arguments):
    async def body():
        running = Relay("127.0.0.1", 0, ByteBudget(budget), 2 * MIB, **arguments)
        backend = Backend()
        server = await asyncio.start_unix_server(backend.serve, running.path)
        clients = []

        async def connect():
            client = Client(*await asyncio.open_connection("127.0.0.1", running.port))
            clients.append(client)
            client.send(PREFACE, frame(SETTINGS, 0, 0))
            return client

        await running.start()
        try:
            await asyncio.wait_for(test(running, backend, connect), GUARD)
        finally:
            await running.close()
            for client in clients:
                client.writer.close()
            server.close()

    asyncio.run(body())


def test_frames_pass_as_they_were_sent_however_they_are_cut():
    async def test(running, backend, connect):
        client = await connect()
        sent = [(HEADERS, END_HEADERS, 1, call_headers()), (DATA, 0, 1, b"x" * 3000), (DATA, END_STREAM, 1, b"")]
        data = b"".join(frame(*each) for each in sent)
        for start in range(0, len(data), 7):
            client.send(data[start : start + 7])
            await asyncio.sleep(0)
        await client.ping()
        assert [each for each in backend.connections[0][0] if each[0] in (HEADERS, DATA)] == sent

    run(test)


def test_a_message_that_does_not_arrive_in_time_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr(relay, "_LOOK_SECONDS", 0.05)

    async def test(running, backend, connect):
        client = await connect()
        client.send(opened(1), opened(3), frame(DATA, 0, 3, b"half"), opened(5), frame(DATA, END_STREAM, 5, b"whole"))
        refused = {}
        while len(refused) < 2:
            _, flags, stream, payload = await client.next(HEADERS)
            assert flags & END_STREAM
            refused[stream] = payload
        assert sorted(refused) == [1, 3]  # the call whose message is whole waits for its answer
        assert literal("grpc-status", "4") in refused[1]
        assert literal("grpc-message", "the message took more than 0.1 s to arrive") in refused[3]
        await client.ping()
        assert [each[2] for each in backend.connections[0][0] if each[0] == RST_STREAM] == [1, 3]

    run(test, message_seconds=0.1)


def pairs(count):
    streams = range(1, 2 * count, 2)
    return b"".join(opened(stream) + frame(RST_STREAM, 0, stream, b"\0\0\0\x08") for stream in streams)


FLOODS = {
    "open and reset": pairs(20_000),
    "pings": frame(PING, 0, 0, b"12345678") * 100_000,
    "settings": frame(SETTINGS, 0, 0) * 100_000,
    "priorities": frame(PRIORITY, 0, 1, b"\0\0\0\0\1") * 200_000,
    "window updates": frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1") * 200_000,
    "empty data": opened(1) + frame(DATA, 0, 1) * 200_000,
    "streams over the limit": b"".join(opened(stream) for stream in range(1, 60_000, 2)),
    "one byte at a time": opened(1) + frame(DATA, 0, 1, b"x") * 200_000,
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_held_back_and_others_pass(name):
    async def test(running, backend, connect):
        hostile, client = await connect(), await connect()
        hostile.send(FLOODS[name])
        for _ in range(5):
            await client.ping()
        flood = max((got for got, _ in backend.connections), key=len)
        whole = FLOODS[name].count(FLOODS[name][-9:])
        assert len(flood) < max(5_000, whole // 4)

    run(test)


def test_resets_that_the_server_is_made_to_send_count_as_the_clients():
    async def test(running, backend, connect):
        client = await connect()
        for stream in range(1, 1200, 2):
            client.send(opened(stream))
        await asyncio.sleep(0.1)
        got, writer = backend.connections[0]
        for stream in [each[2] for each in got if each[0] == HEADERS]:
            writer.write(frame(RST_STREAM, 0, stream, b"\0\0\0\1"))
        await client.next(RST_STREAM)
        (held,) = running._connections
        assert held.to_backend.held

    run(test)


@pytest.mark.parametrize(
    "block",
    [
        [b"x" * 16_000] * 3,
        [b""] * 50,
    ],
    ids=["bytes", "frames"],
)
def test_a_header_block_without_end_closes_the_connection(block):
    async def test(running, backend, connect):
        client = await connect()
        client.send(frame(HEADERS, 0, 1, block[0]), *(frame(CONTINUATION, 0, 1, piece) for piece in block[1:]))
        _, _, _, payload = await client.next(GOAWAY)
        assert payload[4:] == b"\0\0\0\x0b"  # ENHANCE_YOUR_CALM
        assert await client.next() is None

    run(test)


def test_large_messages_wait_for_each_other_and_small_ones_pass():
    async def test(running, backend, connect):
        large = [await connect() for _ in range(10)]
        for client in large:
            client.send(opened(1), *[frame(DATA, 0, 1, bytes(16_000))] * 120)
        small = await connect()
        small.send(opened(1), frame(DATA, END_STREAM, 1, bytes(16_000)))
        await small.ping()
        size = 0
        while size != backend.size:
            size = backend.size
            await asyncio.sleep(0.1)
        assert size < 6 * MIB + 11 * (MIB + (64 << 10))  # of 19 MB
        assert any(each[1] & END_STREAM for got, _ in backend.connections for each in got)

    run(test)


def test_halves_of_messages_give_way_to_messages_that_arrive(monkeypatch):
    monkeypatch.setattr(relay, "_LOOK_SECONDS", 0.05)

    async def test(running, backend, connect):
        for _ in range(10):
            client = await connect()
            client.send(opened(1), *[frame(DATA, 0, 1, bytes(16_000))] * 90)
        await client.ping()
        honest = await connect()
        honest.send(opened(1), *[frame(DATA, 0, 1, bytes(16_000))] * 120, frame(DATA, END_STREAM, 1, b"end"))
        while not any(each[3] == b"end" for got, _ in backend.connections for each in got):
            await asyncio.sleep(0.01)
        assert backend.count(RST_STREAM)

    run(test, budget=12 * MIB)


def test_bytes_are_given_back_when_a_call_ends_in_any_way(monkeypatch):
    monkeypatch.setattr(relay, "_LOOK_SECONDS", 0.05)

    async def test(running, backend, connect):
        message = [frame(DATA, 0, 1, bytes(16_000))] * 50
        answered, reset, late, lost = [await connect() for _ in range(4)]
        answered.send(opened(1), *message, frame(DATA, END_STREAM, 1))
        await answered.ping()
        writer = next(writer for got, writer in backend.connections if len(got) > 50)
        reset.send(opened(1), *message, frame(RST_STREAM, 0, 1, b"\0\0\0\x08"))
        late.send(opened(1), *message)
        lost.send(opened(1), *message)
        await lost.ping()
        assert running._budget.taken > 2 * 600_000
        lost.writer.close()
        writer.write(frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x88"))
        while running._budget.taken or running._held or running.open_calls:
            await asyncio.sleep(0.01)

    run(test, message_seconds=0.5)


def test_of_too_many_connections_the_one_that_was_of_no_use_for_longest_goes(monkeypatch):
    monkeypatch.setattr(relay, "MAX_CONNECTIONS", 8)

    async def test(running, backend, connect):
        client = await connect()
        for number in range(40):
            client.send(opened(2 * number + 1), frame(DATA, END_STREAM, 2 * number + 1, b"x"))
            await client.ping()
            backend.connections[0][1].write(frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, b"\x88"))
            await client.next(HEADERS)
            hostile = await connect()
            hostile.send(opened(1))  # held: it never sends a message
            await hostile.ping()
        assert len(running._connections) <= 8
        assert await client.ping()

    run(test)


def test_of_too_many_calls_the_oldest_of_the_connection_with_most_is_refused(monkeypatch):
    monkeypatch.setattr(relay, "MAX_CALLS", 20)

    async def test(running, backend, connect):
        client, hostile = await connect(), await connect()
        client.send(opened(1))
        hostile.send(*(opened(stream) for stream in range(1, 61, 2)))
        _, _, stream, payload = await hostile.next(HEADERS)
        assert (stream, literal("grpc-status", "8") in payload) == (1, True)
        await client.ping()
        assert running.open_calls == 20
        assert sorted(len(each.calls) for each in running._connections) == [1, 19]

    run(test)


@pytest.mark.slow
def test_a_client_that_reads_nothing_of_what_it_is_refused_is_closed(monkeypatch):
    monkeypatch.setattr(connection, "_MAX_UNREAD", 64 << 10)

    async def test(running, backend, connect):
        client = await connect()
        await client.ping()
        await running.drain(0)
        client.send(*(opened(stream) for stream in range(1, 160_000, 2)))
        while running._connections:
            await asyncio.sleep(0.01)

    run(test)


def test_after_the_drain_calls_are_refused_as_unavailable_and_answers_leave():
    async def test(running, backend, connect):
        client = await connect()
        client.send(opened(1), frame(DATA, END_STREAM, 1, b"whole"), opened(3))
        await client.ping()
        draining = asyncio.create_task(running.drain(GUARD))
        _, _, stream, payload = await client.next(HEADERS)
        assert (stream, literal("grpc-status", "14") in payload) == (3, True)
        assert (await client.next(GOAWAY))[3] == b"\0\0\0\3\0\0\0\0"
        client.send(opened(5))
        assert (await client.next(HEADERS))[2] == 5
        assert not draining.done()
        backend.connections[0][1].write(frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x88"))
        assert (await client.next(HEADERS))[2] == 1
        await draining

    run(test)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", PREFACE[:-1] + b"x", b"\x16\x03\x01"])
def test_what_is_not_http_2_is_closed_and_never_passed_on(data):
    async def test(running, backend, connect):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(data)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        assert backend.connections == []

    run(test)


def test_no_frame_waits_for_the_acknowledgement_of_the_one_before():
    async def test(running, backend, connect):
        await (await connect()).ping()
        (passed,) = running._connections
        accepted = passed._transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    run(test)


def test_a_port_in_use_is_an_os_error():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        Relay("127.0.0.1", taken.getsockname()[1], ByteBudget(MIB), MIB)


def test_the_folder_of_a_killed_server_is_removed_and_that_of_a_running_one_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folders = {}
    for name in ("killed", "running", "young"):
        folders[name] = tmp_path / f"graftline-grpc-{name}"
        folders[name].mkdir()
    with contextlib.ExitStack() as listeners:
        for name, folder in folders.items():
            listener = listeners.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(folder / "grpc"))
            if name == "running":
                listener.listen()
            if name != "young":
                os.utime(folder / "grpc", (0, 0))
        with contextlib.closing(Relay("127.0.0.1", 0, ByteBudget(MIB), MIB)._socket):
            assert [name for name, folder in folders.items() if folder.exists()] == ["running", "young"]
