"""Fixtures of the trainer's tests: drawn images, their Transforms and a run from an empty cache."""

import pathlib

import keras
import numpy as np
import pytest

from graftline.trainer import backbones, models
from graftline.trainer.settings import BackboneSettings
from tests import images
from tests.conftest import Transformed
from tests.trainer.runs import SMALL, Analyse, Data, Outcome, photos, train_both_phases, write_records, write_transform


@pytest.fixture(scope="module")
def analyse(tmp_path_factory: pytest.TempPathFactory, transformed: Transformed) -> Analyse:
    """Return a function that gives the Transform's output directory for labels, a backbone and a size, made once."""
    directories = {(images.CLASSES, "tf", 32): transformed.directory}

    def directory(labels: tuple[str, ...] = images.CLASSES, backbone: str = "MobileNetV2", size: int = 32) -> str:
        key = (labels, backbones.get(backbone).preprocessing, size)
        if key not in directories:
            directories[key] = write_transform(tmp_path_factory.mktemp("analysed"), *key)
        return directories[key]

    return directory


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, analyse: Analyse) -> Data:
    """The drawn images, with pixels for MobileNetV2 at 32 px."""
    root = tmp_path_factory.mktemp("records")
    # Four batches of 8 in an epoch, the last of one image.
    train, held_out = photos(range(9))[:25], photos(range(100, 102))
    return Data(analyse(), [write_records(root / "train", train)], [write_records(root / "eval", held_out)])


@pytest.fixture(scope="module")
def cold(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A training from an empty cache."""
    return train_both_phases(data, tmp_path_factory.mktemp("cold"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A trunk's weights file, because a random trunk would depend on the first images, which scale it."""
    keras.utils.set_random_seed(0)
    trunk = models.build_trunk(BackboneSettings.model_validate(SMALL["backbone"]))
    models.calibrate(trunk, np.random.default_rng(0).uniform(-1, 1, (16, 32, 32, 3)).astype(np.float32))
    path = tmp_path_factory.mktemp("weights") / "trunk.weights.h5"
    trunk.save_weights(path)
    return path
