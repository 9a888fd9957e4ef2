"""Reference predictions: the trained model's answers, computed without the exported graph.

The bytes of some eval images lie next to the SavedModel, with the probabilities of the live Keras model. Whoever serves
the model compares its answers with these, because served must equal trained. The second path from bytes to pixels in
this module exists on purpose, for that use only.
"""

import contextlib
import io
import math
import random
import struct
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from graftline import features
from graftline.references import Reference
from graftline.trainer import backbones, inputs
from graftline.trainer.settings import TrainerSettings

COUNT = 32

Predict = Callable[[np.ndarray], np.ndarray]  # pixels float32 [n, size, size, 3] to probabilities [n, C]


def _upright(image_bytes: bytes) -> np.ndarray:
    """Decode an image with TensorFlow, transparent pixels on white, and rotate it as Pillow reads the orientation.

    The result is uint8 [h, w, 3].
    """
    if image_bytes.startswith(b"\x89PNG"):
        colour, alpha = np.split(np.float32(tf.io.decode_png(image_bytes, channels=4)), [3], axis=-1)
        return np.rint((colour * alpha + 255 * (255 - alpha)) / 255).astype(np.uint8)
    pixels = tf.io.decode_image(image_bytes, channels=3, expand_animations=False).numpy()
    if not image_bytes.startswith(b"\xff\xd8"):
        return pixels  # the serving graph rotates JPEGs only, and Pillow refuses some PNGs that TensorFlow reads
    with Image.open(io.BytesIO(image_bytes)) as image:
        exif = Image.Exif()
        try:
            exif.load(image.info.get("exif", b""))
            orientation = exif.get(0x0112, 1)
        except (SyntaxError, ValueError, struct.error, KeyError, IndexError, OSError):  # Pillow's errors for damage
            orientation = 1
    if orientation == 1:
        return pixels
    upright = Image.fromarray(pixels)
    upright.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(upright))


def _resize(image: np.ndarray, size: int, method: str) -> np.ndarray:
    """Resize an image uint8 [h, w, 3] to float32 [size, size, 3]; `method` is that of `data.resize`."""
    height, width = image.shape[:2]
    if method == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
    inner = (size, size)
    if method == "pad":
        longest = max(height, width)
        inner = (max(1, math.floor(height * size / longest + 0.5)), max(1, math.floor(width * size / longest + 0.5)))
    resized = keras.ops.image.resize(np.float32(image), inner, interpolation="bilinear", antialias=True)
    top, left = (size - inner[0]) // 2, (size - inner[1]) // 2
    square = np.zeros([size, size, 3], np.float32)
    square[top : top + inner[0], left : left + inner[1]] = keras.ops.convert_to_numpy(resized)
    return square


@contextlib.contextmanager
def _full_float32() -> Iterator[None]:
    """Switch off TensorFloat-32, in which a GPU rounds to three digits, because the model is also served on CPUs."""
    was_enabled = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(was_enabled)


def compute(predict: Predict, settings: TrainerSettings, records: inputs.Records) -> list[Reference]:
    """Return references for COUNT records that the run's seed draws, or for all records if there are fewer."""
    preprocess_input = backbones.preprocess_input(settings.backbone.mode)
    names, files, batch = [], [], []
    rows = random.Random(settings.seed).sample(range(len(records)), min(COUNT, len(records)))
    for record in records.read(sorted(rows)):
        feature = tf.train.Example.FromString(record).features.feature
        image_bytes = feature[features.IMAGE].bytes_list.value[0]
        image = _resize(_upright(image_bytes), settings.backbone.size, settings.resize)
        names.append(feature[features.FILENAME].bytes_list.value[0].decode())
        files.append(image_bytes)
        batch.append(preprocess_input(np.rint(image) if settings.materialize else image))
    if not batch:
        return []
    with _full_float32():
        probabilities = predict(np.stack(batch))
    return [Reference(*fields) for fields in zip(names, files, probabilities, strict=True)]
