"""Runs a ModelServer until the process gets SIGTERM or SIGINT. Called by `graftline serve` and by `__main__`."""

import logging
import os
import queue
import select
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType

from graftline.serving.server.limits import raise_descriptor_limit
from graftline.serving.server.options import ServerOptions
from graftline.serving.server.server import ModelServer
from graftline.serving.versions.locate import Model

_logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_END = 255  # no signal has this number
_LEAST_SECONDS = 5.0  # for a stop without grace


class _StoppedWhileStartingError(BaseException):
    """SIGTERM or SIGINT came before the server was up. As a BaseException it passes every library."""


class _Signals:
    """Waits for SIGTERM and SIGINT within a `with`, and sees to it that the process ends after the first of them.

    A thread reads the bytes that Python's C handler writes. It gets them also while the main thread is inside
    TensorFlow, where no handler of Python runs, and when the kernel chose another thread for the signal. That thread
    ends the process `seconds` after the first signal, or at the second one: a load or a run of TensorFlow cannot be
    interrupted.
    """

    def __init__(self, stop: Callable[[], None], seconds: float) -> None:
        self._stop = stop  # called in the main thread, at the first signal
        self._seconds = seconds
        self._numbers: queue.SimpleQueue[int] = queue.SimpleQueue()

    def wait(self) -> int:
        """Return the number of the first signal, when it is there."""
        return self._numbers.get()

    def __enter__(self) -> "_Signals":
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._fd_before = signal.set_wakeup_fd(self._write)
        self._before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        self._thread = threading.Thread(target=self._watch, name="graftline-signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        os.write(self._write, bytes([_END]))
        self._thread.join()
        os.close(self._read)
        os.close(self._write)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        self._stop()

    def _watch(self) -> None:
        first = self._next(None)
        if first == _END:
            return
        self._numbers.put(first)
        second = self._next(time.monotonic() + self._seconds)
        if not second:
            name = signal.Signals(first).name
            _logger.warning("loads or requests are under way %g s after %s: ending now", self._seconds, name)
            os._exit(0)
        if second != _END:
            os._exit(128 + second)

    def _next(self, until: float | None) -> int:
        """Return the next signal, or _END; 0 when there is none in time."""
        while select.select([self._read], [], [], None if until is None else max(0.0, until - time.monotonic()))[0]:
            number = os.read(self._read, 1)[0]
            if number in (*_SIGNALS, _END):
                return number
        return 0


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
    under way at the signal are answered. The process ends `shutdown_grace_seconds` after the signal at the latest, and
    at a second signal. Raises UserError as `ModelServer.start` does.
    """
    raise_descriptor_limit()
    stopping = threading.Event()
    server = ModelServer(models, rest_port, grpc_port, host, options=options)

    def stop() -> None:
        if not server.answering:  # the import of TensorFlow takes seconds, which nobody should wait for
            raise _StoppedWhileStartingError
        stopping.set()

    with _Signals(stop, max(_LEAST_SECONDS, server.options.shutdown_grace_seconds)) as signals:
        try:
            with server:
                if ready and not stopping.is_set():
                    ready(server)
                number = signals.wait()
                # A handler must not log: it may interrupt a log call.
                _logger.info("%s: stopping", signal.Signals(number).name)
            _logger.info("stopped")
        except _StoppedWhileStartingError:
            _logger.info("stopped before the models were loaded")
