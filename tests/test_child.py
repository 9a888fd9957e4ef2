"""A module of Graftline as a child process."""

import pathlib
import subprocess

import pytest

from graftline import child


@pytest.mark.parametrize(("paths", "kept"), [(["", "/a"], "/a"), (["/a", "/b"], "/a")])
def test_a_child_looks_in_every_folder_but_the_current_one(paths: list[str], kept: str, tmp_path: pathlib.Path) -> None:
    """With PYTHONSAFEPATH, since Python 3.11, `-c` puts no current folder before the folders of PYTHONPATH."""
    (tmp_path / "shown.py").write_text("import sys; print(sys.path[0])")
    python, option, code, *arguments = child.command("shown")
    as_started = f"import sys; sys.path[0:1] = {paths}; sys.path.append({str(tmp_path)!r})"
    done = subprocess.run([python, option, as_started + code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout == f"{kept}\n"


def test_a_bare_environment_finds_packages_and_holds_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONUSERBASE", "LD_LIBRARY_PATH", "AWS_SECRET_ACCESS_KEY", "HDF5_PLUGIN_PATH"):
        monkeypatch.setenv(name, name)
    kept = child.bare_environment()
    assert {"PYTHONUSERBASE", "LD_LIBRARY_PATH"} <= set(kept)
    assert not {"AWS_SECRET_ACCESS_KEY", "HDF5_PLUGIN_PATH"} & set(kept)
