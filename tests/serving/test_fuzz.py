"""Very many malformed requests: each gets an error, and the server answers the next one.

All are drawn from a seed: damaged images, protos, JSON and HTTP. What must not come back is a status that means a fault
of the server's (5xx, UNKNOWN, INTERNAL), where TensorFlow Serving itself would not say so.
"""

import base64
import http.client
import json
import random
import socket
from collections import Counter
from collections.abc import Callable

import grpc
import pytest
from PIL import Image

from tests.images import encode, image_of
from tests.serving.conftest import Child
from tests.serving.predict_requests import request

PREDICT = "/v1/models/colours:predict"
# A message that is not a proto never reaches TensorFlow Serving's code: gRPC answers INTERNAL, and so does Graftline.
ALLOWED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def damaged(data: bytes, chance: random.Random) -> bytes:
    """`data` with a few bytes changed, cut out, put in or moved."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(found) + 1)
        kind = chance.randrange(5)
        if kind == 0 and found:
            found[at % len(found)] = chance.randrange(256)
        elif kind == 1:
            del found[at : at + chance.randint(1, 40)]
        elif kind == 2:
            found[at:at] = chance.randbytes(chance.randint(1, 40))
        elif kind == 3:
            found[at:at] = found[: chance.randint(0, 60)]
        else:
            found[at : at + 4] = chance.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
    return bytes(found)


def pictures() -> list[bytes]:
    found = [image_of(colour, 24, fmt) for colour in ("red", "blue") for fmt in ("PNG", "JPEG", "BMP", "GIF")]
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12"
    return [*found, encode(Image.new("L", (40, 30)), progressive=True, exif=exif), b"", b"\0", b"\xff\xd8\xff"]


def any_json(chance: random.Random, depth: int = 0) -> object:
    kinds: list[Callable[[], object]] = [
        lambda: chance.choice([None, True, False, 0, -1, 1 << 70, 1e308, float("nan"), float("inf"), "", "x", "b64"]),
        lambda: {"b64": base64.b64encode(damaged(chance.choice(pictures()), chance)).decode()},
        lambda: {"b64": chance.choice(["%%%", "=", "AAA", 3, None])},
    ]
    if depth < 4:
        kinds += [
            lambda: [any_json(chance, depth + 1) for _ in range(chance.randint(0, 4))],
            lambda: {
                chance.choice(["instances", "inputs", "signature_name", "image_bytes", "x", "b64", "é"]): any_json(
                    chance, depth + 1
                )
                for _ in range(chance.randint(0, 3))
            },
        ]
    return chance.choice(kinds)()


class Fuzzer:
    """Sends malformed requests to one server and counts what it says."""

    def __init__(self, child: Child, seed: int) -> None:
        self.chance = random.Random(seed)
        self.said: Counter[str] = Counter()
        self._rest = child.rest
        self._channel = grpc.insecure_channel(child.grpc)
        self._pictures = pictures()
        self._kinds = [self.image_by_rest, self.image_by_grpc, self.proto, self.json, self.broken_json, self.http]

    def close(self) -> None:
        self._channel.close()

    def send(self) -> None:
        self.chance.choice(self._kinds)()

    def _post(self, body: bytes, path: str = PREDICT) -> None:
        host, _, port = self._rest.partition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        connection.request("POST", path, body)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        self.said[f"REST {answer.status}"] += 1
        assert answer.status in (200, 400, 404, 501), (answer.status, text, body[:300])
        document = json.loads(text)
        assert answer.status == 200 or list(document) == ["error"], text

    def _predict(self, message: bytes, broken: bool = False) -> None:
        others = ["Classify", "Regress", "MultiInference", "GetModelMetadata"] if broken else []
        api = self.chance.choice(["Predict"] * 8 + others)
        call = self._channel.unary_unary(f"/tensorflow.serving.PredictionService/{api}")
        try:
            call(message, timeout=60)
            code = grpc.StatusCode.OK
        except grpc.RpcError as error:
            code = error.code()
            assert code in ALLOWED or (broken and _is_no_proto(error)), (code, error.details(), message[:300])
        self.said[f"gRPC {code.name}"] += 1

    def image(self) -> bytes:
        return damaged(self.chance.choice(self._pictures), self.chance)

    def image_by_rest(self) -> None:
        images = [{"b64": base64.b64encode(self.image()).decode()} for _ in range(self.chance.randint(1, 3))]
        self._post(json.dumps({"instances": images}).encode())

    def image_by_grpc(self) -> None:
        images = [self.image() for _ in range(self.chance.randint(1, 3))]
        self._predict(request("colours", image_bytes=images).SerializeToString())

    def proto(self) -> None:
        good = request("colours", image_bytes=[self.chance.choice(self._pictures)])
        good.model_spec.version.value = self.chance.choice([3, 0, -5, 1 << 62])
        good.model_spec.signature_name = self.chance.choice(["", "serving_default", "no such", "\x00"])
        self._predict(damaged(good.SerializeToString(), self.chance), broken=True)

    def json(self) -> None:
        document = {self.chance.choice(["instances", "inputs", "examples"]): any_json(self.chance)}
        body = json.dumps(document if self.chance.random() < 0.8 else any_json(self.chance))
        verb = self.chance.choice(["predict"] * 4 + ["classify", "regress", "frobnicate"])
        name = self.chance.choice(["colours", "numbers", "numbers/versions/1", "colours/labels/x", "%00", ""])
        self._post(body.encode("utf-8", "surrogatepass"), f"/v1/models/{name}:{verb}")

    def broken_json(self) -> None:
        good = json.dumps({"instances": [{"b64": base64.b64encode(self._pictures[0]).decode()}] * 2})
        self._post(damaged(good.encode(), self.chance))

    def http(self) -> None:
        """Send raw bytes. Any answer or none is accepted, unless it reports a fault of the server."""
        body = b'{"instances": [{"b64": ""}]}'
        head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        host, _, port = self._rest.partition(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(damaged(head.encode() + body, self.chance))
            connection.shutdown(socket.SHUT_WR)
            answer = bytearray()
            try:
                while piece := connection.recv(65536):
                    answer += piece
            except ConnectionResetError:
                pass
        first = bytes(answer).split(b"\r\n", 1)[0].decode("latin-1")
        status = first.split(" ")[1] if first.startswith("HTTP/") else "none"
        self.said[f"HTTP {status}"] += 1
        assert not status.startswith("5") or status in ("501", "505"), answer


def _is_no_proto(error: grpc.RpcError) -> bool:
    return error.code() is grpc.StatusCode.INTERNAL and "deserializing" in (error.details() or "")


def fuzz(workspace, count: int, seed: int) -> None:
    with Child(str(workspace)) as child:
        fuzzer = Fuzzer(child, seed)
        for _ in range(count):
            fuzzer.send()
        assert child.process.poll() is None
        # Some answers are positive, so that the requests are known to have reached the model.
        assert fuzzer.said["REST 200"] and fuzzer.said["REST 400"] and fuzzer.said["gRPC INVALID_ARGUMENT"], fuzzer.said
        channel = grpc.insecure_channel(child.grpc)
        answer = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")(
            request("colours", image_bytes=[image_of("green")]).SerializeToString()
        )
        assert b"green" in answer
        channel.close()
        fuzzer.close()
        child.process.terminate()
        said = child.end()
        assert "Traceback" not in said, said


def test_hundreds_of_malformed_requests_leave_the_server_answering(workspace):
    fuzz(workspace, 300, seed=1)


@pytest.mark.slow
def test_ten_thousand_malformed_requests_leave_the_server_answering(workspace):
    fuzz(workspace, 10_000, seed=2)
