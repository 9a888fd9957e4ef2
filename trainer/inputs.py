"""The training input: TFRecords of tf.Examples, in any order, through the Transform's graph, as tf.data pipelines."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from graftline import features
from graftline.errors import UserError

# Images in one call of the Transform's graph; calls run in parallel.
_GRAPH_BATCH = 16


class Records:
    """Random access to the tf.Examples of some TFRecord files.

    In memory is what each record says of its image, some 200 bytes: its content's sha256 (`keys`, 32 bytes each), the
    index of its label (`labels`, int64 [n]) and its name (`filenames`). The images' bytes are read when asked for.
    """

    def __init__(self, file_patterns: Sequence[str], classes: Sequence[str]) -> None:
        """Reads all records once.

        Args:
          file_patterns: of uncompressed TFRecords; files are read in the order of their names.
          classes: names in the order of the model's outputs.

        Raises:
          UserError: a label that is none of the classes.
        """
        self._paths = sorted(path for pattern in file_patterns for path in tf.io.gfile.glob(pattern))
        index = {name: number for number, name in enumerate(classes)}
        self.keys: list[bytes] = []
        self.filenames: list[str] = []
        labels: list[int] = []
        places: list[tuple[int, int, int]] = []
        for number, path in enumerate(self._paths):
            offset = 0
            for record in tf.data.TFRecordDataset([path]).as_numpy_iterator():
                feature = tf.train.Example.FromString(record).features.feature
                label = feature[features.LABEL].bytes_list.value[0].decode()
                filename = feature[features.FILENAME].bytes_list.value[0].decode()
                if label not in index:
                    raise UserError(
                        f"{filename} is of the class '{label}', which no image of the train split has: "
                        "give that class more images, so that both splits get some"
                    )
                self.keys.append(bytes.fromhex(feature[features.SHA256].bytes_list.value[0].decode()))
                self.filenames.append(filename)
                labels.append(index[label])
                places.append((number, offset + _HEADER, len(record)))
                offset += _HEADER + len(record) + _FOOTER
        self.labels = np.array(labels, np.int64)
        self._places = np.array(places, np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, rows: Sequence[int] | np.ndarray) -> Iterator[bytes]:
        """The serialized tf.Examples of these rows, in that order."""
        with contextlib.ExitStack() as stack:
            files: dict[int, tf.io.gfile.GFile] = {}
            for row in rows:
                number, offset, length = self._places[row].tolist()
                if number not in files:
                    files[number] = stack.enter_context(tf.io.gfile.GFile(self._paths[number], "rb"))
                files[number].seek(offset)
                yield files[number].read(length)

    def images(self, rows: Sequence[int] | np.ndarray) -> Iterator[bytes]:
        """The image files' bytes of these rows, in that order."""
        for record in self.read(rows):
            yield tf.train.Example.FromString(record).features.feature[features.IMAGE].bytes_list.value[0]


# A TFRecord is a length (8 bytes) and its checksum (4), the data, and their checksum (4).
_HEADER, _FOOTER = 12, 4


def raw_features(transform: tft.TFTransformOutput, names: Sequence[str]) -> dict[str, tf.io.FixedLenFeature]:
    """How to parse the named features out of a tf.Example."""
    spec = transform.raw_feature_spec()
    return {name: spec[name] for name in names}


class Pixels:
    """Makes batches of preprocessed images out of records: the Transform's graph, then augmentation when given."""

    def __init__(self, transform: tft.TFTransformOutput, augment: Callable[..., tf.Tensor] | None = None) -> None:
        """`augment` maps pixels [b, h, w, 3] and seeds int32 [b, 2] to pixels."""
        self._layer = transform.transform_features_layer()
        self._spec = raw_features(transform, [features.IMAGE])
        self._augment = augment

    def batches(
        self,
        records: Records,
        order: Callable[[], np.ndarray],
        batch_size: int,
        seeds: Callable[[], np.ndarray] | None = None,
    ) -> tf.data.Dataset:
        """Batches of pixels float32 [b, size, size, 3] and label index int64 [b].

        Args:
          records: the split.
          order: gives the rows to read; asked each time that the data set is gone through.
          batch_size: images in a batch.
          seeds: gives the augmentation's seeds for those rows, int32 [n, 2]; no augmentation when None.
        """
        augment = self._augment if seeds is not None else None

        def generate() -> Iterator[tuple[bytes, int, np.ndarray]]:
            rows = order()
            drawn = np.zeros([len(rows), 2], np.int32) if seeds is None else seeds()
            yield from zip(records.read(rows), records.labels[rows], drawn, strict=True)

        # AutoGraph finds nothing to convert here, and took three seconds to find that.
        @tf.autograph.experimental.do_not_convert
        def transformed(examples: tf.Tensor, labels: tf.Tensor, drawn: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            pixels = self._layer(tf.io.parse_example(examples, self._spec))[features.PIXELS]
            return (pixels if augment is None else augment(pixels, drawn)), labels

        dataset = tf.data.Dataset.from_generator(
            generate,
            output_signature=(
                tf.TensorSpec([], tf.string),
                tf.TensorSpec([], tf.int64),
                tf.TensorSpec([2], tf.int32),
            ),
        )
        dataset = dataset.batch(_GRAPH_BATCH).map(transformed, num_parallel_calls=tf.data.AUTOTUNE)
        return dataset.unbatch().batch(batch_size).prefetch(2)
