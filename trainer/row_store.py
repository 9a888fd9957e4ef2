"""Rows of numbers by key, kept on disk from run to run: the activations of images at one tensor.

A store is a folder (or a URI that TensorFlow's file systems know) of two files. `rows.sqlite` is a database of one
table. `used` is empty; its mtime says when the store was last opened. A row has a crc32 of its bytes, key, shape and
dtype.

A writer appends to a nameless file in the same folder, which the kernel drops when the process dies. Then one
transaction moves the rows to the database. Other processes wait for the transaction, not for the computing before it.
The journal is SQLite's default one, because WAL does not work on network mounts. The database of a URI is copied to a
local folder at the start and copied back after each commit. When two processes write there, the last one wins.

The store is a cache: a damaged row counts as missing, because the caller computes it again. Memory holds only keys.
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
_CHUNK = 500  # rows in one transaction of a reader; a commit waits for its end


class RowStore:
    """The rows of one folder. A store must be used by one thread at a time; several processes may share a folder."""

    def __init__(self, directory: str, shape: tuple[int, ...], dtype: str, scratch: pathlib.Path) -> None:
        """Open the store of rows of this shape and dtype ("float32" or "float16"), and mark it as used.

        The first writer makes the directory. The database of a URI is copied to the local folder `scratch`, which no
        other process may use. Raise UserError when it cannot be copied.
        """
        self._directory, self._shape, self._dtype = directory, tuple(shape), np.dtype(dtype).newbyteorder("<")
        self._row_bytes = int(np.prod(shape, dtype=np.int64)) * self._dtype.itemsize
        self._kind = zlib.crc32(f"{dtype} {list(shape)}".encode())
        self._good: set[bytes] = set()  # keys whose rows were verified, or written here
        self._file = self._local = f"{directory}/{_FILE}"
        if is_uri(directory):
            self._local = str(scratch.absolute() / f"{hashlib.sha256(directory.encode()).hexdigest()}.sqlite")
        if gfile.exists(self._file):
            with contextlib.suppress(tf.errors.OpError):  # an unmarked store is only pruned sooner
                _touch(f"{directory}/{_USED}")
            if not os.path.exists(self._local):
                with self._as_user_error(gfile.stat(self._file).length):
                    os.makedirs(os.path.dirname(self._local), exist_ok=True)
                    _copy(self._file, self._local)

    def missing(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return those of `keys` without an intact row, in order and without repeats.

        Each row is read once and compared with its checksum. The log names damaged rows. A malformed database is
        removed. Raise UserError when another process holds the database too long.
        """
        unique = list(dict.fromkeys(keys))
        unknown = [key for key in unique if key not in self._good]
        if unknown and os.path.exists(self._local):
            try:
                self._verify(unknown)
            except sqlite3.DatabaseError as error:
                logging.warning("%s cannot be read (%s): its rows are computed again", self._file, error)
                if not re.search("unable to open|disk I/O|readonly|is full", str(error)):  # then the file is intact
                    pathlib.Path(self._local).unlink(missing_ok=True)  # SQLite removes an orphaned journal itself
                    self._good.clear()
        return [key for key in unique if key not in self._good]

    @contextlib.contextmanager
    def writer(self, expected_rows: int = 0) -> Iterator["Writer"]:
        """Give a writer. Its rows become visible together when the context ends, and replace those of the same keys.

        After an exception, or when the process dies, none of its rows are there. The room for `expected_rows` is
        checked before any work is done.

        Raises:
          UserError: the disk, a quota or the limit on a file's size leaves no room, or another process holds the
            database too long.
        """
        folder = os.path.dirname(self._local)
        needed = 2 * expected_rows * self._row_bytes  # in the nameless file and in the database
        with contextlib.ExitStack() as stack:
            with self._as_user_error(needed):
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
            with self._as_user_error(len(writer.records) * self._row_bytes):
                file.seek(0)
                with _transaction(self._local, "BEGIN IMMEDIATE", "rwc") as database:
                    rows = ((key, crc, file.read(self._row_bytes)) for key, crc in writer.records)
                    database.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", rows)
                if self._local != self._file:
                    _copy(self._local, self._file)
            self._good.update(key for key, _ in writer.records)

    def rows(self, keys: Sequence[bytes], memory_bytes: int) -> "Rows":
        """Return the rows of `keys`, in that order: in memory if they take up to `memory_bytes`, else read on demand.

        Raise KeyError when a key has no intact row; `missing` finds such keys.
        """
        if missing := self.missing(keys):
            raise KeyError(f"{len(missing)} of the rows are not in {self._directory}, the first: {missing[0].hex()}")
        rows = Rows(self._local, keys, self._shape, self._dtype)
        if len(keys) * self._row_bytes <= memory_bytes:
            rows.load()
        return rows

    def _crc(self, key: bytes, row: bytes | memoryview) -> int:
        return zlib.crc32(row, zlib.crc32(key, self._kind))

    def _verify(self, keys: list[bytes]) -> None:
        """Add to `_good` the keys whose rows are intact; raise DatabaseError for a malformed database."""
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
        if not self._good.issuperset(keys):  # rows will be added, and must not be added to a broken page
            with _transaction(self._local) as database:
                ((verdict,),) = database.execute("PRAGMA integrity_check(1)")
            if verdict != b"ok":
                raise sqlite3.DatabaseError(verdict.decode(errors="replace"))

    @contextlib.contextmanager
    def _as_user_error(self, needed: int) -> Iterator[None]:
        """Turn errors of the disk, SQLite or an object store into a UserError."""
        try:
            yield
        except (OSError, sqlite3.Error, tf.errors.OpError) as error:
            place = next(path for path in pathlib.Path(self._local).absolute().parents if path.exists())
            raise UserError(
                f"{self._directory}: no rows can be added to the cache of activations ({error}). {needed:,} bytes were "
                f"needed in {os.path.dirname(self._local)}, and {shutil.disk_usage(place).free:,} are free. Free "
                "some space, give another --workspace, or set boundary_cache.enabled=false"
            ) from error


class Writer:
    """Appends rows that are not visible yet."""

    def __init__(self, store: RowStore, file: io.FileIO) -> None:
        """Write to a file; call `RowStore.writer` instead."""
        self._store, self._file = store, file
        self.records: list[tuple[bytes, int]] = []  # key and crc32, in the order of the file

    def append(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        """Write rows [b, *shape] of any float dtype; raise UserError for no room or a number too large for float16."""
        store = self._store
        if rows.shape != (len(keys), *store._shape):
            raise ValueError(f"rows of shape {list(rows.shape)} for {len(keys)} keys of rows {list(store._shape)}")
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(rows, store._dtype)
        if stored.dtype != rows.dtype and (np.isinf(stored) & np.isfinite(rows)).any():
            raise UserError(
                f"activations of up to {float(np.abs(rows[np.isfinite(rows)]).max()):,.0f} do not fit {store._dtype}, "
                f"whose largest number is {float(np.finfo(store._dtype).max):,.0f}: set boundary_cache.dtype=float32"
            )
        unwritten = stored.reshape(-1).data.cast("B")
        with store._as_user_error((len(self.records) + len(keys)) * store._row_bytes):
            while unwritten:
                unwritten = unwritten[self._file.write(unwritten) :]
        self.records += [(key, store._crc(key, row.data)) for key, row in zip(keys, stored, strict=True)]


class Rows:
    """An array float32 [n, *shape], in memory or on disk. Its index is an integer, a slice or an array, as in numpy.

    It can be pickled, and several threads can read it, because each read has its own connection. A read raises
    UserError when the file has vanished.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, path: str, keys: Sequence[bytes], shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Refer to rows of a database; call `RowStore.rows` instead."""
        self._path, self._keys, self._row_shape, self._stored = path, np.array(keys, object), shape, dtype
        self._loaded: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape [n, *shape]."""
        return (len(self._keys), *self._row_shape)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._keys)

    def __getitem__(self, index: "int | slice | np.ndarray") -> np.ndarray:
        """Return a copy: float32 [*shape] for an integer, [b, *shape] for anything else."""
        rows = self._read(np.asarray(self._keys[index], object)) if self._loaded is None else self._loaded[index]
        return np.array(rows, np.float32)

    def load(self) -> None:
        """Read all rows into memory, as they are stored: float16 takes half."""
        self._loaded = self._read(self._keys)

    def _read(self, keys: np.ndarray) -> np.ndarray:
        """Return the rows of an array of keys, as they are stored; [*keys.shape, *shape]."""
        rows = np.empty((*keys.shape, *self._row_shape), self._stored)
        if not keys.size:  # there may be no database yet
            return rows
        try:
            with _transaction(self._path) as database:
                for row, key in zip(rows.reshape(keys.size, -1), keys.ravel().tolist(), strict=True):
                    ((data,),) = database.execute("SELECT row FROM rows WHERE key = ?", [key])
                    row[:] = np.frombuffer(data, self._stored)
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            raise UserError(f"{self._path} vanished or was damaged while it was in use ({error}): run again") from error
        return rows


def prune(root: str, keep: Collection[str], max_bytes: int) -> list[str]:
    """Remove stores, the least recently used first, until all together take at most `max_bytes`; return their names.

    The stores named in `keep` count, but are not removed. A folder without a file `used` is not a store and stays.
    """
    names = [name.rstrip("/") for name in gfile.listdir(root)] if gfile.isdir(root) else []
    used: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for name in names:
        with contextlib.suppress(tf.errors.OpError):  # not a store, or another process removes it
            used[name], sizes[name] = gfile.stat(f"{root}/{name}/{_USED}").mtime_nsec, size(f"{root}/{name}")
    removed = []
    for name in sorted(used.keys() - set(keep), key=lambda name: (used[name], name)):
        if sum(sizes.values()) <= max_bytes:
            break
        directory = f"{root}/{name}"
        try:
            if gfile.exists(f"{directory}/{_FILE}"):  # before its journal, which may be needed to read it
                gfile.remove(f"{directory}/{_FILE}")
            gfile.rmtree(directory)
            logging.info("%s is removed: %d bytes, the least recently used", directory, sizes.pop(name))
            removed.append(name)
        except tf.errors.OpError as error:
            logging.warning("%s cannot be removed: %s", directory, error)
    return removed


def size(directory: str) -> int:
    """Return the bytes of all files of a store; 0 when there is no store."""
    names = gfile.listdir(directory) if gfile.isdir(directory) else []
    return sum(gfile.stat(f"{directory}/{name}").length for name in names)


@contextlib.contextmanager
def _transaction(path: str, begin: str = "BEGIN", mode: str = "rw") -> Iterator[sqlite3.Connection]:
    """Give a connection for one transaction, which an exception rolls back; raise UserError when it stays locked."""
    uri = f"{pathlib.Path(path).absolute().as_uri()}?mode={mode}"
    with contextlib.closing(sqlite3.connect(uri, _LOCK_SECONDS, isolation_level=None, uri=True)) as connection:
        connection.text_factory = bytes  # damage may turn a blob into text
        try:
            connection.execute("PRAGMA page_size = 16384")  # of a new file; reads take half the time of 4096
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
    """Copy a file. The file at `target` is replaced completely or not at all."""
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
