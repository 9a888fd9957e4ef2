"""Writes the SavedModel: the Transform's graph and the Keras model with the signatures of `graftline.signatures`."""

import os

import keras
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_transform.saved.saved_transform_io_v2 import SavedModelLoader

from graftline import features, signatures
from graftline.trainer import inputs, models

# Images that are decoded and run together, however many a request holds. TFMA sends up to 1,000 examples, and 1,000
# images of 224 px with their activations take more than 5 GB.
_CHUNK = 32

_Outputs = dict[str, tf.Tensor]


class Served(tf.Module):
    """The exported module. Every signature calls one traced function, so the model is traced once."""

    def __init__(self, model: keras.Model, embedding: keras.KerasTensor, transform: tft.TFTransformOutput) -> None:
        """Combine the Transform's graph with the model; see `export`."""
        super().__init__()
        self._width = int(embedding.shape[-1])
        # One graph with both outputs; it shares the model's layers.
        both = keras.Model(model.inputs[0], [model.output, keras.ops.reshape(embedding, [-1, self._width])])
        # A tracked Keras 3 model saves each variable twice. TensorFlow Serving runs a model in a TF1 session, which
        # restores one copy and reads the other (tensorflow issue 72963). So the module tracks the variables only.
        self._model, self._variables = models.inference(both)
        # Not `transform_features_layer()`: a Keras layer is traced and saved a second time, which took 4 seconds of 7.
        loader = SavedModelLoader(transform.transform_savedmodel_dir)
        self._transform_parts = vars(loader)  # tracked, as in that layer, so that the vocabulary is saved
        self.transform = loader.apply_transform_model
        self._classes = int(model.output.shape[-1])
        self._top_k = min(signatures.TOP_K, self._classes)
        self._label_names = tf.constant(read_labels(transform))
        self._image_spec = inputs.raw_feature_spec(transform, [features.IMAGE])
        self._label_spec = inputs.raw_feature_spec(transform, [features.LABEL])

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string)])
    def _forward(self, image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Compute probabilities float32 [N, C] and embedding float32 [N, D], chunk by chunk."""
        count = tf.shape(image_bytes)[0]
        shape = [-1, *self._image_spec[features.IMAGE].shape]

        def step(start: tf.Tensor, probabilities: tf.Tensor, embedding: tf.Tensor) -> tuple[tf.Tensor, ...]:
            chunk = tf.reshape(image_bytes[start : start + _CHUNK], shape)
            pixels = self.transform({features.IMAGE: chunk})[features.PIXELS]
            chunk_probabilities, chunk_embedding = self._model(pixels)
            return (
                start + _CHUNK,
                tf.concat([probabilities, chunk_probabilities], axis=0),
                tf.concat([embedding, chunk_embedding], axis=0),
            )

        start, probabilities, embedding = tf.constant(0), tf.zeros([0, self._classes]), tf.zeros([0, self._width])
        _, probabilities, embedding = tf.while_loop(
            lambda start, *_: start < count,
            step,
            [start, probabilities, embedding],
            shape_invariants=[start.shape, tf.TensorShape([None, self._classes]), tf.TensorShape([None, self._width])],
            parallel_iterations=1,
        )
        return probabilities, embedding

    def _predictions(self, image_bytes: tf.Tensor) -> _Outputs:
        probabilities, _ = self._forward(image_bytes)
        scores, indices = tf.math.top_k(probabilities, self._top_k)
        labels = tf.gather(self._label_names, indices)
        return {
            signatures.PROBABILITIES: probabilities,
            signatures.LABEL: labels[:, 0],
            signatures.SCORE: scores[:, 0],
            signatures.TOP_K_LABELS: labels,
            signatures.TOP_K_SCORES: scores,
        }

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string, name=signatures.IMAGE_BYTES)])
    def serving_default(self, image_bytes: tf.Tensor) -> _Outputs:
        """Compute predictions from the bytes of image files, string [N]."""
        return self._predictions(image_bytes)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string, name=signatures.EXAMPLES)])
    def serving_examples(self, examples: tf.Tensor) -> _Outputs:
        """Compute predictions from serialized tf.Examples, string [N]; the Evaluator calls it."""
        parsed = tf.io.parse_example(examples, self._image_spec)
        return self._predictions(tf.reshape(parsed[features.IMAGE], [-1]))

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string, name=signatures.EXAMPLES)])
    def transform_features(self, examples: tf.Tensor) -> _Outputs:
        """Compute the label's index int64 [N] from serialized tf.Examples, string [N]; for TFMA."""
        parsed = tf.io.parse_example(examples, self._label_spec)
        return {features.LABEL_INDEX: tf.reshape(self.transform(parsed)[features.LABEL_INDEX], [-1])}

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string, name=signatures.IMAGE_BYTES)])
    def embedding(self, image_bytes: tf.Tensor) -> _Outputs:
        """Compute the feature vector under the head, float32 [N, D], from the bytes of image files, string [N]."""
        return {signatures.EMBEDDING_OUTPUT: self._forward(image_bytes)[1]}


def read_labels(transform: tft.TFTransformOutput) -> list[str]:
    """Return the class names in the order of the model's outputs."""
    path = os.path.join(transform.transform_savedmodel_dir, "assets", features.LABELS_FILE)
    with tf.io.gfile.GFile(path, "rb") as file:
        return features.parse_labels(file.read())


def export(model: keras.Model, embedding: keras.KerasTensor, transform: tft.TFTransformOutput, directory: str) -> None:
    """Write the SavedModel of a model from pixels to probabilities; a signature serves the tensor `embedding`."""
    served = Served(model, embedding, transform)
    functions = {
        signatures.SERVING_DEFAULT: served.serving_default,
        signatures.SERVING_EXAMPLES: served.serving_examples,
        signatures.TRANSFORM_FEATURES: served.transform_features,
        signatures.EMBEDDING: served.embedding,
    }
    tf.saved_model.save(served, directory, signatures=functions)
    _write_warmup(directory)


# Requests that a server replays when it loads the model: signature, output filter, images in the batch. For each set of
# outputs TensorFlow prunes and optimises the graph at the first request, which takes a second for MobileNetV2; a later
# request takes 20 ms. The first batch of another size costs little more time, but its memory stays, so one of 8 is
# enough.
_WARMUP: tuple[tuple[str, tuple[str, ...], int], ...] = (
    (signatures.SERVING_DEFAULT, (), 1),
    (signatures.SERVING_DEFAULT, (), 8),
    (signatures.SERVING_DEFAULT, signatures.CLASSIFICATION, 1),
    (signatures.EMBEDDING, (), 1),
)


def _write_warmup(directory: str) -> None:
    """Write requests that TF Serving replays when it loads the model, so that no client waits for the one-time work.

    Format: https://www.tensorflow.org/tfx/serving/saved_model_warmup
    """
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    grey = tf.io.encode_jpeg(tf.fill([64, 64, 3], tf.constant(128, tf.uint8))).numpy()
    extra = os.path.join(directory, "assets.extra")
    tf.io.gfile.makedirs(extra)
    with tf.io.TFRecordWriter(os.path.join(extra, signatures.WARMUP_FILE)) as writer:
        for signature, outputs, images in _WARMUP:
            request = predict_pb2.PredictRequest(output_filter=outputs)
            request.model_spec.signature_name = signature
            request.inputs[signatures.IMAGE_BYTES].CopyFrom(tf.make_tensor_proto([grey] * images))
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())
