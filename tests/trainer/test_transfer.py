"""What transfer is worth: the comparison with random weights, on few images of each class."""

import json
import pathlib
from typing import Any

import keras
import numpy as np
import pytest

from graftline.errors import UserError
from graftline.trainer import compare, run_fn, training
from graftline.trainer.inputs import Records
from tests import images
from tests.trainer.runs import Analyse, Data, fn_args, photos, prepare, write_records


@pytest.fixture(scope="module")
def records(data: Data) -> Records:
    return Records(data.train, images.CLASSES)


def test_few_images_are_so_many_of_each_class_or_all_that_there_are(records: Records) -> None:
    few = records.few(2)
    assert np.bincount(few.labels).tolist() == [2, 2, 2]
    assert np.bincount(records.few(1000).labels).tolist() == np.bincount(records.labels).tolist()
    # What is known of a row is still that row's.
    for row, image in enumerate(few.images(range(len(few)))):
        there = records.keys.index(few.keys[row])
        assert few.filenames[row] == records.filenames[there]
        assert few.labels[row] == records.labels[there]
        assert image == next(records.images([there]))


def test_few_images_are_the_same_ones_whatever_the_order(tmp_path: pathlib.Path) -> None:
    drawn = photos(range(6))
    one = Records([write_records(tmp_path / "one", drawn)], images.CLASSES).few(3)
    other = Records([write_records(tmp_path / "other", drawn[::-1])], images.CLASSES).few(3)
    assert sorted(one.keys) == sorted(other.keys)
    assert len(one) == 9


def test_both_sides_of_the_comparison_differ_only_in_their_weights(
    data: Data, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the backbone's weights are random as well, both give the same, to the last bit."""
    whole = prepare(data, tmp_path / "whole", training={"transfer_images_per_class": 4})
    trainings = []
    train = training.train

    def record(prepared: training.PreparedTraining, *arguments: Any) -> training.TrainingOutcome:
        trainings.append((prepared.dataset, outcome := train(prepared, *arguments)))
        return outcome

    monkeypatch.setattr(training, "train", record)
    accuracies, notes = compare.measure_transfer(whole.settings, whole.dataset, tmp_path)
    assert accuracies is not None
    assert notes == []
    assert accuracies["pretrained"] == accuracies["random"]
    assert accuracies["images_per_class"] == 4
    assert accuracies["images"] == 12
    (one, first), (other, second) = trainings
    assert len(one.train) == len(other.train) == 12
    assert len(one.val) == 6  # judged on all
    np.testing.assert_array_equal(first.predictions.probabilities, second.predictions.probabilities)
    assert [result.name for result in first.results] == ["feature_extraction", "fine_tuning"]
    assert not (tmp_path / "run").exists()  # no logs
    assert not (tmp_path / "whole" / "state" / "checkpoints").exists()


def test_the_run_itself_is_the_same_with_a_comparison_and_reports_it(
    data: Data, weights: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfers, models, starts = [], [], []
    train = training.train

    def record(prepared: training.PreparedTraining, *arguments: Any) -> training.TrainingOutcome:
        kernel = prepared.grafted.trunk.get_weights()[0]
        starts.append((prepared.settings.backbone.weights, len(prepared.dataset.train), kernel))
        return train(prepared, *arguments)

    monkeypatch.setattr(training, "train", record)
    for name, few in (("with", 2), ("without", 0)):
        changed: dict[str, object] = {
            "backbone": {"weights": str(weights)},
            "training": {"transfer_images_per_class": few},
        }
        run_fn.run_fn(fn_args(data, tmp_path / name, changed))  # type: ignore[arg-type]
        model = tmp_path / name / "model"
        transfers.append(json.loads((model / run_fn.TRAINING_FILE).read_text())["transfer"])
        models.append(keras.saving.load_model(model / run_fn.KERAS_FILE).get_weights())
    assert transfers[0].keys() == {"images_per_class", "images", "pretrained", "random"}
    assert 0 <= transfers[0]["random"] <= 1
    assert transfers[1] is None
    for one, other in zip(*models, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [each[:2] for each in starts] == [(str(weights), 25), (str(weights), 6), ("none", 6), (str(weights), 25)]
    np.testing.assert_array_equal(starts[1][2], starts[0][2])
    assert np.abs(starts[2][2] - starts[0][2]).max() > 0.1


def test_layers_without_a_name_of_their_own_are_found_in_the_comparison_too(
    data: Data, analyse: Analyse, tmp_path: pathlib.Path
) -> None:
    """Keras numbers the layers of a ConvNeXt or InceptionV3, and continues from model to model."""
    changed: dict[str, object] = {
        "backbone": {"name": "InceptionV3", "weights": "none", "input_size": 75, "options": {}},
        "head": {"cut_at": "activation_4"},
        "fine_tuning": {"unfreeze_from": "conv2d_4"},
        "training": {"transfer_images_per_class": 2},
    }
    whole = prepare(Data(analyse(backbone="InceptionV3", size=75), data.train, data.eval), tmp_path, **changed)
    accuracies, _ = compare.measure_transfer(whole.settings, whole.dataset, tmp_path)
    assert accuracies is not None


def test_a_comparison_that_fails_does_not_lose_the_model(
    data: Data, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = training.train

    def fail(prepared: training.PreparedTraining, *arguments: Any) -> training.TrainingOutcome:
        if len(prepared.dataset.train) < 25:
            raise UserError("no more room")
        return train(prepared, *arguments)

    monkeypatch.setattr(training, "train", fail)
    args = fn_args(data, tmp_path, {"training": {"transfer_images_per_class": 2}})
    run_fn.run_fn(args)  # type: ignore[arg-type]
    summary = json.loads((tmp_path / "model" / run_fn.TRAINING_FILE).read_text())
    assert summary["transfer"] is None
    assert summary["notes"] == ["the value of transfer could not be measured: with pretrained weights, no more room"]
    assert keras.saving.load_model(tmp_path / "model" / run_fn.KERAS_FILE).count_params() > 1000
