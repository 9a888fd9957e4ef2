"""One version of one model: a SavedModel in a TensorFlow session, as TF Serving itself runs it.

A session has advantages over `tf.saved_model.load`: it builds no Python objects, computes only the requested outputs,
frees its memory on close, and fails where TF Serving fails. `tf.saved_model.load` runs a Keras 3 model in a `tf.Module`
that does not track each `variable.value`, but a session and TF Serving answer "Could not find variable"
(https://github.com/keras-team/keras/issues/20095).
"""

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.python.client import pywrap_tf_session as tf_session
from tensorflow_serving.apis import prediction_log_pb2

from graftline import patterns
from graftline.serving.server.errors import Code, ServingError, invalid
from graftline.serving.server.image_limits import check_images, name_damage
from graftline.serving.server.limits import Runs
from graftline.serving.server.metrics import Metrics
from graftline.serving.server.model.batching import Batcher, Function, Run, Tensors
from graftline.serving.server.model.tensors import check_names, check_outputs, check_types, from_proto, with_defaults
from graftline.serving.server.options import ServerOptions
from graftline.signatures import CLASSIFICATION, IMAGE_BYTES, SERVING_DEFAULT, WARMUP_FILE

_logger = logging.getLogger(__name__)

MAX_WARMUP_RECORDS = 1000  # TF Serving's own bound
_NODES = re.compile(r"(?:\{\{(?:function_)?node [^}]*\}\}\s*)+")  # the nodes before an error's message
_MAX_MESSAGE = 8 << 10
_MAX_TIMEOUT_MS = 1 << 40
_MAX_FUNCTIONS = 1000  # clients choose outputs in any order: further combinations are not kept


class LoadError(Exception):
    """A SavedModel cannot be served; the message has its directory and the reason."""


@contextlib.contextmanager
def _quiet_loader() -> Iterator[None]:
    """Suppress the loader's deprecation note on standard error."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _microseconds(since: float) -> int:
    return round((time.monotonic() - since) * 1e6)


def _first_dimension_is_free(infos: Iterable[Any]) -> bool:
    """Return whether rows can be stacked in all these tensors: the signature leaves the first dimension open."""
    shapes = [info.tensor_shape for info in infos]
    return bool(shapes) and all(
        not shape.unknown_rank and len(shape.dim) > 0 and shape.dim[0].size == -1 for shape in shapes
    )


def _checked(signature: Any, inputs: Tensors, output_filter: list[str]) -> tuple[Tensors, list[str]]:
    """Return all inputs of a run and its outputs. Raises in TF Serving's order, where the session checks types last."""
    check_names(signature, inputs)
    inputs = with_defaults(signature, inputs)
    outputs = check_outputs(signature, output_filter)
    check_types(signature, inputs)
    return inputs, outputs


def _clean(message: str) -> str:
    """Return the op's own message, without its nodes and the Python stacks from when the graph was built."""
    message = message[:_MAX_MESSAGE].removeprefix("Graph execution error:").strip()  # it may quote a whole input
    if "root error(s) found." in message[:40]:  # "2 root error(s) found.\n  (0) INVALID_ARGUMENT: …"
        message = message.partition("(0) ")[2].partition(": ")[2] or message
    message = message[places.end() :] if (places := _NODES.match(message)) else message
    return message.partition("\n")[0].partition("[[{{")[0].strip()


class LoadedModel:
    """A SavedModel in memory, ready to answer. Threads may call it at the same time.

    `name` is the model's name in the metrics. A `batcher` combines requests of several threads where the signature
    allows it. Raises LoadError when the directory holds no SavedModel that this TensorFlow can load.
    """

    def __init__(
        self,
        path: str,
        name: str = "",
        options: ServerOptions | None = None,
        batcher: Batcher | None = None,
        metrics: Metrics | None = None,
        runs: Runs | None = None,
    ) -> None:
        self.path = path
        self.name = name
        self._options = options or ServerOptions()
        self._batcher = batcher
        self._metrics = metrics or Metrics()
        self._runs = runs or Runs()
        self._functions: dict[tuple[str, tuple[str, ...]], Function] = {}
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=self._options.tensorflow_intra_op_parallelism,
            inter_op_parallelism_threads=self._options.tensorflow_inter_op_parallelism,
            # Threads of its own that run ops: a decoder that takes long must not hold up the ops of other models.
            use_per_session_threads=True,
        )
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        started = time.monotonic()
        try:
            with _quiet_loader(), self._session.graph.as_default(), patterns.plain_path(path) as plain:
                meta_graph = tf.compat.v1.saved_model.loader.load(
                    self._session, [tf.saved_model.SERVING], plain, clear_devices=True
                )
        except (tf.errors.OpError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            self._session.close()
            self._metrics.load_attempt_count.add(1, path, "fail")
            reason = _clean(error.message) if isinstance(error, tf.errors.OpError) else error
            raise LoadError(f"cannot load {path}: {reason}") from error
        self._metrics.load_attempt_count.add(1, path, "success")
        self._metrics.load_latency.add(_microseconds(started), path)
        self.signatures: dict[str, Any] = dict(meta_graph.signature_def)
        default = self.signatures.get(SERVING_DEFAULT)
        self._is_classifier = (  # one that Graftline exported
            default is not None and IMAGE_BYTES in default.inputs and set(CLASSIFICATION) <= set(default.outputs)
        )
        self._lock = threading.Lock()
        self._running = 0
        self._retired = False

    def signature(self, name: str, missing: Code = Code.FAILED_PRECONDITION) -> Any:
        """Return the SignatureDef `name`, `serving_default` for "". Raises `missing` when there is none."""
        name = name or SERVING_DEFAULT
        if name in self.signatures:
            return self.signatures[name]
        if missing is Code.FAILED_PRECONDITION:
            raise ServingError(missing, f'Serving signature key "{name}" not found.')
        raise ServingError(missing, f'Serving signature name: "{name}" not found in signature def')

    def predict(
        self, signature_name: str, inputs: Tensors, output_filter: list[str] | None = None, timeout: float | None = None
    ) -> dict[str, np.ndarray]:
        """Run a signature. Arrays are by input and output name; strings are object arrays of bytes.

        `timeout` is in seconds; None takes the limit of `options`. Raises FAILED_PRECONDITION (no such signature),
        INVALID_ARGUMENT (inputs or outputs that the signature lacks, values that the graph refuses, too large an
        image), DEADLINE_EXCEEDED, UNAVAILABLE (too many requests wait), or another error of TensorFlow.
        """
        timeout = self._options.timeout if timeout is None else timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        signature = self.signature(signature_name)
        inputs, outputs = _checked(signature, inputs, output_filter or [])
        images = check_images(inputs, self._options, self._is_classifier)
        function = self._function(signature_name or SERVING_DEFAULT, outputs)
        try:
            if self._batcher:
                return self._batcher.run(function, inputs, deadline)
            return function.run(inputs, timeout)
        except ServingError as error:
            if self._is_classifier and error.code is Code.INVALID_ARGUMENT:
                raise name_damage(images, error) from error
            raise

    def _function(self, signature_name: str, outputs: list[str]) -> Function:
        """Return the function of a signature and its outputs. It is made once; a race makes two and keeps one."""
        key = signature_name, tuple(outputs)
        if function := self._functions.get(key):
            return function
        signature = self.signatures[signature_name]
        mergeable = _first_dimension_is_free(signature.inputs.values()) and _first_dimension_is_free(
            signature.outputs[name] for name in outputs
        )
        function = Function(self._runner(signature, outputs), mergeable, self.name)
        if len(self._functions) < _MAX_FUNCTIONS:
            self._functions[key] = function
        return function

    def _runner(self, signature: Any, outputs: list[str]) -> Run:
        def at(info: Any) -> Any:
            return self._session.graph.get_tensor_by_name(info.name)._as_tf_output()

        try:
            feeds = {name: at(info) for name, info in signature.inputs.items()}
            fetches = [at(signature.outputs[name]) for name in outputs]
        except (KeyError, ValueError) as error:  # the graph lacks the tensor
            raise invalid(str(error)) from error

        def run(inputs: Tensors, seconds: float | None) -> dict[str, np.ndarray]:
            options = tf.compat.v1.RunOptions()
            if seconds is not None:
                options.timeout_in_ms = max(1, min(int(seconds * 1000), _MAX_TIMEOUT_MS))
            run_options = tf_session.TF_NewBufferFromString(options.SerializeToString())
            started = time.monotonic()
            try:
                # Session.run resolves feeds and fetches in Python on every call (137 us; this call takes 29), and
                # refuses shapes that TF Serving leaves to the graph.
                with self._runs.timing(None if seconds is None else max(seconds, self._options.timeout or seconds)):
                    fetched = self._session._call_tf_sessionrun(
                        run_options, {feeds[name]: values for name, values in inputs.items()}, fetches, [], None
                    )
            except tf.errors.OpError as error:
                message = _clean(error.message) or type(error).__name__
                raise ServingError(Code(error.error_code), message) from error
            except UnicodeDecodeError as error:  # TensorFlow quotes the bytes that it could not parse
                raise invalid("Could not parse the input's bytes") from error
            except (ValueError, TypeError, RuntimeError) as error:  # the graph lacks a feed or fetch
                raise invalid(str(error)) from error
            finally:
                tf_session.TF_DeleteBuffer(run_options)
            microseconds = _microseconds(started)
            self._metrics.runtime_latency.observe(microseconds, self.name, "Predict", "TF1")
            self._metrics.graph_runs.add(1)
            self._metrics.graph_run_time_usecs.add(microseconds)
            return {
                name: np.asarray(values, object if isinstance(values, bytes) else None)
                for name, values in zip(outputs, fetched, strict=True)
            }

        return run

    def warm_up(self) -> int:
        """Replay `assets.extra/tf_serving_warmup_requests`, so that the first request is as fast as the others.

        Returns the number of replayed requests. Raises LoadError when one fails, as TF Serving does: a model that
        cannot answer its own warm-up cannot serve. Source: https://www.tensorflow.org/tfx/serving/saved_model_warmup
        """
        file = os.path.join(self.path, "assets.extra", WARMUP_FILE)
        if not self._options.enable_model_warmup or not os.path.isfile(file):
            return 0
        replayed = 0
        started = time.monotonic()
        try:
            for record in tf.data.TFRecordDataset(file).as_numpy_iterator():
                if replayed == MAX_WARMUP_RECORDS:
                    raise LoadError(f"Number of warmup records exceeds the maximum ({MAX_WARMUP_RECORDS}) at {file}")
                entry = prediction_log_pb2.PredictionLog.FromString(record)
                if entry.WhichOneof("log_type") != "predict_log":
                    _logger.warning("%s: a warm-up request that is not a Predict was skipped", file)
                    continue
                self._replay(entry.predict_log.request)
                replayed += 1
        except ServingError as error:
            self._metrics.model_warmup_latency.observe(_microseconds(started), self.path, error.code.name)
            raise LoadError(f"warm-up request {replayed + 1} of {file} failed: {error.message}") from error
        except (tf.errors.OpError, ValueError, DecodeError) as error:
            raise LoadError(f"cannot read the warm-up requests of {file}: {error}") from error
        self._metrics.model_warmup_latency.observe(_microseconds(started), self.path, Code.OK.name)
        return replayed

    def _replay(self, request: Any) -> None:
        """Run a PredictRequest outside the queue: a loading model should not wait for requests to other models."""
        signature = self.signature(request.model_spec.signature_name)
        arrays = {name: from_proto(name, proto) for name, proto in request.inputs.items()}
        inputs, outputs = _checked(signature, arrays, list(request.output_filter))
        self._function(request.model_spec.signature_name or SERVING_DEFAULT, outputs).run(inputs, None)

    def __enter__(self) -> "LoadedModel":
        """Count a request, which `retire` waits for. Raises UNAVAILABLE when the model is retired."""
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
        """Take no more requests, and free the memory when the last running request has its answer."""
        with self._lock:
            idle = not self._retired and not self._running
            self._retired = True
        if idle:
            self._session.close()
