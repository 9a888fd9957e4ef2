"""What pip installs: the wheel, built as pip builds it from a copy of the repository, and the sdist that Beam ships."""

import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

from tests import assets

_ROOMS = ("graftline", "pipeline", "components", "trainer", "serving")
_SOURCES_OF_SOURCES = {".proto"}  # files that others were generated from are not installed
_LEFT_OUT = ("__pycache__", ".*", "*.egg-info", "build", "dist", "tests", "docs", "benchmarks")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    copy = tmp_path_factory.mktemp("sources") / "copy"
    shutil.copytree(assets.ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    return copy


@pytest.fixture(scope="module")
def wheel(copy: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return _built(copy, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(copy: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return _built(copy, "sdist", tmp_path_factory.mktemp("sdist"))


def _built(copy: pathlib.Path, kind: str, folder: pathlib.Path) -> pathlib.Path:
    program = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.iterdir()
    return path


def _names(wheel: pathlib.Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_nothing_is_installed_beside_graftline(wheel: pathlib.Path) -> None:
    top = {name.split("/")[0] for name in _names(wheel)}
    assert {name for name in top if not name.endswith(".dist-info")} == {"graftline"}


def test_every_file_of_the_rooms_is_installed(wheel: pathlib.Path) -> None:
    wanted = set()
    for room in _ROOMS:
        for path in (assets.ROOT / room).rglob("*"):
            name = path.relative_to(assets.ROOT).as_posix()
            if path.is_file() and "__pycache__" not in name and path.suffix not in _SOURCES_OF_SOURCES:
                wanted.add(name if room == "graftline" else f"graftline/{name}")
    installed = _names(wheel)
    assert wanted - installed == set()
    for needed in ("graftline/py.typed", "/page.html", "/page.js", ".weights.h5", "/compose.yaml"):
        assert [name for name in installed if name.endswith(needed)], f"no {needed}"


def test_the_sdist_holds_the_files_of_the_wheel_and_no_links(wheel: pathlib.Path, sdist: pathlib.Path) -> None:
    """With `--setup_file` Beam's workers install this archive, where a link would lead nowhere."""
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert all(member.isfile() or member.isdir() for member in members)
    files = {member.name.partition("/")[2] for member in members if member.isfile()}
    assert {name for name in _names(wheel) if name.startswith("graftline/")} - files == set()
    assert {"setup.py", "pyproject.toml", "README.md"} <= files


def test_the_client_of_the_wheel_needs_no_tensorflow(wheel: pathlib.Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import graftline; from graftline import AsyncClient, Client\n"
        "assert graftline.__file__.startswith(sys.argv[1]), graftline.__file__\n"
        "print([name for name in ('tensorflow', 'tfx', 'keras', 'apache_beam') if name in sys.modules])"
    )
    arguments = [sys.executable, "-I", "-c", program, str(wheel)]
    assert subprocess.run(arguments, capture_output=True, text=True, check=True).stdout == "[]\n"
