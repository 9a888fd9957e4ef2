"""Many requests in turn, in a process of its own: Predict over REST and gRPC, and one malformed request in fifty.

    python -m tests.serving.oracle.load REST_ADDRESS GRPC_ADDRESS SEED

Each line on standard input is a number of requests; the answer is a line of JSON when they have been answered: how many
good ones failed, and the first fault. `Clients` is the other end.
"""

import contextlib
import http.client
import json
import random
import subprocess
import sys

from tests.serving.oracle.http2 import PREDICT
from tests.serving.oracle.judge import exchange, make_case

_MALFORMED = 0.02
_KINDS = ("small-json", "small-proto", "http")
_SECONDS = 60.0  # that a request may take
_ASKED = b'{"instances": [[1.0, 2.0]]}'


class _Client:
    """One client with a connection to each port."""

    def __init__(self, rest: str, rpc: str, seed: int) -> None:
        import grpc

        from graftline.serving.client import tensors, wire_pb2

        host, _, port = rest.rpartition(":")
        self._address = rest
        self._rest = http.client.HTTPConnection(host, int(port), timeout=_SECONDS)
        self._channel = grpc.insecure_channel(rpc)
        x = tensors.to_proto(tensors.as_array([[1.0, 2.0]]).astype("float32"))
        message = wire_pb2.PredictRequest(model_spec=wire_pb2.ModelSpec(name="numbers"), inputs={"x": x})
        self._message = message.SerializeToString()
        self._predict = self._channel.unary_unary(PREDICT)
        self._seed = seed
        self._chance = random.Random(seed)
        self._malformed = 0

    def send(self) -> None:
        """Send one request; raise what a good one fails with."""
        kind = self._chance.random()
        if kind < _MALFORMED:
            self._send_malformed()
        elif kind < 0.5:
            self._rest.request("POST", "/v1/models/numbers:predict", _ASKED)
            answer = self._rest.getresponse()
            text = answer.read()
            assert answer.status == 200 and json.loads(text)["predictions"] == [[2.5, 3.0]], (answer.status, text)
        else:
            assert b"y" in self._predict(self._message, timeout=_SECONDS)

    def _send_malformed(self) -> None:
        import grpc

        case = make_case(self._seed, self._malformed, 2000, _KINDS)
        self._malformed += 1
        if case.kind == "grpc":
            with contextlib.suppress(grpc.RpcError):
                self._channel.unary_unary(case.method)(case.data, timeout=_SECONDS)
        else:
            assert exchange(self._address, case.data, _SECONDS) is not None, case.name


def main() -> None:
    """Send requests until standard input ends."""
    rest, rpc, seed = sys.argv[1:]
    client = _Client(rest, rpc, int(seed))
    for line in sys.stdin:
        failed, fault = 0, ""
        for _ in range(int(line)):
            try:
                client.send()
            except Exception as error:  # noqa: BLE001 - every fault is counted
                failed, fault = failed + 1, fault or f"{type(error).__name__}: {error}"[:300]
        sys.stdout.write(json.dumps({"failed": failed, "fault": fault}) + "\n")
        sys.stdout.flush()


class Clients:
    """So many processes that send requests, for the length of a `with`."""

    def __init__(self, rest: str, rpc: str, count: int) -> None:
        command = [sys.executable, "-m", "tests.serving.oracle.load", rest, rpc]
        self._commands = [[*command, str(seed)] for seed in range(count)]

    def __enter__(self) -> "Clients":
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._processes = [subprocess.Popen(command, **pipes) for command in self._commands]
        return self

    def begin(self, count: int) -> None:
        """Let them send `count` requests in all."""
        for process in self._processes:
            process.stdin.write(f"{count // len(self._processes)}\n")
            process.stdin.flush()

    def wait(self) -> tuple[int, str]:
        """Wait until these are answered; return how many good ones failed, and a fault."""
        answers = [json.loads(process.stdout.readline()) for process in self._processes]
        return sum(each["failed"] for each in answers), next((each["fault"] for each in answers if each["fault"]), "")

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


if __name__ == "__main__":
    main()
