"""Write TensorFlow Serving's text protos from the options of our own server.

`serving.tf_serving` calls it for a container, and `serving.tf_serving.engine` for a server on this machine.
"""

import os

from graftline.serving.server.options import BatchingParameters


def batching(parameters: BatchingParameters) -> str:
    """Return a `tensorflow.serving.BatchingParameters`, for --batching_parameters_file.

    Source: servables/tensorflow/session_bundle_config.proto of TensorFlow Serving, whose numbers are wrapped.
    """
    splitting = str(parameters.enable_large_batch_splitting is not False).lower()
    lines = [
        f"max_batch_size {{ value: {parameters.max_batch_size} }}  # rows in one run of the model",
        f"batch_timeout_micros {{ value: {parameters.batch_timeout_micros} }}  # how long a request waits for others",
        f"max_enqueued_batches {{ value: {parameters.max_enqueued_batches} }}  # that may wait; more are refused",
        f"num_batch_threads {{ value: {parameters.num_batch_threads} }}  # runs at the same time",
        f"enable_large_batch_splitting {{ value: {splitting} }}",
    ]
    lines += [f"allowed_batch_sizes: {size}" for size in parameters.allowed_batch_sizes]
    return "\n".join(lines) + "\n"


def monitoring(enable: bool, path: str) -> str:
    """Return a `tensorflow.serving.MonitoringConfig`, for --monitoring_config_file: Prometheus metrics at `path`.

    Source: config/monitoring_config.proto of TensorFlow Serving.
    """
    return f"prometheus_config {{\n  enable: {str(enable).lower()}\n  path: {quoted(path)}\n}}\n"


def quoted(text: str) -> str:
    """Return a string of a text proto: UTF-8 in double quotes, with other bytes as octal escapes."""
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in os.fsencode(text))
    return '"' + "".join(plain) + '"'
