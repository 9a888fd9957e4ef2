"""The training input: TFRecords of tf.Examples, in any order, through the Transform's graph, as tf.data pipelines.

With `data.materialize` the first part of that graph, to resized images, has been run by the Transform, and only the
rest is left to do.
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
    """Random access to the tf.Examples of some uncompressed TFRecord files, which come in the order of their names."""

    def __init__(self, file_patterns: Sequence[str]) -> None:
        self._paths = sorted(path for pattern in file_patterns for path in tf.io.gfile.glob(pattern))
        self._places = np.zeros([0, 3], np.int64)

    def scan(self) -> Iterator[Mapping[str, tf.train.Feature]]:
        """The features of all records, row by row; `read` knows them afterwards."""
        places: list[tuple[int, int, int]] = []
        for number, path in enumerate(self._paths):
            offset = 0
            for record in tf.data.TFRecordDataset([path]).as_numpy_iterator():
                places.append((number, offset + _HEADER, len(record)))
                offset += _HEADER + len(record) + _FOOTER
                yield tf.train.Example.FromString(record).features.feature
        self._places = np.array(places, np.int64).reshape(-1, 3)

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


class Records(Shards):
    """The raw examples of a split.

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
                    f"{filename} is of the class '{label}', which no image of the train split has: "
                    "give that class more images, so that both splits get some"
                )
            self.keys.append(_sha256(feature))
            self.filenames.append(filename)
            labels.append(index[label])
        self.labels = np.array(labels, np.int64)

    def __len__(self) -> int:
        return len(self.keys)

    def few(self, each: int) -> "Records":
        """Of each class the `each` images that come first by their content's hash: any ones, but always the same."""
        taken: list[int] = []
        for label in np.unique(self.labels):
            taken += sorted(np.flatnonzero(self.labels == label).tolist(), key=lambda row: self.keys[row])[:each]
        rows = sorted(taken)
        part = copy.copy(self)
        part._places, part.labels = self._places[rows], self.labels[rows]
        part.keys, part.filenames = [self.keys[row] for row in rows], [self.filenames[row] for row in rows]
        return part

    def images(self, rows: Sequence[int] | np.ndarray) -> Iterator[bytes]:
        """The image files' bytes of these rows, in that order."""
        for record in self.read(rows):
            yield tf.train.Example.FromString(record).features.feature[features.IMAGE].bytes_list.value[0]


class Resized(Shards):
    """The images of some records as the Transform has resized and stored them; found by the file's sha256.

    By that, not by their order: Beam may write them in another.
    """

    def __init__(self, transform_output: str, backbone: BackboneSettings, splits: Sequence[Records]) -> None:
        """Reads all once.

        Args:
          transform_output: the Transform's output, which leads to them.
          backbone: what they are made for.
          splits: the records whose images are wanted.

        Raises:
          UserError: an image is not there.
        """
        with tf.io.gfile.GFile(os.path.join(transform_output, materialized.POINTER)) as file:
            uri = file.read()
        super().__init__([os.path.join(uri, "Split-*", "*")])
        self._size, self._preprocess = backbone.size, backbones.get(backbone.name).preprocess_input
        self._rows = {_sha256(feature): row for row, feature in enumerate(self.scan())}
        for records in splits:
            for key, filename in zip(records.keys, records.filenames, strict=True):
                if key not in self._rows:
                    raise UserError(
                        f"{filename} is not among the resized images in {uri}, where files were deleted: "
                        "set data.materialize=false, or give a new workspace"
                    )

    def of(self, records: Records, rows: Sequence[int] | np.ndarray) -> Iterator[bytes]:
        """The serialized tf.Examples of resized images, of these rows of the records."""
        return self.read([self._rows[records.keys[row]] for row in rows])

    def pixels(self, examples: tf.Tensor) -> tf.Tensor:
        """What the Transform's graph makes of the files: the rest of it, the backbone's preprocessing, as Keras has it.

        Args:
          examples: string [b], as `of` gives them.

        Returns:
          float32 [b, size, size, 3].
        """
        spec = {materialized.IMAGE: tf.io.FixedLenFeature([], tf.string)}
        stored = tf.io.decode_compressed(tf.io.parse_example(examples, spec)[materialized.IMAGE], "ZLIB")
        images = tf.reshape(tf.io.decode_raw(stored, tf.uint8), [-1, self._size, self._size, 3])
        return self._preprocess(tf.cast(images, tf.float32))


def _sha256(feature: Mapping[str, tf.train.Feature]) -> bytes:
    return bytes.fromhex(feature[features.SHA256].bytes_list.value[0].decode())


# A TFRecord is a length (8 bytes) and its checksum (4), the data, and their checksum (4).
_HEADER, _FOOTER = 12, 4


def raw_features(transform: tft.TFTransformOutput, names: Sequence[str]) -> dict[str, tf.io.FixedLenFeature]:
    """How to parse the named features out of a tf.Example."""
    spec = transform.raw_feature_spec()
    return {name: spec[name] for name in names}


class Pixels:
    """Makes batches of preprocessed images out of records: the Transform's graph, then augmentation when given."""

    def __init__(
        self,
        transform: tft.TFTransformOutput,
        augment: Callable[..., tf.Tensor] | None = None,
        resized: Resized | None = None,
    ) -> None:
        """
        Args:
          transform: the Transform's output.
          augment: maps pixels [b, h, w, 3] and seeds int32 [b, 2] to pixels.
          resized: the images where the Transform has resized them; None where files are decoded.
        """
        self._layer = transform.transform_features_layer()
        self._spec = raw_features(transform, [features.IMAGE])
        self._augment, self._resized = augment, resized

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
            examples = records.read(rows) if self._resized is None else self._resized.of(records, rows)
            yield from zip(examples, records.labels[rows], drawn, strict=True)

        # AutoGraph finds nothing to convert here, and took three seconds to find that.
        @tf.autograph.experimental.do_not_convert
        def transformed(examples: tf.Tensor, labels: tf.Tensor, drawn: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            if self._resized is None:
                pixels = self._layer(tf.io.parse_example(examples, self._spec))[features.PIXELS]
            else:
                pixels = self._resized.pixels(examples)
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
