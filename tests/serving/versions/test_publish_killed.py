"""A push or rollback that is killed at any of its steps leaves nothing half done, as a constant reader sees."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import pytest

# A kill loses nothing that was written, so memory can stand in for a disk, whose 2,000 fsyncs would take long.
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def kill_at_each_step(what: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
        command = [sys.executable, "-m", "tests.serving.versions.push_every_step", what, folder]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, check=True, timeout=300, cwd=pathlib.Path(__file__).parents[3]
        )
    return json.loads(done.stdout)


def in_order(ends: list[dict[str, Any]], key: str) -> list[Any]:
    """Return the states that kills left, each once, in the order of the steps."""
    seen: list[Any] = []
    for end in ends:
        if not seen or seen[-1] != end[key]:
            seen.append(end[key])
    return seen


@pytest.fixture(scope="module")
def killed_pushes() -> dict[str, Any]:
    return kill_at_each_step("push")


def test_a_push_that_is_killed_at_any_step_shows_the_version_whole_or_not_at_all(
    killed_pushes: dict[str, Any],
) -> None:
    seen = killed_pushes
    assert seen["torn"] == []
    before = {"1": "old", "2": "other", "3": "good"}
    assert in_order(seen["ends"], "versions") == [
        before,
        {**before, "4": "new"},
        {"2": "other", "3": "good", "4": "new"},  # the retention: two versions
        {"3": "good", "4": "new"},
    ]
    assert in_order(seen["ends"], "named") == [[2, 3], [3, 4]], "models.config, whole as well"
    # There were many steps, and the reader looked many times at each.
    assert len(seen["ends"]) > 80
    assert seen["looks"] > 10 * len(seen["ends"])


def test_the_push_after_one_that_was_killed_ends_it_and_cleans_up(killed_pushes: dict[str, Any]) -> None:
    for end in killed_pushes["ends"]:
        assert end["after"] == {"3": "good", "4": "new"}
        assert end["hidden"] == []


def test_a_rollback_that_is_killed_at_any_step_never_lets_the_bad_model_return() -> None:
    seen = kill_at_each_step("rollback")
    assert seen["torn"] == []
    before = {"1": "old", "2": "other", "3": "good"}
    assert in_order(seen["ends"], "versions") == [before, {**before, "4": "other"}]
    assert in_order(seen["ends"], "withdrawn") == [[], ["good"]]
    for end in seen["ends"]:
        assert end["refused"] == (end["withdrawn"] == ["good"])
        assert "4" not in end["versions"] or end["refused"], "withdrawn before it is replaced"
