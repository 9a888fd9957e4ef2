"""The room that rows take on disk and in memory: what happens when there is none, and how it is freed."""

import contextlib
import logging
import os
import pathlib
import resource
import shutil
import time
import uuid
from collections.abc import Iterator

import numpy as np
import pytest

from graftline.errors import UserError
from graftline.trainer import row_store
from graftline.trainer.row_store import RowStore
from tests.trainer import disks
from tests.trainer.processes import run_python
from tests.trainer.stored_rows import FILE, SHAPE, keys, killed_in_a_commit, names, opened, put, values

# No room


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


ADVICE = r".* are free\. Free some space, give another --workspace, or set boundary_cache\.enabled=false"


def test_a_limit_on_a_files_size_while_rows_are_appended(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    put(store, 0, 10)
    before = (tmp_path / FILE).read_bytes()
    message = f"^{tmp_path}: no rows .*File too large.*60,600 bytes were needed in {tmp_path}, {ADVICE}"
    with files_up_to(1000 * 60), pytest.raises(UserError, match=message):
        put(store, 10, 2000, batch=10)
    assert names(tmp_path) == [FILE, "used"] and (tmp_path / FILE).read_bytes() == before
    put(store, 10, 20)
    assert opened(tmp_path).missing(keys(0, 20)) == []


def test_a_limit_on_a_files_size_that_the_database_meets(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    put(store, 0, 10)
    message = f"^{tmp_path}: no rows .*disk I/O error.*60,000 bytes were needed in {tmp_path}, {ADVICE}"
    with files_up_to(5 << 14), pytest.raises(UserError, match=message):
        put(store, 10, 1010)
    assert names(tmp_path) == [FILE, "used"]
    assert store.missing(keys(0, 1010)) == opened(tmp_path).missing(keys(0, 1010)) == keys(10, 1010)
    put(store, 10, 20)
    np.testing.assert_array_equal(opened(tmp_path).rows(keys(0, 20), 0)[:], values(0, 20))


def test_room_is_checked_before_any_work(tmp_path: pathlib.Path) -> None:
    message = f"^{tmp_path}: no rows .*No space left.*120,000,000,000,000,000 bytes were needed in {tmp_path}, {ADVICE}"
    with pytest.raises(UserError, match=message), opened(tmp_path).writer(expected_rows=10**15):
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
    message = f"^{small_disk}/s: no rows .*{reported}.*{ADVICE}"
    with pytest.raises(UserError, match=message), store.writer() as writer:
        for i in range(10, rows, 1000):
            writer.append(keys(i, i + 1000), batch)
    assert names(small_disk / "s") == [FILE, "used"]
    assert store.missing(keys(0, rows)) == keys(10, rows)
    put(store, 10, 20)  # smaller writes still work
    np.testing.assert_array_equal(opened(small_disk / "s").rows(keys(0, 20), 0)[:], values(0, 20))


def test_scratch_without_room(tmp_path: pathlib.Path, small_disk: pathlib.Path) -> None:
    uri = f"ram://{uuid.uuid4().hex}/store"
    shape = (1024, 1024)
    with RowStore(uri, shape, "float32", tmp_path).writer() as writer:
        writer.append(keys(0, 1), np.ones([1, *shape]))
    with pytest.raises(UserError, match=rf"{uri}: .*bytes were needed in {small_disk}/scratch, {ADVICE}"):
        RowStore(uri, shape, "float32", small_disk / "scratch")
    assert names(small_disk / "scratch") == []
    assert RowStore(uri, shape, "float32", tmp_path / "new").missing(keys(0, 2)) == keys(1, 2)


# Memory


def test_rows_on_disk_take_no_memory(tmp_path: pathlib.Path) -> None:
    done = run_python(
        """
        import pathlib, sys
        import numpy as np
        from graftline.trainer.row_store import RowStore
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


# Pruning


@pytest.fixture
def stores(tmp_path: pathlib.Path) -> pathlib.Path:
    """Stores a, b, c and d of 10 rows each, used in that order, and a folder that is not a store."""
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


def test_an_interrupted_removal_is_finished_later(stores: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    killed_in_a_commit(stores / "e", 2000)
    (stores / "e" / FILE).unlink()  # the state after a killed removal
    assert opened(stores / "e").missing(keys(0, 10)) == keys(0, 10)
    assert row_store.prune(str(stores), "bcd", 0) == ["a", "e"]
    assert names(stores) == ["README", "b", "c", "d", "photos"] and not caplog.records


def test_nothing_is_pruned_where_nothing_is(tmp_path: pathlib.Path) -> None:
    assert row_store.prune(str(tmp_path / "none"), [], 0) == []
    assert row_store.size(str(tmp_path / "none")) == 0
