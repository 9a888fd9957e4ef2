"""The rows kept from run to run: they come back as they were or not at all, whatever happens to process and files."""

import contextlib
import hashlib
import logging
import os
import pathlib
import pickle
import resource
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf

from graftline.errors import UserError
from tests.trainer import disks
from trainer import row_store
from trainer.row_store import RowStore

SHAPE = (3, 5)
FILE = "rows.sqlite"


def keys(start: int, stop: int) -> list[bytes]:
    return [hashlib.sha256(str(i).encode()).digest() for i in range(start, stop)]


def values(start: int, stop: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Row i is drawn from the seed i."""
    rows = [np.random.default_rng(i).normal(0, 3, shape).astype(np.float32) for i in range(start, stop)]
    return np.stack(rows) if rows else np.zeros([0, *shape], np.float32)


def opened(
    directory: pathlib.Path | str, dtype: str = "float32", scratch: pathlib.Path = pathlib.Path("unused")
) -> RowStore:
    return RowStore(str(directory), SHAPE, dtype, scratch)


def put(store: RowStore, start: int, stop: int, batch: int = 4) -> None:
    with store.writer() as writer:
        for i in range(start, stop, batch):
            writer.append(keys(i, min(i + batch, stop)), values(i, min(i + batch, stop)))


def names(directory: pathlib.Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def python(code: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# Round trips


@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_come_back_in_the_order_of_the_keys(tmp_path: pathlib.Path, dtype: str, memory_bytes: int) -> None:
    put(opened(tmp_path / "a ?#%41", dtype), 0, 7)
    put(opened(tmp_path / "a ?#%41", dtype), 7, 20)
    store = opened(tmp_path / "a ?#%41", dtype)
    put(store, 20, 23)
    order = np.random.default_rng(0).permutation(np.r_[0:23, 3, 21, 9])  # some of them twice
    rows = store.rows([keys(0, 23)[i] for i in order], memory_bytes)
    wanted = values(0, 23)[order]
    if dtype == "float16":
        wanted = wanted.astype(np.float16).astype(np.float32)
        np.testing.assert_allclose(wanted, values(0, 23)[order], rtol=1e-3, atol=1e-4)
    assert len(rows) == 26 and rows.shape == (26, *SHAPE) and rows.dtype == np.float32
    assert names(tmp_path) == ["a ?#%41"] and names(tmp_path / "a ?#%41") == [FILE, "used"]
    index: object
    for index in (
        np.random.default_rng(1).permutation(26),
        np.array([5, 5, -1]),
        np.zeros([0], np.int64),
        np.arange(26) % 3 == 0,
        slice(4, 21, 3),
        slice(30, 40),
        7,
        -2,
        [1, 2],
    ):
        got = rows[index]  # type: ignore[index]
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, wanted[index])  # type: ignore[index]
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(rows))[index], wanted[index])  # type: ignore[index]
    with pytest.raises(IndexError):
        rows[26]


@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
def test_what_the_reader_does_to_a_batch_stays_with_the_reader(tmp_path: pathlib.Path, memory_bytes: int) -> None:
    put(opened(tmp_path), 0, 6)
    rows = opened(tmp_path).rows(keys(0, 6), memory_bytes)
    for index in (slice(0, 3), 2, np.array([1, 2])):
        rows[index][...] = -1  # type: ignore[index]
    np.testing.assert_array_equal(rows[:], values(0, 6))


def test_rows_are_held_in_memory_up_to_the_bytes_allowed(tmp_path: pathlib.Path) -> None:
    put(opened(tmp_path), 0, 10)
    in_memory = opened(tmp_path).rows(keys(0, 10), 10 * 60)
    on_disk = opened(tmp_path).rows(keys(0, 10), 10 * 60 - 1)
    shutil.rmtree(tmp_path)
    np.testing.assert_array_equal(in_memory[:], values(0, 10))
    with pytest.raises(UserError, match=f"{tmp_path}/{FILE} vanished .*: run again"):
        on_disk[:]


@pytest.mark.parametrize("change", ["begun anew", "cut off"])
def test_a_file_changed_while_in_use_is_an_error_and_no_wrong_numbers(tmp_path: pathlib.Path, change: str) -> None:
    put(opened(tmp_path), 0, 5000)
    rows = opened(tmp_path).rows(keys(0, 5000), 0)
    if change == "cut off":
        os.truncate(tmp_path / FILE, 3 << 14)
    else:
        (tmp_path / FILE).unlink()
        put(opened(tmp_path), 0, 10)
        np.testing.assert_array_equal(rows[:10], values(0, 10))
    with pytest.raises(UserError, match="while it was in use"):
        rows[4999]


def test_rows_of_one_number_and_of_float64(tmp_path: pathlib.Path) -> None:
    store = RowStore(str(tmp_path), (), "float32", tmp_path)
    with store.writer() as writer:
        writer.append(keys(0, 3), np.array([1.5, np.nan, np.inf]))
    for memory_bytes in (0, 100):
        rows = RowStore(str(tmp_path), (), "float32", tmp_path).rows(keys(0, 3), memory_bytes)
        np.testing.assert_array_equal(rows[:], np.array([1.5, np.nan, np.inf], np.float32))
        assert rows[0] == 1.5


def test_a_new_store_misses_everything_and_makes_no_folder(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path / "none")
    assert store.missing(keys(0, 3)) == keys(0, 3)
    assert store.missing([]) == [] and len(store.rows([], 0)) == 0
    assert not (tmp_path / "none").exists()


def test_missing_keys_come_in_order_and_once(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    put(store, 3, 6)
    asked = [*keys(7, 9), *keys(0, 9)[::-1], *keys(0, 2)]
    for of in (store, opened(tmp_path)):
        assert of.missing(asked) == [*keys(7, 9), *keys(6, 7), *keys(0, 3)[::-1]]
    with pytest.raises(KeyError, match=f"4 of the rows are not in .*{keys(6, 7)[0].hex()}"):
        store.rows(keys(3, 10), 0)


def test_keys_that_end_in_zero_bytes_stay_apart(tmp_path: pathlib.Path) -> None:
    several = [bytes(32), b"a" + bytes(31), b"a\0b" + bytes(29), b"a " + bytes(30)]
    with opened(tmp_path).writer() as writer:
        writer.append(several[:3], values(0, 3))
    assert opened(tmp_path).missing(several) == several[3:]
    np.testing.assert_array_equal(opened(tmp_path).rows(several[2::-1], 0)[:], values(0, 3)[::-1])


@pytest.mark.parametrize("shape", [(1, 5, 3), (2, 3, 5), (3, 5)])
def test_rows_of_another_shape_are_refused(tmp_path: pathlib.Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="rows of shape"), opened(tmp_path).writer() as writer:
        writer.append(keys(0, 1), np.zeros(shape, np.float32))
    assert names(tmp_path) == ["used"]


def test_numbers_that_float16_cannot_hold_are_refused(tmp_path: pathlib.Path) -> None:
    rows = values(0, 2)
    rows[0, 0, 0], rows[1, 1, 1] = np.inf, -70_000
    with (
        pytest.raises(UserError, match=r"up to 70,000 don't fit float16, .* 65,504: set boundary_cache.dtype=float32"),
        opened(tmp_path, "float16").writer() as writer,
    ):
        writer.append(keys(0, 2), rows)
    assert opened(tmp_path, "float16").missing(keys(0, 2)) == keys(0, 2)


def test_rows_are_read_by_several_threads_without_their_store(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    put(store, 0, 100)
    rows = store.rows(keys(0, 100), 0)
    del store
    wrong: list[object] = []

    def read(seed: int) -> None:
        for _ in range(20):
            at = np.random.default_rng(seed).permutation(100)[:16]
            if not np.array_equal(rows[at], values(0, 100)[at]):
                wrong.append(at)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


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


# Children that replace all rows again and again, each killed at another moment.
KILL = """
    import os, pathlib, random, signal, sys, time
    import numpy as np
    from trainer.row_store import RowStore
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
    done = python(KILL, tmp_path)
    assert done.returncode == 0, done.stderr


def killed_in_a_commit(folder: pathlib.Path, count: int) -> None:
    """Puts `count` rows; then a process overwrites them with rubbish and dies when the file has some of it."""
    put(opened(folder), 0, count)
    code = """
        import os, signal, sqlite3, sys
        connection = sqlite3.connect(sys.argv[1], isolation_level=None)
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE rows SET row = randomblob(60)")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    before = (folder / FILE).read_bytes()
    assert python(code, folder / FILE).returncode == -9
    assert names(folder) == [FILE, f"{FILE}-journal", "used"] and (folder / FILE).read_bytes() != before


def test_the_next_to_open_rolls_a_killed_commit_back(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
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
def test_a_lock_is_waited_for_and_not_for_ever(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    put(opened(tmp_path), 0, 4)
    with contextlib.closing(
        sqlite3.connect(tmp_path / FILE, isolation_level=None, check_same_thread=False)
    ) as connection:
        connection.execute(lock)
        monkeypatch.setattr(row_store, "_LOCK_SECONDS", 0.1)
        said = f"{tmp_path}/{FILE} has been locked by another process for 0 s"
        if lock == "BEGIN EXCLUSIVE":
            with pytest.raises(UserError, match=said):
                opened(tmp_path).missing(keys(0, 4))
        else:
            assert opened(tmp_path).missing(keys(0, 4)) == []
        with pytest.raises(UserError, match=said):
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
    """600 rows that were put in two steps: a few pages of each kind."""
    folder = tmp_path_factory.mktemp("healthy")
    put(opened(folder), 0, 300)
    put(opened(folder), 300, 600)
    return folder


@pytest.mark.parametrize("group", range(5))
def test_a_damaged_file_costs_rows_and_never_gives_wrong_ones(
    tmp_path: pathlib.Path, healthy: pathlib.Path, caplog: pytest.LogCaptureFixture, group: int
) -> None:
    wanted, numbers = keys(0, 600), values(0, 600)
    whole = (healthy / FILE).read_bytes()
    for case in range(40):
        random = np.random.default_rng([group, case])
        folder = tmp_path / str(case)
        shutil.copytree(healthy, folder)
        data = bytearray(whole)
        # Half of them where a page begins, with the most structure.
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
        elif damage == "zeros":  # as a file system may leave a file when the power failed
            data[at:] = bytes(len(data) - at)
        elif damage == "pages":
            one, other = random.choice(len(data) >> 14, 2, replace=False) << 14
            data[one : one + 16384] = data[other : other + 16384]
        elif damage == "foreign":
            data[:] = b"aardvark, 1\n" * 1000
        (folder / FILE).write_bytes(data)

        caplog.clear()
        store = opened(folder)
        asked = wanted[: random.choice([10, 600])]
        lost = {wanted.index(key) for key in store.missing(asked)}
        if lost and damage != "empty":
            assert str(folder / FILE) in caplog.text, (damage, at)
        if lost and case % 3:
            put(store, 600, 604)  # does not break the others
        kept = np.setdiff1d(np.arange(len(asked)), [*lost])
        np.testing.assert_array_equal(store.rows([wanted[i] for i in kept], 0)[:], numbers[kept])
        with store.writer() as writer:
            writer.append([wanted[i] for i in sorted(lost)], numbers[sorted(lost)])
        for memory_bytes in (0, 1 << 20):
            np.testing.assert_array_equal(opened(folder).rows(asked, memory_bytes)[:], numbers[: len(asked)])


def damage(folder: pathlib.Path, *rows: int) -> None:
    data = bytearray((folder / FILE).read_bytes())
    for row in rows:
        data[data.index(values(row, row + 1).tobytes()) + 7] ^= 4
    (folder / FILE).write_bytes(data)


def test_damaged_rows_are_told_by_file_and_number_and_replaced(
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


def test_a_folder_in_the_place_of_the_file_is_told_and_left_alone(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).mkdir()
    store = opened(tmp_path)
    assert store.missing(keys(0, 3)) == keys(0, 3)
    assert f"{tmp_path}/{FILE} can't be read (unable to open" in caplog.text
    with pytest.raises(UserError, match=r"unable to open.*boundary_cache\.enabled=false"):
        put(store, 0, 3)
    assert names(tmp_path) == [FILE, "used"]


# No room


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


ADVICE = r".* free at last\. Free some space, give another --workspace, or set boundary_cache\.enabled=false"


def test_a_limit_on_a_files_size_while_rows_come(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    put(store, 0, 10)
    before = (tmp_path / FILE).read_bytes()
    said = f"^{tmp_path}: no rows .*File too large.*60,600 bytes were needed in {tmp_path}, {ADVICE}"
    with files_up_to(1000 * 60), pytest.raises(UserError, match=said):
        put(store, 10, 2000, batch=10)
    assert names(tmp_path) == [FILE, "used"] and (tmp_path / FILE).read_bytes() == before
    put(store, 10, 20)
    assert opened(tmp_path).missing(keys(0, 20)) == []


def test_a_limit_on_a_files_size_that_the_database_meets(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    put(store, 0, 10)
    said = f"^{tmp_path}: no rows .*disk I/O error.*60,000 bytes were needed in {tmp_path}, {ADVICE}"
    with files_up_to(5 << 14), pytest.raises(UserError, match=said):
        put(store, 10, 1010)
    assert names(tmp_path) == [FILE, "used"]
    assert store.missing(keys(0, 1010)) == opened(tmp_path).missing(keys(0, 1010)) == keys(10, 1010)
    put(store, 10, 20)
    np.testing.assert_array_equal(opened(tmp_path).rows(keys(0, 20), 0)[:], values(0, 20))


def test_room_is_looked_for_before_any_work(tmp_path: pathlib.Path) -> None:
    said = f"^{tmp_path}: no rows .*No space left.*120,000,000,000,000,000 bytes were needed in {tmp_path}, {ADVICE}"
    with pytest.raises(UserError, match=said), opened(tmp_path).writer(expected_rows=10**15):
        raise AssertionError("the work begins")
    assert names(tmp_path) == ["used"]


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system of 1 MiB."""
    with disks.mounted(tmp_path / "small", "1m") as folder:
        yield folder


@pytest.mark.parametrize(("rows", "reported"), [(20_000, "No space left"), (10_000, "full")])
def test_a_full_disk(small_disk: pathlib.Path, rows: int, reported: str) -> None:
    store = opened(small_disk / "s")
    put(store, 0, 10)
    batch = np.zeros([1000, *SHAPE], np.float32)
    said = f"^{small_disk}/s: no rows .*{reported}.*{ADVICE}"
    with pytest.raises(UserError, match=said), store.writer() as writer:
        for i in range(10, rows, 1000):
            writer.append(keys(i, i + 1000), batch)
    assert names(small_disk / "s") == [FILE, "used"]
    assert store.missing(keys(0, rows)) == keys(10, rows)
    put(store, 10, 20)  # what fits goes on to work
    np.testing.assert_array_equal(opened(small_disk / "s").rows(keys(0, 20), 0)[:], values(0, 20))


# Memory


def test_rows_on_disk_take_no_memory(tmp_path: pathlib.Path) -> None:
    done = python(
        """
        import pathlib, sys
        import numpy as np
        from trainer.row_store import RowStore
        def peak():
            (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
            return int(line.split()[1])
        shape, batch, count = (7, 7, 160), 32, 6_400
        def run(directory, count):
            keys = [i.to_bytes(32, "big") for i in range(count)]
            with RowStore(directory, shape, "float32", pathlib.Path()).writer(count) as writer:
                for i in range(0, count, batch):
                    writer.append(keys[i:i + batch], np.full([batch, *shape], i, np.float32))
            store = RowStore(directory, shape, "float32", pathlib.Path())
            assert store.missing(keys) == []
            rows = store.rows(keys, 0)
            for order in (np.arange(count), np.random.default_rng(0).permutation(count)):
                for at in np.array_split(order, count // batch):
                    assert (rows[at][:, 0, 0, 0] == at // batch * batch).all()
        run(sys.argv[1] + "/warm", 2 * batch)
        before = peak()
        run(sys.argv[1] + "/all", count)
        print(count * 7 * 7 * 160 * 4, peak() - before)
        """,
        tmp_path,
    )
    shutil.rmtree(tmp_path)
    assert not done.returncode, done.stderr
    on_disk, kilobytes = done.stdout.split()
    assert int(on_disk) > 200e6 and int(kilobytes) < 30_000


# Object stores


def test_a_store_at_a_uri(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = f"ram://{uuid.uuid4().hex}/cache/store"
    put(opened(uri, scratch=tmp_path / "first"), 0, 5)
    store = opened(uri, scratch=tmp_path / "second")
    put(store, 5, 8)
    assert store.missing(keys(0, 9)) == keys(8, 9)
    np.testing.assert_array_equal(store.rows(keys(0, 8), 0)[::-1], values(0, 8)[::-1])
    assert row_store.size(uri) > 8 * 60
    assert sorted(tf.io.gfile.listdir(uri)) == [FILE, "used"]
    with pytest.raises(RuntimeError, match="stop"), store.writer() as writer:
        writer.append(keys(8, 9), values(8, 9))
        raise RuntimeError("stop")
    assert opened(uri, scratch=tmp_path / "third").missing(keys(0, 9)) == keys(8, 9)
    assert not list(tmp_path.rglob("*.part"))

    with tf.io.gfile.GFile(f"{uri}/{FILE}", "rb") as file:
        data = bytearray(file.read())
    data[data.index(values(1, 2).tobytes())] ^= 1
    tf.io.gfile.remove(f"{uri}/{FILE}")  # TensorFlow's `ram://` appends to what is there
    with tf.io.gfile.GFile(f"{uri}/{FILE}", "wb") as file:
        file.write(bytes(data))
    store = opened(uri, scratch=tmp_path / "fourth")
    assert store.missing(keys(0, 8)) == keys(1, 2)
    assert f"{uri}/{FILE} is damaged; rows to compute again: 1" in caplog.text
    put(store, 1, 2)
    np.testing.assert_array_equal(opened(uri, scratch=tmp_path / "fifth").rows(keys(0, 8), 1000)[:], values(0, 8))

    root = uri.rpartition("/")[0]
    put(opened(f"{root}/other", scratch=tmp_path / "fifth"), 0, 5)  # the same scratch for another store
    assert row_store.prune(root, {"store"}, 0) == ["other"]
    assert row_store.size(f"{root}/other") == 0 and opened(uri, scratch=tmp_path / "fifth").missing(keys(0, 8)) == []


def test_scratch_without_room(tmp_path: pathlib.Path, small_disk: pathlib.Path) -> None:
    uri = f"ram://{uuid.uuid4().hex}/store"
    shape = (1024, 1024)
    with RowStore(uri, shape, "float32", tmp_path).writer() as writer:
        writer.append(keys(0, 1), np.ones([1, *shape]))
    with pytest.raises(UserError, match=rf"{uri}: .*bytes were needed in {small_disk}/scratch, {ADVICE}"):
        RowStore(uri, shape, "float32", small_disk / "scratch")
    assert names(small_disk / "scratch") == []
    assert RowStore(uri, shape, "float32", tmp_path / "new").missing(keys(0, 2)) == keys(1, 2)


# Pruning


@pytest.fixture
def stores(tmp_path: pathlib.Path) -> pathlib.Path:
    """Stores a, b, c and d of 10 rows each, used in that order, a first; and a folder that is no store."""
    for age, name in enumerate("dcba"):
        put(opened(tmp_path / name), 0, 10)
        os.utime(tmp_path / name / "used", times=(time.time() - 100 * age - 100,) * 2)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat" * 10_000)
    (tmp_path / "README").write_text("not a store")
    return tmp_path


def test_the_least_recently_used_go_first(stores: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    each = row_store.size(str(stores / "a"))
    assert each == sum(path.stat().st_size for path in (stores / "a").iterdir()) > 600
    assert row_store.prune(str(stores), [], 4 * each) == []
    opened(stores / "a")  # is a use
    assert row_store.prune(str(stores), [], 3 * each) == ["b"]
    assert f"{stores / 'b'} is removed" in caplog.text
    assert row_store.prune(str(stores), ["c"], 2 * each - 1) == ["d", "a"]
    assert row_store.prune(str(stores), ["c"], 0) == []
    assert names(stores) == ["README", "c", "photos"]
    assert opened(stores / "c").missing(keys(0, 10)) == []


def test_a_removal_that_was_cut_short_is_ended_later(stores: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    killed_in_a_commit(stores / "e", 2000)
    (stores / "e" / FILE).unlink()  # so far a killed removal came
    assert opened(stores / "e").missing(keys(0, 10)) == keys(0, 10)
    assert row_store.prune(str(stores), "bcd", 0) == ["a", "e"]
    assert names(stores) == ["README", "b", "c", "d", "photos"] and not caplog.records


def test_nothing_is_pruned_where_nothing_is(tmp_path: pathlib.Path) -> None:
    assert row_store.prune(str(tmp_path / "none"), [], 0) == []
    assert row_store.size(str(tmp_path / "none")) == 0
