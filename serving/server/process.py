"""Runs a ModelServer until the process gets SIGTERM or SIGINT. Called by `graftline serve` and by `__main__`."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from graftline.serving.server.options import ServerOptions
from graftline.serving.server.server import ModelServer
from graftline.serving.versions.locate import Model

_logger = logging.getLogger(__name__)


class _StoppedWhileStartingError(BaseException):
    """SIGTERM or SIGINT came before the server was up. As a BaseException it passes every library."""


@contextlib.contextmanager
def _stop_signals(stop: Callable[[], None]) -> Iterator[Callable[[], int]]:
    """Call `stop` at the first SIGTERM or SIGINT within the `with`. The second one ends the process.

    Yields a function that waits for the first signal and returns its number. The function reads the byte that Python's
    C handler writes in the thread that the kernel chose: a signal to another thread would not wake a main thread that
    waits for a lock.
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
    """Serve `models` until SIGTERM or SIGINT, then stop cleanly. Must run in the main thread.

    `ready` is called with the server when it answers; its `rest_port` and `grpc_port` hold the ports in use. Requests
    under way at the signal are answered. A second signal ends the process at once. Raises UserError as
    `ModelServer.start` does.
    """
    stopping = threading.Event()
    server = ModelServer(models, rest_port, grpc_port, host, options=options)

    def stop() -> None:
        if not server.answering:  # the import of TensorFlow takes seconds, which nobody should wait for
            raise _StoppedWhileStartingError
        stopping.set()

    with _stop_signals(stop) as wait:
        try:
            with server:
                if ready and not stopping.is_set():
                    ready(server)
                number = wait()
                # A handler must not log: it may interrupt a log call.
                _logger.info("%s: stopping", signal.Signals(number).name)
            _logger.info("stopped")
        except _StoppedWhileStartingError:
            _logger.info("stopped before the models were loaded")
