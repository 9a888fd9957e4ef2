"""What a client may send: the size of a request and the size of the images in it."""

import http.client
import io
import struct
import zlib

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tensorflow_serving.apis import prediction_service_pb2_grpc

from graftline.serving.server import ModelServer, ServerOptions
from graftline.serving.server.errors import Code, ServingError
from graftline.serving.server.limits import check_images
from graftline.serving.server.model.image_sizes import pixels
from graftline.serving.versions import locate
from tests.assets import ASSETS, needs_assets
from tests.images import PNG_SIGNATURE, encode, image_of, png_chunk
from tests.serving.test_rest import Rest, b64


def picture(fmt: str, width: int = 30, height: int = 20, **settings) -> bytes:
    return encode(Image.new("RGB", (width, height), "red"), fmt, **settings)


def png_bomb(side: int) -> bytes:
    """A PNG of one colour with `side`² pixels in a few kilobytes."""
    packer = zlib.compressobj(9)
    row = b"\0" * (side // 8 + 1)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return PNG_SIGNATURE + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


# Sizes by header


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "GIF", "BMP"])
def test_the_pixels_of_an_image_are_read_from_its_header(fmt):
    assert pixels(picture(fmt)) == 600


def test_all_frames_of_a_gif_count():
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "green", "blue")]
    assert pixels(encode(frames[0], "GIF", save_all=True, append_images=frames[1:])) == 1800


def test_a_jpeg_with_exif_and_comments_before_its_frame_is_read():
    assert pixels(picture("JPEG", exif=b"Exif\0\0" + b"\xff\xd8\xff\xc0" * 1000, comment=b"\xff\xc2" * 500)) == 600
    assert pixels(picture("JPEG", progressive=True)) == 600


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"BM" * 9])
def test_what_is_no_image_has_no_pixels(data):
    assert pixels(data) in (0, abs(struct.unpack("<i", b"BMBM")[0]) ** 2)


def test_a_file_that_is_all_headers_counts_as_endless():
    assert pixels(b"\xff\xd8\xff" + b"\xff\xe0\0\x02" * 200_000) > 1 << 60
    gif = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + b"\x21\xfe\x00" * 200_000
    assert pixels(gif) > 1 << 60


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b""]), st.binary(max_size=400))
def test_no_bytes_confuse_the_reader(magic, rest):
    assert pixels(magic + rest) >= 0


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
        assert pixels(data) == size, path.name
    assert compared > 100


def test_images_within_tf_examples_are_looked_at():
    import tensorflow as tf

    example = tf.train.Example()
    example.features.feature["image"].bytes_list.value.append(picture("PNG", 100, 100))
    inputs = {"examples": np.array([example.SerializeToString(), b"no example"], object)}
    check_images(inputs, 10_000)
    with pytest.raises(ServingError) as caught:
        check_images(inputs, 9_999)
    assert caught.value.code is Code.INVALID_ARGUMENT


# The server


@pytest.fixture(scope="module")
def strict(workspace):
    """A server that takes requests of 100 KB and images of a megapixel."""
    options = ServerOptions(port=0, rest_api_port=0, max_request_bytes=100_000, max_image_pixels=1_000_000)
    with ModelServer(locate.find_models(str(workspace)), options=options) as server:
        yield server


def test_an_image_that_is_too_large_is_refused_before_it_is_decoded_and_alone(strict):
    rest = Rest(strict)
    bomb = png_bomb(20_000)
    assert len(bomb) < 60_000
    status, answer = rest.predict("colours", {"instances": [b64(image_of("red")), b64(bomb)]})
    assert (status, answer) == (
        400,
        {
            "error": "input image_bytes: image 1 of the request decodes to more than 1000000 pixels, the limit "
            "max_image_pixels of this server: send it smaller"
        },
    )
    assert rest.predict("colours", {"instances": [b64(image_of("red"))]})[0] == 200


def test_a_grpc_message_that_is_too_large_is_refused(strict):
    from tests.serving.test_grpc import request

    with grpc.insecure_channel(f"127.0.0.1:{strict.grpc_port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(request("colours", image_bytes=[b"x" * 100_001]))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.Predict(request("colours", image_bytes=[image_of("red")])).outputs["label"].string_val == [b"red"]


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Length": "100001"}, b"", 413),
        ({"Content-Length": "9" * 4000}, b"", 413),
        ({"Content-Length": "-1"}, b"", 400),
        ({"Content-Length": "1e3"}, b"", 400),
        ({"Content-Length": "00000000000000000000000000002"}, b"{}", 400),
        ({"Transfer-Encoding": "chunked"}, b"186a1\r\n", 413),
        ({"Transfer-Encoding": "chunked"}, b"-1\r\n", 400),
        ({"Transfer-Encoding": "chunked"}, b"zz\r\n", 400),
    ],
)
def test_bodies_that_are_too_large_or_make_no_sense_are_refused(strict, headers, body, status):
    connection = http.client.HTTPConnection("127.0.0.1", strict.rest_port, timeout=30)
    connection.putrequest("POST", "/v1/models/colours:predict")
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(body)
    answer = connection.getresponse()
    assert answer.status == status
    assert answer.read().startswith(b'{"error": ')
    connection.close()
