"""Stands before the gRPC services: errors become statuses; inference is limited and counted."""

import contextlib
import logging
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from graftline.serving.server.errors import Code, ServingError
from graftline.serving.server.limits import InFlight
from graftline.serving.server.metrics import Metrics
from graftline.signatures import MODELS_METADATA

_logger = logging.getLogger(__name__)

_SERVICES = ("/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/")
_INFERENCE = ("Predict", "Classify", "Regress", "MultiInference")
_STATUS = {code.value[0]: code for code in grpc.StatusCode}
_DETAILS_LIMIT = 1024  # bytes, as in TF Serving's grpc_status_util.cc: details travel in a header
_METADATA_LIMIT = 4096  # bytes of trailing metadata: gRPC takes 8 KiB of headers in all


class ServiceInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every call of TF Serving's services, with what their methods leave to it.

    Messages are parsed and written in the call's thread: grpc.aio does both in its event loop, and answers UNKNOWN for
    bytes that are not a proto.
    """

    def __init__(self, metrics: Metrics, in_flight: InFlight, names: Callable[[], list[str]]) -> None:
        self._metrics = metrics
        self._in_flight = in_flight
        self._names = names  # the models that are served

    async def intercept_service(self, continuation: Callable[[Any], Any], call: Any) -> Any:
        """Return the handler of a call."""
        handler = await continuation(call)
        if handler is None or not call.method.startswith(_SERVICES):
            return handler
        api = call.method.rpartition("/")[2]

        def answer(message: bytes, context: Any) -> Any:
            try:
                request = handler.request_deserializer(message)
                with self._counting(api, request):
                    return handler.response_serializer(handler.unary_unary(request, context))
            except DecodeError:
                context.abort(grpc.StatusCode.INTERNAL, "Exception deserializing request!")
            except ServingError as error:
                if error.code is Code.NOT_FOUND:
                    self._add_names(context)
                details = error.message.encode("utf-8", "replace")
                if len(details) > _DETAILS_LIMIT:
                    details = details[:_DETAILS_LIMIT] + b"...TRUNCATED"
                context.abort(_STATUS[error.code.value], details.decode(errors="ignore"))
            except Exception:
                _logger.exception("unexpected fault while answering a gRPC request")
                context.abort(grpc.StatusCode.INTERNAL, "internal error of the model server: see its log")

        return grpc.unary_unary_rpc_method_handler(answer)

    @contextlib.contextmanager
    def _counting(self, api: str, request: Any) -> Iterator[None]:
        if api not in _INFERENCE:
            yield
            return
        specs = [task.model_spec for task in request.tasks] if api == "MultiInference" else [request.model_spec]
        name = specs[0].name if specs else ""
        with self._metrics.counting(name, self._names(), api, "GRPC"), self._in_flight.counting():
            yield

    def _add_names(self, context: Any) -> None:
        """Name the models that are served. TF Serving's API cannot list them; our client asks by a wrong name.

        The names are quoted: gRPC drops a status whose metadata is not ASCII, and the client waits for ever.
        """
        names = ",".join(urllib.parse.quote(name, safe="") for name in self._names())
        if len(names) <= _METADATA_LIMIT:
            context.set_trailing_metadata(((MODELS_METADATA, names),))
