"""Stands before the gRPC services: errors become statuses; inference is limited and counted."""

import asyncio
import collections
import contextlib
import logging
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError

from graftline.serving.server.addresses import is_loopback
from graftline.serving.server.errors import Code, ServingError
from graftline.serving.server.limits import InFlight
from graftline.serving.server.metrics import Metrics
from graftline.serving.server.model.proto_cost import check_cost
from graftline.serving.server.options import ServerOptions
from graftline.signatures import MODELS_METADATA

_logger = logging.getLogger(__name__)

_SERVICES = ("/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/")
_RELOAD = "HandleReloadConfigRequest"
_INFERENCE = ("Predict", "Classify", "Regress", "MultiInference")
_STATUS = {code.value[0]: code for code in grpc.StatusCode}
_DETAILS_LIMIT = 1024  # bytes, as in TF Serving's grpc_status_util.cc: details travel in a header
_LARGE = 1 << 20  # bytes: smaller messages are limited by the number of requests
_METADATA_LIMIT = 4096  # bytes of trailing metadata: gRPC takes 8 KiB of headers in all


class _Refusal(NamedTuple):
    """The status of a call that failed."""

    code: grpc.StatusCode
    details: str
    with_names: bool = False  # whether the answer names the models that are served


def _cut(message: str) -> str:
    details = message.encode("utf-8", "replace")
    if len(details) > _DETAILS_LIMIT:
        details = details[:_DETAILS_LIMIT] + b"...TRUNCATED"
    return details.decode(errors="ignore")


class LargeMessages:
    """Lets large messages into the threads, in their order, as long as they have no more than `most` bytes together.

    A message takes up to four times its bytes there: itself, the proto, the arrays, TensorFlow's tensors. Everything
    runs in the event loop.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._queue: collections.deque[tuple[asyncio.Future[None], int]] = collections.deque()

    async def enter(self, size: int) -> None:
        """Wait for the bytes of a message. `leave` gives them back."""
        place = asyncio.get_running_loop().create_future()
        self._queue.append((place, size))
        self._let_in()
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():
                self.leave(size)
            raise

    def leave(self, size: int) -> None:
        """Give the bytes of a message back."""
        self._taken -= size
        self._let_in()

    def _let_in(self) -> None:
        while self._queue and (not self._taken or self._taken + self._queue[0][1] <= self._most):
            place, size = self._queue.popleft()
            if not place.cancelled():
                self._taken += size
                place.set_result(None)


class ServiceInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every call of TF Serving's services, with what their methods leave to it.

    Messages are parsed and written in the call's thread: grpc.aio does both in its event loop, and answers UNKNOWN for
    bytes that are not a proto.
    """

    def __init__(
        self,
        metrics: Metrics,
        in_flight: InFlight,
        large: "LargeMessages",
        threads: Executor,
        names: Callable[[], list[str]],
        options: ServerOptions,
        host_of: Callable[[str], str],
    ) -> None:
        self._metrics = metrics
        self._in_flight = in_flight
        self._large = large
        self._threads = threads
        self._names = names  # the models that are served
        self._options = options
        self._host_of = host_of  # the client that grpc.aio knows by another name

    async def intercept_service(self, continuation: Callable[[Any], Any], call: Any) -> Any:
        """Return the handler of a call."""
        handler = await continuation(call)
        if handler is None or not call.method.startswith(_SERVICES):
            return handler
        api = call.method.rpartition("/")[2]
        request_type = handler.request_deserializer.__self__

        def work(message: bytes, context: Any) -> bytes | _Refusal:
            try:
                check_cost(message, request_type.DESCRIPTOR)
                request = request_type.FromString(message)
                with self._counting(api, request):
                    return bytes(handler.response_serializer(handler.unary_unary(request, context)))
            except DecodeError:
                return _Refusal(grpc.StatusCode.INTERNAL, "Exception deserializing request!")
            except ServingError as error:
                return _Refusal(_STATUS[error.code.value], _cut(error.message), error.code is Code.NOT_FOUND)
            except Exception:
                _logger.exception("unexpected fault while answering a gRPC request")
                return _Refusal(grpc.StatusCode.INTERNAL, "internal error of the model server: see its log")

        async def answer(message: bytes, context: Any) -> Any:
            result = self._refuse(api, context) or await self._run(work, message, context)
            if isinstance(result, bytes):
                return result
            if result.with_names:
                self._add_names(context)
            # `abort` raises. Its frames, with the message, would be kept until garbage is collected: 60 MiB a call.
            context.set_code(result.code)
            context.set_details(result.details)
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)

    def _refuse(self, api: str, context: Any) -> _Refusal | None:
        """Refuse a reload from another machine: it may unload every model."""
        if api != _RELOAD or self._options.allow_reload_from_anywhere:
            return None
        host = self._host_of(context.peer())
        if is_loopback(host):
            return None
        message = f"{_RELOAD} from {host} is refused: call it on the server's machine, or start the server with "
        return _Refusal(grpc.StatusCode.PERMISSION_DENIED, message + "--allow-reload-from-anywhere")

    async def _run(self, work: Callable[[bytes, Any], "bytes | _Refusal"], message: bytes, context: Any) -> Any:
        size = len(message)
        if size <= _LARGE:
            return await asyncio.wrap_future(self._threads.submit(work, message, context))
        await self._large.enter(size)
        future = self._threads.submit(work, message, context)
        loop = asyncio.get_running_loop()
        # A client that resets its call does not end the thread. The callback also comes when no thread has begun.
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._large.leave, size))
        return await asyncio.wrap_future(future)

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
