"""The boundary: what lies under the lowest trainable layer gives the same in every epoch, so it is run once.

`find_cut` finds the last single tensor under the trainable layers, `above` is the model that trains on it, `Frozen` the
part below. That runs with `training=False`: in Keras 3 dropout and StochasticDepth of a frozen trunk work on in `fit`.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence

import keras
import numpy as np
import tensorflow as tf

from graftline.trainer import models


def find_cut(model: keras.Model, above: Collection[keras.Layer]) -> keras.KerasTensor:
    """The last tensor that everything in `above` depends on alone.

    Walks the graph in topological order and keeps the set of tensors that are still to be used; where that
    is one tensor the graph can be cut. The model's input is always such a place.

    Args:
      model: a functional model with one input.
      above: layers that must lie above the cut.
    """
    wanted = set(map(id, above))
    nodes = [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]
    uses: dict[int, int] = {}
    for node in nodes:
        for tensor in node.input_tensors:
            uses[id(tensor)] = uses.get(id(tensor), 0) + 1
    for tensor in model.outputs:
        uses[id(tensor)] = uses.get(id(tensor), 0) + 1
    open_tensors: dict[int, keras.KerasTensor] = {}
    cut = model.inputs[0]
    for node in nodes:
        if id(node.operation) in wanted:
            break
        for tensor in node.input_tensors:
            uses[id(tensor)] -= 1
            if not uses[id(tensor)]:
                open_tensors.pop(id(tensor), None)
        for tensor in node.output_tensors:
            open_tensors[id(tensor)] = tensor
        if len(open_tensors) == 1:
            (cut,) = open_tensors.values()
    return cut


def above(model: keras.Model, cut: keras.KerasTensor) -> keras.Model:
    """The part of `model` from `cut` to its output; it shares the layers, and so the weights."""
    return model if cut is model.inputs[0] else keras.Model(cut, model.output, name="above_boundary")


class Frozen:
    """The part of a model from its input to some tensors, in inference mode; traced when it is first called.

    Its weights are those of that moment; see `models.inference`.
    """

    def __init__(self, model: keras.Model, tensors: Sequence[keras.KerasTensor]) -> None:
        self.tensors = list(tensors)
        self._part = keras.Model(model.inputs[0], self.tensors)
        self._run: Callable[[tf.Tensor], list[tf.Tensor]] | None = None

    def __call__(self, pixels: tf.Tensor) -> list[tf.Tensor]:
        """Pixels float32 [b, size, size, 3] to float32 [b, …] for each tensor."""
        if self._run is None:
            run, _ = models.inference(self._part)
            # By its signature traced once, whatever the size of the last batch.
            spec = tf.TensorSpec([None, *self._part.inputs[0].shape[1:]])
            self._run = tf.function(run, input_signature=[spec], autograph=False)
        return self._run(pixels)

    def fingerprints(self, identity: str) -> list[str]:
        """Names what is computed at each tensor, in 32 hex digits: by all layers and weights under it, and `identity`.

        `identity` is all else that decides the numbers: how pixels are made, the options that the trunk was built with.
        """
        names = []
        for tensor in self.tensors:
            part = keras.Model(self._part.inputs[0], tensor)
            # Those without weights too; Keras numbers inputs anew for each model.
            layers = [[type(layer).__name__, layer.name] for layer in part.layers[1:]]
            what = [identity, layers, list(tensor.shape), tf.__version__, keras.__version__]
            digest = hashlib.sha256(json.dumps(what).encode())
            for weight in part.weights:
                digest.update(np.ascontiguousarray(weight.numpy()).data)
            names.append(digest.hexdigest()[:32])
        return names
