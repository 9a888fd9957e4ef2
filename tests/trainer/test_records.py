"""The records of a split: their order, their labels, empty files, and a class without a training image."""

import hashlib
import pathlib

import numpy as np
import pytest

from graftline.errors import UserError
from graftline.trainer.inputs import Records
from tests import images
from tests.trainer.runs import Data, photos, prepare, write_records

# --- the records ------------------------------------------------------------------------------------------------------


def test_records_have_the_order_of_their_files_names_and_of_their_files(tmp_path: pathlib.Path) -> None:
    shards = [photos([1, 2]), [], [("zöld ★", "green", 3)], photos([4])]
    for number, shard in enumerate(shards):
        write_records(tmp_path / f"shard-{number}", shard)
    write_records(tmp_path / "other", photos([5]))
    classes = [*images.CLASSES, "zöld ★"]
    records = Records([str(tmp_path / "shard-[23]"), str(tmp_path / "shard-[01]")], classes)
    drawn = [photo for shard in shards for photo in shard]
    assert len(records) == len(drawn) == 10
    assert records.labels.dtype == np.int64
    assert [classes[index] for index in records.labels] == [label for label, _, _ in drawn]
    assert records.filenames == [f"{label}/{seed}.jpg" for label, _, seed in drawn]
    files = [images.encode(images.draw(drawn_as, seed)) for _, drawn_as, seed in drawn]
    assert records.keys == [hashlib.sha256(file).digest() for file in files]
    for rows in ([9, 0, 6, 6, 3], np.arange(10), []):
        assert list(records.images(rows)) == [files[row] for row in rows]


def test_files_without_records_are_an_empty_split(tmp_path: pathlib.Path) -> None:
    write_records(tmp_path / "shard", [])
    for pattern in ("shard", "nothing-*"):
        records = Records([str(tmp_path / pattern)], images.CLASSES)
        assert len(records) == len(records.labels) == len(list(records.read([]))) == 0


def test_a_class_without_a_training_image_is_an_error_that_names_it_and_the_file(
    data: Data, tmp_path: pathlib.Path
) -> None:
    held_out = write_records(tmp_path / "eval", [*photos([1]), ("zöld", "green", 7)])
    with pytest.raises(
        UserError, match=r"^zöld/7.jpg has the class 'zöld', but no image of the train split has that class: "
    ):
        prepare(Data(data.transform, data.train, [held_out]), tmp_path)
