"""The text protos that TensorFlow Serving reads, from the options of our own server.

Called by `serving.tf_serving` for its container and by `serving.tf_serving.engine` for a server on this machine.
"""

import os

from graftline.serving.server.options import BatchingParameters


def batching(parameters: BatchingParameters) -> str:
    """A `tensorflow.serving.BatchingParameters`, for --batching_parameters_file.

    Source: servables/tensorflow/session_bundle_config.proto of TensorFlow Serving. Its numbers are wrapped.
    """
    splitting = str(parameters.enable_large_batch_splitting is not False).lower()
    lines = [
        f"max_batch_size {{ value: {parameters.max_batch_size} }}  # rows in one run of the model",
        f"batch_timeout_micros {{ value: {parameters.batch_timeout_micros} }}  # that a request waits for others",
        f"max_enqueued_batches {{ value: {parameters.max_enqueued_batches} }}  # waiting; more are refused",
        f"num_batch_threads {{ value: {parameters.num_batch_threads} }}  # runs at the same time",
        f"enable_large_batch_splitting {{ value: {splitting} }}",
    ]
    lines += [f"allowed_batch_sizes: {size}" for size in parameters.allowed_batch_sizes]
    return "\n".join(lines) + "\n"


def monitoring(enable: bool, path: str) -> str:
    """A `tensorflow.serving.MonitoringConfig`, for --monitoring_config_file: metrics for Prometheus at `path`.

    Source: config/monitoring_config.proto of TensorFlow Serving.
    """
    return f"prometheus_config {{\n  enable: {str(enable).lower()}\n  path: {quoted(path)}\n}}\n"


def quoted(text: str) -> str:
    """A string of a text proto: UTF-8 in double quotes, what may not stand in them as octal bytes."""
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in os.fsencode(text))
    return '"' + "".join(plain) + '"'
