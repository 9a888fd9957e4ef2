"""The boundary: what lies under the lowest trainable layer gives the same in every epoch, so it is run once.

`find_cut` finds the last single tensor under the trainable layers, `compute` runs the frozen part and keeps the
activations on disk, `Activations` feeds them to `fit`, and `above` is the model that trains on them. Everything under
the cut runs with `training=False`: Keras 3 leaves dropout and StochasticDepth of a frozen trunk active in `fit`.
"""

import pathlib
from collections.abc import Collection, Iterable

import keras
import numpy as np
import tensorflow as tf


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


class Activations(keras.utils.PyDataset):
    """Batches of activations and labels, for `fit` and `predict`.

    `x` is float32 [n, …] (a memory map: rows are read when asked for), `y` int64 [n]. Shuffled anew for each epoch,
    by the seed alone, when `seed` is given.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, batch_size: int, seed: int | None = None) -> None:
        super().__init__()
        self._x, self._y, self._batch_size = x, y, batch_size
        self._random = None if seed is None else np.random.default_rng(seed)
        self._order = np.arange(len(y))
        self.on_epoch_end()

    def __len__(self) -> int:
        return -(-len(self._y) // self._batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        return self._x[rows], self._y[rows]

    def on_epoch_end(self) -> None:
        if self._random is not None:
            self._random.shuffle(self._order)


def compute(
    model: keras.Model,
    tensors: list[keras.KerasTensor],
    batches: Iterable[tuple[tf.Tensor, tf.Tensor]],
    folder: pathlib.Path,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Runs the model up to `tensors` over all batches, once, and keeps the results on disk.

    Args:
      model: the whole model.
      tensors: of its graph.
      batches: pixels float32 [b, size, size, 3] and label index int64 [b].
      folder: for the files; made if it is not there.

    Returns:
      For each tensor a memory map float32 [n, …], and the labels int64 [n], in the order of the batches.
    """
    folder.mkdir(parents=True, exist_ok=True)
    below = keras.Model(model.inputs[0], tensors)

    @tf.function(reduce_retracing=True)
    def run(pixels: tf.Tensor) -> list[tf.Tensor]:
        return keras.tree.flatten(below(pixels, training=False))  # Keras unwraps a list of one

    labels: list[np.ndarray] = []
    paths = [folder / f"{number}.float32" for number in range(len(tensors))]
    files = [path.open("wb") for path in paths]
    for pixels, label in batches:
        labels.append(label.numpy())
        for file, values in zip(files, run(pixels), strict=True):
            values.numpy().astype(np.float32, copy=False).tofile(file)
    for file in files:
        file.close()
    y = np.concatenate(labels) if labels else np.zeros([0], np.int64)
    maps: list[np.ndarray] = [
        np.memmap(path, np.float32, "r", shape=(len(y), *tensor.shape[1:]))
        for path, tensor in zip(paths, tensors, strict=True)
    ]
    return maps, y
