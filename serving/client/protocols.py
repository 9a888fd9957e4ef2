"""TensorFlow Serving's two APIs as bytes: gRPC's messages and REST's JSON for the same three calls. No input or output.

Sources: tensorflow_serving/apis/{prediction_service,model_service}.proto; https://www.tensorflow.org/tfx/serving/api_rest.
"""

import json
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from graftline.serving.client import tensors, wire_pb2
from graftline.serving.client.exchange import Call
from graftline.serving.client.results import ServiceError, Signature, VersionStatus
from graftline.signatures import MODELS_METADATA

Outputs = dict[str, np.ndarray]
_NO_MODEL = " "  # no model is called so
_SIGNATURES = "signature_def"  # the metadata field
# HTTP statuses that a server of TensorFlow Serving's API or a proxy before it may give, as gRPC statuses.
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
    """Which model: its name, and a version's number or label. Without either the newest."""

    name: str
    version: int | None = None
    label: str | None = None


class Api(Protocol):
    """What both protocols offer."""

    typed: bool  # whether answers tell their types

    def predict(
        self, target: Target, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], spec: Signature
    ) -> Call[Outputs]:
        """Run a signature; `outputs` are those wanted, all when empty. `spec` gives types where answers don't."""

    def status(self, target: Target) -> Call[list[VersionStatus]]:
        """The states of the versions, the newest first."""

    def metadata(self, target: Target) -> Call[dict[str, Signature]]:
        """The signatures by name."""

    def models(self) -> Call[tuple[str, ...]]:
        """The names of what is served: the API has nothing for it, but our server has; over gRPC in an error."""


class GrpcApi:
    """PredictionService and ModelService."""

    typed = True

    def predict(
        self, target: Target, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], spec: Signature
    ) -> Call[Outputs]:
        """See `Api`."""
        request = wire_pb2.PredictRequest(model_spec=_model_spec(target, signature), output_filter=outputs)
        for name, values in inputs.items():
            request.inputs[name].CopyFrom(tensors.to_proto(values))

        def read(data: bytes) -> Outputs:
            found = wire_pb2.PredictResponse.FromString(data).outputs
            return {name: tensors.from_proto(found[name]) for name in outputs or sorted(found)}

        return Call("", "/tensorflow.serving.PredictionService/Predict", request.SerializeToString(), read)

    def status(self, target: Target) -> Call[list[VersionStatus]]:
        """See `Api`."""
        request = wire_pb2.GetModelStatusRequest(model_spec=_model_spec(target))

        def read(data: bytes) -> list[VersionStatus]:
            answer = wire_pb2.GetModelStatusResponse.FromString(data)
            state = wire_pb2.ModelVersionStatus.State.Name
            return [
                VersionStatus(one.version, state(one.state), one.status.error_message)
                for one in answer.model_version_status
            ]

        return Call("", "/tensorflow.serving.ModelService/GetModelStatus", request.SerializeToString(), read)

    def metadata(self, target: Target) -> Call[dict[str, Signature]]:
        """See `Api`."""
        request = wire_pb2.GetModelMetadataRequest(model_spec=_model_spec(target), metadata_field=[_SIGNATURES])

        def read(data: bytes) -> dict[str, Signature]:
            answer = wire_pb2.GetModelMetadataResponse.FromString(data)
            signatures = wire_pb2.SignatureDefMap.FromString(answer.metadata[_SIGNATURES].value).signature_def
            return {
                name: Signature(
                    {key: tensors.spec_of(info.dtype, info.tensor_shape) for key, info in one.inputs.items()},
                    {key: tensors.spec_of(info.dtype, info.tensor_shape) for key, info in one.outputs.items()},
                    one.method_name,
                )
                for name, one in signatures.items()
            }

        return Call("", "/tensorflow.serving.PredictionService/GetModelMetadata", request.SerializeToString(), read)

    def models(self) -> Call[tuple[str, ...]]:
        """See `Api`."""
        refused = self.status(Target(_NO_MODEL))
        return Call(refused.verb, refused.path, refused.body, lambda data: ())


def _model_spec(target: Target, signature: str = "") -> wire_pb2.ModelSpec:
    spec = wire_pb2.ModelSpec(name=target.name, signature_name=signature)
    if target.version is not None:
        spec.version.value = target.version
    elif target.label is not None:
        spec.version_label = target.label
    return spec


class RestApi:
    """REST v1, in its columnar format."""

    typed = False

    def predict(
        self, target: Target, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], spec: Signature
    ) -> Call[Outputs]:
        """See `Api`."""
        body = {
            "signature_name": signature,
            "inputs": {name: tensors.to_json(values) for name, values in inputs.items()},
        }

        def read(data: bytes) -> Outputs:
            found = json.loads(data)["outputs"]
            if len(spec.outputs) == 1:  # a single one comes without its name
                found = {next(iter(spec.outputs)): found}
            if not isinstance(found, dict) or (missing := set(outputs) - set(found)):
                wanted = ", ".join(sorted(missing)) if isinstance(found, dict) else ", ".join(outputs)
                raise ServiceError("INVALID_ARGUMENT", f"output tensor alias not found in signature: {wanted}")
            return {name: tensors.from_json(found[name], spec.outputs[name].dtype) for name in outputs or sorted(found)}

        return Call("POST", _path(target) + ":predict", json.dumps(body).encode(), read)

    def status(self, target: Target) -> Call[list[VersionStatus]]:
        """See `Api`."""

        def read(data: bytes) -> list[VersionStatus]:
            return [
                VersionStatus(int(one["version"]), one["state"], one["status"]["error_message"])
                for one in json.loads(data)["model_version_status"]
            ]

        return Call("GET", _path(target), b"", read)

    def metadata(self, target: Target) -> Call[dict[str, Signature]]:
        """See `Api`."""

        def read(data: bytes) -> dict[str, Signature]:
            return {
                name: Signature(
                    {key: tensors.spec_of_json(info) for key, info in one["inputs"].items()},
                    {key: tensors.spec_of_json(info) for key, info in one["outputs"].items()},
                    one["method_name"],
                )
                for name, one in json.loads(data)["metadata"][_SIGNATURES][_SIGNATURES].items()
            }

        return Call("GET", _path(target) + "/metadata", b"", read)

    def models(self) -> Call[tuple[str, ...]]:
        """See `Api`."""
        return Call(
            "GET", "/graftline/models.json", b"", lambda data: tuple(m["name"] for m in json.loads(data)["models"])
        )


def _path(target: Target) -> str:
    path = f"/v1/models/{urllib.parse.quote(target.name, safe='')}"
    if target.version is not None:
        return f"{path}/versions/{target.version}"
    return path if target.label is None else f"{path}/labels/{urllib.parse.quote(target.label, safe='')}"


def http_error(status: int, headers: Mapping[str, str], body: bytes) -> ServiceError:
    """The error of an HTTP answer, in the words of its JSON where it is some."""
    try:
        message = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        message = f"HTTP status {status}"
    code = _CODES.get(status, "INVALID_ARGUMENT" if 400 <= status < 500 else "INTERNAL")
    return service_error(code, message, headers)


def service_error(code: str, message: str, metadata: Mapping[str, str]) -> ServiceError:
    """A ServiceError with what its HTTP headers or gRPC trailing metadata, in lower case, tell beyond the message."""
    wait = str(metadata.get("retry-after", ""))
    if pushback := str(metadata.get("grpc-retry-pushback-ms", "")):
        wait = str(int(pushback) / 1000) if pushback.isdecimal() else ""
    names = str(metadata.get(MODELS_METADATA, "")).split(",")
    models = tuple(urllib.parse.unquote(name) for name in names if name)
    return ServiceError(code, message, float(wait) if wait.replace(".", "", 1).isdecimal() else None, models)
