"""Tests of the measurements of a good image: brightness, contrast, sharpness and the perceptual hash."""

import imagehash
import numpy as np
import pytest
from PIL import Image

from graftline.components.image_example_gen import decoding
from graftline.components.image_example_gen.decoding import Decoded
from tests.assets import FLOWERS, needs_assets
from tests.components.image_example_gen.verdicts import distance, good
from tests.images import TURNS_OF_CAMERAS, draw_scene, encode, turn_as_stored


def test_quality_numbers_tell_dark_flat_and_blurred_images_apart() -> None:
    def png_of(pixels: np.ndarray) -> Decoded:
        return good(encode(Image.fromarray(pixels.astype(np.uint8)), "PNG"))

    black, white = (png_of(np.full((300, 600, 3), value)) for value in (0, 255))
    assert (black.brightness, black.contrast, black.sharpness) == (0, 0, 0)
    assert (white.brightness, white.contrast) == (1, 0)
    halves = png_of(np.repeat(np.repeat([[[0]], [[255]]], 8, 0), 16, 1).repeat(3, 2))
    assert (halves.brightness, halves.contrast) == pytest.approx((0.5, 0.5), abs=1e-5)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    ramp = np.linspace(0, 255, 64)[None, :, None] * np.ones((64, 1, 3))
    assert png_of(noise).sharpness > 100 * png_of(ramp).sharpness
    assert png_of(np.zeros((1, 1, 3))).sharpness == 0


def test_the_numbers_of_a_jpeg_are_those_of_its_pixels() -> None:
    for size in ((100, 80), (700, 500), (3000, 40)):
        image = draw_scene(9, size)
        as_png, as_jpeg = good(encode(image, "PNG")), good(encode(image, "JPEG", quality=95))
        for number in ("brightness", "contrast", "sharpness"):
            assert getattr(as_jpeg, number) == pytest.approx(getattr(as_png, number), abs=0.01), (size, number)
        assert distance(as_jpeg.phash, as_png.phash) <= 4


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_the_perceptual_hash_is_of_the_upright_image(image_format: str) -> None:
    image = draw_scene(10, (300, 200))
    upright = good(encode(image, image_format)).phash
    for orientation in TURNS_OF_CAMERAS:
        turned = turn_as_stored(image, orientation)
        data = encode(turned, image_format, orientation=orientation)
        assert distance(good(data).phash, upright) <= 4, orientation
        if orientation > 1:
            assert distance(good(encode(turned, image_format)).phash, upright) > 8, orientation


def test_the_hashes_of_a_batch_are_those_of_imagehash_bit_for_bit() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 32, 32), np.uint8)
    scenes = [np.asarray(draw_scene(seed, (32, 32)).convert("L")) for seed in range(40)]
    flat = [np.full((32, 32), value, np.uint8) for value in (0, 1, 200, 255)]
    pictures = [*noise, *scenes, *flat]
    expected = [int(str(imagehash.phash(Image.fromarray(picture))), 16) for picture in pictures]
    for count in (0, 1, 3, len(pictures)):
        assert decoding._phashes(pictures[:count]) == expected[:count]
    assert len(set(expected)) > 80


@pytest.mark.parametrize("size", [(3, 3), (3, 9), (9, 4), (256, 256), (251, 160)])
def test_quality_is_the_mean_and_the_deviations_of_luma_and_of_its_laplacian(size: tuple[int, int]) -> None:
    luma = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    luma[: size[0] // 2] //= 4
    whole = luma.astype(int)
    inner = 4 * whole[1:-1, 1:-1]
    laplacian = whole[:-2, 1:-1] + whole[2:, 1:-1] + whole[1:-1, :-2] + whole[1:-1, 2:] - inner
    expected = (luma.mean() / 255, luma.std() / 255, laplacian.std() / 255)
    assert decoding._quality(luma) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_the_perceptual_hash_survives_what_happens_to_copies_and_tells_images_apart() -> None:
    hashes = []
    for seed in range(10):
        image = draw_scene(seed)
        hashes.append(good(encode(image, "JPEG", quality=75)).phash)
        smaller = image.resize((200, 150), Image.Resampling.LANCZOS)
        assert distance(good(encode(smaller, "JPEG", quality=60)).phash, hashes[-1]) <= 3
    assert all(0 <= value < 1 << 64 for value in hashes)
    assert min(distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > 8


@needs_assets
def test_copies_of_photos_are_near_and_other_photos_far() -> None:
    photos = sorted(FLOWERS.rglob("*.jpg"))[::10]
    hashes = [good(path.read_bytes()).phash for path in photos]
    found = 0
    for path, original in zip(photos, hashes, strict=True):
        with Image.open(path) as image:
            copy = image.resize((image.width * 7 // 10, image.height * 7 // 10), Image.Resampling.LANCZOS)
        found += distance(good(encode(copy, "JPEG", quality=60)).phash, original) <= 3
    assert found >= 0.95 * len(photos)
    assert min(distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > 8
