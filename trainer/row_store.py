"""Rows of numbers by key, on disk and kept from run to run: the activations of images at one tensor.

A store is a folder (or a URI that TensorFlow's file systems know) of two files: `rows.sqlite`, a database of one table,
and `used`, empty, whose mtime is when the store was last opened. A row has a crc32 of its bytes, key, shape and dtype.

What a writer appends goes to a nameless file in the same folder, which the kernel drops when the process dies, and
from there to the database in one transaction: other processes wait for that, not for the computing before it. The
journal is SQLite's default one, for WAL does not work on network mounts. The database of a URI is used in a local
folder, fetched at the start and brought back after each commit; of two processes that write there the last one wins.

This is a cache: what is damaged is as good as absent, for the caller computes it again. Only keys are held in memory.
"""

import contextlib
import errno
import hashlib
import io
import logging
import os
import pathlib
import re
import shutil
import sqlite3
import tempfile
import uuid
import zlib
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.io import gfile

from graftline.errors import UserError
from graftline.uri import is_uri

_FILE = "rows.sqlite"
_USED = "used"
_LOCK_SECONDS = 600.0
_CHUNK = 500  # rows in one transaction of a reader: while it lasts, a commit waits


class RowStore:
    """The rows under one folder. Not safe for use by several threads at once; several processes may share a folder."""

    def __init__(self, directory: str, shape: tuple[int, ...], dtype: str, scratch: pathlib.Path) -> None:
        """Opens the store and marks it as used; raises UserError when the database of a URI can't be fetched.

        Args:
          directory: a path, or a URI of an object store; made by the first writer.
          shape: of one row.
          dtype: "float32" or "float16", as rows are kept.
          scratch: local folder for the database of a URI, this process' own.
        """
        self._directory, self._shape, self._dtype = directory, tuple(shape), np.dtype(dtype).newbyteorder("<")
        self._row_bytes = int(np.prod(shape, dtype=np.int64)) * self._dtype.itemsize
        self._kind = zlib.crc32(f"{dtype} {list(shape)}".encode())
        self._good: set[bytes] = set()  # keys whose rows were verified, or written here
        self._file = self._local = f"{directory}/{_FILE}"
        if is_uri(directory):
            self._local = str(scratch.absolute() / f"{hashlib.sha256(directory.encode()).hexdigest()}.sqlite")
        if gfile.exists(self._file):
            with contextlib.suppress(tf.errors.OpError):  # what can't be marked is only pruned sooner
                _touch(f"{directory}/{_USED}")
            if not os.path.exists(self._local):
                with self._explained(gfile.stat(self._file).length):
                    os.makedirs(os.path.dirname(self._local), exist_ok=True)
                    _copy(self._file, self._local)

    def missing(self, keys: Sequence[bytes]) -> list[bytes]:
        """Those of `keys` that no intact row is kept for, in order, without repeats.

        Each is read once and held against its checksum. What is damaged is logged, a malformed database removed. Raises
        UserError when another process does not let go of the database.
        """
        unique = list(dict.fromkeys(keys))
        unknown = [key for key in unique if key not in self._good]
        if unknown and os.path.exists(self._local):
            try:
                self._verify(unknown)
            except sqlite3.DatabaseError as error:
                logging.warning("%s can't be read (%s): its rows are computed again", self._file, error)
                if not re.search("unable to open|disk I/O|readonly|is full", str(error)):  # not the file's fault
                    pathlib.Path(self._local).unlink(missing_ok=True)  # SQLite removes a journal alone
                    self._good.clear()
        return [key for key in unique if key not in self._good]

    @contextlib.contextmanager
    def writer(self, expected_rows: int = 0) -> Iterator["Writer"]:
        """A writer of rows that become visible together when the context ends, in place of those of the same keys.

        On an exception, and when the process dies, nothing of it stays. Raises UserError when the disk, a quota or the
        limit on a file's size leaves no room, which for `expected_rows` is checked before any work is done, or when
        another process does not let go of the database.
        """
        folder = os.path.dirname(self._local)
        needed = 2 * expected_rows * self._row_bytes  # in the nameless file, then in the database too
        with contextlib.ExitStack() as stack:
            with self._explained(needed):
                os.makedirs(folder, exist_ok=True)
                gfile.makedirs(self._directory)
                _touch(f"{self._directory}/{_USED}")
                if shutil.disk_usage(folder).free < needed:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                file = stack.enter_context(tempfile.TemporaryFile(buffering=0, dir=folder))
            writer = Writer(self, file)
            yield writer
            if not writer.records:
                return
            with self._explained(len(writer.records) * self._row_bytes):
                file.seek(0)
                with _transaction(self._local, "BEGIN IMMEDIATE", "rwc") as database:
                    rows = ((key, crc, file.read(self._row_bytes)) for key, crc in writer.records)
                    database.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", rows)
                if self._local != self._file:
                    _copy(self._local, self._file)
            self._good.update(key for key, _ in writer.records)

    def rows(self, keys: Sequence[bytes], memory_bytes: int) -> "Rows":
        """The rows of `keys`, in that order: in memory when they take up to `memory_bytes`, else read when asked for.
        KeyError for a key without an intact row; `missing` tells them beforehand."""
        if lost := self.missing(keys):
            raise KeyError(f"{len(lost)} of the rows are not in {self._directory}, the first: {lost[0].hex()}")
        found = Rows(self._local, keys, self._shape, self._dtype)
        if len(keys) * self._row_bytes <= memory_bytes:
            found.load()
        return found

    def _crc(self, key: bytes, row: bytes | memoryview) -> int:
        return zlib.crc32(row, zlib.crc32(key, self._kind))

    def _verify(self, keys: list[bytes]) -> None:
        """Adds to the good keys those whose rows are intact; raises DatabaseError for a malformed database."""
        damaged = 0
        for start in range(0, len(keys), _CHUNK):
            with _transaction(self._local) as database:
                for key in keys[start : start + _CHUNK]:
                    for row, crc in database.execute("SELECT row, crc32 FROM rows WHERE key = ?", [key]):
                        if isinstance(row, bytes) and self._crc(key, row) == crc:
                            self._good.add(key)
                        else:
                            damaged += 1
        if damaged:
            logging.warning("%s is damaged; rows to compute again: %d", self._file, damaged)
        if not self._good.issuperset(keys):  # rows are going to be added, and that must not meet a broken page
            with _transaction(self._local) as database:
                ((found,),) = database.execute("PRAGMA integrity_check(1)")
            if found != b"ok":
                raise sqlite3.DatabaseError(found.decode(errors="replace"))

    @contextlib.contextmanager
    def _explained(self, needed: int) -> Iterator[None]:
        """Makes a UserError of what the disk, SQLite or an object store reports."""
        try:
            yield
        except (OSError, sqlite3.Error, tf.errors.OpError) as error:
            place = next(path for path in pathlib.Path(self._local).absolute().parents if path.exists())
            raise UserError(
                f"{self._directory}: no rows can be added to the cache of activations ({error}). {needed:,} bytes were "
                f"needed in {os.path.dirname(self._local)}, {shutil.disk_usage(place).free:,} were free at last. Free "
                "some space, give another --workspace, or set boundary_cache.enabled=false"
            ) from error


class Writer:
    """Appends rows that are not visible yet. `RowStore.writer` makes it."""

    def __init__(self, store: RowStore, file: io.FileIO) -> None:
        self._store, self._file = store, file
        self.records: list[tuple[bytes, int]] = []  # key and crc32, in the order of the file

    def append(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        """Writes rows [b, *shape] of any float dtype; UserError for no room or a number that float16 can't hold."""
        store = self._store
        if rows.shape != (len(keys), *store._shape):
            raise ValueError(f"rows of shape {list(rows.shape)} for {len(keys)} keys of rows {list(store._shape)}")
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(rows, store._dtype)
        if stored.dtype != rows.dtype and (np.isinf(stored) & np.isfinite(rows)).any():
            raise UserError(
                f"activations of up to {float(np.abs(rows[np.isfinite(rows)]).max()):,.0f} don't fit {store._dtype}, "
                f"which ends at {float(np.finfo(store._dtype).max):,.0f}: set boundary_cache.dtype=float32"
            )
        left = stored.reshape(-1).data.cast("B")
        with store._explained((len(self.records) + len(keys)) * store._row_bytes):
            while left:
                left = left[self._file.write(left) :]
        self.records += [(key, store._crc(key, row.data)) for key, row in zip(keys, stored, strict=True)]


class Rows:
    """An array float32 [n, *shape], in memory or on disk. Its index is an integer, a slice or an array, as in numpy.

    May be pickled, and read by several threads: each read has its own connection. UserError when the file has vanished.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, path: str, keys: Sequence[bytes], shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._path, self._keys, self._row_shape, self._stored = path, np.array(keys, object), shape, dtype
        self._loaded: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, *shape]"""
        return (len(self._keys), *self._row_shape)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: "int | slice | np.ndarray") -> np.ndarray:
        """float32 [*shape] for an integer, [b, *shape] for anything else; a copy."""
        rows = self._read(np.asarray(self._keys[index], object)) if self._loaded is None else self._loaded[index]
        return np.array(rows, np.float32)

    def load(self) -> None:
        """Reads all rows into memory, as they are kept: float16 takes half."""
        self._loaded = self._read(self._keys)

    def _read(self, keys: np.ndarray) -> np.ndarray:
        """The rows of an array of keys, as kept. [*keys.shape, *shape]"""
        out = np.empty((*keys.shape, *self._row_shape), self._stored)
        if not keys.size:  # there may be no database yet
            return out
        try:
            with _transaction(self._path) as database:
                for into, key in zip(out.reshape(keys.size, -1), keys.ravel().tolist(), strict=True):
                    ((row,),) = database.execute("SELECT row FROM rows WHERE key = ?", [key])
                    into[:] = np.frombuffer(row, self._stored)
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            raise UserError(f"{self._path} vanished or was damaged while it was in use ({error}): run again") from error
        return out


def prune(root: str, keep: Collection[str], max_bytes: int) -> list[str]:
    """Removes stores under `root`, the least recently used first, until `max_bytes` are enough; gives their names.

    Args:
      root: the folder of the stores, a path or a URI. What holds no file `used` is no store: not counted, not touched.
      keep: names of stores that stay in any case.
      max_bytes: for all stores together, those in `keep` included.
    """
    names = [name.rstrip("/") for name in gfile.listdir(root)] if gfile.isdir(root) else []
    used: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for name in names:
        with contextlib.suppress(tf.errors.OpError):  # no store, or one that another process removes
            used[name], sizes[name] = gfile.stat(f"{root}/{name}/{_USED}").mtime_nsec, size(f"{root}/{name}")
    removed = []
    for name in sorted(used.keys() - set(keep), key=lambda name: (used[name], name)):
        if sum(sizes.values()) <= max_bytes:
            break
        directory = f"{root}/{name}"
        try:
            if gfile.exists(f"{directory}/{_FILE}"):  # before its journal, without which it might not be whole
                gfile.remove(f"{directory}/{_FILE}")
            gfile.rmtree(directory)
            logging.info("%s is removed: %d bytes, and the longest unused", directory, sizes.pop(name))
            removed.append(name)
        except tf.errors.OpError as error:
            logging.warning("%s can't be removed: %s", directory, error)
    return removed


def size(directory: str) -> int:
    """Bytes of all files of a store; 0 when there is none."""
    names = gfile.listdir(directory) if gfile.isdir(directory) else []
    return sum(gfile.stat(f"{directory}/{name}").length for name in names)


@contextlib.contextmanager
def _transaction(path: str, begin: str = "BEGIN", mode: str = "rw") -> Iterator[sqlite3.Connection]:
    """A connection for one transaction, which is given up on an exception; a UserError when its lock does not come."""
    uri = f"{pathlib.Path(path).absolute().as_uri()}?mode={mode}"
    with contextlib.closing(sqlite3.connect(uri, _LOCK_SECONDS, isolation_level=None, uri=True)) as connection:
        connection.text_factory = bytes  # where damage made text of a blob
        try:
            connection.execute("PRAGMA page_size = 16384")  # of a new file; reads in half the time of 4096
            connection.execute(begin)
            connection.execute("CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, crc32 INTEGER, row BLOB)")
            yield connection
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            raise UserError(
                f"{path} has been locked by another process for {_LOCK_SECONDS:.0f} s: end that process, give another "
                "--workspace, or set boundary_cache.enabled=false"
            ) from error


def _copy(source: str, target: str) -> None:
    """Copies a file; what is at `target` is replaced as a whole or not at all."""
    part = f"{target}.{uuid.uuid4().hex}.part"
    try:
        gfile.copy(source, part)
        gfile.rename(part, target, overwrite=True)
    finally:
        if gfile.exists(part):
            gfile.remove(part)


def _touch(path: str) -> None:
    with gfile.GFile(path, "wb") as file:
        file.write(b"")
