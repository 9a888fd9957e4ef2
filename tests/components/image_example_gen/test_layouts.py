"""Tests of `scan`, `fingerprint` and `check_decodable` with good and bad folders."""

import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from graftline.components.image_example_gen.fingerprint import fingerprint
from graftline.components.image_example_gen.layouts import File
from graftline.components.image_example_gen.scan import check_decodable, scan
from graftline.errors import UserError
from graftline.serving.images import formats
from tests.folders import FOUR, refusals, write_file, write_splits


def test_classes_are_the_sorted_folder_names_and_files_are_sorted_at_any_depth(root: pathlib.Path) -> None:
    write_file(root, "cats/holiday/2024/IMG 1 ü.JPG", b"x")
    layout = scan(root)
    assert layout.classes == ("cats", "dogs")
    assert layout.files == tuple(sorted(File(p, p.split("/")[0]) for p in (*FOUR, "cats/holiday/2024/IMG 1 ü.JPG")))
    assert layout.refused == () and layout.warnings == ()


def test_a_trailing_slash_or_a_linked_root_changes_nothing(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert scan(f"{root}/") == scan(tmp_path / "link") == scan(root)


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", "._1.jpg", "__MACOSX/1.jpg", ".git/1.jpg"])
def test_clutter_of_file_managers_is_no_data(root: pathlib.Path, name: str) -> None:
    write_file(root, f"cats/{name}", b"x")
    write_file(root, name, b"x")
    assert len(scan(root).files) == 4


def test_links_to_files_are_read_inside_the_root_only(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    outside = write_file(tmp_path, "elsewhere/1.jpg", b"x")
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
        "cats/circle.jpg": "broken link: it leads back to itself",
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
    write_file(root, "cats/new\nline.jpg", b"x")
    write_file(root, "cats/sub\nfolder/1.jpg", b"x")
    (pathlib.Path(os.fsdecode(os.fsencode(root) + b"/cats/latin-\xfc.jpg"))).write_bytes(b"x")
    layout = scan(root)
    assert set(refusals(layout)) == {r"cats/new\nline.jpg", r"cats/sub\nfolder/1.jpg", r"cats/latin-\xfc.jpg"}
    assert set(refusals(layout).values()) == {"name is not printable UTF-8 text"}


def test_what_is_left_out_beside_the_classes_is_told(root: pathlib.Path) -> None:
    write_file(root, "stray.PNG", b"x")
    write_file(root, "README.txt", b"x")
    (root / "birds").mkdir()
    for name in ("Cats", "cats "):
        write_file(root, f"{name}/1.jpg", b"1")
        write_file(root, f"{name}/2.jpg", b"2")
    layout = scan(root)
    assert layout.stray == ("stray.PNG",)
    assert layout.empty_classes == ("birds",)
    assert layout.lookalikes == (("Cats", "cats", "cats "),)
    assert "stray.PNG" in layout.warnings[0]
    assert "'birds'" in layout.warnings[1]
    assert "'Cats', 'cats', 'cats '" in layout.warnings[2]


def make_nothing(root: pathlib.Path) -> None:
    pass


def make_file(root: pathlib.Path) -> None:
    root.write_bytes(b"x")


def make_empty(root: pathlib.Path) -> None:
    root.mkdir()


def make_flat(root: pathlib.Path) -> None:
    write_file(root, "1.jpg", b"x")
    write_file(root, "2.jpg", b"x")


def make_folders_only(root: pathlib.Path) -> None:
    (root / "cats").mkdir(parents=True)
    (root / "dogs").mkdir()


def make_one_class(root: pathlib.Path) -> None:
    for name in "123":
        write_file(root, f"cats/{name}.jpg", b"x")
    (root / "dogs").mkdir()


def make_classes_a_level_too_deep(root: pathlib.Path) -> None:
    for label in ("cats", "dogs"):
        write_file(root, f"animals/{label}/1.jpg", b"x")


def make_single_image(root: pathlib.Path) -> None:
    make_one_class(root)
    write_file(root, "dogs/1.jpg", b"x")


def make_class_with_newline(root: pathlib.Path) -> None:
    make_one_class(root)
    (root / "big\ndogs").mkdir()


def make_split_with_nothing_to_train_on(root: pathlib.Path) -> None:
    write_splits(root, "val", "test")


def make_split_with_a_one_sided_class(root: pathlib.Path) -> None:
    write_splits(root, "train", "val")
    write_file(root, "val/birds/1.jpg", b"x")
    write_file(root, "val/birds/2.jpg", b"x")


def make_flat_split(root: pathlib.Path) -> None:
    write_splits(root, "train")
    for split in ("train", "val"):
        write_file(root, f"{split}/1.jpg", b"x")
    for path in (root / "train").glob("*/*.jpg"):
        path.unlink()


@pytest.mark.parametrize(
    ("make", "parts"),
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
        (make_single_image, ("class 'dogs' has a single image;", "at least 2 images, one to train on")),
        (make_class_with_newline, (r"'big\ndogs' contains a newline", "rename the folder")),
        (make_split_with_nothing_to_train_on, ("has no images to train on: its splits are test, val", "called train")),
        (
            make_split_with_a_one_sided_class,
            ("class 'birds' has images only in eval", "add images or remove the class"),
        ),
        (make_flat_split, ("its 2 class folders hold no files", "put the images in one folder per class")),
    ],
)
def test_a_wrong_folder_is_named_with_what_was_found_and_what_to_do(
    tmp_path: pathlib.Path, make: Callable[[pathlib.Path], None], parts: tuple[str, ...]
) -> None:
    root = tmp_path / "photos"
    make(root)
    with pytest.raises(UserError) as error:
        scan(root)
    for words in (str(root), *parts):
        assert words in str(error.value)


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_class_folder_without_an_image_is_left_out_and_its_files_still_count(root: pathlib.Path) -> None:
    write_file(root, "notes/read me.txt", b"hello")
    layout = scan(root)
    assert layout.classes == ("cats", "dogs") and layout.empty_classes == ("notes",)
    assert File("notes/read me.txt", "notes") in layout.files
    assert layout.warnings == ("these class folders hold no images and will not be used: 'notes'",)


def test_images_need_not_be_called_so(root: pathlib.Path) -> None:
    for name in ("1", "2.dat"):
        write_file(root, f"birds/{name}", b"\x89PNG\r\n\x1a\n")
    assert scan(root).classes == ("birds", "cats", "dogs")


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
def test_names_of_images_are_those_that_predict_knows(root: pathlib.Path, suffix: str) -> None:
    write_file(root, f"stray{suffix.upper()}", b"x")
    for number in range(2):
        write_file(root, f"birds/{number}{suffix}", b"x")
    layout = scan(root)
    assert "birds" in layout.classes and layout.stray == (f"stray{suffix.upper()}",)


def test_an_unreadable_folder_is_named(root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may run as root, whom no permission stops.
    really = os.scandir

    def scandir(folder: str) -> object:
        if str(folder).endswith("dogs"):
            raise PermissionError(13, "Permission denied", folder)
        return really(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(
        UserError, match=r"dogs: the folder cannot be read \(Permission denied\); make it readable or remove it"
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
    write_file(root, "cats/3.jpg", b"3")
    layout = scan(root)
    before = fingerprint(layout)
    if change == "add":
        write_file(root, "cats/4.jpg", b"3")
    elif change == "rename":
        (root / "cats/3.jpg").rename(root / "cats/5.jpg")
    else:
        (root / "cats/3.jpg").unlink()
    # "break": the file vanishes between scan and fingerprint, and the hash must say so rather than fail.
    assert fingerprint(layout if change == "break" else scan(root)) != before


def test_scanning_needs_no_heavy_import(tmp_path: pathlib.Path) -> None:
    code = "import sys, graftline.components.image_example_gen.scan; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"tensorflow", "numpy", "PIL", "apache_beam", "tfx"}


def test_where_all_is_refused_the_message_says_why(tmp_path: pathlib.Path) -> None:
    photo = write_file(tmp_path, "elsewhere/1.jpg", b"")
    for label in ("cats", "dogs"):
        (tmp_path / "linked" / label).mkdir(parents=True)
        (tmp_path / "linked" / label / "1.jpg").symlink_to(photo)
    with pytest.raises(UserError, match=r"hold no files that can be used \(2 are left out, first: cats/1.jpg: l"):
        scan(tmp_path / "linked")
