"""What `make run` and `make demo` run."""

import fcntl
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests import assets


def _recipe(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"recipes.{name}", *arguments]
    environment = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=assets.ROOT, env=environment, check=False)


def test_the_digits_recipe_trains_pushes_and_classifies(tmp_path: pathlib.Path) -> None:
    done = _recipe("digits", "--workspace", str(tmp_path / "workspace"), "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["examples"] == 1797
    assert summary["accuracy"] >= 0.95
    assert summary["pushed_version"] == 1
    assert [phase["kept"] for phase in summary["phases"]] == [True, True]
    assert summary["transfer"]["images"] == 100
    assert summary["transfer"]["pretrained"] > summary["transfer"]["random"] + 0.1
    assert "Transfer    on up to 10 images of each class, 100 in all: " in done.stderr
    assert "graftline serve" in done.stderr
    assert "/0/" in done.stderr


@pytest.mark.slow
def test_the_demo_refuses_pushes_serves_and_rolls_back(tmp_path: pathlib.Path) -> None:
    done = _recipe("demo", "--workspace", str(tmp_path / "demo"))
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout
    story = [
        "BLESSED, pushed as version 1",
        "answers with version 1;",
        "REFUSED: accuracy is 0.",
        "version 1 is served; ",
        "BLESSED, pushed as version 2",
        "the server took up version 2",
        "version 1 is back, as version 3",
        "Done. ",
    ]
    places = [told.index(line) for line in story]
    assert places == sorted(places), told
    assert re.search(r"Answers: [\d,]+ by version 1, [\d,]+ by version 2, [\d,]+ by version 3; 0 of", told), told


def test_the_demo_removes_nothing_that_is_not_its_own(tmp_path: pathlib.Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    done = _recipe("demo", "--workspace", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == (
        f"graftline: {tmp_path} holds files that are not the demo's; give another with --workspace DIR\n"
    )
    assert (tmp_path / "photo.jpg").read_bytes() == b"mine"
    running = tmp_path / "running"
    running.mkdir()
    with (running / ".graftline-demo").open("a") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        (running / "images").mkdir()
        done = _recipe("demo", "--workspace", str(running))
        assert (done.returncode, (running / "images").is_dir()) == (2, True)
        assert "another demo is running in" in done.stderr
    done = _recipe("demo", "--workspace", str(tmp_path / "photo.jpg"))
    assert done.returncode == 2
    assert "photo.jpg is a file; give a folder" in done.stderr
