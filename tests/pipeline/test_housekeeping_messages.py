"""What a run says of its cleaning: one line of what was removed, and warnings of what could not be."""

import contextlib
import logging
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

from graftline.pipeline import config, housekeeping
from graftline.pipeline.console import Event
from tests.pipeline.histories import History
from tests.pipeline.workspaces import live as _live
from tests.pipeline.workspaces import payloads as _payloads
from tests.pipeline.workspaces import tree as _tree

# --- what a run says of it --------------------------------------------------------------------------------------------


def _after_run(workspace: pathlib.Path, keep_runs: int | None) -> list[str]:
    events: list[Event] = []
    settings = config.HousekeepingSettings(keep_runs=keep_runs)
    housekeeping.after_run(config.Config(workspace=str(workspace), housekeeping=settings), events.append)
    assert all(event.state == "finished" and event.node == "Housekeeping" for event in events)
    return [event.detail for event in events]


def test_one_line_when_something_was_removed_and_none_otherwise(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    history = History(tmp_path)
    for _ in range(3):
        history.run(blessed=False)
    with caplog.at_level(logging.INFO):
        assert _after_run(tmp_path, None) == _after_run(tmp_path, 3) == []
        assert not [record for record in caplog.records if record.name == "root"]
        (line,) = _after_run(tmp_path, 1)
    assert line.startswith("removed artifacts of 2 old runs, ")
    assert [record.getMessage() for record in caplog.records if record.name == "root"] == [f"Housekeeping: {line}"]
    assert _after_run(tmp_path, 1) == []


@pytest.mark.parametrize(
    ("count", "text"),
    [(1, "1 bytes"), (999, "999 bytes"), (1_234, "1.2 kB"), (45_600_000, "46 MB"), (1_230_000_000, "1.2 GB")],
)
def test_sizes_as_a_person_reads_them(count: int, text: str) -> None:
    assert housekeeping.Freed({"a", "b"}, count).text == f"removed artifacts of 2 old runs, {text}"


def test_models_on_a_disk_that_is_not_there_are_not_taken_for_removed(tmp_path: pathlib.Path) -> None:
    history = History(tmp_path)
    for _ in range(3):
        history.run()
    shutil.rmtree(tmp_path / "models/m")
    (tmp_path / "models/m").symlink_to(tmp_path / "not-mounted")
    before = _tree(tmp_path / "artifacts")
    (line,) = _after_run(tmp_path, 1)
    assert line.startswith("stopped early (FileNotFoundError: ")
    assert _tree(tmp_path / "artifacts") == before
    assert _after_run(tmp_path / "nowhere", 1)[0].startswith("stopped early (")


@contextlib.contextmanager
def _bound_by_permissions(root: pathlib.Path) -> Iterator[None]:
    """Root may remove anything: goes on as nobody, who owns all under `root`."""
    if os.geteuid() != 0:
        yield
        return
    subprocess.run(["chown", "-R", "65534", root], check=True)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_cannot_be_removed_is_a_warning_and_the_rest_goes() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own lie where nobody but root may look
        history = History(pathlib.Path(folder))
        for _ in range(3):
            history.run(blessed=False)
        (history.root / "artifacts/Data/examples/1/a").chmod(0o444)  # no hindrance: its folder may be written
        stuck = history.root / "artifacts/Trainer/model/2"
        with _bound_by_permissions(history.root):
            stuck.chmod(0o555)
            (line,) = _after_run(history.root, 1)
            again = _after_run(history.root, 1)
            stuck.chmod(0o755)
        assert line.startswith("removed artifacts of 2 old runs, ")
        assert line.endswith(f"; could not remove {stuck} (Permission denied)")
        assert again == [f"could not remove {stuck} (Permission denied)"]
        assert set(_payloads(history.root)) - {stuck} == history.needed(1)
        assert set(_live(history.root)) == history.needed(1)
        assert _after_run(history.root, 1)[0].startswith("removed artifacts of 1 old run, ")
        history.check(1)
