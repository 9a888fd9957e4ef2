"""Decides where each phase and split gets its inputs: from the cache of activations, or from the images each epoch."""

import logging
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from graftline.trainer import augmentation
from graftline.trainer.activations import ActivationCache, Batches, CachedBatches, MakeSeeds, StreamedBatches
from graftline.trainer.boundary import Boundary, FrozenPart, as_inputs, is_input, numbers
from graftline.trainer.inputs import Pixels, Records
from graftline.trainer.row_store import Rows, prune, size
from graftline.trainer.settings import TrainerSettings
from graftline.uri import is_uri
from graftline.workspace import Workspace


class PhaseInputs:
    """The inputs of both phases.

    `computed` images (or views) ran through the frozen part, and earlier runs had computed the `reused` ones. `notes`
    says what is not cached.
    """

    def __init__(
        self,
        settings: TrainerSettings,
        model: keras.Model,
        boundaries: list[Boundary],
        train: Records,
        val: Records,
        pixels: Pixels,
        scratch: pathlib.Path,
    ) -> None:
        """Fill the cache, in one pass over the images for both phases, whose parts of the model begin at `boundaries`.

        The weights under them stay as they are. The model's input among them is never cached.
        """
        self._settings, self._model, self._pixels = settings, model, pixels
        self._records = {"train": train, "val": val}
        self.computed = self.reused = 0
        self.notes: list[str] = []
        self._augmented = settings.augmentation.enabled
        longest = max(settings.feature_extraction.epochs, settings.fine_tuning.epochs)
        views = settings.augmentation.views
        solved = settings.feature_extraction.solver != "gradient"  # a solver takes all views at once
        # 1 where nothing is augmented, and 0 for new views in each epoch.
        self.views = (views if solved else min(views, longest)) if self._augmented else 1
        self._cached: dict[tuple[str, int], tuple[Rows, int]] = {}  # the rows of a split and a tensor, and their views
        self._frozen: FrozenPart | None = None
        self._fill_cache([cut for cut in boundaries if not is_input(model, cut)], scratch)

    def _fill_cache(self, boundaries: list[Boundary], scratch: pathlib.Path) -> None:
        settings = self._settings
        folder = Workspace(settings.state).boundary_cache if settings.state else str(scratch / "cache")
        enabled = settings.boundary_cache.enabled
        views_to_cache = {"train": self.views if enabled else 0, "val": int(enabled)}
        count = sum(views * len(self._records[split]) for split, views in views_to_cache.items())
        boundaries, bytes_left = self._boundaries_with_room(boundaries, count, folder)
        if not boundaries:
            return
        tensors = list({id(tensor): tensor for cut in boundaries for tensor in cut}.values())
        self._frozen = FrozenPart(self._model, tensors)
        caches = {
            split: ActivationCache(
                self._frozen, settings.boundary_cache, folder, self._identity(self._make_seeds(split)), scratch
            )
            for split, views in views_to_cache.items()
            if views
        }
        names = {name for cache in caches.values() for name in cache.names}
        # Stores of past runs are removed first, because the filling needs their room.
        prune(folder, names, int(bytes_left) + sum(size(f"{folder}/{name}") for name in names))
        for split, cache in caches.items():
            records, views = self._records[split], views_to_cache[split]
            activations = cache.fill(records, self._pixels, views, self._make_seeds(split))
            self.computed, self.reused = self.computed + activations.computed, self.reused + activations.reused
            for tensor, rows in zip(tensors, activations.rows, strict=True):
                self._cached[split, id(tensor)] = rows, views
        logging.info("activations: %d computed, %d from earlier runs", self.computed, self.reused)

    def batches(self, split: str, cut: Boundary, steps: int | None = None) -> Batches:
        """Return the batches of the split, "train" or "val", for a phase whose part begins at `cut`.

        An epoch has `steps` of them; None: all images.
        """
        records, batch_size, seed = self._records[split], self._settings.training.batch_size, self._seed(split)
        cached = [self._cached[split, id(tensor)] for tensor in cut if (split, id(tensor)) in self._cached]
        if len(cached) == len(cut):
            rows = as_inputs([one for one, _ in cached])
            return CachedBatches(rows, records.labels, batch_size, seed, cached[0][1], steps)
        below = None if is_input(self._model, cut) else FrozenPart(self._model, cut)
        make_seeds = self._make_seeds(split)
        return StreamedBatches(records, self._pixels, batch_size, below, seed, self.views, make_seeds, steps)

    def frozen_part(self, cut: Boundary) -> Callable[[tf.Tensor], Any]:
        """Return the frozen part up to `cut`: where the cache was filled, the function that is traced already."""
        frozen = self._frozen
        if frozen is None or not set(map(id, cut)) <= set(map(id, frozen.tensors)):
            frozen = FrozenPart(self._model, cut)
        places = [frozen.index(tensor) for tensor in cut]

        def run(pixels: tf.Tensor) -> Any:
            outputs = frozen(pixels)
            return as_inputs([outputs[place] for place in places])

        return run

    def _seed(self, split: str) -> int | None:
        return self._settings.seed if split == "train" else None

    def _make_seeds(self, split: str) -> MakeSeeds | None:
        if split != "train" or not self._augmented:
            return None
        keys = self._records[split].keys

        def make_seeds(rows: np.ndarray, view: int) -> np.ndarray:
            digests = tf.constant([keys[row].hex() for row in rows], tf.string)
            return augmentation.seeds(digests, self._settings.seed, view).numpy()

        return make_seeds

    def _identity(self, make_seeds: MakeSeeds | None) -> str:
        """Return everything except the weights that decides what the frozen part gives for an image."""
        settings, backbone = self._settings, self._settings.backbone
        parts = [settings.preprocessing, tft.__version__, backbone.name, backbone.mode, backbone.size, backbone.options]
        parts.append(settings.training.precision)
        if make_seeds is not None:
            parts += [settings.seed, settings.augmentation.model_dump(exclude={"views"})]
        return repr(parts)

    def _boundaries_with_room(self, boundaries: list[Boundary], rows: int, folder: str) -> tuple[list[Boundary], float]:
        """Return the boundaries whose activations fit on the disk, the smallest first, and the bytes that are left."""
        settings = self._settings.boundary_cache
        room = settings.disk_gb * 1e9
        if not is_uri(folder):
            used = sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file())
            existing = next(path for path in (pathlib.Path(folder), *pathlib.Path(folder).parents) if path.is_dir())
            room = min(room, shutil.disk_usage(existing).free + used)
        itemsize = np.dtype(settings.dtype).itemsize
        fitting = []
        for cut in sorted(boundaries, key=numbers):
            needed = rows * numbers(cut) * itemsize
            if needed > room:
                name = " and ".join(tensor._keras_history.operation.name for tensor in cut)
                self.notes.append(
                    f"the activations at {name} would take {needed / 1e9:.1f} GB, but boundary_cache.disk_gb "
                    f"and the disk leave {room / 1e9:.1f} GB, so the frozen part runs in each epoch"
                )
            elif needed:
                room -= needed
                fitting.append(cut)
        return fitting, room
