"""Transcoding in a process of its own, with limits on its time and memory: for files that may harm their decoder.

Pillow's C libraries have a long history of crashes and endless loops on crafted files. Such a file costs its process,
which holds nothing but Pillow and is started anew, and not the run. `python -m graftline.serving.images.isolated`
is the process: it answers requests on its standard input until that ends, as it does with its parent. A request and an
answer are each a line of JSON and as many bytes as it says.
"""

import atexit
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from typing import Any, BinaryIO

from PIL import Image

from graftline.child import command
from graftline.serving.images import formats, headers, transcoding
from graftline.serving.images.transcoding import Refused

CPU_SECONDS = 20  # for one file; a photo of 100 megapixels takes three, an AVIF or WebP too
WALL_SECONDS = 60  # for one file, on a machine that is busy with other things
MEMORY = 5 << 29  # bytes of address space; 100 megapixels take .4 to 1.7 GB by format, and .4 more to be turned
_LINE = 4096  # bytes; longer than any request or answer
# An answer's reason that is left to the caller, who words it for the format.
BROKEN = "broken"

_idle: list["_Child"] = []  # appending and popping are atomic


def transcode(data: bytes, image_format: str, max_side: int | None, keep: bool = False) -> bytes | Refused:
    """`transcoding.transcode` in a child process; from as many threads at once as there are, each with its own child.

    Never raises for what the file holds: `Refused(BROKEN)` is a file that its decoder found damaged.
    """
    child = _borrow()
    try:
        answer = child.ask(data, {"format": image_format, "max_side": max_side, "keep": keep})
    except BaseException:
        child.end()  # what it still has to say would be taken for the answer to another request
        raise
    if child.ended:
        child.end()
    else:
        _idle.append(child)
    return answer


def close() -> None:
    """End all idle children. Those that are needed later are started anew."""
    while _idle:
        with contextlib.suppress(IndexError):  # of two that close at once
            _idle.pop().end()


def _borrow() -> "_Child":
    while True:
        try:
            child = _idle.pop()
        except IndexError:
            return _Child()
        if not child.ended:
            return child
        child.end()


class _Child:
    """One process and the two pipes to it. Used by one thread at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            command(__name__, str(MEMORY)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what C libraries have to say of damaged files
            env={**os.environ, "MALLOC_ARENA_MAX": "1"},  # an arena takes 64 MiB of the address space
            start_new_session=True,  # Ctrl-C is for the parent
        )

    @property
    def ended(self) -> bool:
        """Whether the process is no more."""
        return self._process.poll() is not None

    def ask(self, data: bytes, request: dict[str, Any]) -> bytes | Refused:
        """One file and what the child makes of it. Afterwards the child may have `ended`."""
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(WALL_SECONDS, stop)
        timer.start()
        try:
            _send(self._stdin, data, {**request, "cpu_seconds": CPU_SECONDS})
            answer = _receive(self._stdout)
        except (OSError, ValueError, KeyError, TypeError):  # it ended too early, or says what no whole child says
            answer = None
        finally:
            timer.cancel()
        if answer is not None:
            fields, made = answer
            return Refused(str(fields["refused"])) if "refused" in fields else made
        self._process.kill()
        status = self._process.wait()
        if late.is_set():
            return Refused(f"decoding took too long: more than {WALL_SECONDS} s")
        if status == -signal.SIGXCPU:
            return Refused(f"decoding took too long: more than {CPU_SECONDS} s of processor time")
        return Refused(f"decoder crashed: {signal.Signals(-status).name if status < 0 else f'status {status}'}")

    def end(self) -> None:
        """Stop the process and forget it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):  # flushing what was never read
                pipe.close()

    @property
    def _stdin(self) -> BinaryIO:
        assert self._process.stdin is not None
        return self._process.stdin  # type: ignore[return-value]

    @property
    def _stdout(self) -> BinaryIO:
        assert self._process.stdout is not None
        return self._process.stdout  # type: ignore[return-value]


def _send(pipe: BinaryIO, data: bytes, fields: dict[str, Any]) -> None:
    pipe.write(json.dumps({**fields, "size": len(data)}).encode() + b"\n")
    pipe.write(data)
    pipe.flush()


def _receive(pipe: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next message; None when there is no whole one any more."""
    line = pipe.readline(_LINE)
    if not line.endswith(b"\n"):
        return None
    fields = json.loads(line)
    size = fields["size"]
    if not 0 <= size <= formats.MAX_BYTES:
        raise ValueError(f"a message of {size} bytes")
    data = pipe.read(size)
    return (fields, data) if len(data) == size else None


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """The child: answer requests until there are no more."""
    while (request := _receive(requests)) is not None:
        fields, data = request
        made = _within_limits(data, fields)
        if isinstance(made, Refused):
            _send(answers, b"", {"refused": made.reason})
        else:
            _send(answers, made, {})


def _within_limits(data: bytes, fields: dict[str, Any]) -> bytes | Refused:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(usage.ru_utime + usage.ru_stime) + 1 + fields["cpu_seconds"])
    try:
        made = transcoding.transcode(data, fields["format"], fields["max_side"], fields["keep"])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return Refused("too many pixels")
    except MemoryError:
        return Refused("decoding took too much memory")
    except headers.ERRORS:
        return Refused(BROKEN)
    if isinstance(made, bytes) and len(made) > formats.MAX_BYTES:
        return Refused(f"too many bytes: {len(made) >> 20} MiB as JPEG or PNG, the limit is {formats.MAX_BYTES >> 20}")
    return made


def _limit(kind: int, value: int) -> None:
    """The soft limit alone: a lowered hard one could not be raised for the next file."""
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def main(memory: int) -> None:
    """Set the limits and serve."""
    _limit(resource.RLIMIT_AS, memory)
    _limit(resource.RLIMIT_CORE, 0)
    Image.MAX_IMAGE_PIXELS = formats.MAX_PIXELS
    # What a C library prints must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main(int(sys.argv[1]))
else:
    atexit.register(close)
    os.register_at_fork(after_in_child=_idle.clear)  # the pipes are the parent's
