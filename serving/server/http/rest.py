"""TF Serving's REST API v1 on a ModelManager: predict, classify, regress, status and metadata.

Source: https://www.tensorflow.org/tfx/serving/api_rest. Called by `routes`, whose table has the URLs.
"""

import json
import zlib
from typing import Any

from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2

from graftline.serving.server.errors import Code, invalid
from graftline.serving.server.http import json_answers, json_examples, json_tensors
from graftline.serving.server.http.messages import Answer, Request, too_large
from graftline.serving.server.model import inference, service
from graftline.serving.server.model.manager import ModelManager

_INT64_MAX = (1 << 63) - 1


class RestApi:
    """The answers under /v1/. Its methods raise ServingError for requests that cannot be answered."""

    def __init__(self, manager: ModelManager, max_body: int) -> None:
        self._manager = manager
        self._max_body = max_body

    def act(self, request: Request) -> Answer:
        """Run a model: predict, classify or regress."""
        runs = {"predict": self._predict, "classify": self._classify, "regress": self._regress}
        # The pattern ignores case, but TF Serving then compares the verb as it is written.
        run = runs.get(request.parts["verb"] or "")
        if run is None:
            raise invalid(f"Malformed request: {request.method} {request.path}")
        body = gunzip(request.body, self._max_body) if request.gzipped else request.body
        return Answer(200, run(*_model_of(request), body))

    def look(self, request: Request) -> Answer:
        """Return the state of a model's versions, or its metadata."""
        name, version, label = _model_of(request)
        if not name:
            raise invalid("Missing model name in request.")
        if request.parts["part"] == "metadata":
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
        asked = _read_examples(body)
        with self._manager.use(name, version, label) as (_, model):
            return json_answers.write_classes(*inference.classify(model, *asked))

    def _regress(self, name: str, version: int | None, label: str | None, body: bytes) -> bytes:
        asked = _read_examples(body)
        with self._manager.use(name, version, label) as (_, model):
            return json_answers.write_values(inference.regress(model, *asked))

    def _metadata(self, name: str, version: int | None, label: str | None) -> Answer:
        response = service.metadata(self._manager, name, version, label)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[service.SIGNATURE_DEF].Unpack(signatures)
        # An Any would be written as {"@type": …}: TF Serving writes the map that it holds in its place.
        held = {service.SIGNATURE_DEF: _as_dict(signatures)}
        return _json({"model_spec": _as_dict(response.model_spec), "metadata": held})


def _read_examples(body: bytes) -> tuple[str, list[bytes]]:
    document = json_tensors.parse(body)
    return json_tensors.signature_name(document), json_examples.read_examples(document)


def _model_of(request: Request) -> tuple[str, int | None, str | None]:
    """Return the name, the version and the label of the request's path; at most one of the last two."""
    text = request.parts["version"]
    # The length first: Python reads thousands of digits slowly.
    if text and (len(text.lstrip("0")) > 30 or int(text) > _INT64_MAX):
        raise invalid(f"Failed to convert version: {text} to numeric.")
    return request.part("name") or "", int(text) if text else None, request.part("label")


def _as_dict(message: Any) -> dict[str, Any]:
    """Return a proto as TF Serving writes it: every field, under its own name; 64-bit numbers become strings."""
    return json_format.MessageToDict(message, including_default_value_fields=True, preserving_proto_field_name=True)


def _json(document: dict[str, Any]) -> Answer:
    return Answer(200, json.dumps(document, indent=1).encode())


def gunzip(body: bytes, limit: int) -> bytes:
    """Return the content of a gzip body. Raises RefusedError when the content is larger than `limit` bytes.

    A broken body becomes an empty one, as in TF Serving (ReadRequestGzipBytes in its evhttp_request.cc), whose API then
    calls the document empty.
    """
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)  # 16: gzip alone
    try:
        plain = unpacker.decompress(body, limit + 1)  # never more than that: a gzip bomb stays small
    except zlib.error:
        return b""
    if len(plain) > limit:
        raise too_large(limit)
    return plain if unpacker.eof and not unpacker.unused_data else b""
