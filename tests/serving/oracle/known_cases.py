"""The cases that once cost a server most, and their like: none depends on a seed."""

import base64
import gzip

from tests.serving.oracle import hostile_images, http2
from tests.serving.oracle.case import Case, post
from tests.serving.oracle.http2 import frame
from tests.serving.oracle.json_cases import value

_MIB = 1 << 20
_GZIP = b"Content-Encoding: gzip\r\n"
_NO_UTF_8 = b"\x40\x01a\x7e" + b"\xff" * 126  # into HPACK's dynamic table; \xbe is the same header again


def _json(name: str, text: bytes, model: str = "numbers") -> Case:
    data = post(gzip.compress(text, 1), f"/v1/models/{model}:predict", _GZIP)
    return Case(f"JSON: {name}", "http", data, unpacked=len(text))


def _image(name: str, image: bytes, count: int = 1, pixels: int = 0) -> Case:
    item = b'{"b64": "%s"}' % base64.b64encode(image)
    return Case(f"image: {name}", "http", post(b'{"instances": [%s]}' % b", ".join([item] * count)), pixels=pixels)


def known_cases() -> list[Case]:
    """Return them all; the largest has 6 MB."""
    numbers = b'{"instances":%s}'
    two_members = gzip.compress(value(b"0", 1, 300_000)) * 2
    repeated = frame(http2.HEADERS, http2.END_HEADERS, 1, http2.call_headers() + _NO_UTF_8 + b"\xbe" * 200)
    return [
        _json("400,000 numbers 900 deep", value(b"0", 900, 800_000), "nobody"),
        _json("instances 63 deep", numbers % value(b"0", 62, 2 * _MIB)),
        *(_json(f"{leaf!r} alone", value(leaf, 1, 4 * _MIB), "nobody") for leaf in (b"[]", b"{}", b'{"a":0}')),
        *(_json(f"instances of {leaf!r}", numbers % value(leaf, 1, 4 * _MIB)) for leaf in (b"[]", b"1", b'"a"')),
        Case("two members of gzip", "http", post(two_members, headers=_GZIP), unpacked=300_000),
        Case("a header that is not UTF-8, 200 times", "http2", http2.PREFACE + frame(http2.SETTINGS, 0, 0) + repeated),
        _image("4,000 scans", hostile_images.jpeg_of_scans(4000, 4900)),
        _image("4 MB of packed text", hostile_images.png_of_text()),
        _image("2 MB of comments", hostile_images.gif_of_comments(2 * _MIB)),
        _image("twelve of 100 megapixels", hostile_images.png_of_pixels(), 12),
    ]
