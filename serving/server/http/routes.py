"""What the HTTP port answers, in one table: the REST API under /v1/, health, metrics and the web page.

Made before the models are loaded, so that probes are answered from the first second. `ModelServer` opens it.
"""

import asyncio
import contextlib
import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from graftline.errors import UserError
from graftline.serving.server.errors import Code, ServingError, invalid
from graftline.serving.server.http import messages
from graftline.serving.server.http.access import Access
from graftline.serving.server.http.messages import Answer, Message, RefusedError, Request, read_body, text_answer
from graftline.serving.server.limits import InFlight, Runs
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
_WHOLE_URL = re.compile(r"https?://(?P<authority>[^/]*)(?P<path>.*)", re.I)  # RFC 9112, section 3.2.2
_FIXED = r"(?i:/|/healthz|/readyz|/v1/.*|/graftline/.*)"  # paths that the metrics cannot have
_GRPC_CHECK_SECONDS = 1.0  # between two checks of the gRPC port


@dataclass(frozen=True)
class _Route:
    """One row of the table: a path, what answers it, and the methods that it takes (none: all)."""

    pattern: str
    handle: Callable[[Request], Any]  # returns an Answer; that of a probe may have to be awaited
    methods: tuple[str, ...] = ()
    probe: bool = False  # answered in the event loop: also when all threads are busy
    inference: bool = False  # limited by max_in_flight and counted in the metrics


class HttpRoutes:
    """An ASGI application. It answers 503 to all but probes until it is opened."""

    def __init__(
        self,
        options: ServerOptions,
        metrics: Metrics,
        in_flight: InFlight,
        threads: Executor,
        runs: Runs | None = None,
    ) -> None:
        self._access = Access(options.host, options.allowed_hosts)
        self._metrics = metrics
        self._in_flight = in_flight
        self._threads = threads
        self._runs = runs or Runs()
        self._manager: ModelManager | None = None
        self._ask_grpc: Callable[[], Awaitable[bool]] | None = None
        self._grpc_asked: asyncio.Task[bool] | None = None
        self._grpc_asked_at = 0.0
        self._probes = [
            _Route("/healthz", lambda request: text_answer(200, "ok"), probe=True),
            _Route("/readyz", self._report_readiness, probe=True),
        ]
        if options.enable_monitoring:
            _check_monitoring_path(options.monitoring_path)
            self._probes.append(_Route(re.escape(options.monitoring_path), self._expose_metrics, probe=True))
        self._table = [*self._probes, _Route(".*", _refuse_while_loading, probe=True)]

    def open(
        self, manager: "ModelManager", api: "RestApi", ask_grpc: Callable[[], Awaitable[bool]] | None = None
    ) -> None:
        """Answer all requests from now on. `ask_grpc` returns whether the gRPC port answers."""
        from graftline.serving.server.http import page  # it imports TensorFlow

        self._manager, self._ask_grpc = manager, ask_grpc
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
        """Answer one request. It has a place from when it is whole until its answer is there, read or not."""
        method, path, authority = scope["method"], scope["raw_path"].decode("latin-1"), None
        if match := _WHOLE_URL.fullmatch(path):
            path, authority = match["path"] or "/", match["authority"]
        encodings = [value for name, value in scope["headers"] if name == b"content-encoding"]
        route, parts = self._match(method, path)
        request = Request(method, path, parts, await read_body(receive), b"gzip" in b",".join(encodings).lower())
        answer = await self._answer(route, request, authority, scope)
        del request  # its body, while a slow client reads the answer
        await messages.send_answer(send, answer)

    def _match(self, method: str, path: str) -> tuple[_Route, dict[str, str | None]]:
        for route in self._table:
            if (not route.methods or method in route.methods) and (match := re.fullmatch(route.pattern, path)):
                return route, match.groupdict()
        raise AssertionError("the last route matches everything")

    async def _answer(self, route: _Route, request: Request, authority: str | None, scope: Message) -> Answer:
        try:
            self._access.check(request.method, authority, scope["headers"])
            if route.probe:
                answer = route.handle(request)
                return cast(Answer, await answer if inspect.isawaitable(answer) else answer)
            with self._count(request) if route.inference else contextlib.nullcontext():
                return await asyncio.get_running_loop().run_in_executor(self._threads, route.handle, request)
        except RefusedError as refused:
            return refused.answer
        except ServingError as error:
            return messages.error_answer(error.code.http_status, error.message)
        except Exception:
            _logger.exception("unexpected fault while answering %s %s", request.method, request.path)
            return messages.error_answer(500, "internal error of the model server: see its log")

    @contextlib.contextmanager
    def _count(self, request: Request) -> Iterator[None]:
        assert self._manager is not None
        name, verb = request.part("name") or "", (request.parts["verb"] or "").lower()
        with self._metrics.counting(name, self._manager.names, verb, "REST"), self._in_flight.counting():
            yield

    async def _report_readiness(self, request: Request) -> Answer:
        """Return 200 while there are models, each has a version that answers, and both ports and all runs are well."""
        if self._in_flight.draining:
            return text_answer(503, "shutting down")
        if self._manager is None:
            return text_answer(503, "loading")
        if not self._manager.names:
            return text_answer(503, "no model is served")
        waiting = [name for name in self._manager.names if not self._manager.available_versions(name)]
        if waiting:
            return text_answer(503, f"no version of {', '.join(waiting)} is loaded")
        if overdue := self._runs.overdue():
            return text_answer(
                503, f"{overdue} runs of a model have not ended in three times their time: restart the server"
            )
        if not await self._grpc_answers():
            return text_answer(503, "the gRPC port does not answer")
        return text_answer(200, "ready")

    async def _grpc_answers(self) -> bool:
        """Ask the gRPC port, at most once in a second."""
        if self._ask_grpc is None:
            return True
        loop = asyncio.get_running_loop()
        if self._grpc_asked is None or loop.time() >= self._grpc_asked_at + _GRPC_CHECK_SECONDS:
            self._grpc_asked_at = loop.time()
            self._grpc_asked = asyncio.ensure_future(self._ask_grpc())
        return await asyncio.shield(self._grpc_asked)

    def _expose_metrics(self, request: Request) -> Answer:
        return Answer(200, self._metrics.exposition().encode(), "text/plain; version=0.0.4; charset=utf-8")


def _check_monitoring_path(path: str) -> None:
    """Raise UserError for a path under which the metrics could not be had."""
    if re.fullmatch(_FIXED, path):
        raise UserError(f"monitoring_path {path} has another answer already: choose another path")
    if not re.fullmatch(r"/[!-~]*", path) or set(path) & set("?#"):
        raise UserError(f"monitoring_path {path} is no path of a URL: give one such as {ServerOptions.monitoring_path}")


def _refuse_while_loading(request: Request) -> Answer:
    raise ServingError(Code.UNAVAILABLE, "the model server is still loading its models")


def _refuse_malformed(request: Request) -> Answer:
    raise invalid(f"Malformed request: {request.method} {request.path}")
