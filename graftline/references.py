"""Reference predictions: the answers of the live Keras model for some eval images, in a file next to its SavedModel.

The Trainer writes them. The ServingValidator compares the answers of a model server with them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graftline import features, signatures

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Reference:
    """An image file's name and bytes, and the live model's probabilities float32 [C]."""

    filename: str
    image_bytes: bytes
    probabilities: "np.ndarray"


def write(references: Sequence[Reference], path: str) -> None:
    """Write references as a TFRecord of tf.Examples."""
    import tensorflow as tf

    def of_bytes(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    with tf.io.TFRecordWriter(path) as writer:
        for reference in references:
            probabilities = tf.train.Feature(float_list=tf.train.FloatList(value=reference.probabilities))
            filename, image = of_bytes(reference.filename.encode()), of_bytes(reference.image_bytes)
            feature = {features.FILENAME: filename, features.IMAGE: image, signatures.PROBABILITIES: probabilities}
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString(deterministic=True))


def read(path: str) -> list[Reference]:
    """Return the references of a file that `write` made; an empty list where there is no file."""
    import numpy as np
    import tensorflow as tf

    if not tf.io.gfile.exists(path):
        return []
    references = []
    for record in tf.data.TFRecordDataset([path]).as_numpy_iterator():
        feature = tf.train.Example.FromString(record).features.feature
        filename, image = (feature[name].bytes_list.value[0] for name in (features.FILENAME, features.IMAGE))
        probabilities = np.array(feature[signatures.PROBABILITIES].float_list.value, np.float32)
        references.append(Reference(filename.decode(), image, probabilities))
    return references
