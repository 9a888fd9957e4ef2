"""One version of one model: a SavedModel in a TensorFlow session, as TF Serving itself runs it.

A session rather than `tf.saved_model.load`: it builds no Python objects, computes only the outputs that are asked for,
gives its memory back on close, and fails where TF Serving fails. A Keras 3 model held by a `tf.Module` that does not
also track each `variable.value` is the case in point: `tf.saved_model.load` runs it, a session and TF Serving answer
"Could not find variable" (https://github.com/keras-team/keras/issues/20095).
"""

import logging
import os
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from graftline.signatures import SERVING_DEFAULT, WARMUP_FILE
from serving.server.errors import Code, ServingError
from serving.server.tensors import check_inputs, check_outputs, from_proto

_logger = logging.getLogger(__name__)

MAX_WARMUP_RECORDS = 1000  # TF Serving's own bound


class LoadError(Exception):
    """A SavedModel that cannot be served; the message names its directory and the reason."""


def _clean(message: str) -> str:
    """TensorFlow's message without the Python stack of whoever once built the graph."""
    return message.removeprefix("Graph execution error:").split("\n\nOriginal stack trace")[0].strip()


def _error(error: tf.errors.OpError) -> ServingError:
    return ServingError(Code(error.error_code), _clean(error.message or type(error).__name__))


class LoadedModel:
    """A SavedModel in memory, ready to answer; any number of threads may call it at once.

    Raises LoadError when the directory holds no SavedModel that this TensorFlow can load.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        # The loader announces its own deprecation on every process's standard error.
        logger = tf.get_logger()
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            with self._session.graph.as_default():
                meta_graph = tf.compat.v1.saved_model.loader.load(
                    self._session, [tf.saved_model.SERVING], path, clear_devices=True
                )
        except tf.errors.OpError as error:
            self._session.close()
            raise LoadError(f"cannot load {path}: {_clean(error.message)}") from error
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            self._session.close()
            raise LoadError(f"cannot load {path}: {error}") from error
        finally:
            logger.setLevel(level)
        self.signatures: dict[str, Any] = dict(meta_graph.signature_def)
        self._lock = threading.Lock()
        self._running = 0
        self._retired = False

    def signature(self, name: str, missing: Code = Code.FAILED_PRECONDITION) -> Any:
        """The SignatureDef called `name`, `serving_default` for ""; raises `missing` when there is none."""
        name = name or SERVING_DEFAULT
        if name in self.signatures:
            return self.signatures[name]
        if missing is Code.FAILED_PRECONDITION:
            raise ServingError(missing, f'Serving signature key "{name}" not found.')
        raise ServingError(missing, f'Serving signature name: "{name}" not found in signature def')

    def predict(
        self, signature_name: str, inputs: Mapping[str, np.ndarray], output_filter: list[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Run a signature: tensors by input name → tensors by output name, strings as object arrays of bytes.

        Raises ServingError: FAILED_PRECONDITION (no such signature), INVALID_ARGUMENT (inputs or outputs that are not
        the signature's, or that the graph refuses, as bytes that are no image), or what else TensorFlow reports.
        """
        signature = self.signature(signature_name)
        check_inputs(signature, inputs)
        outputs = check_outputs(signature, output_filter or [])
        fetches = {name: signature.outputs[name].name for name in outputs}
        feeds = {signature.inputs[name].name: values for name, values in inputs.items()}
        try:
            found = self._session.run(fetches, feeds)
        except tf.errors.OpError as error:
            raise _error(error) from error
        except UnicodeDecodeError as error:  # TensorFlow quotes the bytes that it could not parse
            raise ServingError(Code.INVALID_ARGUMENT, "Could not parse the input's bytes") from error
        except (ValueError, TypeError) as error:  # a feed or fetch that the graph itself does not know
            raise ServingError(Code.INVALID_ARGUMENT, str(error)) from error
        return {name: np.asarray(found[name], object if isinstance(found[name], bytes) else None) for name in outputs}

    def warm_up(self) -> int:
        """Replay `assets.extra/tf_serving_warmup_requests`, so that the first client does not pay for it.

        Returns the number of requests replayed. Raises LoadError when one fails, as TF Serving does: a model that
        cannot answer its own warm-up cannot serve. Source: https://www.tensorflow.org/tfx/serving/saved_model_warmup
        """
        file = os.path.join(self.path, "assets.extra", WARMUP_FILE)
        if not os.path.isfile(file):
            return 0
        replayed = 0
        try:
            for record in tf.data.TFRecordDataset(file).as_numpy_iterator():
                if replayed == MAX_WARMUP_RECORDS:
                    raise LoadError(f"Number of warmup records exceeds the maximum ({MAX_WARMUP_RECORDS}) at {file}")
                entry = prediction_log_pb2.PredictionLog.FromString(record)
                if entry.WhichOneof("log_type") != "predict_log":
                    _logger.warning("%s: a warm-up request that is no Predict was passed over", file)
                    continue
                request = entry.predict_log.request
                inputs = {name: from_proto(name, proto) for name, proto in request.inputs.items()}
                self.predict(request.model_spec.signature_name, inputs, list(request.output_filter))
                replayed += 1
        except ServingError as error:
            raise LoadError(f"warm-up request {replayed + 1} of {file} failed: {error.message}") from error
        except (tf.errors.OpError, ValueError) as error:
            raise LoadError(f"cannot read the warm-up requests of {file}: {error}") from error
        return replayed

    def __enter__(self) -> "LoadedModel":
        """Count a request in: `retire` waits for it. Raises UNAVAILABLE when the model has been retired."""
        with self._lock:
            if self._retired:
                raise ServingError(Code.UNAVAILABLE, f"{self.path} is being unloaded")
            self._running += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._running -= 1
            last = self._retired and not self._running
        if last:
            self._session.close()

    def retire(self) -> None:
        """Take no more requests, and give the memory back when the last one running has its answer."""
        with self._lock:
            idle = not self._retired and not self._running
            self._retired = True
        if idle:
            self._session.close()
