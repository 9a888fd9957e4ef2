"""The boundary: what lies under the lowest trainable layer gives the same in every epoch, so it runs once.

`find_cut` finds the last tensors under the trainable layers, one where it can. `part_above` is the model that trains on
them.
`FrozenPart` is the part below. It runs with `training=False`, because in Keras 3 the dropout and StochasticDepth of a
frozen trunk stay active in `fit`.
"""

import collections
import hashlib
import json
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from graftline.trainer import models

Boundary = tuple[keras.KerasTensor, ...]


def is_input(model: keras.Model, cut: Boundary) -> bool:
    """Return whether nothing lies under the boundary."""
    return len(cut) == 1 and cut[0] is model.inputs[0]


def as_inputs(values: Sequence[Any]) -> Any:
    """Return what a model that begins at a boundary takes: the one value, or a tuple of all."""
    return values[0] if len(values) == 1 else tuple(values)


def numbers(cut: Boundary) -> int:
    """Return how many numbers one image has at the boundary."""
    return sum(math.prod(tensor.shape[1:]) for tensor in cut)


def find_cut(model: keras.Model, above: Collection[keras.Layer]) -> Boundary:
    """Return the last tensor on which alone everything in `above` depends, or several if they hold fewer numbers.

    NASNet's cells read the two cells before them, so that its last single tensor lies in the stem.
    """
    nodes = [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]
    single = _last_single(model, nodes, above)
    several = _merge(nodes, _frontier(nodes, above), single)
    return several if len(several) > 1 and numbers(several) < numbers((single,)) else (single,)


def _last_single(model: keras.Model, nodes: Sequence[Any], above: Collection[keras.Layer]) -> keras.KerasTensor:
    """Return the last tensor on which alone everything in `above` depends.

    The function walks the graph in topological order and keeps the set of tensors that later layers still use. Where
    the set holds one tensor, the graph can be cut. The one input of the functional model is always such a place.
    """
    layers_above = set(map(id, above))
    uses = collections.Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    uses.update(map(id, model.outputs))
    open_tensors: dict[int, keras.KerasTensor] = {}
    cut = model.inputs[0]
    for node in nodes:
        if id(node.operation) in layers_above:
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


def _frontier(nodes: Sequence[Any], above: Collection[keras.Layer]) -> Boundary:
    """Return all tensors that do not depend on `above` and that something which does, or is in `above`, reads."""
    layers_above = set(map(id, above))
    dependent: set[int] = set()
    frontier: dict[int, keras.KerasTensor] = {}
    for node in nodes:
        if id(node.operation) in layers_above or not dependent.isdisjoint(map(id, node.input_tensors)):
            dependent.update(map(id, node.output_tensors))
            frontier |= {id(tensor): tensor for tensor in node.input_tensors if id(tensor) not in dependent}
    return tuple(frontier.values())


def _merge(nodes: Sequence[Any], cut: Boundary, lowest: keras.KerasTensor) -> Boundary:
    """Replace tensors above `lowest` by one that they are computed from, where the boundary then holds less."""
    inputs_of = {id(tensor): node.input_tensors for node in nodes for tensor in node.output_tensors}
    cut = _needed(nodes, cut)
    while True:
        candidates = [lower for tensor in cut if tensor is not lowest for lower in inputs_of[id(tensor)]]
        smaller = (_needed(nodes, (*cut, candidate)) for candidate in candidates)
        better = next((merged for merged in smaller if numbers(merged) < numbers(cut)), None)
        if better is None:
            return cut
        cut = better


def _needed(nodes: Sequence[Any], cut: Boundary) -> Boundary:
    """Return the tensors that cannot be computed from the others of `cut`."""
    members = set(map(id, cut))
    known: set[int] = set()
    needed = []
    for node in nodes:
        if node.input_tensors and known.issuperset(map(id, node.input_tensors)):
            known.update(map(id, node.output_tensors))
        else:
            own = [tensor for tensor in node.output_tensors if id(tensor) in members]
            known.update(map(id, own))
            needed += own
    return tuple(needed)


def part_above(model: keras.Model, cut: Boundary) -> keras.Model:
    """Return the part of `model` from `cut` to its output. It shares the layers, and so the weights."""
    return model if is_input(model, cut) else keras.Model(as_inputs(cut), model.output, name="above_boundary")


class FrozenPart:
    """The part of a model from its input to some tensors, in inference mode.

    The first call traces it and fixes its weights; see `models.inference`.
    """

    def __init__(self, model: keras.Model, tensors: Sequence[keras.KerasTensor]) -> None:
        """Build the part of `model` that ends at `tensors`."""
        self.tensors = list(tensors)
        self._part = keras.Model(model.inputs[0], self.tensors)
        self._run: Callable[[tf.Tensor], list[tf.Tensor]] | None = None

    def __call__(self, pixels: tf.Tensor) -> list[tf.Tensor]:
        """Compute float32 [b, …] for each tensor from pixels float32 [b, size, size, 3]."""
        if self._run is None:
            run, _ = models.inference(self._part)
            # The signature avoids a second trace for a smaller last batch.
            spec = tf.TensorSpec([None, *self._part.inputs[0].shape[1:]])
            self._run = tf.function(run, input_signature=[spec], autograph=False)
        return self._run(pixels)

    def index(self, tensor: keras.KerasTensor) -> int:
        """Return the place of a tensor among those that a call computes."""
        return [id(one) for one in self.tensors].index(id(tensor))

    def fingerprints(self, identity: str) -> list[str]:
        """Return a name for what is computed at each tensor: 32 hex digits from all layers and weights under it.

        `identity` is all else that decides the numbers, such as how pixels are made and the trunk's options.
        """
        names = []
        for tensor in self.tensors:
            part = keras.Model(self._part.inputs[0], tensor)
            # Layers without weights count too. The first is left out, because Keras numbers inputs in each model anew.
            layers = [[type(layer).__name__, layer.name] for layer in part.layers[1:]]
            content = [identity, layers, list(tensor.shape), tf.__version__, keras.__version__]
            digest = hashlib.sha256(json.dumps(content).encode())
            for weight in part.weights:
                digest.update(np.ascontiguousarray(weight.numpy()).data)
            names.append(digest.hexdigest()[:32])
        return names
