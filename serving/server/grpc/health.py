"""gRPC's health service: https://github.com/grpc/grpc/blob/master/doc/health-checking.md.

The asynchronous one of grpcio-health-checking forgets all watchers of a service when one of them leaves.
"""

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

_SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
MAX_WATCHERS = 256  # such calls last as long as their clients want
_STATUS = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):
    """SERVING until `end`, then NOT_SERVING."""

    def __init__(self) -> None:
        self._ended = False
        self._watchers: dict[
            asyncio.Future[bool], None
        ] = {}  # the oldest first; their result: whether the end has come

    def end(self) -> None:
        """Report NOT_SERVING, and end the calls that watch."""
        self._ended = True
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(True)

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return the status of a service."""
        if request.service not in _SERVICES:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return _STATUS(status=_STATUS.NOT_SERVING if self._ended else _STATUS.SERVING)

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802
        """Send the status of a service, and every change of it."""
        known = request.service in _SERVICES
        await context.write(_STATUS(status=_STATUS.SERVING if known else _STATUS.SERVICE_UNKNOWN))
        if not (self._ended or await self._wait_for_end()):
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"over {MAX_WATCHERS} calls watch: ask again, or Check"
            )
        if known:
            await context.write(_STATUS(status=_STATUS.NOT_SERVING))

    async def _wait_for_end(self) -> bool:
        """Return whether the end has come: False when this was the oldest of too many."""
        watcher: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._watchers[watcher] = None
        if len(self._watchers) > MAX_WATCHERS:
            oldest = next(iter(self._watchers))
            del self._watchers[oldest]
            if not oldest.done():
                oldest.set_result(False)
        try:
            return await watcher
        finally:
            self._watchers.pop(watcher, None)
