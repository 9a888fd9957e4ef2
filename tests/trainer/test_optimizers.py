"""The optimizer of a phase: the rate at each step, the rate of each layer, clipping, resuming, and 16 bits."""

import inspect
import itertools
import math
import pathlib
import zipfile
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from pydantic import ValidationError
from tensorflow.core.protobuf import saved_model_pb2

from graftline import features, signatures
from graftline.errors import UserError
from graftline.trainer import boundary, export, models, optimizers, phases
from graftline.trainer.settings import (
    NOT_OPTIMIZER_OPTIONS,
    OPTIMIZER_OPTIONS,
    BackboneSettings,
    HeadSettings,
    PhaseSettings,
)
from tests import images
from tests.conftest import Transformed

_STEPS = 4  # in an epoch
_NAMES = ("adam", "adamw", "rmsprop", "sgd")


def _settings(**changed: Any) -> PhaseSettings:
    return PhaseSettings.model_validate({"epochs": 5, "learning_rate": 0.1, "patience": 3, **changed})


def _data() -> tf.data.Dataset:
    random = np.random.default_rng(3)
    x = random.normal(size=(_STEPS * 8, 6)).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((x, (x[:, 0] + x[:, 1] > 0).astype(np.int64))).batch(8)


def _model(hidden: int = 2, dtype: str = "float32") -> keras.Model:
    """A trunk of `hidden` layers and a head, from the same weights every time."""
    keras.utils.set_random_seed(7)
    x = inputs = keras.Input([6])
    for number in range(hidden):
        x = keras.layers.Dense(6, activation="tanh", dtype=dtype, name=f"trunk_{number}")(x)
    return keras.Model(inputs, keras.layers.Dense(2, activation="softmax", dtype="float32", name="head")(x))


def _compiled(settings: PhaseSettings, model: keras.Model, **options: Any) -> keras.Model:
    optimizer = optimizers.build(settings, _STEPS, model.layers)
    model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False, **options)
    return model


# --- the learning rate, step by step ----------------------------------------------------------------------------------


def _warm(step: int, steps: float) -> float:
    return min(1.0, step / steps)


_COURSES = {
    "cosine, from the first step to the last of the last epoch": (
        {"schedule": "cosine", "alpha": 0.2},
        lambda step: 0.1 * (0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * min(step, 20) / 20))),
    ),
    "cosine after a warm-up, over the steps that are left": (
        {"schedule": "cosine", "warmup_epochs": 1.5},
        lambda step: (
            0.1 * (step / 6 if step < 6 else 0.5 * (1 + math.cos(math.pi * min(step - 6, 14) / 14)))
        ),
    ),
    "exponential, by the factor in each epoch": (
        {"schedule": "exponential", "decay_rate": 0.5},
        lambda step: 0.1 * 0.5 ** (step / _STEPS),
    ),
    "exponential after a warm-up, from where that ends": (
        {"schedule": "exponential", "decay_rate": 0.5, "warmup_epochs": 2},
        lambda step: 0.1 * _warm(step, 8) * 0.5 ** (max(0, step - 8) / _STEPS),
    ),
    "constant after a warm-up": (
        {"schedule": "constant", "warmup_epochs": 0.5},
        lambda step: 0.1 * _warm(step, 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("course", _COURSES)
def test_the_rate_follows_its_formula(course: str) -> None:
    settings, formula = _COURSES[course]
    schedule = optimizers.schedule(_settings(**settings), _STEPS)
    rates = [float(schedule(step)) for step in range(25)]
    np.testing.assert_allclose(rates, [formula(step) for step in range(25)], rtol=1e-5, atol=1e-9)


def test_without_schedule_and_warm_up_the_rate_is_a_number_that_callbacks_can_set() -> None:
    assert optimizers.schedule(_settings(), _STEPS) == 0.1
    optimizer = optimizers.build(_settings(), _STEPS, _model().layers)
    optimizer.learning_rate = 0.05
    assert float(optimizer.learning_rate) == pytest.approx(0.05)


def test_training_goes_through_the_schedule_step_by_step() -> None:
    settings = _settings(schedule="exponential", decay_rate=0.5, warmup_epochs=1)
    model = _compiled(settings, _model())
    model.fit(_data(), epochs=3, verbose=0)
    assert int(model.optimizer.iterations) == 12
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1 * 0.25)


# --- a rate for each layer --------------------------------------------------------------------------------------------


def _steps_taken(settings: PhaseSettings, hidden: int = 3) -> dict[str, np.ndarray]:
    """By how much one training step moves each weight."""
    model = _compiled(settings, _model(hidden), run_eagerly=True)
    before = {variable.path: variable.numpy() for variable in model.trainable_variables}
    model.fit(_data().take(1), verbose=0)
    return {variable.path: variable.numpy() - before[variable.path] for variable in model.trainable_variables}


_FACTORS = {"trunk_0": 0.125, "trunk_1": 0.25, "trunk_2": 0.5, "head": 1.0}


@pytest.mark.parametrize("name", _NAMES)
def test_each_layer_further_down_moves_by_the_factor_less(name: str) -> None:
    plain, slower = (_steps_taken(_settings(optimizer=name, layer_decay=decay)) for decay in (1.0, 0.5))
    assert len(plain) == 8
    for path, step in plain.items():
        assert np.abs(step).max() > 1e-4
        np.testing.assert_allclose(slower[path], step * _FACTORS[path.split("/")[0]], rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("name", _NAMES)
def test_weights_decay_at_the_rate_of_their_layer(name: str) -> None:
    """With a gradient of zero nothing but the decay moves them."""
    model = _model(3)
    settings = _settings(optimizer=name, layer_decay=0.5, optimizer_options={"weight_decay": 0.01})
    optimizer = optimizers.build(settings, _STEPS, model.layers)
    before = {variable.path: variable.numpy() for variable in model.trainable_variables}
    optimizer.apply([tf.zeros(variable.shape) for variable in model.trainable_variables], model.trainable_variables)
    for variable in model.trainable_variables:
        factor = _FACTORS[variable.path.split("/")[0]]
        np.testing.assert_allclose(variable.numpy(), before[variable.path] * (1 - 0.1 * 0.01 * factor), rtol=1e-6)


def _blocks(layers: list[keras.Layer], head: list[keras.Layer] | None = None) -> list[int]:
    """The block of each layer that has weights, lower to upper; the head's is 0."""
    factors = optimizers.rate_factors(layers, 0.5, head)
    return [round(-math.log2(factors[layer.kernel.path])) for layer in layers if layer.trainable_variables]


def test_many_layers_make_twelve_blocks_of_equal_length() -> None:
    assert _blocks(_model(24).layers) == [*itertools.chain(*([block] * 2 for block in range(12, 0, -1))), 0]
    blocks = _blocks(_model(31).layers)
    sizes = [blocks.count(block) for block in range(1, 13)]
    assert sum(sizes) == 31
    assert set(sizes) == {2, 3}


def test_fewer_layers_make_a_block_each() -> None:
    assert _blocks(_model(5).layers) == [5, 4, 3, 2, 1, 0]
    assert _blocks(_model(0).layers) == [0]


def test_all_layers_of_the_head_have_the_full_rate_and_frozen_layers_do_not_count() -> None:
    model = _model(4)
    model.layers[2].trainable = False
    assert _blocks(model.layers, head=model.layers[-2:]) == [2, 1, 0, 0]


def test_of_a_real_trunk_the_lowest_layers_are_twelve_blocks_down() -> None:
    trunk = models.build_trunk(BackboneSettings(name="MobileNetV2", weights="none", input_size=32))
    grafted = models.graft_head(trunk, HeadSettings(dense=[8]), 3)
    phases.freeze_trunk(grafted, trunk.layers)
    layers = [*phases.trainable_layers(trunk.layers), *grafted.head_layers]
    factors = optimizers.rate_factors(layers, 0.5, grafted.head_layers)
    assert set(factors) == {variable.path for variable in grafted.model.trainable_variables}
    assert factors["head_dense_0/kernel"] == factors["probabilities/kernel"] == 1
    assert factors["Conv_1/kernel"] == 0.5
    assert factors["Conv1/kernel"] == 0.5**12


# --- clipping ---------------------------------------------------------------------------------------------------------


def test_clip_norm_bounds_the_step_over_all_weights_and_keeps_its_direction() -> None:
    plain = {"optimizer": "sgd", "learning_rate": 1.0, "optimizer_options": {"momentum": 0.0}}

    def step(clip_norm: float | None) -> np.ndarray:
        moved = _steps_taken(_settings(**plain, clip_norm=clip_norm))
        return np.concatenate([values.ravel() for values in moved.values()])

    free = step(None)
    norm = np.linalg.norm(free)
    assert norm > 0.1
    np.testing.assert_allclose(step(0.1), free * 0.1 / norm, atol=1e-6)
    np.testing.assert_allclose(step(2 * norm), free, atol=1e-6)


# --- what Keras' optimizers take --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", _NAMES)
def test_the_options_are_those_of_the_keras_optimizer(name: str) -> None:
    kind = type(optimizers.build(_settings(optimizer=name), _STEPS, _model().layers))
    assert kind.__module__.startswith("keras.")
    found = set(inspect.signature(kind).parameters) - {"kwargs"}
    assert found == set(OPTIMIZER_OPTIONS[name]) | set(NOT_OPTIMIZER_OPTIONS)


_VALUES: dict[str, list[Any]] = {
    "gradient_accumulation_steps": [2, 1000],
    **{key: [True, False] for key in ("amsgrad", "centered", "nesterov")},
    **{key: [0, 0.999] for key in ("momentum", "rho", "beta_1", "beta_2")},
    "epsilon": [1e-12, 1],
    "weight_decay": [0, 0.004],
}


@pytest.mark.parametrize("name", _NAMES)
def test_what_the_config_lets_through_keras_takes_and_trains_with(name: str) -> None:
    """Whole numbers too, of which Keras refuses some where it wants a float."""
    for position in (0, 1):
        options = {key: _VALUES[key][position] for key in OPTIMIZER_OPTIONS[name]}
        model = _model()
        optimizer = optimizers.build(_settings(optimizer=name, optimizer_options=options), _STEPS, model.layers)
        gradients = [tf.ones(variable.shape) for variable in model.trainable_variables]
        for _ in range(2):
            optimizer.apply(gradients, model.trainable_variables)
        for key, value in options.items():
            assert getattr(optimizer, key) == value
        assert all(np.isfinite(variable.numpy()).all() for variable in model.trainable_variables)


def test_sgd_has_momentum_unless_told_otherwise() -> None:
    assert optimizers.build(_settings(optimizer="sgd"), _STEPS, _model().layers).momentum == 0.9
    settings = _settings(optimizer="sgd", optimizer_options={"nesterov": True, "momentum": 0.5})
    assert optimizers.build(settings, _STEPS, _model().layers).momentum == 0.5


@pytest.mark.parametrize(
    ("optimizer", "options", "expected"),
    [
        ("sgd", {"momentun": 0.9}, "did you mean 'momentum'"),
        ("adam", {"momentum": 0.9}, "made of the options of adam: beta_1, beta_2, epsilon, amsgrad, weight_decay"),
        ("sgd", {"momentum": "high"}, "with a momentum that is a valid number"),
        ("sgd", {"momentum": 1.5}, "with a momentum that is less than 1"),
        ("sgd", {"nesterov": 1}, "with a nesterov that is a valid boolean"),
        ("adamw", {"weight_decay": None}, "with a weight_decay that is a valid number"),
        ("adam", {"learning_rate": 0.1}, "without 'learning_rate': it is a key of its own"),
        ("adam", {"clipvalue": 0.1}, "without 'clipvalue': gradients are clipped by the key clip_norm"),
    ],
)
def test_what_the_optimizer_does_not_take_is_refused(optimizer: str, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        _settings(optimizer=optimizer, optimizer_options=options)


# --- stopping and going on --------------------------------------------------------------------------------------------

_RUNS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": "adam", "layer_decay": 0.7},
    "adamw, cosine": {"optimizer": "adamw", "schedule": "cosine", "warmup_epochs": 1, "clip_norm": 0.5},
    "rmsprop, exponential": {
        "optimizer": "rmsprop", "schedule": "exponential", "warmup_epochs": 2.5, "layer_decay": 0.7,
        "optimizer_options": {"momentum": 0.5, "centered": True},
    },
    "sgd, exponential": {"optimizer": "sgd", "schedule": "exponential", "optimizer_options": {"nesterov": True}},
    "adam, in the middle of an accumulation": {
        "optimizer": "adam", "layer_decay": 0.7,
        "optimizer_options": {"gradient_accumulation_steps": 3, "weight_decay": 0.01},
    },
}  # fmt: skip


def _resumed_equals_unbroken(settings: PhaseSettings, dtype: str = "float32") -> None:
    unbroken = _compiled(settings, _model(dtype=dtype))
    saved: dict[int, tuple[list[np.ndarray], list[np.ndarray]]] = {}

    def save(epoch: int, logs: object) -> None:
        saved[epoch] = unbroken.get_weights(), [variable.numpy() for variable in unbroken.optimizer.variables]

    unbroken.fit(_data(), epochs=3, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=save)], verbose=0)
    weights, state = saved[1]  # of the second

    resumed = _compiled(settings, _model(dtype=dtype))
    resumed.set_weights(weights)
    resumed.optimizer.build(resumed.trainable_variables)
    for variable, value in zip(resumed.optimizer.variables, state, strict=True):
        variable.assign(value)
    resumed.fit(_data(), epochs=3, initial_epoch=2, verbose=0)

    for ours, theirs, earlier in zip(resumed.get_weights(), unbroken.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert (ours != earlier).any()
    for ours, theirs in zip(resumed.optimizer.variables, unbroken.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("run", _RUNS)
def test_training_that_goes_on_from_saved_variables_is_training_that_never_stopped(run: str) -> None:
    _resumed_equals_unbroken(_settings(learning_rate=0.01, **_RUNS[run]))


def test_a_model_that_is_saved_compiled_is_loaded_with_its_optimizer_and_goes_on(tmp_path: pathlib.Path) -> None:
    settings = _settings(schedule="exponential", warmup_epochs=1, layer_decay=0.5, clip_norm=1.0)
    model = _compiled(settings, _model())
    model.fit(_data(), epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is optimizers.LayerwiseAdam
    for one in (model, loaded):
        one.fit(_data(), epochs=1, verbose=0)
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_model_that_is_saved_without_its_optimizer_needs_no_graftline_to_load(tmp_path: pathlib.Path) -> None:
    model = _compiled(_settings(schedule="exponential", warmup_epochs=1, layer_decay=0.5), _model())
    model.fit(_data(), verbose=0)
    named = {}
    for name, saved in (("with", model), ("without", keras.Model(model.inputs, model.outputs))):
        saved.save(tmp_path / f"{name}.keras")
        with zipfile.ZipFile(tmp_path / f"{name}.keras") as file:
            named[name] = b"graftline>" in file.read("config.json")
    assert named == {"with": True, "without": False}
    loaded = keras.saving.load_model(tmp_path / "without.keras")
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# --- 16 bits ----------------------------------------------------------------------------------------------------------

_SMALL = BackboneSettings(name="MobileNetV2", weights="none", input_size=32, options={"alpha": 0.35})
_CUT_AT = "block_4_add"


def _pixels(count: int = 12) -> np.ndarray:
    drawn = [images.draw(images.CLASSES[seed % 3], seed, (32, 32)) for seed in range(count)]
    return np.stack([np.asarray(image, np.float32) for image in drawn]) / 127.5 - 1


def _grafted(precision: str, like: keras.Model | None = None) -> models.Grafted:
    keras.utils.set_random_seed(0)
    grafted = models.graft_head(models.build_trunk(_SMALL, _CUT_AT, precision), HeadSettings(dropout=0), 3)
    if like is not None:
        grafted.model.set_weights(like.get_weights())
        return grafted
    models.calibrate(grafted.trunk, _pixels())
    kernel = grafted.model.get_layer("probabilities").kernel
    kernel.assign(np.random.default_rng(2).normal(0, 0.03, kernel.shape))  # it begins at zero
    return grafted


@pytest.fixture(scope="module")
def full() -> models.Grafted:
    return _grafted("float32")


@pytest.fixture(scope="module")
def half(full: models.Grafted) -> models.Grafted:
    """The same weights, computed in bfloat16."""
    return _grafted("mixed_bfloat16", like=full.model)


def test_the_trunk_computes_in_16_bits_with_weights_in_32(half: models.Grafted) -> None:
    assert {layer.compute_dtype for layer in half.trunk.layers if layer.weights} == {"bfloat16"}
    assert {variable.dtype for variable in half.model.weights} == {"float32"}
    assert half.trunk.output.dtype == "bfloat16"
    assert half.pooled.dtype == half.model.output.dtype == "float32"


def test_the_policy_is_put_back_even_where_the_trunk_cannot_be_built() -> None:
    with pytest.raises(UserError):
        models.build_trunk(_SMALL.model_copy(update={"options": {"alhpa": 1}}), precision="mixed_bfloat16")
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("name", ["EfficientNetB0", "ConvNeXtTiny"])
def test_trunks_with_layers_of_their_own_run_in_16_bits(name: str) -> None:
    trunk = models.build_trunk(BackboneSettings(name=name, weights="none", input_size=32), precision="mixed_bfloat16")
    found = keras.ops.cast(trunk(_pixels(2) * 127.5 + 127.5, training=False), "float32")
    assert np.isfinite(found).all()


def test_a_random_trunk_is_calibrated_in_float16_without_overflow() -> None:
    trunk = models.build_trunk(_SMALL, _CUT_AT, "mixed_float16")
    loud = _pixels() * 500  # squares of these are beyond float16
    models.calibrate(trunk, loud)
    found = keras.ops.convert_to_numpy(trunk(loud, training=False))
    assert found.dtype == np.float16
    assert 0.01 < found.astype(np.float32).std(axis=0).mean() < 10


def test_answers_in_bfloat16_are_near_those_in_float32(full: models.Grafted, half: models.Grafted) -> None:
    expected, found = (keras.ops.convert_to_numpy(grafted.model(_pixels(), training=False)) for grafted in (full, half))
    assert expected.std(axis=0).max() > 0.02, "answers that are all alike would prove nothing"
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert (found != expected).any()


def test_training_from_activations_at_the_boundary_is_training_the_whole_in_bfloat16(full: models.Grafted) -> None:
    """The cache holds float32; what was bfloat16 comes back unchanged."""
    labels = np.arange(12) % 3
    results = []
    for cached in (True, False):
        grafted = _grafted("mixed_bfloat16", like=full.model)
        unfrozen = models.layers_to_unfreeze(grafted.trunk, "block_4_project")
        phases.freeze_trunk(grafted, unfrozen)
        model, x = grafted.model, _pixels()
        if cached:
            cut = phases.find_boundary(grafted, unfrozen)
            assert cut.dtype == "bfloat16"
            below = keras.Model(model.inputs[0], cut)(x, training=False)
            model, x = boundary.part_above(model, cut), below.numpy().astype(np.float32)
        layers = [*phases.trainable_layers(unfrozen), *grafted.head_layers]
        optimizer = optimizers.build(_settings(learning_rate=1e-3), 1, layers, grafted.head_layers)
        model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
        model.fit(x, labels, batch_size=12, epochs=2, verbose=0)
        results.append({variable.path: variable.numpy() for variable in grafted.model.trainable_variables})
    assert len(results[0]) == 3
    before = {variable.path: variable.numpy() for variable in full.model.weights}
    for path, values in results[0].items():
        assert np.abs(values - before[path]).max() > 1e-4
        np.testing.assert_allclose(values, results[1][path], atol=2e-5)


def test_a_model_in_bfloat16_is_exported_with_float32_weights_and_answers(
    half: models.Grafted, full: models.Grafted, transformed: Transformed, tmp_path: pathlib.Path
) -> None:
    transform = tft.TFTransformOutput(transformed.directory)
    export.export(half.model, half.pooled, transform, str(tmp_path))
    files = tf.constant([images.encode(images.draw(label, seed)) for label in images.CLASSES for seed in range(2)])
    answers = tf.saved_model.load(str(tmp_path)).signatures[signatures.SERVING_DEFAULT](image_bytes=files)
    pixels = transform.transform_features_layer()({features.IMAGE: files[:, tf.newaxis]})[features.PIXELS]
    found, expected = answers[signatures.PROBABILITIES], full.model(pixels, training=False)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, expected, atol=0.02)
    saved = saved_model_pb2.SavedModel.FromString((tmp_path / "saved_model.pb").read_bytes())
    nodes = [node for one in saved.meta_graphs[0].graph_def.library.function for node in one.node_def]
    constants = [node.attr["value"].tensor for node in nodes if node.op == "Const"]
    weights = [one for one in constants if len(one.tensor_content) > 100]
    assert len(weights) > 40
    assert {tf.as_dtype(one.dtype) for one in weights} == {tf.float32}


def test_layers_in_float16_have_their_loss_scaled_and_go_on_as_if_never_stopped() -> None:
    settings = _settings(learning_rate=0.01, schedule="cosine", warmup_epochs=1, layer_decay=0.5, clip_norm=1.0)
    optimizer = optimizers.build(settings, _STEPS, _model(dtype="mixed_float16").layers)
    assert type(optimizer) is keras.optimizers.LossScaleOptimizer
    assert type(optimizer.inner_optimizer) is optimizers.LayerwiseAdam
    _resumed_equals_unbroken(settings, "mixed_float16")


def test_other_layers_have_their_loss_left_as_it_is() -> None:
    for dtype in ("float32", "mixed_bfloat16"):
        assert type(optimizers.build(_settings(), _STEPS, _model(dtype=dtype).layers)) is keras.optimizers.Adam


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="a GPU computes in 16 bits")
def test_a_cpu_that_lacks_the_precision_is_told_of(tmp_path: pathlib.Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"

    def warning(precision: str, flags: str) -> str | None:
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: fpu sse2 {flags}\n")
        return optimizers.precision_warning(precision, cpuinfo)

    assert warning("float32", "avx2") is None
    assert warning("mixed_bfloat16", "avx512_bf16 avx2") is None
    assert warning("mixed_bfloat16", "avx2 amx_bf16") is None
    assert "bfloat16 is then emulated" in (warning("mixed_bfloat16", "avx512f avx2") or "")
    assert "emulated" in (optimizers.precision_warning("mixed_bfloat16", tmp_path / "none") or "")
    assert "on a CPU a training step in float16 takes 50 to 100 times" in (warning("mixed_float16", "avx2") or "")
