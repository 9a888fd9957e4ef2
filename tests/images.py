"""Images for tests and benchmarks: drawn, encoded as the bytes of a file, and written in class folders."""

import io
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image

CLASSES = ("blue sky", "green", "rot")
_COLOURS = {"blue sky": (60, 90, 220), "green": (40, 180, 60), "rot": (210, 50, 40)}
_CHANNELS = {"red": 0, "rot": 0, "green": 1, "blue": 2, "blue sky": 2}
_EXIF_ORIENTATION = 0x0112
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# EXIF orientation -> the operation that makes the stored pixels from an upright picture; CIPA DC-008, 4.6.4.
TURNS_OF_CAMERAS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def turn_as_stored(image: Image.Image, orientation: int) -> Image.Image:
    """Return an upright picture's pixels as a camera stores them with this EXIF orientation."""
    turn = TURNS_OF_CAMERAS[orientation]
    return image if turn is None else image.transpose(turn)


def draw(label: str, seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """Draw noise around the colour of the class `label`, which a random trunk can tell from the others.

    Args:
        label: one of CLASSES.
        seed: another seed gives another image.
        size: (width, height).
    """
    random = np.random.default_rng([seed, CLASSES.index(label)])
    noise = random.normal(0, 15, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.array(_COLOURS[label]) + noise, 0, 255).astype(np.uint8))


def draw_noise(seed: int = 0, size: tuple[int, int] = (48, 32)) -> Image.Image:
    """Draw a random colour in each pixel; `size` is (width, height)."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def draw_scene(seed: int = 0, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Draw a smooth picture without symmetry, which JPEG and resizing change little; `size` is (width, height)."""
    return draw_noise(seed, (8, 6)).resize(size, Image.Resampling.BICUBIC)


def encode(image: Image.Image, image_format: str = "JPEG", orientation: int | None = None, **options: object) -> bytes:
    """Return the bytes of a file of `image`.

    Args:
        image: the pixels as they are stored.
        image_format: a format's name in Pillow.
        orientation: the EXIF orientation, 1 to 8; None writes no EXIF.
        options: Pillow's options for this format. A JPEG without options has quality 95 and no chroma subsampling.
    """
    if image_format == "JPEG" and not options:
        options = {"quality": 95, "subsampling": 0}
    if orientation is not None:
        exif = Image.Exif()
        exif[_EXIF_ORIENTATION] = orientation
        options["exif"] = exif
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def encode_noise(seed: int = 0, image_format: str = "JPEG", size: tuple[int, int] = (48, 32), **options) -> bytes:
    """Return the bytes of a file of noise; the options are those of `encode`."""
    return encode(draw_noise(seed, size), image_format, **options)


def image_of(colour: str, size: int = 16, fmt: str = "PNG") -> bytes:
    """Return the bytes of a square image in red, green or blue with a little noise, `size` pixels wide."""
    pixels = np.random.default_rng(0).integers(0, 30, (size, size, 3), dtype=np.uint8)
    pixels[..., _CHANNELS[colour]] = 230
    return encode(Image.fromarray(pixels), fmt)


def tinted_png(label: str, seed: int, side: int) -> bytes:
    """Return the bytes of a square PNG of noise in which the colour of the class `label` mostly prevails."""
    random = np.random.default_rng(seed)
    pixels = random.integers(60, 120, (side, side, 3), dtype=np.uint8)
    pixels[..., _CHANNELS[label]] += random.integers(0, 60, dtype=np.uint8)
    pixels[..., (_CHANNELS[label] + 1) % 3] += 20
    return encode(Image.fromarray(pixels), "PNG")


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return one chunk of a PNG with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, rows: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    """Return a PNG of 8-bit RGB that holds exactly what is given, also where this is no valid image.

    Args:
        width: as the header declares it.
        height: as the header declares it.
        rows: the unpacked rows.
        before: chunks before the image data.
        after: chunks after the image data.
    """
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    image_data = png_chunk(b"IDAT", zlib.compress(rows))
    return PNG_SIGNATURE + header + before + image_data + after + png_chunk(b"IEND", b"")


def write_folder(root: pathlib.Path, count: int, classes: tuple[str, ...] = CLASSES) -> pathlib.Path:
    """Write `count` images a class as `root/<class>/<number>.jpg` and return `root`."""
    for label in classes:
        (root / label).mkdir(parents=True)
        for number in range(count):
            (root / label / f"{number}.jpg").write_bytes(encode(draw(label, number)))
    return root


def write_noise_folder(root: pathlib.Path, **counts: int) -> pathlib.Path:
    """Write different images of noise, so many a class, as `root/<class>/<number>.jpg` and return `root`."""
    seed = 0
    for label, count in counts.items():
        (root / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            seed += 1
            (root / label / f"{number}.jpg").write_bytes(encode_noise(seed))
    return root
