"""The rows kept from run to run: they come back as they were or not at all, whatever happens to process and files."""

import hashlib
import logging
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Iterator

import numpy as np
import pytest

from graftline.errors import UserError
from trainer import row_store
from trainer.row_store import RowStore

SHAPE = (3, 5)


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


def python(code: str, *arguments: object, **options: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


# Round trips


@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_come_back_in_the_order_of_the_keys(tmp_path: pathlib.Path, dtype: str, memory_bytes: int) -> None:
    put(opened(tmp_path / "s", dtype), 0, 7)
    put(opened(tmp_path / "s", dtype), 7, 20)
    store = opened(tmp_path / "s", dtype)
    put(store, 20, 23)
    order = np.random.default_rng(0).permutation(np.r_[0:23, 3, 21, 9])  # some of them twice
    rows = store.rows([keys(0, 23)[i] for i in order], memory_bytes)
    wanted = values(0, 23)[order]
    if dtype == "float16":
        wanted = wanted.astype(np.float16).astype(np.float32)
        np.testing.assert_allclose(wanted, values(0, 23)[order], rtol=1e-3, atol=1e-4)
    assert len(rows) == 26 and rows.shape == (26, *SHAPE) and rows.dtype == np.float32
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
    with pytest.raises(FileNotFoundError):
        on_disk[:]


def test_a_file_cut_off_while_in_use_is_an_error_and_no_wrong_numbers(tmp_path: pathlib.Path) -> None:
    put(opened(tmp_path), 0, 10)
    rows = opened(tmp_path).rows(keys(0, 10), 0)
    (path,) = tmp_path.glob("*.rows")
    os.truncate(path, 9 * 60 + 30)
    np.testing.assert_array_equal(rows[:9], values(0, 9))
    with pytest.raises(OSError, match=f"cut off.*{path.name}"):
        rows[9]


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
    with pytest.raises(KeyError, match=f"4 of 7 rows are not in .*{keys(6, 7)[0].hex()}"):
        store.rows(keys(3, 10), 0)


def test_keys_that_end_in_zero_bytes_stay_apart(tmp_path: pathlib.Path) -> None:
    several = [bytes(32), b"a" + bytes(31), b"a\0b" + bytes(29), b"a " + bytes(30)]
    store = opened(tmp_path)
    with store.writer() as writer:
        writer.append(several[:3], values(0, 3))
    assert opened(tmp_path).missing(several) == several[3:]
    np.testing.assert_array_equal(opened(tmp_path).rows(several[2::-1], 0)[:], values(0, 3)[::-1])


@pytest.mark.parametrize(
    ("key", "shape"), [(b"short", (1, 3, 5)), (bytes(33), (1, 3, 5)), (bytes(32), (1, 5, 3)), (bytes(32), (2, 3, 5))]
)
def test_what_does_not_fit_is_refused(tmp_path: pathlib.Path, key: bytes, shape: tuple[int, ...]) -> None:
    store = opened(tmp_path)
    with pytest.raises(ValueError, match=r"32 bytes|rows of shape"), store.writer() as writer:
        writer.append([key], np.zeros(shape, np.float32))
    assert names(tmp_path) == ["used"]


def test_numbers_that_float16_cannot_hold_are_refused(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path, "float16")
    rows = values(0, 2)
    rows[0, 0, 0], rows[1, 1, 1] = np.inf, -70_000
    with (
        pytest.raises(UserError, match=r"up to 70,000 don't fit float16, which ends at 65,504"),
        store.writer() as writer,
    ):
        writer.append(keys(0, 2), rows)
    assert opened(tmp_path, "float16").missing(keys(0, 2)) == keys(0, 2)


# All or nothing


def test_nothing_is_visible_before_the_end(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path)
    with store.writer() as writer:
        writer.append(keys(0, 4), values(0, 4))
        assert store.missing(keys(0, 4)) == keys(0, 4)
        assert opened(tmp_path).missing(keys(0, 4)) == keys(0, 4)
        writer.append(keys(4, 5), values(4, 5))
    assert store.missing(keys(0, 5)) == opened(tmp_path).missing(keys(0, 5)) == []
    with pytest.raises(ValueError, match="closed file"):
        writer.append(keys(5, 6), values(5, 6))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_drops_everything(tmp_path: pathlib.Path, error: type[BaseException]) -> None:
    store = opened(tmp_path)
    put(store, 0, 2)
    before = names(tmp_path)
    with pytest.raises(error), store.writer(expected_rows=100) as writer:
        writer.append(keys(2, 4), values(2, 4))
        raise error
    assert store.missing(keys(0, 4)) == keys(2, 4)
    assert names(tmp_path) == before


def test_a_writer_that_wrote_nothing_leaves_nothing(tmp_path: pathlib.Path) -> None:
    with opened(tmp_path).writer(expected_rows=3) as writer:
        writer.append([], values(0, 0))
    assert names(tmp_path) == ["used"]


def test_room_that_was_reserved_and_not_used_is_given_back(tmp_path: pathlib.Path) -> None:
    with opened(tmp_path).writer(expected_rows=1000) as writer:
        writer.append(keys(0, 2), values(0, 2))
        (part,) = tmp_path.glob("*.rows.part")
        assert part.stat().st_size == 1000 * 60
    assert next(tmp_path.glob("*.rows")).stat().st_size == 2 * 60
    np.testing.assert_array_equal(opened(tmp_path).rows(keys(0, 2), 0)[:], values(0, 2))


# Writes one segment of two batches and dies before a system call that changes something: each in turn.
DIE_AT = """
    import hashlib, os, pathlib, signal, sys
    import numpy as np
    from trainer.row_store import RowStore
    directory, last = sys.argv[1:]
    def counted(name, calls=[]):
        call = getattr(os, name)
        def counting(*arguments):
            if len(calls) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            calls.append(name)
            return call(*arguments)
        setattr(os, name, counting)
    for name in ("pwrite", "fsync", "rename"):
        counted(name)
    for at in range(int(last)):
        child = os.fork()
        if not child:
            with RowStore(f"{directory}/{at}", (3, 5), "float32", pathlib.Path()).writer() as writer:
                for i in (4, 5):
                    rows = np.random.default_rng(i).normal(0, 3, (1, 3, 5)).astype(np.float32)
                    writer.append([hashlib.sha256(str(i).encode()).digest()], rows)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_kill_at_any_moment_leaves_a_whole_segment_or_none(tmp_path: pathlib.Path) -> None:
    calls = 8  # two batches; rows: fsync, rename, fsync of the folder; the same for the index
    for at in range(calls + 1):
        put(opened(tmp_path / str(at)), 0, 4)
    done = python(DIE_AT, tmp_path, calls + 1)
    assert done.stdout.split() == ["-9"] * calls + ["0"], done.stderr
    for at in range(calls + 1):
        folder = tmp_path / str(at)
        left = len(names(folder))
        store = opened(folder)
        complete = at >= calls - 1  # its index has its name
        assert store.missing(keys(0, 6)) == ([] if complete else keys(4, 6))
        assert len(names(folder)) == (5 if complete else 3)
        assert complete or left > 3  # there was something to sweep
        if not complete:
            put(store, 4, 6)
        np.testing.assert_array_equal(opened(folder).rows(keys(0, 6), 0)[:], values(0, 6))


LIVE = """
    import pathlib, sys
    import numpy as np
    from trainer.row_store import RowStore
    with RowStore(sys.argv[1], (3, 5), "float32", pathlib.Path()).writer() as writer:
        writer.append([bytes(32)], np.ones([1, 3, 5]))
        print("writing", flush=True)
        sys.stdin.readline()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_a_writer_of_another_process_is_swept_only_when_it_is_dead(tmp_path: pathlib.Path, killed: bool) -> None:
    command = [sys.executable, "-c", textwrap.dedent(LIVE), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "writing\n"
        part = names(tmp_path)[0]
        assert part.endswith(".rows.part")
        assert opened(tmp_path).missing([bytes(32)]) == [bytes(32)]
        assert part in names(tmp_path)
        if killed:
            process.kill()
        else:
            process.communicate("\n")
    if killed:
        assert opened(tmp_path).missing([bytes(32)]) == [bytes(32)]
        assert names(tmp_path) == ["used"]
    else:
        np.testing.assert_array_equal(opened(tmp_path).rows([bytes(32)], 0)[:], np.ones([1, 3, 5]))


def test_other_files_in_the_folder_are_not_swept(tmp_path: pathlib.Path) -> None:
    put(opened(tmp_path), 0, 2)
    for name in ("notes.txt", "mine.rows", "mine.rows.part", f"{uuid.uuid4().hex}.rows.bak"):
        (tmp_path / name).write_bytes(b"x")
    before = names(tmp_path)
    assert opened(tmp_path).missing(keys(0, 2)) == []
    assert names(tmp_path) == before


# Damage


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Two segments: rows 0 to 5 and 6 to 11."""
    folder = tmp_path_factory.mktemp("healthy")
    put(opened(folder), 0, 6)
    put(opened(folder), 6, 12)
    return folder


def _first_row(rows: pathlib.Path) -> int:
    """The number of the first row in a segment of `healthy`."""
    return 0 if rows.read_bytes().startswith(values(0, 1).tobytes()) else 6


@pytest.mark.parametrize("group", range(10))
def test_a_damaged_file_costs_rows_and_never_gives_wrong_ones(
    tmp_path: pathlib.Path, healthy: pathlib.Path, caplog: pytest.LogCaptureFixture, group: int
) -> None:
    for case in range(30):
        random = np.random.default_rng([group, case])
        folder = tmp_path / str(case)
        shutil.copytree(healthy, folder)
        path = sorted(folder.glob("*.*"))[random.integers(4)]
        first = _first_row(path.with_suffix(".rows"))
        lost = np.arange(first, first + 6)
        data = bytearray(path.read_bytes())
        at = int(random.integers(len(data)))
        damages = ["flip", "flip", "cut", "more", "empty", "gone", "zeros"]
        damage = random.choice([*damages, "another"] if path.suffix == ".rows" else damages)
        if damage == "flip":
            data[at] ^= 1 << random.integers(8)
        elif damage == "cut":
            del data[at:]
        elif damage == "more":
            data += random.bytes(int(random.integers(1, 200)))
        elif damage == "empty":
            data.clear()
        elif damage == "zeros":  # as a file system may leave a file when the power failed
            data[at:] = bytes(len(data) - at)
        elif damage == "another":
            (other,) = {*folder.glob("*.rows")} - {path}
            data[:] = other.read_bytes()
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(data)
        if path.suffix == ".rows" and damage in ("flip", "zeros"):
            lost = lost[at // 60 :][: 1 if damage == "flip" else 6]

        caplog.clear()
        store = opened(folder)
        wanted, numbers = keys(0, 12), np.arange(12)
        assert store.missing(wanted) == [wanted[i] for i in lost], (damage, path.suffix, at)
        told = path.with_suffix("").name in caplog.text
        assert told != (damage == "gone" and path.suffix == ".index")  # without its index it looks unfinished
        assert path.with_suffix(".rows").exists() == (len(lost) < 6)  # what is of no use any more is removed
        kept = np.setdiff1d(numbers, lost)
        np.testing.assert_array_equal(store.rows([wanted[i] for i in kept], 0)[:], values(0, 12)[kept])
        with store.writer() as writer:
            writer.append([wanted[i] for i in lost], values(0, 12)[lost])
        for memory_bytes in (0, 1 << 20):
            np.testing.assert_array_equal(opened(folder).rows(wanted, memory_bytes)[:], values(0, 12))


def _damage(path: pathlib.Path, *rows: int) -> None:
    data = bytearray(path.read_bytes())
    for row in rows:
        data[row * 60 + 7] ^= 4
    path.write_bytes(data)


def test_damaged_rows_are_told_once_by_file_and_number(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(opened(tmp_path), 0, 10)
    (path,) = tmp_path.glob("*.rows")
    _damage(path, 2, 3, 9)
    store = opened(tmp_path)
    for _ in range(2):
        assert store.missing(keys(0, 9)) == keys(2, 4)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"{path} is damaged; rows to compute again: 2"


def test_a_good_row_wins_over_a_damaged_one_before_or_after_it(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(opened(tmp_path), 0, 4)
    (old,) = tmp_path.glob("*.rows")
    _damage(old, 1)
    store = opened(tmp_path)
    assert store.missing(keys(0, 4)) == keys(1, 2)
    put(store, 1, 3)
    (new,) = {*tmp_path.glob("*.rows")} - {old}
    caplog.clear()
    np.testing.assert_array_equal(opened(tmp_path).rows(keys(0, 4), 0)[:], values(0, 4))
    assert not caplog.records  # what is superseded is not even looked at
    _damage(new, 1)  # row 2, which is good in the older segment
    np.testing.assert_array_equal(opened(tmp_path).rows(keys(0, 4), 0)[:], values(0, 4))
    assert new.name in caplog.text
    assert old.exists() and new.exists()
    _damage(new, 0)  # now none of it is of use
    assert opened(tmp_path).missing(keys(0, 4)) == keys(1, 2)
    assert old.exists() and not new.exists() and not new.with_suffix(".index").exists()


@pytest.mark.parametrize(("shape", "dtype"), [((5, 3), "float32"), (SHAPE, "float16"), ((15,), "float32")])
def test_rows_of_another_kind_are_left_alone(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, shape: tuple[int, ...], dtype: str
) -> None:
    put(opened(tmp_path), 0, 3)
    (index,) = tmp_path.glob("*.index")
    store = RowStore(str(tmp_path), shape, dtype, tmp_path)
    assert store.missing(keys(0, 3)) == keys(0, 3)
    assert f"{index} is not used" in caplog.text
    with store.writer() as writer:
        writer.append(keys(0, 3), values(0, 3, shape))
    assert RowStore(str(tmp_path), shape, dtype, tmp_path).missing(keys(0, 4)) == keys(3, 4)
    np.testing.assert_array_equal(opened(tmp_path).rows(keys(0, 3), 0)[:], values(0, 3))


def test_a_foreign_index_is_told_and_left_alone(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    put(opened(tmp_path), 0, 3)
    (tmp_path / "of-a-book.index").write_text("aardvark, 1")
    (tmp_path / f"{uuid.uuid4().hex}.index").mkdir()
    before = names(tmp_path)
    assert opened(tmp_path).missing(keys(0, 3)) == []
    assert "of-a-book.index" in caplog.text and "can't be read" in caplog.text
    assert names(tmp_path) == before


# No room

FILL = """
    import pathlib, resource, sys
    import numpy as np
    from graftline.errors import UserError
    from trainer.row_store import RowStore
    directory, limit, expected, rows = sys.argv[1], *map(int, sys.argv[2:])
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    store = RowStore(directory, (1024,), "float32", pathlib.Path())
    before = store.missing([bytes(32)])
    try:
        with store.writer(expected) as writer:
            for i in range(rows):
                writer.append([i.to_bytes(32, "big")], np.full([1, 1024], i))
    except UserError as error:
        assert store.missing([bytes(32)]) == before
        sys.exit(str(error))
"""


@pytest.mark.parametrize(
    ("expected", "rows", "said"),
    [
        (0, 100, "40,960 bytes were needed, 36,864 had been written"),
        (50, 100, "204,800 bytes were needed, 0 had been written"),
    ],
)
def test_a_limit_on_a_files_size(tmp_path: pathlib.Path, expected: int, rows: int, said: str) -> None:
    done = python(FILL, tmp_path / "s", 40_000, expected, rows)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{tmp_path}/s: File too large for the cache of activations: {said}"), done.stderr
    assert "are free now. Free some space, give another --workspace, or set boundary_cache.enabled=false" in done.stderr
    assert names(tmp_path / "s") == ["used"]


def test_a_limit_that_only_the_index_meets(tmp_path: pathlib.Path) -> None:
    # 200 records and the header need more than one row: the rows fit, the index does not.
    code = FILL.replace("1024", "1").replace('"float32"', '"float16"')
    done = python(code, tmp_path / "s", 4_000, 0, 200)
    assert done.returncode == 1 and "File too large" in done.stderr
    assert names(tmp_path / "s") == ["used"]


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small tmpfs")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small tmpfs can't be mounted here: {mounted.stderr}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(("expected", "said"), [(0, "1,0"), (300, "1,228,800")])
def test_a_full_disk(small_disk: pathlib.Path, expected: int, said: str) -> None:
    done = python(FILL, small_disk / "s", 0, expected, 300)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{small_disk}/s: No space left on device for the cache of activations: {said}"), (
        done.stderr
    )
    free = shutil.disk_usage(small_disk).free
    assert f" {free:,} are free now" in done.stderr
    assert names(small_disk / "s") == ["used"]
    assert python(FILL, small_disk / "s", 0, 0, 100).returncode == 0  # what fits goes on to work


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
        print(count * 7 * 7 * 160 * 4, peak() - before, "tensorflow" in sys.modules)
        """,
        tmp_path,
    )
    shutil.rmtree(tmp_path)
    assert not done.returncode, done.stderr
    on_disk, kilobytes, tensorflow = done.stdout.split()
    assert int(on_disk) > 200e6 and int(kilobytes) < 50_000
    assert tensorflow == "False"  # local paths need none


# Object stores


def test_a_store_at_a_uri(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    import tensorflow as tf

    uri = f"ram://{uuid.uuid4().hex}/cache/store"
    put(opened(uri, scratch=tmp_path / "first"), 0, 5)
    store = opened(uri, scratch=tmp_path / "second")
    put(store, 5, 8)
    assert store.missing(keys(0, 9)) == keys(8, 9)
    np.testing.assert_array_equal(store.rows(keys(0, 8), 0)[::-1], values(0, 8)[::-1])
    assert row_store.size(uri) > 8 * 60
    assert sorted(name.rpartition(".")[2] for name in tf.io.gfile.listdir(uri)) == [
        "index",
        "index",
        "rows",
        "rows",
        "used",
    ]
    with pytest.raises(RuntimeError, match="stop"), store.writer() as writer:
        writer.append(keys(8, 9), values(8, 9))
        raise RuntimeError("stop")
    assert opened(uri, scratch=tmp_path / "third").missing(keys(0, 9)) == keys(8, 9)
    assert not list(tmp_path.rglob("*.part"))

    for name in tf.io.gfile.listdir(uri):  # a bit of each segment
        if name.endswith(".rows"):
            with tf.io.gfile.GFile(f"{uri}/{name}", "rb") as file:
                data = bytearray(file.read())
            data[70] ^= 1
            tf.io.gfile.remove(f"{uri}/{name}")  # TensorFlow's `ram://` appends to what is there
            with tf.io.gfile.GFile(f"{uri}/{name}", "wb") as file:
                file.write(bytes(data))
    store = opened(uri, scratch=tmp_path / "fourth")
    assert store.missing(keys(0, 8)) == [*keys(1, 2), *keys(6, 7)]
    assert caplog.text.count(".rows is damaged; rows to compute again: 1") == 2
    put(store, 1, 2)
    put(store, 6, 7)
    np.testing.assert_array_equal(opened(uri, scratch=tmp_path / "fifth").rows(keys(0, 8), 1000)[:], values(0, 8))

    root = uri.rpartition("/")[0]
    put(opened(f"{root}/other", scratch=tmp_path / "sixth"), 0, 5)
    assert row_store.prune(root, {"store"}, 0) == ["other"]
    assert row_store.size(f"{root}/other") == 0 and opened(uri, scratch=tmp_path / "fifth").missing(keys(0, 8)) == []


def test_rows_whose_index_never_came_to_a_uri_are_removed(tmp_path: pathlib.Path) -> None:
    import tensorflow as tf

    uri = f"ram://{uuid.uuid4().hex}/store"
    put(opened(uri, scratch=tmp_path), 0, 5)
    (index,) = (name for name in tf.io.gfile.listdir(uri) if name.endswith(".index"))
    tf.io.gfile.remove(f"{uri}/{index}")
    assert opened(uri, scratch=tmp_path).missing(keys(0, 1)) == keys(0, 1)
    assert tf.io.gfile.listdir(uri) == ["used"]


def test_scratch_without_room(tmp_path: pathlib.Path, small_disk: pathlib.Path) -> None:
    uri = f"ram://{uuid.uuid4().hex}/store"
    shape = (1024, 1024)
    store = RowStore(uri, shape, "float32", tmp_path)
    with store.writer() as writer:
        writer.append(keys(0, 1), np.ones([1, *shape]))
    poor = RowStore(uri, shape, "float32", small_disk / "scratch")
    said = f"{small_disk}/scratch: No space left on device .*: 4,194,304 bytes were needed"
    with pytest.raises(UserError, match=said):
        poor.missing(keys(0, 1))
    with pytest.raises(UserError, match=said), poor.writer() as writer:
        writer.append(keys(1, 2), np.ones([1, *shape]))
    assert names(small_disk / "scratch") == []
    assert RowStore(uri, shape, "float32", tmp_path).missing(keys(0, 2)) == keys(1, 2)


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


PRUNE_AND_DIE_AT = """
    import os, signal, sys
    from trainer import row_store
    unlink, left = os.unlink, int(sys.argv[2])
    def counting(path):
        global left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        unlink(path)
    os.unlink = counting
    row_store.prune(sys.argv[1], "bcd", 0)
"""


@pytest.mark.parametrize("at", range(5))
def test_a_kill_while_pruning_leaves_a_store_that_opens_and_is_pruned_later(
    stores: pathlib.Path, caplog: pytest.LogCaptureFixture, at: int
) -> None:
    put(opened(stores / "a"), 10, 20)
    os.utime(stores / "a" / "used", times=(0, 0))
    assert python(PRUNE_AND_DIE_AT, stores, at).returncode == -9
    assert len(names(stores / "a")) == 5 - at and "used" in names(stores / "a")
    shutil.copytree(stores / "a", stores / "again")
    assert len(opened(stores / "again").missing(keys(0, 20))) == (0, 10, 20, 20, 20)[at]
    assert not caplog.records  # nothing looks damaged
    assert row_store.prune(str(stores), "bcd", 0) == ["a", "again"]
    assert names(stores) == ["README", "b", "c", "d", "photos"]


def test_what_a_killed_writer_left_counts_and_goes(stores: pathlib.Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(LIVE), str(stores / "e")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout and process.stdout.readline() == "writing\n"
        process.kill()
    assert row_store.size(str(stores / "e")) == 60
    assert row_store.prune(str(stores), ["a"], 0) == ["b", "c", "d", "e"]
    assert names(stores) == ["README", "a", "photos"]


def test_nothing_is_pruned_where_nothing_is(tmp_path: pathlib.Path) -> None:
    assert row_store.prune(str(tmp_path / "none"), [], 0) == []
    assert row_store.size(str(tmp_path / "none")) == 0
