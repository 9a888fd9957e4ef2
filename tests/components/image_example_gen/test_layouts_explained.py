"""What a scan says of folders that a user may have meant otherwise, and of what was left out: the first cause."""

import os
import pathlib

import pytest

from graftline.components.image_example_gen.layouts import Layout
from graftline.components.image_example_gen.scan import scan
from graftline.components.image_example_gen.settings import IngestSettings
from graftline.errors import UserError
from graftline.serving.images import formats
from tests.folders import write_file, write_stubs


def draw(root: pathlib.Path, *folders: str, count: int = 2) -> pathlib.Path:
    """Write files that begin as images do into each folder, and return `root`."""
    return write_stubs(root, [f"{folder}/{number}.jpg" for folder in folders for number in range(count)])


def refusal(*arguments: object) -> str:
    with pytest.raises(UserError) as caught:
        scan(*arguments)
    return str(caught.value)


def by_table(root: pathlib.Path, *lines: str) -> Layout:
    table = root.parent / "labels.csv"
    table.write_text("\n".join(["path,label", *lines]))
    return scan(root, IngestSettings(manifest=str(table)))


# --- the cause of a refusal -------------------------------------------------------------------------------------------


def test_a_link_that_was_refused_is_named_where_one_class_is_left(tmp_path: pathlib.Path) -> None:
    root = draw(tmp_path / "photos", "ants")
    (draw(tmp_path, "elsewhere") / "elsewhere").rename(tmp_path / "bees")
    (root / "bees").symlink_to(tmp_path / "bees")
    assert refusal(root).endswith(
        "a classifier needs at least two classes with images; bees is left out (link to a folder: not followed; move "
        "or copy the folder)"
    )


def test_links_of_which_a_class_consists_are_named(tmp_path: pathlib.Path) -> None:
    root = draw(tmp_path / "photos", "ants")
    for number in range(3):
        photo = write_file(tmp_path, f"elsewhere/{number}.jpg", b"\xff\xd8\xff")
        (root / "bees").mkdir(exist_ok=True)
        (root / "bees" / f"{number}.jpg").symlink_to(photo)
    assert "; bees/0.jpg is left out (link out of the folder of images: not followed) and 2 more" in refusal(root)
    write_file(root, "bees/7.jpg", b"\xff\xd8\xff")
    assert "class 'bees' has a single image" in refusal(root)
    assert refusal(root).endswith(
        "; bees/0.jpg is left out (link out of the folder of images: not followed) and 2 more"
    )


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("bees/notes.txt", "; the folder 'bees' holds no images"),
        (".bees/1.jpg", "; '.bees' is left out because of its name"),
        ("1.jpg", "; 1 image lies beside the class folders"),
    ],
)
def test_another_cause_is_named_as_well(tmp_path: pathlib.Path, path: str, cause: str) -> None:
    root = draw(tmp_path / "photos", "ants")
    write_file(root, path, b"text")
    assert refusal(root).endswith(cause)


def test_folders_that_are_left_out_are_named_where_no_other_is_there(tmp_path: pathlib.Path) -> None:
    told = "holds no class folders besides '.ants', which is left out because of its name"
    assert told in refusal(draw(tmp_path / "photos", ".ants", ".bees"))


def test_the_first_missing_row_of_a_table_is_named_with_the_file_that_was_meant(tmp_path: pathlib.Path) -> None:
    root = draw(tmp_path / "photos", "ant", "bee")
    rows = ["bee/0.jpg,bee", "bee/1.jpg,bee", "ANT/0.jpg,ant", "ANT/1.jpg,ant"]
    first = "first in line 4: ANT/0.jpg (no such file; did you mean 'ant/0.jpg'?)"
    told = f"2 of the 4 files of {tmp_path}/labels.csv are left out, {first}"
    with pytest.raises(UserError) as caught:
        by_table(root, *rows)
    assert str(caught.value).endswith(f"; {told}")
    layout = by_table(root, *rows, "ant/0.jpg,ant", "ant/1.jpg,ant")
    assert layout.warnings == (told.replace("2 of the 4", "2 of the 6"),)
    with pytest.raises(
        UserError, match=r"none of its 2 files can be read, first in line 2: ANT/0.jpg \(no such file; did"
    ):
        by_table(root, "ANT/0.jpg,ant", "Bee/0.jpg,bee")


def test_a_name_in_another_unicode_form_is_found(tmp_path: pathlib.Path) -> None:
    root = draw(tmp_path / "photos", "cafe\u0301", "tea")
    layout = by_table(
        root, "tea/0.jpg,a", "tea/1.jpg,a", "cafe\u0301/0.jpg,b", "cafe\u0301/1.jpg,b", "caf\u00e9/0.jpg,b"
    )
    assert layout.warnings[0].endswith("(no such file; did you mean 'cafe\u0301/0.jpg'?)")


# --- what file systems put there --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *(
            "lost+found",
            ".Trash-1000",
            "$RECYCLE.BIN",
            "System Volume Information",
            ".snapshot",
            ".snapshots",
            "@eaDir",
        ),
        *(".ipynb_checkpoints", "__MACOSX", ".git", ".dvc", "..2026_11_30_21_14_39.123", "#recycle", "found.000"),
    ],
)
def test_folders_of_file_systems_and_tools_are_left_out_unopened(
    tmp_path: pathlib.Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = draw(tmp_path / "photos", "cats", "dogs", f"cats/{name}", name)
    really = os.scandir

    def scandir(folder: str) -> object:  # the tests may run as root, whom no permission stops
        if os.path.basename(folder) == name:
            raise PermissionError(13, "Permission denied", folder)
        return really(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    layout = scan(root)
    assert layout.classes == ("cats", "dogs")
    assert len(layout.files) == 4
    assert layout.warnings == ()


def test_folders_left_out_with_images_in_them_are_said_in_one_note(tmp_path: pathlib.Path) -> None:
    root = draw(tmp_path / "photos", "cats", "dogs", "cats/@eaDir", "dogs/@eaDir", ".cache", ".old/a/b", ".empty")
    for file in (root / ".empty").iterdir():
        file.unlink()
    assert scan(root).warnings == (
        "these folders hold images and are left out because of their names: '.cache', '.old', 'cats/@eaDir' and 1 more",
    )


def test_the_files_of_a_kubernetes_volume_are_read_through_their_links(tmp_path: pathlib.Path) -> None:
    root = draw(tmp_path / "photos", "cats", "..2026_11_30/dogs")
    (root / "..data").symlink_to("..2026_11_30")
    (root / "dogs").mkdir()
    for number in range(2):
        (root / "dogs" / f"{number}.jpg").symlink_to(f"../..data/dogs/{number}.jpg")
    layout = scan(root)
    assert (layout.classes, layout.warnings) == (("cats", "dogs"), ())


def test_files_that_tools_put_beside_images_are_none() -> None:
    for name in (".DS_Store", "._1.jpg", "Thumbs.db", "desktop.ini", "Desktop.ini", "..data"):
        assert formats.is_left_out(name), name
    for name in ("recycle", "snapshot", "found", "lost", "git"):
        assert not formats.is_left_out(name), name


# --- names that look alike --------------------------------------------------------------------------------------------


def test_classes_that_look_alike_are_told_with_what_to_do(tmp_path: pathlib.Path) -> None:
    root = draw(tmp_path / "photos", "caf\u00e9", "cafe\u0301", "tea")
    (warning,) = scan(root).warnings
    assert warning == (
        "these class names look alike and are separate classes: 'cafe\u0301' (cafe\\u0301), 'caf\u00e9' (caf\\xe9); if "
        "they are one class, give their folders, or their labels in the manifest, one name"
    )


# --- layouts that are half recognised ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [("train", "test"), ("train", "val", "test"), ("training", "holdout"), ("trn", "tst")]
)
def test_splits_below_the_classes_are_told(tmp_path: pathlib.Path, names: tuple[str, ...]) -> None:
    root = draw(tmp_path / "photos", *(f"{label}/{name}" for label in ("cat", "dog") for name in names))
    layout = scan(root)
    assert layout.classes == ("cat", "dog")
    (warning,) = layout.warnings
    assert "lie below the classes and are not read as splits" in warning
    assert f"'cat/{sorted(names)[0]}'" in warning
    assert "data.manifest" in warning


@pytest.mark.parametrize(
    "names",
    [
        ("train", "holdout"),
        ("training_set", "test_set"),
        ("train2017", "val2017"),
        ("treino", "teste"),
        ("训练", "测试"),
    ],
)
def test_splits_of_unknown_names_are_told(tmp_path: pathlib.Path, names: tuple[str, ...]) -> None:
    root = draw(tmp_path / "photos", *(f"{name}/{label}" for label in ("cat", "dog") for name in names))
    layout = scan(root)
    assert layout.classes == tuple(sorted(names))
    (warning,) = layout.warnings
    assert "used as" in warning
    assert "train, val" in warning


def test_a_split_beside_class_folders_is_told(tmp_path: pathlib.Path) -> None:
    root = draw(tmp_path / "photos", "train/cat", "train/dog", "cat", "dog")
    (warning,) = scan(root).warnings
    assert warning.startswith(
        "the folder 'train' has a name of splits, but is used as a class because of the folder 'cat'"
    )


@pytest.mark.parametrize(
    "folders",
    [
        ("train", "car", "boat"),  # a class of vehicles
        ("roses/2023", "roses/2024", "tulips/2023", "tulips/2024"),
        ("valley/a", "valley/b", "testudo/a", "testudo/b", "trainer/a"),
        ("cat/test", "dog"),
    ],
)
def test_layouts_that_are_clear_are_not_doubted(tmp_path: pathlib.Path, folders: tuple[str, ...]) -> None:
    assert scan(draw(tmp_path / "photos", *folders)).warnings == ()


# --- a class that one split lacks -------------------------------------------------------------------------------------


def test_a_class_that_the_test_split_lacks_is_named(tmp_path: pathlib.Path) -> None:
    root = draw(
        tmp_path / "photos", *(f"{split}/{label}" for split in ("train", "val") for label in "abc"), "test/a", "test/c"
    )
    layout = scan(root)
    assert layout.classes == ("a", "b", "c")
    assert layout.warnings == ("the split test has no images of 'b': the model is not judged on them",)


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (("train/a", "train/b", "train/c", "val/a", "val/c"), "class 'b' has images only in train"),
        (("train/a", "train/c", "val/a", "val/b", "val/c"), "class 'b' has images only in eval"),
        (("train/a", "train/c", "val/a", "val/c", "test/b", "test/a"), "class 'b' has images only in test"),
    ],
)
def test_a_class_that_train_or_eval_lacks_is_refused_by_name(
    tmp_path: pathlib.Path, folders: tuple[str, ...], told: str
) -> None:
    assert told in refusal(draw(tmp_path / "photos", *folders))
