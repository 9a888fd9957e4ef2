"""TF Serving's REST API v1 on a ModelManager: predict, status and metadata.

Source: https://www.tensorflow.org/tfx/serving/api_rest, and the two URL patterns of TF Serving's http_rest_api_util.cc.
"""

import json
import re
import urllib.parse
from typing import Any

from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2

from graftline import __version__
from serving.server import json_tensors, service
from serving.server.errors import HTTP_STATUS, Code, ServingError, invalid
from serving.server.http_server import Answer, error_answer
from serving.server.manager import ModelManager

_VERSION_OR_LABEL = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_PREDICT = re.compile(rf"/v1/models/(?P<name>[^/:]+){_VERSION_OR_LABEL}:(?P<verb>classify|regress|predict)", re.I)
_STATUS = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION_OR_LABEL}(?:/(?P<part>metadata))?", re.I)
_INT64_MAX = (1 << 63) - 1


class RestApi:
    """The `handle` of an HttpServer: (method, path, body) → the answer."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def __call__(self, method: str, path: str, body: bytes) -> Answer:
        """Answer one request; a ServingError becomes `{"error": …}` with the HTTP status of its code."""
        if not path.lower().startswith("/v1/"):
            return self._page(path)
        try:
            return self._route(method, path, body)
        except ServingError as error:
            return error_answer(HTTP_STATUS[error.code], error.message)

    def _page(self, path: str) -> Answer:
        if path != "/":
            return Answer(404, f"not found: {path}; the API is under /v1/\n".encode("utf-8", "replace"), "text/plain")
        lines = [f"Graftline model server {__version__}: the TF Serving REST API v1", ""]
        lines += [f"POST /v1/models/{name}:predict   GET /v1/models/{name}" for name in self._manager.names]
        return Answer(200, ("\n".join(lines) + "\n").encode(), "text/plain; charset=utf-8")

    def _route(self, method: str, path: str, body: bytes) -> Answer:
        match = None
        if method == "POST":
            match = _PREDICT.fullmatch(path)
        elif method == "GET":
            match = _STATUS.fullmatch(path)
        if match is None:
            raise invalid(f"Malformed request: {method} {path}")
        if not match["name"]:
            raise invalid("Missing model name in request.")
        name = urllib.parse.unquote(match["name"])
        version = None
        if match["version"]:
            # The length first: Python takes its time over thousands of digits.
            if len(match["version"]) > 30 or int(match["version"]) > _INT64_MAX:
                raise invalid(f"Failed to convert version: {match['version']} to numeric.")
            version = int(match["version"])
        if match["label"]:
            service.refuse_label(urllib.parse.unquote(match["label"]))
        if method == "GET":
            return self._metadata(name, version) if match["part"] else self._status(name, version)
        if match["verb"].lower() != "predict":
            raise ServingError(Code.UNIMPLEMENTED, f"{match['verb']} is not served here: use predict")
        return self._predict(name, version, body)

    def _predict(self, name: str, version: int | None, body: bytes) -> Answer:
        document = json_tensors.parse(body)
        signature_name = json_tensors.signature_name(document)
        with self._manager.use(name, version) as (_, model):
            signature = model.signature(signature_name, missing=Code.INVALID_ARGUMENT)
            layout, inputs = json_tensors.read_inputs(document, signature)
            outputs = model.predict(signature_name, inputs)
        return Answer(200, json_tensors.write_outputs(layout, outputs))

    def _status(self, name: str, version: int | None) -> Answer:
        return _json(_as_dict(service.status(self._manager, name, version)))

    def _metadata(self, name: str, version: int | None) -> Answer:
        response = service.metadata(self._manager, name, version)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[service.SIGNATURE_DEF].Unpack(signatures)
        # An Any would be written as {"@type": …}: TF Serving writes the map that it holds in its place.
        return _json(
            {
                "model_spec": _as_dict(response.model_spec),
                "metadata": {service.SIGNATURE_DEF: _as_dict(signatures)},
            }
        )


def _as_dict(message: Any) -> dict[str, Any]:
    """A proto as TF Serving writes it: every field, under its own name; 64-bit numbers become strings."""
    return json_format.MessageToDict(message, including_default_value_fields=True, preserving_proto_field_name=True)


def _json(document: dict[str, Any]) -> Answer:
    return Answer(200, json.dumps(document, indent=1).encode())
