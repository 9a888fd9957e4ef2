"""What is stored of an image file, and sent of it to a served model: the file itself, or a JPEG or PNG made of it.

A file is stored as it is whenever the serving graph (`components.transform.pixels.decode_upright`) shows it as a viewer
does. `to_send` is for clients; `stored` for ImageExampleGen, whose verdict takes a decoder's more. No TensorFlow.

The work is done where it can do no harm: ordinary JPEGs and PNGs, whose headers (`headers`) bound what they take, are
turned and shrunk here; files with suspect headers, of more than 25 megapixels, and of formats that only Pillow reads,
in a child process with limits (`isolated`).
"""

from dataclasses import dataclass

from graftline.serving.images import formats, headers, isolated, transcoding
from graftline.serving.images.headers import Header
from graftline.serving.images.transcoding import Refused

MAX_SIDE = 65_500  # pixels; libjpeg's own limit
_ORDINARY_PIXELS = 25_000_000
_SHOWN = {"jpeg": "JPEG", "png": "PNG", "gif": "GIF", "bmp": "BMP", "webp": "WebP"}
# What a whole file holds near its end; without it a file that can't be decoded is told to be truncated.
_END_MARKS = {"jpeg": b"\xff\xd9", "png": b"IEND", "gif": b";"}


@dataclass(frozen=True)
class Stored:
    """The bytes to store, in a format that serving decodes, and their header. No decoder of TensorFlow saw them yet."""

    data: bytes
    header: Header
    transcoded: bool = False  # they are not the file's own


def to_send(data: bytes) -> bytes | Refused:
    """What a client sends of a file's bytes: those that ingest would store of it.

    Refused where ingest would refuse the file before decoding it; other bad bytes are the model's to refuse. Never
    raises for bad bytes; safe to call from several threads.
    """
    made = stored(data, read_header(data))
    return made if isinstance(made, Refused) else made.data


def too_many_bytes(size: int) -> Refused:
    """The refusal of a file above `formats.MAX_BYTES`, for those who know its size without reading it."""
    return Refused(f"too many bytes: {size / 2**20:.0f} MiB, the limit is {formats.MAX_BYTES >> 20}")


def read_header(data: bytes) -> Header | Refused:
    """What the file says it is, or why it must not be decoded."""
    if not data:
        return Refused("empty file")
    if len(data) > formats.MAX_BYTES:
        return too_many_bytes(len(data))
    head = data[: formats.HEAD_BYTES]
    found = formats.sniff(head)
    if found is None:
        return Refused(f"not an image: starts with {_shown_head(data)}")
    if found not in formats.READABLE:
        return Refused(f"{_shown(found)} is not supported: convert to JPEG or PNG")
    if found == "heic" and b"avif" in head:  # among the brands after the first, mif1
        found = "avif"
    try:
        header = headers.read(data, found)
    except headers.ERRORS:
        return Refused(how_broken(data, found))
    if max(header.width, header.height) > MAX_SIDE or header.pixels > formats.MAX_PIXELS:
        return Refused(f"too many pixels: {header.width} x {header.height}")
    return header


def stored(data: bytes, header: Header | Refused, max_side: int | None = None) -> Stored | Refused:
    """What is to be stored of the file with this header: the file, or what is made of it. The same bytes each time.

    Args:
      data: the file.
      header: as `read_header` gave it.
      max_side: an image with a longer side is stored shrunk to it, in pixels; None keeps all sizes.
    """
    if isinstance(header, Refused):
        return header
    shrink = max_side is not None and max(header.width, header.height) > max_side
    turn = header.orientation != 1 and header.format != "jpeg"  # the serving graph turns JPEGs alone
    ordinary = not header.distrust and header.pixels <= _ORDINARY_PIXELS
    if ordinary and not shrink and not turn:
        return Stored(data, header)
    if ordinary and header.format in ("jpeg", "png"):
        made = _transcoded_here(data, header.format, max_side)
    else:
        made = isolated.transcode(data, header.format, max_side, keep=not header.distrust and not turn)
    if isinstance(made, Refused):
        if made.reason != isolated.BROKEN:
            return made
        if header.distrust == headers.CUT_OFF:
            return Refused(f"truncated {_shown(header.format)}")
        detail = f": {header.distrust}" if header.distrust and header.format in formats.DECODABLE else ""
        return Refused(how_broken(data, header.format) + detail)
    if not made:
        return Stored(data, header)
    made_format = formats.sniff(made[: formats.HEAD_BYTES])
    assert made_format in formats.DECODABLE, made_format
    return Stored(made, headers.read(made, made_format), transcoded=True)


def _transcoded_here(data: bytes, image_format: str, max_side: int | None) -> bytes | Refused:
    try:
        return transcoding.transcode(data, image_format, max_side)
    except headers.ERRORS:
        return Refused(isolated.BROKEN)


def how_broken(data: bytes, image_format: str) -> str:
    """Why a file of this format can't be decoded, as far as its end tells."""
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
