"""Reads TensorFlow Serving's batching parameters file: a text proto of `tensorflow.serving.BatchingParameters`.

The message is described here, since no Python package carries servables/tensorflow/session_bundle_config.proto; a text
proto goes by the names of fields alone, so the numbers are of no account.
"""

from dataclasses import replace
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

from graftline.errors import UserError
from graftline.serving.server.options import BatchingParameters

_INTEGERS = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
_OTHERS = {"max_execution_batch_size": "Int64Value", "thread_pool_name": "StringValue"}  # read, and of no effect here


def _message() -> Any:
    """An empty BatchingParameters."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name="graftline/batching_parameters.proto",
        package="tensorflow.serving",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    message = file.message_type.add(name="BatchingParameters")
    kind = descriptor_pb2.FieldDescriptorProto
    wrapped = dict.fromkeys(_INTEGERS, "Int64Value") | {"enable_large_batch_splitting": "BoolValue"} | _OTHERS
    for name, wrapper in wrapped.items():
        message.field.add(
            name=name,
            number=len(message.field) + 1,
            label=kind.LABEL_OPTIONAL,
            type=kind.TYPE_MESSAGE,
            type_name=f".google.protobuf.{wrapper}",
        )
    number = len(message.field)
    message.field.add(name="allowed_batch_sizes", number=number + 1, label=kind.LABEL_REPEATED, type=kind.TYPE_INT64)
    message.field.add(
        name="pad_variable_length_inputs", number=number + 2, label=kind.LABEL_OPTIONAL, type=kind.TYPE_BOOL
    )
    pool.Add(file)
    return message_factory.MessageFactory(pool).GetPrototype(
        pool.FindMessageTypeByName(file.package + ".BatchingParameters")
    )()


def read(path: str) -> BatchingParameters:
    """The parameters in the file at `path`; what it does not set keeps this server's default. Raises UserError.

    `pad_variable_length_inputs` has nothing to do here: requests of different shapes are run apart.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UserError(f"cannot read the batching parameters {path}: {reason}") from error
    try:
        found = text_format.Parse(text, _message())
    except text_format.ParseError as error:
        raise UserError(f"{path} is no BatchingParameters: {error}; write as max_batch_size {{ value: 32 }}") from error
    given: dict[str, Any] = {
        name: getattr(found, name).value
        for name in (*_INTEGERS, "enable_large_batch_splitting")
        if found.HasField(name)
    }
    try:
        return replace(BatchingParameters(), allowed_batch_sizes=tuple(found.allowed_batch_sizes), **given)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
