"""Small real images made with Pillow, for the tests of ImageExampleGen."""

import io
import pathlib
import struct
import zlib
from collections.abc import Iterable

import numpy as np
from PIL import Image


def encoded(seed: int = 0, image_format: str = "JPEG", size: tuple[int, int] = (48, 32), **options: object) -> bytes:
    """A noisy coloured image that differs with the seed; `size` is (width, height)."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    return saved(Image.fromarray(pixels), image_format, **options)


def saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    """The bytes of a file of `image`."""
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def scene(seed: int = 0, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A smooth coloured picture without symmetry, so that JPEG and resizing change it little; (width, height)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def orientation_exif(orientation: int) -> Image.Exif:
    """An EXIF block with nothing else in it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk, with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, rows: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG of 8-bit RGB that says what it is told: its size, its unpacked `rows`, chunks around them."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    image_data = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + before + image_data + after + png_chunk(b"IEND", b"")


def put(root: pathlib.Path, path: str, data: bytes) -> pathlib.Path:
    """Write `data` to `root/path`, making folders."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def begun(root: pathlib.Path, paths: Iterable[str]) -> pathlib.Path:
    """Files that begin as a JPEG does, and all differ; for those who look no further."""
    for path in paths:
        put(root, path, b"\xff\xd8\xff" + path.encode())
    return root


def folder_of_images(root: pathlib.Path, **counts: int) -> pathlib.Path:
    """`root/<class>/<n>.jpg`, all different."""
    seed = 0
    for label, count in counts.items():
        for i in range(count):
            seed += 1
            put(root, f"{label}/{i}.jpg", encoded(seed))
    return root
