"""The gRPC port: TF Serving's services and health, on grpc.aio.

A call takes a thread when its message is there, not before: calls that send no message keep no other from an answer.
"""

import asyncio
import logging
import ssl
from concurrent.futures import Executor
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from graftline.serving.server.grpc.connection import MAX_STREAMS
from graftline.serving.server.grpc.health import Health
from graftline.serving.server.grpc.interceptors import LargeMessages, ServiceInterceptor
from graftline.serving.server.grpc.relay import Relay
from graftline.serving.server.limits import ByteBudget, InFlight
from graftline.serving.server.metrics import Metrics
from graftline.serving.server.options import ServerOptions

if TYPE_CHECKING:
    from graftline.serving.server.model.manager import ModelManager
    from graftline.serving.server.tls import TlsConfig

# grpc.aio wakes every event loop of the process for each event, and each loop that finds none logs a BlockingIOError:
# https://github.com/grpc/grpc/issues/25364. A second server in the process, or an asynchronous client, has a loop.
logging.getLogger("asyncio").addFilter(lambda record: "PollerCompletionQueue._handle_events" not in str(record.msg))
# gRPC logs a traceback for each header that is not UTF-8. HPACK repeats a header of 4 KB by one byte, so 300 bytes of a
# client made 45 KB of log, and 12 KB would make tens of MB.
logging.getLogger("grpc._cython.cygrpc").addFilter(lambda record: "Invalid encoding on" not in str(record.msg))


# Clients' options and the relay limit what comes; these limit one connection.
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    # A message of 1 MiB may decompress to 1 GiB: gRPC looks at its size before. Bit 0 stands for no compression.
    ("grpc.compression_enabled_algorithms_bitset", 1),
)
_ANSWER_SECONDS = 1.0


async def _shake_hands(host: str, port: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is this process
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection(host, port, ssl=context)
    writer.transport.abort()


class GrpcServer:
    """Listens from `bind` and answers from `start` to `close`; all are run in one event loop."""

    def __init__(
        self,
        options: ServerOptions,
        metrics: Metrics,
        in_flight: InFlight,
        threads: Executor,
        budget: ByteBudget | None = None,
    ) -> None:
        self._options = options
        self._threads = threads
        self._budget = budget or ByteBudget(options.bytes_in_flight)
        self._manager: ModelManager | None = None
        self._interceptor = ServiceInterceptor(
            metrics,
            in_flight,
            LargeMessages(options.max_request_bytes),
            threads,
            self._names,
            options,
            lambda peer: self._relay.host_of(peer),
        )
        self._server: grpc.aio.Server | None = None

    def _names(self) -> list[str]:
        return self._manager.names if self._manager else []

    async def bind(self, host: str, port: int, tls: "TlsConfig | None" = None) -> int:
        """Listen, and return the port in use. Raises OSError when the port cannot be had."""
        self._host, self._tls = host, tls
        context = tls.context("h2") if tls else None
        self._relay = Relay(host, port, self._budget, self._options.max_request_bytes, context)
        return self._relay.port

    async def start(self, manager: "ModelManager") -> None:
        """Answer for the models of `manager`."""
        from graftline.serving.server.grpc.services import add_services  # it imports TensorFlow

        self._manager = manager
        self._server = grpc.aio.server(
            self._threads,
            interceptors=[self._interceptor],
            options=[*_OPTIONS, ("grpc.max_receive_message_length", self._options.max_request_bytes)],
        )
        self._server.add_insecure_port(f"unix:{self._relay.path}")
        add_services(self._server, manager)
        self._health = Health()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        await self._server.start()
        await self._relay.start()

    async def answers(self) -> bool:
        """Return whether the port answers a new client within a second."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        try:
            address = f"[{host}]:{self._relay.port}" if ":" in host else f"{host}:{self._relay.port}"
            if self._tls:  # a call through the port might need a client's certificate
                await asyncio.wait_for(_shake_hands(host, self._relay.port), _ANSWER_SECONDS)
                address = f"unix:{self._relay.path}"
            # The pool of its own makes the connection a new one.
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
            async with grpc.aio.insecure_channel(address, options) as channel:
                check = health_pb2_grpc.HealthStub(channel).Check
                await check(health_pb2.HealthCheckRequest(), timeout=_ANSWER_SECONDS)
                return True
        except (grpc.aio.AioRpcError, asyncio.TimeoutError, OSError):
            return False

    async def drain(self, seconds: float) -> None:
        """Say that the end is near and take no new calls. Return when all have ended, after `seconds` at most."""
        self._health.end()
        await self._relay.drain(seconds)

    async def close(self) -> None:
        """Give the port back and end every call."""
        await self._relay.close()
        if self._server:
            await self._server.stop(None)
