"""The one decision about an image's bytes, and its words: ingest, clients, `graftline predict` and the server ask here.

`judge` says whether a file is refused before any decoder sees it. `refusal_to_serve` says why a model's own decoder
must not see it: the file has to be converted first (`storing`), as ingest and clients do. `describe_damage` has the
words for a file that a decoder has refused. No TensorFlow and no Pillow here.
"""

from dataclasses import dataclass

from graftline.serving.images import formats, headers
from graftline.serving.images.headers import Header

MAX_SIDE = 65_500  # pixels; libjpeg's own limit
_NAMES = {"jpeg": "JPEG", "png": "PNG", "gif": "GIF", "bmp": "BMP", "webp": "WebP"}
# A complete file holds these near its end. A file that cannot be decoded and lacks them is called truncated.
_END_MARKS = {"jpeg": b"\xff\xd9", "png": b"IEND", "gif": b";"}
# How TensorFlow tells formats apart (core/kernels/image/decode_image_op.cc): by fewer bytes than `formats.sniff`.
# Not here: BMP. TensorFlow decodes one only if the file holds all its pixels, so its bytes bound the cost.
_TENSORFLOWS_MAGIC = {b"\xff\xd8\xff": "jpeg", b"\x89PNG\r\n\x1a\n": "png", b"GIF8": "gif"}
MAGIC = tuple(_TENSORFLOWS_MAGIC)  # the first bytes of files whose decoding may cost much more than they weigh


@dataclass(frozen=True)
class Refused:
    """Why a file is not used, in words for a user. A `temporary` reason may not hold for the next attempt."""

    reason: str
    temporary: bool = False


def judge(data: bytes) -> Header | Refused:
    """Return the header of a file, or why the file must not be decoded."""
    if not data:
        return Refused("empty file")
    if len(data) > formats.MAX_BYTES:
        return too_many_bytes(len(data))
    head = data[: formats.HEAD_BYTES]
    image_format = formats.sniff(head)
    if image_format is None:
        return Refused(f"not an image: starts with {_quote_head(data)}")
    if image_format not in formats.READABLE:
        return Refused(f"{name_format(image_format)} is not supported: convert to JPEG or PNG")
    if image_format == "heic" and b"avif" in head:  # one of the brands after the first, mif1
        image_format = "avif"
    try:
        header = headers.read(data, image_format)
    except headers.ERRORS:
        return Refused(describe_damage(data, image_format))
    if max(header.width, header.height) > MAX_SIDE or header.pixels > formats.MAX_PIXELS:
        return Refused(f"too many pixels: {header.width} x {header.height}")
    return header


def refusal_to_serve(header: Header) -> str:
    """Return why a served model must not decode a file with this header as it is; "" when it may."""
    if not header.distrust:
        return ""
    name = name_format(header.format)
    return f"this {name} must be converted first ({header.distrust}), as `graftline predict` and the Python client do"


def unknown_use(data: bytes) -> tuple[str, int]:
    """Judge a string that a model may decode by `tf.io.decode_image`, or may use for anything else.

    Returns why it must not, "" when it may, and the pixels that TensorFlow would allocate: of a GIF, those of all
    frames. They are 0 for strings that TensorFlow takes for no image, or refuses.
    """
    image_format = next((name for magic, name in _TENSORFLOWS_MAGIC.items() if data.startswith(magic)), None)
    if image_format is None:
        return "", 0
    try:
        header = headers.read(data, image_format)
    except headers.ERRORS:
        return "", 0
    pixels = header.animation_pixels if image_format == "gif" else header.pixels
    return refusal_to_serve(header) if header.is_costly else "", pixels


def too_many_bytes(size: int) -> Refused:
    """Return the refusal of a file above `formats.MAX_BYTES`, for callers that know the size without reading it."""
    return Refused(f"too many bytes: {size / 2**20:.0f} MiB, the limit is {formats.MAX_BYTES >> 20}")


def describe_damage(data: bytes, image_format: str) -> str:
    """Return why a file of this format cannot be decoded, as far as its end tells."""
    mark = _END_MARKS.get(image_format)
    # Junk may follow the image, so its mark counts anywhere in the last 64 bytes.
    truncated = mark is not None and mark not in data[-64:]
    if image_format == "bmp":
        truncated = len(data) < int.from_bytes(data[2:6], "little")
    name = name_format(image_format)
    return f"truncated {name}" if truncated else f"damaged {name} or a variant that cannot be decoded"


def name_format(image_format: str) -> str:
    """Return the name of a format for a user."""
    return _NAMES.get(image_format, image_format.upper())


def _quote_head(data: bytes) -> str:
    head = data[:8]
    return repr(head.decode("ascii")) if head.isascii() else f"bytes {head.hex(' ')}"
