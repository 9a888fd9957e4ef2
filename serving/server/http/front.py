"""What the HTTP port answers: the REST API under /v1/, and beside it health, metrics and the web page.

Made before the models are loaded, so that a probe is answered from the first second. `serving.server` opens it.
"""

import contextlib
import re
import time
import urllib.parse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from graftline.serving.server.errors import HTTP_STATUS, Code, ServingError
from graftline.serving.server.http.server import Answer, Handle, RefusedError, error_answer
from graftline.serving.server.limits import InFlight
from graftline.serving.server.metrics import Metrics
from graftline.serving.server.options import ServerOptions

if TYPE_CHECKING:
    from graftline.serving.server.model.manager import ModelManager

_VERB = re.compile(r"/v1/models/(?P<name>[^/:]+)(?:/[^:]*)?:(?P<api>classify|regress|predict)", re.IGNORECASE)
# Which of the codes with one HTTP status is meant can't be told any more: the commonest stands for all.
_CODES = {status: code for code, status in reversed(HTTP_STATUS.items())}
UNKNOWN_MODEL = "(unknown)"  # in metrics: a client must not be able to make the server keep names without end


class Front:
    """The `handle` of an HttpServer. Answers 503 to all but probes until it is opened."""

    def __init__(self, options: ServerOptions, metrics: Metrics, in_flight: InFlight) -> None:
        self._options = options
        self._metrics = metrics
        self._in_flight = in_flight
        self._manager: ModelManager | None = None
        self._api: Handle | None = None

    def open(self, manager: "ModelManager", api: Handle) -> None:
        """Pass requests on to `api` from now on."""
        self._manager, self._api = manager, api

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """Hold a place among the requests under way. Raises RefusedError when there is none."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._in_flight.counting())
            except ServingError as error:
                raise RefusedError(HTTP_STATUS[error.code], error.message) from error
            yield

    def __call__(self, method: str, path: str, body: bytes) -> Answer:
        """Answer one request."""
        if path == "/healthz":
            return _text(200, "ok")
        if path == "/readyz":
            return self._readiness()
        if path == self._options.monitoring_path and self._options.enable_monitoring:
            return Answer(200, self._metrics.exposition().encode(), "text/plain; version=0.0.4; charset=utf-8")
        if self._api is None or self._manager is None:
            return error_answer(503, "the model server is still loading its models")
        if path.lower().startswith("/v1/"):
            return self._ask_api(self._api, self._manager, method, path, body)
        from graftline.serving.server.http import page

        return page.answer(method, path, self._manager) or _text(404, f"not found: {path}; the API is under /v1/")

    def _ask_api(self, api: Handle, manager: "ModelManager", method: str, path: str, body: bytes) -> Answer:
        match = _VERB.fullmatch(path) if method == "POST" else None
        if match is None:
            return api(method, path, body)
        started = time.monotonic()
        answer = api(method, path, body)
        asked = urllib.parse.unquote(match["name"])
        name = asked if asked in manager.names else UNKNOWN_MODEL
        code = _CODES.get(answer.status, Code.UNKNOWN)
        self._metrics.request_count.add(1, name, code.name)
        if code is Code.OK:  # as TensorFlow Serving: failures are quick, and would flatter it
            taken = (time.monotonic() - started) * 1e6
            self._metrics.request_latency.observe(taken, name, match["api"].lower(), "REST")
        return answer

    def _readiness(self) -> Answer:
        """200 while every model has a version that answers, and the server is not on its way out."""
        if self._in_flight.draining:
            return _text(503, "shutting down")
        if self._manager is None:
            return _text(503, "loading")
        waiting = [name for name in self._manager.names if not available_versions(self._manager, name)]
        return _text(503, f"no version of {', '.join(waiting)} is loaded") if waiting else _text(200, "ready")


def available_versions(manager: "ModelManager", name: str) -> list[int]:
    """The versions of a model that answer, the highest first."""
    try:
        return [state.version for state in manager.states(name) if state.state == "AVAILABLE"]
    except ServingError:  # removed in this moment
        return []


def _text(status: int, text: str) -> Answer:
    return Answer(status, (text + "\n").encode("utf-8", "replace"), "text/plain; charset=utf-8")
