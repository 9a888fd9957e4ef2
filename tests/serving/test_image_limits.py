"""Images in requests: none that may take long reaches TensorFlow."""

import contextlib
import resource

import numpy as np
import pytest
from PIL import Image

from graftline.serving.images import formats, trust
from graftline.serving.server import ServerOptions
from graftline.serving.server.errors import Code, ServingError
from graftline.serving.server.image_limits import check_images
from tests.images import encode, image_of
from tests.serving.images import hostile

MOST_SECONDS = 2.0  # of processor time, for what is not refused


def refusal(images: list[bytes], name: str = "image_bytes", is_classifier: bool = True, **limits: int) -> str:
    """Return the message with which a request is refused; "" when it is not."""
    try:
        check_images({name: np.array([*images, None], object)[:-1]}, ServerOptions(**limits), is_classifier)
    except ServingError as error:
        assert error.code is Code.INVALID_ARGUMENT
        return error.message
    return ""


def example(*strings: bytes) -> bytes:
    import tensorflow as tf

    feature = {
        str(number): tf.train.Feature(bytes_list=tf.train.BytesList(value=[each]))
        for number, each in enumerate(strings)
    }
    feature["count"] = tf.train.Feature(int64_list=tf.train.Int64List(value=range(300)))
    feature["mean"] = tf.train.Feature(float_list=tf.train.FloatList(value=[0.5]))
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def seconds_of_decoding(data: bytes) -> float:
    """Return the processor seconds in which the serving graph makes pixels of a file, or refuses it."""
    import tensorflow as tf

    from graftline.components.transform import pixels

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    begin = used()
    with contextlib.suppress(tf.errors.InvalidArgumentError):
        pixels.decode_batch(tf.constant([data]), 224)
    return used() - begin


_QUICK = ("4,000 scans", "filling", "60,000 DQT", "zTXt", "100 megapixels", "one byte", "BMP")


@pytest.mark.parametrize("name", [name for name in hostile.HOSTILE if any(part in name for part in _QUICK)])
def test_images_that_ask_much_of_a_decoder_are_refused(name: str) -> None:
    data = hostile.HOSTILE[name]()
    assert refusal([data])
    if "BMP" not in name:  # TensorFlow decodes a BMP only if the file holds all its pixels
        assert refusal([data], "anything", is_classifier=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", hostile.HOSTILE)
def test_what_is_not_refused_takes_at_most_two_seconds_of_processor_time(name: str) -> None:
    data = hostile.HOSTILE[name]()
    if not refusal([data]) or not refusal([data], "anything", is_classifier=False):
        seconds_of_decoding(encode(Image.new("RGB", (9, 9))))  # traces the graph
        assert seconds_of_decoding(data) <= MOST_SECONDS


def test_the_pixels_of_all_images_of_a_request_are_limited() -> None:
    large = encode(Image.new("1", (5000, 5000)), "PNG")
    assert refusal([large] * 4) == ""
    assert refusal([large] * 5) == (
        "the images of the request decode to more than 100000000 pixels, the limit max_request_pixels of this server: "
        "send fewer at once"
    )
    assert "25000000 pixels, the limit max_image_pixels" in refusal([encode(Image.new("1", (5001, 5000)), "PNG")])
    frames = hostile.HOSTILE["GIF, 600 frames of 200 x 200"]()
    assert refusal([frames], max_image_pixels=24_000_000) == ""
    assert refusal([frames], max_image_pixels=23_999_999)


def test_the_image_at_fault_is_named_unless_it_is_the_only_one() -> None:
    good, bad = image_of("red"), hostile.flat_jpeg_of_scans(100, 16)
    reason = "this JPEG must be converted first (106 scans), as `graftline predict` and the Python client do"
    assert refusal([bad]) == reason
    assert refusal([good, bad]) == f"input image_bytes: image 1 of the request: {reason}"


def test_what_a_model_shows_otherwise_than_a_viewer_is_refused_by_graftlines_models_alone() -> None:
    palette = encode(Image.new("P", (9, 9)), "BMP")
    assert refusal([palette]).startswith("this BMP must be converted first (8 bits, compression 0)")
    assert refusal([palette], is_classifier=False) == ""


@pytest.mark.parametrize(
    "text", [b"", b"BMW builds cars", b"GIF89a is a format", b"\n\x0bGIF8 before", b"\x89PNG", b"\xff\xd8\xff"]
)
def test_strings_of_other_models_may_begin_like_images(text: bytes) -> None:
    assert refusal([text, text * 100], "text", is_classifier=False) == ""


@pytest.mark.parametrize("name", ["examples", "inputs", "anything"])
def test_images_in_tf_examples_are_checked_whatever_the_input_is_called(name: str) -> None:
    bad = hostile.flat_jpeg_of_scans(100, 16)
    assert refusal([example(b"label", image_of("red", 100)), b"no example"], name, is_classifier=False) == ""
    assert "106 scans" in refusal([example(b"label"), example(b"label", bad)], name, is_classifier=False)
    assert "9999 pixels" in refusal([example(image_of("red", 100))], name, is_classifier=False, max_image_pixels=9_999)


def test_images_in_tf_sequence_examples_are_checked() -> None:
    import tensorflow as tf

    sequence = tf.train.SequenceExample()
    frames = sequence.feature_lists.feature_list["frames"].feature
    frames.add().bytes_list.value.append(image_of("red"))
    frames.add().bytes_list.value.append(hostile.flat_jpeg_of_scans(100, 16))
    assert "106 scans" in refusal([sequence.SerializeToString()], "inputs", is_classifier=False)


def test_an_example_of_countless_fields_around_an_image_is_refused() -> None:
    endless = b"\x08\x00" * 200_000 + image_of("red")
    assert refusal([endless], "examples") == "the request has more than 51564 fields around its images: send fewer"


def test_a_batch_of_ordinary_examples_has_few_enough_fields() -> None:
    assert refusal([example(*[b"text"] * 9, image_of("red"))] * 100, "examples") == ""


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "GIF", "BMP"])
def test_ordinary_images_are_served(fmt: str) -> None:
    assert refusal([image_of("red", fmt=fmt)] * 50) == ""


def test_the_limits_are_those_to_which_ingest_and_clients_shrink() -> None:
    options = ServerOptions()
    assert options.max_image_pixels == formats.MAX_DECODED_PIXELS
    assert options.max_request_pixels == formats.MAX_REQUEST_PIXELS


def test_a_file_is_judged_in_time_that_its_bytes_bound() -> None:
    """Many parts end the reading of a file: without a limit these take ten times as long and more."""
    for name in ("GIF, 44 MB of comments of one byte", "PNG, 1,000,000 unknown chunks", "GIF, 20 MB of empty comments"):
        data = hostile.HOSTILE[name]()
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_utime
        trust.judge(data)
        assert resource.getrusage(resource.RUSAGE_THREAD).ru_utime - before < 0.1 + len(data) * 40e-9
