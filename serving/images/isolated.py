"""Transcode in a child process with limits on its time and memory: for files that may harm their decoder.

Pillow's C libraries have a long history of crashes and endless loops on crafted files. Such a file ends the child, and
not the run. The child holds nothing but Pillow; the next file starts a new one. The child is this module: it answers
requests until its standard input is closed, as it is when the parent ends. A request and an answer are each a line of
JSON, and the bytes whose number it gives.

A file that takes over the child finds little: no secrets in the environment, no right to open a file or a socket, to
start a process or to gain privileges.
"""

import atexit
import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from typing import IO, Any

from PIL import Image

from graftline.child import bare_environment, command
from graftline.serving.images import formats, headers, transcoding
from graftline.serving.images.trust import Refused

CPU_SECONDS = 20  # for one file; 100 megapixels take 3 s, as JPEG, AVIF or WebP
WALL_SECONDS = 60  # for one file; the machine may be busy
MEMORY = 5 << 29  # bytes of address space; 100 megapixels take 0.4 to 1.7 GB by format, and 0.4 more to be rotated
# Signals with which somebody else ends a child. The kernel sends SIGKILL when the machine has no memory left.
_SIGNALS_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_NO_NEW_PRIVILEGES = 38  # PR_SET_NO_NEW_PRIVS of Linux' prctl
_LINE = 4096  # bytes; longer than any request or answer
# The reason of a damaged file. The caller replaces it by words for the format.
BROKEN = "broken"

KILLED = "decoder was killed from outside"

_idle: list["_Child"] = []  # append and pop are atomic, so threads may share the list
_second_attempts = threading.Lock()


def transcode(data: bytes, image_format: str, max_side: int | None) -> bytes | Refused:
    """Run `transcoding.transcode` in a child process. Any number of threads may call, and each gets its own child.

    Never raises for a bad file: `Refused(BROKEN)` stands for a file that its decoder found damaged. A child that was
    killed from outside says nothing about its file, which is then tried once more, in a new child and after the other
    files of such children. A second end of that kind is a temporary reason.
    """
    answer = _ask(data, image_format, max_side)
    if isinstance(answer, Refused) and answer.temporary:
        with _second_attempts:
            close()  # idle children hold memory, and may have been killed too
            answer = _ask(data, image_format, max_side)
    return answer


def _ask(data: bytes, image_format: str, max_side: int | None) -> bytes | Refused:
    child = _borrow()
    try:
        answer = child.ask(data, {"format": image_format, "max_side": max_side})
    except BaseException:
        child.end()  # its late answer would be taken for that to another request
        raise
    if child.ended:
        child.end()
    else:
        _idle.append(child)
    return answer


def close() -> None:
    """End all idle children. Later calls start new ones."""
    while _idle:
        with contextlib.suppress(IndexError):  # two threads may close at once
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
    """One child process and the two pipes to it. Used by one thread at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            command(__name__, str(MEMORY)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # messages of C libraries about damaged files
            env=bare_environment(),
            start_new_session=True,  # so that Ctrl-C ends the parent alone
        )
        assert self._process.stdin and self._process.stdout
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def ask(self, data: bytes, request: dict[str, Any]) -> bytes | Refused:
        """Send one file and return its conversion. Afterwards the child may have `ended`."""
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(WALL_SECONDS, stop)
        timer.start()
        try:
            _send(self._stdin, data, {**request, "cpu_seconds": CPU_SECONDS})
            answer = _receive(self._stdout)
        except (OSError, ValueError, KeyError, TypeError):  # the child ended, or its answer makes no sense
            answer = None
        finally:
            timer.cancel()
        if answer is not None:
            fields, converted = answer
            return Refused(str(fields["refused"])) if "refused" in fields else converted
        self._process.kill()
        status = self._process.wait()
        if late.is_set():
            return Refused(f"decoding took too long: more than {WALL_SECONDS} s")
        if status == -signal.SIGXCPU:
            return Refused(f"decoding took too long: more than {CPU_SECONDS} s of processor time")
        if -status in _SIGNALS_FROM_OUTSIDE:
            cause = "as a machine does that has too little memory; run again"
            return Refused(f"{KILLED}: {signal.Signals(-status).name}, {cause}", temporary=True)
        return Refused(f"decoder crashed: {signal.Signals(-status).name if status < 0 else f'status {status}'}")

    def end(self) -> None:
        """Kill the process and close its pipes."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):  # there may be bytes to flush that nobody reads
                pipe.close()


def _send(pipe: IO[bytes], data: bytes, fields: dict[str, Any]) -> None:
    pipe.write(json.dumps({**fields, "size": len(data)}).encode() + b"\n")
    pipe.write(data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """Return the next message; None when there is no complete one."""
    line = pipe.readline(_LINE)
    if not line.endswith(b"\n"):
        return None
    fields = json.loads(line)
    size = fields["size"]
    if not 0 <= size <= formats.MAX_BYTES:
        raise ValueError(f"a message of {size} bytes")
    data = pipe.read(size)
    return (fields, data) if len(data) == size else None


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests in the child until there are no more."""
    while (request := _receive(requests)) is not None:
        fields, data = request
        converted = _transcode_within_limits(data, fields)
        if isinstance(converted, Refused):
            _send(answers, b"", {"refused": converted.reason})
        else:
            _send(answers, converted, {})


def _transcode_within_limits(data: bytes, fields: dict[str, Any]) -> bytes | Refused:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    # libheif's decoder of HEIC needs threads, which count as processes. Root is exempt from this limit.
    _limit(resource.RLIMIT_NPROC, resource.getrlimit(resource.RLIMIT_NPROC)[1] if fields["format"] == "heic" else 0)
    _limit(resource.RLIMIT_CPU, int(usage.ru_utime + usage.ru_stime) + 1 + fields["cpu_seconds"])
    try:
        converted = transcoding.transcode(data, fields["format"], fields["max_side"])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return Refused("too many pixels")
    except MemoryError:
        return Refused("decoding took too much memory")
    except headers.ERRORS:
        return Refused(BROKEN)
    if isinstance(converted, bytes) and (size := len(converted)) > formats.MAX_BYTES:
        return Refused(f"too many bytes: {size >> 20} MiB as JPEG or PNG, the limit is {formats.MAX_BYTES >> 20}")
    return converted


def _limit(kind: int, value: int) -> None:
    """Set the soft limit alone: a lowered hard limit could not be raised for the next file."""
    _, hard = resource.getrlimit(kind)
    unlimited = resource.RLIM_INFINITY
    soft = value if hard == unlimited else hard if value == unlimited else min(value, hard)
    resource.setrlimit(kind, (soft, hard))


def _import_decoders() -> None:
    """Import what decoders import at their first file: afterwards the child can open no file."""
    Image.init()
    for name in ("pillow_heif", "PIL.ImageCms", "encodings.ascii", "encodings.latin_1", "encodings.utf_16"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _give_up_rights() -> None:
    """Give up what a decoder does not need, each where the system has it. The limits cannot be raised again."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):  # NOFILE: sockets, too
        resource.setrlimit(limit, (0, 0))


def main(memory: int) -> None:
    """Limit the child's address space to `memory` bytes, give up rights, and serve."""
    _limit(resource.RLIMIT_AS, memory)
    Image.MAX_IMAGE_PIXELS = formats.MAX_PIXELS
    # Output of C libraries goes to standard error, so that it cannot come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _import_decoders()
    _give_up_rights()
    serve(sys.stdin.buffer, answers)


def _forget() -> None:
    """Forget the children and the lock of the parent, in a process that was forked."""
    global _second_attempts
    _idle.clear()
    _second_attempts = threading.Lock()


if __name__ == "__main__":
    main(int(sys.argv[1]))
else:
    atexit.register(close)
    os.register_at_fork(after_in_child=_forget)  # a forked process must not use its parent's pipes
