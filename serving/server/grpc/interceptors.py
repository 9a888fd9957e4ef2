"""What every gRPC call passes on its way to the services: errors become statuses; inference is limited and counted."""

import contextlib
import logging
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from graftline.serving.server.errors import Code, ServingError
from graftline.serving.server.limits import InFlight
from graftline.serving.server.metrics import Metrics
from graftline.signatures import MODELS_METADATA

_logger = logging.getLogger(__name__)

_SERVICES = ("/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/")
_INFERENCE = frozenset(_SERVICES[0] + api for api in ("Predict", "Classify", "Regress", "MultiInference"))
_STATUS = {code.value[0]: code for code in grpc.StatusCode}
_DETAILS_LIMIT = 1024  # characters, as in TF Serving's grpc_status_util.cc: details travel in a header
_METADATA_LIMIT = 4096  # bytes of trailing metadata: gRPC takes 8 KiB of headers in all

_Names = Callable[[], list[str]]  # the models that are served


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Turns a ServingError of TF Serving's services into a status. A fault of our own is logged and named INTERNAL."""

    def __init__(self, names: _Names) -> None:
        self._names = names

    async def intercept_service(self, continuation: Callable[[Any], Any], call: Any) -> Any:
        """Return the handler of a call."""
        handler = await continuation(call)
        if handler is None or not call.method.startswith(_SERVICES):
            return handler

        # grpc.aio itself parses in its event loop, and answers UNKNOWN for bytes that are not a proto.
        def answer(message: bytes, context: Any) -> Any:
            try:
                response = handler.unary_unary(handler.request_deserializer(message), context)
                return handler.response_serializer(response)
            except DecodeError:
                context.abort(grpc.StatusCode.INTERNAL, "Exception deserializing request!")
            except ServingError as error:
                if error.code is Code.NOT_FOUND:
                    self._add_names(context)
                details = error.message
                if len(details) > _DETAILS_LIMIT:
                    details = details[:_DETAILS_LIMIT] + "...TRUNCATED"
                context.abort(_STATUS[error.code.value], details)
            except Exception:
                _logger.exception("unexpected fault while answering a gRPC request")
                context.abort(grpc.StatusCode.INTERNAL, "internal error of the model server: see its log")

        return grpc.unary_unary_rpc_method_handler(answer)

    def _add_names(self, context: Any) -> None:
        """Name the models that are served. TF Serving's API cannot list them; our client asks by a wrong name.

        The names are quoted: gRPC drops a status whose metadata is not ASCII, and the client waits for ever.
        """
        names = ",".join(urllib.parse.quote(name, safe="") for name in self._names())
        if len(names) <= _METADATA_LIMIT:
            context.set_trailing_metadata(((MODELS_METADATA, names),))


class MetricsInterceptor(grpc.aio.ServerInterceptor):
    """Counts inference calls, and refuses those beyond the limit."""

    def __init__(self, metrics: Metrics, in_flight: InFlight, names: _Names) -> None:
        self._metrics = metrics
        self._in_flight = in_flight
        self._names = names

    async def intercept_service(self, continuation: Callable[[Any], Any], call: Any) -> Any:
        """Return the handler of a call."""
        handler = await continuation(call)
        if handler is None or call.method not in _INFERENCE:
            return handler
        api = call.method.rpartition("/")[2]

        def answer(request: Any, context: Any) -> Any:
            started, code = time.monotonic(), Code.INTERNAL
            try:
                with self._in_flight.counting():
                    response = handler.unary_unary(request, context)
                code = Code.OK
                return response
            except ServingError as error:
                code = error.code
                raise
            finally:
                self._metrics.add_request(_model_name(request), self._names(), code, api, "GRPC", started)

        return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)


def _model_name(request: Any) -> str:
    with contextlib.suppress(AttributeError):
        return str(request.model_spec.name)
    return str(request.tasks[0].model_spec.name) if request.tasks else ""
