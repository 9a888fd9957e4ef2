"""What stands before every gRPC inference call: the limit of requests under way, and the metrics. And health.

Health follows https://github.com/grpc/grpc/blob/master/doc/health-checking.md.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from graftline.serving.server.errors import Code, ServingError
from graftline.serving.server.http.front import UNKNOWN_MODEL
from graftline.serving.server.limits import InFlight
from graftline.serving.server.metrics import Metrics

# It writes a stack trace for every message that is no proto, which any client may send.
logging.getLogger("grpc._common").setLevel(logging.CRITICAL)

_INFERENCE = frozenset(
    f"/tensorflow.serving.PredictionService/{api}" for api in ("Predict", "Classify", "Regress", "MultiInference")
)
_SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
_STATUS = {code.value[0]: code for code in grpc.StatusCode}


class Edge(grpc.ServerInterceptor):
    """Counts inference calls in and out, by the names of the models that `names` gives."""

    def __init__(self, metrics: Metrics, in_flight: InFlight, names: Callable[[], list[str]]) -> None:
        self._metrics = metrics
        self._in_flight = in_flight
        self._names = names

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """The handler of a call, wrapped when it is one of inference."""
        handler = continuation(details)
        if handler is None or details.method not in _INFERENCE:
            return handler
        api = details.method.rpartition("/")[2]

        def answer(request: Any, context: Any) -> Any:
            started = time.monotonic()
            try:
                with self._in_flight.counting():
                    response = handler.unary_unary(request, context)
            except ServingError as error:
                self._count(request, error.code.name)
                context.abort(_STATUS[error.code.value], error.message)
            except Exception:
                # `abort` raises to leave the method; its code is in the context by then.
                self._count(request, (context.code() or grpc.StatusCode.UNKNOWN).name)
                raise
            name = self._count(request, Code.OK.name)
            self._metrics.request_latency.observe((time.monotonic() - started) * 1e6, name, api, "GRPC")
            return response

        return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)

    def _count(self, request: Any, status: str) -> str:
        specs = [request.model_spec] if hasattr(request, "model_spec") else [task.model_spec for task in request.tasks]
        name = specs[0].name if specs and specs[0].name in self._names() else UNKNOWN_MODEL
        self._metrics.request_count.add(1, name, status)
        return str(name)


def add_health(server: grpc.Server) -> health.HealthServicer:
    """Register the health service, which says SERVING of all there is until `enter_graceful_shutdown`."""
    servicer = health.HealthServicer()
    for service in _SERVICES:
        servicer.set(service, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return servicer
