"""The Transform's `preprocessing_fn`: one graph before the model for training, the gate and serving."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam

from graftline import features, materialized
from graftline.components.transform import pixels
from graftline.trainer import backbones

# ImageNet's statistics, from keras/src/applications/imagenet_utils.py.
_TORCH_MEAN, _TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


def preprocess(image: tf.Tensor, mode: backbones.Mode) -> tf.Tensor:
    """Preprocess RGB in 0..255, float32 [..., 3], as `trainer.backbones` defines the modes.

    The result has the same shape; for the mode "caffe" its channels are BGR.
    """
    if isinstance(mode, Mapping):
        return (image - tf.constant(mode["mean"], tf.float32)) / tf.sqrt(tf.constant(mode["variance"], tf.float32))
    if mode == "rescale":
        return image / 255.0
    if mode == "tf":
        return image / 127.5 - 1.0
    if mode == "torch":
        return (image / 255.0 - tf.constant(_TORCH_MEAN)) / tf.constant(_TORCH_STD)
    if mode == "caffe":
        return tf.reverse(image, [-1]) - tf.constant(_CAFFE_MEAN_BGR)
    return image


def _distinct(batch: tuple[np.ndarray]) -> Iterable[bytes]:
    return set(batch[0].ravel().tolist())


def _write_sorted(labels: list[bytes], path: str) -> np.ndarray:
    tf.io.gfile.makedirs(os.path.dirname(path))
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(b"\n".join(sorted(labels)) + b"\n")
    return np.array(path.encode())


class _SortedLabels(tft_beam.experimental.PTransformAnalyzer):
    """Writes the distinct labels, sorted by code point as Keras sorts classes, to an asset file.

    `tft.vocabulary` sorts by frequency, so new data would permute the model's outputs.
    """

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        """Return the path of the file."""
        path = os.path.join(self.base_temp_dir, features.LABELS_FILE)
        return (
            batches
            | "DistinctInBatch" >> beam.FlatMap(_distinct)
            | "Distinct" >> beam.Distinct()
            | "ToList" >> beam.combiners.ToList()
            | "WriteSorted" >> beam.Map(_write_sorted, path)
        )


def preprocessing_fn(inputs: Mapping[str, Any], custom_config: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """Make the backbone's pixels and the label's index.

    Args:
        inputs: raw features by name; `image/encoded` and `image/class/text` are used, string [N] or [N, 1].
        custom_config: `preprocessing` (a mode) and `input_size` (pixels); optionally `resize` ("stretch" by
            default, see `pixels.to_square`) and `materialize` (false by default).

    Returns:
        `pixels` float32 [N, size, size, 3]; `label_index` int64 [N], -1 for a label that is not in the train split.
        With `materialize` the pixels are rounded before the backbone's preprocessing, and are also returned as they are
        stored: `image/resized` float32 [N, size, size, 3], 0..255 (TFT has no uint8).
    """
    size, mode = int(custom_config["input_size"]), custom_config["preprocessing"]
    image = pixels.decode_batch(tf.reshape(inputs[features.IMAGE], [-1]), size, custom_config.get("resize", "stretch"))
    stored = {}
    if custom_config.get("materialize", False):
        image = tf.round(image)
        stored[materialized.IMAGE] = image
    label = tf.reshape(inputs[features.LABEL], [-1])
    (labels_file,) = tft.experimental.ptransform_analyzer(
        inputs=[label],
        ptransform=_SortedLabels(),
        output_dtypes=[tf.string],
        output_shapes=[[]],
        output_asset_default_values=[b"labels"],
        name="sorted_labels",
    )
    return {
        **stored,
        features.PIXELS: preprocess(image, mode),
        features.LABEL_INDEX: tft.apply_vocabulary(label, labels_file, default_value=-1),
    }
