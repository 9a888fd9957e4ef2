"""A trunk that has its own classifier: a head on one of the classifier's layers."""

import pathlib

import keras
import numpy as np
import pytest

from graftline.errors import UserError
from graftline.trainer import heads, models
from graftline.trainer.settings import BackboneSettings, HeadSettings
from tests.trainer.runs import Data, assert_trained_alike, train_both_phases


def _backbone(weights: object) -> BackboneSettings:
    return BackboneSettings(
        name="MobileNet", weights=str(weights), input_size=32, options={"alpha": 0.25}, include_top=True
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, pathlib.Path]:
    """Weights files with (True) and without (False) the classifier."""
    folder = tmp_path_factory.mktemp("weights")
    paths = {}
    for top in (True, False):
        keras.utils.set_random_seed(7)
        model = keras.applications.MobileNet((32, 32, 3), alpha=0.25, include_top=top, weights=None)
        paths[top] = folder / f"{top}.weights.h5"
        model.save_weights(paths[top])
    return paths


def test_the_classifiers_layers_give_what_keras_model_gives(files: dict[bool, pathlib.Path]) -> None:
    trunk = models.build_trunk(_backbone(files[True]), ["predictions"])
    theirs = keras.applications.MobileNet((32, 32, 3), alpha=0.25, weights=None)
    theirs.load_weights(files[True])
    pixels = np.random.default_rng(0).uniform(-1, 1, (3, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(trunk.predict(pixels, verbose=0), theirs.predict(pixels, verbose=0))
    grafted = heads.graft(trunk, HeadSettings(cut_at="predictions"), classes=3)
    assert [layer.name for layer in grafted.head_layers] == ["head_dropout_0", "probabilities"]
    assert grafted.embedding is trunk.output


def test_weights_without_the_classifier_are_refused(files: dict[bool, pathlib.Path]) -> None:
    with pytest.raises(UserError, match="were saved with its classifier, or set include_top to false"):
        models.build_trunk(_backbone(files[False]), ["predictions"])


def test_a_cut_under_the_classifier_is_refused() -> None:
    with pytest.raises(UserError, match=r"backbone\.include_top: head\.cut_at conv_pw_11_relu is a feature map under"):
        models.build_trunk(_backbone("none"), ["conv_pw_11_relu"])


@pytest.mark.slow
def test_both_phases_train_on_a_layer_of_the_classifier_with_and_without_the_cache(
    data: Data, tmp_path: pathlib.Path
) -> None:
    changed = {
        "backbone": {"include_top": True},
        "head": {"cut_at": "global_average_pooling2d", "dropout": 0.2},
        "fine_tuning": {"unfreeze_from": "conv_dw_13", "learning_rate": 1e-3},
    }
    cached = train_both_phases(data, tmp_path / "cached", **changed)
    streamed = train_both_phases(data, tmp_path / "streamed", **changed, boundary_cache={"enabled": False})
    assert cached.training.boundary._keras_history.operation.name == "conv_pw_12_relu"
    assert_trained_alike(streamed, cached, 1e-3)
