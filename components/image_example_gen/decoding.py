"""The verdict on a file's bytes, and the bytes to store: `decode` and `to_store`.

The stored bytes are the file itself or the image that `serving.images.storing` makes of it; a suspect file is converted
in a process with limits. All stored bytes have been decoded here by the op of the serving graph. (Pillow's own `verify`
accepts truncated JPEGs.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.fft
import tensorflow as tf
from PIL import Image

from graftline.serving.images import storing, trust
from graftline.serving.images.formats import MAX_BYTES as MAX_BYTES
from graftline.serving.images.headers import Header
from graftline.serving.images.storing import Stored
from graftline.serving.images.trust import Refused

_LUMA_SIDE = 256  # pixels; largest side of the picture that quality and phash are computed from
_HASH_SIDE = 32  # pixels, as in imagehash's phash
_HASH_FREQUENCIES = 8  # on each axis, as in imagehash's phash
_FEW_LEVELS = 64  # of 256; 14 bits in a sample of 16 have so many
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
    """A good image, as it is stored. Height and width are those of the upright image, after EXIF orientation."""

    format: str  # "jpeg", "png", "gif", "bmp"
    height: int  # pixels
    width: int
    brightness: float  # mean luma, 0..1
    contrast: float  # standard deviation of luma, 0..1
    sharpness: float  # standard deviation of luma's 4-neighbour Laplacian
    phash: int  # perceptual hash of the upright image, 64 bits; hashes of near copies differ in few bits
    transcoded: bool = False  # whether other bytes than the file's are stored
    few_levels: bool = False  # whether it has 16 bits a sample, and less than a quarter of the range of luma

    @property
    def is_of_one_colour(self) -> bool:
        """Whether all pixels show the same brightness."""
        return self.contrast == 0


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A file that is not a good image. `reason` is a short stable phrase, possibly with a detail after ": "."""

    reason: str

    @property
    def phrase(self) -> str:
        """The reason without its detail, to count by."""
        return self.reason.partition(": ")[0]


class _Measurable(NamedTuple):
    """A decoded image, reduced to the data that the measurements need."""

    header: Header  # of the stored bytes
    transcoded: bool
    luma: np.ndarray  # uint8 [h, w]
    is_deep: bool  # whether the file has 16 bits a sample


def decode(data: bytes, max_side: int | None = None) -> Decoded | Quarantined:
    """Judge the bytes of one file. Never raises for bad bytes; safe to call from several threads.

    Images with a side of more than `max_side` pixels are stored shrunk; None keeps all sizes.
    """
    return decode_many([data], max_side)[0]


def decode_many(batch: Sequence[bytes], max_side: int | None = None) -> list[Decoded | Quarantined]:
    """Judge a batch as `decode` does, in order and in one thread, in three quarters of the time for 64 photos.

    Each step runs for all images before the next step begins, so that the four libraries do not push each other's code
    out of the processor's caches. Memory: 64 KB for each image, whatever its size.
    """
    headers = [trust.judge(data) for data in batch]
    with tf.device("/CPU:0"):  # once for the batch: it takes 10 us
        looks = [_measurable(data, header, max_side) for data, header in zip(batch, headers, strict=True)]
    good = [look for look in looks if isinstance(look, _Measurable)]
    qualities = [_quality(look.luma) for look in good]
    hashes = _phashes([_tiny(look.luma, look.header.orientation) for look in good])
    rest = zip(qualities, hashes, strict=True)
    return [look if isinstance(look, Quarantined) else _decoded(look, *next(rest)) for look in looks]


def _decoded(look: _Measurable, quality: tuple[float, float, float], phash: int) -> Decoded:
    header = look.header
    few_levels = look.is_deep and int(np.ptp(look.luma)) < _FEW_LEVELS
    return Decoded(header.format, header.height, header.width, *quality, phash, look.transcoded, few_levels)


def to_store(data: bytes, verdict: Decoded, max_side: int | None = None) -> bytes | Quarantined:
    """Return the bytes for the record: the same bytes on each call.

    `verdict` is the result of `decode` with the same `max_side`. A refusal is returned only if a decoder that has just
    read the file cannot read it again, for example because the machine has no memory left.
    """
    if not verdict.transcoded:
        return data
    stored = storing.prepare_to_store(data, trust.judge(data), max_side)
    return Quarantined(stored.reason) if isinstance(stored, Refused) else stored.data


def too_many_bytes(size: int) -> Quarantined:
    """Return the refusal of a file above `MAX_BYTES`, for callers that know its size without reading it."""
    return Quarantined(trust.too_many_bytes(size).reason)


def _measurable(data: bytes, header: Header | Refused, max_side: int | None) -> _Measurable | Quarantined:
    stored = storing.prepare_to_store(data, header, max_side)
    if isinstance(stored, Refused):
        return Quarantined(stored.reason)
    luma = _luma(stored)
    if luma is None:  # the op's message names a C++ source line, which does not help a user
        return Quarantined(trust.describe_damage(stored.data, stored.header.format))
    is_deep = isinstance(header, Header) and header.is_deep
    return _Measurable(stored.header, stored.transcoded, luma, is_deep)


def _luma(stored: Stored) -> np.ndarray | None:
    """Return antialiased luma, uint8 [h, w], as stored (not upright), at most 256 a side; None if the serving op fails.

    A JPEG is decoded to a small luma picture. This fails for the same bytes as `tf.io.decode_image`, because both read
    the entropy coding to its end, and takes four fifths of its time.
    """
    header = stored.header
    ratio = 1
    while max(header.width, header.height) > _LUMA_SIDE * ratio:
        ratio *= 2
    try:
        if header.has_alpha:
            done = 1
            pixels = _lay_on_white(tf.raw_ops.DecodePng(contents=stored.data, channels=4))
        elif header.format == "jpeg" and header.components != 4:
            done = min(ratio, _MAX_JPEG_RATIO)
            pixels = _view(tf.raw_ops.DecodeJpeg(contents=stored.data, channels=1, ratio=done))
        else:
            done = 1
            pixels = _view(tf.raw_ops.DecodeImage(contents=stored.data, channels=3, expand_animations=False))
    except tf.errors.OpError:
        return None
    upright = pixels.shape[:2] if header.orientation < 5 else pixels.shape[1::-1]
    if upright != (-(-header.height // done), -(-header.width // done)) or not pixels.size:
        return None
    if pixels.shape[-1] == 1 and ratio == done:
        return pixels[..., 0]
    luma = Image.fromarray(pixels[..., 0]) if pixels.shape[-1] == 1 else Image.fromarray(pixels).convert("L")
    return np.asarray(luma.reduce(ratio // done) if ratio > done else luma)


def _view(decoded: tf.Tensor) -> np.ndarray:
    """Return a tensor as an array, without a copy."""
    return np.asarray(memoryview(decoded))


def _lay_on_white(decoded: tf.Tensor) -> np.ndarray:
    """Lay pixels uint8 [h, w, 4] on white as the serving graph does (`transform.pixels`): uint8 [h, w, 3]."""
    image = _view(decoded).astype(np.uint16)
    alpha = image[..., 3:]
    sums = image[..., :3] * alpha + 255 * (255 - alpha) + 128
    return ((sums + (sums >> 8)) >> 8).astype(np.uint8)


def _quality(luma: np.ndarray) -> tuple[float, float, float]:
    """Return (brightness, contrast, sharpness)."""
    brightness, contrast = _mean_and_deviation(luma)
    sharpness = 0.0
    height, width = luma.shape
    if min(height, width) > 2:
        # On one flat line, which is faster. The last step drops the columns that wrap around.
        line = luma.ravel().astype(np.int16)
        inner = slice(width, (height - 1) * width)
        laplacian = line[: -2 * width] + line[2 * width :]
        laplacian += line[inner.start - 1 : inner.stop - 1]
        laplacian += line[inner.start + 1 : inner.stop + 1]
        laplacian -= 4 * line[inner]
        _, sharpness = _mean_and_deviation(laplacian.reshape(-1, width)[:, 1:-1])
    return brightness / 255, contrast / 255, sharpness / 255


def _mean_and_deviation(values: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation of whole numbers [h, w], faster than `mean` and `std`.

    They are exact for luma, because the squares of a row sum to less than 2**24. `einsum` starts no threads, unlike
    BLAS in `dot`.
    """
    numbers = values.astype(np.float32)
    mean = float(np.einsum("ij->i", numbers).sum(dtype=np.float64)) / numbers.size
    squares = float(np.einsum("ij,ij->i", numbers, numbers).sum(dtype=np.float64)) / numbers.size
    return mean, max(0.0, squares - mean * mean) ** 0.5


def _tiny(luma: np.ndarray, orientation: int) -> np.ndarray:
    """Return the picture to hash, uint8 [32, 32]; it is upright, so that rotated copies are found.

    The resize of `imagehash.phash` (Lanczos, from any size) takes three times as long as one with whole factors first.
    """
    sides = _HASH_SIDE, _HASH_SIDE
    tiny = np.asarray(Image.fromarray(luma).resize(sides, Image.Resampling.BICUBIC, reducing_gap=2.0))
    if orientation not in _TURNS:
        return tiny
    transposed, mirrored, upside_down = _TURNS[orientation]
    turned = tiny.T if transposed else tiny
    return turned[:: -1 if upside_down else 1, :: -1 if mirrored else 1]


def _phashes(tiny: Sequence[np.ndarray]) -> list[int]:
    """Return the DCT hashes of `imagehash.phash`, bit for bit, of many pictures at once in an eighth of its time.

    The bits tell which of the lowest 8 x 8 frequencies are above their median; the first is the highest bit.
    See https://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html.
    """
    if not tiny:
        return []
    low = scipy.fft.dct(np.stack(tiny), axis=1)[:, :_HASH_FREQUENCIES]
    low = scipy.fft.dct(low, axis=2)[..., :_HASH_FREQUENCIES].reshape(len(tiny), -1)
    bits = np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1)
    return [int.from_bytes(eight.tobytes(), "big") for eight in bits]
