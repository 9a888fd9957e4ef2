"""Tests of the pixels: EXIF orientation, resizing and the three ways to a square."""

import io
import pathlib
import zlib
from typing import get_args

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from graftline.components.transform import pixels
from graftline.serving.images import transcoding
from graftline.trainer import reference
from tests import assets, images
from tests.components.transform.squares import make_square

_ORIENTATIONS = list(range(1, 9))


@pytest.mark.parametrize("orientation", _ORIENTATIONS)
def test_images_are_turned_as_a_viewer_turns_them(orientation: int) -> None:
    data = images.encode(images.draw("rot", 1, (37, 23)), orientation=orientation)
    stored = Image.fromarray(tf.io.decode_image(data, channels=3).numpy())
    stored.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(pixels.decode_upright(tf.constant(data)), np.asarray(ImageOps.exif_transpose(stored)))


@pytest.mark.parametrize("kind", [3, 4], ids=["SHORT", "LONG"])
@pytest.mark.parametrize("byte_order", [b"II", b"MM"])
def test_exif_is_read_in_both_byte_orders_and_after_other_segments(byte_order: bytes, kind: int) -> None:
    order = "little" if byte_order == b"II" else "big"

    def number(value: int, width: int) -> bytes:
        return value.to_bytes(width, order)  # type: ignore[arg-type]

    entries = [(0x010F, 2, b"abcd"), (0x0112, kind, number(6, 2) + b"\0\0" if kind == 3 else number(6, 4))]
    ifd = number(len(entries), 2) + b"".join(number(t, 2) + number(k, 2) + number(1, 4) + v for t, k, v in entries)
    body = b"Exif\0\0" + byte_order + number(42, 2) + number(8, 4) + ifd + number(0, 4)
    jpeg = images.encode(images.draw("rot", 1))
    comment = b"\xff\xfe" + (2 + 70_00).to_bytes(2, "big") + b"x" * 70_00
    exif = b"\xff\xe1" + (2 + len(body)).to_bytes(2, "big") + body
    assert pixels.exif_orientation(tf.constant(jpeg[:2] + comment + b"\xff" + exif + jpeg[2:])) == 6


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_damaged_exif_block_means_upright(tail: bytes, in_exif: bool) -> None:
    head = b"\xff\xd8\xff\xe1\x00\x40Exif\0\0II*\0" if in_exif else b"\xff\xd8"
    assert 1 <= int(pixels.exif_orientation(tf.constant(head + tail))) <= 8


def test_orientation_in_another_format_is_not_taken_from_chance_bytes() -> None:
    assert pixels.exif_orientation(tf.constant(images.encode(images.draw("rot", 1), "PNG"))) == 1


def _transparent_pngs() -> dict[str, bytes]:
    rgba = Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 50, 4), np.uint8), "RGBA")
    plain = rgba.convert("RGB")
    ramp = Image.fromarray(np.arange(2000, dtype=np.uint16).reshape(40, 50) * 30)
    return {
        "RGBA": images.encode(rgba, "PNG"),
        "LA": images.encode(rgba.convert("LA"), "PNG"),
        "a palette with tRNS": images.encode(plain.quantize(16), "PNG", transparency=bytes(range(0, 256, 16))),
        "grey with tRNS": images.encode(plain.convert("L").point(lambda grey: grey & 192), "PNG", transparency=64),
        "colour with tRNS": images.encode(Image.new("RGB", (50, 40), (1, 2, 3)), "PNG", transparency=(1, 2, 3)),
        "16 bits with tRNS": images.encode(ramp, "PNG", transparency=300),
        "tRNS behind a long text": images.png(
            1, 1, b"\0\1\2\3", images.png_chunk(b"tEXt", b"a\0" + b"b" * 200_000)
        ).replace(
            images.png_chunk(b"IDAT", zlib.compress(b"\0\1\2\3")),
            images.png_chunk(b"tRNS", b"\0\1\0\2\0\3") + images.png_chunk(b"IDAT", zlib.compress(b"\0\1\2\3")),
        ),
    }


@pytest.mark.parametrize("name", _transparent_pngs())
def test_transparent_pixels_are_laid_on_white_in_every_decoder(name: str) -> None:
    """The serving graph, the references of the Trainer, and what ingest stores when it must convert the file."""
    data = _transparent_pngs()[name]
    assert pixels.may_be_transparent(tf.constant(data))
    got = pixels.decode_upright(tf.constant(data)).numpy()
    np.testing.assert_array_equal(reference._upright(data), got)
    with Image.open(io.BytesIO(data)) as image:
        if image.mode != "I;16":
            colour, alpha = np.split(np.asarray(image.convert("RGBA")).astype(float), [3], axis=-1)
            np.testing.assert_array_equal(got, np.rint((colour * alpha + 255 * (255 - alpha)) / 255))
            converted = transcoding.transcode(data, "png", None)
            assert isinstance(converted, bytes)
            np.testing.assert_array_equal(pixels.decode_upright(tf.constant(converted)), got)
    assert (got == 255).all(axis=-1).any() or name in ("RGBA", "LA")


def test_an_image_that_only_spells_trns_stays_as_it_is() -> None:
    data = images.png(1, 1, b"\0\1\2\3", images.png_chunk(b"tEXt", b"a\0tRNS"))
    assert pixels.may_be_transparent(tf.constant(data))
    assert pixels.decode_upright(tf.constant(data)).numpy().tolist() == [[[1, 2, 3]]]
    for short in (b"", b"\x89PNG", images.encode(images.draw("rot", 1))):
        assert not pixels.may_be_transparent(tf.constant(short))


@assets.needs_assets
@pytest.mark.parametrize(
    "path", sorted((assets.ASSETS / "awkward/exif-orientation").glob("*.jpg")), ids=lambda p: p.name
)
def test_real_photos_are_turned_as_pillow_turns_them(path: pathlib.Path) -> None:
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    got = pixels.decode_upright(tf.constant(path.read_bytes())).numpy().astype(int)
    assert got.shape == expected.shape
    assert np.abs(got - expected).mean() < 2  # two JPEG decoders


def test_resizing_is_antialiased_as_keras_does_it() -> None:
    data = images.encode(images.draw("green", 3, (300, 200)))
    image = np.float32(tf.io.decode_image(data, channels=3))
    expected = keras.ops.image.resize(image, (32, 32), interpolation="bilinear", antialias=True)
    np.testing.assert_allclose(pixels.decode_batch(tf.constant([data]), 32)[0], expected, atol=1e-3)


_SIDES = [
    (1, 1),
    (1, 3000),
    (3000, 1),
    (2, 3),
    (37, 23),
    (23, 37),
    (32, 32),
    (31, 33),
    (199, 200),
    (500, 333),
    (64, 63),
]


_MODES: tuple[pixels.Resize, ...] = get_args(pixels.Resize)


@pytest.mark.parametrize("resize", _MODES)
@pytest.mark.parametrize("size", [32, 33])
def test_each_way_to_a_square_is_that_of_pillow_pixel_for_pixel(resize: pixels.Resize, size: int) -> None:
    random = np.random.default_rng(0)
    given = [random.integers(0, 256, (*sides, 3), np.uint8) for sides in _SIDES]
    files = tf.constant([images.encode(Image.fromarray(image), "PNG") for image in given])
    got = tf.function(lambda data: pixels.decode_batch(data, size, resize))(files).numpy()
    for sides, ours, image in zip(_SIDES, got, given, strict=True):
        np.testing.assert_allclose(ours, make_square(image, size, resize), atol=2e-3, err_msg=str(sides))
        own = reference._resize(image, size, resize)  # the second path from bytes to pixels
        np.testing.assert_allclose(ours, own, atol=2e-3, err_msg=str(sides))


@pytest.mark.parametrize("resize", _MODES)
def test_squares_are_made_of_upright_images(resize: pixels.Resize) -> None:
    image = images.draw("rot", 1, (61, 40))
    files = [images.encode(image, orientation=orientation) for orientation in _ORIENTATIONS]
    got = tf.function(lambda data: pixels.decode_batch(data, 24, resize))(tf.constant(files)).numpy()
    stored = Image.fromarray(tf.io.decode_image(files[0], channels=3).numpy())
    for orientation, ours in zip(_ORIENTATIONS, got, strict=True):
        stored.getexif()[0x0112] = orientation
        expected = make_square(np.asarray(ImageOps.exif_transpose(stored)), 24, resize)
        np.testing.assert_allclose(ours, expected, atol=2e-3, err_msg=str(orientation))


def test_the_three_ways_differ_and_pad_leaves_black_above_and_below() -> None:
    data = tf.constant([images.encode(images.draw("green", 3, (90, 60)), "PNG")])
    stretched, cropped, padded = (pixels.decode_batch(data, 30, resize).numpy()[0] for resize in _MODES)
    assert np.abs(stretched - cropped).mean() > 1
    assert not padded[:5].any()
    assert not padded[25:].any()
    assert padded[5:25].min(axis=-1).all(), "the image is 30 x 20, in the middle"
