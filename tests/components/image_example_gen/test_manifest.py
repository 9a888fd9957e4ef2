"""Tests of the manifest: ways to write one, and the mistakes that stop the run."""

import pathlib

import pytest

from graftline.components.image_example_gen import manifest
from graftline.components.image_example_gen.layouts import File
from graftline.errors import UserError

SPLITS = ("train", "val", "test")


def read(tmp_path: pathlib.Path, text: str | bytes) -> manifest.Manifest:
    table = tmp_path / "labels.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    return manifest.read(str(table), SPLITS)


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.jpg,cat\nb/c.jpg,dog\n",
        "label,path\ncat,a.jpg\ndog,b/c.jpg",
        "\ufeffpath,label\r\na.jpg,cat\r\nb/c.jpg,dog\r\n",
        "Path , LABEL\na.jpg, cat\n\nb/c.jpg,dog \n,\n",
        'path,label,split,group\n"a.jpg","cat",,\n"b/c.jpg",dog\n',
        "path,label\n./a.jpg,cat\nb//x/../c.jpg,dog\n",
    ],
)
def test_one_table_may_be_written_in_many_ways(tmp_path: pathlib.Path, text: str) -> None:
    read_ = read(tmp_path, text)
    assert read_.files == (File("a.jpg", "cat"), File("b/c.jpg", "dog"))
    assert read_.warnings == ()


def test_split_and_group_are_read(tmp_path: pathlib.Path) -> None:
    assert read(tmp_path, "group,split,label,path\nsam, Train ,cat,a.jpg\n,,cat,b.jpg\n").files == (
        File("a.jpg", "cat", "train", "sam"),
        File("b.jpg", "cat"),
    )


def test_what_is_quoted_is_kept_as_it_is(tmp_path: pathlib.Path) -> None:
    text = 'path,label\n" a, ""b"".jpg","salt, pepper/herbs"\nGröße 1.JPG,Übung\n'
    assert read(tmp_path, text).files == (
        File(' a, "b".jpg', "salt, pepper/herbs"),
        File("Größe 1.JPG", "Übung"),
    )


def test_columns_that_are_not_read_are_told(tmp_path: pathlib.Path) -> None:
    (warning,) = read(tmp_path, "path,label,Width,height\na.jpg,cat,1,2\n").warnings
    assert warning.endswith("labels.csv: these columns are ignored: 'width', 'height'")


def test_a_line_that_is_repeated_counts_once(tmp_path: pathlib.Path) -> None:
    table = read(tmp_path, "path,label\na.jpg,cat\n./a.jpg,cat\na.jpg,cat\nb.jpg,dog\n")
    assert [file.path for file in table.files] == ["a.jpg", "b.jpg"]
    assert "2 lines repeat an earlier line" in table.warnings[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the column 'path' is missing; the first line must name the columns path and label"),
        ("file,label\na.jpg,cat\n", "the column 'path' is missing"),
        ("path;label\na.jpg;cat\n", "Found: 'path;label'"),
        ("path\na.jpg\n", "the column 'label' is missing"),
        ("path,label,path\na.jpg,cat,b.jpg\n", "names the column 'path' twice; keep one"),
        ("path,label\n\n", "has no rows; give a line"),
        ("path,label\na.jpg,cat\nb.jpg,\n", "line 3: the label is empty; give one or remove the line"),
        ("path,label\na.jpg,cat\nb.jpg\n", "line 3: the label is empty"),
        ("path,label\n,cat\n", "line 2: the path is empty"),
        ("path,label\n/a.jpg,cat\n", "line 2: the path '/a.jpg' is absolute; give it relative to the folder of images"),
        ("path,label\ngs://b/a.jpg,cat\n", "line 2: the path 'gs://b/a.jpg' is absolute"),
        ("path,label\nC:\\a.jpg,cat\n", "line 2: the path 'C:\\a.jpg' is absolute"),
        ("path,label\n../a.jpg,cat\n", "line 2: the path '../a.jpg' leads out of the folder of images"),
        ("path,label\na/../../b.jpg,cat\n", "line 2: the path 'a/../../b.jpg' leads out"),
        (
            "path,label,split\na.jpg,cat,trian\n",
            "line 2: unknown split 'trian'; did you mean 'train'? Known: train, val",
        ),
        ("path,label,split\na.jpg,cat,7\n", "line 2: unknown split '7'; known: train, val, test"),
        ("path,label\na.jpg,cat\n./a.jpg,dog\n", "line 3: 'a.jpg' has other values in line 2; keep one"),
        ('path,label\na.jpg,"cat\ntabby"\n', "line 2: the label 'cat\\ntabby' contains a control character"),
        ('path,label\n"a.jpg",cat\n\nb.jpg,"c"at\n', "line 4: not CSV"),
        ("path,label\na.jpg,c\0t\n", "line 2: not CSV: line contains NUL"),
        (b"path,label\na.jpg,cat\nb.jpg,d\xf6g\n", "line 3: not UTF-8 text; save the table as CSV in UTF-8"),
        ("path,label\na.jpg,cat\n".encode("utf-16"), "line 1: not UTF-8 text"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: pathlib.Path, text: str | bytes, told: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert told in str(caught.value)
    assert str(tmp_path / "labels.csv") in str(caught.value)


def test_lines_are_counted_through_quotes_and_empty_lines(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"line 6: the label is empty"):
        read(tmp_path, 'path,label,note\na.jpg,cat,"two\nlines"\n\n\nb.jpg,,\n')


def test_a_missing_table_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        UserError, match=r"data.manifest: .*nowhere.csv cannot be read: No such file or directory; give a"
    ):
        manifest.read(str(tmp_path / "nowhere.csv"), SPLITS)
