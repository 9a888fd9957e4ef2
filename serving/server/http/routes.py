"""What the HTTP port answers, in one table: the REST API under /v1/, health, metrics and the web page.

Made before the models are loaded, so that probes are answered from the first second. `ModelServer` opens it.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graftline.serving.server.errors import Code, ServingError, invalid
from graftline.serving.server.http import messages
from graftline.serving.server.http.messages import Answer, Message, RefusedError, Request, read_body, text_answer
from graftline.serving.server.limits import InFlight
from graftline.serving.server.metrics import Metrics
from graftline.serving.server.options import ServerOptions

if TYPE_CHECKING:
    from graftline.serving.server.http.rest import RestApi
    from graftline.serving.server.model.manager import ModelManager

_logger = logging.getLogger(__name__)

# The two patterns of TF Serving's http_rest_api_util.cc.
_VERSION_OR_LABEL = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_ACT = rf"(?i:/v1/models/(?P<name>[^/:]+){_VERSION_OR_LABEL}:(?P<verb>classify|regress|predict))"
_LOOK = rf"(?i:/v1/models(?:/(?P<name>[^/:]+))?{_VERSION_OR_LABEL}(?:/(?P<part>metadata))?)"
_ORIGIN = re.compile(r"\Ahttps?://[^/]*", re.I)  # of a target that is a whole URL: RFC 9112, section 3.2.2


@dataclass(frozen=True)
class _Route:
    """One row of the table: a path, what answers it, and the methods that it takes (none: all)."""

    pattern: str
    handle: Callable[[Request], Answer]
    methods: tuple[str, ...] = ()
    probe: bool = False  # answered in the event loop: also when all threads are busy
    inference: bool = False  # limited by max_in_flight and counted in the metrics


class HttpRoutes:
    """An ASGI application. It answers 503 to all but probes until it is opened."""

    def __init__(self, options: ServerOptions, metrics: Metrics, in_flight: InFlight, threads: Executor) -> None:
        self._metrics = metrics
        self._in_flight = in_flight
        self._threads = threads
        self._manager: ModelManager | None = None
        self._probes = [
            _Route("/healthz", lambda request: text_answer(200, "ok"), probe=True),
            _Route("/readyz", self._report_readiness, probe=True),
        ]
        if options.enable_monitoring:
            self._probes.append(_Route(re.escape(options.monitoring_path), self._expose_metrics, probe=True))
        self._table = [*self._probes, _Route(".*", _refuse_while_loading, probe=True)]

    def open(self, manager: "ModelManager", api: "RestApi") -> None:
        """Answer all requests from now on."""
        from graftline.serving.server.http import page  # it imports TensorFlow

        self._manager = manager
        self._table = [
            *self._probes,
            _Route(_ACT, api.act, ("POST",), inference=True),
            _Route(_LOOK, api.look, ("GET",)),
            _Route("(?i:/v1/).*", _refuse_malformed),
            _Route("/graftline/models.json", lambda request: page.list_models(manager), ("GET", "HEAD")),
            _Route(r"/|/graftline/page\.(css|js|svg)", page.read_page, ("GET", "HEAD")),
            _Route(".*", lambda request: text_answer(404, f"not found: {request.path}; the API is under /v1/")),
        ]

    async def __call__(self, scope: Message, receive: messages.Receive, send: messages.Send) -> None:
        """Answer one request. It counts as under way from when it is whole until its answer has left."""
        method, path = scope["method"], _ORIGIN.sub("", scope["raw_path"].decode("latin-1")) or "/"
        encodings = [value for name, value in scope["headers"] if name == b"content-encoding"]
        route, parts = self._match(method, path)
        request = Request(method, path, parts, await read_body(receive), b"gzip" in b",".join(encodings).lower())
        with contextlib.ExitStack() as place:
            await messages.send_answer(send, await self._answer(route, request, place))

    def _match(self, method: str, path: str) -> tuple[_Route, dict[str, str | None]]:
        for route in self._table:
            if (not route.methods or method in route.methods) and (match := re.fullmatch(route.pattern, path)):
                return route, match.groupdict()
        raise AssertionError("the last route matches everything")

    async def _answer(self, route: _Route, request: Request, place: contextlib.ExitStack) -> Answer:
        try:
            if route.probe:
                return route.handle(request)
            with self._count(request, place) if route.inference else contextlib.nullcontext():
                return await asyncio.get_running_loop().run_in_executor(self._threads, route.handle, request)
        except RefusedError as refused:
            return refused.answer
        except ServingError as error:
            return messages.error_answer(error.code.http_status, error.message)
        except Exception:
            _logger.exception("unexpected fault while answering %s %s", request.method, request.path)
            return messages.error_answer(500, "internal error of the model server: see its log")

    @contextlib.contextmanager
    def _count(self, request: Request, place: contextlib.ExitStack) -> Iterator[None]:
        assert self._manager is not None
        name, verb = request.part("name") or "", (request.parts["verb"] or "").lower()
        with self._metrics.counting(name, self._manager.names, verb, "REST"):
            place.enter_context(self._in_flight.counting())
            yield

    def _report_readiness(self, request: Request) -> Answer:
        """Return 200 while every model has a version that answers and the server is not about to end."""
        if self._in_flight.draining:
            return text_answer(503, "shutting down")
        if self._manager is None:
            return text_answer(503, "loading")
        waiting = [name for name in self._manager.names if not self._manager.available_versions(name)]
        if waiting:
            return text_answer(503, f"no version of {', '.join(waiting)} is loaded")
        return text_answer(200, "ready")

    def _expose_metrics(self, request: Request) -> Answer:
        return Answer(200, self._metrics.exposition().encode(), "text/plain; version=0.0.4; charset=utf-8")


def _refuse_while_loading(request: Request) -> Answer:
    raise ServingError(Code.UNAVAILABLE, "the model server is still loading its models")


def _refuse_malformed(request: Request) -> Answer:
    raise invalid(f"Malformed request: {request.method} {request.path}")
