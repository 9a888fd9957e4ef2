"""Rows and stores for the tests of the row store."""

import hashlib
import pathlib

import numpy as np

from graftline.trainer.row_store import RowStore
from tests.trainer.processes import run_python

SHAPE = (3, 5)
FILE = "rows.sqlite"


def keys(start: int, stop: int) -> list[bytes]:
    """Return the keys of the rows from `start` to `stop`."""
    return [hashlib.sha256(str(i).encode()).digest() for i in range(start, stop)]


def values(start: int, stop: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Return the rows from `start` to `stop`; row i is drawn from the seed i."""
    rows = [np.random.default_rng(i).normal(0, 3, shape).astype(np.float32) for i in range(start, stop)]
    return np.stack(rows) if rows else np.zeros([0, *shape], np.float32)


def opened(
    directory: pathlib.Path | str, dtype: str = "float32", scratch: pathlib.Path = pathlib.Path("unused")
) -> RowStore:
    """Open a store."""
    return RowStore(str(directory), SHAPE, dtype, scratch)


def put(store: RowStore, start: int, stop: int, batch: int = 4) -> None:
    """Write the rows from `start` to `stop`."""
    with store.writer() as writer:
        for i in range(start, stop, batch):
            writer.append(keys(i, min(i + batch, stop)), values(i, min(i + batch, stop)))


def names(directory: pathlib.Path) -> list[str]:
    """Return the names of the files in a folder."""
    return sorted(path.name for path in directory.iterdir())


def killed_in_a_commit(folder: pathlib.Path, count: int) -> None:
    """Write `count` rows; then a process overwrites them with rubbish and dies when a part of it is in the file."""
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
    assert run_python(code, folder / FILE).returncode == -9
    assert names(folder) == [FILE, f"{FILE}-journal", "used"] and (folder / FILE).read_bytes() != before
