"""Tests of whole ingests by the executor: splits that stay, refusals and real data sets."""

import hashlib
import pathlib
import shutil

import pytest
import tensorflow as tf
from PIL import Image
from tfx.types import artifact_utils

from graftline import features
from graftline.errors import UserError
from tests.assets import ASSETS, FLOWERS, needs_assets
from tests.components.image_example_gen.ingested import execute, text
from tests.folders import write_file
from tests.images import encode_noise, write_noise_folder


def test_added_images_move_no_old_one(tmp_path: pathlib.Path) -> None:
    images = write_noise_folder(tmp_path / "photos", cats=20, dogs=20)
    before = execute(images, tmp_path / "1").paths()
    for i in range(20):
        write_file(images, f"cats/more/{i}.jpg", encode_noise(1000 + i))
        write_file(images, f"birds/{i}.jpg", encode_noise(2000 + i))
    after = execute(images, tmp_path / "2").paths()
    assert {path: after[path] for path in before} == before
    assert len(after) == 80


def test_tiny_classes_have_an_image_on_both_sides(tmp_path: pathlib.Path) -> None:
    images = write_noise_folder(tmp_path / "photos", **{f"c{i}": 2 for i in range(20)})
    result = execute(images, tmp_path)
    assert all((counts["train"], counts["eval"]) == (1, 1) for counts in result.summary["by_class"].values())


def test_a_bad_file_never_costs_a_class_its_side(tmp_path: pathlib.Path) -> None:
    images = write_noise_folder(tmp_path / "photos", **{f"c{i}": 2 for i in range(10)})
    for i in range(10):
        write_file(images, f"c{i}/bad.jpg", encode_noise(500 + i)[:-100])
    counts = execute(images, tmp_path, max_bad_fraction=0.5).summary["by_class"].values()
    assert all((c["train"], c["eval"], c["quarantined"]) == (1, 1, 1) for c in counts)


def test_a_refused_run_leaves_the_list_where_the_message_says(tmp_path: pathlib.Path) -> None:
    images = write_noise_folder(tmp_path / "photos", cats=4, dogs=4)
    write_file(images, "cats/page.jpg", b"<html>404</html>")
    with pytest.raises(UserError, match=r"1 of 9 files \(11.1%\) cannot be used") as error:
        execute(images, tmp_path / "run", report_dir=tmp_path / "reports")
    kept = tmp_path / "reports/quarantine.csv"
    assert f"The full list is in {kept}." in str(error.value)
    assert "cats/page.jpg" in kept.read_text()


def test_an_image_stays_in_its_split_and_what_is_nearly_it_follows(tmp_path: pathlib.Path) -> None:
    images, state = write_noise_folder(tmp_path / "photos", cats=10, dogs=10), tmp_path / "state"
    before = execute(images, tmp_path / "1", state=state).paths()
    assert len(list((state / "splits").iterdir())) == 1
    for path in before:  # the same pictures, compressed anew
        with Image.open(images / path) as image:
            image.save(images / f"{path.removesuffix('.jpg')} again.jpg", quality=80)
    result = execute(images, tmp_path / "2", state=state)
    after = result.paths()
    assert {path: after[path] for path in before} == before
    assert all(after[f"{path.removesuffix('.jpg')} again.jpg"] == split for path, split in before.items())
    assert result.summary["near_copies"] == 40
    page = pathlib.Path(result.quarantine.uri, "duplicates.html").read_text()
    assert page.count("data:image/jpeg") == 40 and "cats/0 again.jpg" in page

    assert result.summary["near_conflicts"] == 0
    (images / "cats/0 again.jpg").rename(images / "dogs/really a cat.jpg")
    mislabelled = execute(images, tmp_path / "4", state=state)
    assert mislabelled.summary["near_conflicts"] == 1
    page = pathlib.Path(mislabelled.quarantine.uri, "duplicates.html").read_text()
    first_group = page.partition("<article>")[2].partition("</article>")[0]
    assert "in several classes" in first_group and "dogs/really a cat.jpg" in first_group
    (images / "dogs/really a cat.jpg").rename(images / "cats/0 again.jpg")

    alone = execute(images, tmp_path / "3", near_duplicates=None).paths()
    assert any(alone[path] != split for path, split in after.items()), "without, hashing parts some of them"


def test_splits_that_the_folders_give_are_kept_and_test_is_one_of_them(tmp_path: pathlib.Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        for i in range(4):
            write_file(tmp_path, f"photos/{split}/{'ab'[i % 2]}/{i}.png", encode_noise(10 * number + i, "PNG"))
    result = execute(tmp_path / "photos", tmp_path)
    assert result.summary["by_split"] == {"train": 4, "eval": 4, "test": 4}
    assert artifact_utils.decode_split_names(result.examples.split_names) == ["train", "eval", "test"]
    assert len(list(pathlib.Path(result.examples.uri, "Split-test").iterdir())) == 1


def test_a_webp_and_a_large_photo_are_stored_as_what_the_serving_graph_reads(tmp_path: pathlib.Path) -> None:
    images = write_noise_folder(tmp_path / "photos", cats=3, dogs=3)
    write_file(images, "cats/picture.webp", encode_noise(50, "WEBP", size=(90, 60)))
    write_file(images, "dogs/large.jpg", encode_noise(51, size=(400, 300)))
    result = execute(images, tmp_path, max_side=200)
    stored = {text(e, features.FILENAME).decode(): e for s in features.SPLITS for e in result.records(s)}
    for path, size in (("cats/picture.webp", (60, 90)), ("dogs/large.jpg", (150, 200))):
        data = text(stored[path], features.IMAGE)
        assert tf.io.decode_image(data, channels=3).shape[:2] == size
        assert text(stored[path], features.SHA256).decode() == hashlib.sha256(data).hexdigest()
        numbers = [stored[path].features.feature[n].int64_list.value[0] for n in (features.HEIGHT, features.WIDTH)]
        assert tuple(numbers) == size


def test_a_folder_of_broken_images_is_a_users_error(tmp_path: pathlib.Path) -> None:
    for i in range(4):
        write_file(tmp_path, f"photos/{'ab'[i % 2]}/{i}.jpg", encode_noise(i)[:-100])
    with pytest.raises(UserError, match=r"none of 4 files is an image that can be decoded\. Reasons: truncated JPEG"):
        execute(tmp_path / "photos", tmp_path, max_bad_fraction=1.0)


@needs_assets
def test_real_flowers_are_all_ingested(tmp_path: pathlib.Path) -> None:
    result = execute(FLOWERS, tmp_path, eval_fraction=0.2)
    assert result.summary["examples"] == 600
    assert 0.15 < result.summary["by_split"]["eval"] / 600 < 0.25
    for split in features.SPLITS:
        for example in result.records(split):
            shape = tf.io.decode_image(text(example, features.IMAGE), channels=3).shape
            numbers = [example.features.feature[n].int64_list.value[0] for n in (features.HEIGHT, features.WIDTH)]
            assert numbers == shape[:2]


@needs_assets
def test_other_projects_awkward_images_are_ingested_or_named(tmp_path: pathlib.Path) -> None:
    result = execute(ASSETS / "awkward", tmp_path, max_bad_fraction=0.5)
    summary = result.summary
    assert summary["examples"] + summary["quarantined"] + summary["duplicates"] == summary["found"] > 200
    for split in features.SPLITS:
        for example in result.records(split):
            tf.io.decode_image(text(example, features.IMAGE), channels=3, expand_animations=False)
    assert len(result.refused) == summary["quarantined"] >= 14


def test_a_class_folder_that_holds_no_image_is_left_out_and_the_run_goes_on(tmp_path: pathlib.Path) -> None:
    images = write_noise_folder(tmp_path / "photos", cats=4, dogs=4)
    write_file(images, "notes/readme.txt", b"About these photos.")
    result = execute(images, tmp_path, max_bad_fraction=0.2)
    assert result.summary["examples"] == 8
    assert list(result.refused) == ["notes/readme.txt"]


def test_without_a_test_folder_no_image_is_left_in_a_test_split(tmp_path: pathlib.Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        for i in range(4):
            write_file(tmp_path, f"split/{split}/{'ab'[i % 2]}/{i}.png", encode_noise(10 * number + i, "PNG"))
    state = tmp_path / "state"
    assert "test" in execute(tmp_path / "split", tmp_path / "1", state=state).summary["by_split"]
    images = write_noise_folder(tmp_path / "photos", a=6, b=6)
    shutil.copy(tmp_path / "split/test/a/0.png", images / "a/known.png")
    result = execute(images, tmp_path / "2", state=state)
    assert set(result.summary["by_split"]) == {"train", "eval"}
    assert result.paths()["a/known.png"] == "eval", "it was never trained on, and is not now"
