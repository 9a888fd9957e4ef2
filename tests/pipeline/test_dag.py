"""What is in TFX's cache keys beside what TFX puts there."""

import pathlib

import pytest

from components.image_example_gen import quarantine
from pipeline import dag


@pytest.mark.parametrize(
    ("reason", "folder", "again"),
    [
        ("truncated JPEG", "photos", False),
        ("unreadable: Permission denied", "photos", False),
        ("unreadable: no connection to the server", "s3://bucket/photos", True),
        ("vanished during the run: No such file or directory", "photos", True),
        ("changed during the run", "photos", True),
        ("decoding took too long: more than 60 s", "photos", True),
        ("decoding took too long: more than 20 s of processor time", "photos", False),
    ],
)
def test_ingest_is_run_again_for_what_may_have_passed(
    tmp_path: pathlib.Path, reason: str, folder: str, again: bool
) -> None:
    (tmp_path / quarantine.CSV_NAME).write_text(f"path,reason,bytes,sha256\na/1.jpg,{reason},1,\n")
    first, second = (dag._again(str(tmp_path), [folder]) for _ in range(2))
    assert (first != second) == again
    assert again or not first


def test_the_first_run_and_a_cluster_know_of_nothing_that_passed(tmp_path: pathlib.Path) -> None:
    assert dag._again(str(tmp_path), ["s3://bucket"]) == dag._again("", ["s3://bucket"]) == ""


def test_a_decoder_that_is_installed_is_part_of_the_key() -> None:
    assert dag._versions("pillow", "no-such-distribution").startswith(" pillow ")
    assert "no-such" not in dag._versions("pillow", "no-such-distribution")
