"""Prepare an image file for ingest, or for a served model: keep its bytes, or convert it to JPEG or PNG.

A file is kept as it is whenever the serving graph (`components.transform.pixels.decode_upright`) shows it as a viewer
does. Clients call `prepare_to_send`. ImageExampleGen calls `prepare_to_store`, and also has TensorFlow decode the
result. No TensorFlow here.

Ordinary JPEGs and PNGs are rotated and shrunk in this process, since their headers (`headers`) bound the cost. Files
with suspect headers, of more than 25 megapixels, or of formats that only Pillow reads, are converted in a child process
with limits (`isolated`).
"""

from dataclasses import dataclass

from graftline.serving.images import formats, headers, isolated, transcoding
from graftline.serving.images.headers import Header
from graftline.serving.images.transcoding import Refused

MAX_SIDE = 65_500  # pixels; libjpeg's own limit
_ORDINARY_PIXELS = 25_000_000
_NAMES = {"jpeg": "JPEG", "png": "PNG", "gif": "GIF", "bmp": "BMP", "webp": "WebP"}
# A complete file holds these near its end. A file that cannot be decoded and lacks them is called truncated.
_END_MARKS = {"jpeg": b"\xff\xd9", "png": b"IEND", "gif": b";"}


@dataclass(frozen=True)
class Stored:
    """The bytes to store, in a format that serving decodes, and their header. TensorFlow has not decoded them yet."""

    data: bytes
    header: Header
    transcoded: bool = False  # whether the bytes differ from the file's


def prepare_to_send(data: bytes) -> bytes | Refused:
    """Return the bytes that a client sends for a file: those that ingest would store.

    Returns `Refused` where ingest refuses the file before decoding it. The model refuses other bad files. Never raises
    for a bad file. Threads may call it at once.
    """
    prepared = prepare_to_store(data, read_header(data))
    return prepared if isinstance(prepared, Refused) else prepared.data


def too_many_bytes(size: int) -> Refused:
    """Return the refusal of a file above `formats.MAX_BYTES`, for callers that know the size without reading it."""
    return Refused(f"too many bytes: {size / 2**20:.0f} MiB, the limit is {formats.MAX_BYTES >> 20}")


def read_header(data: bytes) -> Header | Refused:
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
        return Refused(f"{_name(image_format)} is not supported: convert to JPEG or PNG")
    if image_format == "heic" and b"avif" in head:  # one of the brands after the first, mif1
        image_format = "avif"
    try:
        header = headers.read(data, image_format)
    except headers.ERRORS:
        return Refused(describe_damage(data, image_format))
    if max(header.width, header.height) > MAX_SIDE or header.pixels > formats.MAX_PIXELS:
        return Refused(f"too many pixels: {header.width} x {header.height}")
    return header


def prepare_to_store(data: bytes, header: Header | Refused, max_side: int | None = None) -> Stored | Refused:
    """Return the bytes to store for a file: its own, or a conversion. A file always gives the same bytes.

    `header` is the result of `read_header`. An image with a side of more than `max_side` pixels is shrunk to that.
    """
    if isinstance(header, Refused):
        return header
    shrink = max_side is not None and max(header.width, header.height) > max_side
    rotate = header.orientation != 1 and header.format != "jpeg"  # the serving graph rotates JPEGs itself
    ordinary = not header.distrust and header.pixels <= _ORDINARY_PIXELS
    if ordinary and not shrink and not rotate:
        return Stored(data, header)
    if ordinary and header.format in ("jpeg", "png"):
        try:
            converted = transcoding.transcode(data, header.format, max_side)
        except headers.ERRORS:
            converted = Refused(isolated.BROKEN)
    else:
        converted = isolated.transcode(data, header.format, max_side, keep=not header.distrust and not rotate)
    if isinstance(converted, Refused):
        if converted.reason != isolated.BROKEN:
            return converted
        if header.distrust == headers.CUT_OFF:
            return Refused(f"truncated {_name(header.format)}")
        detail = f": {header.distrust}" if header.distrust and header.format in formats.DECODABLE else ""
        return Refused(describe_damage(data, header.format) + detail)
    if not converted:
        return Stored(data, header)
    new_format = formats.sniff(converted[: formats.HEAD_BYTES])
    assert new_format in formats.DECODABLE, new_format
    return Stored(converted, headers.read(converted, new_format), transcoded=True)


def describe_damage(data: bytes, image_format: str) -> str:
    """Return why a file of this format cannot be decoded, as far as its end tells."""
    mark = _END_MARKS.get(image_format)
    # Junk may follow the image, so its mark counts anywhere in the last 64 bytes.
    truncated = mark is not None and mark not in data[-64:]
    if image_format == "bmp":
        truncated = len(data) < int.from_bytes(data[2:6], "little")
    name = _name(image_format)
    return f"truncated {name}" if truncated else f"damaged {name} or a variant that cannot be decoded"


def _name(image_format: str) -> str:
    return _NAMES.get(image_format, image_format.upper())


def _quote_head(data: bytes) -> str:
    head = data[:8]
    return repr(head.decode("ascii")) if head.isascii() else f"bytes {head.hex(' ')}"
