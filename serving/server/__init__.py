"""The local model server: the TF Serving API, gRPC and REST v1, with no docker.

`serve` is what `graftline serve` calls; `ModelServer` is the same to start and stop within a process.
Importing this package is quick: TensorFlow is imported when a server starts, after its ports are bound.
"""

import contextlib
import errno
import functools
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from graftline.errors import UserError
from graftline.serving.server.options import ServerOptions
from graftline.serving.versions.locate import Model

if TYPE_CHECKING:
    from graftline.serving.server.http.server import HttpServer
    from graftline.serving.server.model.manager import ModelManager
    from graftline.serving.versions.model_config import ModelConfig

__all__ = ["ModelServer", "ServerOptions", "serve"]

_logger = logging.getLogger(__name__)

MAX_MESSAGE = ServerOptions.max_request_bytes  # bytes of one gRPC request, unless told otherwise
_SPARE_THREADS = 8  # for status, metadata and health while as many requests as are allowed wait for their answers


def _port_error(host: str, port: int, option: str, error: OSError | UnicodeError | None = None) -> UserError:
    # Neither a name that cannot be looked up (or is none: UnicodeError) nor another machine's address has such ports.
    if isinstance(error, UnicodeError | socket.gaierror) or (error and error.errno == errno.EADDRNOTAVAIL):
        reason = error.strerror if isinstance(error, OSError) else "it is no name"
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

    Port 0 takes any free one; `rest_port` and `grpc_port` then tell which. The other keywords are short for the fields
    of `options`. With `options.model_config_file` the models are those that it names.
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
        short = {
            "rest_api_port": rest_port,
            "port": grpc_port,
            "host": host,
            "file_system_poll_wait_seconds": poll_seconds,
        }
        given: dict[str, Any] = {name: value for name, value in short.items() if value is not None}
        self.options = replace(options or ServerOptions(), **given)
        self.rest_port = self.options.rest_api_port
        self.grpc_port = self.options.port
        self.host = self.options.host
        self.manager: ModelManager | None = None
        self.answering = False
        self._models = list(models)

        from graftline.serving.server.http.front import Front
        from graftline.serving.server.limits import InFlight
        from graftline.serving.server.metrics import Metrics

        self._metrics = Metrics()
        self._in_flight = InFlight(self.options.max_in_flight)
        self._front = Front(self.options, self._metrics, self._in_flight)
        self._undo = contextlib.ExitStack()

    @property
    def served(self) -> dict[str, list[int]]:
        """The versions that answer, the highest first, of each model by name."""
        from graftline.serving.server.http.front import available_versions

        if self.manager is None:
            return {}
        return {name: available_versions(self.manager, name) for name in self.manager.names}

    def start(self) -> "ModelServer":
        """Bind both ports, load and warm every model, then answer. Until then REST answers probes alone.

        Raises UserError: a port in use (before anything is loaded), a model that cannot be loaded.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self) -> None:
        # Ports first: who mistyped one should not wait for TensorFlow's seconds to hear of it.
        rest = self._bind_rest()
        rpc = self._bind_grpc()
        threading.Thread(target=rest.serve_forever, args=(0.1,), name="graftline-rest", daemon=True).start()
        self._undo.callback(rest.shutdown)  # after the start: it waits for the end of what has begun

        from graftline.quick_tensorflow import import_tensorflow

        import_tensorflow()
        from graftline.serving.server.config_file import ConfigFile
        from graftline.serving.server.grpc.interceptor import add_health
        from graftline.serving.server.grpc.services import add_services
        from graftline.serving.server.http.rest import RestApi
        from graftline.serving.server.model.batching import Batcher
        from graftline.serving.server.model.loaded_model import LoadedModel
        from graftline.serving.server.model.manager import ModelManager

        batcher = Batcher(self.options.batching, self._metrics) if self.options.enable_batching else None

        def load(path: str, name: str, version: int) -> LoadedModel:
            return LoadedModel(path, name, self.options, batcher, self._metrics)

        file = ConfigFile(self.options.model_config_file) if self.options.model_config_file else None
        self.manager = ModelManager(file.read() if file else self._configs(), load)
        self._undo.callback(self.manager.close)
        self.manager.load()
        if self.options.file_system_poll_wait_seconds:
            self.manager.start_polling(self.options.file_system_poll_wait_seconds)
        if file and self.options.config_poll_seconds:
            self.manager.start_polling(self.options.config_poll_seconds, functools.partial(file.look, self.manager))

        add_services(rpc, self.manager)
        health = add_health(rpc)
        rpc.start()
        self.answering = True
        self._front.open(self.manager, RestApi(self.manager))
        self._undo.callback(self._drain, rest, rpc, health)

    def _configs(self) -> list["ModelConfig"]:
        from graftline.serving.versions import model_config

        policy = model_config.VersionPolicy.parse(self.options.version_policy)
        return [model_config.ModelConfig.of(model, policy) for model in self._models]

    def _drain(self, rest: "HttpServer", rpc: Any, health: Any) -> None:
        """Say that the end is near, take nothing new, and let what is under way end."""
        until = time.monotonic() + self.options.shutdown_grace_seconds
        _logger.info("draining: no new requests; those under way get %g s", self.options.shutdown_grace_seconds)
        health.enter_graceful_shutdown()
        self._in_flight.drain()
        rest.shutdown()
        rest.server_close()
        ended = rpc.stop(self.options.shutdown_grace_seconds)
        drained = self._in_flight.wait(self.options.shutdown_grace_seconds)
        ended.wait(max(0.0, until - time.monotonic()))
        if drained:
            _logger.info("drained")
        else:
            _logger.warning("requests are still under way after %g s", self.options.shutdown_grace_seconds)

    def _bind_rest(self) -> "HttpServer":
        from graftline.serving.server.http.server import HttpServer

        try:
            rest = HttpServer(self.host, self.rest_port, self.options.max_request_bytes, self._front.admit)
        except (OSError, UnicodeError) as error:
            raise _port_error(self.host, self.rest_port, "--rest-port", error) from error
        rest.handle = self._front
        self._undo.callback(rest.server_close)
        self.rest_port = rest.port
        return rest

    def _bind_grpc(self) -> Any:
        from concurrent import futures

        import grpc

        from graftline.serving.server.grpc.interceptor import Edge

        rpc = grpc.server(
            futures.ThreadPoolExecutor(
                self.options.max_in_flight + _SPARE_THREADS, thread_name_prefix="graftline-grpc"
            ),
            interceptors=[Edge(self._metrics, self._in_flight, lambda: self.manager.names if self.manager else [])],
            options=[
                ("grpc.max_receive_message_length", self.options.max_request_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # on by default: two servers would share the port, unnoticed
            ],
        )
        host = f"[{self.host}]" if ":" in self.host else self.host
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            # gRPC does not say what is wrong but by lines of its own on standard error.
            socket.create_server((self.host, self.grpc_port), family=family).close()
        except OSError as error:
            raise _port_error(self.host, self.grpc_port, "--grpc-port", error) from error
        try:
            port = rpc.add_insecure_port(f"{host}:{self.grpc_port}")
        except RuntimeError as error:
            raise _port_error(self.host, self.grpc_port, "--grpc-port") from error
        self._undo.callback(self._release, rpc)
        self.grpc_port = port
        return rpc

    def _release(self, rpc: Any) -> None:
        """Give the gRPC port back. gRPC closes it only on the stop of a server that was started."""
        if not self.answering:
            rpc.start()
        rpc.stop(None).wait()

    def stop(self) -> None:
        """Take no new requests, let those under way end, unload the models. Harmless when called twice."""
        self._undo.close()

    def __enter__(self) -> "ModelServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class _StoppedWhileStartingError(BaseException):
    """SIGTERM or SIGINT before the server was up. No Exception, so that no library swallows it."""


@contextlib.contextmanager
def _stop_signals(stop: Callable[[], None]) -> Iterator[Callable[[], int]]:
    """For the length of the `with`: `stop` is called at the first SIGTERM or SIGINT; a second ends all.

    Gives what waits for the first and returns its number. It reads the byte that Python's C handler writes in whichever
    thread the kernel chose: a lock that the main thread waits for is woken by the main thread's own signals alone.
    """
    signals = (signal.SIGTERM, signal.SIGINT)

    def on_signal(number: int, frame: FrameType | None) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_DFL)
        stop()

    def wait() -> int:
        while (number := os.read(read, 1)[0]) not in signals:
            pass
        return number

    read, write = os.pipe()
    os.set_blocking(write, False)
    fd_before = signal.set_wakeup_fd(write)
    before = {number: signal.signal(number, on_signal) for number in signals}
    try:
        yield wait
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(fd_before)
        os.close(read)
        os.close(write)


def serve(
    models: Sequence[Model],
    rest_port: int | None = None,
    grpc_port: int | None = None,
    host: str | None = None,
    ready: Callable[[ModelServer], None] | None = None,
    *,
    options: ServerOptions | None = None,
) -> None:
    """Serve `models` until SIGTERM or SIGINT, then stop cleanly; for the main thread of a process.

    `ready` is called with the server once it answers, its real ports in `rest_port` and `grpc_port`. What is under way
    when the signal comes is answered; a second signal ends the process at once.
    Raises UserError as `ModelServer.start` does.
    """
    stopping = threading.Event()
    server = ModelServer(models, rest_port, grpc_port, host, options=options)

    def stop() -> None:
        if not server.answering:  # TensorFlow is being imported: nobody should have to wait for that
            raise _StoppedWhileStartingError
        stopping.set()

    with _stop_signals(stop) as wait:
        try:
            with server:
                if ready and not stopping.is_set():
                    ready(server)
                number = wait()
                _logger.info("%s: stopping", signal.Signals(number).name)  # not by the handler: it may cut into a log
            _logger.info("stopped")
        except _StoppedWhileStartingError:
            _logger.info("stopped before the models were loaded")
