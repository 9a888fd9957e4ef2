"""The report of a training run: real figures by the real program, and what happens when something fails."""

import csv
import json
import logging
import math
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graftline.trainer import heads, models, phases, report
from graftline.trainer.settings import BackboneSettings, HeadSettings
from tests import images
from tests.trainer.phase_results import TWO_PHASES, phase_result

# The last is in no eval image; "accuracy" is also a line of scikit-learn's report.
_HOSTILE = ["$a_$", "日本語", "שלום עולם", "a very long name " * 20, 'two\nlines\tand, "quotes"', "accuracy", "absent"]
_PICTURES = {"learning_curves.png", "confusion_matrix.png", "mistakes.png", "model.png"}
_EVERYTHING = _PICTURES | {
    *("history.csv", "history.json", "model.txt", "predictions.csv", "confusion_matrix.csv"),
    *("classification_report.json", "classification_report.txt"),
}


def _grafted(classes: int, dense: tuple[int, ...] = ()) -> heads.Grafted:
    backbone = BackboneSettings(name="MobileNetV2", weights="none", input_size=32, options={"alpha": 0.35})
    return heads.graft(models.build_trunk(backbone), HeadSettings(dense=dense), classes)


@pytest.fixture(scope="module")
def grafted() -> heads.Grafted:
    return _grafted(len(_HOSTILE))


def _parts(grafted: heads.Grafted, unfreeze_from: str = "block_16_expand") -> tuple[Any, Any, Any]:
    trained = phases.trainable_layers(models.layers_to_unfreeze(grafted.trunk, unfreeze_from))
    phases.freeze_trunk(grafted, trained)
    return grafted, trained, phases.find_boundary(grafted, trained)


def _predictions(classes: int, seen: int, count: int, right: float) -> report.Predictions:
    """Return predictions for `count` images of the first `seen` classes; a fraction of about `right` is correct."""
    random = np.random.default_rng(5)
    labels = np.concatenate([np.arange(seen), random.integers(0, seen, count - seen)])
    probabilities = random.dirichlet(np.full(classes, 0.3), count).astype(np.float32)
    probabilities[np.arange(count), labels] += random.random(count) < right
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return report.Predictions([f"{label}/{row}.jpg" for row, label in enumerate(labels)], labels, probabilities)


def _colour(row: int) -> tuple[int, int, int]:
    return (row * 37 % 200, row * 91 % 200, row * 53 % 200)


def _file(row: int) -> bytes:
    return images.encode(Image.new("RGB", (60, 60), _colour(row)), "PNG")


def _rows(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@dataclass(frozen=True)
class _Drawn:
    folder: pathlib.Path
    predictions: report.Predictions
    rows_read: list[int]
    stderr: str


@pytest.fixture(scope="module")
def hostile(grafted: heads.Grafted, tmp_path_factory: pytest.TempPathFactory) -> _Drawn:
    """A report with hostile names and two phases; the files of the first two mistakes are damaged and missing."""
    folder = tmp_path_factory.mktemp("hostile") / "report"
    predictions = _predictions(len(_HOSTILE), len(_HOSTILE) - 1, 150, 0.7)
    rows_read: list[int] = []

    def files(rows: Sequence[int]) -> Mapping[int, bytes]:
        rows_read.extend(rows)
        return {rows[0]: _file(rows[0])[:60], **{row: _file(row) for row in rows[2:]}}

    pending = report.start(str(folder), _HOSTILE, TWO_PHASES, predictions, files, *_parts(grafted))
    assert pending._process is not None and pending._folder is not None
    pending._process.wait()
    stderr = pathlib.Path(pending._folder.name, "inputs", "stderr").read_text()
    assert pending.finish(), stderr
    return _Drawn(folder, predictions, rows_read, stderr)


def _assert_is_a_picture(path: pathlib.Path, least: tuple[int, int] = (600, 300)) -> None:
    with Image.open(path) as image:
        assert least[0] <= image.width <= 6000 and least[1] <= image.height <= 3000
        low, high = np.asarray(image.convert("L")).min(), np.asarray(image.convert("L")).max()
    assert low < 100 and high == 255, f"{path.name} is blank"


def test_everything_is_there_and_nothing_is_printed(hostile: _Drawn) -> None:
    assert {path.name for path in hostile.folder.iterdir()} == _EVERYTHING
    assert hostile.stderr == ""
    for name in _PICTURES:
        _assert_is_a_picture(hostile.folder / name)


def test_the_history_has_a_row_for_each_epoch(hostile: _Drawn) -> None:
    rows = _rows(hostile.folder / "history.csv")
    expected = [
        {"phase": phase["name"], "epoch": epoch + 1, **{log: values[epoch] for log, values in phase["history"].items()}}
        for phase in TWO_PHASES
        for epoch in range(phase["epochs"])
    ]
    assert rows == [{key: str(value) for key, value in row.items()} for row in expected]
    assert json.loads((hostile.folder / "history.json").read_text()) == TWO_PHASES


def test_the_predictions_are_those_of_the_model(hostile: _Drawn) -> None:
    predictions, rows = hostile.predictions, _rows(hostile.folder / "predictions.csv")
    assert [row["filename"] for row in rows] == predictions.filenames
    assert [row["label"] for row in rows] == [_HOSTILE[label] for label in predictions.labels]
    best = predictions.probabilities.argmax(axis=1)
    assert [row["predicted"] for row in rows] == [_HOSTILE[label] for label in best]
    assert [np.float32(row["score"]) for row in rows] == list(predictions.probabilities.max(axis=1))
    assert [row["correct"] == "true" for row in rows] == list(best == predictions.labels)


def test_the_confusion_matrix_counts_every_image_once(hostile: _Drawn) -> None:
    rows = _rows(hostile.folder / "confusion_matrix.csv")
    assert [row["true \\ predicted"] for row in rows] == _HOSTILE
    matrix = np.array([[int(row[label]) for label in _HOSTILE] for row in rows])
    expected = np.zeros_like(matrix)
    np.add.at(expected, (hostile.predictions.labels, hostile.predictions.predicted), 1)
    np.testing.assert_array_equal(matrix, expected)
    assert matrix.sum() == 150
    assert matrix[-1].sum() == 0 < matrix[:, -1].sum()  # no such image, but some predictions


def test_the_classification_report_has_every_class(hostile: _Drawn) -> None:
    content = json.loads((hostile.folder / "classification_report.json").read_text())
    names = [name if name != "accuracy" else "accuracy (class)" for name in _HOSTILE]
    assert list(content) == [*names, "accuracy", "macro avg", "weighted avg"]
    true, predicted = hostile.predictions.labels, hostile.predictions.predicted
    assert content["accuracy"] == pytest.approx(np.mean(true == predicted))
    for index, name in enumerate(names):
        assert content[name]["support"] == np.sum(true == index)
        hits, taken = np.sum((true == index) & (predicted == index)), np.sum(predicted == index)
        assert content[name]["precision"] == pytest.approx(hits / taken)
    assert content["absent"]["recall"] == 0
    lines = (hostile.folder / "classification_report.txt").read_text(encoding="utf-8").splitlines()
    assert any("日本語" in line for line in lines)
    assert any("two\\nlines\\tand" in line for line in lines)
    assert max(map(len, lines)) < 120


def test_only_the_mistakes_with_the_highest_scores_are_read_and_shown_in_order(hostile: _Drawn) -> None:
    predictions, rows = hostile.predictions, hostile.rows_read
    scores = predictions.probabilities.max(axis=1)
    wrong = predictions.probabilities.argmax(axis=1) != predictions.labels
    assert len(rows) == report.MISTAKES < wrong.sum()
    assert wrong[rows].all()
    assert list(scores[rows]) == sorted(scores[wrong], reverse=True)[: report.MISTAKES]
    with Image.open(hostile.folder / "mistakes.png") as sheet:
        grid = sheet.convert("RGB")
    step_x, step_y = 240 + 18, 240 + 62 + 18
    middles = [grid.getpixel((18 + 120 + n % 6 * step_x, 60 + 120 + n // 6 * step_y)) for n in range(len(rows))]
    grey = (0xBB, 0xBB, 0xBB)
    assert middles == [grey, grey, *(_colour(row) for row in rows[2:])]


def test_rows_of_mistakes() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.8, 0.2], [0.6, 0.4]], np.float32)
    predictions = report.Predictions(list("abcde"), np.array([0, 0, 0, 1, 0]), probabilities)
    assert report.most_confident_mistakes(predictions).tolist() == [1, 3, 2]  # 1 and 3 have the same score
    assert report.most_confident_mistakes(predictions, 1).tolist() == [1]
    right = report.Predictions(["a"], np.array([0]), probabilities[:1])
    assert report.most_confident_mistakes(right).tolist() == []
    nobody = report.Predictions([], np.zeros(0, np.int64), np.zeros([0, 2], np.float32))
    assert report.most_confident_mistakes(nobody).tolist() == []


def test_one_phase_of_nan_with_many_classes_and_no_mistakes(grafted: heads.Grafted, tmp_path: pathlib.Path) -> None:
    labels = [f"class {index}" for index in range(120)]  # too many for names on the axes
    nan = math.nan
    phase = phase_result("feature_extraction", [0.5, nan, math.inf], 1)
    predictions = report.Predictions([f"{n}.png" for n in range(120)], np.arange(120), np.eye(120, dtype=np.float32))

    def files(rows: Sequence[int]) -> Mapping[int, bytes]:
        raise AssertionError("there are no mistakes to look up")

    parts = _parts(grafted, "none")
    assert report.start(str(tmp_path), labels, [phase], predictions, files, *parts).finish()
    assert {path.name for path in tmp_path.iterdir()} == _EVERYTHING
    for name in _PICTURES:
        _assert_is_a_picture(tmp_path / name, least=(600, 70))
    assert [float(row["val_loss"]) for row in _rows(tmp_path / "history.csv")] == pytest.approx(
        [0.5, nan, math.inf], nan_ok=True
    )
    # Strict: JSON has no NaN.
    (content,) = json.loads((tmp_path / "history.json").read_text(), parse_constant=pytest.fail)
    assert content["history"]["val_loss"] == [0.5, None, None]
    assert all(row["correct"] == "true" for row in _rows(tmp_path / "predictions.csv"))


def test_an_empty_eval_split_has_no_report_but_everything_else(tmp_path: pathlib.Path) -> None:
    nobody = report.Predictions([], np.zeros(0, np.int64), np.zeros([0, 2], np.float32))
    phase = phase_result("fine_tuning", [0.3], 0)
    pending = report.start(str(tmp_path), ["a", "b"], [phase], nobody, lambda rows: {}, *_parts(_grafted(2), "all"))
    assert pending.finish()
    missing = {"classification_report.json", "classification_report.txt"}
    assert {path.name for path in tmp_path.iterdir()} == _EVERYTHING - missing


def test_the_model_is_described_part_by_part() -> None:
    grafted, trained_layers, cut = _parts(_grafted(3, dense=(8,)))
    content = report.describe(grafted, trained_layers, cut)
    assert content["input"] == [32, 32, 3]
    assert content["boundary"] == [{"layer": "block_15_add", "shape": [1, 1, 56]}]
    # block_16: three convolutions, three BatchNorms, two ReLUs; then Conv_1, its BatchNorm and ReLU.
    assert content["unfrozen"]["layers"] == 11
    assert content["unfrozen"]["trained_layers"] == 4
    trained = sum(np.prod(weight.shape) for layer in grafted.trunk.layers for weight in layer.trainable_weights)
    assert content["unfrozen"]["trained_parameters"] == trained
    assert content["trunk"]["parameters"] + content["unfrozen"]["parameters"] == grafted.trunk.count_params()
    assert content["trunk"]["layers"] + 11 + 1 == len(grafted.trunk.layers)  # and the InputLayer
    kinds = [(layer["kind"], layer["shape"], layer["parameters"]) for layer in content["head"]]
    dense = [("Dense", [8], 1280 * 8 + 8), ("Dense", [3], 8 * 3 + 3)]
    assert kinds == [
        ("GlobalAveragePooling2D", [1280], 0),
        ("Dropout", [1280], 0),
        dense[0],
        ("Dropout", [8], 0),
        dense[1],
    ]


@pytest.mark.parametrize("unfreeze_from", ["none", "all"])
def test_a_model_without_a_boundary(grafted: heads.Grafted, unfreeze_from: str) -> None:
    content = report.describe(*_parts(grafted, unfreeze_from))
    assert content["boundary"] is None
    assert (content["unfrozen"] is None) == (unfreeze_from == "none")
    assert (content["trunk"]["layers"] == 0) == (unfreeze_from == "all")


def test_the_summary_names_every_layer_on_any_terminal(
    grafted: heads.Grafted, hostile: _Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (hostile.folder / "model.txt").read_text(encoding="utf-8")
    for layer in grafted.model.layers:
        assert layer.name in text
    assert f"{grafted.model.count_params():,}" in text
    monkeypatch.setenv("COLUMNS", "20")
    assert "block_16_depthwise_BN" in report._summary(grafted.model)


def test_the_program_imports_no_tensorflow() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "graftline.trainer.figures", "no-such-folder"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    imported = {line.split("|")[2].strip().split(".")[0] for line in done.stderr.splitlines() if line.count("|") == 2}
    assert "matplotlib" in imported and "sklearn" in imported
    assert not imported & {"tensorflow", "keras", "tf_keras", "tfx", "apache_beam"}
    assert done.returncode == 1 and "no-such-folder" in done.stderr


def test_a_program_that_is_killed_is_a_warning(
    grafted: heads.Grafted,
    tmp_path: pathlib.Path,
    tmp_path_factory: pytest.TempPathFactory,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    endless = tmp_path_factory.mktemp("bin") / "python"  # the real one may end before it is killed
    endless.write_text("#!/bin/sh\nexec sleep 600\n")
    endless.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(endless))
    predictions = _predictions(len(_HOSTILE), 3, 20, 1.1)
    pending = report.start(str(tmp_path), _HOSTILE, TWO_PHASES, predictions, lambda rows: {}, *_parts(grafted))
    assert pending._process is not None
    pending._process.kill()
    with caplog.at_level(logging.WARNING):
        assert pending.finish() is False
    assert "status -9" in caplog.text
    assert {"history.csv", "history.json", "model.txt"} <= {path.name for path in tmp_path.iterdir()}


def test_the_other_figures_are_made_when_one_fails(
    grafted: heads.Grafted, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = {**TWO_PHASES[0], "ended": "plateau", "history": {"loss": ["no number"]}, "epochs": 1}
    predictions = _predictions(len(_HOSTILE), 3, 20, 1.1)
    pending = report.start(str(tmp_path), _HOSTILE, [broken], predictions, lambda rows: {}, *_parts(grafted))
    with caplog.at_level(logging.WARNING):
        assert pending.finish() is False
    assert "could not convert string to float: 'no number'" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == _EVERYTHING - {"learning_curves.png"}


def test_a_directory_that_cannot_be_written_is_a_warning(
    grafted: heads.Grafted, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    predictions = _predictions(len(_HOSTILE), 3, 20, 0.5)
    directory = str(tmp_path / "file" / "report")
    with caplog.at_level(logging.WARNING):
        pending = report.start(directory, _HOSTILE, TWO_PHASES, predictions, lambda rows: {}, *_parts(grafted))
        assert pending.finish() is False
    assert directory in caplog.text


def test_a_directory_that_is_lost_while_figures_are_drawn_is_a_warning(
    grafted: heads.Grafted, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "report"
    predictions = _predictions(len(_HOSTILE), 3, 20, 0.5)
    pending = report.start(str(directory), _HOSTILE, TWO_PHASES, predictions, lambda rows: {}, *_parts(grafted))
    shutil.rmtree(directory)
    directory.write_text("")
    with caplog.at_level(logging.WARNING):
        assert pending.finish() is False
    assert str(directory) in caplog.text


def test_images_that_cannot_be_read_are_a_warning(
    grafted: heads.Grafted, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    def files(rows: Sequence[int]) -> Mapping[int, bytes]:
        raise OSError("the bucket is gone")

    predictions = _predictions(len(_HOSTILE), 3, 20, 0.5)
    with caplog.at_level(logging.WARNING):
        assert not report.start(str(tmp_path), _HOSTILE, TWO_PHASES, predictions, files, *_parts(grafted)).finish()
    assert "the bucket is gone" in caplog.text
    assert (tmp_path / "history.csv").is_file()
