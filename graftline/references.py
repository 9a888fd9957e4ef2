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
            probabilities = tf.train.FloatList(value=reference.probabilities)
            feature = {
                features.FILENAME: of_bytes(reference.filename.encode()),
                features.IMAGE: of_bytes(reference.image_bytes),
                signatures.PROBABILITIES: tf.train.Feature(float_list=probabilities),
            }
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
        references.append(
            Reference(
                feature[features.FILENAME].bytes_list.value[0].decode(),
                feature[features.IMAGE].bytes_list.value[0],
                np.array(feature[signatures.PROBABILITIES].float_list.value, np.float32),
            )
        )
    return references
