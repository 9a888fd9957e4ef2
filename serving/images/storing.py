"""Prepare an image file for ingest, or for a served model: keep its bytes, or convert it to JPEG or PNG.

A file is kept as it is whenever the serving graph (`components.transform.pixels.decode_upright`) shows it as a viewer
does. Clients call `prepare_to_send`. ImageExampleGen calls `prepare_to_store`, and also has TensorFlow decode the
result. No TensorFlow here.

Ordinary JPEGs and PNGs are rotated and shrunk in this process, since their headers (`headers`) bound the cost. Files
with suspect headers, of more than 25 megapixels, or of formats that only Pillow reads, are converted in a child process
with limits (`isolated`).
"""

from dataclasses import dataclass

from graftline.serving.images import formats, headers, isolated, transcoding, trust
from graftline.serving.images.headers import Header
from graftline.serving.images.trust import Refused


@dataclass(frozen=True)
class Stored:
    """The bytes to store, in a format that serving decodes, and their header. TensorFlow has not decoded them yet."""

    data: bytes
    header: Header
    transcoded: bool = False  # whether the bytes differ from the file's


def prepare_to_send(data: bytes) -> Stored | Refused:
    """Return what a client sends for a file: the bytes that ingest would store.

    Returns `Refused` where ingest refuses the file before decoding it. The model refuses other bad files. Never raises
    for a bad file. Threads may call it at once.
    """
    return prepare_to_store(data, trust.judge(data))


def prepare_to_store(data: bytes, header: Header | Refused, max_side: int | None = None) -> Stored | Refused:
    """Return the bytes to store for a file: its own, or a conversion. A file always gives the same bytes.

    `header` is the result of `trust.judge`. An image with a side of more than `max_side` pixels is shrunk to that. One
    of more than `formats.MAX_DECODED_PIXELS` is shrunk to those, so that training and server decode the same pixels.
    """
    if isinstance(header, Refused):
        return header
    shrink = transcoding.must_shrink(header.width, header.height, max_side)
    rotate = header.orientation != 1 and header.format != "jpeg"  # the serving graph rotates JPEGs itself
    ordinary = not header.distrust and header.pixels <= formats.MAX_DECODED_PIXELS
    if ordinary and not shrink and not rotate:
        return Stored(data, header)
    if ordinary and header.format in ("jpeg", "png"):
        try:
            converted = transcoding.transcode(data, header.format, max_side)
        except headers.ERRORS:
            converted = Refused(isolated.BROKEN)
    else:
        converted = isolated.transcode(data, header.format, max_side)
    if isinstance(converted, Refused):
        if converted.reason != isolated.BROKEN:
            return converted
        if header.distrust == headers.CUT_OFF:
            return Refused(f"truncated {trust.name_format(header.format)}")
        detail = f": {header.distrust}" if header.distrust and header.format in formats.DECODABLE else ""
        return Refused(trust.describe_damage(data, header.format) + detail)
    new_format = formats.sniff(converted[: formats.HEAD_BYTES])
    assert new_format in formats.DECODABLE, new_format
    return Stored(converted, headers.read(converted, new_format), transcoded=True)
