"""The attacks of `benchmarks.attacks`: one table, and how each is sent."""

import base64
import contextlib
import gzip
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tests.serving.oracle import hostile_images, http2
from tests.serving.oracle.http2 import Http2

_MIB = 1 << 20
_BIG = 60 * _MIB
_PROBE_SECONDS = 0.1
_SO_BEFORE = " (without the attack, too)"
_ACCEPT_SECONDS = 1.0
_HOLD_SECONDS = 5.0  # during which clients are watched


@dataclass(frozen=True)
class Server:
    """Where an attack goes, and when it is given up (by `time.monotonic`)."""

    rest: str
    grpc: str
    pid: int
    until: float
    opened: Callable[[], None]  # called when all connections and calls are there

    @property
    def left(self) -> float:
        """Seconds until the attack is given up."""
        return max(0.1, self.until - time.monotonic())

    def hold(self) -> None:
        """Keep what was opened. The clients' targets count from when the server has accepted all of it."""
        time.sleep(_ACCEPT_SECONDS)
        self.opened()
        time.sleep(min(_HOLD_SECONDS, self.left))

    def connect(self, address: str) -> socket.socket:
        """Open a TCP connection."""
        host, _, port = address.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=self.left)


@dataclass(frozen=True)
class Sent:
    """What an attack has sent: bytes, bytes after decompression (0: the same), and what came back."""

    answer: str
    size: int
    unpacked: int = 0


Send = Callable[[Server], Sent]


@dataclass(frozen=True)
class Attack:
    """One row of the table, with its targets. None sets no target."""

    name: str
    prepare: Callable[[], Send]  # makes what is sent, before the clock starts
    unit: int | None = None  # the bytes n of 8 n + 64 MiB when many requests make the attack
    times_median: float | None = 2.0  # the clients' p99 during it, in medians before it
    longest: float | None = None  # seconds that a client may wait at most
    processor: float | None = None
    flags: tuple[str, ...] = ()
    descriptors: int | None = None
    ends: bool = False  # the server ends by it; `Sent.size` holds milliseconds

    def missed(self, row: Any) -> list[str]:
        """Return the targets that a row misses."""
        if self.ends:
            return [] if row.seconds <= 25 else ["ended after more than 25 s"]
        found = []
        most = 8 * (row.unpacked if self.unit is None else self.unit) + 64 * _MIB
        if row.growth > most:
            found.append(f"memory over {most / _MIB:,.0f} MiB")
        windows = [row.opening, row.during] if row.opening else [row.during]
        if any(window["probe"].longest > _PROBE_SECONDS for window in windows):
            found.append("probe over 100 ms" + _SO_BEFORE * (row.before["probe"].longest > _PROBE_SECONDS))
        if self.processor and row.processor > self.processor:
            found.append(f"processor over {self.processor:g} s")
        for name in ("rest", "grpc"):
            limit = self.longest or (self.times_median or 1e9) * row.before[name].p50
            before, seen = (
                (each.longest if self.longest else each.p99) for each in (row.before[name], row.during[name])
            )
            if seen > limit:
                found.append(f"{name} over {1e3 * limit:.0f} ms" + _SO_BEFORE * (before > limit))
        found += [f"{name} failed" for name in row.during if any(window[name].faults for window in windows)]
        if row.answer.startswith("no answer"):
            found.append(row.answer)
        return found


# Attacks by JSON (c1)


def _post(server: Server, body: bytes, unpacked: int = 0, path: str = "/v1/models/numbers:predict") -> Sent:
    host, _, port = server.rest.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=server.left)
    began = time.monotonic()
    try:
        connection.request("POST", path, body, {"Content-Encoding": "gzip"} if unpacked else {})
        answer = connection.getresponse()
        text = answer.read()
        said = f"{answer.status} in {time.monotonic() - began:.1f} s ({text[:60]!r})"
    except (OSError, http.client.HTTPException) as error:
        said = f"no answer in {time.monotonic() - began:.0f} s" if isinstance(error, TimeoutError) else repr(error)
    finally:
        connection.close()
    return Sent(said, len(body), unpacked)


def _post_packed(text: bytes) -> Send:
    packed = gzip.compress(text, 9)
    return lambda server: _post(server, packed, len(text))


def _nested() -> Send:
    return _post_packed(b"[" * 900 + b"0" + b",0" * 399_999 + b"]" * 900)


def _fill(leaf: bytes, before: bytes = b"[", after: bytes = b"]") -> Send:
    count = (_BIG - len(before) - len(after)) // (len(leaf) + 1)
    return _post_packed(before + (leaf + b",") * (count - 1) + leaf + after)


# Attacks by gRPC (c2)


def _held_calls(connections: int, each: int) -> Send:
    def send(server: Server) -> Sent:
        opened: list[Http2] = []
        refused = 0
        for _ in range(connections):
            try:
                connection = Http2(server.grpc, server.left)
                opened.append(connection)
                connection.read_all_the_while()
                for _ in range(each):
                    connection.open_call()
            except OSError:
                refused += 1
        server.hold()
        closed = sum(connection.closed.is_set() for connection in opened)
        size = sum(connection.sent for connection in opened)
        for connection in opened:
            connection.close()
        return Sent(f"{len(opened)} connections, {refused} refused, {closed} closed by the server", size)

    return send


def _rapid_reset(streams: int) -> Send:
    def send(server: Server) -> Sent:
        size = done = connections = 0
        while done < streams and time.monotonic() < server.until - 1:
            connections += 1
            with contextlib.suppress(OSError):
                connection = Http2(server.grpc, server.left)
                connection.read_all_the_while()
                try:
                    while done < streams and time.monotonic() < server.until - 1:
                        batch = b""
                        for _ in range(50):
                            stream = connection.next_stream()
                            batch += http2.frame(http2.HEADERS, http2.END_HEADERS, stream, http2.call_headers())
                            batch += http2.frame(http2.RST_STREAM, 0, stream, b"\0\0\0\x08")
                        connection.send(batch)
                        done += 50
                finally:
                    size += connection.sent
                    connection.close()
        return Sent(f"{done} of {streams} streams, {connections} connections", size)

    return send


def _big_messages(count: int) -> Send:
    def send(server: Server) -> Sent:
        import grpc

        from graftline.serving.client import wire_pb2

        x = wire_pb2.Tensor(dtype=1, tensor_content=bytes(_BIG))
        spec = wire_pb2.ModelSpec(name="numbers")
        data = wire_pb2.PredictRequest(model_spec=spec, inputs={"no such input": x}).SerializeToString()
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.insecure_channel(server.grpc, options) for _ in range(count)]
        calls = [channel.unary_unary(http2.PREDICT).future(data, timeout=server.left) for channel in channels]
        codes = [call.code().name for call in calls]
        for channel in channels:
            channel.close()
        return Sent(", ".join(f"{codes.count(code)} {code}" for code in sorted(set(codes))), count * len(data))

    return send


# Attacks by images (c3)


def _images(image: bytes, images: int = 1, requests: int = 1) -> Send:
    instance = json.dumps({"b64": base64.b64encode(image).decode()})
    body = f'{{"instances": [{", ".join([instance] * images)}]}}'.encode()

    def send(server: Server) -> Sent:
        with ThreadPoolExecutor(requests) as pool:
            posts = [pool.submit(_post, server, body, path="/v1/models/colours:predict") for _ in range(requests)]
            answers = [post.result() for post in posts]
        return Sent(answers[0].answer, sum(each.size for each in answers))

    return send


# Attacks by slow and by many clients (c4)


def _raw_connections(count: int, data: bytes, port: str = "rest") -> Send:
    def send(server: Server) -> Sent:
        opened: list[socket.socket] = []
        refused = size = 0
        for _ in range(count):
            try:
                connection = server.connect(server.rest if port == "rest" else server.grpc)
                opened.append(connection)
                connection.settimeout(2.0)
                connection.sendall(data)
                size += len(data)
            except OSError:
                refused += 1
        server.hold()
        closed = sum(_is_closed(connection) for connection in opened)
        for connection in opened:
            connection.close()
        return Sent(f"{len(opened)} connections, {refused} refused, {closed} closed by the server", size)

    return send


def _is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while data := connection.recv(1 << 16):
            del data
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True


_HALF_POST = b"POST /v1/models/numbers:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"


def _big_headers(count: int, size: int) -> Send:
    lines = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 4000) for number in range(size // 4010))
    data = b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + lines
    return _raw_connections(count, data)


def _drip(server: Server) -> Sent:
    """Send a byte each 12 s within headers, chunk sizes and trailers; see how long each is held, up to 75 s."""
    head = b"POST /v1/models/numbers:predict HTTP/1.1\r\nHost: x\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    beginnings = {"headers": head + b"X: ", "chunk": chunked + b"1;", "trailers": chunked + b"0\r\nX: "}
    opened = {name: server.connect(server.rest) for name in beginnings}
    began = time.monotonic()
    held: dict[str, float] = {}
    for name, connection in opened.items():
        connection.sendall(beginnings[name])
    byte = began
    while len(held) < len(opened) and time.monotonic() < began + 75:
        drip = time.monotonic() >= byte + 12
        byte += 12 * drip
        for name, connection in opened.items():
            if name in held:
                continue
            connection.setblocking(True)
            try:
                if drip:
                    connection.sendall(b"a")
            except OSError:
                held[name] = time.monotonic() - began
                continue
            if _is_closed(connection):
                held[name] = time.monotonic() - began
        time.sleep(0.2)
    for connection in opened.values():
        connection.close()
    said = ", ".join(f"{name} {held[name]:.0f} s" if name in held else f"{name} over 75 s" for name in opened)
    kept = len(held) < len(opened)
    return Sent(f"{'no answer: ' if kept else ''}held {said}", 300)


# Attacks on the end (c7)


def _end_with_held(server: Server) -> Sent:
    opened = [server.connect(server.rest) for _ in range(10)]
    for connection in opened:
        connection.sendall(_HALF_POST)
    calls = Http2(server.grpc)
    calls.read_all_the_while()
    for _ in range(10):
        calls.open_call()
    time.sleep(0.5)
    began = time.monotonic()
    os.kill(server.pid, signal.SIGTERM)
    while time.monotonic() < began + 60:
        with contextlib.suppress(OSError), open(f"/proc/{server.pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.1)
                continue
        break
    taken = time.monotonic() - began
    for connection in opened:
        connection.close()
    calls.close()
    return Sent(f"ended {taken:.1f} s after SIGTERM", 10 * len(_HALF_POST) + calls.sent)


# Instead of "one normal batch" of the other model: eight photos of a real model take about as long on two cores.
_BATCH_SECONDS = 0.5


def _image_attack(name: str, make: Callable[[], bytes], images: int = 1, requests: int = 1) -> Attack:
    return Attack(name, lambda: _images(make(), images, requests), longest=_BATCH_SECONDS, processor=2.0)


ATTACKS = (
    Attack("c1-nested-900", _nested, times_median=None),
    Attack("c1-arrays", lambda: _fill(b"[]"), times_median=None),
    Attack("c1-objects", lambda: _fill(b"{}"), times_median=None),
    Attack("c1-members", lambda: _fill(b'{"a":0}'), times_median=None),
    Attack("c1-numbers", lambda: _fill(b"1"), times_median=None),
    Attack("c1-strings", lambda: _fill(b'"a"'), times_median=None),
    Attack("c1-instances-of-arrays", lambda: _fill(b"[]", b'{"instances":[', b"]}"), times_median=None),
    Attack("c1-instances-of-numbers", lambda: _fill(b"1", b'{"instances":[', b"]}"), times_median=None),
    Attack("c2-270-held-calls", lambda: _held_calls(1, 270)),
    Attack("c2-1000-held-calls", lambda: _held_calls(1, 1000)),
    Attack("c2-1000-calls-connections", lambda: _held_calls(1000, 1)),
    Attack("c2-rapid-reset", lambda: _rapid_reset(50_000), unit=0),
    Attack("c2-20-messages", lambda: _big_messages(20), unit=_BIG),
    _image_attack("c3-jpeg-scans", lambda: hostile_images.jpeg_of_scans(4000), requests=2),
    _image_attack("c3-png-text", hostile_images.png_of_text),
    _image_attack("c3-gif-comments", hostile_images.gif_of_comments),
    _image_attack("c3-gif-25-mb-of-comments", lambda: hostile_images.gif_of_comments(25_000_000, 255)),
    _image_attack("c3-png-pixels", hostile_images.png_of_pixels, images=12),
    Attack("c4-260-half-posts", lambda: _raw_connections(260, _HALF_POST)),
    Attack("c4-1000-half-posts", lambda: _raw_connections(1000, _HALF_POST)),
    Attack("c4-headers", lambda: _big_headers(100, 6 * _MIB), unit=32 << 10),
    Attack("c4-1000-idle", lambda: _raw_connections(1000, b"")),
    Attack("c4-1000-idle-grpc", lambda: _raw_connections(1000, b"", "grpc")),
    Attack("c4-1000-idle-http2", lambda: _held_calls(1000, 0)),
    Attack("c4-drip", lambda: _drip),
    Attack("c7-sigterm", lambda: _end_with_held, ends=True),
    Attack("c4-150-idle-of-128", lambda: _raw_connections(150, b""), descriptors=128),
)
