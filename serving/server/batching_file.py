"""Reads TensorFlow Serving's batching parameters file: a text proto of `tensorflow.serving.BatchingParameters`.

The message is described here, because no Python package carries servables/tensorflow/session_bundle_config.proto. A
text proto uses the names of fields alone, so the numbers of the fields do not matter.
"""

from dataclasses import replace
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

from graftline.errors import UserError
from graftline.serving.server.options import BatchingParameters

_INTEGERS = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
_OTHERS = {"max_execution_batch_size": "Int64Value", "thread_pool_name": "StringValue"}  # accepted, without effect here


def _empty_message() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name="graftline/batching_parameters.proto", package="tensorflow.serving", syntax="proto3"
    )
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    message = file.message_type.add(name="BatchingParameters")
    kind = descriptor_pb2.FieldDescriptorProto
    wrapped = dict.fromkeys(_INTEGERS, "Int64Value") | {"enable_large_batch_splitting": "BoolValue"} | _OTHERS
    for name, wrapper in wrapped.items():
        message.field.add(name=name, type=kind.TYPE_MESSAGE, type_name=f".google.protobuf.{wrapper}")
    message.field.add(name="allowed_batch_sizes", type=kind.TYPE_INT64, label=kind.LABEL_REPEATED)
    message.field.add(name="pad_variable_length_inputs", type=kind.TYPE_BOOL)
    for number, each in enumerate(message.field, start=1):
        each.number = number
    pool.Add(file)
    described = pool.FindMessageTypeByName(file.package + ".BatchingParameters")
    return message_factory.MessageFactory(pool).GetPrototype(described)()


def read(path: str) -> BatchingParameters:
    """Return the parameters in the file at `path`, with this server's defaults. Raises UserError.

    `pad_variable_length_inputs` has no effect: requests of different shapes run apart.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"cannot read the batching parameters {path}: {reason}") from error
    try:
        message = text_format.Parse(text, _empty_message())
    except text_format.ParseError as error:
        example = "max_batch_size { value: 32 }"
        raise UserError(f"{path} is not a BatchingParameters: {error}; write it as {example}") from error
    given = [name for name in (*_INTEGERS, "enable_large_batch_splitting") if message.HasField(name)]
    fields: dict[str, Any] = {name: getattr(message, name).value for name in given}
    try:
        return replace(BatchingParameters(), allowed_batch_sizes=tuple(message.allowed_batch_sizes), **fields)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
