"""The lock that keeps two runs out of one workspace, and the number of the workspace's format."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from graftline.errors import UserError
from graftline.pipeline import preflight


@pytest.fixture
def other_run(tmp_path: pathlib.Path) -> Iterator[subprocess.Popen]:
    """Another process that holds the workspace."""
    program = (
        "import sys; from graftline.pipeline import preflight\n"
        "with preflight.lock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=pipe, stdout=pipe, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_in_the_same_workspace_is_told_of_the_first(tmp_path: pathlib.Path, other_run: subprocess.Popen):
    with pytest.raises(UserError) as caught, preflight.lock(str(tmp_path)):
        pass
    assert str(caught.value) == (
        f"another run (process {other_run.pid}) uses {tmp_path}: wait until it ends, or give another --workspace"
    )


def test_a_killed_run_leaves_its_workspace_free(tmp_path: pathlib.Path, other_run: subprocess.Popen):
    other_run.kill()
    other_run.wait()
    with preflight.lock(str(tmp_path)):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


def test_a_run_that_fails_leaves_its_workspace_free(tmp_path: pathlib.Path):
    with pytest.raises(ZeroDivisionError), preflight.lock(str(tmp_path)):
        raise ZeroDivisionError
    with preflight.lock(str(tmp_path)):
        pass


def test_runs_in_two_workspaces_do_not_meet(tmp_path: pathlib.Path, other_run: subprocess.Popen):
    (tmp_path / "other").mkdir()
    with preflight.lock(str(tmp_path / "other")):
        assert other_run.poll() is None


# --- the format -------------------------------------------------------------------------------------------------------


def test_a_run_writes_the_format_into_a_workspace_that_has_none_and_leaves_it_there(tmp_path: pathlib.Path):
    for _ in range(2):
        with preflight.lock(str(tmp_path)):
            assert (tmp_path / "format").read_text() == "1\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "format"]


_BROKEN = (
    "{}/format holds {} instead of the number of the workspace's format: restore the file, or write 1 into it if no "
    "newer Graftline has used this workspace"
)
_NEWER = (
    "a newer Graftline made workspace {}: its format is {}, and this Graftline knows formats up to 1. Update Graftline"
    ", or give another --workspace"
)


@pytest.mark.parametrize(
    ("content", "message", "shown"), [("2\n", _NEWER, "2"), ("", _BROKEN, "''"), ("one", _BROKEN, "'one'")]
)
def test_a_format_that_this_version_does_not_know_is_refused_and_left_as_it_is(
    tmp_path: pathlib.Path, content: str, message: str, shown: str
):
    (tmp_path / "format").write_text(content)
    with pytest.raises(UserError) as caught, preflight.lock(str(tmp_path)):
        pytest.fail("the run began")
    assert str(caught.value) == message.format(tmp_path, shown)
    assert (tmp_path / "format").read_text() == content


def test_a_format_that_cannot_be_read_is_refused_with_the_reason(tmp_path: pathlib.Path):
    (tmp_path / "format").mkdir()
    with pytest.raises(UserError, match="/format cannot be read: Is a directory"), preflight.lock(str(tmp_path)):
        pytest.fail("the run began")


def test_a_refused_format_leaves_the_workspace_free(tmp_path: pathlib.Path):
    (tmp_path / "format").write_text("2")
    with pytest.raises(UserError), preflight.lock(str(tmp_path)):
        pytest.fail("the run began")
    (tmp_path / "format").unlink()
    with preflight.lock(str(tmp_path)):
        pass
