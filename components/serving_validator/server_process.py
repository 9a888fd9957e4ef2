"""Graftline's model server in a process of its own, which imports nothing of pipeline, components or trainer."""

import contextlib
import os
import pathlib
import queue
import re
import signal
import subprocess
import threading
from collections.abc import Iterator

from graftline import child

NAME = "candidate"
_READY = re.compile(r"serving .*rest=(?P<rest>\S+) grpc=(?P<grpc>\S+)$")
_MAX_BYTES = 2**31 - 1  # of a gRPC message
_MAX_PIXELS = 1_000_000_000  # of the images of a request: `validation` sends 8 at once, of 25 megapixels at most
_STOP_SECONDS = 30.0  # after this time a server that was asked to end is killed


class StartError(Exception):
    """The server did not start; the message is the last line of its log."""


class ServerProcess:
    """A running server.

    Attributes:
      rest: HOST:PORT.
      grpc: HOST:PORT.
      peak_mb: the most memory that it used; known after `stop`.
    """

    def __init__(self, process: "subprocess.Popen[str]", rest: str, grpc: str) -> None:
        """Take over a process that answers at these addresses."""
        self._process = process
        self.rest, self.grpc = rest, grpc
        self.peak_mb: float | None = None

    @property
    def alive(self) -> bool:
        """Return whether the process has not ended by itself."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Read the peak memory and end the process."""
        if not self.alive:
            return
        self.peak_mb = _peak_mb(self._process.pid)
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _peak_mb(pid: int) -> float | None:
    """Return the most memory that a process has used; None where the system has no /proc.

    `getrusage` would not do: its figure for a child is at least what the parent used when it started the child.
    """
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    peak = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    return int(peak[1]) / 1024 if peak else None


@contextlib.contextmanager
def serving(saved_model_dir: str, seconds: float) -> Iterator[ServerProcess]:
    """Serve a SavedModel under NAME on free ports of the loopback address.

    Raises StartError if the server ends before it answers, or does not answer within `seconds`.
    """
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    # Images of the eval split may exceed a server's default limits, which says nothing about the model.
    limits = ("--max-request-bytes", str(_MAX_BYTES), "--max-request-pixels", str(_MAX_PIXELS))
    options = ("--name", NAME, "--rest-port", "0", "--grpc-port", "0", *limits)
    process = subprocess.Popen(
        child.command("graftline.serving.server", saved_model_dir, *options, ends_with_parent=True),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        # The Trainer's process has taken all memory of a GPU, if there is one.
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
    )
    reader = threading.Thread(target=_drain, args=(process, lines), daemon=True)
    reader.start()
    server = None
    try:
        rest, grpc = _await_ready(process, lines, seconds)
        server = ServerProcess(process, rest, grpc)
        yield server
    finally:
        if server:
            server.stop()
        else:
            process.kill()
            process.wait()
        assert process.stdin is not None
        process.stdin.close()
        reader.join()


def _drain(process: "subprocess.Popen[str]", lines: "queue.SimpleQueue[str | None]") -> None:
    """Read the server's log to its end: a full pipe would stop the server."""
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            lines.put(line.rstrip("\n"))
    lines.put(None)


def _await_ready(
    process: "subprocess.Popen[str]", lines: "queue.SimpleQueue[str | None]", seconds: float
) -> tuple[str, str]:
    late = threading.Event()

    def give_up() -> None:
        late.set()
        process.send_signal(signal.SIGKILL)

    timer = threading.Timer(seconds, give_up)
    timer.start()
    last_line = ""
    try:
        while (line := lines.get()) is not None:
            if ready := _READY.match(line):
                return ready["rest"], ready["grpc"]
            last_line = line
    finally:
        timer.cancel()
    if late.is_set():
        raise StartError(f"it did not answer within {seconds:g} s")
    raise StartError(last_line.removeprefix("error: ") or f"it ended with status {process.wait()}")
