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
from graftline.serving.server.limits import InFlight
from graftline.serving.server.metrics import Metrics

# It writes a stack trace for every message that is no proto, which any client may send.
logging.getLogger("grpc._common").setLevel(logging.CRITICAL)

_INFERENCE = frozenset(
    f"/tensorflow.serving.PredictionService/{api}" for api in ("Predict", "Classify", "Regress", "MultiInference")
)
_SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
_STATUS = {code.value[0]: code for code in grpc.StatusCode}


class MetricsInterceptor(grpc.ServerInterceptor):
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
            started, code = time.monotonic(), Code.OK
            try:
                with self._in_flight.counting():
                    return handler.unary_unary(request, context)
            except ServingError as error:
                code = error.code
                context.abort(_STATUS[code.value], error.message)
            except Exception:
                # `abort` raises to leave the method; its code is in the context by then.
                code = Code((context.code() or grpc.StatusCode.UNKNOWN).value[0])
                raise
            finally:
                self._metrics.add_request(_model_name(request), self._names(), code, api, "GRPC", started)

        return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)


def _model_name(request: Any) -> str:
    if hasattr(request, "model_spec"):
        return str(request.model_spec.name)
    return request.tasks[0].model_spec.name if request.tasks else ""


def add_health(server: grpc.Server) -> health.HealthServicer:
    """Register the health service, which says SERVING of all there is until `enter_graceful_shutdown`."""
    servicer = health.HealthServicer()
    for service in _SERVICES:
        servicer.set(service, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return servicer
