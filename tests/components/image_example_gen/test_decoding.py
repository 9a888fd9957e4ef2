"""Which bytes are a good image, what is stored of them, and what is said of those that are not."""

import csv
import io
import random
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import imagehash
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageDraw, ImageOps

from graftline.components.image_example_gen import decoding
from graftline.components.image_example_gen.decoding import Decoded, Quarantined, decode, decode_many, to_store
from graftline.components.storage import files
from graftline.components.transform import pixels
from graftline.serving.images import formats
from tests.assets import ASSETS, FLOWERS, needs_assets
from tests.images import draw_scene, encode, encode_noise, png, png_chunk


def reason(data: bytes) -> str:
    verdict = decode(data)
    assert isinstance(verdict, Quarantined), verdict
    return verdict.reason


def good(data: bytes, max_side: int | None = None) -> Decoded:
    verdict = decode(data, max_side)
    assert isinstance(verdict, Decoded), verdict
    return verdict


def stored(data: bytes, max_side: int | None = None) -> bytes:
    """What the record gets, which is always the same and what the verdict says."""
    verdict = good(data, max_side)
    made = to_store(data, verdict, max_side)
    assert isinstance(made, bytes) and made == to_store(data, verdict, max_side)
    assert (made != data) == verdict.transcoded
    assert served(made).shape == (verdict.height, verdict.width, 3)
    assert files.sniff(made[: files.HEAD_BYTES]) == verdict.format
    return made


def served(data: bytes) -> np.ndarray:
    """What the serving graph decodes, int [h, w, 3]."""
    return pixels.decode_upright(data).numpy().astype(int)


def shown(data: bytes) -> np.ndarray:
    """What a viewer shows, int [h, w, 3]: Pillow's first frame, upright by EXIF alone, of 16 bits the high 8."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        bits = image.tag_v2[258][0] if image.format == "TIFF" else 16
        for key in ("xmp", "XML:com.adobe.xmp"):
            image.info.pop(key, None)
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        return np.repeat((np.asarray(upright).astype(int) >> (bits - 8))[..., None], 3, 2)
    return np.asarray(upright.convert("RGB")).astype(int)


def distance(one: int, other: int) -> int:
    """Bits that differ."""
    return (one ^ other).bit_count()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP"])
def test_the_format_and_size_come_from_the_bytes(image_format: str) -> None:
    data = encode_noise(1, image_format, size=(48, 32))
    verdict = good(data)
    assert (verdict.format, verdict.height, verdict.width) == (image_format.lower(), 32, 48)
    assert stored(data) == data


@pytest.mark.parametrize("orientation", range(1, 9))
def test_height_and_width_are_as_a_viewer_shows_them(orientation: int) -> None:
    verdict = good(encode_noise(1, size=(48, 32), orientation=orientation))
    assert (verdict.height, verdict.width) == ((48, 32) if orientation > 4 else (32, 48))


def test_damaged_exif_does_not_spoil_an_image() -> None:
    data = encode_noise(1)
    broken = b"\xff\xe1" + struct.pack(">H", 14) + b"Exif\0\0II*\0\xff\xff"
    assert (good(data[:2] + broken + data[2:]).height) == 32


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "I;16"])
def test_every_kind_of_png_is_good(mode: str) -> None:
    assert good(encode(Image.new(mode, (5, 7)), "PNG")).height == 7


def test_cmyk_and_progressive_jpegs_and_trailing_junk_are_good() -> None:
    assert good(encode(Image.new("CMYK", (5, 7)), "JPEG")).width == 5
    assert good(encode_noise(1, progressive=True)).width == 48
    assert good(encode_noise(1) + b"\0" * 1000).width == 48


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("white", "black", "red")]
    for image_format in ("GIF", "WEBP", "AVIF"):
        verdict = good(encode(frames[0], image_format, save_all=True, append_images=frames[1:]))
        assert (verdict.height, verdict.width) == (4, 6)
        assert verdict.brightness == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "empty file"),
        (b"\0" * 1000, "not an image: starts with '\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00'"),
        (b"<html><body>404</body></html>", "not an image: starts with '<html><b'"),
        (b"\x00\x01\xff\xfe\x10", "not an image: starts with bytes 00 01 ff fe 10"),
        (encode_noise(1)[:-200], "truncated JPEG"),
        (encode_noise(1)[:30], "truncated JPEG"),
        (encode_noise(1, "PNG")[:-200], "truncated PNG"),
        (encode_noise(1, "GIF")[:-200], "truncated GIF"),
        (encode_noise(1, "BMP")[:-200], "truncated BMP"),
        (b"\xff\xd8\xff" + b"no image" * 9 + b"\xff\xd9", "damaged JPEG or a variant that cannot be decoded"),
        (encode_noise(1, "WEBP")[:-200], "damaged WebP or a variant that cannot be decoded"),
        (encode_noise(1, "TIFF")[:-200], "damaged TIFF or a variant that cannot be decoded"),
        (encode_noise(1, "AVIF")[:-200], "damaged AVIF or a variant that cannot be decoded"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 30, "damaged HEIC or a variant that cannot be decoded"),
        (b"<?xml version='1.0'?><svg width='9'/>", "SVG is not supported: convert to JPEG or PNG"),
        (encode(Image.new("F", (9, 9)), "TIFF"), "samples of 32 bits have no defined brightness: convert to 8 bits"),
    ],
)
def test_reasons_are_short_and_stable(data: bytes, told: str) -> None:
    assert reason(data) == told


def test_a_png_with_a_wrong_checksum_is_damaged() -> None:
    data = bytearray(encode_noise(1, "PNG"))
    data[len(data) // 2] ^= 0xFF
    assert reason(bytes(data)) == "damaged PNG or a variant that cannot be decoded"


def test_a_size_that_no_photo_has_is_refused_by_the_header() -> None:
    assert reason(png(10_001, 10_000, b"\0" * 99)) == "too many pixels: 10001 x 10000"
    assert reason(png(65_501, 1, b"\0" * 99)) == "too many pixels: 65501 x 1"
    assert reason(png(100_000, 100_000, b"\0" * 99)) == "too many pixels: 100000 x 100000"


def test_a_header_that_promises_more_than_the_data_hold_is_told() -> None:
    lies = "damaged PNG or a variant that cannot be decoded: fewer bytes than its size takes"
    assert reason(png(4000, 4000, b"\0" * 99)) == lies


def test_text_in_a_png_does_not_matter_until_it_unpacks_to_megabytes() -> None:
    def with_text(text: bytes) -> bytes:
        chunk = png_chunk(b"zTXt", b"key\0\0" + zlib.compress(text, 9))
        return png(1, 1, b"\0\1\2\3", after=chunk)

    assert not good(with_text(b"some text" * 100)).transcoded
    random_text = with_text(np.random.default_rng(0).bytes(200_000))
    assert good(random_text).transcoded and len(stored(random_text)) < 1000
    assert reason(with_text(b"\0" * (80 << 20))).startswith("damaged PNG or a variant that cannot be decoded: 7")


def gif_of_frames(count: int, side: int) -> bytes:
    """`count` white frames of few bytes each."""
    one = encode(Image.new("L", (side, side), 255), "GIF")
    first = one.index(b"\x2c", 13 + 3 * (2 << (one[10] & 7)))
    return one[:first] + one[first:-1] * count + b";"


def test_a_gif_of_many_frames_is_stored_as_its_first() -> None:
    few, many = gif_of_frames(3, 1000), gif_of_frames(60, 1000)
    assert stored(few) == few
    # TensorFlow would unpack all 60 frames each time it decodes the first.
    assert len(stored(many)) < len(many)
    assert (good(many).format, good(many).brightness) == ("png", 1)
    cut = many[:-100]
    assert good(cut).transcoded and stored(cut) == stored(many)


def test_a_gif_of_countless_notes_is_not_left_to_tensorflow() -> None:
    data = encode(draw_scene(1), "GIF")
    first = data.index(b"\x2c", 13 + 3 * (2 << (data[10] & 7)))
    noted = data[:first] + b"\x21\x01" + b"\x01a" * 200_000 + b"\0" + data[first:]
    assert good(noted).transcoded and len(stored(noted)) < len(noted)
    assert np.array_equal(served(stored(data)), shown(noted))


def test_a_gif_whose_first_frame_is_not_its_screen_is_stored_as_a_viewer_shows_it() -> None:
    small = bytearray(encode(draw_scene(1, (40, 30)), "GIF"))
    small[6:10] = struct.pack("<HH", 60, 50)
    assert np.array_equal(served(stored(bytes(small))), shown(bytes(small)))
    assert good(bytes(small)).height == 50
    small[6:10] = struct.pack("<HH", 20, 20)
    assert np.array_equal(served(stored(bytes(small))), shown(bytes(small)))


def test_a_jpeg_of_thousands_of_scans_is_not_left_to_tensorflow() -> None:
    data = encode(draw_scene(2).convert("L"), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    scans = data[:-2] + data[last:-2] * 500 + data[-2:]
    verdict = good(scans)
    assert verdict.transcoded and len(stored(scans)) < len(scans)
    assert np.abs(served(stored(scans)) - shown(scans)).mean() < 3


def test_too_many_bytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_BYTES", 1 << 20)
    assert reason(encode_noise(1) + b"\0" * (2 << 20)) == "too many bytes: 2 MiB, the limit is 1"


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
    turn_back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    for orientation, turn in turn_back.items():
        turned = image.transpose(turn) if turn is not None else image
        data = encode(turned, image_format, orientation=orientation)
        assert distance(good(data).phash, upright) <= 4, orientation
        if turn is not None:
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


def test_a_batch_gets_the_verdicts_of_its_files_from_any_number_of_threads() -> None:
    sources = [encode_noise(i, form) for i, form in enumerate(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"] * 3)]
    sources[4], sources[7] = b"", sources[7][:100]
    alone = [decode(data, 40) for data in sources]
    assert decode_many(sources, 40) == alone
    assert decode_many([]) == []
    with ThreadPoolExecutor(6) as pool:
        assert all(verdicts == alone for verdicts in pool.map(lambda _: decode_many(sources, 40), range(6)))


def test_no_damage_whatever_passes_that_serving_does_not_decode() -> None:
    """Cut, changed and lost bytes: ingest decodes JPEGs otherwise than serving does, and must not be more lenient."""
    rng = random.Random(0)
    sources = [
        encode(draw_scene(11, (300, 200)), "JPEG"),
        encode(draw_scene(11, (300, 200)), "JPEG", progressive=True, subsampling=0),
        encode(draw_scene(11, (300, 200)).convert("L"), "JPEG", restart_marker_blocks=4),
        *(encode(draw_scene(11, (60, 50)), image_format) for image_format in ("PNG", "GIF", "BMP", "WEBP", "TIFF")),
    ]
    outcomes = set()
    for source in sources:
        for _ in range(25):
            kind, at = rng.choice(["cut", "change", "lose"]), rng.randrange(len(source))
            data = bytearray(source)
            if kind == "cut":
                del data[at:]
            elif kind == "lose":
                del data[at : at + rng.randrange(1, 50)]
            else:
                for _ in range(rng.choice([1, 3, 30])):
                    data[rng.randrange(len(data))] = rng.randrange(256)
            verdict = decode(bytes(data))
            if isinstance(verdict, Decoded):
                stored(bytes(data))
            elif data[:3] == b"\xff\xd8\xff" and "JPEG" in verdict.reason:
                with pytest.raises(tf.errors.OpError):
                    served(bytes(data))
            outcomes.add((source[:2], type(verdict)))
    expected = {(source[:2], kind) for source in sources for kind in (Decoded, Quarantined)}
    assert outcomes == expected - {(b"\x89P", Decoded)}  # whose checksums find all damage


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
