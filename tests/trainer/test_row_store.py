"""Rows are the same when they are read again, from a folder or an object store."""

import os
import pathlib
import pickle
import shutil
import threading
import uuid

import numpy as np
import pytest
import tensorflow as tf

from graftline.errors import UserError
from graftline.trainer import row_store
from graftline.trainer.row_store import RowStore
from tests.trainer.stored_rows import FILE, SHAPE, keys, names, opened, put, values

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
def test_a_reader_that_changes_a_batch_does_not_change_the_rows(tmp_path: pathlib.Path, memory_bytes: int) -> None:
    put(opened(tmp_path), 0, 6)
    rows = opened(tmp_path).rows(keys(0, 6), memory_bytes)
    for index in (slice(0, 3), 2, np.array([1, 2])):
        rows[index][...] = -1  # type: ignore[index]
    np.testing.assert_array_equal(rows[:], values(0, 6))


def test_rows_stay_in_memory_up_to_the_limit(tmp_path: pathlib.Path) -> None:
    put(opened(tmp_path), 0, 10)
    in_memory = opened(tmp_path).rows(keys(0, 10), 10 * 60)
    on_disk = opened(tmp_path).rows(keys(0, 10), 10 * 60 - 1)
    shutil.rmtree(tmp_path)
    np.testing.assert_array_equal(in_memory[:], values(0, 10))
    with pytest.raises(UserError, match=f"{tmp_path}/{FILE} vanished .*: run again"):
        on_disk[:]


@pytest.mark.parametrize("change", ["begun anew", "cut off"])
def test_a_file_that_is_changed_while_in_use_is_an_error_and_gives_no_wrong_numbers(
    tmp_path: pathlib.Path, change: str
) -> None:
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
    requested = [*keys(7, 9), *keys(0, 9)[::-1], *keys(0, 2)]
    for of in (store, opened(tmp_path)):
        assert of.missing(requested) == [*keys(7, 9), *keys(6, 7), *keys(0, 3)[::-1]]
    with pytest.raises(KeyError, match=f"4 of the rows are not in .*{keys(6, 7)[0].hex()}"):
        store.rows(keys(3, 10), 0)


def test_keys_that_end_in_zero_bytes_are_different(tmp_path: pathlib.Path) -> None:
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
        pytest.raises(UserError, match=r"up to 70,000 do not fit float16, .* 65,504: set boundary_cache.dtype=float32"),
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
    tf.io.gfile.remove(f"{uri}/{FILE}")  # TensorFlow's `ram://` appends to existing files
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
