"""Small image files that ask much of a decoder, by name: repeated, padded or packed parts of every format."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from tests.images import PNG_SIGNATURE, draw_scene, encode, png_chunk

_EOI = b"\xff\xd9"


def _jpeg(size: tuple[int, int] = (400, 300), mode: str = "RGB", **options: object) -> bytes:
    return encode(draw_scene(1, size).convert(mode), "JPEG", quality=80, **options)


def _jpeg_with(before: bytes) -> bytes:
    """Put bytes behind the start of a JPEG."""
    data = _jpeg()
    return data[:2] + before + data[2:]


def jpeg_of_scans(scans: int, size: tuple[int, int] = (400, 300)) -> bytes:
    """A progressive JPEG that repeats its last scan."""
    data = _jpeg(size, "L", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + _EOI


def flat_jpeg_of_scans(scans: int, side: int) -> bytes:
    """A progressive grey JPEG of one colour: each scan is a pass over all pixels, and takes a few hundred bytes."""
    data = encode(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + _EOI


def _png(
    side: tuple[int, int],
    depth: int = 8,
    colour: int = 2,
    interlaced: bool = False,
    before: bytes = b"",
    after: bytes = b"",
    pieces: int = 1,
) -> bytes:
    """A PNG of zeros, with chunks before and after its pixels."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    width, height = side
    row = (width * channels * depth + 7) // 8 + 1
    size = row * height
    if interlaced:  # enough zeros for seven passes
        size += size // 4 + 64 * height
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(min(1 << 20, size - at))) for at in range(0, size, 1 << 20)) + packer.flush()
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    palette = png_chunk(b"PLTE", bytes(768)) if colour == 3 else b""
    step = -(-len(body) // pieces)
    pixels = b"".join(png_chunk(b"IDAT", body[at : at + step]) for at in range(0, len(body), step))
    return PNG_SIGNATURE + head + palette + before + pixels + after + png_chunk(b"IEND", b"")


def _packed_text(kind: bytes, unpacked: int) -> bytes:
    head = {b"zTXt": b"key\0\0", b"iCCP": b"key\0\0", b"iTXt": b"key\0\1\0\0\0"}[kind]
    return png_chunk(kind, head + zlib.compress(bytes(unpacked), 9))


def _gif(notes: bytes = b"", frames: int = 1, side: int = 200) -> bytes:
    data = encode(Image.new("L", (side, side), 255), "GIF")
    first = data.index(b"\x2c", 13 + 3 * (2 << (data[10] & 7)))
    return data[:first] + notes + data[first:-1] * frames + b";"


def _bmp(width: int, height: int, offset: int = 54, depth: int = 24, compression: int = 0, body: int = 1000) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, depth, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + body, 0, 0, offset) + info + bytes(body)


# Named in Graftline's threat model, or variants of those that are.
HOSTILE: Mapping[str, Callable[[], bytes]] = {
    "JPEG, 4,000 scans": lambda: flat_jpeg_of_scans(4_000, 1600),
    "JPEG, 60 scans of 16 megapixels": lambda: flat_jpeg_of_scans(60, 4000),
    "JPEG, 50 scans of 6 megapixels": lambda: flat_jpeg_of_scans(40, 2450),
    "JPEG, 200,000 filling bytes": lambda: _jpeg_with(b"\xff" * 200_000),
    "JPEG, 60,000 empty APP segments": lambda: _jpeg_with(b"\xff\xe0\0\2" * 60_000),
    "JPEG, 900 empty APP segments": lambda: _jpeg_with(b"\xff\xe0\0\2" * 900),
    "JPEG, 60,000 DQT segments": lambda: _jpeg_with((b"\xff\xdb\0\x43\0" + b"\1" * 64) * 60_000),
    "JPEG, 60,000 DHT segments": lambda: _jpeg_with((b"\xff\xc4\0\x14\0\1" + bytes(15) + b"\0") * 60_000),
    "JPEG, 3 MB of junk before its frame": lambda: _jpeg_with(b"\0" * 3_000_000),
    "JPEG, 8 MB of comments": lambda: _jpeg_with((b"\xff\xfe\xff\xff" + bytes(65533)) * 128),
    "JPEG, a restart marker each block": lambda: _jpeg((4000, 3000), restart_marker_blocks=1),
    "JPEG, 1 M restart markers behind its pixels": lambda: _jpeg()[:-2] + b"\xff\xd0" * 1_000_000 + _EOI,
    "JPEG, 65,500 x 380 pixels without data": lambda: _resized_jpeg(65_500, 380),
    "JPEG, 65,500 x 1 pixels": lambda: encode(Image.new("RGB", (65_500, 1)), "JPEG"),
    "JPEG, 12 bits": lambda: _jpeg().replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
    "JPEG, 25 megapixels, progressive": lambda: encode(_noise(5000), "JPEG", quality=75, progressive=True),
    "PNG, 4 MB of zTXt": lambda: _png((10, 10), after=_packed_text(b"zTXt", 1 << 32 >> 6) * 64),
    "PNG, iTXt of 60 MB": lambda: _png((10, 10), before=_packed_text(b"iTXt", 60 << 20)),
    "PNG, iCCP of 60 MB": lambda: _png((10, 10), before=_packed_text(b"iCCP", 60 << 20)),
    "PNG, tEXt of 20 MB": lambda: _png((10, 10), before=png_chunk(b"tEXt", b"key\0" + b"a" * (20 << 20))),
    "PNG, 1,000,000 unknown chunks": lambda: _png((10, 10), before=png_chunk(b"abCd", b"") * 1_000_000),
    "PNG, 1,000,000 empty IDATs": lambda: _png((10, 10), after=png_chunk(b"IDAT", b"") * 1_000_000),
    "PNG, 100 megapixels of one bit": lambda: _png((10_000, 10_000), 1, 0),
    "PNG, 25 megapixels": lambda: _png((5000, 5000)),
    "PNG, 25 megapixels, interlaced": lambda: _png((5000, 5000), interlaced=True),
    "PNG, 25 megapixels, RGBA of 16 bits": lambda: _png((5000, 5000), 16, 6),
    "PNG, 25 megapixels, RGBA of 16 bits, interlaced": lambda: _png((5000, 5000), 16, 6, interlaced=True),
    "PNG, 25 megapixels, palette of one bit": lambda: _png((5000, 5000), 1, 3),
    "PNG, fewer bytes than its size takes": lambda: _png((10, 10)).replace(
        struct.pack(">II", 10, 10), struct.pack(">II", 4000, 4000)
    ),
    "GIF, 44 MB of comments": lambda: _gif(b"\x21\xfe" + (b"\xff" + b"a" * 255) * 172_000 + b"\0"),
    "GIF, 44 MB of comments of one byte": lambda: _gif(b"\x21\xfe" + b"\1a" * 22_000_000 + b"\0"),
    "GIF, 20 MB of empty comments": lambda: _gif(b"\x21\xfe\0" * 7_000_000),
    "GIF, 10,000 frames of 200 x 200": lambda: _gif(frames=10_000),
    "GIF, 600 frames of 200 x 200": lambda: _gif(frames=600),
    "GIF, pixels in pieces of one byte": lambda: _gif()[:-2] + b"\1\0" * 10_000_000 + b"\0;",
    "GIF, an endless stream of codes": lambda: _gif(side=5000)[:-2] + (b"\xff" + b"\xaa" * 255) * 80_000 + b"\0;",
    "BMP, -2^31 pixels high": lambda: _bmp(10, -(1 << 31)),
    "BMP, 2^31 pixels wide": lambda: _bmp((1 << 31) - 1, 1),
    "BMP, its pixels far away": lambda: _bmp(20_000, 20_000, offset=(1 << 31) - 1),
    "BMP, run-length encoded": lambda: _bmp(20_000, 20_000, 54, 8, 1),
}


def _noise(side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))


def _resized_jpeg(width: int, height: int) -> bytes:
    data = encode(Image.new("L", (16, 16)), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def arithmetic_jpeg(data: bytes) -> bytes:
    """Mark a JPEG as one of arithmetic coding; its pixels make no sense then."""
    return data.replace(b"\xff\xc0", b"\xff\xc9", 1).replace(b"\xff\xc2", b"\xff\xca", 1)


def opened(data: bytes) -> Image.Image:
    """Return an image as Pillow opens it."""
    return Image.open(io.BytesIO(data))
