"""The application behind the HTTP port, without a server: bodies, errors, and the answers while models load."""

import asyncio
import gzip
import json
import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest

from graftline.errors import UserError
from graftline.serving.server.errors import Code, ServingError
from graftline.serving.server.http.messages import Message, RefusedError, error_answer
from graftline.serving.server.http.rest import RestApi
from graftline.serving.server.http.routes import HttpRoutes
from graftline.serving.server.limits import InFlight
from graftline.serving.server.metrics import Metrics
from graftline.serving.server.options import ServerOptions
from graftline.serving.server.threads import RequestThreads

LIMIT = 100_000
COUNT = ":tensorflow:serving:request_count{"
PREDICT = "/v1/models/roses:predict"


class Application:
    """HttpRoutes with an API that only records its requests, or raises `fault`."""

    def __init__(self, fault: Exception | None = None, loading: bool = False, max_in_flight: int = 8) -> None:
        self.metrics = Metrics()
        self.in_flight = InFlight(max_in_flight)
        self.bodies: list[bytes] = []
        options = ServerOptions(max_request_bytes=LIMIT, max_in_flight=max_in_flight)
        self._routes = HttpRoutes(options, self.metrics, self.in_flight, RequestThreads(1))
        if not loading:
            api = RestApi(SimpleNamespace(names=["roses"]), LIMIT)  # type: ignore[arg-type]

            def predict(asked: Any) -> bytes:
                self.bodies.append(asked.body())
                if fault:
                    raise fault
                return b"{}"

            api._predict = predict  # type: ignore[method-assign]
            self._routes.open(api._manager, api)

    def ask(self, method: str, path: str, *pieces: bytes, encoding: bytes = b"") -> tuple[int, dict[bytes, bytes], Any]:
        """Send a request whose body comes in pieces; return the status, headers and body of the answer."""
        left = list(pieces) or [b""]
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(b"content-encoding", encoding)] if encoding else []
        scope = {"type": "http", "method": method, "raw_path": path.encode(), "headers": headers}
        asyncio.run(self._routes(scope, receive, send))
        return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]

    def counted(self) -> list[str]:
        """Return the lines of the metric of requests."""
        return [
            line for line in self.metrics.exposition().splitlines() if line.startswith(":tensorflow:serving:request_c")
        ]


@pytest.mark.parametrize(
    ("body", "encoding", "plain"),
    [
        (gzip.compress(b"{}"), b"gzip", b"{}"),
        (gzip.compress(b"{}"), b"x-gzip", b"{}"),
        (gzip.compress(b"a" * LIMIT), b"GZIP", b"a" * LIMIT),
        (b"{}", b"identity", b"{}"),
        (b"{}", b"br", b"{}"),
        (b"{}", b"", b"{}"),
        # TensorFlow Serving makes an empty body of a broken one, and then calls the document empty.
        (b"{}", b"gzip", b""),
        (gzip.compress(b"{}")[:-1], b"gzip", b""),
        (gzip.compress(b"{}") + b"{}", b"gzip", b""),
        (gzip.compress(b"{}")[:-4] + b"\1\0\0\0", b"gzip", b""),  # it says that it is shorter
        (b"", b"gzip", b""),
    ],
)
def test_a_gzip_body_is_unpacked_as_tensorflow_serving_unpacks_it(body: bytes, encoding: bytes, plain: bytes) -> None:
    application = Application()
    assert application.ask("POST", PREDICT, body[:3], body[3:], encoding=encoding)[0] == 200
    assert application.bodies == [plain]


@pytest.mark.timeout(60)
def test_two_members_of_gzip_end_even_when_the_first_is_unpacked_in_pieces() -> None:
    from graftline.serving.server.http.rest import gunzip

    assert gunzip(gzip.compress(b"a" * 600_000) * 2, 1 << 20) == b""


def test_a_gzip_bomb_is_refused_by_the_size_of_its_content_and_never_unpacked_whole() -> None:
    bomb = gzip.compress(b"\0" * (50 << 20))
    assert len(bomb) < LIMIT
    application = Application()
    tracemalloc.start()
    status, _, body = application.ask("POST", PREDICT, bomb, encoding=b"gzip")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (status, application.bodies) == (413, [])
    assert json.loads(body)["error"].startswith("request body is larger than 97 KiB: ")
    assert peak < 10 << 20


@pytest.mark.parametrize(
    ("fault", "status", "counted"),
    [
        (None, 200, "OK"),
        (ServingError(Code.UNAVAILABLE, "why"), 503, "UNAVAILABLE"),
        # Codes that share their HTTP status with another one:
        (ServingError(Code.FAILED_PRECONDITION, "why"), 400, "FAILED_PRECONDITION"),
        (ServingError(Code.DATA_LOSS, "why"), 500, "DATA_LOSS"),
        (RefusedError(413, "why"), 413, "INVALID_ARGUMENT"),
        (ValueError(), 500, "INTERNAL"),
        (StopIteration(), 500, "INTERNAL"),  # asyncio cannot pass it on: the client would wait for ever
    ],
)
def test_the_metrics_get_the_code_of_the_error_itself(fault: Exception | None, status: int, counted: str) -> None:
    application = Application(fault)
    assert application.ask("POST", PREDICT)[0] == status
    assert application.counted() == [f':tensorflow:serving:request_count{{model_name="roses",status="{counted}"}} 1']


def test_a_request_beyond_the_most_in_flight_is_refused_and_counted() -> None:
    application = Application(max_in_flight=1)
    with application.in_flight.counting():
        assert application.ask("POST", PREDICT)[0] == 429
        assert application.ask("GET", "/healthz")[0] == 200
    assert application.ask("POST", PREDICT)[0] == 200
    assert [line.partition("status=")[2] for line in application.counted()] == ['"OK"} 1', '"RESOURCE_EXHAUSTED"} 1']


def test_a_name_that_is_not_served_makes_no_metric_of_its_own() -> None:
    application = Application()
    application.ask("POST", "/v1/models/tulips:predict")
    assert application.counted() == [':tensorflow:serving:request_count{model_name="(unknown)",status="OK"} 1']


@pytest.mark.parametrize(("status", "later"), [(503, True), (429, False), (400, False), (504, False)])
def test_a_client_that_finds_the_queue_full_is_told_when_to_try_again(status: int, later: bool) -> None:
    assert ("Retry-After" in error_answer(status, "why").headers) == later


@pytest.mark.parametrize(
    ("path", "status"),
    [("/healthz", 200), ("/readyz", 503), ("/monitoring/prometheus/metrics", 200), (PREDICT, 503), ("/", 503)],
)
def test_while_models_load_only_probes_are_answered(path: str, status: int) -> None:
    assert Application(loading=True).ask("GET", path)[0] == status


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("/", "has another answer already: choose another path"),
        ("/readyz", "has another answer already: choose another path"),
        ("/V1/models/roses", "has another answer already: choose another path"),
        ("/graftline/page.js", "has another answer already: choose another path"),
        ("", "is no path of a URL: give one such as /monitoring/prometheus/metrics"),
        ("metrics", "is no path of a URL: give one such as /monitoring/prometheus/metrics"),
        ("/metrics?all", "is no path of a URL: give one such as /monitoring/prometheus/metrics"),
        ("/mètrics", "is no path of a URL: give one such as /monitoring/prometheus/metrics"),
    ],
)
def test_metrics_need_a_path_of_their_own(path: str, fault: str) -> None:
    with pytest.raises(UserError) as caught:
        HttpRoutes(ServerOptions(monitoring_path=path), Metrics(), InFlight(1), RequestThreads(1))
    assert str(caught.value) == f"monitoring_path {path} {fault}"


def test_foreign_pages_are_refused_on_every_path() -> None:
    application = Application()
    for path in ("/", "/healthz", "/monitoring/prometheus/metrics", PREDICT, "/v1/models/roses/metadata"):
        status, _, body = application.ask("GET", "http://evil.example" + path)
        assert status == 403 and json.loads(body)["error"].startswith("Host: evil.example is not a name of this server")
    assert application.bodies == []


@pytest.mark.parametrize("origin", ["", "http://127.0.0.1:8501", "HTTPS://localhost"])
def test_a_target_may_be_a_whole_url(origin: str) -> None:
    """RFC 9112, section 3.2.2."""
    assert Application().ask("POST", origin + PREDICT)[0] == 200
    assert Application().ask("GET", origin + "/healthz")[2] == b"ok\n"
