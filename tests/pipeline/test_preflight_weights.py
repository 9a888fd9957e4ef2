"""Which weights a run refuses in its first second."""

import os
import pathlib
import zipfile

import pytest

from graftline.pipeline.config_file import load
from tests.pipeline.preflights import check, refusal


def write_zip(path: pathlib.Path, name: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"x")


def test_weights_of_each_kind_are_accepted(images: pathlib.Path, tmp_path: pathlib.Path):
    (tmp_path / "old.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    write_zip(tmp_path / "new.keras", "model.weights.h5")
    for weights in ("imagenet", "none", tmp_path / "old.h5", tmp_path / "new.keras"):
        check(images, f"backbone.weights={weights}")


@pytest.mark.parametrize("name", ["weights", "weights.bin", "weights.keras", "weights.h5"])
def test_weights_are_known_by_their_content_whatever_their_name(
    images: pathlib.Path, tmp_path: pathlib.Path, name: str
):
    (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    check(images, f"backbone.weights={tmp_path / name}")
    write_zip(tmp_path / name, "model.weights.h5")
    check(images, f"backbone.weights={tmp_path / name}")


@pytest.mark.parametrize("name", ["../model.weights.h5", "/model.weights.h5", "x/model.weights.h5"])
def test_only_the_weights_at_the_root_of_the_archive_count(images: pathlib.Path, tmp_path: pathlib.Path, name: str):
    write_zip(tmp_path / "w.keras", name)
    assert "a zip archive without model.weights.h5" in refusal(images, f"backbone.weights={tmp_path / 'w.keras'}")


def test_a_pipe_as_weights_is_refused_and_not_waited_for(images: pathlib.Path, tmp_path: pathlib.Path):
    os.mkfifo(tmp_path / "w.h5")
    assert f"{tmp_path}/w.h5 is no regular file" in refusal(images, f"backbone.weights={tmp_path / 'w.h5'}")


def test_missing_weights_say_what_to_give(images: pathlib.Path):
    assert refusal(images, "backbone.weights=nowhere.h5") == (
        "backbone.weights: there is no file 'nowhere.h5'; "
        "give imagenet, procedural, none, or the path of a .keras, .weights.h5 or .h5 file"
    )


def test_the_weights_that_ship_go_with_their_own_trunk_only(images: pathlib.Path):
    check(images, "backbone.weights=procedural")
    check(images, "backbone.weights=procedural", "backbone.options={alpha: 0.35}", "backbone.input_size=128")
    alone = load(None, ["backbone.weights=procedural"]).backbone
    assert (alone.name, alone.options, alone.size) == ("MobileNetV2", {"alpha": 0.35}, 96)
    assert load(None, ["backbone.weights=procedural", "backbone.input_size=64"]).backbone.size == 64
    printed = ["backbone.options={}", "backbone.input_size=null"]  # as `graftline config` has them
    assert load(None, ["backbone.weights=procedural", *printed]).backbone == alone
    for key, wrong, right in (("name", "ResNet50", "MobileNetV2"), ("options", "{'alpha': 0.5}", "{'alpha': 0.35}")):
        assert refusal(images, "backbone.weights=procedural", f"backbone.{key}={wrong}").endswith(
            f"backbone.weights: procedural needs backbone.{key} {right}, but it is {wrong}: "
            f"leave out backbone.{key}, or give other weights"
        )


def test_random_weights_are_not_compared_with_random_weights(images: pathlib.Path):
    told = refusal(images, "backbone.weights=none", "training.transfer_images_per_class=10")
    assert told.startswith(
        "training.transfer_images_per_class compares the backbone's weights with random weights, but "
    )
    assert "set training.transfer_images_per_class=0, or give other weights" in told


def test_misspelt_weights_name_the_nearest(images: pathlib.Path):
    assert "'procedual'; did you mean 'procedural'? Or give" in refusal(images, "backbone.weights=procedual")
    assert "there is no file 'imagnet'; did you mean 'imagenet'? Or give" in refusal(images, "backbone.weights=imagnet")


def test_a_file_that_holds_no_weights_is_refused_with_its_beginning(images: pathlib.Path, tmp_path: pathlib.Path):
    page = tmp_path / "w.h5"
    page.write_text("<!DOCTYPE html><html>")
    assert f"{page} is not a Keras weights file: it starts with b'<!DOCTYPE html><'" in refusal(
        images, f"backbone.weights={page}"
    )


def test_an_empty_weights_file_is_refused(images: pathlib.Path, tmp_path: pathlib.Path):
    (tmp_path / "w.h5").touch()
    assert "is not a Keras weights file: it is empty" in refusal(images, f"backbone.weights={tmp_path / 'w.h5'}")


def test_a_zip_of_something_else_is_refused(images: pathlib.Path, tmp_path: pathlib.Path):
    write_zip(tmp_path / "w.keras", "photo.jpg")
    assert "a zip archive without model.weights.h5" in refusal(images, f"backbone.weights={tmp_path / 'w.keras'}")


def test_a_half_downloaded_zip_is_refused(images: pathlib.Path, tmp_path: pathlib.Path):
    write_zip(tmp_path / "whole", "model.weights.h5")
    (tmp_path / "half.keras").write_bytes((tmp_path / "whole").read_bytes()[:40])
    assert "is not a Keras weights file: it starts with b'PK" in refusal(
        images, f"backbone.weights={tmp_path / 'half.keras'}"
    )


def test_a_folder_as_weights_is_refused(images: pathlib.Path, tmp_path: pathlib.Path):
    assert f"{tmp_path} is a folder" in refusal(images, f"backbone.weights={tmp_path}")
