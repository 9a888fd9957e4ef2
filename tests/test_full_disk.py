"""Errors of a full disk, by every library that reports one, and the message of a command."""

import errno
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

from graftline import full_disk


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "no space is left"),
        (errno.EDQUOT, "the quota is used up"),
        (errno.EFBIG, "a file is larger than `ulimit -f` or the file system allows"),
        (errno.EROFS, "the file system is read-only"),
    ],
)
def test_the_folder_of_the_file_is_named_with_what_is_free(tmp_path: pathlib.Path, code: int, words: str) -> None:
    error = OSError(code, os.strerror(code), str(tmp_path / "not yet/file"))
    text = full_disk.explain(error)
    assert text.startswith(f"{words}: the disk of {tmp_path} now has ")
    assert text.endswith(" MB free")


@pytest.mark.parametrize(
    "text",
    [
        "/x/y.tfrecord; No space left on device",  # tf.errors.ResourceExhaustedError
        "[Errno 28] Unable to synchronously write file (error message = 'No space left on device')",  # h5py
        "database or disk is full",  # SQLite in ML Metadata
        "OSError: [Errno 122] Disk quota exceeded [while running 'WriteShard']",  # Beam
    ],
)
def test_other_libraries_are_known_by_their_words(tmp_path: pathlib.Path, text: str) -> None:
    assert "the disk of " in full_disk.explain(RuntimeError(text), [str(tmp_path / "ws")])


def test_the_cause_may_lie_deep(tmp_path: pathlib.Path) -> None:
    outer = RuntimeError("a stage failed")
    outer.__cause__ = ValueError("in Beam")
    outer.__cause__.__context__ = OSError(errno.ENOSPC, "x", str(tmp_path / "file"))
    outer.__cause__.__context__.__cause__ = outer  # a circle, as libraries make them
    assert full_disk.explain(outer).startswith(f"no space is left: the disk of {tmp_path} ")


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "No such file"), ValueError("bad"), KeyError()])
def test_other_errors_are_not_explained(error: Exception) -> None:
    assert full_disk.explain(error) == ""


def test_a_command_on_a_full_disk_says_where_in_one_line(tmp_path: pathlib.Path) -> None:
    """The limit of the size of files stands for the disk: a write beyond it fails in the same places."""
    program = textwrap.dedent(
        """
        import resource, signal, sys
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        import graftline.pipeline.config, graftline.pipeline.preflight
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        from graftline.pipeline import cli
        cli.main(prog_name="graftline")
        """
    )
    for label in "ab":
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "images" / label / f"{number}.jpg").write_bytes(b"\xff\xd8\xff" + label.encode() * (number + 1))
    arguments = ["run", "--images", str(tmp_path / "images"), "--workspace", str(tmp_path / "ws")]
    done = subprocess.run(
        [sys.executable, "-B", "-c", program, *arguments], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if not line.startswith("graftline: note: "))
    wanted = f"graftline: workspace {tmp_path}/ws cannot be made or written: a file is larger than `ulimit -f` or the"
    assert line.startswith(wanted)
    assert f"the disk of {tmp_path}/ws now has" in line
