"""The resource oracle: sends malformed cases to a live server and judges what each has cost.

For a case of n bytes, counted after decompression, whose images declare p pixels (at most those that a request may
have), the server fails when

- its peak memory grows by more than 8 n + 20 p bytes + 64 MiB: a pixel is 3 bytes, and 12 as float32, and the model may
  hold both twice for a moment;
- it uses more than 0.5 s + 300 ns x (n + p) of processor time, that of its child processes included; for raw HTTP/1.1,
  2 us a byte: h11 is written in Python, and takes 10 us for a line of 6 bytes;
- a probe of /healthz, or a client that sends Predict over REST or gRPC, waits more than a second, or is refused (the
  default test suite gives them longer: the machine may be busy);
- there is no answer within `_PATIENCE` seconds, or it says that the server is at fault (5xx, INTERNAL, UNKNOWN);
- the process ends, or logs a traceback.

Other work on the machine can make anybody wait, so a case fails only when it misses a limit three times.
"""

import json
import pathlib
import random
import re
import select
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

from tests.serving.oracle import http_cases, image_cases, json_cases, proto_cases
from tests.serving.oracle.case import Case
from tests.serving.oracle.gauge import Gauge
from tests.serving.oracle.live import Live
from tests.serving.oracle.witness import Witness

MEMORY_PER_BYTE = 8
_MEMORY_PER_PIXEL = 20
_MEMORY = 64 << 20
_SECONDS_PER_BYTE = 300e-9
_SECONDS_PER_FRAMED_BYTE = 2e-6
_SECONDS = 0.5
LONGEST_WAIT = 1.0
_PATIENCE = 20.0
_TRIES = 3
_LEFT = 256 << 20  # bytes that a server may keep before the next case gets a new one
_CALM = 4.0  # the honest users then take little of the processor time that is measured
# How often each maker is chosen, and the most bytes that make sense for it: lines of HTTP have limits of their own.
_MAKERS: dict[str, tuple[Callable[[random.Random, int], Case], int, int]] = {
    "json": (json_cases.make, 6, 60 << 20),
    "small-json": (json_cases.make_small, 2, 0),
    "image": (image_cases.make, 6, 40 << 20),
    "proto": (proto_cases.make, 5, 60 << 20),
    "small-proto": (proto_cases.make_small, 3, 0),
    "http": (http_cases.make, 4, 4 << 20),
    "http2": (http_cases.make_http2, 4, 4 << 20),
}
KINDS = tuple(_MAKERS)


def make_case(seed: int, number: int, most: int, kinds: tuple[str, ...] = KINDS) -> Case:
    """Return case `number` of a seed, of at most about `most` bytes: always the same one."""
    chance = random.Random(f"{seed} {number}")
    kind = chance.choices(kinds, [_MAKERS[kind][1] for kind in kinds])[0]
    maker, _, largest = _MAKERS[kind]
    return maker(chance, min(most, largest))


class Oracle:
    """A live server with its honest users, and what is asked of it."""

    def __init__(self, workspace: str, longest_wait: float = LONGEST_WAIT) -> None:
        self._workspace = workspace
        self._longest_wait = longest_wait
        self._running = ExitStack()
        self.answers: dict[str, int] = {}  # how often each came
        self.most: dict[str, float] = {"memory": 0.0, "seconds": 0.0}  # the largest share of a limit that was used

    def __enter__(self) -> "Oracle":
        self._start()
        return self

    def _start(self) -> None:
        import grpc

        self._live = self._running.enter_context(Live(self._workspace))
        self._witness = self._running.enter_context(Witness(self._live.rest, self._live.grpc, _CALM))
        self._channel = self._running.enter_context(grpc.insecure_channel(self._live.grpc))
        self._gauge = Gauge(self._live.pid)
        time.sleep(0.5)
        self._gauge.settle()
        self._memory = self._gauge.memory()
        self._witness.look()

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def judge(self, case: Case) -> list[str]:
        """Send a case; return the limits that it misses each time, in words."""
        for _ in range(_TRIES):
            faults = self._try(case)
            if not faults:
                return []
            if not all(" waited " in fault for fault in faults):
                self._running.close()
                self._start()
            self._gauge.settle()
        return faults

    def _try(self, case: Case) -> list[str]:
        if self._gauge.memory() > self._memory + _LEFT:
            self._running.close()
            self._start()
        self._witness.look()  # ends the window of the case before
        self._gauge.reset()
        began = len(self._live.said)
        faults = self._send(case)
        if not self._live.running:
            return [*faults, f"the server ended: {''.join(self._live.said[-5:])}"]
        faults += self._count_cost(case)
        for name, window in self._witness.look().items():
            if window.faults:
                faults.append(f"{name}: {window.faults[0]}")
            if window.longest > self._longest_wait:
                faults.append(f"{name} waited {window.longest:.1f} s, more than {self._longest_wait:g}")
        said = "".join(self._live.said[began:])
        if "Traceback" in said:
            faults.append(f"the server logged {len(said):,} characters: {said[:500]}")
        return faults

    def _count_cost(self, case: Case) -> list[str]:
        each = _SECONDS_PER_FRAMED_BYTE if case.framed else _SECONDS_PER_BYTE
        limits = {
            "memory": MEMORY_PER_BYTE * case.weight + _MEMORY_PER_PIXEL * case.pixels + _MEMORY,
            "seconds": _SECONDS + each * (case.weight + case.pixels),
        }
        used = {"memory": float(self._gauge.growth()), "seconds": self._gauge.seconds()}
        faults = []
        for name, limit in limits.items():
            self.most[name] = max(self.most[name], used[name] / limit)
            if used[name] > limit:
                faults.append(f"{name}: {used[name]:,.1f}, more than {limit:,.1f} for {case.weight:,} bytes")
        return faults

    def _send(self, case: Case) -> list[str]:
        if case.kind == "grpc":
            return self._call(case)
        address = self._live.rest if case.kind == "http" else self._live.grpc
        answer = exchange(address, case.data, _PATIENCE if case.kind == "http" else 0.3)
        if case.kind == "http2":
            return []
        if answer is None:
            return [f"no answer in {_PATIENCE:g} s"]
        status = re.match(rb"HTTP/1\.1 (\d{3})", answer)
        self._note(f"REST {status[1].decode()}" if status else "REST none")
        wrong = status and status[1].startswith(b"5") and status[1] not in (b"501", b"505")
        return [f"the answer is {answer[:300]!r}"] if wrong else []

    def _call(self, case: Case) -> list[str]:
        import grpc

        try:
            self._channel.unary_unary(case.method)(case.data, timeout=_PATIENCE)
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            self._note(f"gRPC {code.name}")
            # A message that is no proto never reaches TensorFlow Serving's code: gRPC answers INTERNAL there, too.
            no_proto = code is grpc.StatusCode.INTERNAL and "deserializing" in details
            wrong = ("UNKNOWN", "INTERNAL", "DEADLINE_EXCEEDED", "UNAVAILABLE", "DATA_LOSS", "CANCELLED")
            return [f"the answer is {code.name}: {details[:300]}"] if code.name in wrong and not no_proto else []
        self._note("gRPC OK")
        return []

    def _note(self, answer: str) -> None:
        self.answers[answer] = self.answers.get(answer, 0) + 1


def exchange(address: str, data: bytes, seconds: float) -> bytes | None:
    """Send bytes, and read until the server closes. None when it has not closed `seconds` after they were sent."""
    host, _, port = address.rpartition(":")
    answer, rest = bytearray(), memoryview(data)
    ended = False
    with socket.create_connection((host, int(port)), timeout=_PATIENCE) as connection:
        connection.setblocking(False)
        until = time.monotonic() + _PATIENCE
        try:
            while time.monotonic() < until:
                readable, writable, _ = select.select([connection], [connection] if rest else [], [], 0.5)
                if readable:
                    piece = connection.recv(1 << 16)
                    if not piece:
                        return bytes(answer)
                    answer += piece[: max(0, 10_000 - len(answer))]
                if writable:
                    rest = rest[connection.send(rest[: 1 << 18]) :]
                if not rest and not ended:
                    ended = True
                    connection.shutdown(socket.SHUT_WR)
                    until = time.monotonic() + seconds
        except OSError:  # the server has closed while it was sent to
            return bytes(answer)
    return None


def keep(folder: pathlib.Path, case: Case, seed: int, number: int, faults: list[str]) -> pathlib.Path:
    """Write a case that failed, and what is needed to make it again; return the file of its bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{seed}-{number}.bin"
    path.write_bytes(case.data)
    told = {"seed": seed, "number": number, "name": case.name, "kind": case.kind, "method": case.method}
    path.with_suffix(".json").write_text(json.dumps(told | {"faults": faults}, indent=1))
    return path
