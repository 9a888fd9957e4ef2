"""Checkpoints: where training was after its last finished epoch, so that a run that was killed goes on from there.

They lie under a key of all that decides the outcome (config, images, sources) in the workspace: an execution's own
folder is new each time. Two files take turns, so that the one that was being written when the process died, or that
was damaged since, leaves the one before. Each is a numpy archive with its sha256 after it.

A folder that can't be written is no reason to lose what is trained: training goes on without checkpoints, and says so.
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
# Folders of other configs that are kept: their runs may be given again.
_OTHERS = 3
_KEY_DIGITS = 32


def key(*parts: object) -> str:
    """Names a run by what decides its outcome: a hash of the parts, which JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:_KEY_DIGITS]


@dataclass(frozen=True)
class Checkpoint:
    """One state of training. `meta` is what JSON holds, `arrays` the weights by name; `number` counts the saves."""

    number: int
    meta: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(repr=False)


class Checkpoints:
    """The checkpoints of one run, in `<root>/<key>/`; `root` is a path or a URI. Does nothing when `root` is empty.

    `trouble` says why the last one could not be saved; empty when it was.
    """

    def __init__(self, root: str, key: str) -> None:
        self._root, self._folder = root, posixpath.join(root, key)
        self._number = 0
        self.trouble = ""

    def load(self) -> Checkpoint | None:
        """The newest that is whole; None when there is none. A damaged one is told in the log and passed over."""
        if not self._root:
            return None
        found = [checkpoint for name in _FILES if (checkpoint := self._read(posixpath.join(self._folder, name)))]
        newest = max(found, key=lambda checkpoint: checkpoint.number, default=None)
        if newest is not None:
            self._number = newest.number
        elif others := self._others():
            logging.info(
                "%s holds checkpoints of another config, other images or other sources (%d); this run begins anew",
                self._root,
                len(others),
            )
        return newest

    def save(self, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Writes the next one: aside, then renamed. A failure is a warning in the log, and `trouble`."""
        if not self._root:
            return
        number = self._number + 1
        buffer = io.BytesIO()
        np.savez(buffer, **{_META: np.array(json.dumps({"number": number, **meta})), **arrays})
        data = buffer.getvalue()
        path = posixpath.join(self._folder, _FILES[number % 2])
        try:
            tf.io.gfile.makedirs(self._folder)
            _remove(f"{path}.new")  # of a process that died: TensorFlow's file system in memory would append to it
            with tf.io.gfile.GFile(f"{path}.new", "wb") as file:
                file.write(data)
                file.write(hashlib.sha256(data).digest())
            tf.io.gfile.rename(f"{path}.new", path, overwrite=True)
        except (OSError, tf.errors.OpError) as error:
            _remove(f"{path}.new")
            if not self.trouble:
                logging.warning("no checkpoint can be written (%s); training goes on without", _brief(error))
            self.trouble = f"no checkpoint could be written to {self._folder}: {_brief(error)}"
            return
        self._number, self.trouble = number, ""

    def remove(self) -> None:
        """The run is over: removes its checkpoints, and of other runs' all but the newest few."""
        if not self._root:
            return
        for folder in [self._folder, *self._others()[_OTHERS:]]:
            try:
                if tf.io.gfile.isdir(folder):
                    tf.io.gfile.rmtree(folder)
            except tf.errors.OpError as error:  # no reason to lose the model
                logging.warning("checkpoints %s cannot be removed (%s)", folder, _brief(error))

    def _others(self) -> list[str]:
        """Folders of other runs, the newest first."""
        try:
            names = [name.rstrip("/") for name in tf.io.gfile.listdir(self._root)]
            folders = [posixpath.join(self._root, name) for name in names if _is_key(name)]
            return sorted(
                (folder for folder in folders if folder != self._folder),
                key=lambda folder: -tf.io.gfile.stat(folder).mtime_nsec,
            )
        except tf.errors.OpError:  # not there yet
            return []

    def _read(self, path: str) -> Checkpoint | None:
        try:
            with tf.io.gfile.GFile(path, "rb") as file:
                data = file.read()
        except tf.errors.NotFoundError:
            return None
        except tf.errors.OpError as error:
            logging.warning("checkpoint %s cannot be read (%s) and is not used", path, _brief(error))
            return None
        size = hashlib.sha256().digest_size
        if hashlib.sha256(data[:-size]).digest() != data[-size:]:
            logging.warning("checkpoint %s is damaged and is not used", path)
            return None
        with np.load(io.BytesIO(data[:-size])) as archive:
            arrays = dict(archive)
        meta = json.loads(str(arrays.pop(_META)))
        return Checkpoint(meta["number"], meta, arrays)


def _is_key(name: str) -> bool:
    return re.fullmatch(f"[0-9a-f]{{{_KEY_DIGITS}}}", name) is not None


def _remove(path: str) -> None:
    with contextlib.suppress(tf.errors.OpError):
        tf.io.gfile.remove(path)


def _brief(error: Exception) -> str:
    return str(getattr(error, "message", "") or error).split("\n")[0]
