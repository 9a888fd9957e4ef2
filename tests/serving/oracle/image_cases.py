"""Images of every format, whose parts are repeated, padded, moved, cut off, or say what is not so."""

import base64
import contextlib
import io
import itertools
import random
import re
import struct
import zlib

from tests.images import PNG_SIGNATURE, draw_noise, png_chunk
from tests.serving.oracle import hostile_images
from tests.serving.oracle.case import Case, damage, post

_PIXELS = 25_000_000  # more of them in a request are refused
_FORMATS = ("JPEG", "JPEG progressive", "PNG", "GIF", "GIF animated", "BMP", "WEBP", "TIFF", "AVIF", "JPEG2000", "ICO")


def encoded(image_format: str) -> bytes:
    """Return a small honest file."""
    image, file = draw_noise(1, (40, 32)), io.BytesIO()
    name, _, variant = image_format.partition(" ")
    if variant == "progressive":
        image.save(file, name, progressive=True)
    elif variant == "animated":
        image.save(file, name, save_all=True, append_images=[draw_noise(seed, (40, 32)) for seed in (2, 3)])
    elif name == "AVIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
        image.save(file, "HEIF")
    else:
        image.save(file, name)
    return file.getvalue()


def parts_of(data: bytes) -> list[bytes]:
    """Cut a file into its segments, chunks or blocks; one of another format into pieces."""
    if data.startswith(b"\xff\xd8"):
        return _pieces(
            data, [at for at in range(2, len(data) - 1) if data[at] == 0xFF and data[at + 1] not in (0, 0xFF)]
        )
    if data.startswith(PNG_SIGNATURE):
        return _sized(data, 8, lambda at: 12 + struct.unpack_from(">I", data, at)[0])
    if data.startswith(b"RIFF"):
        return _sized(data, 12, lambda at: 8 + struct.unpack_from("<I", data, at + 4)[0])
    if data.startswith(b"GIF8"):
        return _pieces(data, [at for at in range(13, len(data)) if data[at] in b"\x21\x2c" and data[at - 1] == 0])
    return _pieces(data, list(range(16, len(data), max(16, len(data) // 12))))


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *cuts, len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def _sized(data: bytes, at: int, size) -> list[bytes]:
    cuts = []
    while at + 8 <= len(data):
        cuts.append(at)
        at += size(at)
    return _pieces(data, cuts)


def _fillers(chance: random.Random, size: int) -> list[bytes]:
    """Parts that carry no pixels, of every format."""
    zeros = hostile_images.deflated_zeros(chance.choice([1, 7, 60]))
    text = bytes(min(size, 60_000))
    return [
        *(b"\xff" + bytes([marker]) + struct.pack(">H", 2 + len(text)) + text for marker in (0xE1, 0xE2, 0xED, 0xFE)),
        *(b"\xff" + bytes([marker]) + b"\0\2" for marker in (0xE0, 0xDB, 0xC4, 0xDD, 0xCC)),
        *(b"\xff" * 64, b"\0" * 64, b"\xff\xd9", b"\xff\xd0"),
        *(png_chunk(kind, b"key\0\0" + zeros) for kind in (b"zTXt", b"iCCP")),
        png_chunk(b"iTXt", b"key\0\1\0\0\0" + zeros),
        *(png_chunk(kind, text) for kind in (b"tEXt", b"eXIf", b"tRNS", b"PLTE", b"sPLT", b"hIST", b"abCd", b"fdAT")),
        *(png_chunk(kind, b"") for kind in (b"IDAT", b"PLTE", b"IEND", b"tIME")),
        *(b"\x21" + kind + b"\x01c" * 100 + b"\0" for kind in (b"\xfe", b"\xff", b"\x01", b"\xf9")),
        b"\x21\xfe" + (b"\xff" + b"c" * 255) * (size // 256) + b"\0",
        b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\0",
        *(kind + struct.pack("<I", len(text)) + text for kind in (b"EXIF", b"XMP ", b"ICCP", b"ANMF", b"ALPH")),
    ]


_LENGTHS = (0, 1, 0x7FFF, 0xFFFF, 5000, 0x7FFFFFFF, 0xFFFFFFFF)


def _lie(data: bytes, chance: random.Random) -> bytes:
    """Return the file with another width and height in its header; of unknown formats, with another number."""
    wide, high = chance.choice(_LENGTHS), chance.choice(_LENGTHS)
    changed = bytearray(data)
    if data.startswith(PNG_SIGNATURE):
        changed[16:24] = struct.pack(">II", wide, high)
        changed[29:33] = struct.pack(">I", zlib.crc32(changed[12:29]))
    elif data.startswith(b"GIF8"):
        changed[6:10] = struct.pack("<HH", wide & 0xFFFF, high & 0xFFFF)
    elif data.startswith(b"BM"):
        changed[18:26] = struct.pack("<II", wide, high)
    elif data.startswith(b"\xff\xd8"):
        at = next((at for at in range(2, len(data)) if data[at] == 0xFF and data[at + 1] in (0xC0, 0xC2)), 2)
        changed[at + 5 : at + 9] = struct.pack(">HH", high & 0xFFFF, wide & 0xFFFF)
    else:
        at = chance.randrange(len(data) - 4)
        changed[at : at + 4] = struct.pack(chance.choice("<>") + "I", wide)
    return bytes(changed)


def odd_image(chance: random.Random, most: int) -> tuple[str, bytes]:
    """Return how an image was made, and the image of at most about `most` bytes."""
    image_format = chance.choice(_FORMATS)
    data = encoded(image_format)
    parts = parts_of(data)
    kind = chance.choice(["repeat", "repeat", "fill", "fill", "lie", "pad", "damage", "cut off", "shuffle", "whole"])
    at = chance.randrange(len(parts))
    size = int(most ** chance.uniform(0.3, 1.0))
    if kind == "repeat":
        parts[at] *= max(1, min(chance.choice([2, 65, 5000, 100_000]), size // (len(parts[at]) or 1)))
    elif kind == "fill":
        filler = chance.choice(_fillers(chance, size))
        parts.insert(at, filler * max(1, min(chance.choice([1, 3, 1000]), size // len(filler))))
    elif kind == "lie":
        parts = [_lie(data, chance)]
    elif kind == "pad":
        parts.insert(chance.choice([0, at, len(parts)]), chance.choice([b"\0", b"\xff", b" "]) * size)
    elif kind == "damage":
        parts = [damage(data, chance)]
    elif kind == "cut off":
        parts = [data[: chance.randrange(len(data))]]
    elif kind == "shuffle":
        chance.shuffle(parts)
    return f"{image_format}, {kind} part {at}, {size:,} bytes", b"".join(parts)


def _hostile(chance: random.Random, most: int) -> tuple[str, bytes]:
    side = chance.choice([500, 2000, 4900])
    kinds = {
        "JPEG of scans": lambda: hostile_images.jpeg_of_scans(chance.choice([60, 500, 4000]), side),
        "PNG of text": lambda: hostile_images.png_of_text(
            min(most, 4 << 20), chance.choice([b"zTXt", b"iTXt", b"iCCP"])
        ),
        "PNG of pixels": lambda: hostile_images.png_of_pixels(side),
        "GIF of comments": lambda: hostile_images.gif_of_comments(most // 2, chance.choice([1, 16, 255])),
    }
    name = chance.choice([*kinds])
    return f"{name}, side {side}", kinds[name]()


def _declared(data: bytes) -> int:
    """Return the pixels that a file seems to declare; not by the server's parser, which is what is tried."""
    sides: tuple[int, ...] = (0, 0)
    with contextlib.suppress(struct.error):
        if data.startswith(PNG_SIGNATURE):
            sides = struct.unpack_from(">II", data, 16)
        elif data.startswith(b"GIF8"):
            sides = struct.unpack_from("<HH", data, 6)
        elif data.startswith(b"BM"):
            sides = struct.unpack_from("<ii", data, 18)
        elif data.startswith(b"\xff\xd8") and (frame := re.search(rb"\xff[\xc0\xc2]\0.\x08(....)", data, re.DOTALL)):
            sides = struct.unpack(">HH", frame[1])
    return min(_PIXELS, abs(sides[0] * sides[1]))


def _pixels(images: list[bytes]) -> int:
    return min(_PIXELS, sum(map(_declared, images)))


def make(chance: random.Random, most: int) -> Case:
    """Return a case with one to three images, by REST or by gRPC."""
    from graftline.serving.client import tensors, wire_pb2

    hostile = chance.random() < 0.15
    made = [(_hostile if hostile else odd_image)(chance, most) for _ in range(1 if hostile else chance.randint(1, 3))]
    name, images = "; ".join(name for name, _ in made), [data for _, data in made]
    if chance.random() < 0.5:
        items = ", ".join(f'{{"b64": "{base64.b64encode(image).decode()}"}}' for image in images)
        return Case(f"REST: {name}", "http", post(f'{{"instances": [{items}]}}'.encode()), pixels=_pixels(images))
    tensor = tensors.to_proto(tensors.as_array(images))
    message = wire_pb2.PredictRequest(model_spec=wire_pb2.ModelSpec(name="colours"), inputs={"image_bytes": tensor})
    return Case(f"gRPC: {name}", "grpc", message.SerializeToString(), pixels=_pixels(images))
