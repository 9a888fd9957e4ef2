"""What decides whether the bytes of a file are a good image, and what is stored of it: `decode` and `to_store`.

A file is stored as it is whenever the serving graph (`components.pixels.decode_upright`) shows it as a viewer does;
otherwise a JPEG or PNG is made of it. Whatever is stored has been decoded by the very op of the serving graph.
(Pillow's own `verify` passes truncated JPEGs.)

The work is done where it can do no harm. Ordinary JPEGs and PNGs, whose headers (`headers`) bound what they take, are
decoded and shrunk here; files with suspect headers, of more than 25 megapixels, and of formats that only Pillow reads,
in a child process with limits (`isolated`), and here only what that made of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
import tensorflow as tf
from PIL import Image

from components.image_example_gen import files, headers, isolated, transcoding
from components.image_example_gen.headers import Header
from components.image_example_gen.transcoding import Refused

MAX_BYTES = isolated.MAX_BYTES  # of one file
MAX_PIXELS = transcoding.MAX_PIXELS
MAX_SIDE = 65_500  # libjpeg's own limit
_ORDINARY_PIXELS = 25_000_000
_LUMA_SIDE = 256  # pixels; quality and phash are taken from at most this many a side
_HASH_SIDE = 32  # of imagehash's phash, like the next
_HASH_FREQUENCIES = 8  # a side
_MAX_JPEG_RATIO = 8  # libjpeg decodes at 1/2, 1/4 and 1/8
_SHOWN = {"jpeg": "JPEG", "png": "PNG", "gif": "GIF", "bmp": "BMP", "webp": "WebP"}
# What a whole file holds near its end; without it a file that can't be decoded is told to be truncated.
_END_MARKS = {"jpeg": b"\xff\xd9", "png": b"IEND", "gif": b";"}
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
class _Stored:
    data: bytes
    header: Header
    transcoded: bool = False


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
    headers_found = [_header(data) for data in batch]
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
    stored = _stored(data, _header(data), max_side)
    return stored if isinstance(stored, Quarantined) else stored.data


def too_many_bytes(size: int) -> Quarantined:
    """The refusal of a file above `MAX_BYTES`, for those who know its size without reading it."""
    return Quarantined(f"too many bytes: {size / 2**20:.0f} MiB, the limit is {MAX_BYTES >> 20}")


def _header(data: bytes) -> Header | Quarantined:
    """What the file says it is, or why it must not be decoded."""
    if not data:
        return Quarantined("empty file")
    if len(data) > MAX_BYTES:
        return too_many_bytes(len(data))
    head = data[: files.HEAD_BYTES]
    found = files.sniff(head)
    if found is None:
        return Quarantined(f"not an image: starts with {_shown_head(data)}")
    if found not in files.READABLE:
        return Quarantined(f"{_shown(found)} is not supported: convert to JPEG or PNG")
    if found == "heic" and b"avif" in head:  # among the brands after the first, mif1
        found = "avif"
    try:
        header = headers.read(data, found)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return Quarantined("too many pixels")
    except headers.ERRORS:
        return Quarantined(_how_broken(data, found))
    if max(header.width, header.height) > MAX_SIDE or header.pixels > MAX_PIXELS:
        return Quarantined(f"too many pixels: {header.width} x {header.height}")
    return header


def _look(data: bytes, header: Header | Quarantined, max_side: int | None) -> _Look | Quarantined:
    stored = _stored(data, header, max_side)
    if isinstance(stored, Quarantined):
        return stored
    luma = _luma(stored)
    if luma is None:  # the op's text is a C++ source line, of no use to a user
        return Quarantined(_how_broken(stored.data, stored.header.format))
    return _Look(stored.header, stored.transcoded, luma)


def _stored(data: bytes, header: Header | Quarantined, max_side: int | None) -> _Stored | Quarantined:
    """What is to be stored: the file, or what is made of it. TensorFlow has decoded neither yet."""
    if isinstance(header, Quarantined):
        return header
    shrink = max_side is not None and max(header.width, header.height) > max_side
    turn = header.orientation != 1 and header.format != "jpeg"  # the serving graph turns JPEGs alone
    ordinary = not header.distrust and header.pixels <= _ORDINARY_PIXELS
    if ordinary and not shrink and not turn:
        return _Stored(data, header)
    if ordinary and header.format in ("jpeg", "png"):
        made = _transcoded_here(data, header.format, max_side)
    else:
        made = isolated.transcode(data, header.format, max_side, keep=not header.distrust and not turn)
    if isinstance(made, Refused):
        if made.reason != isolated.BROKEN:
            return Quarantined(made.reason)
        if header.distrust == headers.CUT_OFF:
            return Quarantined(f"truncated {_shown(header.format)}")
        detail = f": {header.distrust}" if header.distrust and header.format in files.DECODABLE else ""
        return Quarantined(_how_broken(data, header.format) + detail)
    if not made:
        return _Stored(data, header)
    made_format = files.sniff(made[: files.HEAD_BYTES])
    assert made_format in files.DECODABLE, made_format
    return _Stored(made, headers.read(made, made_format), transcoded=True)


def _transcoded_here(data: bytes, image_format: str, max_side: int | None) -> bytes | Refused:
    try:
        return transcoding.transcode(data, image_format, max_side)
    except headers.ERRORS:
        return Refused(isolated.BROKEN)


def _luma(stored: _Stored) -> np.ndarray | None:
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


def _how_broken(data: bytes, image_format: str) -> str:
    mark = _END_MARKS.get(image_format)
    # The last bytes may be junk added after the image, so its mark counts anywhere in the last 64.
    truncated = mark is not None and mark not in data[-64:]
    if image_format == "bmp":
        truncated = len(data) < int.from_bytes(data[2:6], "little")
    shown = _shown(image_format)
    return f"truncated {shown}" if truncated else f"damaged {shown} or a variant that can't be decoded"


def _shown(image_format: str) -> str:
    return _SHOWN.get(image_format, image_format.upper())


def _shown_head(data: bytes) -> str:
    head = data[:8]
    return repr(head.decode("ascii")) if head.isascii() else f"bytes {head.hex(' ')}"
