"""Rows of predictions as text, JSON and CSV, in files, and the progress bar on a terminal."""

import csv
import json
import os
import pathlib
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from graftline.pipeline import predictions
from graftline.serving.client import Prediction
from graftline.serving.server import ModelServer
from tests.images import image_of

CAT = Prediction("a.png", "cat", 0.9, [("cat", 0.9), ("dog", 0.1)])
BAD = Prediction("b.png", None, None, [], "cannot be decoded")
MANY = Prediction("m.png", "0", 0.5, [(str(number), 0.5 / (number + 1)) for number in range(5)])
ODD = Prediction('new\nline\t\x1b[31m,\udcff".png', "a,b", 0.5, [("a,b", 0.5), ("c\nd", 0.25)])


def written(kind: str, *rows: Prediction) -> tuple[str, list[str], tuple[int, int]]:
    out: list[str] = []
    err: list[str] = []
    counts = predictions.write(rows, kind, out.append, err.append)
    return "".join(out), err, counts


def test_text_is_a_line_each_with_failures_apart() -> None:
    assert written("text", CAT, BAD) == ("a.png: cat 0.900  (dog 0.100)\n", ["b.png: cannot be decoded"], (1, 1))


def test_json_is_one_list_on_one_line() -> None:
    out, err, _ = written("json", CAT, BAD)
    assert out.count("\n") == 1 and not err
    assert json.loads(out) == [
        {
            "path": "a.png",
            "label": "cat",
            "score": 0.9,
            "top_k": [{"label": "cat", "score": 0.9}, {"label": "dog", "score": 0.1}],
        },
        {"path": "b.png", "error": "cannot be decoded"},
    ]


def test_json_of_nothing_is_an_empty_list() -> None:
    assert written("json") == ("[]\n", [], (0, 0))


def test_csv_has_a_column_for_each_place_and_the_error() -> None:
    out, err, _ = written("csv", CAT, BAD, MANY)
    rows = list(csv.DictReader(out.splitlines()))
    assert list(rows[0]) == list(predictions.CSV_COLUMNS)
    assert list(rows[0]) == [
        *("path", "label", "score", "label_2", "score_2", "label_3", "score_3"),
        *("label_4", "score_4", "label_5", "score_5", "error"),
    ]
    assert (rows[0]["path"], rows[0]["label"], rows[0]["score"], rows[0]["label_2"]) == ("a.png", "cat", "0.9", "dog")
    assert (rows[0]["label_3"], rows[0]["error"]) == ("", "")
    assert (rows[1]["path"], rows[1]["label"], rows[1]["error"]) == ("b.png", "", "cannot be decoded")
    assert (rows[2]["label_5"], rows[2]["score_5"]) == ("4", "0.1")
    assert not err


@pytest.mark.parametrize("kind", ["text", "csv"])
def test_no_name_breaks_a_line(kind: str) -> None:
    out, _, _ = written(kind, ODD)
    assert len(out.splitlines()) == (2 if kind == "csv" else 1)
    assert "new\\nline" in out and "\x1b" not in out
    out.encode()  # raises for a name that is no UTF-8


def test_csv_quotes_commas() -> None:
    (row,) = csv.DictReader(written("csv", ODD)[0].splitlines())
    assert row["label"] == "a,b"
    assert row["label_2"] == "c\\nd"


def test_json_keeps_a_name_exactly() -> None:
    (row,) = json.loads(written("json", ODD)[0])
    assert os.fsencode(row["path"]) == b'new\nline\t\x1b[31m,\xff".png'


def test_numbers_that_json_does_not_have_are_null_and_in_csv_empty() -> None:
    nan = Prediction("a.png", "cat", float("nan"), [("cat", float("nan"))])
    assert json.loads(written("json", nan)[0])[0]["score"] is None
    assert next(csv.DictReader(written("csv", nan)[0].splitlines()))["score"] == ""


@pytest.mark.parametrize("kind", ["text", "json", "csv"])
def test_rows_are_written_as_they_come(kind: str) -> None:
    out: list[str] = []

    def rows() -> Iterator[Prediction]:
        yield CAT
        assert "a.png" in "".join(out)
        yield CAT

    assert predictions.write(rows(), kind, out.append, out.append) == (2, 0)


# The command, with a server


@pytest.fixture
def photos(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for colour in ("red", "green", "blue"):
        (folder / f"{colour}.webp").write_bytes(image_of(colour, fmt="WEBP"))
    (folder / "bad.png").write_bytes(b"no image")
    return folder


def _predict(server: ModelServer, *arguments: object) -> list[str]:
    command = [sys.executable, "-c", "from graftline.pipeline.cli import main; main(prog_name='graftline')", "predict"]
    return [*command, "--server", f"127.0.0.1:{server.grpc_port}", "--name", "colours", *map(str, arguments)]


def test_csv_and_json_go_to_standard_output_or_a_file(
    server: ModelServer, photos: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    done = subprocess.run(_predict(server, photos, "--csv"), capture_output=True, text=True, check=True)
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["label"] for row in rows] == ["", "blue", "green", "red"]
    assert rows[0]["error"] == "not an image: starts with 'no image'"
    assert done.stderr == "graftline: 3 classified, 1 not\n"
    command = _predict(server, photos, "--json", "-o", tmp_path / "rows.json")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "graftline: 3 classified, 1 not\n")
    by_file = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["path"], row.get("label", "")) for row in by_file] == [(row["path"], row["label"]) for row in rows]


def test_a_dash_is_the_image_from_standard_input(server: ModelServer, photos: pathlib.Path) -> None:
    command = _predict(server, "-", photos / "gone.png", photos / "green.webp")
    with open(photos / "red.webp", "rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, text=True, check=True)
    assert [line.split(" 0.")[0] for line in done.stdout.splitlines()] == ["-: red", f"{photos}/green.webp: green"]
    assert done.stderr == f"{photos}/gone.png: no such file or folder\ngraftline: 2 classified, 1 not\n"


def test_mistakes_are_told_before_anything_is_written(
    server: ModelServer, photos: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for arguments, message in (
        (["--csv", "--json"], "Give either --json or --csv. See `graftline predict --help`."),
        (
            ["-o", tmp_path / "none" / "rows"],
            f"--output {tmp_path}/none/rows cannot be written: No such file or directory",
        ),
    ):
        done = subprocess.run(_predict(server, photos, *arguments), capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.splitlines()[-1] == f"graftline: {message}"


def _on_a_terminal(command: list[str], own_output: pathlib.Path | None) -> str:
    """Return what a terminal on standard error shows, and on standard output too without `own_output`."""
    ours, theirs = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        while True:
            try:
                data = os.read(ours, 1 << 16)
            except OSError:  # Linux raises this once the other side is closed
                return
            shown.append(data)

    reading = threading.Thread(target=read)
    reading.start()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    with open(own_output or os.devnull, "wb") as file:
        output = theirs if own_output is None else file.fileno()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=theirs, env=environment)
        os.close(theirs)
        assert process.wait() == 0
    reading.join()
    os.close(ours)
    return b"".join(shown).decode()


def test_a_bar_is_shown_on_a_terminal_and_rows_go_where_they_should(
    server: ModelServer, photos: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shown = _on_a_terminal(_predict(server, photos), tmp_path / "rows")
    assert "4/4" in shown
    assert "bad.png: not an image" in shown
    rows = (tmp_path / "rows").read_text().splitlines()
    assert [row.split(": ")[1].split()[0] for row in rows] == ["blue", "green", "red"]
    assert not any("blue.webp" in line for line in shown.splitlines())


def test_rows_on_the_same_terminal_stay_whole_lines(server: ModelServer, photos: pathlib.Path) -> None:
    shown = _on_a_terminal(_predict(server, photos), None)
    assert "4/4" in shown
    for colour in ("red", "green", "blue"):
        assert f"{photos}/{colour}.webp: {colour} 0.9" in shown
