"""The gRPC port: TF Serving's services and health, on grpc.aio.

A call takes a thread when its message is there, not before: calls that send no message keep no other from an answer.
"""

import logging
from concurrent.futures import Executor
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2_grpc  # type: ignore[import-untyped]

from graftline.serving.server.grpc.health import Health
from graftline.serving.server.grpc.interceptors import ServiceInterceptor
from graftline.serving.server.limits import InFlight
from graftline.serving.server.metrics import Metrics
from graftline.serving.server.options import ServerOptions

if TYPE_CHECKING:
    from graftline.serving.server.model.manager import ModelManager

# grpc.aio wakes every event loop of the process for each event, and each loop that finds none logs a BlockingIOError:
# https://github.com/grpc/grpc/issues/25364. A second server in the process, or an asynchronous client, has a loop.
logging.getLogger("asyncio").addFilter(lambda record: "PollerCompletionQueue._handle_events" not in str(record.msg))


class GrpcServer:
    """Listens from `bind` and answers from `start` to `close`; all are run in one event loop."""

    def __init__(self, options: ServerOptions, metrics: Metrics, in_flight: InFlight, threads: Executor) -> None:
        self._options = options
        self._threads = threads
        self._manager: ModelManager | None = None
        self._interceptor = ServiceInterceptor(metrics, in_flight, self._names)
        self._started = False

    def _names(self) -> list[str]:
        return self._manager.names if self._manager else []

    async def bind(self, host: str, port: int) -> int:
        """Listen, and return the port in use. Raises RuntimeError when the port cannot be had."""
        self._server = grpc.aio.server(
            self._threads,
            interceptors=[self._interceptor],
            options=[
                ("grpc.max_receive_message_length", self._options.max_request_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # on by default: two servers would share the port, unnoticed
            ],
        )
        return int(self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"))

    async def start(self, manager: "ModelManager") -> None:
        """Answer for the models of `manager`."""
        from graftline.serving.server.grpc.services import add_services  # it imports TensorFlow

        self._manager = manager
        add_services(self._server, manager)
        self._health = Health()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._started = True
        await self._server.start()

    async def drain(self, seconds: float) -> None:
        """Say that the end is near and take no new calls. Return when all have ended, after `seconds` at most."""
        self._health.end()
        await self._server.stop(seconds)

    async def close(self) -> None:
        """Give the port back and end every call."""
        if not self._started:
            await self._server.start()  # gRPC closes a port only on the stop of a server that was started
        await self._server.stop(None)
