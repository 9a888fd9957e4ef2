"""TF Serving's REST API v1 on a ModelManager: predict, classify, regress, status and metadata.

Source: https://www.tensorflow.org/tfx/serving/api_rest. Called by `routes`, whose table has the URLs.
"""

import contextlib
import io
import json
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2

from graftline.serving.server.deadline import NO_DEADLINE, Deadline
from graftline.serving.server.errors import Code, invalid
from graftline.serving.server.http import json_answers, json_documents, json_examples, json_tensors
from graftline.serving.server.http.messages import Answer, Request, too_large
from graftline.serving.server.limits import ByteBudget
from graftline.serving.server.model import inference, service
from graftline.serving.server.model.manager import ModelManager

_INT64_MAX = (1 << 63) - 1
_PIECE = 256 << 10
# Of each size of bodies one is read at a time. Together they would take the memory of all, and no other thread, such as
# that of the probes, would get its turn in time. Small bodies take none: json_documents.SMALL.
_SIZES = (4 << 20, 1 << 62)


@dataclass(frozen=True)
class _Asked:
    """A request for a run: which model, and a body that has at most `limit` bytes when it is decompressed."""

    name: str
    version: int | None
    label: str | None
    request: Request
    limit: int
    deadline: Deadline

    @property
    def model(self) -> tuple[str, int | None, str | None]:
        """The arguments of `ModelManager.use`."""
        return self.name, self.version, self.label

    @property
    def size(self) -> int:
        """The size of the body, which the last bytes of a gzip body say."""
        body = self.request.body
        return min(_size_of(body), self.limit) if self.request.gzipped else len(body)

    def body(self) -> bytes:
        """Return the body, decompressed. Raises RefusedError, or DEADLINE_EXCEEDED."""
        return gunzip(self.request.body, self.limit, self.deadline) if self.request.gzipped else self.request.body


class RestApi:
    """The answers under /v1/. Its methods raise ServingError for requests that cannot be answered."""

    def __init__(
        self,
        manager: ModelManager,
        max_body: int,
        timeout: float | None = None,
        budget: ByteBudget | None = None,
    ) -> None:
        self._manager = manager
        self._max_body = max_body
        self._timeout = timeout
        self._budget = budget or ByteBudget(8 * max_body)
        self._turns = {size: threading.Lock() for size in _SIZES}

    def act(self, request: Request) -> Answer:
        """Run a model: predict, classify or regress."""
        runs = {"predict": self._predict, "classify": self._classify, "regress": self._regress}
        # The pattern ignores case, but TF Serving then compares the verb as it is written.
        run = runs.get(request.parts["verb"] or "")
        if run is None:
            raise invalid(f"Malformed request: {request.method} {request.path}")
        asked = _Asked(*_model_of(request), request, self._max_body, Deadline.after(self._timeout))
        # The port has counted the bytes that arrived.
        with self._budget.holding(asked.size) if request.gzipped else contextlib.nullcontext():
            return Answer(200, run(asked))

    def look(self, request: Request) -> Answer:
        """Return the state of a model's versions, or its metadata."""
        name, version, label = _model_of(request)
        if not name:
            raise invalid("Missing model name in request.")
        if request.parts["part"] == "metadata":
            return self._metadata(name, version, label)
        return _json(_as_dict(service.status(self._manager, name, version, label)))

    def _predict(self, asked: _Asked) -> bytes:
        deadline = asked.deadline
        with contextlib.ExitStack() as use:
            with self._turn(asked):
                document = json_documents.parse(asked.body(), deadline, with_numbers=True)
                signature_name = json_tensors.signature_name(document)
                _, model = use.enter_context(self._manager.use(*asked.model))
                signature = model.signature(signature_name, missing=Code.INVALID_ARGUMENT)
                layout, inputs = json_tensors.read_inputs(document, signature, deadline)
                del document  # its memory is for the run and the answer
            outputs = model.predict(signature_name, inputs, timeout=deadline.left)
            del inputs
        return json_answers.write_outputs(layout, outputs, deadline)

    def _classify(self, asked: _Asked) -> bytes:
        examples = self._read_examples(asked)
        with self._manager.use(*asked.model) as (_, model):
            answer = inference.classify(model, *examples, asked.deadline.left)
        return json_answers.write_classes(*answer, asked.deadline)

    def _regress(self, asked: _Asked) -> bytes:
        examples = self._read_examples(asked)
        with self._manager.use(*asked.model) as (_, model):
            answer = inference.regress(model, *examples, asked.deadline.left)
        return json_answers.write_values(answer, asked.deadline)

    def _read_examples(self, asked: _Asked) -> tuple[str, list[bytes]]:
        with self._turn(asked):
            document = json_documents.parse(asked.body(), asked.deadline)
            return json_tensors.signature_name(document), json_examples.read_examples(document, asked.deadline)

    @contextlib.contextmanager
    def _turn(self, asked: _Asked) -> Iterator[None]:
        """Wait until the body may be read. Raises DEADLINE_EXCEEDED."""
        if asked.size <= json_documents.SMALL:
            yield
            return
        turn = next(self._turns[largest] for largest in _SIZES if asked.size <= largest)
        while not turn.acquire(timeout=-1 if asked.deadline.left is None else asked.deadline.left):
            asked.deadline.check()
        try:
            yield
        finally:
            turn.release()

    def _metadata(self, name: str, version: int | None, label: str | None) -> Answer:
        response = service.metadata(self._manager, name, version, label)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[service.SIGNATURE_DEF].Unpack(signatures)
        # An Any would be written as {"@type": …}: TF Serving writes the map that it holds in its place.
        held = {service.SIGNATURE_DEF: _as_dict(signatures)}
        return _json({"model_spec": _as_dict(response.model_spec), "metadata": held})


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


def _size_of(body: bytes) -> int:
    """Return the size of its content that a gzip body ends with: ISIZE of RFC 1952."""
    return int.from_bytes(body[-4:], "little")


def gunzip(body: bytes, limit: int, deadline: Deadline = NO_DEADLINE) -> bytes:
    """Return the content of a gzip body.

    Raises RefusedError when the content is larger than `limit` bytes, or DEADLINE_EXCEEDED. A broken body becomes an
    empty one, as in TF Serving (ReadRequestGzipBytes in its evhttp_request.cc), whose API then calls the document
    empty.
    """
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)  # 16: gzip alone
    plain = io.BytesIO()
    for start in range(0, len(body), _PIECE):
        rest = body[start : start + _PIECE]
        full = False
        while (rest or full) and not unpacker.eof:  # after the end zlib would offer the rest of `body` for ever
            deadline.check()
            try:
                piece = unpacker.decompress(rest, _PIECE)
            except zlib.error:
                return b""
            plain.write(piece)
            if plain.tell() > _size_of(body):
                return b""
            if plain.tell() > limit:
                raise too_large(limit)
            rest, full = unpacker.unconsumed_tail, len(piece) == _PIECE
        if unpacker.eof:
            whole = start + _PIECE >= len(body) and not unpacker.unused_data
            return plain.getvalue() if whole else b""
    return b""
