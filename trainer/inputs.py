"""The training input: TFRecords of tf.Examples through the Transform's graph, as a tf.data pipeline."""

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_transform as tft

from graftline import features

# Images in one call of the Transform's graph; calls run in parallel.
_GRAPH_BATCH = 16


def serialized(file_patterns: Sequence[str]) -> tf.data.Dataset:
    """The serialized tf.Examples of all files that match, string [], in the order of the files' names."""
    paths = sorted(path for pattern in file_patterns for path in tf.io.gfile.glob(pattern))
    compression = "GZIP" if paths and paths[0].endswith(".gz") else ""
    return tf.data.TFRecordDataset(paths, compression_type=compression)


def raw_features(transform: tft.TFTransformOutput, names: Sequence[str]) -> dict[str, tf.io.FixedLenFeature]:
    """How to parse the named features out of a tf.Example."""
    spec = transform.raw_feature_spec()
    return {name: spec[name] for name in names}


def batches(
    file_patterns: Sequence[str], transform: tft.TFTransformOutput, batch_size: int, shuffle_seed: int | None = None
) -> tf.data.Dataset:
    """Preprocessed images and their labels.

    Args:
      file_patterns: of TFRecords.
      transform: the Transform's output.
      batch_size: images in a batch.
      shuffle_seed: shuffles anew for each epoch; file order when None.

    Returns:
      Batches of pixels float32 [b, size, size, 3] and label index int64 [b].
    """
    layer = transform.transform_features_layer()
    spec = raw_features(transform, [features.IMAGE, features.LABEL])

    def transformed(examples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        out = layer(tf.io.parse_example(examples, spec))
        return out[features.PIXELS], tf.reshape(out[features.LABEL_INDEX], [-1])

    dataset = serialized(file_patterns)
    if shuffle_seed is not None:
        # Records lie in the order of their content's hash; a larger buffer would hold gigabytes of phone photos.
        dataset = dataset.shuffle(512, seed=shuffle_seed, reshuffle_each_iteration=True)
    dataset = dataset.batch(_GRAPH_BATCH).map(transformed, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.unbatch().batch(batch_size).prefetch(2)
