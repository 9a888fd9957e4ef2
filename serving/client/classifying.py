"""Send images in batches to a classifier that Graftline exported. Each image gets a row; a bad one fails only its own.

Both clients use it, and `serving.predict`, which asks a model in its own process.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graftline import signatures as names
from graftline.serving.client.exchange import Steps
from graftline.serving.client.results import Prediction, ServiceError, Signature, TensorSpec
from graftline.serving.images import formats, storing, trust
from graftline.serving.images.trust import Refused

CLASSIFIER = Signature(
    {names.IMAGE_BYTES: TensorSpec("bytes", (-1,))},
    {
        names.LABEL: TensorSpec("bytes", (-1,)),
        names.SCORE: TensorSpec("float32", (-1,)),
        names.TOP_K_LABELS: TensorSpec("bytes", (-1, -1)),
        names.TOP_K_SCORES: TensorSpec("float32", (-1, -1)),
        names.PROBABILITIES: TensorSpec("float32", (-1, -1)),
    },
)
BATCH_IMAGES = 32  # at most; from 8 images on, a larger batch gains next to nothing on two cores
BATCH_BYTES = 16 << 20  # at most, unless one image alone is larger
BATCH_PIXELS = formats.MAX_REQUEST_PIXELS  # at most; a server refuses more
# Statuses that one image can cause. Any other status is the fault of the model or the server.
_IMAGE_CODES = ("INVALID_ARGUMENT", "OUT_OF_RANGE", "RESOURCE_EXHAUSTED", "DATA_LOSS")
# Messages with such a status that no image causes: an unknown version label (in TensorFlow Serving's words), and a
# busy server.
_OTHER_CAUSES = ("Unrecognized servable version label", "requests are under way")


@dataclass(frozen=True)
class Loaded:
    """The bytes of an image, ready to be sent, or the reason why there are none."""

    path: str
    data: bytes
    error: str = ""
    pixels: int = 0  # 0 when they are unknown


Image = bytes | str | os.PathLike[str] | Loaded
Read = Callable[[str, int], tuple[bytes, int]]
Ask = Callable[[Sequence[bytes]], Steps[Mapping[str, np.ndarray]]]


def read(path: str, limit: int) -> tuple[bytes, int]:
    """Return a file's bytes and size; no bytes when there are more than `limit`. Raises OSError."""
    # O_NONBLOCK: opening a named pipe would block.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        return (b"" if size > limit else file.read(limit + 1)), size


def load(image: Image, transcode: bool = True, read: Read = read) -> Loaded:
    """Read an image and, with `transcode`, convert it to what ingest would store. A bad file never raises."""
    if isinstance(image, Loaded):
        return image
    if isinstance(image, bytes):
        return _convert("", image, transcode)
    path = os.fspath(image)
    try:
        data, size = read(path, formats.MAX_BYTES)
    except OSError as error:
        return Loaded(path, b"", f"cannot be read: {error.strerror}")
    if size > formats.MAX_BYTES:
        return Loaded(path, b"", trust.too_many_bytes(size).reason)
    return _convert(path, data, transcode)


def _convert(path: str, data: bytes, transcode: bool) -> Loaded:
    if not transcode:
        return Loaded(path, data)
    prepared = storing.prepare_to_send(data)
    if isinstance(prepared, Refused):
        return Loaded(path, b"", prepared.reason)
    return Loaded(path, prepared.data, pixels=prepared.header.decoded_pixels)


def require_list(images: Iterable[Image]) -> Iterable[Image]:
    """Return `images`. Raises TypeError for one image alone, whose letters or bytes would be taken for images."""
    if isinstance(images, bytes | bytearray | memoryview | str | os.PathLike | Loaded):
        raise TypeError(f"classify takes a list of images, not one {type(images).__name__}: give [image]")
    return images


def batches(images: Iterable[Loaded]) -> Iterator[list[Loaded]]:
    """Yield the images in order: at most BATCH_IMAGES, BATCH_BYTES and BATCH_PIXELS at a time, held in memory."""
    batch: list[Loaded] = []
    batch_bytes = batch_pixels = 0
    for image in images:
        too_large = batch_bytes + len(image.data) > BATCH_BYTES or batch_pixels + image.pixels > BATCH_PIXELS
        if batch and (len(batch) == BATCH_IMAGES or too_large):
            yield batch
            batch, batch_bytes, batch_pixels = [], 0, 0
        batch.append(image)
        batch_bytes += len(image.data)
        batch_pixels += image.pixels
    if batch:
        yield batch


def classify(batch: Sequence[Loaded], ask: Ask) -> Steps[list[Prediction]]:
    """Return one row for each image of a batch, in its order, also for those that could not be loaded.

    `ask` takes the bytes of N images and returns the CLASSIFICATION outputs by name: label and score [N], top_k_labels
    and top_k_scores [N, k]. Raises ServiceError when the fault is not an image's.
    """
    rows = iter((yield from _rows([image for image in batch if not image.error], ask)))
    return [Prediction(image.path, None, None, [], image.error) if image.error else next(rows) for image in batch]


def _rows(images: Sequence[Loaded], ask: Ask) -> Steps[list[Prediction]]:
    """Ask for all images at once. If that is refused, ask image by image, so that only bad images fail."""
    if not images:
        return []
    try:
        outputs = yield from ask([image.data for image in images])
    except ServiceError as error:
        if error.code not in _IMAGE_CODES or any(words in error.message for words in _OTHER_CAUSES):
            raise
        if len(images) == 1:
            # The first line alone: TensorFlow adds the names of the graph's nodes, one a line.
            return [Prediction(images[0].path, None, None, [], error.message.split("\n")[0].strip())]
    else:
        return [_prediction(image.path, outputs, row) for row, image in enumerate(images)]
    rows = []
    for image in images:
        rows += yield from _rows([image], ask)
    return rows


def _prediction(path: str, outputs: Mapping[str, np.ndarray], row: int) -> Prediction:
    label, score, labels, scores = (outputs[name][row] for name in names.CLASSIFICATION)
    top_k = [(_text(label), float(score)) for label, score in zip(labels, scores, strict=True)]
    return Prediction(path, _text(label), float(score), top_k)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def is_classifier(signatures: Mapping[str, Any]) -> bool:
    """Return whether a model's `serving_default`, a Signature or SignatureDef, is that of Graftline's classifiers."""
    default = signatures.get(names.SERVING_DEFAULT, Signature({}, {}))
    return set(default.inputs) == {names.IMAGE_BYTES} and set(names.CLASSIFICATION) <= set(default.outputs)


def no_classifier_error(model: str) -> ServiceError:
    """Return the error for a model that `is_classifier` refuses."""
    needs = f"its {names.SERVING_DEFAULT} must take {names.IMAGE_BYTES} and give {', '.join(names.CLASSIFICATION)}"
    message = f"{model} is no image classifier that Graftline exported: {needs}"
    return ServiceError("FAILED_PRECONDITION", message)
