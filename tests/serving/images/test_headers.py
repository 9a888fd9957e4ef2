"""What headers say of image files: one parser for ingest and server, and that it knows what TensorFlow decodes."""

import io
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from graftline.serving.images import formats, headers, trust
from tests.assets import ASSETS, needs_assets
from tests.images import encode


def decoded_pixels(data: bytes) -> int:
    """How many pixels `tf.io.decode_image` allocates; -1 if the file would not be left to it."""
    refusal, pixels = trust.unknown_use(data)
    return -1 if refusal else pixels


def picture(fmt: str, width: int = 30, height: int = 20, **settings) -> bytes:
    return encode(Image.new("RGB", (width, height), "red"), fmt, **settings)


def animation() -> bytes:
    """A GIF of three frames of 600 pixels."""
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "green", "blue")]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "GIF"])
def test_the_pixels_of_an_image_are_read_from_its_header(fmt):
    assert decoded_pixels(picture(fmt)) == 600


def test_all_frames_of_a_gif_count():
    assert decoded_pixels(animation()) == 1800


def test_a_jpeg_with_exif_and_comments_before_its_frame_is_read():
    assert (
        decoded_pixels(picture("JPEG", exif=b"Exif\0\0" + b"\xff\xd8\xff\xc0" * 1000, comment=b"\xff\xc2" * 500)) == 600
    )
    assert decoded_pixels(picture("JPEG", progressive=True)) == 600


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"BM" * 9])
def test_what_is_no_image_has_no_decoded_pixels(data):
    assert decoded_pixels(data) == 0


def test_a_file_that_is_all_headers_is_not_left_to_tensorflow():
    assert decoded_pixels(b"\xff\xd8\xff" + b"\xff\xe0\0\x02" * 200_000) == -1
    gif = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + b"\x21\xfe\x00" * 200_000
    assert decoded_pixels(gif) == -1


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b""]),
    st.binary(max_size=400),
)
def test_no_bytes_confuse_the_reader(magic, rest):
    assert decoded_pixels(magic + rest) >= -1
    trust.judge(magic + rest)


@needs_assets
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_real_and_awkward_images_have_the_size_that_pillow_gives_them():
    compared = 0
    for path in sorted((ASSETS / "awkward").rglob("*")):
        data = path.read_bytes() if path.is_file() else b""
        try:
            with Image.open(io.BytesIO(data), formats=["JPEG", "PNG", "BMP"]) as image:
                size = image.width * image.height
        except Exception:  # noqa: BLE001 - Pillow's plugins raise what they like
            continue
        if data[:2] == b"BM" and struct.unpack_from("<I", data, 14)[0] < 40:
            continue  # OS/2's header, which TensorFlow does not read either
        compared += 1
        assert decoded_pixels(data) == (0 if data[:2] == b"BM" else size), path.name
        header = headers.read(data, str(formats.sniff(data)))
        assert header.pixels in (size, 0), path.name
    assert compared > 100


def test_a_gif_of_a_version_that_tensorflow_does_not_look_at_has_pixels():
    import tensorflow as tf

    odd = picture("GIF").replace(b"GIF87a", b"GIF8zz")
    assert tf.io.decode_image(odd, expand_animations=False).shape == (20, 30, 3)
    assert decoded_pixels(odd) == 600


def test_frames_before_the_damage_count_since_tensorflow_decodes_them():
    data = animation()
    assert decoded_pixels(data[: data.rindex(b",\0\0\0\0") + 4]) == 1200


@pytest.mark.parametrize("between", [b"", b"\xff", b"\xff\0", b"\xff\xd0", b"\xff\xdc\0\x04ab"])
def test_a_jpeg_has_the_same_size_for_ingest_and_server_wherever_libjpeg_finds_its_frame(between):
    data = b"\xff\xd8" + between + picture("JPEG")[2:]
    header = headers.read(data, "jpeg")
    assert (header.width, header.height, header.components, header.distrust) == (30, 20, 3, "")
    assert decoded_pixels(data) == header.pixels


def test_a_marker_that_libjpeg_does_not_know_ends_a_jpeg():
    data = b"\xff\xd8\xff\x05\0\x04ab" + picture("JPEG")[2:]
    assert decoded_pixels(data) == 0
    with pytest.raises(headers.ERRORS, match="unknown marker 0x05"):
        headers.read(data, "jpeg")


def test_a_jpeg_of_countless_segments_is_not_trusted():
    data = b"\xff\xd8" + b"\xff\xe0\0\x02" * 200_000 + picture("JPEG")[2:]
    assert headers.read(data, "jpeg").distrust == "no image in its first 1000 segments"
    assert decoded_pixels(data) == -1
