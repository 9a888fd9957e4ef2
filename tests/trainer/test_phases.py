"""A phase resumes from any of its epochs as if it had never stopped, and survives a loss that is NaN."""

import dataclasses
import math
import pathlib
from typing import Any

import keras
import numpy as np
import pytest

from graftline.errors import UserError
from graftline.trainer import checkpoints, phases
from graftline.trainer.activations import CachedBatches
from graftline.trainer.checkpoints import Checkpoint, Checkpoints
from graftline.trainer.phases import PhaseResult
from graftline.trainer.settings import PhaseSettings, TrainingSettings

_BATCH = 8
_TRAINING = TrainingSettings(batch_size=_BATCH)


def _data(seed: int, count: int, flipped: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return two classes along a line; a part of the labels is wrong, so that training can overfit."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 6)).astype(np.float32)
    wrong = random.random(count) < flipped
    return x, ((x[:, 0] > 0) ^ wrong).astype(np.int64)


class _Bad(CachedBatches):
    """Batches of which one, at an epoch and a step that are counted from 1, holds NaN."""

    bad: tuple[int, int] = (0, 0)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = super().__getitem__(index)
        return (x * np.float32(np.nan) if (self.epoch + 1, index + 1) == self.bad else x), y


def _part(dtype: str = "float32", flipped: float = 0.0, bad: tuple[int, int] = (0, 0)) -> phases.TrainedPart:
    """Return a small net with dropout of units, and of a whole branch like EfficientNet's stochastic depth."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input([6])
    branch = keras.layers.Dense(6, activation="relu", dtype=dtype)(inputs)
    branch = keras.layers.Dropout(0.3, noise_shape=(None, 1), dtype=dtype)(branch)
    x = keras.layers.Dropout(0.3)(keras.layers.Add(dtype=dtype)([inputs, branch]))
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax", dtype="float32")(x))
    layers = [layer for layer in model.layers if layer.weights]
    train = _Bad(*_data(1, 36, flipped), _BATCH, seed=5)  # type: ignore[arg-type]
    train.bad = bad
    return phases.TrainedPart(model, layers, layers[-1:], train, CachedBatches(*_data(2, 20), _BATCH))  # type: ignore[arg-type]


def _settings(**changed: Any) -> PhaseSettings:
    return PhaseSettings(**{"epochs": 5, "learning_rate": 0.02, "patience": 10, **changed})


class _States(keras.callbacks.Callback):
    """Keeps what a run that was killed after each epoch would find."""

    def __init__(self, root: pathlib.Path) -> None:
        super().__init__()
        self._root, self.states = str(root), []  # type: ignore[var-annotated]

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        self.states.append(Checkpoints(self._root, checkpoints.key("phase")).load())


def _unbroken(
    part: phases.TrainedPart, settings: PhaseSettings, root: pathlib.Path, **options: Any
) -> tuple[PhaseResult, list[Checkpoint]]:
    """Return a phase's result, and its checkpoint after each epoch."""
    states = _States(root)
    store = Checkpoints(str(root), checkpoints.key("phase"))
    return phases.train_phase("p", part, settings, _TRAINING, [states], store, **options), states.states


def _assert_same(ours: phases.TrainedPart, theirs: phases.TrainedPart) -> None:
    """Assert equality to the last bit: weights, the state of dropout, the optimizer's variables."""
    for of in (lambda model: model.variables, lambda model: model.optimizer.variables):
        for one, other in zip(of(ours.model), of(theirs.model), strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)


# --- resuming ---------------------------------------------------------------------------------------------------------

_OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": "adam"},
    "adamw": {"optimizer": "adamw", "optimizer_options": {"weight_decay": 0.05}},
    "sgd": {"optimizer": "sgd", "optimizer_options": {"momentum": 0.8}},
    "rmsprop": {"optimizer": "rmsprop", "optimizer_options": {"momentum": 0.5, "centered": True}},
}
_COURSES: dict[str, dict[str, Any]] = {
    "cosine": {"schedule": "cosine", "alpha": 0.1},
    "warm-up": {"warmup_epochs": 2.5, "clip_norm": 1.0},
    "layer_decay": {"schedule": "exponential", "layer_decay": 0.5},
    "all at once": {"schedule": "cosine", "warmup_epochs": 2.5, "clip_norm": 1.0, "layer_decay": 0.5},
}


@pytest.mark.parametrize(
    "course", [pytest.param(name, marks=[] if name == "all at once" else pytest.mark.slow) for name in _COURSES]
)
@pytest.mark.parametrize("optimizer", _OPTIMIZERS)
def test_a_phase_that_resumes_ends_like_one_that_never_stopped(
    tmp_path: pathlib.Path, optimizer: str, course: str
) -> None:
    settings = _settings(**_OPTIMIZERS[optimizer], **_COURSES[course])
    unbroken = _part()
    expected, states = _unbroken(unbroken, settings, tmp_path)
    broken = _part()
    assert phases.train_phase("p", broken, settings, _TRAINING, resume=states[1]) == expected
    assert expected.best_epoch > 1, "what came after the break must count"
    _assert_same(broken, unbroken)


def test_a_phase_resumes_from_any_epoch_in_bfloat16(tmp_path: pathlib.Path) -> None:
    unbroken = _part("mixed_bfloat16")
    expected, states = _unbroken(unbroken, _settings(epochs=3), tmp_path)
    for state in states:
        broken = _part("mixed_bfloat16")
        assert phases.train_phase("p", broken, _settings(epochs=3), _TRAINING, resume=state) == expected
        _assert_same(broken, unbroken)


def test_a_phase_resumes_from_any_epoch_and_ends_at_the_same_plateau(tmp_path: pathlib.Path) -> None:
    """The best epoch, and the number of epochs since, are restored too."""
    settings = _settings(epochs=40, patience=3, learning_rate=0.1)
    unbroken = _part(flipped=0.3)
    expected, states = _unbroken(unbroken, settings, tmp_path)
    assert expected.ended == "plateau"
    assert expected.best_epoch == expected.epochs - 1 - settings.patience > 0
    for state in (states[0], states[expected.best_epoch], states[-2], states[-1]):
        broken = _part(flipped=0.3)
        assert phases.train_phase("p", broken, settings, _TRAINING, resume=state) == expected
        for ours, theirs in zip(broken.model.get_weights(), unbroken.model.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_weights_from_before_the_phase_can_be_restored_after_a_break(tmp_path: pathlib.Path) -> None:
    settings = _settings(epochs=3, min_delta=100)
    part = _part()
    before = part.model.get_weights()
    expected, states = _unbroken(part, settings, tmp_path)
    broken = _part()
    assert phases.train_phase("p", broken, settings, _TRAINING, resume=states[1]) == expected
    assert (expected.kept, expected.best_epoch) == (False, -1)
    for ours, theirs in zip(broken.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


# --- NaN --------------------------------------------------------------------------------------------------------------


class _Steps(keras.callbacks.Callback):
    """Counts the training steps."""

    count = 0

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        self.count += 1


def test_training_stops_at_the_step_whose_loss_is_nan_and_keeps_the_best_weights(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    clean, steps = _part(), _Steps()
    phases.train_phase("p", clean, _settings(epochs=1), _TRAINING, may_discard=False)
    part = _part(bad=(2, 3))
    store = Checkpoints(str(tmp_path), checkpoints.key("phase"))
    result = phases.train_phase("p", part, _settings(), _TRAINING, [steps], store, may_discard=False)
    assert (result.ended, result.epochs, result.best_epoch, result.kept) == ("nan", 1, 0, True)
    assert steps.count == 5 + 3
    assert result.note == (
        "the loss was no longer a number at epoch 2, step 3; the weights of epoch 1 were kept; "
        "lower p.learning_rate (now 0.02) or set p.clip_norm"
    )
    assert result.note in caplog.text
    assert all(math.isfinite(value) for values in result.history.values() for value in values)
    for ours, theirs in zip(part.model.get_weights(), clean.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    checkpoint = store.load()  # of epoch 1: a run that is killed now ends in the same way
    again = _part(bad=(2, 3))
    assert phases.train_phase("p", again, _settings(), _TRAINING, resume=checkpoint) == result


def test_the_eval_split_finds_weights_that_the_last_step_of_an_epoch_ruined() -> None:
    whole = CachedBatches(*_data(1, 36), 36)  # type: ignore[arg-type]
    part = dataclasses.replace(_part(), train=whole)
    before = part.model.get_weights()
    settings = _settings(optimizer="sgd", learning_rate=3e38)
    result = phases.train_phase("p", part, settings, TrainingSettings(batch_size=36))
    assert result.note.startswith("the loss was no longer a number at epoch 1; the weights from before the phase")
    assert (result.ended, result.kept) == ("nan", False)
    for ours, theirs in zip(part.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_nan_before_anything_is_learned_is_an_error_with_its_remedy() -> None:
    with pytest.raises(UserError) as caught:
        phases.train_phase("feature_extraction", _part(bad=(1, 2)), _settings(), _TRAINING, may_discard=False)
    assert str(caught.value) == (
        "feature_extraction: the loss was no longer a number at epoch 1, step 2, and nothing is trained yet; "
        "lower feature_extraction.learning_rate (now 0.02) or set feature_extraction.clip_norm"
    )


def test_a_later_phase_that_fails_at_once_keeps_the_weights_of_the_phase_before() -> None:
    part = _part(bad=(1, 1))
    before = part.model.get_weights()
    result = phases.train_phase("fine_tuning", part, _settings(), _TRAINING)
    assert (result.ended, result.epochs, result.kept, result.history) == ("nan", 0, False, {})
    assert "at epoch 1, step 1; the weights from before the phase were kept" in result.note
    assert math.isnan(result.accuracy)
    for ours, theirs in zip(part.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
