"""Tests of `scan` with folders that are already split, with spans and with several folders."""

import pathlib

import pytest

from graftline.components.image_example_gen.fingerprint import fingerprint
from graftline.components.image_example_gen.layouts import File, Layout
from graftline.components.image_example_gen.scan import scan
from graftline.components.image_example_gen.settings import IngestSettings
from graftline.errors import UserError
from tests.folders import write_file, write_splits

# --- split already ----------------------------------------------------------------------------------------------------


def splits_of(layout: Layout) -> dict[str, str]:
    """The split of the first part of each path."""
    return {file.path.split("/")[0]: file.split for file in layout.files}


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "val"), ("train", "eval")),
        (("training", "valid"), ("train", "eval")),
        (("Train", "Validation"), ("train", "eval")),
        (("train", "eval"), ("train", "eval")),
        (("train", "dev"), ("train", "eval")),
        (("train", "test"), ("train", "eval")),
        (("train", "testing"), ("train", "eval")),
        (("train", "val", "test"), ("train", "eval", "test")),
        (("train", "dev", "testing"), ("train", "eval", "test")),
        (("train", "training", "val"), ("train", "train", "eval")),
    ],
)
def test_a_given_split_is_kept_and_the_class_is_the_folder_under_it(
    tmp_path: pathlib.Path, folders: tuple[str, ...], splits: tuple[str, ...]
) -> None:
    write_splits(tmp_path, *folders)
    write_file(tmp_path, f"{folders[0]}/cats/deep/er.jpg", b"x")
    layout = scan(tmp_path)
    assert layout.classes == ("cats", "dogs") and layout.warnings == ()
    assert splits_of(layout) == dict(zip(folders, splits, strict=True))
    assert File(f"{folders[0]}/cats/deep/er.jpg", "cats", splits[0]) in layout.files
    assert len(layout.files) == 4 * len(folders) + 1


@pytest.mark.parametrize("empty", [False, True])
def test_a_split_without_a_counterpart_is_split_by_content(tmp_path: pathlib.Path, empty: bool) -> None:
    write_splits(tmp_path, "train")
    if empty:
        (tmp_path / "val/cats").mkdir(parents=True)
    layout = scan(tmp_path)
    assert {file.split for file in layout.files} == {""} and layout.classes == ("cats", "dogs")
    assert "has only the split train: data.eval_fraction of its images" in layout.warnings[-1]
    assert ("the folder 'val' is empty" in layout.warnings) == empty


def test_a_split_of_unlabelled_images_is_left_out_and_told(tmp_path: pathlib.Path) -> None:
    write_splits(tmp_path, "train", "val")
    write_file(tmp_path, "test/1.jpg", b"x")
    write_file(tmp_path, "train/labels.txt", b"x")
    layout = scan(tmp_path)
    assert len(layout.files) == 8 and layout.stray == ("test/1.jpg",)


@pytest.mark.parametrize("beside", ["cats/1.jpg", "boats/1.jpg"])
def test_split_names_beside_others_are_classes(tmp_path: pathlib.Path, beside: str) -> None:
    write_splits(tmp_path, "train")
    write_file(tmp_path, beside, b"x")
    write_file(tmp_path, f"{beside}.jpg", b"x")
    layout = scan(tmp_path)
    assert layout.classes == tuple(sorted(("train", beside.split("/")[0])))
    assert {file.split for file in layout.files} == {""}


def test_split_names_with_images_directly_in_them_are_classes(tmp_path: pathlib.Path) -> None:
    for path in ("train/1.jpg", "train/2.jpg", "test/1.jpg", "test/2.jpg"):
        write_file(tmp_path, path, b"x")
    assert scan(tmp_path).classes == ("test", "train")


# --- spans ------------------------------------------------------------------------------------------------------------


def make_spans(root: pathlib.Path, *spans: str) -> None:
    for span in spans:
        for label in ("cats", "dogs"):
            write_file(root, f"{span}/{label}/1.jpg", b"x")
            write_file(root, f"{span}/{label}/2.jpg", b"x")


@pytest.mark.parametrize(
    ("spans", "read"),
    [
        (None, ["span-1", "span-10", "span-2", "span-9"]),
        (1, ["span-10"]),
        (2, ["span-10", "span-9"]),
        (99, ["span-1", "span-10", "span-2", "span-9"]),
    ],
)
def test_the_latest_spans_are_those_of_the_highest_numbers(
    tmp_path: pathlib.Path, spans: int | None, read: list[str]
) -> None:
    make_spans(tmp_path, "span-1", "span-2", "span-9", "span-10")
    layout = scan(tmp_path, IngestSettings(spans=spans))
    assert sorted(splits_of(layout)) == read
    assert layout.classes == ("cats", "dogs") and layout.warnings == ()


def test_an_empty_span_counts_as_one_and_is_told(tmp_path: pathlib.Path) -> None:
    make_spans(tmp_path, "span-1", "span-2")
    (tmp_path / "span-3").mkdir()
    layout = scan(tmp_path, IngestSettings(spans=2))
    assert sorted(splits_of(layout)) == ["span-2"] and layout.warnings == ("the folder 'span-3' is empty",)


def test_a_number_written_in_two_ways_is_one_span(tmp_path: pathlib.Path) -> None:
    make_spans(tmp_path, "span-8", "span-9", "span-09")
    assert sorted(splits_of(scan(tmp_path, IngestSettings(spans=1)))) == ["span-09", "span-9"]


def test_classes_add_up_over_spans_and_a_span_may_be_split(tmp_path: pathlib.Path) -> None:
    make_spans(tmp_path, "span-1")
    write_splits(tmp_path / "span-2", "train", "val")
    write_file(tmp_path, "span-3/birds/1.jpg", b"x")
    write_file(tmp_path, "span-3/birds/2.jpg", b"x")
    layout = scan(tmp_path)
    assert layout.classes == ("birds", "cats", "dogs")
    assert File("span-1/cats/1.jpg", "cats") in layout.files
    assert File("span-2/val/dogs/2.jpg", "dogs", "eval") in layout.files
    assert File("span-3/birds/1.jpg", "birds") in layout.files


def test_asking_for_spans_where_there_are_none_is_refused(root: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"data.spans is 2, but the folders of .* are not span-1.*: 'cats', 'dogs'"):
        scan(root, IngestSettings(spans=2))


def test_spans_beside_other_folders_are_classes(root: pathlib.Path) -> None:
    make_spans(root, "span-1")
    assert scan(root).classes == ("cats", "dogs", "span-1")


@pytest.mark.parametrize("names", [("train", "val", "extra"), ("span-1", "span-2", "cats")])
def test_folders_called_like_splits_or_spans_among_others_are_classes_and_that_is_said(
    tmp_path: pathlib.Path, names: tuple[str, ...]
) -> None:
    for name in names:
        for number in range(2):
            write_file(tmp_path, f"{name}/a/{number}.jpg", b"")
    layout = scan(tmp_path)
    assert layout.classes == tuple(sorted(names))
    (warning,) = (text for text in layout.warnings if "are used as classes" in text)
    assert f"{names[0]!r}, {names[1]!r}" in warning and repr(names[2]) in warning


# --- several folders --------------------------------------------------------------------------------------------------


def test_several_folders_add_up_under_names_of_their_own(tmp_path: pathlib.Path) -> None:
    for place in ("a/photos", "b/photos", "c/more"):
        write_splits(tmp_path / place, "train", "val") if place.startswith("c") else make_spans(tmp_path, place)
    write_file(tmp_path, "b/photos/birds/1.jpg", b"x")
    write_file(tmp_path, "b/photos/birds/2.jpg", b"x")
    layout = scan([tmp_path / "a/photos", str(tmp_path / "b/photos"), tmp_path / "c/more"])
    assert layout.classes == ("birds", "cats", "dogs")
    assert len(layout.files) == len({file.path for file in layout.files}) == 4 + 6 + 8
    assert File("photos/cats/1.jpg", "cats") in layout.files
    assert File("photos-2/birds/1.jpg", "birds") in layout.files
    assert File("more/val/dogs/1.jpg", "dogs", "eval") in layout.files
    for file in layout.files:
        assert pathlib.Path(layout.roots.locate(file.path)).is_file()
    assert layout.roots.locate("photos-2/birds/1.jpg") == str(tmp_path / "b/photos/birds/1.jpg")
    assert len(fingerprint(layout)) == 64


def test_a_name_that_looks_like_a_made_one_is_still_unique(tmp_path: pathlib.Path) -> None:
    for place in ("a/x", "b/x-2", "c/x"):
        make_spans(tmp_path, place)
    assert scan([tmp_path / "a/x", tmp_path / "b/x-2", tmp_path / "c/x"]).roots.names == ("x", "x-2", "x-3")


def test_a_list_of_one_folder_is_that_folder(root: pathlib.Path) -> None:
    assert scan([root]) == scan(root)


def test_a_class_with_one_image_in_each_of_two_folders_has_two(tmp_path: pathlib.Path) -> None:
    for place in ("a", "b"):
        write_file(tmp_path, f"{place}/cats/1.jpg", b"x")
        write_file(tmp_path, f"{place}/dogs/1.jpg", b"x")
    assert scan([tmp_path / "a", tmp_path / "b"]).classes == ("cats", "dogs")


def test_folders_given_twice_or_inside_each_other_are_refused(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to(root)
    with pytest.raises(UserError, match="photos is given twice: its images would count twice"):
        scan([root, tmp_path / "link"])
    with pytest.raises(UserError, match=r"photos/cats lies inside .*photos: its images would count twice"):
        scan([root, root / "cats"])
    with pytest.raises(UserError, match="no folder of images is given"):
        scan([])


def test_each_of_several_folders_must_hold_images(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="other holds no class folders"):
        scan([root, tmp_path / "other"])
