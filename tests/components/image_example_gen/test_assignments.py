"""Tests of the memory of splits: it is kept from run to run and never half written."""

import hashlib
import pathlib

import pytest

from graftline.components.image_example_gen import assignments
from graftline.components.image_example_gen.settings import IngestSettings
from graftline.errors import UserError

SETTINGS = IngestSettings(eval_fraction=0.2, split_seed=7)
A, B, C = (hashlib.sha256(name.encode()).hexdigest() for name in "abc")


def test_nothing_is_known_at_first(tmp_path: pathlib.Path) -> None:
    assert assignments.load(str(tmp_path), SETTINGS) == {}


def test_what_was_saved_is_known_and_added_to_in_the_order_of_coming(tmp_path: pathlib.Path) -> None:
    state = str(tmp_path / "not yet there")
    assignments.save(state, SETTINGS, {B: "train", C: "test"})
    assignments.save(state, SETTINGS, {A: "eval"})
    known = assignments.load(state, SETTINGS)
    assert list(known.items()) == [(B, "train"), (C, "test"), (A, "eval")]
    (file,) = (tmp_path / "not yet there/splits").iterdir()  # nothing is left aside
    assert file.name == "eval-0.2-seed-7.csv"
    assert file.read_text() == f"sha256,split\n{B},train\n{C},test\n{A},eval\n"


def test_a_split_that_the_layout_gives_anew_takes_the_place_of_the_old(tmp_path: pathlib.Path) -> None:
    assignments.save(str(tmp_path), SETTINGS, {A: "train", B: "train"})
    assignments.save(str(tmp_path), SETTINGS, {A: "eval"})
    assert assignments.load(str(tmp_path), SETTINGS) == {A: "eval", B: "train"}


def test_nothing_new_writes_nothing(tmp_path: pathlib.Path) -> None:
    assignments.save(str(tmp_path), SETTINGS, {})
    assert not list(tmp_path.iterdir())
    assignments.save(str(tmp_path), SETTINGS, {A: "train"})
    (file,) = (tmp_path / "splits").iterdir()
    before = file.stat().st_ino
    assignments.save(str(tmp_path), SETTINGS, {A: "train"})
    assert file.stat().st_ino == before


@pytest.mark.parametrize("other", [{"eval_fraction": 0.25}, {"split_seed": 8}, {"eval_fraction": 0.2000001}])
def test_another_fraction_or_seed_is_another_memory(tmp_path: pathlib.Path, other: dict[str, float]) -> None:
    assignments.save(str(tmp_path), SETTINGS, {A: "train"})
    assert assignments.load(str(tmp_path), SETTINGS.model_copy(update=other)) == {}


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ("", 1, "found ''"),
        ("sha256;split\n", 1, "found 'sha256;split'"),
        (f"sha256,split\n{A},train\n{B},traim\n", 3, f"found '{B},traim'"),
        (f"sha256,split\n{A},train\n{B[:40]}", 3, f"found '{B[:40]}'"),
        (f"sha256,split\n\n{A},train\n", 2, "found ''"),
        (f"sha256,split\n{A.upper()},train\n", 2, "found"),
        (f"sha256,split\n{A},train\n{A},eval\n", 3, f"an earlier line puts {A} in train, this line in eval"),
        ("sha256,split\n" + "x" * 5000, 2, f"found '{'x' * 100}...'"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path: pathlib.Path, text: str, line: int, found: str) -> None:
    path = pathlib.Path(assignments.path_of(str(tmp_path), SETTINGS))
    path.parent.mkdir()
    path.write_text(text)
    for use in (
        lambda: assignments.load(str(tmp_path), SETTINGS),
        lambda: assignments.save(str(tmp_path), SETTINGS, {}),
    ):
        with pytest.raises(UserError) as error:
            use()
        assert str(error.value).startswith(f"{path}, line {line}: ")
        assert found in str(error.value)
    assert path.read_text() == text


def test_bytes_that_are_no_text_are_damage_too(tmp_path: pathlib.Path) -> None:
    path = pathlib.Path(assignments.path_of(str(tmp_path), SETTINGS))
    path.parent.mkdir()
    path.write_bytes(b"sha256,split\n\xff\xfe\n")
    with pytest.raises(UserError, match="line 2"):
        assignments.load(str(tmp_path), SETTINGS)


def test_a_file_of_another_system_is_read(tmp_path: pathlib.Path) -> None:
    path = pathlib.Path(assignments.path_of(str(tmp_path), SETTINGS))
    path.parent.mkdir()
    path.write_bytes(f"sha256,split\r\n{A},train\r\n".encode())
    assert assignments.load(str(tmp_path), SETTINGS) == {A: "train"}


def test_a_uri_is_as_good_as_a_folder() -> None:
    """TensorFlow's own file system in memory stands for those of clouds: it goes by the same calls."""
    state = "ram://graftline-test-assignments"
    assignments.save(state, SETTINGS, {A: "train"})
    assignments.save(state, SETTINGS, {B: "eval"})
    assert assignments.load(state, SETTINGS) == {A: "train", B: "eval"}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (b"", {}),
        (b"sha256,sp", {}),
        (b"\0" * 300, {}),
        (f"sha256,split\n{A},train\n{B[:40]}".encode(), {A: "train"}),
        (f"sha256,split\n{A},train\n{B},ev".encode(), {A: "train"}),
        (f"sha256,split\n{A},train\n{B},eval\n".encode() + b"\0" * 77, {A: "train", B: "eval"}),
        (f"sha256,split\n{A},train\n".encode() + b"\xff" * 77, {A: "train"}),
    ],
)
def test_what_a_power_loss_cut_is_mended_with_a_warning(
    tmp_path: pathlib.Path, text: bytes, kept: dict[str, str]
) -> None:
    path = pathlib.Path(assignments.path_of(str(tmp_path), SETTINGS))
    path.parent.mkdir()
    path.write_bytes(text)
    warning = assignments.mend(str(tmp_path), SETTINGS)
    assert f"{path}, the memory of each image's split, was cut off" in warning
    assert f"the splits of {len(kept)} images are known, the others are chosen anew" in warning
    assert assignments.load(str(tmp_path), SETTINGS) == kept
    assert pathlib.Path(f"{path}.damaged").read_bytes() == text
    assert assignments.mend(str(tmp_path), SETTINGS) == ""


@pytest.mark.parametrize("end", ["\n", ""])
def test_a_whole_file_is_not_mended_and_a_hand_s_mistake_neither(tmp_path: pathlib.Path, end: str) -> None:
    assert assignments.mend(str(tmp_path), SETTINGS) == ""
    path = pathlib.Path(assignments.path_of(str(tmp_path), SETTINGS))
    path.parent.mkdir()
    path.write_text(f"sha256,split\n{A},train\n{B},eval{end}")  # some editors write no last line end
    assert assignments.mend(str(tmp_path), SETTINGS) == ""
    path.write_text(f"sha256,split\n{A},traim\n{B},eval\n")
    assert assignments.mend(str(tmp_path), SETTINGS) == ""
    with pytest.raises(UserError, match="line 2"):
        assignments.load(str(tmp_path), SETTINGS)
