"""A client sends the bytes of a file that ImageExampleGen would store."""

import csv
import io
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from graftline.components.image_example_gen import decoding
from graftline.serving.client import classifying
from graftline.serving.images import isolated, storing
from graftline.serving.images.trust import Refused
from tests.assets import ASSETS, needs_assets
from tests.images import draw_scene, encode


def stored(data: bytes) -> bytes | str:
    """Return what ingest stores, or why it stores nothing."""
    verdict = decoding.decode(data)
    if isinstance(verdict, decoding.Decoded):
        kept = decoding.to_store(data, verdict)
        return kept.reason if isinstance(kept, decoding.Quarantined) else kept
    return verdict.reason


def sent(path: pathlib.Path) -> bytes | str:
    """Return what a client sends, or why it sends nothing."""
    loaded = classifying.load(path)
    return loaded.error or loaded.data


@pytest.fixture(scope="module", autouse=True)
def _no_children_left() -> object:
    yield
    isolated.close()


def _awkward() -> list[str]:
    manifest = ASSETS / "awkward" / "MANIFEST.csv"
    if not manifest.is_file():
        return []
    with open(manifest, newline="") as file:
        paths = [row["file"] for row in csv.DictReader(file)]
    plain = [path for path in paths if "pngsuite" in path.lower()]
    return [path for path in paths if path not in plain] + plain[::8]


@needs_assets
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_of_other_projects_awkward_images_each_is_sent_as_it_is_stored_or_refused_alike() -> None:
    files = [ASSETS / path for path in _awkward()]
    assert len(files) > 50
    transcoded = 0
    for file in files:
        data = file.read_bytes()
        to_store, to_send = stored(data), sent(file)
        if isinstance(to_store, bytes):
            assert to_send == to_store, file
            transcoded += to_send != data
        else:
            # A client sends files that only TensorFlow's decoder finds bad; the model refuses them.
            assert to_send == to_store or not _decodes(to_send), file
    assert transcoded > 10


def _decodes(data: bytes | str) -> bool:
    try:
        tf.io.decode_image(data, channels=3, expand_animations=False)
    except tf.errors.InvalidArgumentError:
        return False
    return isinstance(data, bytes)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_what_serving_shows_otherwise_is_sent_upright_and_decodable(
    tmp_path: pathlib.Path, kind: str, orientation: int
) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(draw_scene(1, (320, 240)), kind, orientation=orientation, **options)
    (tmp_path / "image").write_bytes(data)
    found = sent(tmp_path / "image")
    assert found == stored(data)
    shape = tf.io.decode_image(found, channels=3, expand_animations=False).shape
    assert tuple(shape) == ((320, 240, 3) if orientation == 6 else (240, 320, 3))


def test_jpegs_are_sent_as_they_are_whatever_their_orientation(tmp_path: pathlib.Path) -> None:
    data = encode(draw_scene(1), "JPEG", orientation=6)
    assert storing.prepare_to_send(data).data is data


def test_an_animated_gif_that_tensorflow_shows_otherwise_is_sent_as_its_first_frame() -> None:
    frames = [Image.fromarray(np.full((40, 60, 3), shade, np.uint8)) for shade in (10, 200)]
    data = bytearray(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    data[6:10] = (70).to_bytes(2, "little") + (50).to_bytes(2, "little")  # a screen larger than the frames
    found = storing.prepare_to_send(bytes(data)).data
    assert found != data
    assert Image.open(io.BytesIO(found)).size == (70, 50)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<html>", "not an image: starts with '<html>'"),
        (b"<svg xmlns", "SVG is not supported: convert to JPEG or PNG"),
        (encode(draw_scene(1), "JPEG")[:10], "truncated JPEG"),
    ],
)
def test_what_is_refused_is_refused_with_ingests_reason(data: bytes, reason: str) -> None:
    assert storing.prepare_to_send(data) == Refused(reason)
    assert stored(data) == reason


def test_it_needs_neither_tensorflow_nor_numpy() -> None:
    heavy = "{'tensorflow', 'numpy', 'scipy'}"
    code = f"import sys, graftline.serving.images.storing; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
