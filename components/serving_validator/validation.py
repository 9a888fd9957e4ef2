"""Serves a SavedModel in a fresh process and asks it what clients ask: right answers, in time, and errors for nonsense.

A plain function of a folder and the trainer's own predictions; `executor` is the TFX shell around it.
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

_FEW = 8  # images that are asked once more over REST and in one batch
_BATCH_BYTES = 16 << 20  # of that batch, unless one image alone is larger
_URL = f"/v1/models/{NAME}:predict"


@dataclass
class Report:
    """What was found. Nothing in `reasons`: the model may be served. Times are in milliseconds of one image."""

    reasons: list[str] = field(default_factory=list)
    images: int = 0
    largest_difference: float | None = None  # of a served probability from the trainer's
    start_seconds: float | None = None
    first_ms: float | None = None  # the first request, over gRPC
    grpc_ms: float | None = None  # the median of the others
    rest_ms: float | None = None
    memory_mb: float | None = None  # at its peak
    malformed: dict[str, str] = field(default_factory=dict)  # what was sent → the status that it got
    withdrawn: bool = False  # it was rolled back from, and so was not asked anything

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against serving the model."""
        return not self.reasons

    def to_json(self) -> str:
        """Return the report as JSON, for `blessings.SERVING_VALIDATION_FILE`."""
        return json.dumps({"passed": self.passed, **asdict(self)}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Reads what `to_json` wrote."""
        fields = json.loads(text)
        del fields["passed"]
        return cls(**fields)


def validate(saved_model_dir: str, references: Sequence[Reference], settings: ServingValidationSettings) -> Report:
    """Serves the model and asks. Whatever goes wrong is a reason in the report; nothing is raised for it.

    Args:
      saved_model_dir: on disk.
      references: what the answers must equal; without any the model does not pass.
      settings: tolerance and budgets.
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
            f"the server needed {report.memory_mb:,.0f} MB, and serving_validation.memory_mb is {settings.memory_mb:g}"
        )
    return report


def _ask(
    server: ServerProcess, references: Sequence[Reference], settings: ServingValidationSettings, report: Report
) -> None:
    """All questions to a running server; what a broken one says is a reason as well."""
    import grpc

    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.grpc, options=options) as channel:
        clients = _Grpc(channel, settings.start_seconds), _Rest(server.rest, settings.start_seconds)
        try:
            _ask_for_answers(*clients, references, settings, report)
            _ask_nonsense(*clients, references[0], report)
            again = clients[0].probabilities([references[0].image_bytes])
            _compare("gRPC, after the malformed requests", [references[0]], again, settings, report)
        except _RefusedError as error:
            report.reasons.append(f"a good request was refused, {error}")
        except OSError as error:  # of the connection
            report.reasons.append(f"the server did not answer over REST: {error}")
        except (ValueError, TypeError, LookupError) as error:  # of what does not hold a row for each image
            report.reasons.append(f"an answer was not what was asked for: {type(error).__name__}: {error}")
    if not server.alive:
        report.reasons.append("the server died while it was asked")


class _RefusedError(Exception):
    """An error in place of an answer: protocol, status and message."""


class _Grpc:
    def __init__(self, channel: Any, seconds: float) -> None:
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self._raw = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        self._seconds = seconds

    def probabilities(self, images: Sequence[bytes]) -> np.ndarray:
        """Of a batch, float32 [N, C]. Raises _RefusedError."""
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
        """The name of the code that a serialized request gets."""
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
        """Status and body. Raises OSError or http.client.HTTPException when the connection breaks."""
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
        """Of a batch, float [N, C]. Raises _RefusedError, and as `post`."""
        status, body = self.post(_json({"instances": [{"b64": base64.b64encode(image).decode()} for image in images]}))
        if status != http.client.OK:
            raise _RefusedError(f"over REST: {status}: {body[:200].decode(errors='replace')}")
        rows = json.loads(body)["predictions"]
        # A model with one output gives it bare.
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
            f"one image takes {report.grpc_ms:,.1f} ms, and serving_validation.latency_ms is {settings.latency_ms:g}"
        )


def _one_by_one(
    ask: Callable[[Sequence[bytes]], np.ndarray], references: Sequence[Reference]
) -> tuple[list[np.ndarray], list[float]]:
    """The answer for each image, and the milliseconds that it took."""
    answers, times = [], []
    for reference in references:
        began = time.perf_counter()
        answers.append(ask([reference.image_bytes])[0])
        times.append(round((time.perf_counter() - began) * 1000, 3))
    return answers, times


def _compare(
    how: str, references: Sequence[Reference], answers: Any, settings: ServingValidationSettings, report: Report
) -> None:
    """Notes by how much the answers differ from the trainer's, and that they do by too much."""
    tolerance = settings.tolerance or TOLERANCE
    expected = np.stack([reference.probabilities for reference in references])
    got = np.asarray(answers)
    if got.shape != expected.shape:
        report.reasons.append(f"answers over {how} have the shape {got.shape}, the trainer's {expected.shape}")
        return
    differences = np.abs(got - expected).max(axis=1)
    differences[np.isnan(differences)] = np.inf
    largest = float(differences.max())
    # JSON has no infinity.
    report.largest_difference = max(report.largest_difference or 0.0, min(largest, 1.0))
    if largest > tolerance:
        worst = references[int(differences.argmax())].filename
        report.reasons.append(
            f"{int((differences > tolerance).sum())} of {len(references)} answers over {how} are not what the trainer "
            f"had: {worst} differs by {largest:.2g}, and serving_validation.tolerance is {tolerance:g}"
        )


# --- nonsense ---------------------------------------------------------------------------------------------------------

_BROKEN = ("OK", "UNAVAILABLE", "UNKNOWN", "DEADLINE_EXCEEDED", "CANCELLED")


def _ask_nonsense(rpc: _Grpc, rest: _Rest, good: Reference, report: Report) -> None:
    """Each malformed request must get an error that tells the client of its mistake, and none may end the server."""
    for what, message in _malformed_messages(good):
        report.malformed[f"gRPC {what}"] = status = rpc.status(message)
        if status in _BROKEN:
            report.reasons.append(f"{what} over gRPC got {status} for an answer, not an error")
    for what, body in _malformed_bodies():
        try:
            code, answer = rest.post(body)
        except OSError as error:  # of the connection
            code, answer = 0, str(error).encode()
        report.malformed[f"REST {what}"] = str(code)
        if not 400 <= code < 500 or b'"error"' not in answer:
            told = f"{code}: {answer[:100].decode(errors='replace')}"
            report.reasons.append(f"{what} over REST got {told} for an answer, not an error")


def _malformed_messages(good: Reference) -> Iterator[tuple[str, bytes]]:
    image = {signatures.IMAGE_BYTES: [good.image_bytes]}
    yield "bytes that are no image", _request({signatures.IMAGE_BYTES: [b"\xff\xd8 not an image"]}).SerializeToString()
    yield "an empty image", _request({signatures.IMAGE_BYTES: [b""]}).SerializeToString()
    yield "an unknown signature", _request(image, "nonsense").SerializeToString()
    yield "an unknown input", _request({"nonsense": [good.image_bytes]}).SerializeToString()
    yield "no input", _request({}).SerializeToString()
    yield "numbers in place of bytes", _request({signatures.IMAGE_BYTES: [1.0, 2.0]}).SerializeToString()
    yield "an unknown model", _request(image, name="nonsense").SerializeToString()
    yield "a message that is no protobuf", b"\xff\xff\xff\xff"


def _malformed_bodies() -> Iterator[tuple[str, bytes]]:
    nonsense = {"b64": base64.b64encode(b"nonsense").decode()}
    yield "bytes that are no image", _json({"instances": [nonsense]})
    yield "an empty image", _json({"instances": [{"b64": ""}]})
    yield "an unknown signature", _json({"signature_name": "nonsense", "instances": [nonsense]})
    yield "numbers in place of bytes", _json({"instances": [1.0, 2.0]})
    yield "what is no base64", _json({"instances": [{"b64": "!"}]})
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
