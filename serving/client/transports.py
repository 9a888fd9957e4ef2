"""Four ways to send bytes: gRPC and REST, each for callers that block and for an event loop.

A transport connects at its first call. Any number of threads or tasks may use it. Every failure becomes a
ServiceError. gRPC and httpx are imported when they are needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from graftline import proxies
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


# What httpx and OpenSSL read when they make a context for TLS.
_TLS_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")


def _host(address: str) -> str:
    return urllib.parse.urlsplit(address if "://" in address else f"//{address}").hostname or ""


def _channel(module: Any, target: str, secure: bool) -> Any:
    """Return a channel of `grpc` or `grpc.aio`, by its module."""
    options = [*_GRPC_OPTIONS, ("grpc.enable_http_proxy", int(proxies.of_grpc(_host(target)) is not None))]
    if not secure:
        return module.insecure_channel(target, options=options)
    import grpc

    return module.secure_channel(target, grpc.ssl_channel_credentials(), options=options)


def _grpc_error(error: Any, target: str) -> ServiceError:
    metadata = {str(key): str(value) for key, value in error.trailing_metadata() or ()}
    code, details = error.code().name, error.details() or ""
    return service_error(code, details + _by_proxy(code, proxies.of_grpc(_host(target))), metadata)


def _by_proxy(code: str, proxy: proxies.Proxy | None) -> str:
    """Return the end of a message about a server that cannot be reached; the proxy's URL may hold a password."""
    if proxy is None or code not in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
        return ""
    return f" (through the proxy that the variable {proxy.variable} names; unset it, or add the server to no_proxy)"


class GrpcTransport:
    """gRPC for callers that block."""

    def __init__(self, target: str, secure: bool, metadata: Mapping[str, str]) -> None:
        import grpc

        self._error, self._target = grpc.RpcError, target
        self._channel = _channel(grpc, target, secure)
        self._metadata = tuple(metadata.items())

    def send(self, step: Send) -> bytes:
        """Send a call and return the bytes of its answer. Raises ServiceError."""
        try:
            call = self._channel.unary_unary(step.call.path)
            return call(step.call.body, timeout=step.timeout, metadata=self._metadata)
        except self._error as error:
            raise _grpc_error(error, self._target) from error

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
            raise _grpc_error(error, self._target) from error

    async def close(self) -> None:
        """Close the connections."""
        if self._channel is not None:
            await self._channel.close()


def _request(step: Send) -> dict[str, Any]:
    """Return the arguments of httpx' `request`."""
    request = {"method": step.call.verb, "url": step.call.path, "content": step.call.body, "timeout": step.timeout}
    return {**request, "headers": {"content-type": "application/json"}} if step.call.body else request


def _body(answer: httpx.Response, content: bytes, proxy: proxies.Proxy | None) -> bytes:
    if answer.is_success:
        return content
    error = http_error(answer.status_code, answer.headers, content)
    if proxy is not None and error.message == f"HTTP status {answer.status_code}":  # a model server gives a reason
        raise ServiceError("UNAVAILABLE", error.message + _by_proxy("UNAVAILABLE", proxy))
    raise error


def _http_arguments(base_url: str, headers: Mapping[str, str]) -> tuple[dict[str, Any], proxies.Proxy | None]:
    """Return the arguments of httpx' clients, and the proxy that they go by.

    The environment decides only here. httpx itself asks proxies for this machine, and refuses a `no_proxy` with
    brackets. Raises ValueError for a proxy or a variable of TLS that cannot be used.
    """
    import ssl

    import httpx

    url = urllib.parse.urlsplit(base_url)
    proxy = proxies.of_http(url.scheme, url.hostname or "")
    try:
        # Plain HTTP needs no certificates. This context trusts none, and no redirect is followed.
        context = httpx.create_ssl_context() if url.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    except OSError as error:  # also ssl.SSLError
        named = ", ".join(f"{name}={value}" for name in _TLS_VARIABLES if (value := os.environ.get(name)))
        raise ValueError(
            f"{base_url}: TLS cannot be set up ({error.strerror or error}) with {named or 'the certificates here'}: "
            "name files that exist, or unset the variable"
        ) from error
    through: httpx.Proxy | None = None
    if proxy is not None:
        address = proxy.url if "://" in proxy.url else f"http://{proxy.url}"
        try:
            through = httpx.Proxy(address)
            httpx.HTTPTransport(verify=context, trust_env=False, proxy=through).close()
        except (ValueError, ImportError, httpx.InvalidURL) as error:
            reason = "SOCKS needs the package socksio" if isinstance(error, ImportError) else "it is no proxy's URL"
            raise ValueError(
                f"{base_url}: the proxy in the variable {proxy.variable} cannot be used: {reason}; unset the variable, "
                "or add the server to no_proxy"
            ) from error
    arguments = {"base_url": base_url, "headers": dict(headers), "verify": context, "proxy": through}
    return {**arguments, "trust_env": False}, proxy


@contextlib.contextmanager
def _http_errors(proxy: proxies.Proxy | None) -> Iterator[None]:
    import httpx

    try:
        yield
    except (httpx.ReadTimeout, httpx.WriteTimeout, TimeoutError) as error:
        raise ServiceError("DEADLINE_EXCEEDED", f"no answer in time{_by_proxy('DEADLINE_EXCEEDED', proxy)}") from error
    except httpx.TransportError as error:
        reason = f"no connection: {error or type(error).__name__}{_by_proxy('UNAVAILABLE', proxy)}"
        raise ServiceError("UNAVAILABLE", reason) from error


class RestTransport:
    """REST for callers that block."""

    def __init__(self, base_url: str, headers: Mapping[str, str]) -> None:
        import httpx

        arguments, self._proxy = _http_arguments(base_url, headers)
        self._client = httpx.Client(**arguments)

    def send(self, step: Send) -> bytes:
        """Send a call as `GrpcTransport` does. httpx limits each wait for bytes, and this the whole answer."""
        end = time.monotonic() + step.timeout
        content = bytearray()
        with _http_errors(self._proxy), self._client.stream(**_request(step)) as answer:
            for part in answer.iter_bytes():
                content += part
                if time.monotonic() > end:
                    raise TimeoutError
        return _body(answer, bytes(content), self._proxy)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class AsyncRestTransport:
    """REST for an event loop."""

    def __init__(self, base_url: str, headers: Mapping[str, str]) -> None:
        import httpx

        arguments, self._proxy = _http_arguments(base_url, headers)
        self._client = httpx.AsyncClient(**arguments)

    async def send(self, step: Send) -> bytes:
        """Send a call and return the bytes of its answer. Raises ServiceError."""
        with _http_errors(self._proxy):
            try:
                answer = await asyncio.wait_for(self._client.request(**_request(step)), step.timeout)
                return _body(answer, answer.content, self._proxy)
            except asyncio.TimeoutError as error:  # TimeoutError itself only from Python 3.11 on
                raise TimeoutError from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
