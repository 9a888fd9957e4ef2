"""Four ways to send bytes: gRPC and REST, each for callers that block and for an event loop.

A transport connects at its first call. Any number of threads or tasks may use it. Every failure becomes a
ServiceError. gRPC and httpx are imported when they are needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from graftline.serving.client.exchange import Send
from graftline.serving.client.protocols import http_error, service_error
from graftline.serving.client.results import ServiceError

if TYPE_CHECKING:
    import httpx

_GRPC_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # After a failed connection gRPC refuses calls for a while, by default longer than our pauses between calls.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]


def _channel(module: Any, target: str, secure: bool) -> Any:
    """Return a channel of `grpc` or `grpc.aio`, by its module."""
    if not secure:
        return module.insecure_channel(target, options=_GRPC_OPTIONS)
    import grpc

    return module.secure_channel(target, grpc.ssl_channel_credentials(), options=_GRPC_OPTIONS)


def _grpc_error(error: Any) -> ServiceError:
    metadata = {str(key): str(value) for key, value in error.trailing_metadata() or ()}
    return service_error(error.code().name, error.details() or "", metadata)


class GrpcTransport:
    """gRPC for callers that block."""

    def __init__(self, target: str, secure: bool, metadata: Mapping[str, str]) -> None:
        import grpc

        self._error = grpc.RpcError
        self._channel = _channel(grpc, target, secure)
        self._metadata = tuple(metadata.items())

    def send(self, step: Send) -> bytes:
        """Send a call and return the bytes of its answer. Raises ServiceError."""
        try:
            call = self._channel.unary_unary(step.call.path)
            return call(step.call.body, timeout=step.timeout, metadata=self._metadata)
        except self._error as error:
            raise _grpc_error(error) from error

    def close(self) -> None:
        """Close the connections."""
        self._channel.close()


class AsyncGrpcTransport:
    """gRPC for an event loop."""

    def __init__(self, target: str, secure: bool, metadata: Mapping[str, str]) -> None:
        self._target, self._secure = target, secure
        self._metadata = tuple(metadata.items())
        self._channel: Any = None

    async def send(self, step: Send) -> bytes:
        """Send a call and return the bytes of its answer. Raises ServiceError."""
        from grpc import aio

        if self._channel is None:  # the channel belongs to the loop that runs now
            self._channel = _channel(aio, self._target, self._secure)
        try:
            call = self._channel.unary_unary(step.call.path)
            return await call(step.call.body, timeout=step.timeout, metadata=self._metadata)
        except aio.AioRpcError as error:
            raise _grpc_error(error) from error

    async def close(self) -> None:
        """Close the connections."""
        if self._channel is not None:
            await self._channel.close()


def _request(step: Send) -> dict[str, Any]:
    """Return the arguments of httpx' `request`."""
    request = {"method": step.call.verb, "url": step.call.path, "content": step.call.body, "timeout": step.timeout}
    return {**request, "headers": {"content-type": "application/json"}} if step.call.body else request


def _body(answer: httpx.Response, content: bytes) -> bytes:
    if answer.is_success:
        return content
    raise http_error(answer.status_code, answer.headers, content)


@contextlib.contextmanager
def _http_errors() -> Iterator[None]:
    import httpx

    try:
        yield
    except (httpx.ReadTimeout, httpx.WriteTimeout, TimeoutError) as error:
        raise ServiceError("DEADLINE_EXCEEDED", "no answer in time") from error
    except httpx.TransportError as error:
        raise ServiceError("UNAVAILABLE", f"no connection: {error or type(error).__name__}") from error


class RestTransport:
    """REST for callers that block."""

    def __init__(self, base_url: str, headers: Mapping[str, str]) -> None:
        import httpx

        self._client = httpx.Client(base_url=base_url, headers=dict(headers))

    def send(self, step: Send) -> bytes:
        """Send a call as `GrpcTransport` does. httpx limits each wait for bytes, and this the whole answer."""
        end = time.monotonic() + step.timeout
        content = bytearray()
        with _http_errors(), self._client.stream(**_request(step)) as answer:
            for part in answer.iter_bytes():
                content += part
                if time.monotonic() > end:
                    raise TimeoutError
        return _body(answer, bytes(content))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class AsyncRestTransport:
    """REST for an event loop."""

    def __init__(self, base_url: str, headers: Mapping[str, str]) -> None:
        import httpx

        self._client = httpx.AsyncClient(base_url=base_url, headers=dict(headers))

    async def send(self, step: Send) -> bytes:
        """Send a call and return the bytes of its answer. Raises ServiceError."""
        with _http_errors():
            try:
                answer = await asyncio.wait_for(self._client.request(**_request(step)), step.timeout)
                return _body(answer, answer.content)
            except asyncio.TimeoutError as error:  # TimeoutError itself only from Python 3.11 on
                raise TimeoutError from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
