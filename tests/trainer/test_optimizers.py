"""The optimizer of a phase: the rate at each step, the rate of each layer, clipping, and resuming."""

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
from pydantic import ValidationError

from graftline.trainer import heads, models, optimizers, phases
from graftline.trainer.settings import (
    NOT_OPTIMIZER_OPTIONS,
    OPTIMIZER_OPTIONS,
    BackboneSettings,
    HeadSettings,
    PhaseSettings,
)
from tests.trainer.small_models import (
    STEPS,
    assert_resumed_equals_unbroken,
    compile_model,
    make_dataset,
    make_model,
    phase_settings,
)

_NAMES = ("adam", "adamw", "rmsprop", "sgd")


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
        lambda step: 0.1 * 0.5 ** (step / STEPS),
    ),
    "exponential after a warm-up, from where that ends": (
        {"schedule": "exponential", "decay_rate": 0.5, "warmup_epochs": 2},
        lambda step: 0.1 * _warm(step, 8) * 0.5 ** (max(0, step - 8) / STEPS),
    ),
    "constant after a warm-up": (
        {"schedule": "constant", "warmup_epochs": 0.5},
        lambda step: 0.1 * _warm(step, 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("course", _COURSES)
def test_the_rate_follows_its_formula(course: str) -> None:
    settings, formula = _COURSES[course]
    schedule = optimizers.schedule(phase_settings(**settings), STEPS)
    rates = [float(schedule(step)) for step in range(25)]
    np.testing.assert_allclose(rates, [formula(step) for step in range(25)], rtol=1e-5, atol=1e-9)


def test_without_schedule_and_warm_up_the_rate_is_a_number_that_callbacks_can_set() -> None:
    assert optimizers.schedule(phase_settings(), STEPS) == 0.1
    optimizer = optimizers.build(phase_settings(), STEPS, make_model().layers)
    optimizer.learning_rate = 0.05
    assert float(optimizer.learning_rate) == pytest.approx(0.05)


def test_training_goes_through_the_schedule_step_by_step() -> None:
    settings = phase_settings(schedule="exponential", decay_rate=0.5, warmup_epochs=1)
    model = compile_model(settings, make_model())
    model.fit(make_dataset(), epochs=3, verbose=0)
    assert int(model.optimizer.iterations) == 12
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1 * 0.25)


# --- a rate for each layer --------------------------------------------------------------------------------------------


def _steps_taken(settings: PhaseSettings, hidden: int = 3) -> dict[str, np.ndarray]:
    """Return how far one training step moves each weight."""
    model = compile_model(settings, make_model(hidden), run_eagerly=True)
    before = {variable.path: variable.numpy() for variable in model.trainable_variables}
    model.fit(make_dataset().take(1), verbose=0)
    return {variable.path: variable.numpy() - before[variable.path] for variable in model.trainable_variables}


_FACTORS = {"trunk_0": 0.125, "trunk_1": 0.25, "trunk_2": 0.5, "head": 1.0}


@pytest.mark.parametrize("name", _NAMES)
def test_each_lower_layer_moves_less_by_the_factor(name: str) -> None:
    plain, slower = (_steps_taken(phase_settings(optimizer=name, layer_decay=decay)) for decay in (1.0, 0.5))
    assert len(plain) == 8
    for path, step in plain.items():
        assert np.abs(step).max() > 1e-4
        np.testing.assert_allclose(slower[path], step * _FACTORS[path.split("/")[0]], rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("name", _NAMES)
def test_weights_decay_at_the_rate_of_their_layer(name: str) -> None:
    """With a gradient of zero only the decay moves the weights."""
    model = make_model(3)
    settings = phase_settings(optimizer=name, layer_decay=0.5, optimizer_options={"weight_decay": 0.01})
    optimizer = optimizers.build(settings, STEPS, model.layers)
    before = {variable.path: variable.numpy() for variable in model.trainable_variables}
    optimizer.apply([tf.zeros(variable.shape) for variable in model.trainable_variables], model.trainable_variables)
    for variable in model.trainable_variables:
        factor = _FACTORS[variable.path.split("/")[0]]
        np.testing.assert_allclose(variable.numpy(), before[variable.path] * (1 - 0.1 * 0.01 * factor), rtol=1e-6)


def _blocks(layers: list[keras.Layer], head: list[keras.Layer] | None = None) -> list[int]:
    """Return the block of each layer that has weights, lower to upper; the head's is 0."""
    factors = optimizers.rate_factors(layers, 0.5, head)
    return [round(-math.log2(factors[layer.kernel.path])) for layer in layers if layer.trainable_variables]


def test_many_layers_make_twelve_blocks_of_equal_length() -> None:
    assert _blocks(make_model(24).layers) == [*itertools.chain(*([block] * 2 for block in range(12, 0, -1))), 0]
    blocks = _blocks(make_model(31).layers)
    sizes = [blocks.count(block) for block in range(1, 13)]
    assert sum(sizes) == 31
    assert set(sizes) == {2, 3}


def test_fewer_layers_make_a_block_each() -> None:
    assert _blocks(make_model(5).layers) == [5, 4, 3, 2, 1, 0]
    assert _blocks(make_model(0).layers) == [0]


def test_all_layers_of_the_head_have_the_full_rate_and_frozen_layers_do_not_count() -> None:
    model = make_model(4)
    model.layers[2].trainable = False
    assert _blocks(model.layers, head=model.layers[-2:]) == [2, 1, 0, 0]


def test_the_lowest_layers_of_a_real_trunk_are_twelve_blocks_down() -> None:
    trunk = models.build_trunk(BackboneSettings(name="MobileNetV2", weights="none", input_size=32))
    grafted = heads.graft(trunk, HeadSettings(dense=[8]), 3)
    phases.freeze_trunk(grafted, phases.trainable_layers(trunk.layers))
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
        moved = _steps_taken(phase_settings(**plain, clip_norm=clip_norm))
        return np.concatenate([values.ravel() for values in moved.values()])

    free = step(None)
    norm = np.linalg.norm(free)
    assert norm > 0.1
    np.testing.assert_allclose(step(0.1), free * 0.1 / norm, atol=1e-6)
    np.testing.assert_allclose(step(2 * norm), free, atol=1e-6)


# --- what Keras' optimizers take --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", _NAMES)
def test_the_options_are_those_of_the_keras_optimizer(name: str) -> None:
    kind = type(optimizers.build(phase_settings(optimizer=name), STEPS, make_model().layers))
    assert kind.__module__.startswith("keras.")
    arguments = set(inspect.signature(kind).parameters) - {"kwargs"}
    assert arguments == set(OPTIMIZER_OPTIONS[name]) | set(NOT_OPTIMIZER_OPTIONS)


_VALUES: dict[str, list[Any]] = {
    "gradient_accumulation_steps": [2, 1000],
    **{key: [True, False] for key in ("amsgrad", "centered", "nesterov")},
    **{key: [0, 0.999] for key in ("momentum", "rho", "beta_1", "beta_2")},
    "epsilon": [1e-12, 1],
    "weight_decay": [0, 0.004],
}


@pytest.mark.parametrize("name", _NAMES)
def test_keras_takes_and_trains_with_every_option_that_the_config_accepts(name: str) -> None:
    """Whole numbers too: Keras refuses some of them where it needs a float."""
    for position in (0, 1):
        options = {key: _VALUES[key][position] for key in OPTIMIZER_OPTIONS[name]}
        model = make_model()
        optimizer = optimizers.build(phase_settings(optimizer=name, optimizer_options=options), STEPS, model.layers)
        gradients = [tf.ones(variable.shape) for variable in model.trainable_variables]
        for _ in range(2):
            optimizer.apply(gradients, model.trainable_variables)
        for key, value in options.items():
            assert getattr(optimizer, key) == value
        assert all(np.isfinite(variable.numpy()).all() for variable in model.trainable_variables)


def test_sgd_has_momentum_by_default() -> None:
    assert optimizers.build(phase_settings(optimizer="sgd"), STEPS, make_model().layers).momentum == 0.9
    settings = phase_settings(optimizer="sgd", optimizer_options={"nesterov": True, "momentum": 0.5})
    assert optimizers.build(settings, STEPS, make_model().layers).momentum == 0.5


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
def test_an_option_that_the_optimizer_does_not_take_is_refused(
    optimizer: str, options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValidationError, match=expected):
        phase_settings(optimizer=optimizer, optimizer_options=options)


# --- stopping and resuming --------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("run", _RUNS)
def test_training_that_resumes_from_saved_variables_equals_unbroken_training(run: str) -> None:
    assert_resumed_equals_unbroken(phase_settings(learning_rate=0.01, **_RUNS[run]))


def test_a_model_that_is_saved_compiled_is_loaded_with_its_optimizer_and_can_train(tmp_path: pathlib.Path) -> None:
    settings = phase_settings(schedule="exponential", warmup_epochs=1, layer_decay=0.5, clip_norm=1.0)
    model = compile_model(settings, make_model())
    model.fit(make_dataset(), epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is optimizers.LayerwiseAdam
    for one in (model, loaded):
        one.fit(make_dataset(), epochs=1, verbose=0)
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_model_that_is_saved_without_its_optimizer_needs_no_graftline_to_load(tmp_path: pathlib.Path) -> None:
    model = compile_model(phase_settings(schedule="exponential", warmup_epochs=1, layer_decay=0.5), make_model())
    model.fit(make_dataset(), verbose=0)
    named = {}
    for name, saved in (("with", model), ("without", keras.Model(model.inputs, model.outputs))):
        saved.save(tmp_path / f"{name}.keras")
        with zipfile.ZipFile(tmp_path / f"{name}.keras") as file:
            named[name] = b"graftline>" in file.read("config.json")
    assert named == {"with": True, "without": False}
    loaded = keras.saving.load_model(tmp_path / "without.keras")
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
