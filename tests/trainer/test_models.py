"""Building the model: trunk, weights, head, and the layers to unfreeze."""

import pathlib

import keras
import numpy as np
import pytest

from graftline.errors import UserError
from graftline.trainer import backbones, heads, models
from graftline.trainer.settings import BackboneSettings, HeadSettings
from tests import assets

_SMALL = BackboneSettings(name="MobileNetV2", weights="none", input_size=32, options={"alpha": 0.35})


@pytest.fixture(scope="module")
def trunk() -> keras.Model:
    return models.build_trunk(_SMALL)


@pytest.mark.parametrize(
    "name", ["MobileNetV2", "MobileNetV3Large", "MobileNetV3Small", "VGG16", "ResNet50", "DenseNet121"]
)
def test_backbones_build_by_name_without_their_classifier(name: str) -> None:
    options = {"minimalistic": True} if "V3" in name else {}
    built = models.build_trunk(BackboneSettings(name=name, weights="none", input_size=32, options=options))
    assert built.input_shape == (None, 32, 32, 3)
    assert len(built.output_shape) == 4


def test_the_head_is_grafted_as_set(trunk: keras.Model) -> None:
    grafted = heads.graft(trunk, HeadSettings(pooling="max", dense=[7], dropout=0.5), 3)
    assert [type(layer).__name__ for layer in grafted.head_layers] == [
        "GlobalMaxPooling2D",
        "Dropout",
        "Dense",
        "Dropout",
        "Dense",
    ]
    assert grafted.embedding.shape == (None, 1280)
    assert grafted.model.output_shape == (None, 3)


@pytest.mark.parametrize(
    ("unfreeze_from", "first", "count"),
    [
        ("auto", "block_13_project_BN", 30),
        (-1, "out_relu", 1),
        (-30, "block_13_project_BN", 30),
        (149, "block_16_project", 5),
        ("block_16_expand", "block_16_expand", 11),
        ("all", "input_layer", 154),
        ("none", None, 0),
    ],
)
def test_unfreeze_from_slices_the_trunks_layers(
    trunk: keras.Model, unfreeze_from: int | str, first: str, count: int
) -> None:
    layers = models.layers_to_unfreeze(trunk, unfreeze_from, _SMALL.landmark)
    assert len(layers) == count
    assert not layers or layers[0].name.startswith(first)


def test_auto_is_the_last_30_layers_of_a_trunk_that_ends_below_the_landmark(trunk: keras.Model) -> None:
    short = keras.Model(trunk.input, trunk.get_layer("block_12_add").output)
    layers = models.layers_to_unfreeze(short, "auto", _SMALL.landmark)
    assert layers == short.layers[-30:]


def test_an_unknown_layer_names_the_nearest(trunk: keras.Model) -> None:
    with pytest.raises(UserError, match="no layer 'block_16_expnd'; did you mean 'block_16_expand'"):
        models.layers_to_unfreeze(trunk, "block_16_expnd")


def test_an_index_beyond_the_trunk_names_its_length(trunk: keras.Model) -> None:
    with pytest.raises(UserError, match=r"out of range: .* has 154 layers, so give at most 153"):
        models.layers_to_unfreeze(trunk, 154)


def test_the_last_30_of_a_shorter_trunk_are_all_of_it() -> None:
    short = models.build_trunk(BackboneSettings(name="VGG16", weights="none", input_size=32))
    assert models.layers_to_unfreeze(short, -30) == short.layers


def test_an_option_that_the_builder_does_not_take_is_named() -> None:
    with pytest.raises(UserError, match=r"backbone.options: VGG16 does not take \{'alpha': 1\}"):
        models.build_trunk(BackboneSettings(name="VGG16", weights="none", input_size=32, options={"alpha": 1}))


def test_a_size_that_the_backbone_cannot_take_is_named() -> None:
    with pytest.raises(UserError, match="MobileNetV2 cannot be built with input_size 16"):
        models.build_trunk(BackboneSettings(weights="none", input_size=16))


def test_weights_are_loaded_from_a_file(trunk: keras.Model, tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "trunk.weights.h5")
    trunk.save_weights(path)
    loaded = models.build_trunk(_SMALL.model_copy(update={"weights": path}))
    for ours, theirs in zip(loaded.get_weights(), trunk.get_weights(), strict=True):
        assert (ours == theirs).all()


# One of each family: Keras' builder may ask what `weights` is, and build another graph.
_FAMILIES = {entry.family: entry for entry in reversed(backbones.BACKBONES.values())}


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=[] if family in ("efficientnet", "mobilenet_v2") else pytest.mark.slow)
        for family in sorted(_FAMILIES)
    ],
)
def test_a_weights_file_gives_what_the_same_file_gives_as_keras_download(
    family: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = _FAMILIES[family]
    settings = BackboneSettings(name=entry.name, weights="none", input_size=max(32, entry.min_size))
    keras.utils.set_random_seed(1)
    path = str(tmp_path / "trunk.weights.h5")
    models.build_trunk(settings).save_weights(path)
    given = models.build_trunk(settings.model_copy(update={"weights": path}))
    # The real lookup compares the file's hash with that of the real weights.
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *_, **__: path)
    downloaded = models.build_trunk(settings.model_copy(update={"weights": "imagenet"}))
    assert [type(layer) for layer in given.layers] == [type(layer) for layer in downloaded.layers]
    pixels = np.random.default_rng(0).uniform(0, 255, (2, settings.size, settings.size, 3)).astype(np.float32)
    ours, theirs = (keras.ops.convert_to_numpy(model(pixels, training=False)) for model in (given, downloaded))
    assert np.ptp(theirs) > 0
    np.testing.assert_array_equal(ours, theirs)


def test_weights_of_another_backbone_are_refused(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "other.weights.h5")
    models.build_trunk(_SMALL.model_copy(update={"options": {"alpha": 0.5}})).save_weights(path)
    with pytest.raises(
        UserError, match=r"other.weights.h5' does not fit MobileNetV2 with backbone.options \{'alpha': 0.35\}"
    ):
        models.build_trunk(_SMALL.model_copy(update={"weights": path}))


def test_a_missing_weights_file_is_named() -> None:
    with pytest.raises(UserError, match=r"there is no file '/no/such\.h5'"):
        models.build_trunk(_SMALL.model_copy(update={"weights": "/no/such.h5"}))


def test_an_error_of_the_download_of_imagenet_weights_says_what_to_do(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # no proxy listens there
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path), raising=False)
    with pytest.raises(
        UserError, match=r"ImageNet weights of MobileNetV2 could not be downloaded.*backbone.weights=FILE"
    ):
        models.build_trunk(BackboneSettings(options={"alpha": 1.4}))


@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50", "EfficientNetB0"])
def test_a_random_trunk_is_calibrated_so_that_the_signal_does_not_vanish(name: str) -> None:
    keras.utils.set_random_seed(0)
    trunk = models.build_trunk(BackboneSettings(name=name, weights="none", input_size=32))
    pixels = np.random.default_rng(0).normal(size=(16, 32, 32, 3)).astype(np.float32)
    kernels = {v.path: v.numpy() for v in trunk.variables if "moving_variance" not in v.path}
    models.calibrate(trunk, pixels)
    features = keras.ops.convert_to_numpy(trunk(pixels, training=False))
    assert 0.01 < features.std(axis=0).mean() < 10
    assert all((kernels[v.path] == v.numpy()).all() for v in trunk.variables if v.path in kernels)


def test_the_trunk_ends_where_it_is_cut() -> None:
    cut = models.build_trunk(_SMALL, ["block_2_add"])
    assert cut.layers[-1].name == "block_2_add"
    with pytest.raises(UserError, match=r"head.cut_at: .* no layer 'Block_2_ad'; did you mean 'block_2_add' or .* or "):
        models.build_trunk(_SMALL, ["Block_2_ad"])


@assets.needs_assets
def test_real_imagenet_weights_fit() -> None:
    built = models.build_trunk(BackboneSettings(weights=str(assets.MOBILENET_V2_035), options={"alpha": 0.35}))
    assert built.output_shape == (None, 7, 7, 1280)


@assets.needs_assets
def test_real_weights_of_another_width_are_refused() -> None:
    with pytest.raises(UserError, match="does not fit MobileNetV2"):
        models.build_trunk(BackboneSettings(weights=str(assets.MOBILENET_V2_035)))


def test_a_weights_file_that_was_cut_is_called_incomplete(tmp_path: pathlib.Path) -> None:
    whole, cut = tmp_path / "whole.weights.h5", tmp_path / "cut.weights.h5"
    models.build_trunk(_SMALL).save_weights(whole)
    cut.write_bytes(whole.read_bytes()[:500_000])
    with pytest.raises(UserError, match=r"cut.weights.h5' is incomplete .*: copy or download it again"):
        models.build_trunk(_SMALL.model_copy(update={"weights": str(cut)}))
