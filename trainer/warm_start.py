"""Warm start: training goes on from the weights of the last blessed model, also when classes came or went since."""

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from graftline import withdrawn
from graftline.trainer import models

PROBABILITIES = "probabilities"
_CHUNK = 1 << 20  # bytes read at once


class Start(NamedTuple):
    """`ready`: the model knows every class. `note`, a sentence, says what was taken over, or why nothing was."""

    ready: bool
    note: str


def load(grafted: models.Grafted, labels: Sequence[str], keras_file: str, training_file: str) -> Start:
    """Takes over the trunk's and the head's weights; a class that is new begins at zero.

    Args:
      grafted: the model to start.
      labels: its class names, in the order of its outputs.
      keras_file: the blessed model as Keras saved it.
      training_file: JSON with its `labels`.

    Returns:
      How the model starts. It keeps its own weights when the blessed model has another trunk or head, or its files are
      gone or damaged.
    """
    for path in (keras_file, training_file):
        if not tf.io.gfile.exists(path):
            return Start(False, f"warm start: the last blessed model has no {os.path.basename(path)}; started cold")
    try:
        old_labels, old = _read(keras_file, training_file)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, tf.errors.OpError) as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0][:200]
        return Start(False, f"warm start: the last blessed model cannot be read ({reason}); started cold")
    values = {layer.name: layer.get_weights() for layer in old.layers}
    if PROBABILITIES in values:
        values[PROBABILITIES] = _by_label(values[PROBABILITIES], old_labels, labels)
    shapes = {name: [value.shape for value in of_layer] for name, of_layer in values.items()}
    if _parts(old, shapes) != _parts(grafted.model):
        return Start(False, "warm start: the last blessed model has another trunk or head; started cold")
    for layer in grafted.model.layers:
        if layer.weights:
            layer.set_weights(values[layer.name])
    new = [label for label in labels if label not in set(old_labels)]
    gone = [label for label in old_labels if label not in set(labels)]
    told = [f"new: {', '.join(new)}"] if new else []
    told += [f"gone: {', '.join(gone)}"] if gone else []
    note = "warm start from the last blessed model" + (f" ({'; '.join(told)})" if told else "")
    return Start(not new, note)


def refused(saved_model: str, served: str) -> Start | None:
    """The cold start of a run whose base was rolled back from; None when nothing speaks against it.

    In a local workspace a rollback takes the blessing away as well, so that another base is found; Vertex lets nobody
    edit its metadata.

    Args:
      saved_model: directory or URI of the base's SavedModel.
      served: the base path of the served versions, "" when unknown.
    """
    if not served:
        return None
    folder = os.path.join(served, withdrawn.FOLDER)
    try:
        if not tf.io.gfile.exists(folder) or not tf.io.gfile.listdir(folder):
            return None
        if not tf.io.gfile.exists(os.path.join(folder, _digest(saved_model))):
            return None
    except tf.errors.OpError as error:
        return Start(False, f"warm start: {folder} cannot be read ({str(error)[:200]}); started cold")
    return Start(False, "warm start: the last blessed model was rolled back from; started cold")


def _digest(folder: str) -> str:
    """As the push computes it."""
    found = []
    for parent, _, names in tf.io.gfile.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            content = hashlib.sha256()
            with tf.io.gfile.GFile(path, "rb") as file:
                while chunk := file.read(_CHUNK):
                    content.update(chunk)
            found.append((os.path.relpath(path, folder).encode(), content.digest()))
    return withdrawn.tree_digest(sorted(found))


def _parts(model: keras.Model, shapes: Mapping[str, list[tuple[int, ...]]] | None = None) -> dict[str, object]:
    """What must be alike for weights to mean the same: each layer's kind and the shapes of its weights, by its name.

    Keras numbers inputs anew for each model; dropout may come and go. `shapes` stand in for those of the model.
    """
    free = (keras.layers.InputLayer, keras.layers.Dropout)
    layers = [layer for layer in model.layers if not isinstance(layer, free)]
    own = {layer.name: [tuple(weight.shape) for weight in layer.weights] for layer in layers}
    return {layer.name: (type(layer).__name__, (shapes or own)[layer.name]) for layer in layers}


def _read(keras_file: str, training_file: str) -> tuple[list[str], keras.Model]:
    """The blessed model's labels, and the model; Keras reads local files only."""
    with tf.io.gfile.GFile(training_file) as file:
        labels: list[str] = json.loads(file.read())["labels"]
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, "model.keras")
        tf.io.gfile.copy(keras_file, local)
        return labels, keras.saving.load_model(local, compile=False)


def _by_label(weights: list[np.ndarray], old: Sequence[str], new: Sequence[str]) -> list[np.ndarray]:
    """Kernel [D, C] and bias [C] with their columns in the order of the new labels; zeros where there was none."""
    place = {label: number for number, label in enumerate(old)}
    rearranged = []
    for weight in weights:
        columns = [weight[..., place[label]] if label in place else np.zeros_like(weight[..., 0]) for label in new]
        rearranged.append(np.stack(columns, axis=-1))
    return rearranged
