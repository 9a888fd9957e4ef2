"""Images in batches through a classifier that Graftline exported: one row for each, a bad one fails its own row only.

Shared by both clients and by `serving.predict`, which asks a model in its own process.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graftline.serving.client.exchange import Steps
from graftline.serving.client.results import Prediction, ServiceError, Signature, TensorSpec
from graftline.serving.images import formats, storing
from graftline.serving.images.transcoding import Refused
from graftline.signatures import (
    IMAGE_BYTES,
    LABEL,
    PROBABILITIES,
    SCORE,
    SERVING_DEFAULT,
    TOP_K_LABELS,
    TOP_K_SCORES,
)

OUTPUTS = (LABEL, SCORE, TOP_K_LABELS, TOP_K_SCORES)
CLASSIFIER = Signature(
    {IMAGE_BYTES: TensorSpec("bytes", (-1,))},
    {
        LABEL: TensorSpec("bytes", (-1,)),
        SCORE: TensorSpec("float32", (-1,)),
        TOP_K_LABELS: TensorSpec("bytes", (-1, -1)),
        TOP_K_SCORES: TensorSpec("float32", (-1, -1)),
        PROBABILITIES: TensorSpec("float32", (-1, -1)),
    },
)
BATCH_IMAGES = 32  # at most; from 8 on, a batch gains next to nothing on two cores
BATCH_BYTES = 16 << 20  # at most, unless one image alone is larger
# Statuses that an image can bring about. Any other is the model's or the server's fault, not to be put on a file.
_IMAGE_CODES = ("INVALID_ARGUMENT", "OUT_OF_RANGE", "RESOURCE_EXHAUSTED", "DATA_LOSS")
# What comes with such a status all the same: of a label that the server does not know (TensorFlow Serving says it so,
# too), and of a server that is busy.
_NO_IMAGES_FAULT = ("Unrecognized servable version label", "requests are under way")


@dataclass(frozen=True)
class Loaded:
    """An image ready to be sent, or why it is not."""

    path: str
    data: bytes
    error: str = ""


Image = bytes | str | os.PathLike[str] | Loaded
Read = Callable[[str, int], tuple[bytes, int]]


def read(path: str, limit: int) -> tuple[bytes, int]:
    """A file's bytes and size; no bytes when there are more than `limit`. Raises OSError."""
    # Without waiting: a named pipe would block whoever opens it.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        return (b"" if size > limit else file.read(limit + 1)), size


def load(image: Image, transcode: bool = True, read: Read = read) -> Loaded:
    """Read and, with `transcode`, turn into what ingest would have stored. Never raises for what a file is or holds."""
    if isinstance(image, Loaded):
        return image
    if isinstance(image, bytes):
        return _ready("", image, transcode)
    path = os.fspath(image)
    try:
        data, size = read(path, formats.MAX_BYTES)
    except OSError as error:
        return Loaded(path, b"", f"cannot be read: {error.strerror}")
    if size > formats.MAX_BYTES:
        return Loaded(path, b"", storing.too_many_bytes(size).reason)
    return _ready(path, data, transcode)


def _ready(path: str, data: bytes, transcode: bool) -> Loaded:
    sent = storing.to_send(data) if transcode else data
    return Loaded(path, b"", sent.reason) if isinstance(sent, Refused) else Loaded(path, sent)


def several(images: Iterable[Image]) -> Iterable[Image]:
    """The same. Raises TypeError for one image alone: its letters or bytes would be taken for images."""
    if isinstance(images, bytes | bytearray | memoryview | str | os.PathLike | Loaded):
        raise TypeError(f"classify takes a list of images, not one {type(images).__name__}: give [image]")
    return images


def batches(images: Iterable[Loaded]) -> Iterator[list[Loaded]]:
    """In order, at most BATCH_IMAGES and BATCH_BYTES each; no more than one batch is held."""
    batch: list[Loaded] = []
    held = 0
    for image in images:
        if batch and (len(batch) == BATCH_IMAGES or held + len(image.data) > BATCH_BYTES):
            yield batch
            batch, held = [], 0
        batch.append(image)
        held += len(image.data)
    if batch:
        yield batch


def classify(
    batch: Sequence[Loaded], ask: Callable[[Sequence[bytes]], Steps[Mapping[str, np.ndarray]]]
) -> Steps[list[Prediction]]:
    """One row for each image of a batch, in its order.

    `ask` gets the bytes of images and gives OUTPUTS by name: label, score [N]; top_k_labels, top_k_scores [N, k].
    Raises ServiceError: what is not an image's fault.
    """
    rows = iter((yield from _rows([image for image in batch if not image.error], ask)))
    return [Prediction(image.path, None, None, [], image.error) if image.error else next(rows) for image in batch]


def _rows(
    images: Sequence[Loaded], ask: Callable[[Sequence[bytes]], Steps[Mapping[str, np.ndarray]]]
) -> Steps[list[Prediction]]:
    """A batch refused as a whole is asked again image by image, so that only the bad fail."""
    if not images:
        return []
    try:
        outputs = yield from ask([image.data for image in images])
    except ServiceError as error:
        if error.code not in _IMAGE_CODES or any(words in error.message for words in _NO_IMAGES_FAULT):
            raise
        if len(images) == 1:
            # Without the names of the graph's nodes that TensorFlow adds, a line each.
            return [Prediction(images[0].path, None, None, [], error.message.split("\n")[0].strip())]
    else:
        return [_prediction(image.path, outputs, row) for row, image in enumerate(images)]
    rows = []
    for image in images:
        rows += yield from _rows([image], ask)
    return rows


def _prediction(path: str, outputs: Mapping[str, np.ndarray], row: int) -> Prediction:
    top_k = zip(outputs[TOP_K_LABELS][row], outputs[TOP_K_SCORES][row], strict=True)
    return Prediction(
        path,
        _text(outputs[LABEL][row]),
        float(outputs[SCORE][row]),
        [(_text(label), float(score)) for label, score in top_k],
    )


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def is_classifier(signatures: Mapping[str, Signature]) -> bool:
    """Whether a model's `serving_default` is that of a classifier that Graftline exported."""
    found = signatures.get(SERVING_DEFAULT)
    return found is not None and set(found.inputs) == {IMAGE_BYTES} and set(OUTPUTS) <= set(found.outputs)


def foreign(model: str) -> ServiceError:
    """The error of a model that `is_classifier` refuses."""
    return ServiceError(
        "FAILED_PRECONDITION",
        f"{model} is no image classifier that Graftline exported: its {SERVING_DEFAULT} must take {IMAGE_BYTES} and "
        f"give {', '.join(OUTPUTS)}",
    )
