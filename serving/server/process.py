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
