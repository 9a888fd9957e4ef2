"""`ModelServer`: the models, and the two ports that answer for them."""

import asyncio
import contextlib
import errno
import functools
import logging
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graftline.errors import UserError
from graftline.serving.server.addresses import is_loopback
from graftline.serving.server.options import ServerOptions
from graftline.serving.versions.locate import Model

if TYPE_CHECKING:
    from graftline.serving.server.grpc.server import GrpcServer
    from graftline.serving.server.http.server import HttpServer
    from graftline.serving.server.model.manager import ModelManager
    from graftline.serving.server.tls import TlsConfig
    from graftline.serving.versions.model_config import ModelConfig

_logger = logging.getLogger(__name__)

_SPARE_THREADS = 8  # for status and metadata while max_in_flight requests wait for their answers


def _port_error(host: str, port: int, option: str, error: OSError | UnicodeError | None = None) -> UserError:
    if isinstance(error, OSError) and error.errno == errno.EINVAL and host.lower().startswith("fe80:"):
        return UserError(f"cannot listen on --host {host}: a link-local address needs its interface, as in {host}%eth0")
    # A UnicodeError or a gaierror means an unknown name; EADDRNOTAVAIL means another machine's address.
    if isinstance(error, UnicodeError | socket.gaierror) or (error and error.errno == errno.EADDRNOTAVAIL):
        reason = error.strerror if isinstance(error, OSError) else "it is not a name"
        return UserError(
            f"cannot listen on --host {host}: {reason}; give an address of this machine, or 0.0.0.0 for every one"
        )
    if error is not None and error.errno == errno.EACCES:
        return UserError(f"port {port} may not be used without privileges: choose one above 1023 with {option}")
    if error is not None and error.errno != errno.EADDRINUSE:
        return UserError(f"cannot listen on port {port}: {error.strerror or error}; choose another with {option}")
    return UserError(f"port {port} is in use: stop what uses it or choose another with {option}")


class ModelServer:
    """Serves models over REST and gRPC from `start` to `stop`, or for the length of a `with`.

    Port 0 takes any free port; `rest_port` and `grpc_port` then hold its number. The other keywords replace fields of
    `options`. `options.model_config_file` names the models in place of `models`.
    """

    def __init__(
        self,
        models: Sequence[Model],
        rest_port: int | None = None,
        grpc_port: int | None = None,
        host: str | None = None,
        poll_seconds: float | None = None,
        *,
        options: ServerOptions | None = None,
    ) -> None:
        given = {
            "port": grpc_port,
            "rest_api_port": rest_port,
            "file_system_poll_wait_seconds": poll_seconds,
            "host": host,
        }
        overrides: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        self.options = replace(options or ServerOptions(), **overrides)
        self.rest_port = self.options.rest_api_port
        self.grpc_port = self.options.port
        self.host = self.options.host
        self.manager: ModelManager | None = None
        self.answering = False
        self._models = list(models)

        from graftline.serving.server.http.routes import HttpRoutes
        from graftline.serving.server.limits import ByteBudget, InFlight, Runs
        from graftline.serving.server.metrics import Metrics
        from graftline.serving.server.threads import RequestThreads

        self._metrics = Metrics()
        self._in_flight = InFlight(self.options.max_in_flight)
        self._budget = ByteBudget(self.options.bytes_in_flight)
        self._threads = RequestThreads(self.options.max_in_flight + _SPARE_THREADS)
        self._runs = Runs()
        self._routes = HttpRoutes(self.options, self._metrics, self._in_flight, self._threads, self._runs)
        self._tls: TlsConfig | None = None
        self._undo = contextlib.ExitStack()

    @property
    def served(self) -> dict[str, list[int]]:
        """Return the versions that answer, the highest first, by the name of the model."""
        manager = self.manager
        return {name: manager.available_versions(name) for name in manager.names} if manager else {}

    @property
    def scheme(self) -> str:
        """Return the scheme of the REST port's URLs."""
        return "https" if self.options.ssl_config_file else "http"

    def start(self) -> "ModelServer":
        """Bind both ports, load and warm up every model, then answer. Until then the REST port answers probes alone.

        Raises UserError when a port is in use (before anything is loaded), or when a model cannot be loaded.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self) -> None:
        # Ports come first: the error of a mistyped port should not wait for TensorFlow's import.
        from graftline.serving.server.threads import LoopThread

        if self.options.ssl_config_file:
            from graftline.serving.server import tls

            self._tls = tls.read(self.options.ssl_config_file)
        self._undo.callback(self._threads.shutdown)
        self._loop = LoopThread("graftline-ports")
        self._undo.callback(self._loop.stop)
        rest = self._bind_rest()
        self._rpc = rpc = self._bind_grpc()
        self._warn_of_strangers()
        self._loop.run(rest.start())

        from graftline.quick_tensorflow import import_tensorflow

        import_tensorflow()
        from graftline.serving.server.config_file import ConfigFile
        from graftline.serving.server.http.rest import RestApi
        from graftline.serving.server.model.batching import Batcher
        from graftline.serving.server.model.loaded_model import LoadedModel
        from graftline.serving.server.model.manager import ModelManager

        batcher = Batcher(self.options.batching, self._metrics) if self.options.enable_batching else None
        file = ConfigFile(self.options.model_config_file) if self.options.model_config_file else None
        self.manager = ModelManager(
            file.read() if file else self._configs(),
            lambda path, name, version: LoadedModel(path, name, self.options, batcher, self._metrics, self._runs),
        )
        self._undo.callback(self.manager.close)
        self.manager.load()
        if self.options.file_system_poll_wait_seconds:
            self.manager.start_polling(self.options.file_system_poll_wait_seconds)
        if file and self.options.config_poll_seconds:
            self.manager.start_polling(self.options.config_poll_seconds, functools.partial(file.look, self.manager))

        self._loop.run(rpc.start(self.manager))
        self.answering = True
        api = RestApi(self.manager, self.options.max_request_bytes, self.options.timeout, self._budget)
        self._routes.open(self.manager, api, rpc.answers)
        self._undo.callback(self._drain, rest, rpc)

    def _configs(self) -> list["ModelConfig"]:
        from graftline.serving.versions import model_config

        policy = model_config.VersionPolicy.parse(self.options.version_policy)
        return [model_config.ModelConfig.of(model, policy) for model in self._models]

    def _drain(self, rest: "HttpServer", rpc: "GrpcServer") -> None:
        """Take no new requests and let those under way end, for 0.9 of the grace: the rest is for the models."""
        grace = 0.9 * self.options.shutdown_grace_seconds
        until = time.monotonic() + grace
        _logger.info("draining: no new requests; those under way get %g s", grace)
        assert self.manager is not None
        self.manager.stop()
        self._in_flight.drain()

        async def drain() -> None:
            await asyncio.gather(rest.drain(grace), rpc.drain(grace))

        self._loop.run(drain())
        if self._in_flight.wait(max(0.0, until - time.monotonic())):
            _logger.info("drained")
        else:
            _logger.warning("requests are still under way after %g s", grace)

    def _bind_rest(self) -> "HttpServer":
        from graftline.serving.server.http.server import HttpServer

        try:
            rest = HttpServer(
                self._routes,
                self.host,
                self.rest_port,
                self.options.max_request_bytes,
                budget=self._budget,
                tls=self._tls.context() if self._tls else None,
            )
        except (OSError, UnicodeError) as error:
            raise _port_error(self.host, self.rest_port, "--rest-port", error) from error
        self._undo.callback(lambda: self._loop.run(rest.close()))
        self.rest_port = rest.port
        return rest

    def _bind_grpc(self) -> "GrpcServer":
        from graftline.serving.server.grpc.server import GrpcServer

        rpc = GrpcServer(self.options, self._metrics, self._in_flight, self._threads, self._budget)
        try:
            self.grpc_port = self._loop.run(rpc.bind(self.host, self.grpc_port, self._tls))
        except (OSError, UnicodeError) as error:
            raise _port_error(self.host, self.grpc_port, "--grpc-port", error) from error
        self._undo.callback(lambda: self._loop.run(rpc.close()))
        return rpc

    def _warn_of_strangers(self) -> None:
        if is_loopback(self.host) or (self._tls and self._tls.client_verify):
            return
        _logger.warning(
            "listening on %s: everyone who reaches port %d or %d of this machine may use every model. There is no "
            "access control%s",
            self.host,
            self.rest_port,
            self.grpc_port,
            "" if self._tls else " and no encryption (--ssl-config-file)",
        )

    def stop(self) -> None:
        """Take no new requests, let those under way end, and unload the models. A second call does nothing."""
        self._undo.close()

    def __enter__(self) -> "ModelServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
