"""Bulk classification by Beam's direct runner, with real files: the rows of `graftline predict`."""

import csv
import json
import pathlib
import re
import subprocess
import sys

import pytest

from graftline.errors import UserError
from graftline.pipeline import bulk, predictions
from graftline.serving.predict import find_images, predict_with_model
from graftline.serving.server import ModelServer
from tests.images import image_of


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder of good and bad files and clutter, more than one batch."""
    folder = tmp_path_factory.mktemp("bulk") / "photos [1]"
    (folder / "deep" / ".hidden").mkdir(parents=True)
    for number in range(40):
        colour = ("red", "green", "blue")[number % 3]
        kind = ("PNG", "JPEG", "WEBP")[number % 3]
        (folder / f"{number}.{kind.lower()}").write_bytes(image_of(colour, fmt=kind))
    (folder / "deep" / "no-suffix").write_bytes(image_of("green"))
    (folder / "deep" / "bad.png").write_bytes(b"no image")
    (folder / "deep" / "new\nline.png").write_bytes(image_of("red"))
    for clutter in ("Thumbs.db", "notes.txt", "deep/.hidden/a.png", "._0.png"):
        (folder / clutter).write_bytes(b"clutter")
    return folder


def lines_of(output: pathlib.Path) -> list[str]:
    return [line for shard in sorted(output.parent.glob(f"{output.name}-*")) for line in shard.read_text().splitlines()]


@pytest.fixture(scope="module")
def expected(workspace: pathlib.Path, photos: pathlib.Path) -> list[str]:
    rows = predict_with_model(str(workspace), find_images([str(photos)]), "colours")
    return sorted(map(predictions.csv_row, rows))


def test_the_rows_are_those_of_predict(
    workspace: pathlib.Path, photos: pathlib.Path, tmp_path: pathlib.Path, expected: list[str]
) -> None:
    counts = bulk.run(
        [str(photos)], bulk.find_target(str(workspace), None, "colours"), str(tmp_path / "rows"), shards=3
    )
    assert counts == (42, 1)
    shards = sorted(path.name for path in tmp_path.iterdir())
    assert shards == [f"rows-0000{number}-of-00003.csv" for number in range(3)]
    headers = [(tmp_path / name).read_text().splitlines()[0] for name in shards]
    assert headers == [",".join(predictions.CSV_COLUMNS)] * 3
    assert sorted(line for line in lines_of(tmp_path / "rows") if line not in headers) == expected


def test_a_server_says_the_same(
    server: ModelServer, photos: pathlib.Path, tmp_path: pathlib.Path, expected: list[str]
) -> None:
    target = bulk.find_target(None, f"127.0.0.1:{server.grpc_port}", "colours")
    counts = bulk.run([str(photos / "deep"), str(photos / "0.png")], target, str(tmp_path / "rows"), "jsonl")
    assert counts == (3, 1)
    rows = {row["path"]: row for row in map(json.loads, lines_of(tmp_path / "rows"))}
    by_path = {row[0]: row for row in csv.reader(expected)}
    assert set(rows) == {
        str(photos / name) for name in ("0.png", "deep/no-suffix", "deep/bad.png", "deep/new\nline.png")
    }
    assert rows[str(photos / "0.png")]["label"] == by_path[str(photos / "0.png")][1] == "red"
    assert rows[str(photos / "deep/bad.png")]["error"] == "not an image: starts with 'no image'"


def test_a_pattern_means_all_that_it_matches(
    workspace: pathlib.Path, photos: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    target = bulk.find_target(str(workspace), None, "colours")
    assert bulk.run([f"{photos.parent}/photos*/*.txt"], target, str(tmp_path / "rows")) == (0, 1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("none.png", "no such file or folder: none.png; name an image, a folder of images or a pattern"),
        ("none/*.png", "no file matches none/*.png; name an image, a folder of images or a pattern"),
        ("nosuch://bucket/x", "nosuch://bucket/x cannot be read: Unable to get filesystem from specified path"),
    ],
)
def test_what_nothing_matches_is_told(tmp_path: pathlib.Path, images: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        bulk.run([images], bulk.ClassifierTarget(directory="unused"), str(tmp_path / "rows"))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("output", ["o[ut]/rows", "gs://bucket/r*ws"])
def test_an_output_that_beam_would_take_for_a_pattern_is_refused(output: str) -> None:
    character = "[" if "[" in output else "*"
    with pytest.raises(
        UserError, match=rf"holds '\{character}', which makes the path a pattern for Beam; give another"
    ):
        predictions.refuse_unwritable(output)


@pytest.mark.parametrize("output", ["file/rows", "/proc/rows"])
def test_a_place_that_cannot_be_written_is_told_before_beam_starts(tmp_path: pathlib.Path, output: str) -> None:
    (tmp_path / "file").touch()
    code = (
        "import sys\n"
        "from graftline.pipeline.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:], prog_name='graftline')\n"
        "finally:\n"
        "    assert 'apache_beam' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, "bulk", "a.png", "--model", "m", "-o", output]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(f"graftline: -o {output} cannot be written: .+; give another prefix", line)


def test_a_place_that_can_be_made_and_a_uri_are_let_pass(tmp_path: pathlib.Path) -> None:
    predictions.refuse_unwritable(str(tmp_path / "new" / "deep" / "rows"))
    predictions.refuse_unwritable("gs://bucket/rows")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_no_classifier_is_told_before_anything_runs(workspace: pathlib.Path) -> None:
    with pytest.raises(UserError, match="is no image classifier that Graftline exported"):
        bulk.find_target(str(workspace), None, "numbers")
