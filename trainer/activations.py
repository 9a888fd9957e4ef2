"""What the phases train on: the activations at the boundary, kept from run to run, or made anew in each epoch.

`Cache` runs the frozen part for images that it has not seen in any run and keeps what comes out; `Activations` feeds
that to `fit`. `Streamed` runs the frozen part for every image in every epoch, in the same order.
"""

import contextlib
import functools
import hashlib
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from graftline.trainer.boundary import Frozen
from graftline.trainer.inputs import Pixels, Records
from graftline.trainer.row_store import Rows, RowStore
from graftline.trainer.settings import BoundaryCacheSettings

# Images in one pass of the frozen part: a tenth faster than 32 here, whose activations outgrow the processor cache.
_FORWARD_BATCH = 16
# Images whose activations are brought to the store at once: what a crash loses at most.
_COMMIT = 2048

Draw = Callable[[np.ndarray, int], np.ndarray]  # the augmentation's seeds, int32 [n, 2], of rows and a view


class Batches(Protocol):
    """What a phase trains on; `epoch` decides the order, and is set before each."""

    epoch: int
    labels: np.ndarray

    @property
    def for_fit(self) -> object:
        """What `keras.Model.fit` takes: batches of inputs float32 [b, …] and label index int64 [b]."""


def order(count: int, seed: int | None, epoch: int) -> np.ndarray:
    """The rows of an epoch, shuffled by the seed and the epoch alone; as they lie when `seed` is None."""
    return np.arange(count) if seed is None else np.random.default_rng([seed, epoch]).permutation(count)


class Activations(keras.utils.PyDataset):
    """Batches of cached activations.

    `rows` holds the activations of all images, and when there are several views those of the second after
    them, and so on: epoch e trains on view e modulo `views`.
    """

    def __init__(
        self, rows: Rows, labels: np.ndarray, batch_size: int, seed: int | None = None, views: int = 1
    ) -> None:
        super().__init__()
        self._rows, self.labels, self._batch_size, self._seed, self._views = rows, labels, batch_size, seed, views
        self.epoch = 0

    @property
    def for_fit(self) -> keras.utils.PyDataset:
        """Itself."""
        return self

    @property
    def epoch(self) -> int:
        """Which epoch's order the batches come in."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch, self._order = epoch, order(len(self.labels), self._seed, epoch)

    def __len__(self) -> int:
        return -(-len(self.labels) // self._batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        return self._rows[rows + self._epoch % self._views * len(self.labels)], self.labels[rows]


class Streamed:
    """Batches that are made of the records anew in each epoch, in the same order as `Activations`.

    Args:
      records: the split.
      pixels: makes images of records; with augmentation, epoch e sees view e.
      batch_size: images in a batch.
      below: from pixels to the inputs of the trained part; None when that is the whole model.
      seed: of the order; as the records lie when None.
      views: how many augmented views of each image there are; 0 for a new one in each epoch.
      draw: gives the augmentation's seeds for rows and a view; None for no augmentation.
    """

    def __init__(
        self,
        records: Records,
        pixels: Pixels,
        batch_size: int,
        below: Frozen | None = None,
        seed: int | None = None,
        views: int = 0,
        draw: Draw | None = None,
    ) -> None:
        self.labels, self.epoch = records.labels, 0

        def rows() -> np.ndarray:
            return order(len(records), seed, self.epoch)

        def drawn() -> np.ndarray:
            assert draw is not None
            return draw(rows(), self.epoch % views if views else self.epoch)

        dataset = images = pixels.batches(records, rows, batch_size, drawn if draw else None)
        if below is not None:
            # Not by `map`: TensorFlow does not fold BatchNormalization in the graphs of tf.data.
            (tensor,) = below.tensors
            dataset = tf.data.Dataset.from_generator(
                lambda: ((below(batch)[0], labels) for batch, labels in images),
                output_signature=(tf.TensorSpec([None, *tensor.shape[1:]]), tf.TensorSpec([None], tf.int64)),
            ).prefetch(2)
        self._dataset = dataset.apply(tf.data.experimental.assert_cardinality(-(-len(records) // batch_size)))

    @property
    def for_fit(self) -> tf.data.Dataset:
        """The data set; going through it again after `epoch` was set gives that epoch."""
        return self._dataset


@dataclass(frozen=True)
class Filled:
    """What the cache gave: rows for each tensor, and how many images were run through the trunk and how many not."""

    rows: list[Rows]
    computed: int
    reused: int


class Cache:
    """The activations at some tensors of a model, by image, kept in a folder from run to run.

    A row is found by its image's content, a tensor's store by the weights under it and how pixels are made. So only
    images that are new are computed, and with another learning rate none.
    """

    def __init__(
        self, frozen: Frozen, settings: BoundaryCacheSettings, folder: str, identity: str, scratch: pathlib.Path
    ) -> None:
        """
        Args:
          frozen: its weights stay as they are.
          settings: of the cache.
          folder: path or URI of the stores.
          identity: see `Frozen.fingerprints`.
          scratch: a local folder.
        """
        self._frozen, self._settings, self._folder = frozen, settings, folder
        self.names = frozen.fingerprints(f"{identity} {settings.dtype}")
        self._stores = [
            RowStore(f"{folder}/{name}", tuple(tensor.shape[1:]), settings.dtype, scratch)
            for name, tensor in zip(self.names, frozen.tensors, strict=True)
        ]

    def fill(
        self,
        records: Records,
        pixels: Pixels,
        views: int = 1,
        draw: Draw | None = None,
    ) -> Filled:
        """The activations of a split; computes those that are not there.

        Args:
          records: the split.
          pixels: makes images of records.
          views: how many augmented views of each image.
          draw: gives the augmentation's seeds for rows and a view; None for no augmentation.

        Raises:
          UserError: the disk is full.
        """
        keys = [[row_key(key, view) for key in records.keys] if draw else records.keys for view in range(views)]
        every = [key for view in keys for key in view]
        missing = [set(store.missing(every)) for store in self._stores]
        wanted: set[bytes] = set().union(*missing)
        if wanted:
            for view in range(views):
                new = np.array([row for row, key in enumerate(keys[view]) if key in wanted], np.int64)
                for start in range(0, len(new), _COMMIT):
                    rows = new[start : start + _COMMIT]
                    seeds = None if draw is None else functools.partial(draw, rows, view)
                    batches = pixels.batches(records, functools.partial(np.copy, rows), _FORWARD_BATCH, seeds)
                    self._compute(missing, [keys[view][row] for row in rows], batches)
        memory = self._settings.memory_mb << 20
        return Filled([store.rows(every, memory) for store in self._stores], len(wanted), len(set(every)) - len(wanted))

    def _compute(self, missing: list[set[bytes]], keys: list[bytes], batches: tf.data.Dataset) -> None:
        """Runs these images, and brings to each store what it misses: all of it, or after a crash none."""
        with contextlib.ExitStack() as stack:
            writers = [
                stack.enter_context(store.writer(sum(key in keys_of for key in keys)))
                for store, keys_of in zip(self._stores, missing, strict=True)
            ]
            done = 0
            for images, _ in batches:
                batch = keys[done : done + len(images)]
                done += len(batch)
                for writer, values, keys_of in zip(writers, self._frozen(images), missing, strict=True):
                    new = np.array([key in keys_of for key in batch])
                    keys_of.difference_update(batch)
                    writer.append([key for key, is_new in zip(batch, new, strict=True) if is_new], values.numpy()[new])


def row_key(sha256: bytes, view: int) -> bytes:
    """The key of an augmented view of an image, 32 bytes, as its sha256 is."""
    return hashlib.sha256(sha256 + view.to_bytes(4, "little")).digest()
