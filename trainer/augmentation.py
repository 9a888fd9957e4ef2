"""Augmentation: random changes to training images, by Keras' own preprocessing layers.

The augmentation runs on the Transform's output, in training only. No exported model holds any of it. The pixels are
already normalised for the backbone, so they are first scaled back to 0..255, the range of the contrast and brightness
layers. Geometric layers fill uncovered areas by reflection (their default), because a black rim would be a feature that
only training images have.

Every image has a seed of its own, which `seeds` makes from the image's content. So the changes do not depend on the
batch, the order or the thread.
"""

import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from graftline.trainer import backbones
from graftline.trainer.settings import AugmentationSettings

_RANGE = (0, 255)


def seeds(sha256: tf.Tensor | str | Sequence[str], seed: int, view: tf.Tensor | int) -> tf.Tensor:
    """Return the seeds of images' augmented views, int32 [2] or [b, 2], the same in Python and inside a tf.data map.

    They follow from the digests of the images' bytes in hex, string [] or [b], the run's seed, and the number of the
    view (or the epoch), int [] or [b].
    """
    text = tf.strings.join([sha256, str(seed), tf.strings.as_string(view)], "/")
    # TensorFlow's documentation promises that this string hash will never change.
    return tf.bitcast(tf.strings.to_hash_bucket_fast(text, tf.int64.max), tf.int32)


class _Draws(keras.random.SeedGenerator):
    """Gives the layers seeds that follow from a tensor.

    Keras' own class keeps a counter in a variable, and the threads of a parallel map would race for it. So the base
    class's state is never created. The counter here counts while the graph is traced.
    """

    def __init__(self, seed: tf.Tensor) -> None:
        self._seed, self._count = seed, 0

    def next(self, ordered: bool = True) -> tf.Tensor:
        """Return the next seed, int32 [2]."""
        self._count += 1
        return tf.random.fold_in(self._seed, self._count)


def _layers(settings: AugmentationSettings, size: int) -> list[keras.Layer]:
    layers: list[keras.Layer] = []
    # One layer for each direction: Keras' "horizontal_and_vertical" draws once, so it only turns images by 180°.
    for direction in ("horizontal", "vertical"):
        if settings.flip in (direction, "both"):
            layers.append(keras.layers.RandomFlip(direction))
    if settings.crop:
        enlarged = size + math.ceil(size * settings.crop)
        layers += [keras.layers.Resizing(enlarged, enlarged), keras.layers.RandomCrop(size, size)]
    if settings.rotation:
        layers.append(keras.layers.RandomRotation(settings.rotation))
    if settings.zoom:
        layers.append(keras.layers.RandomZoom(settings.zoom))
    if settings.translation:
        layers.append(keras.layers.RandomTranslation(settings.translation, settings.translation))
    if settings.contrast:
        # A pair, because Keras 3.10 turns a single number into the range 1..1+factor, which never lowers the contrast.
        layers.append(keras.layers.RandomContrast((settings.contrast, settings.contrast), _RANGE))
    if settings.brightness:
        layers.append(keras.layers.RandomBrightness(settings.brightness, _RANGE))
    return layers


def _normalisation(mode: backbones.Mode) -> tuple[tf.Tensor, tf.Tensor]:
    """Return scale and offset, float32 [3], that turn 0..255 into the trunk's input, for each input channel."""
    ends = np.stack([np.full([1, 1, 3], end, np.float32) for end in _RANGE])
    low, high = np.asarray(backbones.preprocess_input(mode)(ends), np.float64).reshape(2, 3)
    return tf.constant((high - low) / 255, tf.float32), tf.constant(low, tf.float32)


def build(
    settings: AugmentationSettings, size: int, mode: backbones.Mode
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Return the augmentation of a batch, for a tf.data map (also a parallel one) or a direct call.

    It is a function from pixels float32 [b, size, size, 3], preprocessed in that mode, and their seeds int32 [b, 2]
    to changed pixels of the same shape. Each image is changed by its own seed. The same image and seed always give the
    same result. Call `build` once, outside of the map, because it creates layers.
    """
    if not settings.enabled:
        return lambda pixels, seeds: pixels
    layers = _layers(settings, size)
    scale, offset = _normalisation(mode)

    def augment_image(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draws = _Draws(seed)
        for layer in layers:
            image = layer.transform_single_image(image, layer.get_random_transformation(image, seed=draws))
        return image

    @tf.function(reduce_retracing=True)
    def augment(pixels: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        images = (tf.ensure_shape(pixels, [None, size, size, 3]) - offset) / scale
        # Image by image: RandomCrop takes one window for a whole batch, and other layers draw by position in the batch.
        images = tf.map_fn(lambda pair: augment_image(*pair), (images, seeds), fn_output_signature=pixels.dtype)
        return tf.clip_by_value(images, *_RANGE) * scale + offset

    return augment
