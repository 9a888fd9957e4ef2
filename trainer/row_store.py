"""Rows of numbers by key, on disk and kept from run to run: the activations of images at one tensor.

A store is a folder (or a URI that TensorFlow's file systems know) of segments, written once and never changed:

    <uuid>.rows     the rows, float32 or float16, little-endian, back to back; nothing else
    <uuid>.index    one line of JSON (format, dtype, shape, time written), then for each row its key (32 bytes) and
                    the crc32 of its bytes (uint32), then the sha256 (32 bytes) of all that
    <uuid>.*.part   not complete
    used            empty; its mtime is when the store was last opened

A segment exists once its index does. Rows, then index are written as `.part`, brought to disk and renamed, so a process
that is killed leaves a whole segment or rubbish, which the next to open the store sweeps away. A writer holds a `flock`
on its rows until its index is there, and the kernel drops it when the process dies, however it dies: what is
unfinished and not locked has no owner. Segments of a URI are written and read in a local folder and copied; there
an unfinished one counts as rubbish after a day.

This is a cache: whatever is damaged is as good as absent, for the caller computes it again. Only the index is held in
memory, 45 bytes a row. Rows are read with `pread`: the pages of a memory map count as the process' memory.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import logging
import os
import pathlib
import re
import shutil
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from graftline.errors import UserError

KEY_BYTES = 32

_FORMAT = "graftline-rows-1"
_USED = "used"
_PART = ".part"
_OURS = re.compile(r"([0-9a-f]{32})\.(rows|index)(\.part)?")
_RECORD = np.dtype([("key", f"S{KEY_BYTES}"), ("crc", "<u4")])  # in a file
_ENTRY = np.dtype([*_RECORD.descr, ("segment", "<u4"), ("row", "<u4"), ("good", "?")])  # in memory
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_STALE_SECONDS = 24 * 3600


class RowStore:
    """The rows under one folder. Not safe for use by several threads at once; several processes may share a folder."""

    def __init__(self, directory: str, shape: tuple[int, ...], dtype: str, scratch: pathlib.Path) -> None:
        """Opens the store: reads its indices, sweeps what killed processes left, and marks it as used.

        Args:
          directory: a path, or a URI of an object store; made by the first writer.
          shape: of one row.
          dtype: "float32" or "float16", as rows are kept.
          scratch: local folder for the segments of a URI; as good as empty, and this process' own.
        """
        if dtype not in ("float32", "float16") or min(shape, default=1) < 1:
            raise ValueError(f"rows of {dtype} {list(shape)}: float32 or float16 with at least one number are kept")
        self._directory, self._shape, self._dtype = directory, tuple(shape), dtype
        self._remote = "://" in directory
        self._local = scratch if self._remote else pathlib.Path(directory)  # where rows are written and read
        self._row_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        self._header = {"format": _FORMAT, "dtype": dtype, "shape": list(shape)}
        self._segments: list[str] = []
        self._index = np.zeros([0], _ENTRY)  # sorted by key; of equal keys the newest first
        names = _list(directory)
        if names:
            self._sweep(names)
            with contextlib.suppress(OSError):  # what can't be marked is only pruned sooner
                _touch(self._path(_USED))
        loaded = [found for name in names if name.endswith(".index") and (found := self._load(name))]
        loaded.sort(key=lambda found: found[:2])
        self._add([(stem, records) for _, stem, records in loaded], good=False)

    def missing(self, keys: Sequence[bytes]) -> list[bytes]:
        """Those of `keys` that no intact row is kept for, in order, without repeats.

        Every row asked for is read once and held against its checksum. What is damaged is logged and forgotten; a
        segment of which nothing is left is removed.
        """
        unique = list(dict.fromkeys(keys))
        return [unique[i] for i in np.flatnonzero(self._intact(unique) < 0)]

    @contextlib.contextmanager
    def writer(self, expected_rows: int = 0) -> Iterator["Writer"]:
        """A writer of one new segment, which becomes visible as a whole when the context ends.

        On an exception, and when the process dies, nothing of it stays.

        Args:
          expected_rows: room for so many is reserved at once, so that a full disk is found before any work is done.

        Raises:
          UserError: the disk, a quota or the limit on a file's size leaves no room.
        """
        stem = uuid.uuid4().hex
        part = self._local / f"{stem}.rows{_PART}"
        with contextlib.ExitStack() as stack:
            try:
                try:
                    _make_folder(self._directory)
                    self._local.mkdir(parents=True, exist_ok=True)
                    _touch(self._path(_USED))
                    file = stack.enter_context(_create_locked(part))
                except OSError as error:
                    self._raise_if_full(error, max(expected_rows, 1) * self._row_bytes, 0)
                    raise
                writer = Writer(self, file, expected_rows)
                yield writer
                if writer.count:
                    file.truncate(writer.count * self._row_bytes)
                    records = bytes(writer.records)
                    self._commit(stem, file, records)
                    self._add([(stem, np.frombuffer(records, _RECORD))], good=True)
                else:
                    part.unlink()
            except BaseException:
                for end in (".index", ".rows"):  # the index first: without it the rows don't count
                    for place in (self._directory, str(self._local)):
                        _remove(os.path.join(place, stem + end))
                        _remove(os.path.join(place, stem + end + _PART))
                raise

    def rows(self, keys: Sequence[bytes], memory_bytes: int) -> "Rows":
        """The rows of `keys`, in that order: in memory when they take up to `memory_bytes`, else read when asked for.

        Raises:
          KeyError: a key for which there is no intact row. `missing` tells them beforehand.
        """
        at = self._intact(keys)
        if (at < 0).any():
            first = keys[int(np.argmin(at))].hex()
            raise KeyError(f"{(at < 0).sum()} of {len(keys)} rows are not in {self._directory}, the first: {first}")
        paths = [self._rows_path(number) for number in range(len(self._segments))]
        entries = self._index[at]
        found = Rows(paths, entries["segment"], entries["row"], self._shape, self._dtype)
        if len(keys) * self._row_bytes <= memory_bytes:
            found.load()
        return found

    # Segments

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def _rows_path(self, segment: int) -> pathlib.Path:
        return self._local / f"{self._segments[segment]}.rows"

    def _load(self, name: str) -> tuple[int, str, np.ndarray] | None:
        """Time written, stem and records [n] of a segment; None, with a warning, when it is of no use.

        What is of our making and damaged is removed. What is something else (another shape, another program's file,
        a file that can't be read today) is left alone.
        """
        index, stem = self._path(name), name.removesuffix(".index")
        rows = self._path(f"{stem}.rows")
        try:
            data, there = _read(index), _size(rows)
        except OSError as error:
            logging.warning("%s is not used: it can't be read (%s)", index, error)
            return None
        digest_size = hashlib.sha256().digest_size
        body, digest = data[:-digest_size], data[-digest_size:]
        if hashlib.sha256(body).digest() != digest:
            logging.warning("%s is damaged: its rows are computed again", index)
        else:
            line, _, table = body.partition(b"\n")
            header = json.loads(line)
            written = header.pop("written")
            if header != self._header:
                logging.warning("%s is not used: it is for rows of %s, not %s", index, header, self._header)
                return None
            records = np.frombuffer(table, _RECORD)
            if there == len(records) * self._row_bytes:
                return written, stem, records
            found = "is gone" if there is None else f"has {there:,} bytes, not {len(records) * self._row_bytes:,}"
            logging.warning("%s %s: its rows are computed again", rows, found)
        if _OURS.fullmatch(name):
            self._remove_segment(stem)
        return None

    def _add(self, segments: list[tuple[str, np.ndarray]], good: bool) -> None:
        """Puts the records of segments, the oldest first and all newer than those there, into the index."""
        parts = [self._index]
        for stem, records in segments:
            new = np.zeros([len(records)], _ENTRY)
            new["key"], new["crc"], new["row"] = records["key"], records["crc"], np.arange(len(records))
            new["segment"], new["good"] = len(self._segments), good
            self._segments.append(stem)
            parts.append(new)
        entries = np.concatenate(parts[::-1])
        self._index = entries[np.argsort(entries["key"], kind="stable")]

    def _commit(self, stem: str, file: io.FileIO, records: bytes) -> None:
        body = json.dumps({**self._header, "written": time.time_ns()}).encode() + b"\n" + records
        index = body + hashlib.sha256(body).digest()
        rows = f"{self._local / stem}.rows"
        try:
            if self._remote:
                os.rename(rows + _PART, rows)
                _upload(rows, self._path(f"{stem}.rows"))
                _write(self._path(f"{stem}.index"), index)
                return
            os.fsync(file.fileno())
            os.rename(rows + _PART, rows)
            _sync_folder(self._directory)  # never an index without its rows, also when the power fails
            part = self._path(f"{stem}.index{_PART}")
            with open(part, "xb") as index_file:
                index_file.write(index)
                index_file.flush()
                os.fsync(index_file.fileno())
            os.rename(part, self._path(f"{stem}.index"))
            _sync_folder(self._directory)
        except OSError as error:
            written = file.seek(0, os.SEEK_END)
            file.truncate(0)  # before the free bytes are looked up
            self._raise_if_full(error, written + len(index), written)
            raise

    def _raise_if_full(self, error: OSError, needed: int, written: int) -> None:
        """Raises a `UserError` in place of an error that says that there is no room."""
        if error.errno not in _FULL:
            return
        elsewhere = self._remote and "://" in str(error.filename)
        free = "" if elsewhere else f", {shutil.disk_usage(_existing(self._local)).free:,} are free now"
        raise UserError(
            f"{self._directory if elsewhere else self._local}: {error.strerror} for the cache of activations: "
            f"{needed:,} bytes were needed, {written:,} had been written and are removed again{free}. "
            "Free some space, give another --workspace, or set boundary_cache.enabled=false"
        ) from error

    def _remove_segment(self, stem: str) -> None:
        _remove(self._path(f"{stem}.index"))
        _remove(self._path(f"{stem}.rows"))

    def _sweep(self, names: Collection[str]) -> None:
        """Removes what belongs to no complete segment and to no living writer."""
        stems: dict[str, list[str]] = {}
        for name in names:
            if match := _OURS.fullmatch(name):
                stems.setdefault(match[1], []).append(name)
        for stem, found in stems.items():
            if f"{stem}.index" in found:
                continue
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                if self._remote:
                    if time.time() - max(_mtime(self._path(name)) for name in found) < _STALE_SECONDS:
                        continue
                else:
                    for rows in (f"{stem}.rows{_PART}", f"{stem}.rows"):  # in the order of the writer's renaming
                        with contextlib.suppress(FileNotFoundError):
                            file = stack.enter_context(open(self._path(rows), "r+b"))
                            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Completed since the names were listed? Now that its lock is ours, no more can happen to it.
                if _size(self._path(f"{stem}.index")) is None:
                    for end in (f".index{_PART}", ".rows", f".rows{_PART}"):
                        _remove(self._path(stem + end))

    # Rows

    def _intact(self, keys: Sequence[bytes]) -> np.ndarray:
        """For each key the place of an intact row in the index, -1 where there is none. int64 [n]

        Rows that have not been read yet are; the damaged ones leave the index, and older ones of the same key get their
        turn.
        """
        wanted = _as_array(keys)
        damaged: Counter[int] = Counter()
        unreadable: dict[int, OSError] = {}
        while True:
            at = self._find(wanted)
            unread = np.unique(at[at >= 0])
            unread = unread[~self._index["good"][unread]]
            if not len(unread):
                break
            entries = self._index[unread]
            order = np.lexsort((entries["row"], entries["segment"]))
            unread, entries = unread[order], entries[order]
            good = self._check(entries, unreadable)
            self._index["good"][unread[good]] = True
            damaged.update(entries["segment"][~good].tolist())
            self._index = np.delete(self._index, unread[~good])
        for segment, number in damaged.items():
            path = self._path(f"{self._segments[segment]}.rows")
            if segment in unreadable:
                logging.warning("%s can't be read (%s); rows to compute again: %d", path, unreadable[segment], number)
                continue
            logging.warning("%s is damaged; rows to compute again: %d", path, number)
            if not (self._index["segment"] == segment).any():
                self._remove_segment(self._segments[segment])
        return at

    def _find(self, wanted: np.ndarray) -> np.ndarray:
        if not len(self._index):
            return np.full([len(wanted)], -1)
        keys = self._index["key"]
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[at] == wanted, at, -1)

    def _check(self, entries: np.ndarray, unreadable: dict[int, OSError]) -> np.ndarray:
        """Which of the rows are as they were written. bool [n]; `entries` are sorted by segment and row."""
        good = np.zeros([len(entries)], bool)
        row = bytearray(self._row_bytes)
        for segment in np.unique(entries["segment"]).tolist():
            try:
                with self._open(segment) as file:
                    at = np.flatnonzero(entries["segment"] == segment)
                    numbers, checksums = entries["row"][at].tolist(), entries["crc"][at].tolist()
                    for i, number, checksum in zip(at.tolist(), numbers, checksums, strict=True):
                        with contextlib.suppress(OSError):  # a bad sector
                            read = os.preadv(file, [row], number * self._row_bytes)
                            good[i] = read == len(row) and zlib.crc32(row) == checksum
            except OSError as error:
                unreadable[segment] = error
        return good

    @contextlib.contextmanager
    def _open(self, segment: int) -> Iterator[int]:
        """A descriptor of the segment's rows, which are fetched first if need be."""
        path = self._rows_path(segment)
        if self._remote and not path.exists():
            part = pathlib.Path(f"{path}{_PART}")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                _download(self._path(path.name), part)
                part.rename(path)
            except OSError as error:
                written = part.stat().st_size if part.exists() else 0
                _remove(str(part))
                self._raise_if_full(error, _size(self._path(path.name)) or 0, written)
                raise
        descriptor = os.open(path, os.O_RDONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


class Writer:
    """Appends rows to a segment that is not visible yet. `RowStore.writer` makes it."""

    def __init__(self, store: RowStore, file: io.FileIO, expected_rows: int) -> None:
        self._store, self._file, self._expected = store, file, expected_rows
        self._row_bytes, self._shape, self._dtype = store._row_bytes, store._shape, store._dtype
        self.records = bytearray()  # as in the index file
        try:
            if expected_rows:
                os.posix_fallocate(file.fileno(), 0, expected_rows * self._row_bytes)
        except OSError as error:
            self._give_up(error, 0)  # of any other error: this file system can't reserve

    @property
    def count(self) -> int:
        """Rows so far."""
        return len(self.records) // _RECORD.itemsize

    def append(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        """Writes rows [b, *shape] of any float dtype under `keys`, 32 bytes each.

        When that fails everything appended so far is given up.

        Raises:
          UserError: no room; or a number that float16 can't hold.
        """
        wanted = _as_array(keys)
        if rows.shape != (len(wanted), *self._shape):
            raise ValueError(f"rows of shape {list(rows.shape)} for {len(wanted)} keys of rows {list(self._shape)}")
        if not len(wanted):
            return
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(rows, np.dtype(self._dtype).newbyteorder("<"))
        if stored.dtype != rows.dtype and (np.isinf(stored) & np.isfinite(rows)).any():
            raise UserError(
                f"activations of up to {float(np.abs(rows[np.isfinite(rows)]).max()):,.0f} don't fit {self._dtype}, "
                f"which ends at {float(np.finfo(self._dtype).max):,.0f}: keep the cache of activations in float32"
            )
        flat = stored.reshape(len(wanted), -1)
        records = np.zeros([len(wanted)], _RECORD)
        records["key"], records["crc"] = wanted, [zlib.crc32(row) for row in flat]
        offset, left = self.count * self._row_bytes, flat.data.cast("B")
        try:
            while left:
                written = os.pwrite(self._file.fileno(), left, offset)
                offset, left = offset + written, left[written:]
        except OSError as error:
            self._give_up(error, len(wanted))
            raise
        self.records += records.tobytes()

    def _give_up(self, error: OSError, more: int) -> None:
        """Drops all rows, then raises a UserError if there was no room."""
        needed = max(self._expected, self.count + more) * self._row_bytes
        written = self.count * self._row_bytes
        self._file.truncate(0)  # before the free bytes are looked up
        self.records.clear()
        self._store._raise_if_full(error, needed, written)


class Rows:
    """An array float32 [n, *shape], in memory or on disk. Its index is an integer, a slice or an array, as in numpy.

    May be pickled and read by several threads at once. A read raises OSError when the files have vanished or
    shrunk since `RowStore.rows`.
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self, paths: list[pathlib.Path], segments: np.ndarray, rows: np.ndarray, shape: tuple[int, ...], dtype: str
    ) -> None:
        self._paths, self._segments, self._rows = paths, segments.copy(), rows.copy()
        self._row_shape, self._stored = shape, np.dtype(dtype).newbyteorder("<")
        self._loaded: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, *shape]"""
        return (len(self._rows), *self._row_shape)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: "int | slice | np.ndarray") -> np.ndarray:
        """float32 [*shape] for an integer, [b, *shape] for anything else; a copy."""
        if self._loaded is not None:
            part = np.asarray(self._loaded[index])
            return part.astype(np.float32, copy=np.may_share_memory(part, self._loaded))
        segments, rows = self._segments[index], self._rows[index]
        read = self._read(np.atleast_1d(segments), np.atleast_1d(rows))
        return np.asarray(read.reshape((*rows.shape, *self._row_shape)), np.float32)

    def load(self) -> None:
        """Reads all rows into memory, as they are kept: float16 takes half."""
        self._loaded = self._read(self._segments, self._rows)

    def _read(self, segments: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """[b, *shape], as kept; in the order of the files."""
        out = np.empty([len(rows), int(np.prod(self._row_shape, dtype=np.int64))], self._stored)
        row_bytes = out.itemsize * out.shape[1]
        for segment in np.unique(segments):
            at = np.flatnonzero(segments == segment)
            path = self._paths[segment]
            # Opened for each read: a store of a thousand nights has more segments than a process may have open files.
            descriptor = os.open(path, os.O_RDONLY)
            try:
                at = at[np.argsort(rows[at], kind="stable")]
                for i, number in zip(at.tolist(), rows[at].tolist(), strict=True):
                    if os.preadv(descriptor, [out[i]], number * row_bytes) != row_bytes:
                        raise OSError(errno.EIO, "the file was cut off while it was in use", str(path))
            finally:
                os.close(descriptor)
        return out.reshape(len(rows), *self._row_shape)


def prune(root: str, keep: Collection[str], max_bytes: int) -> list[str]:
    """Removes stores under `root`, the least recently used first, until all of them take at most `max_bytes`.

    Args:
      root: the folder of the stores, a path or a URI. What holds no file `used` is no store: not counted, not touched.
      keep: names of stores that stay in any case.
      max_bytes: for all stores together, those in `keep` included.

    Returns:
      The names of the stores that were removed.
    """
    used: dict[str, float] = {}
    for name in _list(root):
        with contextlib.suppress(OSError):
            used[name] = _mtime(os.path.join(root, name, _USED))
    sizes = {name: size(os.path.join(root, name)) for name in used}
    removed = []
    for name in sorted(used.keys() - set(keep), key=lambda name: (used[name], name)):
        if sum(sizes.values()) <= max_bytes:
            break
        directory = os.path.join(root, name)
        # An index before its rows and the mark last: whatever a kill leaves is a store that opens, or is pruned later.
        for file in sorted(_list(directory), key=lambda file: (file == _USED, not file.endswith(".index"))):
            _remove(os.path.join(directory, file))
        _remove_folder(directory)
        before, sizes[name] = sizes[name], size(directory)
        if sizes[name]:
            logging.warning("%s can't be removed: %d bytes of it are left", directory, sizes[name])
        else:
            logging.info("%s is removed: %d bytes, and the longest unused", directory, before)
            removed.append(name)
    return removed


def size(directory: str) -> int:
    """Bytes of all files of a store; 0 when there is none."""
    return sum(_size(os.path.join(directory, name)) or 0 for name in _list(directory))


def _as_array(keys: Sequence[bytes]) -> np.ndarray:
    """S32 [n]; raises ValueError for a key of another length."""
    if wrong := [key for key in keys if len(key) != KEY_BYTES]:
        raise ValueError(f"a key has {KEY_BYTES} bytes; this one has {len(wrong[0])}: {wrong[0]!r}")
    return np.frombuffer(b"".join(keys), f"S{KEY_BYTES}")


def _create_locked(path: pathlib.Path) -> io.FileIO:
    """A new file that this process holds the lock on."""
    while True:
        file = io.FileIO(path, "x")
        with contextlib.suppress(OSError):  # where nothing can be locked, nothing is swept either
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # swept before it was locked


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _existing(path: pathlib.Path) -> pathlib.Path:
    """`path`, or the nearest folder above it that is there."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


# The same few operations for a path and for a URI; every failure is an OSError. TensorFlow is imported for URIs alone.


@contextlib.contextmanager
def _gfile(uri: str) -> Iterator[Any]:
    """`tf.io.gfile`; its errors become OSErrors."""
    import tensorflow as tf

    try:
        yield tf.io.gfile
    except tf.errors.OpError as error:
        numbers = {
            tf.errors.NotFoundError: errno.ENOENT,
            tf.errors.PermissionDeniedError: errno.EACCES,
            tf.errors.ResourceExhaustedError: errno.ENOSPC,
        }
        raise OSError(numbers.get(type(error), errno.EIO), error.message or type(error).__name__, uri) from error


def _list(path: str) -> list[str]:
    """Names in a folder; none when there is no folder."""
    try:
        if "://" not in path:
            return os.listdir(path)
        with _gfile(path) as gfile:
            return [name.rstrip("/") for name in gfile.listdir(path)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read(path: str) -> bytes:
    if "://" not in path:
        return pathlib.Path(path).read_bytes()
    with _gfile(path) as gfile, gfile.GFile(path, "rb") as file:
        return file.read()


def _write(uri: str, data: bytes) -> None:
    with _gfile(uri) as gfile, gfile.GFile(uri, "wb") as file:
        file.write(data)


def _upload(path: str, uri: str) -> None:
    with _gfile(uri) as gfile:
        gfile.copy(path, uri, overwrite=True)


def _download(uri: str, path: pathlib.Path) -> None:
    # Not gfile.copy: errors of the local disk come as they are.
    with _gfile(uri) as gfile, gfile.GFile(uri, "rb") as source, open(path, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)


def _make_folder(path: str) -> None:
    if "://" not in path:
        os.makedirs(path, exist_ok=True)
    else:
        with _gfile(path) as gfile:
            gfile.makedirs(path)


def _touch(path: str) -> None:
    if "://" in path:
        _write(path, b"")
    else:
        pathlib.Path(path).touch()


def _size(path: str) -> int | None:
    """Bytes of a file; None when it is not there."""
    try:
        if "://" not in path:
            return os.stat(path).st_size
        with _gfile(path) as gfile:
            return gfile.stat(path).length
    except FileNotFoundError:
        return None


def _mtime(path: str) -> float:
    """Seconds since 1970. (TensorFlow's `ram://` says 0 always.)"""
    if "://" not in path:
        return os.stat(path).st_mtime
    with _gfile(path) as gfile:
        return gfile.stat(path).mtime_nsec / 1e9


def _remove(path: str) -> None:
    """Removes a file, if it is there and that is possible: what stays is found again by the next to look."""
    with contextlib.suppress(OSError):
        if "://" not in path:
            os.unlink(path)
        else:
            with _gfile(path) as gfile:
                gfile.remove(path)


def _remove_folder(path: str) -> None:
    """Removes an empty folder. An object store may have none."""
    with contextlib.suppress(OSError):
        if "://" not in path:
            os.rmdir(path)
        else:
            with _gfile(path) as gfile:
                gfile.rmtree(path)
