"""Tests of the bytes that are stored of a good image."""

import csv
import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from graftline.components.image_example_gen.decoding import Quarantined, decode
from tests.assets import ASSETS, needs_assets
from tests.components.image_example_gen.verdicts import good, served, shown, stored
from tests.images import draw_scene, encode, encode_noise


@pytest.mark.parametrize(
    ("image_format", "options", "made"),
    [
        ("WEBP", {"quality": 90}, "jpeg"),
        ("WEBP", {"lossless": True}, "jpeg"),
        ("AVIF", {"quality": 90}, "jpeg"),
        ("TIFF", {"compression": "tiff_lzw"}, "jpeg"),
        ("TIFF", {"compression": "jpeg", "quality": 95}, "jpeg"),
    ],
)
def test_a_photo_in_another_format_is_stored_as_jpeg(image_format: str, options: dict, made: str) -> None:
    data = encode(draw_scene(3, (320, 240)), image_format, **options)
    verdict = good(data)
    assert (verdict.format, verdict.height, verdict.width, verdict.transcoded) == (made, 240, 320, True)
    difference = np.abs(served(stored(data)) - shown(data))
    assert difference.mean() < 2 and difference.max() < 16


def test_heic_is_stored_as_jpeg_with_the_extra() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    image = draw_scene(4, (320, 240))
    pillow_heif.from_pillow(image).save(file, quality=95)
    data = file.getvalue()
    assert (good(data).format, good(data).transcoded) == ("jpeg", True)
    assert np.abs(served(stored(data)) - np.asarray(image)).mean() < 4


def test_what_is_lossless_and_small_or_of_few_colours_stays_exact() -> None:
    drawing = Image.new("P", (600, 400))
    drawing.putpalette(bytes(range(256)) * 3)
    ImageDraw.Draw(drawing).ellipse((20, 20, 500, 300), fill=99)
    sources = [
        encode_noise(5, "TIFF"),
        encode_noise(5, "WEBP", lossless=True),
        encode(drawing, "TIFF"),
        encode(drawing, "BMP"),  # whose palette TensorFlow overlooks
        encode(drawing.convert("1"), "TIFF", compression="group4"),
        encode(draw_scene(6, (90, 80)).convert("LA"), "TIFF"),
        encode(Image.fromarray(np.arange(65536, dtype=np.uint16).reshape(256, 256)), "TIFF"),
        encode(draw_scene(6, (90, 80)).convert("RGBA"), "BMP"),
    ]
    for data in sources:
        assert good(data).format == "png"
        assert np.array_equal(served(stored(data)), shown(data))


def test_white_is_zero_in_some_tiffs_of_16_bits() -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(
        served(stored(encode(Image.fromarray(ramp), "TIFF", tiffinfo={262: 0})))[..., 0], 255 - (ramp >> 8)
    )


def _circle(image_format: str, size: tuple[int, int] = (90, 80), **options: object) -> bytes:
    """Black everywhere; a circle in alpha alone."""
    alpha = Image.new("L", size)
    ImageDraw.Draw(alpha).ellipse((10, 10, 70, 60), fill=255)
    image = Image.new("RGBA", size)
    image.putalpha(alpha)
    return encode(image, image_format, **options)


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True, "exact": True}),
        ("WEBP", {"quality": 95}),
        ("TIFF", {}),
        ("GIF", {}),
        ("AVIF", {"quality": 95}),
        ("BMP", {}),
    ],
)
def test_transparent_pixels_are_stored_and_measured_on_white(image_format: str, options: dict) -> None:
    data = _circle(image_format, **options)
    verdict = good(data)
    result = served(stored(data))
    assert verdict.transcoded == (image_format != "PNG")
    if image_format == "BMP":  # Pillow writes no alpha into it
        return
    assert 0.6 < verdict.brightness < 0.75 and verdict.contrast > 0.4 and not verdict.is_of_one_colour
    assert (result[0, 0] > 250).all() and (result[35, 40] < 5).all()
    assert np.abs(result - shown(data)).mean() < 3


def test_a_transparent_png_is_on_white_when_it_is_shrunk_or_turned() -> None:
    for data, max_side in ((_circle("PNG", (900, 800)), 400), (_circle("PNG", orientation=6), None)):
        verdict = good(data, max_side)
        assert verdict.transcoded and (served(stored(data, max_side))[0, -1] > 250).all()


# A PNG has one byte order; Pillow takes the numbers in the machine's.
@pytest.mark.parametrize(("image_format", "order"), [("TIFF", "<u2"), ("TIFF", ">u2"), ("PNG", "<u2")])
@pytest.mark.parametrize(("bits", "few"), [(10, True), (12, True), (14, True), (15, False), (16, False)])
def test_images_that_use_few_of_16_bits_are_known(image_format: str, order: str, bits: int, few: bool) -> None:
    ramp = (np.arange(65536).reshape(256, 256) >> (16 - bits)).astype(order)
    verdict = good(encode(Image.fromarray(ramp), image_format))
    assert verdict.few_levels == few


def test_dark_images_of_8_bits_are_no_deep_ones() -> None:
    assert not good(encode(Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40) % 16), "PNG")).few_levels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_what_serving_would_not_turn_is_turned_before(image_format: str, orientation: int) -> None:
    options = {} if image_format in ("PNG", "TIFF") else {"quality": 95}
    data = encode(draw_scene(7, (96, 64)), image_format, orientation=orientation, **options)
    verdict = good(data)
    assert (verdict.height, verdict.width) == ((96, 64) if orientation > 4 else (64, 96))
    assert verdict.transcoded == (image_format != "PNG" or orientation > 1)
    difference = np.abs(served(stored(data)) - shown(data))
    assert difference.mean() < 3 and difference.max() < 24


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF"])
def test_max_side_shrinks_what_is_larger_and_nothing_else(image_format: str) -> None:
    orientation = 6 if image_format in ("JPEG", "PNG", "WEBP") else None
    data = encode(draw_scene(8, (600, 400)), image_format, orientation)
    whole = Image.fromarray(shown(data).astype(np.uint8))
    assert good(data, max_side=600).transcoded == good(data).transcoded
    for max_side, small_format in ((400, "jpeg"), (200, "png")):
        verdict = good(data, max_side)
        assert (max(verdict.height, verdict.width), verdict.transcoded) == (max_side, True)
        lossless = image_format in ("PNG", "GIF", "BMP", "TIFF")
        assert verdict.format == (small_format if lossless else "jpeg")
        made = stored(data, max_side)
        assert not Image.open(io.BytesIO(made)).getexif()
        expected = np.asarray(whole.resize((verdict.width, verdict.height), Image.Resampling.BICUBIC))
        assert np.abs(served(made) - expected).mean() < 3
    assert good(data, max_side=1).height == 1


def test_shrinking_does_not_alias() -> None:
    board = np.indices((512, 512)).sum(0) % 2 * 255
    data = encode(Image.fromarray(board.astype(np.uint8)), "PNG")
    assert np.abs(served(stored(data, max_side=100)) - 128).max() <= 16


# What TensorFlow's decoder refuses or Pillow's does; every other awkward file is good.
REFUSED = {
    "monkey12.jpg": "damaged JPEG",  # 12 bits a sample
    "broken.png": "truncated PNG",
    "broken_data_stream.png": "truncated PNG",
    "decompression_bomb.gif": "too many pixels",
    "l2rgb_read.bmp": "too many pixels",
    "xcrn0g04.png": "not an image",
    "xlfn0g04.png": "not an image",
    "xs1n0g01.png": "not an image",
    "xs2n0g01.png": "not an image",
    "xs4n0g01.png": "not an image",
    "xs7n0g01.png": "not an image",
    "xcsn0g01.png": "damaged PNG",  # a wrong checksum, which Pillow overlooks
    "xc1n0g08.png": "damaged PNG",
    "xc9n2c08.png": "damaged PNG",
    "xd0n2c08.png": "damaged PNG",
    "xd3n2c08.png": "damaged PNG",
    "xd9n2c08.png": "damaged PNG",
    "xdtn0g01.png": "damaged PNG",
    "xhdn0g08.png": "damaged PNG",
}


# What TensorFlow decodes otherwise than a viewer does, or not at all.
TRANSCODED = {
    "rgb32bf-rgba.bmp",  # bit masks, which TensorFlow takes for the usual order
    "hopper_rle8.bmp",
    "hopper_rle8_grayscale.bmp",
    "hopper_rle8_row_overflow.bmp",
    "dispose_bgnd_transparency.gif",  # first frame smaller than the screen
    "first_frame_transparency.gif",
    "no_palette.gif",
    "chi.gif",  # transparent pixels, which TensorFlow shows in another colour
}


@needs_assets
@pytest.mark.filterwarnings("ignore")  # Pillow's, of odd files
def test_of_other_projects_awkward_images_each_is_stored_as_a_viewer_shows_it_or_refused_with_a_reason() -> None:
    with (ASSETS / "awkward/MANIFEST.csv").open() as file:
        paths = [ASSETS / row["file"] for row in csv.DictReader(file)]
    assert len(paths) > 200
    refused, wrong = {}, []
    for path in paths:
        data = path.read_bytes()
        verdict = decode(data)
        if isinstance(verdict, Quarantined):
            refused[path.name] = verdict.reason
            continue
        exotic = path.suffix in (".webp", ".tif", ".tiff")
        assert verdict.transcoded == (exotic or path.name in TRANSCODED), path.name
        result = served(stored(data))
        if path.name == "png_decompression_dos.png":  # Pillow gives up over a text, of which TensorFlow takes no notice
            assert result.shape == (1, 1, 3)
            continue
        difference = np.abs(result - shown(data))
        # The serving graph's fast inverse DCT errs by a few steps, and by more in few pixels of extreme contrast.
        tolerance = (3, 0.005) if verdict.format == "jpeg" else (0, 0)
        if difference.mean() > tolerance[0] or (difference > 32).mean() > tolerance[1]:
            wrong.append((path.name, difference.mean(), difference.max()))
    assert not wrong
    assert refused.keys() == REFUSED.keys()
    assert all(refused[name].startswith(told) for name, told in REFUSED.items())
