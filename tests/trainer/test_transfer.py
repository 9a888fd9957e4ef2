"""What transfer is worth: the comparison with random weights, on few images of each class."""

import json
import pathlib

import keras
import numpy as np
import pytest

from graftline.errors import UserError
from graftline.trainer import run_fn
from graftline.trainer.inputs import Records
from tests import images
from tests.trainer.runs import Analyse, Data, _args, _photos, _records, _run


@pytest.fixture(scope="module")
def photos(data: Data) -> Records:
    return Records(data.train, images.CLASSES)


def test_few_images_are_so_many_of_each_class_or_all_that_there_are(photos: Records) -> None:
    few = photos.few(2)
    assert np.bincount(few.labels).tolist() == [2, 2, 2]
    assert np.bincount(photos.few(1000).labels).tolist() == np.bincount(photos.labels).tolist()
    # What is known of a row is still that row's.
    for row, image in enumerate(few.images(range(len(few)))):
        there = photos.keys.index(few.keys[row])
        assert few.filenames[row] == photos.filenames[there]
        assert few.labels[row] == photos.labels[there]
        assert image == next(photos.images([there]))


def test_few_images_are_the_same_ones_whatever_the_order(tmp_path: pathlib.Path) -> None:
    drawn = _photos(range(6))
    one = Records([_records(tmp_path / "one", drawn)], images.CLASSES).few(3)
    other = Records([_records(tmp_path / "other", drawn[::-1])], images.CLASSES).few(3)
    assert sorted(one.keys) == sorted(other.keys)
    assert len(one) == 9


def test_both_sides_of_the_comparison_differ_in_their_weights_alone(
    data: Data, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the backbone's weights are random as well, both come equally far, to the last bit."""
    args = _args(data, tmp_path, {})
    whole = _run(data, tmp_path / "whole", training={"transfer_images_per_class": 4})
    outcomes = []
    train = run_fn.Run.train

    def watched(run: run_fn.Run) -> run_fn.Outcome:
        outcomes.append((run, train(run)))
        return outcomes[-1][1]

    monkeypatch.setattr(run_fn.Run, "train", watched)
    found, notes = run_fn.compare(whole, args, tmp_path)  # type: ignore[arg-type]
    assert found is not None
    assert notes == []
    assert found["pretrained"] == found["random"]
    assert found["images_per_class"] == 4
    assert found["images"] == 12
    (one, first), (other, second) = outcomes
    assert len(one.train_records) == len(other.train_records) == 12
    assert len(one.val) == 6  # judged on all
    np.testing.assert_array_equal(first.predictions.probabilities, second.predictions.probabilities)
    assert [result.name for result in first.results] == ["feature_extraction", "fine_tuning"]
    assert not (tmp_path / "run").exists()  # no logs
    assert not (tmp_path / "state" / "checkpoints").exists()


def test_the_run_itself_is_the_same_with_a_comparison_and_tells_of_it(
    data: Data, weights: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, saved, began = [], [], []
    train = run_fn.Run.train

    def watched(run: run_fn.Run) -> run_fn.Outcome:
        began.append((run.settings.backbone.weights, len(run.train_records), run.grafted.trunk.get_weights()[0]))
        return train(run)

    monkeypatch.setattr(run_fn.Run, "train", watched)
    for name, few in (("with", 2), ("without", 0)):
        changed: dict[str, object] = {
            "backbone": {"weights": str(weights)},
            "training": {"transfer_images_per_class": few},
        }
        args = _args(data, tmp_path / name, changed)
        run_fn.run_fn(args)  # type: ignore[arg-type]
        model = tmp_path / name / "model"
        told.append(json.loads((model / run_fn.TRAINING_FILE).read_text())["transfer"])
        saved.append(keras.saving.load_model(model / run_fn.KERAS_FILE).get_weights())
    assert told[0].keys() == {"images_per_class", "images", "pretrained", "random"}
    assert 0 <= told[0]["random"] <= 1
    assert told[1] is None
    for one, other in zip(*saved, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [each[:2] for each in began] == [(str(weights), 25), (str(weights), 6), ("none", 6), (str(weights), 25)]
    np.testing.assert_array_equal(began[1][2], began[0][2])
    assert np.abs(began[2][2] - began[0][2]).max() > 0.1


def test_layers_without_names_of_their_own_are_found_in_the_comparison_too(
    data: Data, analyse: Analyse, tmp_path: pathlib.Path
) -> None:
    """Keras numbers the layers of a ConvNeXt or InceptionV3 on, from model to model."""
    backbone = {"name": "InceptionV3", "weights": "none", "input_size": 75, "options": {}}
    changed: dict[str, object] = {
        "backbone": backbone,
        "head": {"cut_at": "activation_4"},
        "fine_tuning": {"unfreeze_from": "conv2d_4"},
        "training": {"transfer_images_per_class": 2},
    }
    of_its_size = Data(analyse(backbone="InceptionV3", size=75), data.train, data.eval)
    whole = _run(of_its_size, tmp_path / "whole", **changed)
    found, _ = run_fn.compare(whole, _args(of_its_size, tmp_path, changed), tmp_path)  # type: ignore[arg-type]
    assert found is not None


def test_a_comparison_that_fails_costs_no_model(
    data: Data, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = run_fn.Run.train

    def fails(run: run_fn.Run) -> run_fn.Outcome:
        if len(run.train_records) < 25:
            raise UserError("no more room")
        return train(run)

    monkeypatch.setattr(run_fn.Run, "train", fails)
    args = _args(data, tmp_path, {"training": {"transfer_images_per_class": 2}})
    run_fn.run_fn(args)  # type: ignore[arg-type]
    told = json.loads((tmp_path / "model" / run_fn.TRAINING_FILE).read_text())
    assert told["transfer"] is None
    assert told["notes"] == ["what transfer is worth is not known: with pretrained weights, no more room"]
    assert keras.saving.load_model(tmp_path / "model" / run_fn.KERAS_FILE).count_params() > 1000
