"""What decides whether the bytes of a file are a good image, and what is stored of it: `decode` and `to_store`.

What is stored is the file or what `serving.images.storing` makes of it, in a process with limits where it is suspect.
Whatever is stored has been decoded here by the very op of the serving graph. (Pillow's own `verify` passes truncated
JPEGs.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
import tensorflow as tf
from PIL import Image

from graftline.serving.images import storing
from graftline.serving.images.formats import MAX_BYTES as MAX_BYTES
from graftline.serving.images.headers import Header
from graftline.serving.images.storing import Stored
from graftline.serving.images.transcoding import Refused

_LUMA_SIDE = 256  # pixels; quality and phash are taken from at most this many a side
_HASH_SIDE = 32  # of imagehash's phash, like the next
_HASH_FREQUENCIES = 8  # a side
_MAX_JPEG_RATIO = 8  # libjpeg decodes at 1/2, 1/4 and 1/8
# EXIF orientation -> (transposed, then mirrored left to right, then upside down); CIPA DC-008, 4.6.4.
_TURNS = {
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


@dataclass(frozen=True, slots=True)
class Decoded:
    """A good image, as it is stored. Height and width are as a viewer shows it, after EXIF orientation."""

    format: str  # "jpeg", "png", "gif", "bmp"
    height: int  # pixels
    width: int
    brightness: float  # mean luma, 0..1
    contrast: float  # standard deviation of luma, 0..1
    sharpness: float  # standard deviation of luma's 4-neighbour Laplacian
    phash: int  # perceptual hash of 64 bits, upright; those of near copies differ in few bits
    transcoded: bool = False  # the file's own bytes are not what is stored


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A file that is no good image. `reason` is a short stable phrase, after ": " possibly with a detail."""

    reason: str

    @property
    def phrase(self) -> str:
        """The reason without its detail, to count by."""
        return self.reason.partition(": ")[0]


@dataclass(frozen=True)
class _Look:
    """What is left of an image once it has been decoded."""

    header: Header  # of what is stored
    transcoded: bool
    luma: np.ndarray  # uint8 [h, w]


def decode(data: bytes, max_side: int | None = None) -> Decoded | Quarantined:
    """Judge the bytes of one file. Never raises for bad bytes; safe to call from several threads.

    Args:
      data: the file.
      max_side: an image with a longer side is stored shrunk to it, in pixels; None keeps all sizes.
    """
    return decode_many([data], max_side)[0]


def decode_many(batch: Sequence[bytes], max_side: int | None = None) -> list[Decoded | Quarantined]:
    """`decode` for each of a batch, in its order and in one thread, in some three quarters of the time for 64 photos.

    One step is done for all images before the next begins: the four libraries that share the work don't push each
    other's code out of the processor's caches. Memory does not grow with the images, only 64 KB for each.
    """
    headers_found = [storing.read_header(data) for data in batch]
    with tf.device("/CPU:0"):  # once, as this alone takes 10 us
        looks = [_look(data, header, max_side) for data, header in zip(batch, headers_found, strict=True)]
    found = [look for look in looks if isinstance(look, _Look)]
    qualities = [_quality(look.luma) for look in found]
    hashes = _phashes([_tiny(look.luma, look.header.orientation) for look in found])
    rest = zip(qualities, hashes, strict=True)
    return [look if isinstance(look, Quarantined) else _decoded(look, *next(rest)) for look in looks]


def _decoded(look: _Look, quality: tuple[float, float, float], phash: int) -> Decoded:
    header = look.header
    return Decoded(header.format, header.height, header.width, *quality, phash, look.transcoded)


def to_store(data: bytes, verdict: Decoded, max_side: int | None = None) -> bytes | Quarantined:
    """The bytes for the record, from the file and what `decode` said of it with the same `max_side`.

    The same bytes each time. Quarantined only when a decoder that has just read the file can't read it again, as on a
    machine without memory.
    """
    if not verdict.transcoded:
        return data
    stored = storing.prepare_to_store(data, storing.read_header(data), max_side)
    return Quarantined(stored.reason) if isinstance(stored, Refused) else stored.data


def too_many_bytes(size: int) -> Quarantined:
    """The refusal of a file above `MAX_BYTES`, for those who know its size without reading it."""
    return Quarantined(storing.too_many_bytes(size).reason)


def _look(data: bytes, header: Header | Refused, max_side: int | None) -> _Look | Quarantined:
    stored = storing.prepare_to_store(data, header, max_side)
    if isinstance(stored, Refused):
        return Quarantined(stored.reason)
    luma = _luma(stored)
    if luma is None:  # the op's text is a C++ source line, of no use to a user
        return Quarantined(storing.describe_damage(stored.data, stored.header.format))
    return _Look(stored.header, stored.transcoded, luma)


def _luma(stored: Stored) -> np.ndarray | None:
    """uint8 [h, w], as stored (not upright), at most 256 a side and antialiased; None where the serving op fails.

    A JPEG is decoded in full, but to luma and small: that fails for the same bytes as `tf.io.decode_image` (the entropy
    coding is read to its end in both), and takes four fifths of its time.
    """
    header = stored.header
    ratio = 1
    while max(header.width, header.height) > _LUMA_SIDE * ratio:
        ratio *= 2
    try:
        if header.format == "jpeg" and header.components != 4:
            done = min(ratio, _MAX_JPEG_RATIO)
            decoded = tf.raw_ops.DecodeJpeg(contents=stored.data, channels=1, ratio=done)
        else:
            done = 1
            decoded = tf.raw_ops.DecodeImage(contents=stored.data, channels=3, expand_animations=False)
    except tf.errors.OpError:
        return None
    pixels = np.asarray(memoryview(decoded))  # no copy
    upright = pixels.shape[:2] if header.orientation < 5 else pixels.shape[1::-1]
    if upright != (-(-header.height // done), -(-header.width // done)) or not pixels.size:
        return None
    if pixels.shape[-1] == 1 and ratio == done:
        return pixels[..., 0]
    luma = Image.fromarray(pixels[..., 0]) if pixels.shape[-1] == 1 else Image.fromarray(pixels).convert("L")
    return np.asarray(luma.reduce(ratio // done) if ratio > done else luma)


def _quality(luma: np.ndarray) -> tuple[float, float, float]:
    """(brightness, contrast, sharpness)."""
    brightness, contrast = _mean_and_deviation(luma)
    sharpness = 0.0
    height, width = luma.shape
    if min(height, width) > 2:
        # Row by row in one line, which is faster; what wraps around at the sides is left out at the end.
        line = luma.ravel().astype(np.int16)
        inner = slice(width, (height - 1) * width)
        laplacian = line[: -2 * width] + line[2 * width :]
        laplacian += line[inner.start - 1 : inner.stop - 1]
        laplacian += line[inner.start + 1 : inner.stop + 1]
        laplacian -= 4 * line[inner]
        _, sharpness = _mean_and_deviation(laplacian.reshape(-1, width)[:, 1:-1])
    return brightness / 255, contrast / 255, sharpness / 255


def _mean_and_deviation(values: np.ndarray) -> tuple[float, float]:
    """Of whole numbers [h, w], faster than `mean` and `std`.

    Exact for luma, as a row's squares sum to less than 2**24. By einsum and not dot, as BLAS would wake threads for it.
    """
    numbers = values.astype(np.float32)
    mean = float(np.einsum("ij->i", numbers).sum(dtype=np.float64)) / numbers.size
    squares = float(np.einsum("ij,ij->i", numbers, numbers).sum(dtype=np.float64)) / numbers.size
    return mean, max(0.0, squares - mean * mean) ** 0.5


def _tiny(luma: np.ndarray, orientation: int) -> np.ndarray:
    """uint8 [32, 32] to hash: upright, so that a turned copy is found.

    The resize of `imagehash.phash` (Lanczos, from any size) takes three times as long as one by way of whole factors.
    """
    tiny = np.asarray(
        Image.fromarray(luma).resize((_HASH_SIDE, _HASH_SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    )
    if orientation not in _TURNS:
        return tiny
    transposed, mirrored, upside_down = _TURNS[orientation]
    turned = tiny.T if transposed else tiny
    return turned[:: -1 if upside_down else 1, :: -1 if mirrored else 1]


def _phashes(tiny: Sequence[np.ndarray]) -> list[int]:
    """The DCT hashes of `imagehash.phash`, bit for bit, of many pictures at once in an eighth of its time.

    That is: which of the lowest 8 x 8 frequencies are above their median; the first is the highest bit.
    See https://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html.
    """
    if not tiny:
        return []
    low = scipy.fft.dct(np.stack(tiny), axis=1)[:, :_HASH_FREQUENCIES]
    low = scipy.fft.dct(low, axis=2)[..., :_HASH_FREQUENCIES].reshape(len(tiny), -1)
    bits = np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1)
    return [int.from_bytes(eight.tobytes(), "big") for eight in bits]
