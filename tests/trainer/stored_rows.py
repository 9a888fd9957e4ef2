"""Rows to keep and stores that keep them, for the tests of the row store."""

import hashlib
import pathlib
import subprocess
import sys
import textwrap

import numpy as np

from graftline.trainer.row_store import RowStore

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
