"""Three honest users of a server, in a process of their own: a probe, a REST client and a gRPC client.

    python -m tests.serving.oracle.witness REST_ADDRESS GRPC_ADDRESS SLOWNESS

Each user pauses between two requests: 20 ms for the probe and 25 ms for the clients, times SLOWNESS.
Each line on standard input ends a window, and begins the next one. The answer is a line of JSON about the window that
ended: for each user the seconds of every request that ended in it, how long the request under way has waited, and the
faults. `Witness` is the other end.
"""

import http.client
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_PAUSES = {"probe": 0.02, "rest": 0.025, "grpc": 0.025}  # seconds between two requests
_PATIENCE = 60.0  # seconds until a request is given up
_PREDICT = "/tensorflow.serving.PredictionService/Predict"


class _User(threading.Thread):
    """Sends one request after the other."""

    def __init__(self, name: str, send: Callable[[], None], pause: float) -> None:
        super().__init__(name=name, daemon=True)
        self._send = send
        self._pause = pause
        self._lock = threading.Lock()
        self._taken: list[float] = []
        self._faults: list[str] = []
        self._began: float | None = None

    def run(self) -> None:
        while True:
            with self._lock:
                self._began = began = time.perf_counter()
            fault = ""
            try:
                self._send()
            except Exception as error:  # noqa: BLE001 - every fault is counted
                fault = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            with self._lock:
                self._began = None
                self._taken.append(time.perf_counter() - began)
                self._faults += [fault] * bool(fault)
            time.sleep(self._pause)

    def end_window(self) -> dict[str, Any]:
        with self._lock:
            waiting = time.perf_counter() - self._began if self._began is not None else 0.0
            window = {"taken": self._taken, "waiting": waiting, "faults": self._faults}
            self._taken, self._faults = [], []
            return window


def _probe(address: str) -> None:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=_PATIENCE)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        assert answer.read() == b"ok\n", answer.status
    finally:
        connection.close()


def _predict_by_rest(address: str) -> None:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=_PATIENCE)
    try:
        connection.request("POST", "/v1/models/numbers:predict", b'{"instances": [[1.0, 2.0]]}')
        answer = connection.getresponse()
        text = answer.read()
        assert json.loads(text).get("predictions") == [[2.5, 3.0]], f"{answer.status} {text[:100]!r}"
    finally:
        connection.close()


def _grpc_client(address: str) -> Callable[[], None]:
    import grpc

    from graftline.serving.client import tensors, wire_pb2

    x = tensors.to_proto(tensors.as_array([[1.0, 2.0]]).astype("float32"))
    message = wire_pb2.PredictRequest(model_spec=wire_pb2.ModelSpec(name="numbers"), inputs={"x": x})
    data = message.SerializeToString()
    predict = grpc.insecure_channel(address).unary_unary(_PREDICT)

    def send() -> None:
        try:
            assert b"y" in predict(data, timeout=_PATIENCE)
        except grpc.RpcError as error:
            raise ConnectionError(f"{error.code().name}: {error.details()}") from None

    return send


def main() -> None:
    """Be the users, until standard input ends."""
    rest, rpc, slowness = sys.argv[1:]
    sends = {"probe": lambda: _probe(rest), "rest": lambda: _predict_by_rest(rest), "grpc": _grpc_client(rpc)}
    users = [_User(name, sends[name], pause * float(slowness)) for name, pause in _PAUSES.items()]
    for user in users:
        user.start()
    for _ in sys.stdin:
        sys.stdout.write(json.dumps({user.name: user.end_window() for user in users}) + "\n")
        sys.stdout.flush()


@dataclass(frozen=True)
class Window:
    """What one user saw between two looks. Times are seconds."""

    count: int
    p50: float
    p99: float
    longest: float  # the request under way counts with what it has waited
    faults: list[str]


def _window(taken: list[float], waiting: float, faults: list[str]) -> Window:
    times = sorted([*taken, waiting] if waiting > max(taken, default=0.0) or not taken else taken)
    p99 = times[min(len(times) - 1, round(0.99 * len(times)))]
    return Window(len(times), statistics.median(times), p99, times[-1], faults)


class Witness:
    """The honest users of one server, for the length of a `with`."""

    def __init__(self, rest: str, rpc: str, slowness: float = 1.0) -> None:
        self._command = [sys.executable, "-m", "tests.serving.oracle.witness", rest, rpc, str(slowness)]

    def __enter__(self) -> "Witness":
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.look()
        return self

    def look(self) -> dict[str, Window]:
        """End a window; return what each user saw in it: "probe", "rest", "grpc"."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return {name: _window(**seen) for name, seen in json.loads(self._process.stdout.readline()).items()}

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            pipe.close()


if __name__ == "__main__":
    main()
