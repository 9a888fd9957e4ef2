"""TensorFlow Serving's two APIs as bytes: gRPC's messages and REST's JSON for the same calls. No input or output.

Sources: tensorflow_serving/apis/{prediction_service,model_service}.proto; https://www.tensorflow.org/tfx/serving/api_rest.
"""

import json
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graftline.serving.client import tensors, wire_pb2
from graftline.serving.client.exchange import Call
from graftline.serving.client.results import ServiceError, Signature, TensorSpec, VersionStatus
from graftline.signatures import MODELS_METADATA

Outputs = dict[str, np.ndarray]
_NO_MODEL = " "  # no model has this name
_SIGNATURES = "signature_def"  # the metadata field
# HTTP statuses of a server or of a proxy before it, as gRPC statuses.
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "UNAVAILABLE",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


@dataclass(frozen=True)
class Target:
    """A model's name, and a version's number or label; the newest version without either."""

    name: str
    version: int | None = None
    label: str | None = None


class GrpcApi:
    """gRPC: PredictionService and ModelService."""

    typed = True  # whether answers carry their types

    def predict(
        self, target: Target, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], spec: Signature
    ) -> Call[Outputs]:
        """Return the call of a signature for `outputs`, all when empty. REST takes the types of answers from `spec`."""
        request = wire_pb2.PredictRequest(model_spec=_model_spec(target, signature), output_filter=outputs)
        for name, values in inputs.items():
            request.inputs[name].CopyFrom(tensors.to_proto(values))

        def read(data: bytes) -> Outputs:
            protos = wire_pb2.PredictResponse.FromString(data).outputs
            return {name: tensors.from_proto(protos[name]) for name in outputs or sorted(protos)}

        return Call("", "/tensorflow.serving.PredictionService/Predict", request.SerializeToString(), read)

    def status(self, target: Target) -> Call[list[VersionStatus]]:
        """Return the call for the states of the versions, the newest first."""
        request = wire_pb2.GetModelStatusRequest(model_spec=_model_spec(target))

        def read(data: bytes) -> list[VersionStatus]:
            states = wire_pb2.GetModelStatusResponse.FromString(data).model_version_status
            name = wire_pb2.ModelVersionStatus.State.Name
            return [VersionStatus(one.version, name(one.state), one.status.error_message) for one in states]

        return Call("", "/tensorflow.serving.ModelService/GetModelStatus", request.SerializeToString(), read)

    def metadata(self, target: Target) -> Call[dict[str, Signature]]:
        """Return the call for the signatures by name."""
        request = wire_pb2.GetModelMetadataRequest(model_spec=_model_spec(target), metadata_field=[_SIGNATURES])

        def read(data: bytes) -> dict[str, Signature]:
            answer = wire_pb2.GetModelMetadataResponse.FromString(data)
            signatures = wire_pb2.SignatureDefMap.FromString(answer.metadata[_SIGNATURES].value).signature_def
            return {
                name: Signature(_specs(one.inputs), _specs(one.outputs), one.method_name)
                for name, one in signatures.items()
            }

        return Call("", "/tensorflow.serving.PredictionService/GetModelMetadata", request.SerializeToString(), read)

    def models(self) -> Call[tuple[str, ...]]:
        """Return a call that is refused; the names of the models come with the error."""
        status = self.status(Target(_NO_MODEL))
        return Call(status.verb, status.path, status.body, lambda data: ())


def _specs(infos: Mapping[str, wire_pb2.TensorInfo]) -> dict[str, TensorSpec]:
    return {name: tensors.spec_of(info.dtype, info.tensor_shape) for name, info in infos.items()}


def _json_specs(infos: Mapping[str, Any]) -> dict[str, TensorSpec]:
    return {name: tensors.spec_of_json(info) for name, info in infos.items()}


def _model_spec(target: Target, signature: str = "") -> wire_pb2.ModelSpec:
    spec = wire_pb2.ModelSpec(name=target.name, signature_name=signature)
    if target.version is not None:
        spec.version.value = target.version
    elif target.label is not None:
        spec.version_label = target.label
    return spec


class RestApi:
    """REST v1, with requests and answers in its columnar format."""

    typed = False

    def predict(
        self, target: Target, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], spec: Signature
    ) -> Call[Outputs]:
        """Return the call of a signature."""
        arrays = {name: tensors.to_json(values) for name, values in inputs.items()}
        body = json.dumps({"signature_name": signature, "inputs": arrays}).encode()

        def read(data: bytes) -> Outputs:
            answer = json.loads(data)["outputs"]
            if len(spec.outputs) == 1:  # a single output comes without its name
                answer = {next(iter(spec.outputs)): answer}
            if not isinstance(answer, dict) or (missing := set(outputs) - set(answer)):
                absent = sorted(missing) if isinstance(answer, dict) else outputs
                message = f"output tensor alias not found in signature: {', '.join(absent)}"
                raise ServiceError("INVALID_ARGUMENT", message)
            names = outputs or sorted(answer)
            return {name: tensors.from_json(answer[name], spec.outputs[name].dtype) for name in names}

        return Call("POST", _path(target) + ":predict", body, read)

    def status(self, target: Target) -> Call[list[VersionStatus]]:
        """Return the call for the states of the versions."""

        def read(data: bytes) -> list[VersionStatus]:
            states = json.loads(data)["model_version_status"]
            return [VersionStatus(int(one["version"]), one["state"], one["status"]["error_message"]) for one in states]

        return Call("GET", _path(target), b"", read)

    def metadata(self, target: Target) -> Call[dict[str, Signature]]:
        """Return the call for the signatures."""

        def read(data: bytes) -> dict[str, Signature]:
            return {
                name: Signature(_json_specs(one["inputs"]), _json_specs(one["outputs"]), one["method_name"])
                for name, one in json.loads(data)["metadata"][_SIGNATURES][_SIGNATURES].items()
            }

        return Call("GET", _path(target) + "/metadata", b"", read)

    def models(self) -> Call[tuple[str, ...]]:
        """Return the call for the names of the models."""

        def read(data: bytes) -> tuple[str, ...]:
            return tuple(model["name"] for model in json.loads(data)["models"])

        return Call("GET", "/graftline/models.json", b"", read)


Api = GrpcApi | RestApi


def _path(target: Target) -> str:
    path = f"/v1/models/{urllib.parse.quote(target.name, safe='')}"
    if target.version is not None:
        return f"{path}/versions/{target.version}"
    return path if target.label is None else f"{path}/labels/{urllib.parse.quote(target.label, safe='')}"


def http_error(status: int, headers: Mapping[str, str], body: bytes) -> ServiceError:
    """Return the error of an HTTP answer, in the words of its JSON body if it has one."""
    try:
        message = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        message = f"HTTP status {status}"
    code = _CODES.get(status, "INVALID_ARGUMENT" if 400 <= status < 500 else "INTERNAL")
    return service_error(code, message, headers)


def service_error(code: str, message: str, metadata: Mapping[str, str]) -> ServiceError:
    """Return a ServiceError, with what HTTP headers or gRPC trailing metadata (names in lower case) add to it."""
    wait = str(metadata.get("retry-after", ""))
    if pushback := str(metadata.get("grpc-retry-pushback-ms", "")):
        wait = str(int(pushback) / 1000) if pushback.isdecimal() else ""
    names = str(metadata.get(MODELS_METADATA, "")).split(",")
    models = tuple(urllib.parse.unquote(name) for name in names if name)
    return ServiceError(code, message, float(wait) if wait.replace(".", "", 1).isdecimal() else None, models)
