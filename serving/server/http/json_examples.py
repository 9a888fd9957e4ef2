"""Reads the JSON of TF Serving's classify and regress as serialized tf.Examples.

Source: `MakeExampleFromJsonObject` and its neighbours in TF Serving's util/json_tensor.cc.
"""

from collections.abc import Mapping
from typing import Any

from tensorflow.core.example import example_pb2

from graftline.serving.server.deadline import NO_DEADLINE, Deadline
from graftline.serving.server.errors import invalid
from graftline.serving.server.http.json_messages import cut, show, type_of
from graftline.serving.server.http.json_tensors import decode_base64, encode, is_base64

_MAX_COPIED = 32 << 20  # bytes of the context in all examples together


def read_examples(document: Mapping[str, Any], deadline: Deadline = NO_DEADLINE) -> list[bytes]:
    """Return a request's serialized tf.Examples, each with the request's `context`.

    Raises INVALID_ARGUMENT or DEADLINE_EXCEEDED.
    """
    context = _example(document["context"], deadline) if "context" in document else b""
    if "examples" not in document:
        raise invalid(
            f"JSON Value: {show(document)} When method is classify, key 'examples' is expected and was not found"
        )
    examples = document["examples"]
    if not isinstance(examples, list):
        raise invalid(f"JSON Value: {show(document)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise invalid(f"JSON Value: {show(document)} 'examples' value is an empty array")
    if (copied := len(context) * len(examples)) > _MAX_COPIED:
        raise invalid(
            f"the context of {len(context)} bytes is copied into each of {len(examples)} examples, which makes "
            f"{copied} bytes; the limit is {_MAX_COPIED}: send fewer examples at once"
        )
    # Protobuf reads two concatenated messages as one with the fields of both.
    return [context + _example(example, deadline) for example in examples]


def _example(value: Any, deadline: Deadline) -> bytes:
    deadline.check()
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {type_of(value)}")
    example = example_pb2.Example()
    for name, content in value.items():
        try:
            feature = example.features.feature[name]
        except UnicodeEncodeError as error:
            raise invalid(f"Feature: {cut(name)} has a name that is not UTF-8: name it in UTF-8") from error
        for element in content if isinstance(content, list) else [content]:
            _add_to_feature(name, element, feature)
        deadline.check()
    return bytes(example.SerializeToString())


_KINDS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}


def _add_to_feature(name: str, value: Any, feature: Any) -> None:
    """Append one JSON value to a tf.train.Feature. Its first value decides its kind."""
    if isinstance(value, str) or is_base64(value):
        kind = "bytes_list"
    elif isinstance(value, float):
        kind = "float_list"
    elif isinstance(value, int):
        kind = "int64_list"
    else:
        raise invalid(f"Feature: {cut(name)} has element with unexpected JSON type: {type_of(value)}")
    before = feature.WhichOneof("kind")
    if before not in (None, kind):
        raise invalid(f"Unexpected element type in feature: {cut(name)} expecting type: {_KINDS[before]}")
    if kind == "bytes_list":
        feature.bytes_list.value.append(encode(value) if isinstance(value, str) else decode_base64(value["b64"]))
    elif kind == "float_list":
        feature.float_list.value.append(value)
    elif value >= 1 << 63:
        raise invalid(f"Feature: {cut(name)} has uint64_t element. Only int64_t is supported.")
    else:
        feature.int64_list.value.append(int(value))
