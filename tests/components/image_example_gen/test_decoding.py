"""Tests of the verdicts on a file's bytes, and of the reasons for refusals."""

import random
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from graftline.components.image_example_gen.decoding import Decoded, Quarantined, decode, decode_many
from graftline.serving.images import formats
from tests.components.image_example_gen.verdicts import good, reason, served, shown, stored
from tests.images import draw_scene, encode, encode_noise, png, png_chunk


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
