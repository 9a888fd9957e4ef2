"""The four ways that bytes travel: gRPC and REST, each for callers that block and for an event loop.

Each is opened at its first call and sends one `Send` at a time, from any number of threads or tasks; every trouble
becomes a ServiceError. gRPC and httpx are imported when they are needed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from graftline.serving.client.exchange import Send
from graftline.serving.client.protocols import http_error, service_error
from graftline.serving.client.results import ServiceError

if TYPE_CHECKING:
    import httpx

_GRPC_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # After a failed connection gRPC refuses calls for a while: longer than the pauses between ours, unless told.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]


class Transport(Protocol):
    """For callers that block."""

    def send(self, todo: Send) -> bytes:
        """The answer's bytes. Raises ServiceError."""

    def close(self) -> None:
        """Give the connections back."""


class AsyncTransport(Protocol):
    """For an event loop."""

    async def send(self, todo: Send) -> bytes:
        """The answer's bytes. Raises ServiceError."""

    async def close(self) -> None:
        """Give the connections back."""


def _channel(module: Any, target: str, secure: bool) -> Any:
    """A channel of `grpc` or `grpc.aio`."""
    if not secure:
        return module.insecure_channel(target, options=_GRPC_OPTIONS)
    import grpc

    return module.secure_channel(target, grpc.ssl_channel_credentials(), options=_GRPC_OPTIONS)


def _grpc_error(error: Any) -> ServiceError:
    metadata = {str(key): str(value) for key, value in error.trailing_metadata() or ()}
    return service_error(error.code().name, error.details() or "", metadata)


class GrpcTransport:
    """gRPC, blocking."""

    def __init__(self, target: str, secure: bool, metadata: Mapping[str, str]) -> None:
        import grpc

        self._error = grpc.RpcError
        self._channel = _channel(grpc, target, secure)
        self._metadata = tuple(metadata.items())

    def send(self, todo: Send) -> bytes:
        """See `Transport`."""
        try:
            call = self._channel.unary_unary(todo.call.path)
            return call(todo.call.body, timeout=todo.timeout, metadata=self._metadata)
        except self._error as error:
            raise _grpc_error(error) from error

    def close(self) -> None:
        """See `Transport`."""
        self._channel.close()


class AsyncGrpcTransport:
    """gRPC on an event loop."""

    def __init__(self, target: str, secure: bool, metadata: Mapping[str, str]) -> None:
        self._target, self._secure = target, secure
        self._metadata = tuple(metadata.items())
        self._channel: Any = None

    async def send(self, todo: Send) -> bytes:
        """See `AsyncTransport`."""
        from grpc import aio

        if self._channel is None:  # it belongs to the loop that runs now
            self._channel = _channel(aio, self._target, self._secure)
        try:
            call = self._channel.unary_unary(todo.call.path)
            return await call(todo.call.body, timeout=todo.timeout, metadata=self._metadata)
        except aio.AioRpcError as error:
            raise _grpc_error(error) from error

    async def close(self) -> None:
        """See `AsyncTransport`."""
        if self._channel is not None:
            await self._channel.close()


def _request(todo: Send) -> dict[str, Any]:
    """The arguments of httpx' `request`."""
    request = {"method": todo.call.verb, "url": todo.call.path, "content": todo.call.body, "timeout": todo.timeout}
    return {**request, "headers": {"content-type": "application/json"}} if todo.call.body else request


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
    """REST, blocking."""

    def __init__(self, base_url: str, headers: Mapping[str, str]) -> None:
        import httpx

        self._client = httpx.Client(base_url=base_url, headers=dict(headers))

    def send(self, todo: Send) -> bytes:
        """See `Transport`. httpx' timeout is one of each wait: an answer that comes in drops is given up here."""
        end = time.monotonic() + todo.timeout
        content = bytearray()
        with _http_errors(), self._client.stream(**_request(todo)) as answer:
            for part in answer.iter_bytes():
                content += part
                if time.monotonic() > end:
                    raise TimeoutError
        return _body(answer, bytes(content))

    def close(self) -> None:
        """See `Transport`."""
        self._client.close()


class AsyncRestTransport:
    """REST on an event loop."""

    def __init__(self, base_url: str, headers: Mapping[str, str]) -> None:
        import httpx

        self._client = httpx.AsyncClient(base_url=base_url, headers=dict(headers))

    async def send(self, todo: Send) -> bytes:
        """See `AsyncTransport`."""
        import asyncio

        with _http_errors():
            try:
                answer = await asyncio.wait_for(self._client.request(**_request(todo)), todo.timeout)
                return _body(answer, answer.content)
            except asyncio.TimeoutError as error:  # TimeoutError itself only from Python 3.11 on
                raise TimeoutError from error

    async def close(self) -> None:
        """See `AsyncTransport`."""
        await self._client.aclose()
