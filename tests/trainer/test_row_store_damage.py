"""Rows survive exceptions, kills, other processes and damaged files: they are read correctly or not at all."""

import contextlib
import logging
import pathlib
import shutil
import sqlite3
import threading

import numpy as np
import pytest

from graftline.errors import UserError
from graftline.trainer import row_store
from graftline.trainer.row_store import RowStore
from tests.trainer.processes import run_python
from tests.trainer.stored_rows import FILE, SHAPE, keys, killed_in_a_commit, names, opened, put, values

# All or nothing


def test_nothing_is_visible_before_the_end(tmp_path: pathlib.Path) -> None:
    store, beside = opened(tmp_path / "s"), opened(tmp_path / "beside")
    with store.writer() as writer, beside.writer() as other:
        writer.append(keys(0, 4), values(0, 4))
        other.append(keys(1, 3), values(1, 3))
        assert store.missing(keys(0, 4)) == keys(0, 4)
        assert opened(tmp_path / "s").missing(keys(0, 4)) == keys(0, 4)
        writer.append(keys(4, 5), values(4, 5))
    assert store.missing(keys(0, 5)) == opened(tmp_path / "s").missing(keys(0, 5)) == []
    assert opened(tmp_path / "beside").missing(keys(0, 5)) == [*keys(0, 1), *keys(3, 5)]
    with pytest.raises(ValueError, match="closed file"):
        writer.append(keys(5, 6), values(5, 6))


def test_two_writers_of_one_store(tmp_path: pathlib.Path) -> None:
    with opened(tmp_path).writer() as one, opened(tmp_path).writer() as two:
        one.append(keys(0, 3), values(0, 3))
        two.append(keys(1, 5), values(1, 5))
    np.testing.assert_array_equal(opened(tmp_path).rows(keys(0, 5), 0)[:], values(0, 5))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_drops_everything(tmp_path: pathlib.Path, error: type[BaseException]) -> None:
    store = opened(tmp_path)
    put(store, 0, 2)
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(error), store.writer(expected_rows=100) as writer:
        writer.append(keys(2, 4), values(2, 4))
        raise error
    assert store.missing(keys(0, 4)) == keys(2, 4)
    assert names(tmp_path) == [FILE, "used"] and (tmp_path / FILE).read_bytes() == before


def test_a_writer_that_wrote_nothing_leaves_nothing(tmp_path: pathlib.Path) -> None:
    with opened(tmp_path).writer(expected_rows=3) as writer:
        writer.append([], values(0, 0))
    assert names(tmp_path) == ["used"]


# Children replace all rows again and again; each is killed at another moment.
KILL = """
    import os, pathlib, random, signal, sys, time
    import numpy as np
    from graftline.trainer.row_store import RowStore
    keys = [i.to_bytes(32, "big") for i in range(100)]
    random.seed(0)
    for case in range(6):
        store = RowStore(f"{sys.argv[1]}/{case}", (50, 50), "float32", pathlib.Path())
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            for version in range(10_000):
                with store.writer(100) as writer:
                    for i in range(0, 100, 10):
                        writer.append(keys[i:i + 10], np.full([10, 50, 50], version))
                os.write(writing, b"x")
        os.read(reading, 1)  # the first version is there
        time.sleep(random.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        os.close(writing)
        done = len(os.read(reading, 10_000))
        store = RowStore(f"{sys.argv[1]}/{case}", (50, 50), "float32", pathlib.Path())
        assert store.missing(keys) == [], case
        versions = np.unique(store.rows(keys, 0)[:])
        assert versions in ([done], [done + 1]), (done, versions)
        left = set(os.listdir(f"{sys.argv[1]}/{case}"))  # SQLite leaves a journal that was never needed
        assert {"rows.sqlite", "used"} <= left <= {"rows.sqlite", "rows.sqlite-journal", "used"}, left
"""


def test_a_kill_at_any_moment_leaves_all_of_a_commit_or_nothing(tmp_path: pathlib.Path) -> None:
    done = run_python(KILL, tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_next_open_rolls_a_killed_commit_back(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    killed_in_a_commit(tmp_path, 2000)
    np.testing.assert_array_equal(opened(tmp_path).rows(keys(0, 2000), 0)[:], values(0, 2000))
    assert names(tmp_path) == [FILE, "used"] and not caplog.records


def test_the_journal_of_a_removed_database_does_no_harm(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed_in_a_commit(tmp_path, 2000)
    (tmp_path / FILE).unlink()
    store = opened(tmp_path)
    assert store.missing(keys(0, 2000)) == keys(0, 2000)
    put(store, 0, 10)
    np.testing.assert_array_equal(opened(tmp_path).rows(keys(0, 10), 0)[:], values(0, 10))
    assert not caplog.records


@pytest.mark.parametrize("lock", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_writer_waits_for_a_lock_but_not_for_ever(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    put(opened(tmp_path), 0, 4)
    with contextlib.closing(
        sqlite3.connect(tmp_path / FILE, isolation_level=None, check_same_thread=False)
    ) as connection:
        connection.execute(lock)
        monkeypatch.setattr(row_store, "_LOCK_SECONDS", 0.1)
        message = f"{tmp_path}/{FILE} has been locked by another process for 0 s"
        if lock == "BEGIN EXCLUSIVE":
            with pytest.raises(UserError, match=message):
                opened(tmp_path).missing(keys(0, 4))
        else:
            assert opened(tmp_path).missing(keys(0, 4)) == []
        with pytest.raises(UserError, match=message):
            put(opened(tmp_path), 4, 6)
        monkeypatch.undo()
        timer = threading.Timer(0.2, connection.execute, ["COMMIT"])
        timer.start()
        put(opened(tmp_path), 4, 6)
        timer.join()
    assert opened(tmp_path).missing(keys(0, 7)) == keys(6, 7)


# Damage


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """600 rows that were written in two steps: a few pages of each kind."""
    folder = tmp_path_factory.mktemp("healthy")
    put(opened(folder), 0, 300)
    put(opened(folder), 300, 600)
    return folder


@pytest.mark.parametrize("group", range(5))
def test_a_damaged_file_loses_rows_and_never_gives_wrong_ones(
    tmp_path: pathlib.Path, healthy: pathlib.Path, caplog: pytest.LogCaptureFixture, group: int
) -> None:
    wanted, numbers = keys(0, 600), values(0, 600)
    whole = (healthy / FILE).read_bytes()
    for case in range(40):
        random = np.random.default_rng([group, case])
        folder = tmp_path / str(case)
        shutil.copytree(healthy, folder)
        data = bytearray(whole)
        # Half of them at the start of a page, which has the most structure.
        at = int(random.integers(len(data)) if case % 2 else random.integers(len(data) >> 14) * 16384)
        at += 0 if case % 2 else int(random.integers(100))
        damage = random.choice(["flip", "flip", "rubbish", "cut", "more", "empty", "zeros", "pages", "foreign"])
        if damage == "flip":
            data[at] ^= 1 << random.integers(8)
        elif damage == "rubbish":
            data[at : at + 50] = random.bytes(50)
        elif damage == "cut":
            del data[at:]
        elif damage == "more":
            data += random.bytes(int(random.integers(1, 200)))
        elif damage == "empty":
            data.clear()
        elif damage == "zeros":  # as a file system may leave a file after a power failure
            data[at:] = bytes(len(data) - at)
        elif damage == "pages":
            one, other = random.choice(len(data) >> 14, 2, replace=False) << 14
            data[one : one + 16384] = data[other : other + 16384]
        elif damage == "foreign":
            data[:] = b"aardvark, 1\n" * 1000
        (folder / FILE).write_bytes(data)

        caplog.clear()
        store = opened(folder)
        requested = wanted[: random.choice([10, 600])]
        lost = {wanted.index(key) for key in store.missing(requested)}
        if lost and damage != "empty":
            assert str(folder / FILE) in caplog.text, (damage, at)
        if lost and case % 3:
            put(store, 600, 604)  # does not break the others
        intact = np.setdiff1d(np.arange(len(requested)), [*lost])
        np.testing.assert_array_equal(store.rows([wanted[i] for i in intact], 0)[:], numbers[intact])
        with store.writer() as writer:
            writer.append([wanted[i] for i in sorted(lost)], numbers[sorted(lost)])
        for memory_bytes in (0, 1 << 20):
            np.testing.assert_array_equal(opened(folder).rows(requested, memory_bytes)[:], numbers[: len(requested)])


def damage(folder: pathlib.Path, *rows: int) -> None:
    data = bytearray((folder / FILE).read_bytes())
    for row in rows:
        data[data.index(values(row, row + 1).tobytes()) + 7] ^= 4
    (folder / FILE).write_bytes(data)


def test_damaged_rows_are_replaced_and_a_warning_names_file_and_number(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(opened(tmp_path), 0, 10)
    damage(tmp_path, 2, 3, 9)
    store = opened(tmp_path)
    assert store.missing(keys(0, 9)) == keys(2, 4)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"{tmp_path}/{FILE} is damaged; rows to compute again: 2"
    with pytest.raises(KeyError, match="2 of the rows"):
        store.rows(keys(0, 4), 0)
    put(store, 2, 4)
    np.testing.assert_array_equal(store.rows(keys(0, 9), 0)[:], values(0, 9))
    assert opened(tmp_path).missing(keys(0, 10)) == keys(9, 10)


def test_a_row_under_the_key_of_another_is_noticed(tmp_path: pathlib.Path) -> None:
    put(opened(tmp_path), 0, 4)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as connection, connection:
        connection.execute(
            "UPDATE rows SET (crc32, row) = (SELECT crc32, row FROM rows WHERE key = ?) WHERE key = ?",
            [keys(0, 1)[0], keys(1, 2)[0]],
        )
    assert opened(tmp_path).missing(keys(0, 4)) == keys(1, 2)


@pytest.mark.parametrize(("shape", "dtype"), [((5, 3), "float32"), (SHAPE, "float16"), ((15,), "float32")])
def test_rows_of_another_kind_do_not_count(tmp_path: pathlib.Path, shape: tuple[int, ...], dtype: str) -> None:
    put(opened(tmp_path), 0, 3)
    store = RowStore(str(tmp_path), shape, dtype, tmp_path)
    assert store.missing(keys(0, 3)) == keys(0, 3)
    with store.writer() as writer:
        writer.append(keys(0, 3), values(0, 3, shape))
    assert RowStore(str(tmp_path), shape, dtype, tmp_path).missing(keys(0, 4)) == keys(3, 4)


def test_a_folder_in_place_of_the_file_is_a_warning_and_stays(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).mkdir()
    store = opened(tmp_path)
    assert store.missing(keys(0, 3)) == keys(0, 3)
    assert f"{tmp_path}/{FILE} cannot be read (unable to open" in caplog.text
    with pytest.raises(UserError, match=r"unable to open.*boundary_cache\.enabled=false"):
        put(store, 0, 3)
    assert names(tmp_path) == [FILE, "used"]
