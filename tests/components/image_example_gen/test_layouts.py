"""What `scan`, `fingerprint` and `check_decodable` say of folders good and bad."""

import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from components.image_example_gen.layouts import File, Layout, check_decodable, fingerprint, scan
from components.image_example_gen.settings import IngestSettings
from graftline.errors import UserError
from tests.components.image_example_gen.pictures import begun, put

FOUR = ("cats/1.jpg", "cats/2.jpg", "dogs/1.jpg", "dogs/2.jpg")


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    return begun(tmp_path / "photos", FOUR)


def refusals(layout: Layout) -> dict[str, str]:
    return {path: reason for path, _, reason in layout.refused}


def test_classes_are_the_sorted_folder_names_and_files_are_sorted_at_any_depth(root: pathlib.Path) -> None:
    put(root, "cats/holiday/2024/IMG 1 ü.JPG", b"x")
    layout = scan(root)
    assert layout.classes == ("cats", "dogs")
    assert layout.files == tuple(sorted(File(p, p.split("/")[0]) for p in (*FOUR, "cats/holiday/2024/IMG 1 ü.JPG")))
    assert layout.refused == () and layout.warnings == ()


def test_a_trailing_slash_or_a_linked_root_changes_nothing(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert scan(f"{root}/") == scan(tmp_path / "link") == scan(root)


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", "._1.jpg", "__MACOSX/1.jpg", ".git/1.jpg"])
def test_clutter_of_file_managers_is_no_data(root: pathlib.Path, name: str) -> None:
    put(root, f"cats/{name}", b"x")
    put(root, name, b"x")
    assert len(scan(root).files) == 4


def test_links_to_files_are_read_inside_the_root_only(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    outside = put(tmp_path, "elsewhere/1.jpg", b"x")
    (root / "cats/inside.jpg").symlink_to(root / "dogs/1.jpg")
    (root / "cats/outside.jpg").symlink_to(outside)
    (root / "cats/broken.jpg").symlink_to("nowhere.jpg")
    (root / "cats/circle.jpg").symlink_to("circle.jpg")
    (root / "cats/again").symlink_to(root)
    layout = scan(root)
    assert File("cats/inside.jpg", "cats") in layout.files and len(layout.files) == 5
    assert refusals(layout) == {
        "cats/outside.jpg": "link out of the folder of images: not followed",
        "cats/broken.jpg": "broken link",
        "cats/circle.jpg": "broken link: it runs in a circle",
        "cats/again": "link to a folder: not followed",
    }


def test_a_link_beside_the_class_folders_is_refused_and_told(root: pathlib.Path) -> None:
    (root / "birds").symlink_to(root / "cats")
    layout = scan(root)
    assert layout.classes == ("cats", "dogs")
    assert "birds: link to a folder: not followed" in layout.warnings[0]


def test_pipes_and_sockets_are_never_opened(root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "cats/pipe.jpg")
    monkeypatch.chdir(root / "dogs")  # a socket's path may have about 100 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.jpg")
        layout = scan(root)
        assert len(fingerprint(layout)) == 64  # would hang on the pipe
    assert refusals(layout) == {
        "cats/pipe.jpg": "not a file: a named pipe",
        "dogs/socket.jpg": "not a file: a socket",
    }


def test_a_file_that_turns_into_a_pipe_after_the_scan_is_not_waited_for(root: pathlib.Path) -> None:
    layout = scan(root)
    (root / "cats/1.jpg").unlink()
    os.mkfifo(root / "cats/1.jpg")
    assert len(fingerprint(layout)) == 64


def test_odd_names_are_refused_with_an_escaped_name(root: pathlib.Path) -> None:
    put(root, "cats/new\nline.jpg", b"x")
    put(root, "cats/sub\nfolder/1.jpg", b"x")
    (pathlib.Path(os.fsdecode(os.fsencode(root) + b"/cats/latin-\xfc.jpg"))).write_bytes(b"x")
    layout = scan(root)
    assert set(refusals(layout)) == {r"cats/new\nline.jpg", r"cats/sub\nfolder/1.jpg", r"cats/latin-\xfc.jpg"}
    assert set(refusals(layout).values()) == {"name is not printable UTF-8 text"}


def test_what_is_left_out_beside_the_classes_is_told(root: pathlib.Path) -> None:
    put(root, "stray.PNG", b"x")
    put(root, "README.txt", b"x")
    (root / "birds").mkdir()
    for name in ("Cats", "cats "):
        put(root, f"{name}/1.jpg", b"1")
        put(root, f"{name}/2.jpg", b"2")
    layout = scan(root)
    assert layout.stray == ("stray.PNG",)
    assert layout.empty_classes == ("birds",)
    assert layout.lookalikes == (("Cats", "cats", "cats "),)
    assert "stray.PNG" in layout.warnings[0]
    assert "'birds'" in layout.warnings[1]
    assert "'Cats', 'cats', 'cats '" in layout.warnings[2]


def make_split(root: pathlib.Path, *splits: str) -> None:
    for split in splits:
        for label in ("cats", "dogs"):
            put(root, f"{split}/{label}/1.jpg", b"x")
            put(root, f"{split}/{label}/2.jpg", b"x")


def make_nothing(root: pathlib.Path) -> None:
    pass


def make_file(root: pathlib.Path) -> None:
    root.write_bytes(b"x")


def make_empty(root: pathlib.Path) -> None:
    root.mkdir()


def make_flat(root: pathlib.Path) -> None:
    put(root, "1.jpg", b"x")
    put(root, "2.jpg", b"x")


def make_folders_only(root: pathlib.Path) -> None:
    (root / "cats").mkdir(parents=True)
    (root / "dogs").mkdir()


def make_one_class(root: pathlib.Path) -> None:
    for name in "123":
        put(root, f"cats/{name}.jpg", b"x")
    (root / "dogs").mkdir()


def make_classes_a_level_too_deep(root: pathlib.Path) -> None:
    for label in ("cats", "dogs"):
        put(root, f"animals/{label}/1.jpg", b"x")


def make_single_image(root: pathlib.Path) -> None:
    make_one_class(root)
    put(root, "dogs/1.jpg", b"x")


def make_class_with_newline(root: pathlib.Path) -> None:
    make_one_class(root)
    (root / "big\ndogs").mkdir()


def make_split_with_nothing_to_train_on(root: pathlib.Path) -> None:
    make_split(root, "val", "test")


def make_split_with_a_one_sided_class(root: pathlib.Path) -> None:
    make_split(root, "train", "val")
    put(root, "val/birds/1.jpg", b"x")
    put(root, "val/birds/2.jpg", b"x")


def make_flat_split(root: pathlib.Path) -> None:
    make_split(root, "train")
    for split in ("train", "val"):
        put(root, f"{split}/1.jpg", b"x")
    for path in (root / "train").glob("*/*.jpg"):
        path.unlink()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (make_nothing, ("no such folder", "give the folder that holds one folder of images per class")),
        (make_file, ("is not a folder", "give the folder")),
        (make_empty, ("holds no class folders", "put the images in one folder per class")),
        (make_flat, ("is flat: 2 images and no class folders", "put the images in one folder per class")),
        (make_folders_only, ("its 2 class folders hold no files", "put the images in one folder per class")),
        (make_one_class, ("one class only, 'cats' (3 files)", "at least two classes with images")),
        (
            make_classes_a_level_too_deep,
            ("one class only, 'animals'", "the folders in it (cats, dogs) are the classes"),
        ),
        (make_single_image, ("class 'dogs' has a single image;", "at least 2, so that one can train")),
        (make_class_with_newline, (r"'big\ndogs' has a newline in it", "rename the folder")),
        (make_split_with_nothing_to_train_on, ("has nothing to train on: its splits are test, val", "called train")),
        (make_split_with_a_one_sided_class, ("class 'birds' is in eval only", "add them or remove the class")),
        (make_flat_split, ("its 2 class folders hold no files", "put the images in one folder per class")),
    ],
)
def test_a_wrong_folder_is_named_with_what_was_found_and_what_to_do(
    tmp_path: pathlib.Path, make: Callable[[pathlib.Path], None], told: tuple[str, ...]
) -> None:
    root = tmp_path / "photos"
    make(root)
    with pytest.raises(UserError) as error:
        scan(root)
    for words in (str(root), *told):
        assert words in str(error.value)


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
    make_split(tmp_path, *folders)
    put(tmp_path, f"{folders[0]}/cats/deep/er.jpg", b"x")
    layout = scan(tmp_path)
    assert layout.classes == ("cats", "dogs") and layout.warnings == ()
    assert splits_of(layout) == dict(zip(folders, splits, strict=True))
    assert File(f"{folders[0]}/cats/deep/er.jpg", "cats", splits[0]) in layout.files
    assert len(layout.files) == 4 * len(folders) + 1


@pytest.mark.parametrize("empty", [False, True])
def test_a_split_without_a_counterpart_is_split_by_content(tmp_path: pathlib.Path, empty: bool) -> None:
    make_split(tmp_path, "train")
    if empty:
        (tmp_path / "val/cats").mkdir(parents=True)
    layout = scan(tmp_path)
    assert {file.split for file in layout.files} == {""} and layout.classes == ("cats", "dogs")
    assert "the split train alone, so data.eval_fraction of its images" in layout.warnings[-1]
    assert ("the folder 'val' is empty" in layout.warnings) == empty


def test_a_split_of_unlabelled_images_is_left_out_and_told(tmp_path: pathlib.Path) -> None:
    make_split(tmp_path, "train", "val")
    put(tmp_path, "test/1.jpg", b"x")
    put(tmp_path, "train/labels.txt", b"x")
    layout = scan(tmp_path)
    assert len(layout.files) == 8 and layout.stray == ("test/1.jpg",)


@pytest.mark.parametrize("beside", ["cats/1.jpg", "boats/1.jpg"])
def test_split_names_beside_others_are_classes(tmp_path: pathlib.Path, beside: str) -> None:
    make_split(tmp_path, "train")
    put(tmp_path, beside, b"x")
    put(tmp_path, f"{beside}.jpg", b"x")
    layout = scan(tmp_path)
    assert layout.classes == tuple(sorted(("train", beside.split("/")[0])))
    assert {file.split for file in layout.files} == {""}


def test_split_names_with_images_directly_in_them_are_classes(tmp_path: pathlib.Path) -> None:
    for path in ("train/1.jpg", "train/2.jpg", "test/1.jpg", "test/2.jpg"):
        put(tmp_path, path, b"x")
    assert scan(tmp_path).classes == ("test", "train")


# --- spans ------------------------------------------------------------------------------------------------------------


def make_spans(root: pathlib.Path, *spans: str) -> None:
    for span in spans:
        for label in ("cats", "dogs"):
            put(root, f"{span}/{label}/1.jpg", b"x")
            put(root, f"{span}/{label}/2.jpg", b"x")


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
    make_split(tmp_path / "span-2", "train", "val")
    put(tmp_path, "span-3/birds/1.jpg", b"x")
    put(tmp_path, "span-3/birds/2.jpg", b"x")
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


# --- several folders --------------------------------------------------------------------------------------------------


def test_several_folders_add_up_under_names_of_their_own(tmp_path: pathlib.Path) -> None:
    for place in ("a/photos", "b/photos", "c/more"):
        make_split(tmp_path / place, "train", "val") if place.startswith("c") else make_spans(tmp_path, place)
    put(tmp_path, "b/photos/birds/1.jpg", b"x")
    put(tmp_path, "b/photos/birds/2.jpg", b"x")
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
        put(tmp_path, f"{place}/cats/1.jpg", b"x")
        put(tmp_path, f"{place}/dogs/1.jpg", b"x")
    assert scan([tmp_path / "a", tmp_path / "b"]).classes == ("cats", "dogs")


def test_folders_given_twice_or_inside_each_other_are_refused(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to(root)
    with pytest.raises(UserError, match="photos is given twice, so that its images would count twice"):
        scan([root, tmp_path / "link"])
    with pytest.raises(UserError, match=r"photos/cats lies inside .*photos, so that its images would count twice"):
        scan([root, root / "cats"])
    with pytest.raises(UserError, match="no folder of images is given"):
        scan([])


def test_each_of_several_folders_must_hold_images(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="other holds no class folders"):
        scan([root, tmp_path / "other"])


# --- a table ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def heap(tmp_path: pathlib.Path) -> pathlib.Path:
    """Images in no order at all."""
    for path in ("1.jpg", "2.jpg", "x/3.jpg", "x/y/4.jpg", ".hidden.jpg"):
        put(tmp_path / "heap", path, b"\xff\xd8\xff" + path.encode())
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
    outside = put(heap.parent, "outside/9.jpg", b"x")
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
    with pytest.raises(UserError, match=r"none of the 2 files that it names can be read, first: heap/1.jpg \(no such"):
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
    with pytest.raises(UserError, match=f"data.manifest is labels.csv, which goes with one folder .*{other}"):
        scan(heap if other == "spans" else [heap / "x", heap.parent / "other"], settings)


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_class_folder_without_an_image_is_left_out_and_its_files_still_count(root: pathlib.Path) -> None:
    put(root, "notes/read me.txt", b"hello")
    layout = scan(root)
    assert layout.classes == ("cats", "dogs") and layout.empty_classes == ("notes",)
    assert File("notes/read me.txt", "notes") in layout.files
    assert layout.warnings == ("class folders without images are left out: 'notes'",)


def test_images_need_not_be_called_so(root: pathlib.Path) -> None:
    for name in ("1", "2.dat"):
        put(root, f"birds/{name}", b"\x89PNG\r\n\x1a\n")
    assert scan(root).classes == ("birds", "cats", "dogs")


def test_an_unreadable_folder_is_named(root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may run as root, whom no permission stops.
    really = os.scandir

    def scandir(folder: str) -> object:
        if str(folder).endswith("dogs"):
            raise PermissionError(13, "Permission denied", folder)
        return really(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(
        UserError, match=r"dogs: the folder can't be read \(Permission denied\); make it readable or remove it"
    ):
        scan(root)


def test_a_folder_without_any_image_is_refused_before_the_heavy_imports(root: pathlib.Path) -> None:
    check_decodable(scan(root))
    for path in FOUR:
        (root / path).write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"none of the 4 files under .* first: cats/1.jpg \(starts with b'<html>"):
        check_decodable(scan(root))


def test_the_fingerprint_sees_content_whatever_size_and_time_say(root: pathlib.Path) -> None:
    file = root / "cats/1.jpg"
    before, stat = fingerprint(scan(root)), file.stat()
    file.write_bytes(file.read_bytes()[::-1])
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_size == stat.st_size
    assert fingerprint(scan(root)) != before


def test_the_fingerprint_does_not_depend_on_place_times_or_threads(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    before = fingerprint(scan(root), threads=1)
    os.utime(root / "cats/1.jpg", (1, 1))
    assert fingerprint(scan(root), threads=7) == before
    root.rename(tmp_path / "moved")
    assert fingerprint(scan(tmp_path / "moved")) == before


@pytest.mark.parametrize("change", ["add", "remove", "rename", "break"])
def test_the_fingerprint_changes_with_the_set_of_files(root: pathlib.Path, change: str) -> None:
    put(root, "cats/3.jpg", b"3")
    layout = scan(root)
    before = fingerprint(layout)
    if change == "add":
        put(root, "cats/4.jpg", b"3")
    elif change == "rename":
        (root / "cats/3.jpg").rename(root / "cats/5.jpg")
    else:
        (root / "cats/3.jpg").unlink()
    # "break": the file vanishes between scan and fingerprint, and the hash must say so rather than fail.
    assert fingerprint(layout if change == "break" else scan(root)) != before


def test_scanning_needs_no_heavy_import(tmp_path: pathlib.Path) -> None:
    code = "import sys, components.image_example_gen.layouts; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"tensorflow", "numpy", "PIL", "apache_beam", "tfx"}


@pytest.mark.parametrize("what", ["label", "split", "group"])
def test_the_fingerprint_changes_with_what_a_table_says(heap: pathlib.Path, what: str) -> None:
    lines = ["path,label,split,group", "1.jpg,cat,,", "2.jpg,cat,,", "x/3.jpg,dog,,", "x/y/4.jpg,dog,,"]
    before = fingerprint(by_table(heap, *lines))
    lines[2] = {"label": "2.jpg,dog,,", "split": "2.jpg,cat,val,", "group": "2.jpg,cat,,sam"}[what]
    if what == "label":
        lines.append(".hidden.jpg,cat,,")
        before = fingerprint(by_table(heap, *(line.replace("2.jpg,dog", "2.jpg,cat") for line in lines)))
    assert fingerprint(by_table(heap, *lines)) != before


@pytest.mark.parametrize("names", [("train", "val", "extra"), ("span-1", "span-2", "cats")])
def test_folders_called_like_splits_or_spans_among_others_are_classes_and_that_is_said(
    tmp_path: pathlib.Path, names: tuple[str, ...]
) -> None:
    for name in names:
        for number in range(2):
            put(tmp_path, f"{name}/a/{number}.jpg", b"")
    layout = scan(tmp_path)
    assert layout.classes == tuple(sorted(names))
    (warning,) = (text for text in layout.warnings if "taken for classes" in text)
    assert f"{names[0]!r}, {names[1]!r}" in warning and repr(names[2]) in warning


def test_where_all_is_refused_the_message_says_why(tmp_path: pathlib.Path) -> None:
    photo = put(tmp_path, "elsewhere/1.jpg", b"")
    for label in ("cats", "dogs"):
        (tmp_path / "linked" / label).mkdir(parents=True)
        (tmp_path / "linked" / label / "1.jpg").symlink_to(photo)
    with pytest.raises(UserError, match=r"hold no files that can be used \(2 are left out, first: cats/1.jpg: l"):
        scan(tmp_path / "linked")
