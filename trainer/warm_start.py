"""Warm start: training begins from the weights of the last blessed model, even if its classes were not the same."""

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from graftline import withdrawn
from graftline.trainer import heads, weights_loading
from graftline.trainer.weights_reader import Layer, MisfitError, Wanted

KERAS_FILE = "model.keras"  # the model as Keras saves it, next to its SavedModel
TRAINING_FILE = "training.json"  # the labels and how training went, in the same folder

_LAST = 2  # the arrays of the last layer: its kernel and its bias
# Layers that are not compared. Keras numbers inputs in each model anew, and dropout may come and go.
_PASSING = ("InputLayer", "Dropout")
_CHUNK = 1 << 20  # bytes read at once


class Start(NamedTuple):
    """How a model starts."""

    knows_all_classes: bool  # whether the blessed model had weights for each class
    note: str  # a sentence that says what was taken over, or why nothing was


def begin(grafted: heads.Grafted, labels: Sequence[str], base_model: str, served: str) -> Start:
    """Load the weights of the blessed SavedModel at `base_model`, unless it was rolled back from; see `load`."""
    directory = os.path.dirname(base_model.rstrip("/"))
    files = [os.path.join(directory, name) for name in (KERAS_FILE, TRAINING_FILE)]
    return refuse_withdrawn(base_model, served) or load(grafted, labels, *files)


def load(grafted: heads.Grafted, labels: Sequence[str], keras_file: str, training_file: str) -> Start:
    """Load the weights of the trunk and the head from the blessed model; a new class starts at zero.

    The model keeps its own weights when the blessed model has another trunk or head, or when its files are missing or
    damaged. The training file is JSON with the blessed model's `labels`.
    """
    for path in (keras_file, training_file):
        if not tf.io.gfile.exists(path):
            return Start(False, f"warm start: the last blessed model has no {os.path.basename(path)}; started cold")
    own = list(weights_loading.own_variables(grafted.model.layers))
    try:
        old_labels, arrays = _read(grafted.model, own, keras_file, training_file)
    except MisfitError:
        return Start(False, "warm start: the last blessed model has another trunk or head; started cold")
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, tf.errors.OpError) as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0][:200]
        return Start(False, f"warm start: the last blessed model cannot be read ({reason}); started cold")
    arrays[-_LAST:] = [_reorder_classes(array, old_labels, labels) for array in arrays[-_LAST:]]
    weights_loading.assign(grafted.model, [variable for _, some in own for variable in some], arrays)
    new = [label for label in labels if label not in set(old_labels)]
    gone = [label for label in old_labels if label not in set(labels)]
    changes = [f"{kind}: {', '.join(names)}" for kind, names in (("new", new), ("gone", gone)) if names]
    note = "warm start from the last blessed model" + (f" ({'; '.join(changes)})" if changes else "")
    one_logit = arrays[-1].shape == (1,)
    return Start(not new and (not one_logit or list(labels) == list(old_labels)), note)


def refuse_withdrawn(saved_model: str, served: str) -> Start | None:
    """Return a cold start if the last blessed model was rolled back from, else None.

    In a local workspace a rollback also removes the blessing, so another base is found. Vertex lets nobody edit its
    metadata. `served` is the base path of the served versions; "" when it is not known.
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
    """Return the digest of the folder's content, as the push computes it."""
    digests = []
    for parent, _, names in tf.io.gfile.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            content = hashlib.sha256()
            with tf.io.gfile.GFile(path, "rb") as file:
                while chunk := file.read(_CHUNK):
                    content.update(chunk)
            digests.append((os.path.relpath(path, folder).encode(), content.digest()))
    return withdrawn.tree_digest(sorted(digests))


def _read(
    model: keras.Model, own: Sequence[tuple[str, list[keras.Variable]]], keras_file: str, training_file: str
) -> tuple[list[str], list[np.ndarray]]:
    """Return the blessed model's labels, and its weights in the order of the variables `own`. h5py reads local files.

    Raises:
      MisfitError: the layers have other names, classes or weights than those of `model`.
    """
    with tf.io.gfile.GFile(training_file) as file:
        labels: list[str] = json.loads(file.read())["labels"]
    wanted = [Layer(path, [tuple(variable.shape) for variable in variables]) for path, variables in own]
    path, shapes = wanted[-1]
    if shapes[-1] != (1,):  # one logit stands for two classes
        wanted[-1] = Layer(path, [(*shape[:-1], len(labels)) for shape in shapes])
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, KERAS_FILE)
        tf.io.gfile.copy(keras_file, local)
        with zipfile.ZipFile(local) as archive:
            config = json.loads(archive.read("config.json"))["config"]
        old = [(layer["class_name"], layer["config"]["name"]) for layer in config["layers"]]
        new = [(type(layer).__name__, layer.name) for layer in model.layers]
        if [layer for layer in old if layer[0] not in _PASSING] != [layer for layer in new if layer[0] not in _PASSING]:
            raise MisfitError("it has other layers")
        return labels, weights_loading.read(local, Wanted(wanted, []), trusted=True)[1]


def _reorder_classes(weight: np.ndarray, old: Sequence[str], new: Sequence[str]) -> np.ndarray:
    """Return a kernel [D, C] or bias [C] with its columns in the order of the new labels; a new class has zeros.

    A single logit's column is kept for the same two classes and is zero for others.
    """
    if weight.shape[-1] == 1:  # one logit, whose sign means these two classes in this order
        return weight if list(old) == list(new) else np.zeros_like(weight)
    index = {label: number for number, label in enumerate(old)}
    return np.stack(
        [weight[..., index[label]] if label in index else np.zeros_like(weight[..., 0]) for label in new], axis=-1
    )
