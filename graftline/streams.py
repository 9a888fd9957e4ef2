"""Standard input, output and error of a command: they may be closed, full, a pipe without a reader, or non-blocking.

`prepare` is called before anything else. Without it a data file could get the descriptor 1 of a closed standard output,
and everything that is printed would go into that file.
"""

import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

_CLOSED_PIPE = 128 + 13  # the exit status of a shell for a program that SIGPIPE ended


class OutputError(Exception):
    """Standard output, or a file that takes its place, could not be written.

    No OSError: code that reads files must not take it for one of theirs.

    Attributes:
      is_closed_pipe: nobody reads the output any more, which needs no message.
      status: the exit status.
    """

    def __init__(self, name: str, error: OSError) -> None:
        """Make the message from the operating system's reason."""
        super().__init__(f"{name} cannot be written: {error.strerror or error}")
        self.is_closed_pipe = error.errno == errno.EPIPE
        self.status = _CLOSED_PIPE if self.is_closed_pipe else 1


class _Writer(io.FileIO):
    """A descriptor that waits where it would block, and that raises once at most; never if it is forgiving.

    After an error it takes everything and writes nothing: Python flushes again when the process ends.
    """

    def __init__(self, descriptor: int, name: str, forgiving: bool, closefd: bool) -> None:
        super().__init__(descriptor, "w", closefd=closefd)
        self._title, self._forgiving, self._failed = name, forgiving, False

    def write(self, data: "bytes | memoryview") -> int:  # type: ignore[override]
        size = len(data)
        while not self._failed:
            try:
                if (count := super().write(data)) is not None:
                    return count
                select.select((), (self,), ())  # non-blocking and full, such as a pipe that another program shares
            except OSError as error:
                if self._forgiving:
                    break
                self._failed = True
                raise OutputError(self._title, error) from error
        return size


class _EditedText(io.TextIOWrapper):
    """A stream that changes each text before it is written."""

    edit: Callable[[str], str] = staticmethod(str)

    def write(self, text: str, /) -> int:
        super().write(self.edit(text))
        return len(text)


def writer(
    descriptor: int,
    name: str,
    forgiving: bool = False,
    encoding: str = "utf-8",
    closefd: bool = True,
    edit: Callable[[str], str] | None = None,
) -> io.TextIOWrapper:
    """Return a stream of text to a descriptor. What the encoding cannot hold becomes a backslash escape.

    `edit` is called with each text, and its result is written.

    Raises from `write` and `flush`:
      OutputError: the text cannot be written; never with `forgiving`, which drops it.
    """
    raw = _Writer(descriptor, name, forgiving, closefd)
    buffer = io.BufferedWriter(raw)  # type: ignore[type-var]  # `write` differs in the name of its parameter
    options: Any = {"encoding": encoding, "errors": "backslashreplace", "line_buffering": True}
    if edit is None:
        return io.TextIOWrapper(buffer, **options)
    stream = _EditedText(buffer, **options)
    stream.edit = edit
    return stream


def open_closed() -> None:
    """Open each of the descriptors 0, 1 and 2 that is closed on the null device."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:  # a lower descriptor is free, too, and somebody closed it meanwhile
                os.dup2(null, descriptor)
                os.close(null)
            os.set_inheritable(descriptor, True)


def prepare() -> None:
    """Open what is closed, and make Python's standard streams report or survive a failed write.

    Standard error is forgiving: who no longer reads the progress does not end a run. Streams that a test or a notebook
    put in their place stay.
    """
    open_closed()
    for name in ("COLUMNS", "LINES"):
        if (value := os.environ.get(name, "")).isdigit() and not int(value):
            del os.environ[name]  # rich would print nothing in 0 columns
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", errors="replace", closefd=False)
    sys.stdout = _prepared(sys.stdout, 1, "standard output", forgiving=False)
    sys.stderr = _prepared(sys.stderr, 2, "standard error", forgiving=True)


def finish() -> None:
    """Write what is left in the buffers. Raises OutputError."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError):  # a closed stream has nothing left
            stream.flush()


def run(main: Callable[..., int | None], **arguments: Any) -> NoReturn:
    """Run the main function of a program of its own, with its streams prepared, and end the process."""
    prepare()
    try:
        status = main(**arguments)
        finish()
    except OutputError as error:
        if not error.is_closed_pipe:
            sys.stderr.write(f"error: {error}\n")
        status = error.status
    sys.exit(status)


def _prepared(stream: TextIO | None, descriptor: int, name: str, forgiving: bool) -> TextIO:
    encoding = "utf-8"
    if stream is not None:
        if not _writes_to(stream, descriptor):
            return stream
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
        encoding = stream.encoding
    return writer(descriptor, name, forgiving, encoding, closefd=False)


def _writes_to(stream: TextIO, descriptor: int) -> bool:
    try:
        return isinstance(stream, io.TextIOWrapper) and stream.fileno() == descriptor
    except (OSError, ValueError):  # io.UnsupportedOperation is both
        return False
