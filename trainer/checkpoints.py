"""Checkpoints: the state of training after its last finished epoch, from which a killed run resumes.

Checkpoints lie in the workspace, because each execution has a new folder of its own. Their folder is named by a key of
everything that decides the outcome (config, images, sources). Two files take turns. When one is damaged, or the process
died while it was written, the other one is still there. Each file is a numpy archive followed by its sha256.

A folder that cannot be written does not stop training. Training goes on without checkpoints and says so.
"""

import contextlib
import hashlib
import io
import json
import logging
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

_FILES = ("even.npz", "odd.npz")
_META = "meta"
# Number of other runs whose folders are kept, because the user may start these runs again.
_KEPT_FOLDERS = 3
_KEY_DIGITS = 32
_KEY = re.compile(f"[0-9a-f]{{{_KEY_DIGITS}}}")


def key(*parts: object) -> str:
    """Return a name for the run whose outcome the parts decide: a hash of the parts, which JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:_KEY_DIGITS]


@dataclass(frozen=True)
class Checkpoint:
    """One state of training."""

    number: int  # counts the saves of a run
    meta: Mapping[str, Any]  # as JSON
    arrays: Mapping[str, np.ndarray] = field(repr=False)  # the weights by name


class Checkpoints:
    """The checkpoints of one run. `trouble` says why the last one could not be saved; "" when it was saved."""

    def __init__(self, root: str, key: str) -> None:
        """Use the folder `<root>/<key>/`; `root` is a path, a URI, or "" for no checkpoints at all."""
        self._root, self._folder = root, posixpath.join(root, key)
        self._number = 0
        self.trouble = ""

    def load(self) -> Checkpoint | None:
        """Return the newest checkpoint that is not damaged, or None. The log names a damaged one."""
        if not self._root:
            return None
        paths = [posixpath.join(self._folder, name) for name in _FILES]
        intact = [checkpoint for path in paths if (checkpoint := self._read(path))]
        newest = max(intact, key=lambda checkpoint: checkpoint.number, default=None)
        if newest is not None:
            self._number = newest.number
        elif others := self._other_folders():
            logging.info(
                "%s holds checkpoints of another config, other images or other sources (%d); "
                "this run starts from the beginning",
                self._root,
                len(others),
            )
        return newest

    def save(self, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Write the next checkpoint under another name, then rename it. A failure sets `trouble` and logs a warning."""
        if not self._root:
            return
        number = self._number + 1
        buffer = io.BytesIO()
        np.savez(buffer, **{_META: np.array(json.dumps({"number": number, **meta})), **arrays})
        data = buffer.getvalue()
        path = posixpath.join(self._folder, _FILES[number % 2])
        try:
            tf.io.gfile.makedirs(self._folder)
            _remove(f"{path}.new")  # a dead process may have left it; TensorFlow's ram:// file system would append
            with tf.io.gfile.GFile(f"{path}.new", "wb") as file:
                file.write(data)
                file.write(hashlib.sha256(data).digest())
            tf.io.gfile.rename(f"{path}.new", path, overwrite=True)
        except (OSError, tf.errors.OpError) as error:
            _remove(f"{path}.new")
            if not self.trouble:
                logging.warning("no checkpoint can be written (%s); training continues without", _first_line(error))
            self.trouble = f"no checkpoint could be written to {self._folder}: {_first_line(error)}"
            return
        self._number, self.trouble = number, ""

    def remove(self) -> None:
        """Remove the checkpoints of this finished run, and those of other runs except the newest few."""
        if not self._root:
            return
        for folder in [self._folder, *self._other_folders()[_KEPT_FOLDERS:]]:
            try:
                if tf.io.gfile.isdir(folder):
                    tf.io.gfile.rmtree(folder)
            except tf.errors.OpError as error:  # the model must not be lost for it
                logging.warning("checkpoints %s cannot be removed (%s)", folder, _first_line(error))

    def _other_folders(self) -> list[str]:
        """Return the folders of other runs, the newest first."""
        try:
            names = [name.rstrip("/") for name in tf.io.gfile.listdir(self._root)]
            folders = [posixpath.join(self._root, name) for name in names if _KEY.fullmatch(name)]
            others = [folder for folder in folders if folder != self._folder]
            return sorted(others, key=lambda folder: -tf.io.gfile.stat(folder).mtime_nsec)
        except tf.errors.OpError:  # the folder does not exist yet
            return []

    def _read(self, path: str) -> Checkpoint | None:
        try:
            with tf.io.gfile.GFile(path, "rb") as file:
                data = file.read()
        except tf.errors.NotFoundError:
            return None
        except tf.errors.OpError as error:
            logging.warning("checkpoint %s cannot be read (%s) and is not used", path, _first_line(error))
            return None
        size = hashlib.sha256().digest_size
        if hashlib.sha256(data[:-size]).digest() != data[-size:]:
            logging.warning("checkpoint %s is damaged and is not used", path)
            return None
        with np.load(io.BytesIO(data[:-size])) as archive:
            arrays = dict(archive)
        meta = json.loads(str(arrays.pop(_META)))
        return Checkpoint(meta["number"], meta, arrays)


def _remove(path: str) -> None:
    with contextlib.suppress(tf.errors.OpError):
        tf.io.gfile.remove(path)


def _first_line(error: Exception) -> str:
    return str(getattr(error, "message", "") or error).split("\n")[0]
