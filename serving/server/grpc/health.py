"""gRPC's health service: https://github.com/grpc/grpc/blob/master/doc/health-checking.md.

The asynchronous one of grpcio-health-checking forgets all watchers of a service when one of them leaves.
"""

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

_SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
_STATUS = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):
    """SERVING until `end`, then NOT_SERVING."""

    def __init__(self) -> None:
        self._ended = asyncio.Event()

    def end(self) -> None:
        """Report NOT_SERVING, and end the calls that watch."""
        self._ended.set()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return the status of a service."""
        if request.service not in _SERVICES:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return _STATUS(status=_STATUS.NOT_SERVING if self._ended.is_set() else _STATUS.SERVING)

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802
        """Send the status of a service, and every change of it."""
        known = request.service in _SERVICES
        await context.write(_STATUS(status=_STATUS.SERVING if known else _STATUS.SERVICE_UNKNOWN))
        await self._ended.wait()
        if known:
            await context.write(_STATUS(status=_STATUS.NOT_SERVING))
