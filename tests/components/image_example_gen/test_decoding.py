"""Which bytes are a good image, and what is said of those that are not."""

import csv
import io
import pathlib
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.image_example_gen import decoding
from components.image_example_gen.decoding import Decoded, Quarantined, decode
from tests.assets import ASSETS, needs_assets
from tests.components.image_example_gen.pictures import encoded


def reason(data: bytes) -> str:
    verdict = decode(data)
    assert isinstance(verdict, Quarantined), verdict
    return verdict.reason


def good(data: bytes) -> Decoded:
    verdict = decode(data)
    assert isinstance(verdict, Decoded), verdict
    return verdict


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP"])
def test_the_format_and_size_come_from_the_bytes(image_format: str) -> None:
    verdict = good(encoded(1, image_format, size=(48, 32)))
    assert (verdict.format, verdict.height, verdict.width) == (image_format.lower(), 32, 48)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_height_and_width_are_as_a_viewer_shows_them(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    verdict = good(encoded(1, size=(48, 32), exif=exif))
    assert (verdict.height, verdict.width) == ((48, 32) if orientation > 4 else (32, 48))


def test_damaged_exif_does_not_spoil_an_image() -> None:
    data = encoded(1)
    broken = b"\xff\xe1" + struct.pack(">H", 14) + b"Exif\0\0II*\0\xff\xff"
    assert (good(data[:2] + broken + data[2:]).height) == 32


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "I;16"])
def test_every_kind_of_png_is_good(mode: str) -> None:
    file = io.BytesIO()
    Image.new(mode, (5, 7)).save(file, "PNG")
    assert good(file.getvalue()).height == 7


def test_cmyk_and_progressive_jpegs_and_trailing_junk_are_good() -> None:
    file = io.BytesIO()
    Image.new("CMYK", (5, 7)).save(file, "JPEG")
    assert good(file.getvalue()).width == 5
    assert good(encoded(1, progressive=True)).width == 48
    assert good(encoded(1) + b"\0" * 1000).width == 48


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("white", "black", "red")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    verdict = good(file.getvalue())
    assert (verdict.height, verdict.width) == (4, 6)
    assert verdict.brightness == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "empty file"),
        (b"<html><body>404</body></html>", "not an image: starts with '<html><b'"),
        (b"\x00\x01\xff\xfe\x10", "not an image: starts with bytes 00 01 ff fe 10"),
        (encoded(1)[:-200], "truncated JPEG"),
        (encoded(1)[:30], "truncated JPEG"),
        (encoded(1, "PNG")[:-200], "truncated PNG"),
        (encoded(1, "BMP")[:-200], "truncated BMP"),
        (b"\xff\xd8\xff" + b"no image" * 9 + b"\xff\xd9", "damaged JPEG or a variant that can't be decoded"),
        (encoded(1, "WEBP"), "WebP is not supported yet: convert to JPEG or PNG"),
        (encoded(1, "TIFF"), "TIFF is not supported yet: convert to JPEG or PNG"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 30, "HEIC is not supported yet: convert to JPEG or PNG"),
        (b"<?xml version='1.0'?><svg width='9'/>", "SVG is not supported yet: convert to JPEG or PNG"),
    ],
)
def test_reasons_are_short_and_stable(data: bytes, told: str) -> None:
    assert reason(data) == told


def test_a_png_with_a_wrong_checksum_is_damaged() -> None:
    data = bytearray(encoded(1, "PNG"))
    data[len(data) // 2] ^= 0xFF
    assert reason(bytes(data)) == "damaged PNG or a variant that can't be decoded"


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    def png(width: int, height: int) -> bytes:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")

    assert reason(png(10_001, 10_000)) == "too many pixels: 10001 x 10000"
    assert reason(png(65_501, 1)) == "too many pixels: 65501 x 1"
    assert reason(png(30_000, 30_000)) == "too many pixels"  # Pillow's own guard


def test_too_many_bytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_BYTES", 1 << 20)
    assert reason(encoded(1) + b"\0" * (2 << 20)) == "too many bytes: 2 MiB, the limit is 1"


def test_quality_numbers_tell_dark_flat_and_blurred_images_apart() -> None:
    def png(pixels: np.ndarray) -> Decoded:
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
        return good(file.getvalue())

    black, white = (png(np.full((300, 600, 3), value)) for value in (0, 255))
    assert (black.brightness, black.contrast, black.sharpness) == pytest.approx((0, 0, 0), abs=1e-6)
    assert (white.brightness, white.contrast) == pytest.approx((1, 0), abs=1e-5)
    halves = png(np.repeat(np.repeat([[[0]], [[255]]], 8, 0), 16, 1).repeat(3, 2))
    assert (halves.brightness, halves.contrast) == pytest.approx((0.5, 0.5), abs=1e-5)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    ramp = np.linspace(0, 255, 64)[None, :, None] * np.ones((64, 1, 3))
    assert png(noise).sharpness > 100 * png(ramp).sharpness
    assert png(np.zeros((1, 1, 3))).sharpness == 0


@needs_assets
def test_of_other_projects_awkward_images_exactly_those_are_good_that_tensorflow_decodes() -> None:
    with (ASSETS / "awkward/MANIFEST.csv").open() as file:
        rows = list(csv.DictReader(file))
    # Pillow's header guard refuses more than TensorFlow: text chunks that unpack to more than a megabyte.
    guarded = {row["file"] for row in rows if row["pillow"].startswith("OPENFAIL ValueError")}
    wrong = []
    for row in rows:
        verdict = decode((ASSETS / row["file"]).read_bytes())
        expected = not row["tf.decode_image(channels=3)"].startswith("ERR") and row["file"] not in guarded
        if isinstance(verdict, Decoded) != expected:
            wrong.append((row, verdict))
    assert len(rows) > 200 and not wrong


@needs_assets
def test_sizes_of_awkward_photos_are_as_pillow_shows_them_upright() -> None:
    from PIL import ImageOps

    for path in sorted((ASSETS / "awkward/exif-orientation").glob("*.jpg")):
        data = pathlib.Path(path).read_bytes()
        with Image.open(path) as image:
            width, height = ImageOps.exif_transpose(image).size
        verdict = good(data)
        assert (verdict.height, verdict.width) == (height, width), path.name
        assert tf.io.decode_image(data, channels=3).shape[:2] in ((height, width), (width, height))
