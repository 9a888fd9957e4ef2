"""Serves a SavedModel in a new process and checks answers, times, memory, and errors for malformed requests.

`validate` is a function of a folder and the Trainer's reference predictions; `executor` calls it in a TFX node.
"""

import base64
import http.client
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from graftline import signatures
from graftline.components.serving_validator.server_process import NAME, ServerProcess, StartError, serving
from graftline.components.serving_validator.settings import TOLERANCE, ServingValidationSettings
from graftline.references import Reference

_FEW = 8  # images that are also sent over REST and in one batch
_BATCH_BYTES = 16 << 20  # of that batch, unless a single image is larger
_URL = f"/v1/models/{NAME}:predict"
# gRPC's codes that do not blame the client for a malformed request.
_BROKEN = ("OK", "UNAVAILABLE", "UNKNOWN", "DEADLINE_EXCEEDED", "CANCELLED")


@dataclass
class Report:
    """What the validation found. The model passes when there are no `reasons` against it.

    Attributes:
      reasons: sentences on what went wrong.
      images: how many reference images were sent.
      largest_difference: of a served probability from the Trainer's; at most 1.
      start_seconds: until the server answered.
      first_ms: the first request, over gRPC.
      grpc_ms: one image over gRPC, the median without the first request.
      rest_ms: one image over REST, the median.
      memory_mb: the server's peak.
      malformed: the status for each malformed request.
      withdrawn: the model was rolled back from, so it was not served.
    """

    reasons: list[str] = field(default_factory=list)
    images: int = 0
    largest_difference: float | None = None
    start_seconds: float | None = None
    first_ms: float | None = None
    grpc_ms: float | None = None
    rest_ms: float | None = None
    memory_mb: float | None = None
    malformed: dict[str, str] = field(default_factory=dict)
    withdrawn: bool = False

    @property
    def passed(self) -> bool:
        """Return whether the model may be served."""
        return not self.reasons

    def to_json(self) -> str:
        """Return the report as JSON, for `blessings.SERVING_VALIDATION_FILE`."""
        return json.dumps({"passed": self.passed, **asdict(self)}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Return the report that `to_json` wrote."""
        fields = json.loads(text)
        del fields["passed"]
        return cls(**fields)


def validate(saved_model_dir: str, references: Sequence[Reference], settings: ServingValidationSettings) -> Report:
    """Serve the model and send requests. Everything that goes wrong is a reason in the report, not an exception.

    The answers must equal the `references`; without references the model does not pass.
    """
    report = Report()
    if not references:
        report.reasons.append("the model has no reference predictions to compare with: train it again")
        return report
    began = time.monotonic()
    try:
        with serving(saved_model_dir, settings.start_seconds) as server:
            report.start_seconds = round(time.monotonic() - began, 3)
            _ask(server, references, settings, report)
        report.memory_mb = server.peak_mb and round(server.peak_mb, 1)
    except StartError as error:
        report.reasons.append(f"the model server did not start with it: {error}")
    if settings.memory_mb and (report.memory_mb or 0) > settings.memory_mb:
        report.reasons.append(
            f"the server used {report.memory_mb:,.0f} MB; serving_validation.memory_mb is {settings.memory_mb:g}"
        )
    return report


def _ask(
    server: ServerProcess, references: Sequence[Reference], settings: ServingValidationSettings, report: Report
) -> None:
    """Send all requests to a running server; an answer that cannot be read is a reason, too."""
    import grpc

    # The server is on this machine: never by a proxy of the environment (grpc #29718). http.client knows none.
    options = [("grpc.enable_http_proxy", 0)]
    options += [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.grpc, options=options) as channel:
        clients = _Grpc(channel, settings.start_seconds), _Rest(server.rest, settings.start_seconds)
        try:
            _ask_for_answers(*clients, references, settings, report)
            _send_malformed(*clients, references[0], report)
            again = clients[0].probabilities([references[0].image_bytes])
            _compare("gRPC, after the malformed requests", [references[0]], again, settings, report)
        except _RefusedError as error:
            report.reasons.append(f"a good request was refused, {error}")
        except OSError as error:  # the connection broke
            report.reasons.append(f"the server did not answer over REST: {error}")
        except (ValueError, TypeError, LookupError) as error:  # the answer does not hold a row for each image
            report.reasons.append(f"an answer has the wrong form: {type(error).__name__}: {error}")
    if not server.alive:
        report.reasons.append("the server died during the validation")


class _RefusedError(Exception):
    """An error instead of an answer; the message has protocol, status and text."""


class _Grpc:
    def __init__(self, channel: Any, seconds: float) -> None:
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self._raw = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        self._seconds = seconds

    def probabilities(self, images: Sequence[bytes]) -> np.ndarray:
        """Return a batch's probabilities, float32 [N, C]; raise _RefusedError for an error of the server."""
        import grpc
        import tensorflow as tf

        try:
            answer = self._stub.Predict(_request({signatures.IMAGE_BYTES: list(images)}), timeout=self._seconds)
        except grpc.RpcError as error:
            raise _RefusedError(f"over gRPC: {error.code().name}: {error.details()}") from error
        if signatures.PROBABILITIES not in answer.outputs:
            raise _RefusedError(f"over gRPC: the answer has no {signatures.PROBABILITIES}")
        return np.asarray(tf.make_ndarray(answer.outputs[signatures.PROBABILITIES]))

    def status(self, message: bytes) -> str:
        """Return the name of the status code for a serialized request."""
        import grpc

        try:
            self._raw(message, timeout=self._seconds)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"


class _Rest:
    def __init__(self, address: str, seconds: float) -> None:
        self._address, self._seconds = address, seconds

    def post(self, body: bytes, path: str = _URL) -> tuple[int, bytes]:
        """Return status and body; raise OSError if the connection broke."""
        connection = http.client.HTTPConnection(self._address, timeout=self._seconds)
        try:
            connection.request("POST", path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()

    def probabilities(self, images: Sequence[bytes]) -> np.ndarray:
        """Return a batch's probabilities, float [N, C]; raise as `post` does, and _RefusedError as `_Grpc` does."""
        status, body = self.post(_json({"instances": [{"b64": base64.b64encode(image).decode()} for image in images]}))
        if status != http.client.OK:
            raise _RefusedError(f"over REST: {status}: {body[:200].decode(errors='replace')}")
        rows = json.loads(body)["predictions"]
        # Without a name, when the model has one output.
        return np.array([row[signatures.PROBABILITIES] if isinstance(row, dict) else row for row in rows])


def _ask_for_answers(
    rpc: _Grpc, rest: _Rest, references: Sequence[Reference], settings: ServingValidationSettings, report: Report
) -> None:
    report.images = len(references)
    answers, times = _one_by_one(rpc.probabilities, references)
    _compare("gRPC", references, answers, settings, report)
    report.first_ms, report.grpc_ms = times[0], round(statistics.median(times[1:] or times), 3)
    few = list(references[:_FEW])
    answers, times = _one_by_one(rest.probabilities, few)
    _compare("REST", few, answers, settings, report)
    report.rest_ms = round(statistics.median(times), 3)
    while len(few) > 1 and sum(len(each.image_bytes) for each in few) > _BATCH_BYTES:
        few.pop()
    batch = rpc.probabilities([each.image_bytes for each in few])
    _compare(f"gRPC, {len(few)} images in one batch", few, batch, settings, report)
    if settings.latency_ms and report.grpc_ms > settings.latency_ms:
        report.reasons.append(
            f"one image takes {report.grpc_ms:,.1f} ms; serving_validation.latency_ms is {settings.latency_ms:g}"
        )


def _one_by_one(
    ask: Callable[[Sequence[bytes]], np.ndarray], references: Sequence[Reference]
) -> tuple[list[np.ndarray], list[float]]:
    """Return the answer for each image, and the milliseconds that it took."""
    answers, times = [], []
    for reference in references:
        began = time.perf_counter()
        answers.append(ask([reference.image_bytes])[0])
        times.append(round((time.perf_counter() - began) * 1000, 3))
    return answers, times


def _compare(
    how: str, references: Sequence[Reference], answers: Any, settings: ServingValidationSettings, report: Report
) -> None:
    """Record the largest difference from the Trainer's answers, and a reason if it exceeds the tolerance."""
    tolerance = settings.tolerance or TOLERANCE
    expected = np.stack([reference.probabilities for reference in references])
    served = np.asarray(answers)
    if served.shape != expected.shape:
        report.reasons.append(f"answers over {how} have the shape {served.shape}, the trainer's {expected.shape}")
        return
    differences = np.abs(served - expected).max(axis=1)
    differences[np.isnan(differences)] = np.inf
    largest = float(differences.max())
    # JSON has no infinity.
    report.largest_difference = max(report.largest_difference or 0.0, min(largest, 1.0))
    if largest > tolerance:
        worst = references[int(differences.argmax())].filename
        report.reasons.append(
            f"{int((differences > tolerance).sum())} of {len(references)} answers over {how} differ from the "
            f"trainer's: {worst} by {largest:.2g}; serving_validation.tolerance is {tolerance:g}"
        )


def _send_malformed(rpc: _Grpc, rest: _Rest, good: Reference, report: Report) -> None:
    """Send malformed requests: each must get an error that blames the client, and none may end the server."""
    for what, message in _malformed_messages(good):
        report.malformed[f"gRPC {what}"] = status = rpc.status(message)
        if status in _BROKEN:
            report.reasons.append(f"{what} over gRPC got {status}, not an error for the client")
    for what, body in _malformed_bodies():
        try:
            code, answer = rest.post(body)
        except OSError as error:  # the connection broke
            code, answer = 0, str(error).encode()
        report.malformed[f"REST {what}"] = str(code)
        if not 400 <= code < 500 or b'"error"' not in answer:
            text = f"{code}: {answer[:100].decode(errors='replace')}"
            report.reasons.append(f"{what} over REST got {text}, not an error for the client")


def _malformed_messages(good: Reference) -> Iterator[tuple[str, bytes]]:
    image = {signatures.IMAGE_BYTES: [good.image_bytes]}
    no_image = b"\xff\xd8 not an image"
    yield "bytes that are not an image", _request({signatures.IMAGE_BYTES: [no_image]}).SerializeToString()
    yield "an empty image", _request({signatures.IMAGE_BYTES: [b""]}).SerializeToString()
    yield "an unknown signature", _request(image, "nonsense").SerializeToString()
    yield "an unknown input", _request({"nonsense": [good.image_bytes]}).SerializeToString()
    yield "no input", _request({}).SerializeToString()
    yield "numbers instead of bytes", _request({signatures.IMAGE_BYTES: [1.0, 2.0]}).SerializeToString()
    yield "an unknown model", _request(image, name="nonsense").SerializeToString()
    yield "a message that is not protobuf", b"\xff\xff\xff\xff"


def _malformed_bodies() -> Iterator[tuple[str, bytes]]:
    nonsense = {"b64": base64.b64encode(b"nonsense").decode()}
    yield "bytes that are not an image", _json({"instances": [nonsense]})
    yield "an empty image", _json({"instances": [{"b64": ""}]})
    yield "an unknown signature", _json({"signature_name": "nonsense", "instances": [nonsense]})
    yield "numbers instead of bytes", _json({"instances": [1.0, 2.0]})
    yield "a text that is not base64", _json({"instances": [{"b64": "!"}]})
    yield "broken JSON", b'{"instances": ['
    yield "an empty body", b""


def _request(inputs: Mapping[str, list[Any]], signature: str = signatures.SERVING_DEFAULT, name: str = NAME) -> Any:
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    for key, values in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(values))
    return request


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
