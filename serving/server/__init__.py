"""The local model server: the TF Serving API, gRPC and REST v1, with no docker.

`serve` is what `graftline serve` calls; `ModelServer` is the same to start and stop within a process.
Importing this package is quick: TensorFlow is imported when a server starts, after its ports are bound.
"""

import contextlib
import errno
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from graftline.errors import UserError
from serving.locate import Model
from serving.quick_tensorflow import import_tensorflow
from serving.server.http_server import HttpServer

if TYPE_CHECKING:
    from serving.server.manager import ModelManager

__all__ = ["ModelServer", "serve"]

_logger = logging.getLogger(__name__)

MAX_MESSAGE = 64 << 20  # bytes of one gRPC request
_GRPC_THREADS = 16
_GRACE_SECONDS = 5.0  # for requests under way when the server is told to stop


def _port_error(port: int, option: str, error: OSError | None = None) -> UserError:
    if error is not None and error.errno == errno.EACCES:
        return UserError(f"port {port} may not be used without privileges: choose one above 1023 with {option}")
    if error is not None and error.errno != errno.EADDRINUSE:
        return UserError(f"cannot listen on port {port}: {error.strerror or error}; choose another with {option}")
    return UserError(f"port {port} is in use: stop what uses it or choose another with {option}")


class ModelServer:
    """Serves models over REST and gRPC from `start` to `stop`, or for the length of a `with`.

    Port 0 takes any free one; `rest_port` and `grpc_port` then tell which. Each base path is looked at every
    `poll_seconds` for a newer version.
    """

    def __init__(
        self,
        models: Sequence[Model],
        rest_port: int = 8501,
        grpc_port: int = 8500,
        host: str = "127.0.0.1",
        poll_seconds: float = 2.0,
    ) -> None:
        self.models = list(models)
        self.rest_port = rest_port
        self.grpc_port = grpc_port
        self.host = host
        self.manager: ModelManager | None = None
        self._poll_seconds = poll_seconds
        self._answering = False
        self._undo = contextlib.ExitStack()

    def start(self) -> "ModelServer":
        """Bind both ports, load and warm every model, then answer.

        Raises UserError: a port in use (before anything is loaded), a model that cannot be loaded.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self) -> None:
        # Ports first: who mistyped one should not wait for TensorFlow's ten seconds to hear of it.
        rest = self._bind_rest()
        rpc = self._bind_grpc()
        import_tensorflow()
        from serving.server.grpc_service import add_services
        from serving.server.manager import ModelManager
        from serving.server.rest import RestApi

        self.manager = ModelManager(self.models)
        self._undo.callback(self.manager.close)
        self.manager.load()
        self.manager.start_polling(self._poll_seconds)

        add_services(rpc, self.manager)
        rpc.start()
        self._answering = True
        self._undo.callback(lambda: rpc.stop(_GRACE_SECONDS).wait())
        rest.handle = RestApi(self.manager)
        thread = threading.Thread(target=rest.serve_forever, args=(0.1,), name="graftline-rest", daemon=True)
        thread.start()
        self._undo.callback(rest.drain, _GRACE_SECONDS)
        self._undo.callback(rest.shutdown)

    def _bind_rest(self) -> HttpServer:
        try:
            rest = HttpServer(self.host, self.rest_port)
        except OSError as error:
            raise _port_error(self.rest_port, "--rest-port", error) from error
        except OverflowError as error:
            raise UserError(f"--rest-port {self.rest_port} is no port: choose one from 0 to 65535") from error
        self._undo.callback(rest.server_close)
        self.rest_port = rest.port
        return rest

    def _bind_grpc(self) -> Any:
        from concurrent import futures

        import grpc

        if not 0 <= self.grpc_port <= 65535:
            raise UserError(f"--grpc-port {self.grpc_port} is no port: choose one from 0 to 65535")
        rpc = grpc.server(
            futures.ThreadPoolExecutor(_GRPC_THREADS, thread_name_prefix="graftline-grpc"),
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # on by default: two servers would share the port, unnoticed
            ],
        )
        host = f"[{self.host}]" if ":" in self.host else self.host
        try:
            port = rpc.add_insecure_port(f"{host}:{self.grpc_port}")
        except RuntimeError as error:
            raise _port_error(self.grpc_port, "--grpc-port") from error
        self._undo.callback(self._release, rpc)
        self.grpc_port = port
        return rpc

    def _release(self, rpc: Any) -> None:
        """Give the gRPC port back. gRPC closes it only on the stop of a server that was started."""
        if not self._answering:
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
def _stop_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGTERM and SIGINT, for the length of the `with`."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def serve(
    models: Sequence[Model],
    rest_port: int = 8501,
    grpc_port: int = 8500,
    host: str = "127.0.0.1",
    ready: Callable[[ModelServer], None] | None = None,
) -> None:
    """Serve `models` until SIGTERM or SIGINT, then stop cleanly; for the main thread of a process.

    `ready` is called with the server once it answers, its real ports in `rest_port` and `grpc_port`.
    Raises UserError as `ModelServer.start` does.
    """
    stopping = threading.Event()
    server = ModelServer(models, rest_port, grpc_port, host)

    def stop() -> None:
        if server.manager is None:  # TensorFlow is being imported: nobody should have to wait for that
            raise _StoppedWhileStartingError
        stopping.set()

    with _stop_signals(stop):
        try:
            with server:
                if ready and not stopping.is_set():
                    ready(server)
                stopping.wait()
        except _StoppedWhileStartingError:
            _logger.info("stopped before the models were loaded")
