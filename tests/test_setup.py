"""The set-up script on a machine that lacks what it needs."""

import importlib.util
import os
import pathlib
import shutil
import subprocess

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_TOOLS = ("bash", "cat", "sha256sum", "cut", "dirname", "env", "rm")


@pytest.fixture
def bare(tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of what the set-up reads, and a PATH with the shell's tools alone."""
    for name in ("setup.py", "constraints.txt", ".ci/setup", "graftline/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for tool in _TOOLS:
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    return tmp_path


def _set_up(root: pathlib.Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(root / "bin"), "HOME": str(root / "home")}
    return subprocess.run([root / ".ci" / "setup"], capture_output=True, text=True, env=environment, check=False)


def test_a_machine_without_python_3_10_is_told_what_to_install(bare: pathlib.Path) -> None:
    done = _set_up(bare)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "Python 3.10 was not found" in done.stderr
    assert "uv python install 3.10" in done.stderr


def test_a_pyenv_shim_that_does_not_work_is_not_taken_for_python(bare: pathlib.Path) -> None:
    shim = bare / "bin" / "python3.10"
    shim.write_text("#!/bin/sh\necho 'pyenv: python3.10: command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    assert "Python 3.10 was not found" in _set_up(bare).stderr


def test_python_3_10_is_found_in_pyenvs_versions(bare: pathlib.Path) -> None:
    found = bare / "home" / ".pyenv" / "versions" / "3.10.99" / "bin" / "python"
    found.parent.mkdir(parents=True)
    # Says that it is 3.10, and refuses to make an environment: enough to see that it was chosen.
    found.write_text('#!/bin/sh\n[ "$1" = -c ] && echo 3.10 && exit 0\n[ "$1" = --version ] && exit 0\nexit 1\n')
    found.chmod(0o755)
    done = _set_up(bare)
    assert done.returncode == 2
    assert f"{found} cannot make a virtual environment" in done.stderr


def test_the_set_up_leaves_the_libraries_compiled() -> None:
    """The first run would compile 8,000 modules, and each run where PYTHONDONTWRITEBYTECODE is set."""
    sources = pathlib.Path(str(importlib.util.find_spec("tfx").origin)).parent.rglob("*.py")  # type: ignore[union-attr]
    assert not [path for path in sources if not os.path.exists(importlib.util.cache_from_source(path))]
