"""What one client may ask of the server, so that the others still get their answers. Called by both front ends."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from graftline.serving.images import headers
from graftline.serving.server.errors import Code, ServingError, invalid
from graftline.signatures import EXAMPLES

if TYPE_CHECKING:
    import numpy as np

SPARE_THREADS = 8  # of each port: for status, metadata and health while max_in_flight requests wait for their answers


class InFlight:
    """Counts the requests under way, refuses more than `most`, and can be told to refuse all: to drain."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._draining = False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count a request in for the length of the `with`. Raises RESOURCE_EXHAUSTED, or UNAVAILABLE when draining."""
        with self._changed:
            if self._draining:
                raise ServingError(Code.UNAVAILABLE, "the model server is shutting down")
            if self._count >= self._most:
                raise ServingError(
                    Code.RESOURCE_EXHAUSTED, f"{self._most} requests are under way, and no more are taken: try again"
                )
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    @property
    def draining(self) -> bool:
        """Whether new requests are refused."""
        return self._draining

    def drain(self) -> None:
        """Refuse requests from now on."""
        with self._changed:
            self._draining = True

    def wait(self, seconds: float) -> bool:
        """Wait until no request is under way, at most `seconds`; whether it came to that."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._count, seconds)


def check_images(inputs: "Mapping[str, np.ndarray]", max_pixels: int) -> None:
    """Raise INVALID_ARGUMENT when a string in `inputs` is an image that decodes to more than `max_pixels`.

    Images within serialized tf.Examples are looked at too, in an input of the name that Graftline's models give it.
    """
    for name, values in inputs.items():
        if values.dtype.kind != "O":
            continue
        for index, data in enumerate(values.ravel()):
            for each in _strings_of_example(data) if name == EXAMPLES else (data,):
                found = headers.decoded_pixels(each)
                if found > max_pixels:
                    raise invalid(
                        f"input {name}: image {index} of the request decodes to more than {max_pixels} pixels, "
                        "the limit max_image_pixels of this server: send it smaller"
                    )


def _strings_of_example(data: bytes) -> list[bytes]:
    from google.protobuf.message import DecodeError
    from tensorflow.core.example.example_pb2 import Example

    try:
        example = Example.FromString(data)
    except DecodeError:  # the model will say so
        return []
    return [each for feature in example.features.feature.values() for each in feature.bytes_list.value]
