"""Limits on the images in a request. TensorFlow cannot stop a decoder, so they hold before it sees an image.

`serving.images.trust` decides about each image, in the words of ingest and of the clients.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from graftline.serving.images import formats, headers, trust
from graftline.serving.images.trust import Refused
from graftline.serving.server.errors import ServingError, invalid
from graftline.serving.server.options import ServerOptions
from graftline.signatures import IMAGE_BYTES

# Images inside a tf.Example or tf.SequenceExample are at most 7 messages deep.
_MAX_DEPTH = 8
# Fields around the images of a request. Reading one takes 1.5 us, so a request of 64 MiB takes at most 0.5 s.
_FREE_FIELDS = 50_000
_BYTES_OF_FIELD = 256


class _Image(NamedTuple):
    """A string of a request that is an image, or is taken for one by a classifier."""

    input: str
    row: int
    data: bytes


def check_images(inputs: Mapping[str, np.ndarray], options: ServerOptions, is_classifier: bool) -> list[_Image]:
    """Return the images in a request. Raises INVALID_ARGUMENT for images that TensorFlow must not decode.

    Args:
      inputs: arrays by input name.
      options: the limits.
      is_classifier: the model is one of Graftline's. Its `image_bytes` must be images, which it must show as a viewer
        shows them. Strings of other models may be anything, so only the cost of decoding them counts. Strings inside
        serialized tf.Examples count too.
    """
    images = []
    total = 0
    for image in _find_images(inputs, is_classifier):
        reason, pixels = _judge(image, is_classifier)
        images.append(image)
        if reason:
            raise _refusal(image, reason, len(inputs[image.input].ravel()))
        if pixels > options.max_image_pixels:
            raise invalid(
                f"input {image.input}: image {image.row} of the request decodes to more than "
                f"{options.max_image_pixels} pixels, the limit max_image_pixels of this server: send it smaller"
            )
        total += pixels
        if total > options.max_request_pixels:
            raise invalid(
                f"the images of the request decode to more than {options.max_request_pixels} pixels, the limit "
                "max_request_pixels of this server: send fewer at once"
            )
    return images


def name_damage(images: Sequence[_Image], error: ServingError) -> ServingError:
    """Return an error that names the image which TensorFlow cannot decode, or `error` if it is not an image's fault."""
    for image in images:
        if not _is_decodable(image.data):
            image_format = str(formats.sniff(image.data[: formats.HEAD_BYTES]))
            return _refusal(image, trust.describe_damage(image.data, image_format), len(images))
    return error


def _refusal(image: _Image, reason: str, rows: int) -> ServingError:
    """Return the error for an image. Of a request with one image it is the reason alone."""
    return invalid(reason if rows == 1 else f"input {image.input}: image {image.row} of the request: {reason}")


def _judge(image: _Image, is_classifier: bool) -> tuple[str, int]:
    """Return why TensorFlow must not decode an image, "" when it may, and the pixels that it allocates."""
    if not is_classifier:
        return trust.unknown_use(image.data)
    header = trust.judge(image.data)
    if isinstance(header, Refused):
        return header.reason, 0
    return trust.refusal_to_serve(header), header.decoded_pixels


def _is_decodable(data: bytes) -> bool:
    try:
        with tf.device("/CPU:0"):
            tf.raw_ops.DecodeImage(contents=data, channels=3, expand_animations=False)
    except tf.errors.OpError:
        return False
    return True


def _find_images(inputs: Mapping[str, np.ndarray], is_classifier: bool) -> Iterator[_Image]:
    strings = {name: values.ravel().tolist() for name, values in inputs.items() if values.dtype.kind == "O"}
    fields = _Fields(sum(len(data) for values in strings.values() for data in values))
    for name, values in strings.items():
        for row, data in enumerate(values):
            if (is_classifier and name == IMAGE_BYTES) or data.startswith(trust.MAGIC):
                yield _Image(name, row, data)
            elif any(headers.count(data, magic) for magic in trust.MAGIC):
                for each in fields.images_in(data):
                    yield _Image(name, row, each)


class _Fields:
    """Reads fields of protobuf messages, of which a request of so many bytes may have so many."""

    def __init__(self, request_bytes: int) -> None:
        self._most = self._left = _FREE_FIELDS + request_bytes // _BYTES_OF_FIELD

    def images_in(self, data: bytes) -> Iterator[bytes]:
        """Yield the images among the fields of a serialized message of any type, at any depth.

        TensorFlow reads serialized tf.Examples out of strings. Bytes that are no message yield nothing. Raises
        INVALID_ARGUMENT when there are too many fields.
        """
        messages = [(0, len(data), 1)]
        while messages:
            at, end, depth = messages.pop()
            while at < end:
                self._left -= 1
                if self._left < 0:
                    raise invalid(f"the request has more than {self._most} fields around its images: send fewer")
                tag, at = _varint(data, at)
                wire_type = tag & 7
                if wire_type == 0:
                    _, at = _varint(data, at)
                elif wire_type in (1, 5):
                    at += 8 if wire_type == 1 else 4
                elif wire_type == 2:
                    size, at = _varint(data, at)
                    if at + size > end:
                        break
                    if data.startswith(trust.MAGIC, at):
                        yield data[at : at + size]
                    elif depth < _MAX_DEPTH:
                        messages.append((at, at + size, depth + 1))
                    at += size
                elif wire_type > 4:
                    break


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at a place (https://protobuf.dev/programming-guides/encoding) and the place after it.

    A number that does not end is larger than any message.
    """
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    return 1 << 62, len(data)
