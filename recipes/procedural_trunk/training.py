"""Trains the trunk that ships: it learns to distinguish drawing programs and to name their attributes."""

import itertools
import math
import pathlib
import tempfile
import time
from collections.abc import Iterator

import h5py
import keras
import numpy as np
import tensorflow as tf

from recipes.procedural_trunk.drawing import Drawn
from recipes.procedural_trunk.programs import ATTRIBUTES
from recipes.procedural_trunk.recipe import Recipe

ALPHA = 0.35
_SETTLING = 100  # forward batches that update the moving statistics at the end


def save(trunk: keras.Model, path: pathlib.Path) -> None:
    """Write the weights for `keras.applications.MobileNetV2(alpha=0.35, include_top=False)`, rounded to float16.

    Raises:
      FloatingPointError: a weight is NaN, or too large for float16.
    """
    for weight in trunk.weights:
        if not np.abs(weight.numpy()).max() <= np.finfo(np.float16).max:  # NaN compares as False
            raise FloatingPointError(f"{weight.path} is NaN, or too large for float16: give a lower --rate")
    plain = keras.applications.MobileNetV2(input_shape=(96, 96, 3), alpha=ALPHA, include_top=False, weights=None)
    plain.set_weights(trunk.get_weights())
    with tempfile.TemporaryDirectory() as folder:
        whole = pathlib.Path(folder, "whole.weights.h5")
        plain.save_weights(whole)
        with h5py.File(whole) as source, h5py.File(path, "w") as target:
            target.attrs.update(source.attrs)

            def copy(name: str, node: h5py.Group | h5py.Dataset) -> None:
                if isinstance(node, h5py.Dataset):
                    target.create_dataset(name, data=node[()].astype(np.float16), compression="gzip")
                else:
                    target.require_group(name).attrs.update(node.attrs)

            source.visititems(copy)


class _BatchNormalization(keras.layers.BatchNormalization):
    """BatchNormalization as one operation, not Keras' ten or so: this trunk trains 1.6 times as fast."""

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: None = None) -> tf.Tensor:
        """Normalise a batch; in training also update the moving statistics."""
        if not training:
            return super().call(inputs, training=False)
        none = tf.zeros([0])
        output, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=self.gamma, offset=self.beta, mean=none, variance=none, epsilon=self.epsilon
        )
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + now * (1 - self.momentum))
        return output


def build(seed: int) -> keras.Model:
    """Build the trunk with average pooling and random weights, for images of any size."""
    keras.utils.set_random_seed(seed)
    trunk = keras.applications.MobileNetV2(
        input_shape=(None, None, 3), alpha=ALPHA, include_top=False, weights=None, pooling="avg"
    )

    def clone(layer: keras.Layer) -> keras.Layer:
        settings = layer.get_config()
        if isinstance(layer, keras.layers.BatchNormalization):
            # Keras' momentum of 0.999 is too slow for a run this short.
            return _BatchNormalization.from_config(settings | {"momentum": 0.98})
        return type(layer).from_config(settings)

    return keras.models.clone_model(trunk, clone_function=clone)


def _batches(drawn: Drawn, batch: int, random: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches without end, each epoch in a new order."""
    while True:
        order = random.permutation(len(drawn.labels))
        for start in range(0, len(order) - batch + 1, batch):
            rows = order[start : start + batch]
            yield drawn.images[rows], drawn.labels[rows]


def _boxes(recipe: Recipe, count: int, random: np.random.Generator) -> np.ndarray:
    """Return a random box in each image, as `tf.image.crop_and_resize` takes it: float32 (n, 4)."""
    area = random.uniform(recipe.smallest_crop, 1, count)
    ratio = np.exp(random.uniform(math.log(3 / 4), math.log(4 / 3), count))
    height, width = np.minimum(np.sqrt(area / ratio), 1), np.minimum(np.sqrt(area * ratio), 1)
    top, left = random.uniform(0, 1 - height), random.uniform(0, 1 - width)
    return np.stack([top, left, top + height, left + width], axis=1).astype(np.float32)


def _augmented(images: tf.Tensor, boxes: tf.Tensor, size: int, recipe: Recipe) -> tf.Tensor:
    """Crop, and change brightness, contrast and saturation or remove colour: float32 (n, size, size, 3), -1..1."""
    count = tf.shape(images)[0]
    pixels = tf.image.crop_and_resize(images, boxes, tf.range(count), (size, size))
    strengths = tf.random.uniform((3, count, 1, 1, 1), 1 - recipe.jitter, 1 + recipe.jitter)
    pixels *= strengths[0]
    middle = tf.reduce_mean(pixels, axis=(1, 2, 3), keepdims=True)
    pixels = middle + (pixels - middle) * strengths[1]
    gray = tf.reduce_mean(pixels, axis=3, keepdims=True)
    colour = tf.where(tf.random.uniform((count, 1, 1, 1)) < recipe.gray, 0.0, strengths[2])
    return tf.clip_by_value(gray + (pixels - gray) * colour, 0, 255) / 127.5 - 1


class _Pretraining:
    """The trunk with two kinds of heads: the program's number, through a projection, and the attributes."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        self.recipe, self.trunk = recipe, build(seed)
        features = keras.Input((self.trunk.output_shape[-1],))
        projected = features
        if recipe.projection:
            projected = keras.layers.Dense(recipe.projection, use_bias=False)(projected)
            projected = keras.layers.Activation("relu")(keras.layers.BatchNormalization(momentum=0.98)(projected))
        logits = [keras.layers.Dense(size)(features) for size in ATTRIBUTES.values()]
        self.heads = keras.Model(features, [keras.layers.Dense(recipe.programs)(projected), *logits])
        steps = recipe.images // recipe.batch
        warm = max(1, round(0.03 * steps))
        rate = keras.optimizers.schedules.CosineDecay(0.0, steps - warm, warmup_target=recipe.rate, warmup_steps=warm)
        self.optimizer = keras.optimizers.AdamW(rate, weight_decay=recipe.decay, clipnorm=5)
        self.optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
        self.variables = self.trunk.trainable_variables + self.heads.trainable_variables
        self.optimizer.build(self.variables)
        self.step = tf.function(self._step)

    def _step(self, images: tf.Tensor, boxes: tf.Tensor, labels: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Train one step. The batch's halves are two branches of one graph, one for each core."""
        gradients, losses, correct = [], [], []
        for half in zip(*(tf.split(part, 2) for part in (images, boxes, labels)), strict=True):
            with tf.GradientTape() as tape:
                features = self.trunk(_augmented(half[0], half[1], size, self.recipe), training=True)
                logits = self.heads(features, training=True)
                loss = self._loss(half[2], logits)
            gradients.append(tape.gradient(loss, [variable.value for variable in self.variables]))
            losses.append(loss)
            correct.append(tf.argmax(logits[0], axis=1, output_type=tf.int32) == half[2][:, 0])
        self.optimizer.apply([(a + b) / 2 for a, b in zip(*gradients, strict=True)], self.variables)
        return tf.add_n(losses) / 2, tf.reduce_mean(tf.cast(tf.concat(correct, 0), tf.float32))

    def _loss(self, labels: tf.Tensor, logits: list[tf.Tensor]) -> tf.Tensor:
        smooth = 0.1 / self.recipe.programs
        number = tf.one_hot(labels[:, 0], self.recipe.programs, 0.9 + smooth, smooth)
        loss = tf.nn.softmax_cross_entropy_with_logits(number, logits[0])
        for column, scores in enumerate(logits[1:], 1):
            loss += self.recipe.attributes * tf.nn.sparse_softmax_cross_entropy_with_logits(labels[:, column], scores)
        return tf.reduce_mean(loss)

    def settle(self, batches: Iterator[tuple[np.ndarray, np.ndarray]], random: np.random.Generator, size: int) -> None:
        """Update the moving statistics (0.98^100 = 13 % of the old ones stay), at the size that the weights are for."""
        forward = tf.function(
            lambda images, boxes: self.trunk(_augmented(images, boxes, size, self.recipe), training=True)
        )
        for images, _ in itertools.islice(batches, _SETTLING):
            forward(images, _boxes(self.recipe, len(images), random))


def train(recipe: Recipe, seed: int, drawn: Drawn, every: float = 60.0) -> keras.Model:
    """Train the trunk and print the progress, a line each `every` seconds. Nothing may have used TensorFlow before."""
    tf.config.threading.set_intra_op_parallelism_threads(1)  # two operations at once with a thread each, for `_step`
    tf.config.threading.set_inter_op_parallelism_threads(2)
    random = np.random.default_rng((seed, 1 << 40))
    pretraining = _Pretraining(recipe, seed)
    batches = _batches(drawn, recipe.batch, random)
    start = last = time.monotonic()
    seen, losses, accuracies = 0, [], []
    for size, part in recipe.sizes:
        for images, labels in itertools.islice(batches, round(recipe.images * part / recipe.batch)):
            loss, accuracy = pretraining.step(images, _boxes(recipe, len(images), random), labels, size)
            losses.append(loss)
            accuracies.append(accuracy)
            seen += len(images)
            if time.monotonic() - last > every:
                last = time.monotonic()
                progress = f"{last - start:6.0f} s  {seen:9,} images  {size} px  loss {np.mean(losses):.3f}"
                speed = f"{seen / (last - start):,.0f} images/s"
                print(f"{progress}  programs {np.mean(accuracies):.3f}  {speed}", flush=True)
                losses, accuracies = [], []
    pretraining.settle(batches, random, recipe.sizes[-1][0])
    return pretraining.trunk
