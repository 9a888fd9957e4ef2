"""Decides, for each phase and split, where its inputs come from: the cache of activations, or the images anew."""

import logging
import math
import pathlib
import shutil
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from graftline.trainer import augmentation
from graftline.trainer.activations import Activations, Batches, Cache, Draw, Streamed
from graftline.trainer.boundary import Frozen
from graftline.trainer.inputs import Pixels, Records
from graftline.trainer.row_store import prune, size
from graftline.trainer.settings import TrainerSettings
from graftline.uri import is_uri
from graftline.workspace import Workspace


class Feeds:
    """The inputs of both phases. `computed` and `reused` count images (or views), `notes` says what is not cached."""

    def __init__(
        self,
        settings: TrainerSettings,
        model: keras.Model,
        tensors: list[keras.KerasTensor],
        train: Records,
        val: Records,
        pixels: Pixels,
        scratch: pathlib.Path,
    ) -> None:
        """Fills the cache.

        Args:
          settings: of the run.
          model: the whole model; its weights under `tensors` stay as they are.
          tensors: where the phases' parts begin; the model's input among them is never cached.
          train, val: the splits.
          pixels: makes images of records.
          scratch: a local folder.
        """
        self._settings, self._model, self._pixels = settings, model, pixels
        self._records = {"train": train, "val": val}
        self.computed = self.reused = 0
        self.notes: list[str] = []
        self._augmented = settings.augmentation.enabled
        most = max(settings.feature_extraction.epochs, settings.fine_tuning.epochs)
        self._views = min(settings.augmentation.views, most) if self._augmented else 1
        tensors = [tensor for tensor in tensors if tensor is not model.inputs[0]]
        folder = Workspace(settings.state).boundary_cache if settings.state else str(scratch / "cache")
        self._cached: dict[tuple[str, int], Activations] = {}
        wanted = {
            "train": self._views if settings.boundary_cache.enabled else 0,
            "val": int(settings.boundary_cache.enabled),
        }
        count = sum(wanted[split] * len(self._records[split]) for split in wanted)
        kept, left = self._fitting(tensors, count, folder)
        self._frozen: Frozen | None = None
        if not kept:
            return
        self._frozen = Frozen(model, kept)
        caches = {
            split: Cache(
                self._frozen, settings.boundary_cache, folder, self._identity(self._draw(split) is not None), scratch
            )
            for split, views in wanted.items()
            if views
        }
        names = {name for cache in caches.values() for name in cache.names}
        # What past runs left goes before the filling, which needs the room.
        prune(folder, names, int(left) + sum(size(f"{folder}/{name}") for name in names))
        for split, cache in caches.items():
            filled = cache.fill(self._records[split], pixels, wanted[split], self._draw(split))
            self.computed, self.reused = self.computed + filled.computed, self.reused + filled.reused
            for tensor, rows in zip(kept, filled.rows, strict=True):
                self._cached[split, id(tensor)] = Activations(
                    rows, self._records[split].labels, settings.training.batch_size, self._seed(split), wanted[split]
                )
        logging.info("activations: %d computed, %d from earlier runs", self.computed, self.reused)

    def batches(self, split: str, tensor: keras.KerasTensor) -> Batches:
        """What a phase whose part begins at `tensor` reads of the split, "train" or "val"."""
        cached = self._cached.get((split, id(tensor)))
        if cached is not None:
            return cached
        below = None if tensor is self._model.inputs[0] else Frozen(self._model, [tensor])
        size = self._settings.training.batch_size
        return Streamed(
            self._records[split], self._pixels, size, below, self._seed(split), self._views, self._draw(split)
        )

    def frozen(self, tensor: keras.KerasTensor) -> Callable[[tf.Tensor], tf.Tensor]:
        """The frozen part up to `tensor`; where the cache was filled, the function that filled it, which is traced."""
        frozen = self._frozen
        if frozen is None or id(tensor) not in map(id, frozen.tensors):
            frozen = Frozen(self._model, [tensor])
        place = [id(one) for one in frozen.tensors].index(id(tensor))
        return lambda pixels: frozen(pixels)[place]

    def _seed(self, split: str) -> int | None:
        return self._settings.seed if split == "train" else None

    def _draw(self, split: str) -> Draw | None:
        if split != "train" or not self._augmented:
            return None
        keys = self._records[split].keys

        def draw(rows: np.ndarray, view: int) -> np.ndarray:
            digests = tf.constant([keys[row].hex() for row in rows], tf.string)
            return augmentation.seeds(digests, self._settings.seed, view).numpy()

        return draw

    def _identity(self, augmented: bool) -> str:
        """All but the weights that decides what the frozen part gives for an image."""
        settings = self._settings
        parts = [
            settings.preprocessing,
            tft.__version__,
            settings.backbone.name,
            settings.backbone.size,
            settings.backbone.options,
        ]
        parts.append(settings.training.precision)
        if augmented:
            parts += [settings.seed, settings.augmentation.model_dump(exclude={"views"})]
        return repr(parts)

    def _fitting(
        self, tensors: list[keras.KerasTensor], rows: int, folder: str
    ) -> tuple[list[keras.KerasTensor], float]:
        """Those of the tensors whose activations the disk has room for, the smallest first, and the bytes left over."""
        settings = self._settings.boundary_cache
        room = settings.disk_gb * 1e9
        if not is_uri(folder):
            held = sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file())
            existing = next(path for path in (pathlib.Path(folder), *pathlib.Path(folder).parents) if path.is_dir())
            room = min(room, shutil.disk_usage(existing).free + held)
        itemsize = np.dtype(settings.dtype).itemsize
        kept = []
        for tensor in sorted(tensors, key=lambda tensor: math.prod(tensor.shape[1:])):
            needed = rows * math.prod(tensor.shape[1:]) * itemsize
            if needed > room:
                name = tensor._keras_history.operation.name
                self.notes.append(
                    f"the activations at {name} would take {needed / 1e9:.1f} GB, and boundary_cache.disk_gb "
                    f"and the disk leave {room / 1e9:.1f}: the frozen part runs anew in each epoch"
                )
            elif needed:
                room -= needed
                kept.append(tensor)
        return kept, room
