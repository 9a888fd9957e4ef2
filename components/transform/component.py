"""The Transform: TFX's own, and with `materialize` also the resized images as its transformed examples.

TFX would write the outputs of `preprocessing_fn`, which are float32, int64 or strings, in gzipped files. An image of
224 px would take half a megabyte, and could not be read out of order. This node writes the uint8 pixels before the
backbone's preprocessing and compresses each image by itself: 120 KB for a photo.
"""

import os
import uuid
import zlib
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import tensorflow as tf
import tensorflow_transform as tft
from tfx.components import Transform as TfxTransform
from tfx.components.transform import executor as tfx_executor
from tfx.components.util import examples_utils
from tfx.dsl.components.base import executor_spec
from tfx.proto import example_gen_pb2
from tfx.types import Artifact, BaseChannel, artifact_utils, standard_component_specs

from graftline import features, materialized
from graftline.components.transform.settings import TransformSettings
from graftline.trainer.backbones import Mode

# Images in one call of the Transform's graph; calls run in parallel.
_GRAPH_BATCH = 16
# Level 1 takes two thirds of the default level's time and makes files 1 % larger: photos are hard to compress.
_ZLIB_LEVEL = 1
_ASIDE = "unfinished"


class WriteResized(beam.DoFn):
    """A file of raw examples and the name of its file of resized images -> the number of images in it."""

    def __init__(self, transform_output: str) -> None:
        """Make the stage for the graph in the folder `transform_output`."""
        self._transform_output = transform_output

    def setup(self) -> None:
        """Load the graph, once for each worker."""
        transform = tft.TFTransformOutput(self._transform_output)
        self._layer = transform.transform_features_layer()
        spec = transform.raw_feature_spec()
        self._spec = {name: spec[name] for name in (features.IMAGE, features.LABEL)}

    def process(self, files: tuple[str, str]) -> Iterator[int]:
        """Write to a temporary name, then rename. A bundle that Beam repeats writes the same bytes."""
        source, target = files
        folder, name = os.path.split(target)
        aside = os.path.join(os.path.dirname(folder), _ASIDE)
        unfinished = os.path.join(aside, f"{name}-{uuid.uuid4().hex}")
        for needed in (folder, aside):
            tf.io.gfile.makedirs(needed)
        dataset = tf.data.TFRecordDataset([source]).batch(_GRAPH_BATCH)
        count = 0
        with tf.io.TFRecordWriter(unfinished) as writer:
            for batch in dataset.map(self._transformed, tf.data.AUTOTUNE).prefetch(2).as_numpy_iterator():
                for image, label, sha256 in zip(*batch, strict=True):
                    feature = {
                        materialized.IMAGE: _bytes(zlib.compress(image.tobytes(), _ZLIB_LEVEL)),
                        features.LABEL_INDEX: tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                        features.SHA256: _bytes(sha256),
                    }
                    example = tf.train.Example(features=tf.train.Features(feature=feature))
                    writer.write(example.SerializeToString(deterministic=True))
                    count += 1
        tf.io.gfile.rename(unfinished, target, overwrite=True)
        yield count

    # AutoGraph has nothing to convert here, and takes three seconds to see that.
    @tf.autograph.experimental.do_not_convert
    def _transformed(self, examples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Turn tf.Examples, string [n], into uint8 [n, size, size, 3], label int64 [n] and sha256 string [n]."""
        outputs = self._layer(tf.io.parse_example(examples, self._spec))
        keys = tf.io.parse_example(examples, {features.SHA256: tf.io.FixedLenFeature([], tf.string)})
        image = tf.cast(outputs[materialized.IMAGE], tf.uint8)
        return image, tf.reshape(outputs[features.LABEL_INDEX], [-1]), keys[features.SHA256]


class Executor(tfx_executor.Executor):
    """TFX's executor, which also writes the resized images if there is an output `transformed_examples`."""

    def Do(  # noqa: N802 (TFX's name)
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Analyse, write the graph, and write the images of the train and eval splits that the graph makes."""
        outputs = dict(output_dict)
        transformed = outputs.pop(standard_component_specs.TRANSFORMED_EXAMPLES_KEY, None)
        super().Do(input_dict, outputs, exec_properties)
        if not transformed:
            return
        raw = artifact_utils.get_single_instance(input_dict[standard_component_specs.EXAMPLES_KEY])
        graph = artifact_utils.get_single_uri(outputs[standard_component_specs.TRANSFORM_GRAPH_KEY])
        (resized,) = transformed
        resized.split_names = artifact_utils.encode_split_names(list(features.SPLITS))
        examples_utils.set_payload_format(resized, example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE)
        files = [
            (source, os.path.join(artifact_utils.get_split_uri([resized], split), os.path.basename(source)))
            for split in features.SPLITS
            for source in tf.io.gfile.glob(os.path.join(artifact_utils.get_split_uri([raw], split), "*"))
        ]
        with self._make_beam_pipeline() as pipeline:
            _ = pipeline | beam.Create(files) | beam.Reshuffle() | beam.ParDo(WriteResized(graph))
        aside = os.path.join(resized.uri, _ASIDE)
        if tf.io.gfile.isdir(aside):
            tf.io.gfile.rmtree(aside)
        # The Trainer reads the raw examples with names, labels and files; this pointer leads it to the resized images.
        with tf.io.gfile.GFile(os.path.join(graph, materialized.POINTER), "w") as file:
            file.write(resized.uri)


class Transform(TfxTransform):
    """TFX's Transform with this executor and Graftline's `preprocessing_fn`."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        examples: BaseChannel,
        schema: BaseChannel,
        preprocessing: Mode,
        input_size: int,
        settings: TransformSettings,
        code: str = "",
    ) -> None:
        """Make the node, which analyses only the split "train" of the examples.

        `preprocessing` is a mode of `trainer.backbones`. `input_size` is the side of the square image in pixels.
        `code`, a hash of the sources, is only for the cache key.
        """
        super().__init__(
            examples=examples,
            schema=schema,
            preprocessing_fn="graftline.components.transform.preprocessing.preprocessing_fn",
            materialize=settings.materialize,
            disable_statistics=True,
            custom_config={
                "preprocessing": preprocessing,
                "input_size": input_size,
                "resize": settings.resize,
                "materialize": settings.materialize,
                "code": code,
            },
        )


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
