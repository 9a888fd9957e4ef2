"""Warm start: training goes on from the weights of the last blessed model, also when classes came or went since."""

import json
import os
import tempfile
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer import models

PROBABILITIES = "probabilities"


def load(grafted: models.Grafted, labels: Sequence[str], keras_file: str, training_file: str) -> str:
    """Takes over the trunk's and the head's weights; a class that is new begins at zero.

    Args:
      grafted: the model to start.
      labels: its class names, in the order of its outputs.
      keras_file: the blessed model as Keras saved it.
      training_file: JSON with its `labels`.

    Returns:
      A sentence: what was taken over, or why nothing was. Nothing is when the trunk or the head is another: the model
      then starts from its own weights.
    """
    for path in (keras_file, training_file):
        if not tf.io.gfile.exists(path):
            return f"warm start: the last blessed model has no {os.path.basename(path)}; started cold"
    with tf.io.gfile.GFile(training_file) as file:
        old_labels: list[str] = json.loads(file.read())["labels"]
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, "model.keras")
        tf.io.gfile.copy(keras_file, local)
        old = keras.saving.load_model(local, compile=False)
    old_layers = {layer.name: layer for layer in old.layers if layer.weights}
    new_layers = {layer.name: layer for layer in grafted.model.layers if layer.weights}
    values = {name: layer.get_weights() for name, layer in old_layers.items()}
    if PROBABILITIES in values:
        values[PROBABILITIES] = _by_label(values[PROBABILITIES], old_labels, labels)
    shapes = {name: [value.shape for value in of_layer] for name, of_layer in values.items()}
    if shapes != {name: [tuple(weight.shape) for weight in layer.weights] for name, layer in new_layers.items()}:
        return "warm start: the last blessed model has another trunk or head; started cold"
    for name, layer in new_layers.items():
        layer.set_weights(values[name])
    new = [label for label in labels if label not in set(old_labels)]
    gone = [label for label in old_labels if label not in set(labels)]
    told = [f"new: {', '.join(new)}"] if new else []
    told += [f"gone: {', '.join(gone)}"] if gone else []
    return "warm start from the last blessed model" + (f" ({'; '.join(told)})" if told else "")


def _by_label(weights: list[np.ndarray], old: Sequence[str], new: Sequence[str]) -> list[np.ndarray]:
    """Kernel [D, C] and bias [C] with their columns in the order of the new labels; zeros where there was none."""
    place = {label: number for number, label in enumerate(old)}
    rearranged = []
    for weight in weights:
        columns = [weight[..., place[label]] if label in place else np.zeros_like(weight[..., 0]) for label in new]
        rearranged.append(np.stack(columns, axis=-1))
    return rearranged
