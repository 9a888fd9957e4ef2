"""What the phases train on: activations at the boundary, cached from run to run or computed again in each epoch.

`ActivationCache` runs the frozen part for images that no run has seen and keeps the result. `CachedBatches` feeds it to
`fit`. `StreamedBatches` runs the frozen part for every image in every epoch, in the same order.
"""

import contextlib
import functools
import hashlib
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from graftline.trainer.boundary import FrozenPart, as_inputs
from graftline.trainer.inputs import Pixels, Records
from graftline.trainer.row_store import Rows, RowStore
from graftline.trainer.settings import BoundaryCacheSettings

# Images in one pass of the frozen part: a tenth faster than 32 here, whose activations outgrow the processor cache.
_FORWARD_BATCH = 16
# Images whose activations are committed to the store together. A crash loses at most so many.
_COMMIT = 2048

# The augmentation's seeds, int32 [n, 2], of the images in these rows and a view.
MakeSeeds = Callable[[np.ndarray, int], np.ndarray]


class Batches(Protocol):
    """What a phase trains on. `epoch` decides the order and is set before each epoch."""

    epoch: int
    labels: np.ndarray

    @property
    def steps(self) -> int:
        """The number of batches in an epoch."""

    @property
    def for_fit(self) -> object:
        """The argument of `keras.Model.fit`: batches of inputs float32 [b, …] and label index int64 [b]."""


@dataclass(frozen=True)
class EpochOrder:
    """Which rows of a split make an epoch, and in which order."""

    count: int  # rows of the split
    batch_size: int
    seed: int | None = None  # None: in their own order
    steps_asked: int | None = None  # batches in an epoch; None: until each row was there once

    @property
    def steps(self) -> int:
        """The number of batches in an epoch."""
        return self.steps_asked or -(-self.count // self.batch_size)

    def rows(self, epoch: int) -> np.ndarray:
        """Return the rows of an epoch, int64, shuffled by the seed and the epoch alone; they repeat where too few."""
        most = self.count if self.steps_asked is None else self.steps_asked * self.batch_size
        passes = max(1, -(-most // max(self.count, 1)))
        random = None if self.seed is None else np.random.default_rng([self.seed, epoch])
        orders = [np.arange(self.count) if random is None else random.permutation(self.count) for _ in range(passes)]
        return np.concatenate(orders)[:most]


class CachedBatches(keras.utils.PyDataset):
    """Batches of cached activations."""

    def __init__(
        self,
        rows: Rows | tuple[Rows, ...],
        labels: np.ndarray,
        batch_size: int,
        seed: int | None = None,
        views: int = 1,
        steps: int | None = None,
    ) -> None:
        """Create the batches of a split from the activations of all its images and label index int64 [n].

        `rows` are those of the one tensor of a boundary, or a tuple of those of each.
        With several augmented views, the rows of the second view follow those of the first. Epoch e trains on view e
        modulo `views`. Without a seed the order is that of the rows. An epoch has `steps` batches; None: all images.
        """
        super().__init__()
        self._rows, self.labels, self._batch_size, self._views = rows, labels, batch_size, views
        self._epoch_order = EpochOrder(len(labels), batch_size, seed, steps)
        self.epoch = 0

    @property
    def steps(self) -> int:
        """The number of batches in an epoch."""
        return self._epoch_order.steps

    @property
    def for_fit(self) -> keras.utils.PyDataset:
        """This object."""
        return self

    @property
    def epoch(self) -> int:
        """The epoch whose order the batches have."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch, self._order = epoch, self._epoch_order.rows(epoch)

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.steps

    def __getitem__(self, index: int) -> tuple[Any, np.ndarray]:
        """Return a batch: activations float32 [b, …], a tuple where `rows` are one, and label index int64 [b]."""
        rows = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        stored = rows + self._epoch % self._views * len(self.labels)
        inputs = as_inputs([one[stored] for one in self._rows]) if isinstance(self._rows, tuple) else self._rows[stored]
        return inputs, self.labels[rows]


class StreamedBatches:
    """Batches that are computed from the records in each epoch, in the same order as `CachedBatches`."""

    def __init__(
        self,
        records: Records,
        pixels: Pixels,
        batch_size: int,
        below: FrozenPart | None = None,
        seed: int | None = None,
        views: int = 0,
        make_seeds: MakeSeeds | None = None,
        steps: int | None = None,
    ) -> None:
        """Create the batches of a split. `below` computes the trained part's inputs; None trains the whole model.

        Epoch e trains on view e modulo `views`, or on a new view when `views` is 0. Without a seed the order is that of
        the records. Without `make_seeds` nothing is augmented. An epoch has `steps` batches; None: all images.
        """
        self.labels, self.epoch = records.labels, 0
        order = EpochOrder(len(records), batch_size, seed, steps)
        self.steps = order.steps

        def rows() -> np.ndarray:
            return order.rows(self.epoch)

        def seeds() -> np.ndarray:
            assert make_seeds is not None
            return make_seeds(rows(), self.epoch % views if views else self.epoch)

        dataset = images = pixels.batches(records, rows, batch_size, seeds if make_seeds else None)
        if below is not None:
            # Not by `map`: TensorFlow does not fold BatchNormalization in the graphs of tf.data.
            specs = [tf.TensorSpec([None, *tensor.shape[1:]]) for tensor in below.tensors]
            dataset = tf.data.Dataset.from_generator(
                lambda: ((as_inputs(below(batch)), labels) for batch, labels in images),
                output_signature=(as_inputs(specs), tf.TensorSpec([None], tf.int64)),
            ).prefetch(2)
        self._dataset = dataset.apply(tf.data.experimental.assert_cardinality(self.steps))

    @property
    def for_fit(self) -> tf.data.Dataset:
        """The data set. Each pass through it gives the epoch that `epoch` is set to."""
        return self._dataset


@dataclass(frozen=True)
class CachedSplit:
    """The activations of a split."""

    rows: list[Rows]  # for each tensor, in the order of the frozen part's, as `CachedBatches` takes them
    computed: int  # images (or views) that ran through the trunk
    reused: int  # images (or views) that earlier runs had computed


class ActivationCache:
    """The activations at some tensors of a model, by image, kept in a folder from run to run.

    A row is found by its image's content, and a tensor's store by the weights under the tensor and by how pixels are
    made. So only new images are computed, and none when only the learning rate has changed.
    """

    def __init__(
        self, frozen: FrozenPart, settings: BoundaryCacheSettings, folder: str, identity: str, scratch: pathlib.Path
    ) -> None:
        """Open the store of each tensor in `folder`, a path or URI; `FrozenPart.fingerprints` explains `identity`."""
        self._frozen, self._settings, self._folder = frozen, settings, folder
        self.names = frozen.fingerprints(f"{identity} {settings.dtype}")
        self._stores = [
            RowStore(f"{folder}/{name}", tuple(tensor.shape[1:]), settings.dtype, scratch)
            for name, tensor in zip(self.names, frozen.tensors, strict=True)
        ]

    def fill(
        self, records: Records, pixels: Pixels, views: int = 1, make_seeds: MakeSeeds | None = None
    ) -> CachedSplit:
        """Return the activations of a split, in `views` augmented views; compute those that are missing.

        Without `make_seeds` nothing is augmented. Raise UserError when the disk is full.
        """
        keys = [[view_key(key, view) for key in records.keys] if make_seeds else records.keys for view in range(views)]
        all_keys = [key for keys_of_view in keys for key in keys_of_view]
        missing = [set(store.missing(all_keys)) for store in self._stores]
        missing_anywhere: set[bytes] = set().union(*missing)
        if missing_anywhere:
            for view in range(views):
                new = np.array([row for row, key in enumerate(keys[view]) if key in missing_anywhere], np.int64)
                for start in range(0, len(new), _COMMIT):
                    rows = new[start : start + _COMMIT]
                    seeds = None if make_seeds is None else functools.partial(make_seeds, rows, view)
                    batches = pixels.batches(records, functools.partial(np.copy, rows), _FORWARD_BATCH, seeds)
                    self._compute(missing, [keys[view][row] for row in rows], batches)
        memory = self._settings.memory_mb << 20
        computed = len(missing_anywhere)
        return CachedSplit(
            [store.rows(all_keys, memory) for store in self._stores], computed, len(set(all_keys)) - computed
        )

    def _compute(self, missing: list[set[bytes]], keys: list[bytes], batches: tf.data.Dataset) -> None:
        """Run these images and add to each store what it misses. After a crash none of it is there."""
        with contextlib.ExitStack() as stack:
            writers = [
                stack.enter_context(store.writer(sum(key in missing_keys for key in keys)))
                for store, missing_keys in zip(self._stores, missing, strict=True)
            ]
            done = 0
            for images, _ in batches:
                batch = keys[done : done + len(images)]
                done += len(batch)
                for writer, values, missing_keys in zip(writers, self._frozen(images), missing, strict=True):
                    is_new = np.array([key in missing_keys for key in batch])
                    missing_keys.difference_update(batch)
                    new_keys = [key for key, new in zip(batch, is_new, strict=True) if new]
                    writer.append(new_keys, values.numpy()[is_new])


def view_key(sha256: bytes, view: int) -> bytes:
    """Return the key of an augmented view of an image: 32 bytes, like its sha256."""
    return hashlib.sha256(sha256 + view.to_bytes(4, "little")).digest()
