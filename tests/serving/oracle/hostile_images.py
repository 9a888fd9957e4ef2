"""Images that cost far more to decode than they weigh: each keeps the limit of pixels, and is small."""

import struct
import zlib

from PIL import Image

from tests.images import PNG_SIGNATURE, encode, png, png_chunk


def jpeg_of_scans(scans: int, side: int = 9000) -> bytes:
    """Return a progressive JPEG with `scans` passes over all its pixels, some 200 bytes each."""
    data = encode(Image.new("L", (side, side), 128), progressive=True, quality=50)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * (scans - data.count(b"\xff\xda")) + data[-2:]


def deflated_zeros(blocks: int, block: int = 1 << 20) -> bytes:
    """Return a zlib stream of `blocks` x `block` zero bytes, made by repeating one block."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    once = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    # Adler-32 of n zero bytes: the first sum stays 1, the second is n.
    adler = (blocks * block % 65521) << 16 | 1
    return b"\x78\xda" + once * blocks + b"\x03\x00" + struct.pack(">I", adler)


def png_of_text(packed: int = 4 << 20, kind: bytes = b"zTXt") -> bytes:
    """Return a PNG of one pixel with `packed` bytes of compressed text, which is a thousand times as long.

    Each chunk unpacks to 7 MiB: libpng refuses more than 8,000,000 bytes of one chunk, not of all together.
    """
    text = deflated_zeros(7)
    head = {b"zTXt": b"key\0\0", b"iCCP": b"key\0\0", b"iTXt": b"key\0\1\0\0\0"}[kind]
    return png(1, 1, b"\0\1\2\3", before=png_chunk(kind, head + text) * (packed // len(text)))


def png_of_pixels(side: int = 10_000) -> bytes:
    """Return a PNG of one bit a pixel with `side` x `side` black pixels, in some kilobytes."""
    row = b"\0" * (side // 8 + 1)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return PNG_SIGNATURE + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


def gif_of_comments(size: int = 44 << 20, piece: int = 1) -> bytes:
    """Return a GIF of one pixel behind `size` bytes of one comment, in pieces of `piece` bytes."""
    data = encode(Image.new("P", (1, 1)), "GIF")
    at = data.index(b"\x2c", 13 + 3 * 2)  # the first image
    for start in range(13, len(data)):  # behind the palette
        if data[start : start + 1] == b"\x2c" or data[start : start + 1] == b"\x21":
            at = start
            break
    one = bytes([piece]) + b"c" * piece
    return data[:at] + b"\x21\xfe" + one * (size // len(one)) + b"\0" + data[at:]
