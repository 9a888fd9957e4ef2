"""What decides whether the bytes of a file are a good image: the decoder that serving uses, behind a size guard.

Pillow reads the header only, so that a small file can't make the decoder ask for gigabytes; then
`tf.io.decode_image` decodes, the very op of the serving graph. (Pillow's own `verify` passes truncated JPEGs.)
"""

import io
import struct
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from PIL import Image

from components.image_example_gen import files

MAX_BYTES = 64 << 20  # of one file
MAX_PIXELS = 100_000_000  # 300 MB as uint8 RGB
MAX_SIDE = 65_500  # libjpeg's own limit
_QUALITY_SIDE = 256  # pixels; the quality numbers are taken from about this many a side
_SWAPPING = (5, 6, 7, 8)  # EXIF orientations that turn the image by a quarter
_ORIENTATION_TAG = 0x0112
_LUMA = tuple(np.float32(weight / 255) for weight in (0.299, 0.587, 0.114))  # ITU-R BT.601, of uint8
_SHOWN = {"jpeg": "JPEG", "png": "PNG", "gif": "GIF", "bmp": "BMP", "webp": "WebP"}
# What a whole file holds near its end; without it a file that can't be decoded is told to be truncated.
_END_MARKS = {"jpeg": b"\xff\xd9", "png": b"IEND", "gif": b";"}
# Pillow's plugins raise all of these on bad headers.
_HEADER_ERRORS = (OSError, ValueError, SyntaxError, IndexError, KeyError, TypeError, struct.error, OverflowError)


@dataclass(frozen=True)
class Decoded:
    """A good image. Height and width are as a viewer shows it, after EXIF orientation."""

    format: str  # "jpeg", "png", "gif", "bmp"
    height: int  # pixels
    width: int
    brightness: float  # mean luma, 0..1
    contrast: float  # standard deviation of luma, 0..1
    sharpness: float  # standard deviation of luma's 4-neighbour Laplacian


@dataclass(frozen=True)
class Quarantined:
    """A file that is no good image. `reason` is a short stable phrase, after ": " possibly with a detail."""

    reason: str

    @property
    def phrase(self) -> str:
        """The reason without its detail, to count by."""
        return self.reason.partition(": ")[0]


def decode(data: bytes) -> Decoded | Quarantined:
    """Judge the bytes of one file. Never raises for bad bytes; safe to call from several threads.

    PNG's rarely written eXIf chunk is not asked for orientation, only JPEG's EXIF.
    """
    if not data:
        return Quarantined("empty file")
    if len(data) > MAX_BYTES:
        return too_many_bytes(len(data))
    found = files.sniff(data[: files.HEAD_BYTES])
    if found is None:
        return Quarantined(f"not an image: starts with {_shown_head(data)}")
    if found not in files.DECODABLE:
        name = _SHOWN.get(found, found.upper())
        return Quarantined(f"{name} is not supported yet: convert to JPEG or PNG")
    orientation = _guard(data, found)
    if isinstance(orientation, Quarantined):
        return orientation
    try:
        with tf.device("/CPU:0"):
            pixels = tf.io.decode_image(data, channels=3, expand_animations=False).numpy()
    except tf.errors.OpError:  # its text is a C++ source line, of no use to a user
        return Quarantined(_how_broken(data, found))
    height, width = pixels.shape[:2]
    if not height or not width:
        return Quarantined(f"damaged {_SHOWN[found]}")
    if orientation in _SWAPPING:
        height, width = width, height
    return Decoded(found, height, width, *_quality(pixels))


def too_many_bytes(size: int) -> Quarantined:
    """The refusal of a file above `MAX_BYTES`, for those who know its size without reading it."""
    return Quarantined(f"too many bytes: {size / 2**20:.0f} MiB, the limit is {MAX_BYTES >> 20}")


def _guard(data: bytes, found: str) -> int | Quarantined:
    """The EXIF orientation (1 where there is none), read from the header, or why the image must not be decoded."""
    try:
        with Image.open(io.BytesIO(data), formats=[found.upper()]) as image:
            width, height = image.size
            if width > MAX_SIDE or height > MAX_SIDE or width * height > MAX_PIXELS:
                return Quarantined(f"too many pixels: {width} x {height}")
            # Pillow's getexif() decodes the whole image of a PNG; for a JPEG it reads the header.
            return _orientation(image) if found == "jpeg" else 1
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return Quarantined("too many pixels")
    except _HEADER_ERRORS:
        return Quarantined(_how_broken(data, found))


def _orientation(image: Image.Image) -> int:
    try:
        # Not Image.getexif(): that goes on to read XMP, which the graph that serves does not.
        exif = Image.Exif()
        exif.load(image.info.get("exif", b""))
        return int(exif.get(_ORIENTATION_TAG, 1))
    except _HEADER_ERRORS:  # damaged EXIF does not spoil the image
        return 1


def _how_broken(data: bytes, found: str) -> str:
    mark = _END_MARKS.get(found)
    # The last bytes may be junk added after the image, so its mark counts anywhere in the last 64.
    truncated = mark is not None and mark not in data[-64:]
    if found == "bmp":
        truncated = len(data) < int.from_bytes(data[2:6], "little")
    return f"truncated {_SHOWN[found]}" if truncated else f"damaged {_SHOWN[found]} or a variant that can't be decoded"


def _shown_head(data: bytes) -> str:
    head = data[:8]
    return repr(head.decode("ascii")) if head.isascii() else f"bytes {head.hex(' ')}"


def _quality(pixels: np.ndarray) -> tuple[float, float, float]:
    """(brightness, contrast, sharpness) of uint8 [height, width, 3], from every n-th pixel of every n-th row."""
    step = max(1, -(-max(pixels.shape[:2]) // _QUALITY_SIDE))
    red, green, blue = np.moveaxis(pixels[::step, ::step], -1, 0)
    luma = red * _LUMA[0]  # channel by channel: half the time of a matrix product with so short a vector
    luma += green * _LUMA[1]
    luma += blue * _LUMA[2]
    sharpness = 0.0
    if min(luma.shape) > 2:
        inner = luma[1:-1, 1:-1]
        laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * inner
        sharpness = float(laplacian.std())
    return float(luma.mean()), float(luma.std()), sharpness
