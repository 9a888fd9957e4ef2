"""Standard streams that are closed, full, without a reader, or non-blocking; in commands as a shell starts them."""

import os
import pathlib
import shlex
import subprocess
import sys
import threading

import pytest

from graftline import streams

_GRAFTLINE = f"{sys.executable} -m tests.graftline"


def shell(command: str, tmp_path: pathlib.Path, **environment: str) -> tuple[int, str]:
    """Run a command by bash; return its exit status, and what it wrote where it was not redirected."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=120,
        env={**os.environ, "GRAFTLINE": _GRAFTLINE, "OUT": str(tmp_path / "out"), **environment},
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("command", "status", "told"),
    [
        ("$GRAFTLINE --version <&- >&- 2>&-", 0, ""),
        ("$GRAFTLINE config 2>&- | wc -l > $OUT", 0, ""),
        ("$GRAFTLINE config > /dev/full", 1, "graftline: standard output cannot be written: No space left on device\n"),
        ("$GRAFTLINE --help > /dev/full", 1, "graftline: standard output cannot be written: No space left on device\n"),
        ("$GRAFTLINE nonsense > /dev/full 2>&1", 2, ""),
        ("$GRAFTLINE config | true", 141, ""),
        ("$GRAFTLINE config 1< /dev/null", 1, "graftline: standard output cannot be written: Bad file descriptor\n"),
    ],
)
def test_a_stream_that_cannot_be_used_is_one_message_or_none(
    tmp_path: pathlib.Path, command: str, status: int, told: str
) -> None:
    assert shell(command, tmp_path) == (status, told)


def test_no_file_of_the_command_gets_a_descriptor_of_a_closed_stream(tmp_path: pathlib.Path) -> None:
    """What is printed must not go into a file that the command opens: here the output of `predict`."""
    code = (
        "from graftline import streams\n"
        "streams.prepare()\n"
        f"data = open({str(tmp_path / 'data')!r}, 'w')\n"
        "assert data.fileno() > 2, data.fileno()\n"
        "import sys, subprocess\n"
        "print('printed'), sys.stderr.write('told'), sys.stdin.read()\n"
        "subprocess.run(['echo', 'by a child'], check=True)\n"
    )
    done = subprocess.run(["bash", "-c", f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} <&- >&- 2>&-"])
    assert done.returncode == 0
    assert (tmp_path / "data").read_text() == ""


def test_class_names_survive_a_terminal_without_unicode_and_without_width(tmp_path: pathlib.Path) -> None:
    code = "from graftline import streams; streams.prepare(); import rich; print('花'); rich.print('wide')"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    assert shell(command, tmp_path, PYTHONIOENCODING="ascii", COLUMNS="0", NO_COLOR="1") == (0, "\\u82b1\nwide\n")


def test_a_write_error_is_raised_once_and_then_dropped() -> None:
    with streams.writer(os.open("/dev/full", os.O_WRONLY), "the result") as stream:
        with pytest.raises(
            streams.OutputError, match="the result cannot be written: No space left on device"
        ) as raised:
            stream.write("lost\n")
        assert raised.value.status == 1
        stream.write("dropped\n")


def test_a_forgiving_stream_drops_what_cannot_be_written() -> None:
    with streams.writer(os.open("/dev/full", os.O_WRONLY), "standard error", forgiving=True) as stream:
        stream.write("dropped\n")


def test_a_pipe_that_another_program_made_non_blocking_gets_everything() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    text = "line\n" * 100_000  # many times the size of a pipe
    received = []

    def drain() -> None:
        with open(read, encoding="utf-8") as file:
            received.append(file.read())

    reader = threading.Thread(target=drain)
    reader.start()
    with streams.writer(write, "standard output") as stream:
        stream.write(text)
    reader.join()
    assert received == [text]
