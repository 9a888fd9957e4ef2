"""Checkpoints: where training was after its last finished epoch, so that a run that was killed goes on from there.

They lie under a key of all that decides the outcome (config, images, sources) in the workspace: an execution's own
folder is new each time. Two files take turns, so that the one that was being written when the process died, or that
was damaged since, leaves the one before.
"""

import hashlib
import io
import json
import logging
import posixpath
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

_FILES = ("even.npz", "odd.npz")
_META = "meta"
# Folders of other configs that are kept: their runs may be given again.
_OTHERS = 3


def key(*parts: object) -> str:
    """Names a run by what decides its outcome: a hash of the parts, which JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Checkpoint:
    """One state of training. `meta` is what JSON holds, `arrays` the weights by name; `number` counts the saves."""

    number: int
    meta: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(repr=False)


class Checkpoints:
    """The checkpoints of one run, in `<root>/<key>/`; `root` is a path or a URI. Does nothing when `root` is empty."""

    def __init__(self, root: str, key: str) -> None:
        self._root, self._folder = root, posixpath.join(root, key)
        self._number = 0

    def load(self) -> Checkpoint | None:
        """The newest that is whole; None when there is none. A damaged one is told in the log and passed over."""
        if not self._root:
            return None
        found = [checkpoint for name in _FILES if (checkpoint := self._read(posixpath.join(self._folder, name)))]
        newest = max(found, key=lambda checkpoint: checkpoint.number, default=None)
        if newest is None:
            others = self._others()
            if others:
                logging.info(
                    "%s holds checkpoints of another config, other images or other sources (%d); this run begins anew",
                    self._root,
                    len(others),
                )
        else:
            self._number = newest.number
        return newest

    def save(self, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Writes the next one: aside, then renamed."""
        if not self._root:
            return
        self._number += 1
        buffer = io.BytesIO()
        text = json.dumps({"number": self._number, **meta})
        np.savez(buffer, **{_META: np.array(text), **arrays})
        tf.io.gfile.makedirs(self._folder)
        path = posixpath.join(self._folder, _FILES[self._number % 2])
        with tf.io.gfile.GFile(f"{path}.new", "wb") as file:
            file.write(buffer.getvalue())
        tf.io.gfile.rename(f"{path}.new", path, overwrite=True)

    def remove(self) -> None:
        """The run is over: removes its checkpoints, and of other runs' all but the newest few."""
        if not self._root:
            return
        if tf.io.gfile.exists(self._folder):
            tf.io.gfile.rmtree(self._folder)
        for folder in self._others()[_OTHERS:]:
            tf.io.gfile.rmtree(folder)

    def _others(self) -> list[str]:
        """Folders of other runs, the newest first."""
        if not tf.io.gfile.isdir(self._root):
            return []
        folders = [posixpath.join(self._root, name.rstrip("/")) for name in tf.io.gfile.listdir(self._root)]
        others = [folder for folder in folders if folder != self._folder and tf.io.gfile.isdir(folder)]
        return sorted(others, key=lambda folder: -tf.io.gfile.stat(folder).mtime_nsec)

    def _read(self, path: str) -> Checkpoint | None:
        if not tf.io.gfile.exists(path):
            return None
        try:
            with tf.io.gfile.GFile(path, "rb") as file, np.load(io.BytesIO(file.read())) as archive:
                arrays = dict(archive)  # every member's checksum is tested as it is read
            meta = json.loads(str(arrays.pop(_META)))
            return Checkpoint(meta["number"], meta, arrays)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
            logging.warning("checkpoint %s is damaged (%s) and is not used", path, error)
            return None
