"""A model server of our own in a fresh process, which imports nothing of pipeline, components or trainer."""

import contextlib
import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

NAME = "candidate"
_READY = re.compile(r"serving .*rest=(?P<rest>\S+) grpc=(?P<grpc>\S+)$")
_KEPT_LINES = 20
_LARGEST = 2**31 - 1  # bytes of a message of gRPC
_STOP_SECONDS = 30.0  # for a server that was told to end; then it is killed
# The module, which ends when its standard input does: also a run that was killed leaves no server behind. By `os.read`,
# since a daemon thread inside `sys.stdin` would hold its lock while Python shuts down.
_MODULE = """
import os, runpy, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
runpy.run_module("graftline.serving.server", run_name="__main__", alter_sys=True)
"""


class StartError(Exception):
    """The server did not come up; the message is what it said last."""


class ServerProcess:
    """One that runs: `rest` and `grpc` are HOST:PORT. `peak_mb` is known when it has ended."""

    def __init__(self, process: "subprocess.Popen[str]", rest: str, grpc: str) -> None:
        self._process = process
        self.rest, self.grpc = rest, grpc
        self.peak_mb: float | None = None

    @property
    def alive(self) -> bool:
        """Whether it has not ended by itself."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Ends it, and takes its peak memory before."""
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
    """The most memory that a process has held; None where the system has no /proc.

    Not `getrusage`: what it says of a child is at least what the parent held when it started it.
    """
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else None


@contextlib.contextmanager
def serving(saved_model_dir: str, seconds: float) -> Iterator[ServerProcess]:
    """The SavedModel, served under NAME on free ports of the loopback address, for the length of the `with`.

    Raises StartError when the server ends before it answers, or has not begun to after `seconds`.
    """
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    # An image of the eval split may be larger than what a server takes over REST: that says nothing of the model.
    flags = ["--rest-port", "0", "--grpc-port", "0", "--max-request-bytes", str(_LARGEST)]
    process = subprocess.Popen(
        [sys.executable, "-c", _MODULE, saved_model_dir, "--name", NAME, *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        # Not the user's folder, whose files Python would put before the installed modules.
        cwd=pathlib.Path(__file__).parents[3],
        # The Trainer's process has taken the whole of a GPU's memory, if there is one.
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
    """Reads what the server says, to the end: a full pipe would stop it."""
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
    said: list[str] = []
    try:
        while (line := lines.get()) is not None:
            if ready := _READY.match(line):
                return ready["rest"], ready["grpc"]
            said = [*said, line][-_KEPT_LINES:]
    finally:
        timer.cancel()
    if late.is_set():
        raise StartError(f"it did not answer within {seconds:g} s")
    raise StartError(said[-1].removeprefix("error: ") if said else f"it ended with status {process.wait()}")
