"""TF Serving's REST API v1 on a ModelManager: predict, classify, regress, status and metadata.

Source: https://www.tensorflow.org/tfx/serving/api_rest, and the two URL patterns of TF Serving's http_rest_api_util.cc.
"""

import json
import re
import urllib.parse
from typing import Any

from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2

from graftline.serving.server.errors import HTTP_STATUS, Code, ServingError, invalid
from graftline.serving.server.http import json_answers, json_examples, json_tensors
from graftline.serving.server.http.server import Answer, error_answer
from graftline.serving.server.model import inference, service
from graftline.serving.server.model.manager import ModelManager

_VERSION_OR_LABEL = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_ACT = re.compile(rf"/v1/models/(?P<name>[^/:]+){_VERSION_OR_LABEL}:(?P<verb>classify|regress|predict)", re.I)
_LOOK = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION_OR_LABEL}(?:/(?P<part>metadata))?", re.I)
_INT64_MAX = (1 << 63) - 1


class RestApi:
    """What is answered under /v1/: (method, path, body) → the answer."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def __call__(self, method: str, path: str, body: bytes) -> Answer:
        """Answer one request; a ServingError becomes `{"error": …}` with the HTTP status of its code."""
        try:
            return self._route(method, path, body)
        except ServingError as error:
            return error_answer(HTTP_STATUS[error.code], error.message)

    def _route(self, method: str, path: str, body: bytes) -> Answer:
        pattern = {"POST": _ACT, "GET": _LOOK}.get(method)
        match = pattern.fullmatch(path) if pattern else None
        # The patterns know no case, but TF Serving then compares the verb as it is written.
        if match is None or (method == "POST" and not match["verb"].islower()):
            raise invalid(f"Malformed request: {method} {path}")
        name = urllib.parse.unquote(match["name"] or "")
        version = _number(match["version"]) if match["version"] else None
        label = urllib.parse.unquote(match["label"]) if match["label"] else None
        if method == "POST":
            return Answer(200, getattr(self, "_" + match["verb"])(name, version, label, body))
        if not name:
            raise invalid("Missing model name in request.")
        if match["part"] == "metadata":
            return self._metadata(name, version, label)
        return _json(_as_dict(service.status(self._manager, name, version, label)))

    def _predict(self, name: str, version: int | None, label: str | None, body: bytes) -> bytes:
        document = json_tensors.parse(body)
        signature_name = json_tensors.signature_name(document)
        with self._manager.use(name, version, label) as (_, model):
            signature = model.signature(signature_name, missing=Code.INVALID_ARGUMENT)
            layout, inputs = json_tensors.read_inputs(document, signature)
            outputs = model.predict(signature_name, inputs)
        return json_answers.write_outputs(layout, outputs)

    def _classify(self, name: str, version: int | None, label: str | None, body: bytes) -> bytes:
        document = json_tensors.parse(body)
        signature_name, examples = json_tensors.signature_name(document), json_examples.read_examples(document)
        with self._manager.use(name, version, label) as (_, model):
            return json_answers.write_classes(*inference.classify(model, signature_name, examples))

    def _regress(self, name: str, version: int | None, label: str | None, body: bytes) -> bytes:
        document = json_tensors.parse(body)
        signature_name, examples = json_tensors.signature_name(document), json_examples.read_examples(document)
        with self._manager.use(name, version, label) as (_, model):
            return json_answers.write_values(inference.regress(model, signature_name, examples))

    def _metadata(self, name: str, version: int | None, label: str | None) -> Answer:
        response = service.metadata(self._manager, name, version, label)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[service.SIGNATURE_DEF].Unpack(signatures)
        # An Any would be written as {"@type": …}: TF Serving writes the map that it holds in its place.
        return _json(
            {
                "model_spec": _as_dict(response.model_spec),
                "metadata": {service.SIGNATURE_DEF: _as_dict(signatures)},
            }
        )


def _number(text: str) -> int:
    # The length first: Python takes its time over thousands of digits.
    if len(text.lstrip("0")) > 30 or int(text) > _INT64_MAX:
        raise invalid(f"Failed to convert version: {text} to numeric.")
    return int(text)


def _as_dict(message: Any) -> dict[str, Any]:
    """A proto as TF Serving writes it: every field, under its own name; 64-bit numbers become strings."""
    return json_format.MessageToDict(message, including_default_value_fields=True, preserving_proto_field_name=True)


def _json(document: dict[str, Any]) -> Answer:
    return Answer(200, json.dumps(document, indent=1).encode())
