"""The training input: TFRecords of tf.Examples, in any order, through the Transform's graph, as tf.data pipelines.

With `data.materialize` the Transform has already run the first part of that graph and stored resized images. Then only
the backbone's preprocessing is left to do.
"""

import contextlib
import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from graftline import features, materialized
from graftline.errors import UserError
from graftline.trainer import backbones
from graftline.trainer.settings import BackboneSettings

# Images in one call of the Transform's graph; calls run in parallel.
_GRAPH_BATCH = 16


class Shards:
    """Random access to the tf.Examples of some uncompressed TFRecord files, in the order of the files' names."""

    def __init__(self, file_patterns: Sequence[str]) -> None:
        """List the files."""
        self._paths = sorted(path for pattern in file_patterns for path in tf.io.gfile.glob(pattern))
        self._places = np.zeros([0, 3], np.int64)

    def scan(self) -> Iterator[Mapping[str, tf.train.Feature]]:
        """Yield the features of all records, row by row. `read` works only after it."""
        places: list[tuple[int, int, int]] = []
        for number, path in enumerate(self._paths):
            offset = 0
            for record in tf.data.TFRecordDataset([path]).as_numpy_iterator():
                places.append((number, offset + _HEADER, len(record)))
                offset += _HEADER + len(record) + _FOOTER
                yield tf.train.Example.FromString(record).features.feature
        self._places = np.array(places, np.int64).reshape(-1, 3)

    def read(self, rows: Sequence[int] | np.ndarray) -> Iterator[bytes]:
        """Yield the serialized tf.Examples of these rows, in that order."""
        with contextlib.ExitStack() as stack:
            files: dict[int, tf.io.gfile.GFile] = {}
            for row in rows:
                number, offset, length = self._places[row].tolist()
                if number not in files:
                    files[number] = stack.enter_context(tf.io.gfile.GFile(self._paths[number], "rb"))
                files[number].seek(offset)
                yield files[number].read(length)


class Records(Shards):
    """The raw examples of a split.

    Memory holds some 200 bytes for each image: the sha256 of its content (`keys`, 32 bytes), its label index (`labels`,
    int64 [n]) and its name (`filenames`). The images' bytes are read on demand.
    """

    def __init__(self, file_patterns: Sequence[str], classes: Sequence[str]) -> None:
        """Read all records once; `classes` are in the order of the model's outputs.

        Raises:
          UserError: a label is not among the classes.
        """
        super().__init__(file_patterns)
        index = {name: number for number, name in enumerate(classes)}
        self.keys: list[bytes] = []
        self.filenames: list[str] = []
        labels: list[int] = []
        for feature in self.scan():
            label = feature[features.LABEL].bytes_list.value[0].decode()
            filename = feature[features.FILENAME].bytes_list.value[0].decode()
            if label not in index:
                raise UserError(
                    f"{filename} has the class '{label}', but no image of the train split has that class: "
                    "give the class more images, so that both splits get some"
                )
            self.keys.append(_sha256(feature))
            self.filenames.append(filename)
            labels.append(index[label])
        self.labels = np.array(labels, np.int64)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.keys)

    def few(self, per_class: int) -> "Records":
        """Return at most `per_class` images of each class: those that come first by the hash of their content."""
        rows: list[int] = []
        for label in np.unique(self.labels):
            rows += sorted(np.flatnonzero(self.labels == label).tolist(), key=lambda row: self.keys[row])[:per_class]
        rows.sort()
        part = copy.copy(self)
        part._places, part.labels = self._places[rows], self.labels[rows]
        part.keys, part.filenames = [self.keys[row] for row in rows], [self.filenames[row] for row in rows]
        return part

    def images(self, rows: Sequence[int] | np.ndarray) -> Iterator[bytes]:
        """Yield the image files' bytes of these rows, in that order."""
        for record in self.read(rows):
            yield tf.train.Example.FromString(record).features.feature[features.IMAGE].bytes_list.value[0]


class Resized(Shards):
    """The images of some records as the Transform has resized and stored them.

    An image is found by its file's sha256, because Beam may write images in another order.
    """

    def __init__(self, transform_output: str, backbone: BackboneSettings, splits: Sequence[Records]) -> None:
        """Read all images once, from the place that the Transform's output names.

        Raises:
          UserError: an image of the splits is missing.
        """
        with tf.io.gfile.GFile(os.path.join(transform_output, materialized.POINTER)) as file:
            uri = file.read()
        super().__init__([os.path.join(uri, "Split-*", "*")])
        self._size, self._preprocess = backbone.size, backbones.preprocess_input(backbone.mode)
        self._rows = {_sha256(feature): row for row, feature in enumerate(self.scan())}
        for records in splits:
            for key, filename in zip(records.keys, records.filenames, strict=True):
                if key not in self._rows:
                    raise UserError(
                        f"{filename} is not among the resized images in {uri}, because files were deleted there: "
                        "set data.materialize=false, or give a new workspace"
                    )

    def read_images(self, records: Records, rows: Sequence[int] | np.ndarray) -> Iterator[bytes]:
        """Yield the serialized tf.Examples of the resized images of these rows of the records."""
        return self.read([self._rows[records.keys[row]] for row in rows])

    def pixels(self, examples: tf.Tensor) -> tf.Tensor:
        """Apply the rest of the Transform's graph: the backbone's preprocessing, as Keras has it.

        `examples` are string [b], as `read_images` gives them. The result is float32 [b, size, size, 3].
        """
        spec = {materialized.IMAGE: tf.io.FixedLenFeature([], tf.string)}
        stored = tf.io.decode_compressed(tf.io.parse_example(examples, spec)[materialized.IMAGE], "ZLIB")
        images = tf.reshape(tf.io.decode_raw(stored, tf.uint8), [-1, self._size, self._size, 3])
        return self._preprocess(tf.cast(images, tf.float32))


def _sha256(feature: Mapping[str, tf.train.Feature]) -> bytes:
    return bytes.fromhex(feature[features.SHA256].bytes_list.value[0].decode())


# A TFRecord is a length (8 bytes) and its checksum (4), the data, and their checksum (4).
_HEADER, _FOOTER = 12, 4


def raw_feature_spec(transform: tft.TFTransformOutput, names: Sequence[str]) -> dict[str, tf.io.FixedLenFeature]:
    """Return the spec that parses the named features out of a tf.Example."""
    spec = transform.raw_feature_spec()
    return {name: spec[name] for name in names}


class Pixels:
    """Makes batches of preprocessed images from records: the Transform's graph, then the augmentation, if any."""

    def __init__(
        self,
        transform: tft.TFTransformOutput,
        augment: Callable[..., tf.Tensor] | None = None,
        resized: Resized | None = None,
    ) -> None:
        """Load the Transform's graph.

        `augment` maps pixels [b, h, w, 3] and seeds int32 [b, 2] to pixels. Without `resized` image files are decoded.
        """
        self._layer = transform.transform_features_layer()
        self._spec = raw_feature_spec(transform, [features.IMAGE])
        self._augment, self._resized = augment, resized

    def batches(
        self,
        records: Records,
        order: Callable[[], np.ndarray],
        batch_size: int,
        seeds: Callable[[], np.ndarray] | None = None,
    ) -> tf.data.Dataset:
        """Return batches of pixels float32 [b, size, size, 3] and label index int64 [b].

        Each pass through the data set calls `order` for the rows to read, and `seeds` for the augmentation's seeds of
        these rows, int32 [n, 2]. Without `seeds` nothing is augmented.
        """
        augment = self._augment if seeds is not None else None

        def generate() -> Iterator[tuple[bytes, int, np.ndarray]]:
            rows = order()
            image_seeds = np.zeros([len(rows), 2], np.int32) if seeds is None else seeds()
            examples = records.read(rows) if self._resized is None else self._resized.read_images(records, rows)
            yield from zip(examples, records.labels[rows], image_seeds, strict=True)

        # AutoGraph has nothing to convert here, and took three seconds to find that out.
        @tf.autograph.experimental.do_not_convert
        def transform(examples: tf.Tensor, labels: tf.Tensor, image_seeds: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            if self._resized is None:
                pixels = self._layer(tf.io.parse_example(examples, self._spec))[features.PIXELS]
            else:
                pixels = self._resized.pixels(examples)
            return (pixels if augment is None else augment(pixels, image_seeds)), labels

        dataset = tf.data.Dataset.from_generator(
            generate,
            output_signature=(tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64), tf.TensorSpec([2], tf.int32)),
        )
        dataset = dataset.batch(_GRAPH_BATCH).map(transform, num_parallel_calls=tf.data.AUTOTUNE)
        return dataset.unbatch().batch(batch_size).prefetch(2)
