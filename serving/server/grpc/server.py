"""The gRPC port: TF Serving's services and health, on grpc.aio.

A call takes a thread when its message is there, not before: calls that send no message keep no other from an answer.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from graftline.serving.server.grpc.interceptors import MetricsInterceptor, StatusInterceptor
from graftline.serving.server.limits import SPARE_THREADS, InFlight
from graftline.serving.server.loop_thread import LoopThread
from graftline.serving.server.metrics import Metrics
from graftline.serving.server.options import ServerOptions

if TYPE_CHECKING:
    from graftline.serving.server.model.manager import ModelManager

_SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")


class GrpcServer:
    """Binds when made; answers from `start` to `close`. Raises RuntimeError when the port cannot be had."""

    def __init__(self, host: str, port: int, options: ServerOptions, metrics: Metrics, in_flight: InFlight) -> None:
        self._options = options
        self._metrics = metrics
        self._in_flight = in_flight
        self._manager: ModelManager | None = None
        self._started = False
        self._loop = LoopThread("graftline-grpc-loop")
        try:
            self.port = self._loop.run(self._bind(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"))
        except BaseException:
            self._loop.stop()
            raise

    async def _bind(self, address: str) -> int:
        threads = self._options.max_in_flight + SPARE_THREADS
        self._server = grpc.aio.server(
            ThreadPoolExecutor(threads, thread_name_prefix="graftline-grpc"),
            interceptors=[
                StatusInterceptor(self._names),
                MetricsInterceptor(self._metrics, self._in_flight, self._names),
            ],
            options=[
                ("grpc.max_receive_message_length", self._options.max_request_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # on by default: two servers would share the port, unnoticed
            ],
        )
        return int(self._server.add_insecure_port(address))

    def _names(self) -> list[str]:
        return self._manager.names if self._manager else []

    def start(self, manager: "ModelManager") -> None:
        """Answer from now on, for the models of `manager`."""
        self._manager = manager
        self._loop.run(self._start(manager))

    async def _start(self, manager: "ModelManager") -> None:
        from graftline.serving.server.grpc.services import add_services  # it imports TensorFlow

        add_services(self._server, manager)
        # Health follows https://github.com/grpc/grpc/blob/master/doc/health-checking.md.
        self._health = health.aio.HealthServicer()
        for service in _SERVICES:
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        await self._server.start()
        self._started = True

    def drain(self, seconds: float) -> None:
        """Say that the end is near and take no new calls. Return when all have ended, after `seconds` at most."""
        self._loop.run(self._drain(seconds))

    async def _drain(self, seconds: float) -> None:
        await self._health.enter_graceful_shutdown()
        await self._server.stop(seconds)

    def close(self) -> None:
        """Give the port back and end every call."""
        self._loop.run(self._close())
        self._loop.stop()

    async def _close(self) -> None:
        if not self._started:
            await self._server.start()  # gRPC closes a port only on the stop of a server that was started
        await self._server.stop(None)
