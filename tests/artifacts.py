"""What ImageExampleGen and Transform leave, written without a pipeline around them. TensorFlow comes when used."""

import hashlib
import pathlib

from graftline import features


def example(image: bytes, label: str, filename: str, sha256: str | None = None) -> bytes:
    """A serialized tf.Example of one image, its hash that of its bytes unless given."""
    import tensorflow as tf

    values = {
        features.IMAGE: image,
        features.SHA256: (sha256 or hashlib.sha256(image).hexdigest()).encode(),
        features.LABEL: label.encode(),
        features.FILENAME: filename.encode(),
    }
    feature = {k: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v])) for k, v in values.items()}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def write_transform(records: str, folder: pathlib.Path, preprocessing: str, input_size: int) -> str:
    """The real preprocessing_fn, analysed by TFT on Beam over a TFRecord; the output directory, below `folder`."""
    import apache_beam as beam
    import tensorflow as tf
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam
    from tfx_bsl.public import tfxio

    from graftline.components.transform.preprocessing import preprocessing_fn

    spec = {name: tf.io.FixedLenFeature([1], tf.string) for name in (features.IMAGE, features.LABEL)}
    metadata = tft.DatasetMetadata.from_feature_spec(spec)
    source = tfxio.TFExampleRecord(records, schema=metadata.schema)
    config = {"preprocessing": preprocessing, "input_size": input_size}
    output = folder / "transform"
    with beam.Pipeline("DirectRunner") as pipeline, tft_beam.Context(temp_dir=str(folder / "tmp")):
        transform_fn = (
            (pipeline | source.BeamSource(), source.TensorAdapterConfig())
            | tft_beam.AnalyzeDataset(lambda inputs: preprocessing_fn(inputs, config))
        )  # fmt: skip
        _ = transform_fn | tft_beam.WriteTransformFn(str(output))
        _ = metadata | tft_beam.WriteMetadata(str(output / "metadata"), pipeline)
    return str(output)
