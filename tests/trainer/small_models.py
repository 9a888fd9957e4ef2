"""Small models and their optimizers, for the tests of optimizers and precision."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from graftline.trainer import optimizers
from graftline.trainer.settings import PhaseSettings

STEPS = 4  # in an epoch


def phase_settings(**changed: Any) -> PhaseSettings:
    """Return settings of a phase of 5 epochs, with changes."""
    return PhaseSettings.model_validate({"epochs": 5, "learning_rate": 0.1, "patience": 3, **changed})


def make_dataset() -> tf.data.Dataset:
    """Return STEPS batches of two classes."""
    random = np.random.default_rng(3)
    x = random.normal(size=(STEPS * 8, 6)).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((x, (x[:, 0] + x[:, 1] > 0).astype(np.int64))).batch(8)


def make_model(hidden: int = 2, dtype: str = "float32") -> keras.Model:
    """Return a trunk of `hidden` layers and a head, with the same weights every time."""
    keras.utils.set_random_seed(7)
    x = inputs = keras.Input([6])
    for number in range(hidden):
        x = keras.layers.Dense(6, activation="tanh", dtype=dtype, name=f"trunk_{number}")(x)
    return keras.Model(inputs, keras.layers.Dense(2, activation="softmax", dtype="float32", name="head")(x))


def compile_model(settings: PhaseSettings, model: keras.Model, **options: Any) -> keras.Model:
    """Compile a model with the phase's optimizer."""
    optimizer = optimizers.build(settings, STEPS, model.layers)
    model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False, **options)
    return model


def assert_resumed_equals_unbroken(settings: PhaseSettings, dtype: str = "float32") -> None:
    """Assert that training which resumes from the variables of an epoch ends like training without a break."""
    unbroken = compile_model(settings, make_model(dtype=dtype))
    saved: dict[int, tuple[list[np.ndarray], list[np.ndarray]]] = {}

    def save(epoch: int, logs: object) -> None:
        saved[epoch] = unbroken.get_weights(), [variable.numpy() for variable in unbroken.optimizer.variables]

    unbroken.fit(make_dataset(), epochs=3, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=save)], verbose=0)
    weights, state = saved[1]  # of the second

    resumed = compile_model(settings, make_model(dtype=dtype))
    resumed.set_weights(weights)
    resumed.optimizer.build(resumed.trainable_variables)
    for variable, value in zip(resumed.optimizer.variables, state, strict=True):
        variable.assign(value)
    resumed.fit(make_dataset(), epochs=3, initial_epoch=2, verbose=0)

    for ours, theirs, earlier in zip(resumed.get_weights(), unbroken.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert (ours != earlier).any()
    for ours, theirs in zip(resumed.optimizer.variables, unbroken.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
