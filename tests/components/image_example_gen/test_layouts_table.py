"""Tests of `scan` and `fingerprint` with a manifest."""

import os
import pathlib

import pytest

from graftline.components.image_example_gen.fingerprint import fingerprint
from graftline.components.image_example_gen.layouts import File, Layout
from graftline.components.image_example_gen.scan import scan
from graftline.components.image_example_gen.settings import IngestSettings
from graftline.errors import UserError
from tests.folders import refusals, write_file


@pytest.fixture
def heap(tmp_path: pathlib.Path) -> pathlib.Path:
    """Images in no order at all."""
    for path in ("1.jpg", "2.jpg", "x/3.jpg", "x/y/4.jpg", ".hidden.jpg"):
        write_file(tmp_path / "heap", path, b"\xff\xd8\xff" + path.encode())
    return tmp_path / "heap"


def by_table(heap: pathlib.Path, *lines: str) -> Layout:
    table = heap.parent / "labels.csv"
    table.write_text("\n".join(lines))
    return scan(heap, IngestSettings(manifest=str(table)))


def test_a_table_gives_labels_splits_and_groups(heap: pathlib.Path) -> None:
    layout = by_table(
        heap,
        "group,label,path,split",
        "sam,cat,1.jpg,train",
        "sam,cat,.hidden.jpg,val",
        ",dog,x/3.jpg,Training",
        "kim,dog,x/y/4.jpg,validation",
    )
    assert layout.files == (
        File(".hidden.jpg", "cat", "eval", "sam"),
        File("1.jpg", "cat", "train", "sam"),
        File("x/3.jpg", "dog", "train"),
        File("x/y/4.jpg", "dog", "eval", "kim"),
    )
    assert layout.classes == ("cat", "dog") and layout.warnings == ()


def test_what_the_table_leaves_open_follows_from_the_content(heap: pathlib.Path) -> None:
    layout = by_table(
        heap, "path,label,split", "1.jpg,cat,", "2.jpg,cat,", "x/3.jpg,dog,test", "x/y/4.jpg,dog,", ".hidden.jpg,dog,"
    )
    assert {file.path: file.split for file in layout.files}["x/3.jpg"] == "test"
    assert sum(file.split == "" for file in layout.files) == 4


def test_files_of_a_table_that_may_not_be_read_are_refused_and_counted(heap: pathlib.Path) -> None:
    outside = write_file(heap.parent, "outside/9.jpg", b"x")
    (heap / "out.jpg").symlink_to(outside)
    (heap / "folder link").symlink_to(outside.parent)
    (heap / "inside link").symlink_to(heap / "x")
    os.mkfifo(heap / "pipe.jpg")
    good = ["1.jpg,cat", "2.jpg,cat", "x/3.jpg,dog", "x/y/4.jpg,dog"]
    bad = ["gone.jpg,cat", "1.jpg/inside,cat", "out.jpg,cat", "folder link/9.jpg,dog", "pipe.jpg,dog", "x,dog"]
    layout = by_table(heap, "path,label", *good, *bad, "inside link/3.jpg,dog", '"odd\tname.jpg",dog')
    assert refusals(layout) == {
        "gone.jpg": "no such file",
        "1.jpg/inside": "no such file",
        "out.jpg": "link out of the folder of images: not followed",
        "folder link/9.jpg": "link out of the folder of images: not followed",
        "pipe.jpg": "not a file: a named pipe",
        "x": "not a file: a folder",
        r"odd\tname.jpg": "name is not printable UTF-8 text",
    }
    assert [file.path for file in layout.files] == ["1.jpg", "2.jpg", "inside link/3.jpg", "x/3.jpg", "x/y/4.jpg"]


def test_a_table_of_files_that_are_elsewhere_is_refused(heap: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"none of its 2 files can be read, first in line 2: heap/1.jpg \(no such"):
        by_table(heap, "path,label", "heap/1.jpg,cat", "heap/2.jpg,dog")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("1.jpg,cat", "2.jpg,cat"), "one class only, 'cat'"),
        (("1.jpg,cat", "2.jpg,cat", "x/3.jpg,dog"), "class 'dog' has a single image;"),
    ],
)
def test_a_table_of_too_few_images_is_refused(heap: pathlib.Path, lines: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError, match=told):
        by_table(heap, "path,label", *lines)


@pytest.mark.parametrize("other", ["spans", "folders"])
def test_a_table_goes_with_one_folder_alone(heap: pathlib.Path, other: str) -> None:
    (heap.parent / "other").mkdir()
    settings = IngestSettings(manifest="labels.csv", spans=1 if other == "spans" else None)
    with pytest.raises(UserError, match=f"data.manifest is labels.csv, but a manifest needs a single folder .*{other}"):
        scan(heap if other == "spans" else [heap / "x", heap.parent / "other"], settings)


@pytest.mark.parametrize("what", ["label", "split", "group"])
def test_the_fingerprint_changes_with_what_a_table_says(heap: pathlib.Path, what: str) -> None:
    lines = ["path,label,split,group", "1.jpg,cat,,", "2.jpg,cat,,", "x/3.jpg,dog,,", "x/y/4.jpg,dog,,"]
    before = fingerprint(by_table(heap, *lines))
    lines[2] = {"label": "2.jpg,dog,,", "split": "2.jpg,cat,val,", "group": "2.jpg,cat,,sam"}[what]
    if what == "label":
        lines.append(".hidden.jpg,cat,,")
        before = fingerprint(by_table(heap, *(line.replace("2.jpg,dog", "2.jpg,cat") for line in lines)))
    assert fingerprint(by_table(heap, *lines)) != before
