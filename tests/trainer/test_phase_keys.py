"""The keys of a phase: what is monitored and kept, how long an epoch is, BatchNormalization, callbacks, TensorBoard."""

import json
import pathlib

import keras
import numpy as np
import pytest
from pydantic import ValidationError

from graftline.errors import UserError
from graftline.pipeline import cache_keys
from graftline.trainer import checks, compare, heads, models, phases, run_fn, training, user_callbacks
from graftline.trainer.activations import EpochOrder
from graftline.trainer.checkpoints import Checkpoints
from graftline.trainer.settings import (
    BackboneSettings,
    FineTuningSettings,
    HeadSettings,
    PhaseSettings,
    TrainerSettings,
    TrainingSettings,
)
from tests.trainer.runs import Data, assert_trained_alike, fn_args, prepare, train_both_phases
from tests.trainer.test_phases import _TRAINING, _part, _settings

_CALLBACKS = f"{__name__}:Marking"


class Marking(keras.callbacks.Callback):
    """Counts the trainings that ended."""

    def on_train_end(self, logs: object = None) -> None:
        Marking.ended += 1

    ended = 0


def not_a_callback() -> int:
    return 3


def fails() -> None:
    raise RuntimeError("no token")


# --- what is monitored, and what is kept ------------------------------------------------------------------------------


def _train(flipped: float = 0.3, **changed: object) -> tuple[phases.PhaseResult, phases.TrainedPart]:
    part = _part(flipped=flipped)
    return phases.train_phase("p", part, _settings(epochs=12, learning_rate=0.1, **changed), _TRAINING), part


def test_the_best_epoch_is_that_of_the_monitored_value() -> None:
    by_loss, _ = _train(0.1)
    by_accuracy, _ = _train(0.1, monitor="val_accuracy")
    assert by_loss.history == by_accuracy.history
    assert by_loss.best_epoch == np.argmin(by_loss.history["val_loss"])
    assert by_accuracy.best_epoch == np.argmax(by_accuracy.history["val_accuracy"])
    assert by_accuracy.best_epoch != by_loss.best_epoch, "the same epoch would prove nothing"
    assert by_accuracy.val_accuracy == max(by_accuracy.history["val_accuracy"])
    assert by_accuracy.val_loss == by_accuracy.history["val_loss"][by_accuracy.best_epoch]


def test_the_last_weights_are_kept_when_the_best_are_not_asked_for() -> None:
    best, best_part = _train()
    last, last_part = _train(restore_best_weights=False)
    assert best.best_epoch < 11 == last.best_epoch
    assert last.kept
    assert last.val_loss == last.history["val_loss"][-1]
    metrics = last_part.model.evaluate(last_part.val.for_fit, verbose=0, return_dict=True)
    np.testing.assert_allclose(metrics["loss"], last.val_loss, rtol=1e-6)
    assert any(
        (a != b).any() for a, b in zip(best_part.model.get_weights(), last_part.model.get_weights(), strict=True)
    )


def test_patience_null_trains_all_epochs() -> None:
    stopped, _ = _train(patience=1)
    assert (stopped.ended, stopped.epochs) != ("epochs", 12)
    whole, _ = _train(patience=None)
    assert (whole.ended, whole.epochs) == ("epochs", 12)


def test_patience_null_without_epochs_is_refused() -> None:
    with pytest.raises(ValidationError, match="because patience null never ends a phase before them"):
        FineTuningSettings(patience=None)
    assert FineTuningSettings(patience=None, epochs=3).patience is None


def test_a_phase_that_keeps_the_last_weights_resumes(tmp_path: pathlib.Path) -> None:
    from tests.trainer.test_phases import _assert_same, _unbroken

    settings = _settings(monitor="val_accuracy", restore_best_weights=False)
    unbroken = _part()
    expected, states = _unbroken(unbroken, settings, tmp_path)
    broken = _part()
    assert phases.train_phase("p", broken, settings, _TRAINING, resume=states[1]) == expected
    _assert_same(broken, unbroken)


# --- epochs of so many steps ------------------------------------------------------------------------------------------


def test_an_epoch_of_fewer_steps_has_the_first_images_of_its_order() -> None:
    whole = EpochOrder(25, 8, seed=1)
    assert (whole.steps, sorted(whole.rows(3))) == (4, list(range(25)))
    short = EpochOrder(25, 8, seed=1, steps_asked=2)
    assert short.steps == 2
    np.testing.assert_array_equal(short.rows(3), whole.rows(3)[:16])
    repeated = EpochOrder(5, 4, seed=1, steps_asked=4).rows(0)
    assert np.bincount(repeated).tolist() == [3, 3, 3, 3, 4] or sorted(np.bincount(repeated)) == [3, 3, 3, 3, 4]


def test_steps_are_the_same_from_the_cache_and_from_pixels(data: Data, tmp_path: pathlib.Path) -> None:
    settings = {"training": {"steps_per_epoch": 2, "validation_steps": 5}}
    cached = train_both_phases(data, tmp_path / "cached", **settings)
    streamed = train_both_phases(data, tmp_path / "streamed", **settings, boundary_cache={"enabled": False})
    assert_trained_alike(streamed, cached, 1e-3)
    assert cached.probabilities.shape == (6, 3), "every image of the eval split is judged"
    (note,) = cached.training.notes
    assert note == "training.validation_steps is 5, which takes 40 images, but the eval split has 6: they repeat"


# --- BatchNormalization -----------------------------------------------------------------------------------------------


def test_batch_norm_trains_where_it_is_asked_for_and_nowhere_else(data: Data, tmp_path: pathlib.Path) -> None:
    settings = {"fine_tuning": {"batch_norm": "training", "learning_rate": 1e-3}}
    cached = train_both_phases(data, tmp_path / "cached", **settings)
    streamed = train_both_phases(data, tmp_path / "streamed", **settings, boundary_cache={"enabled": False})
    assert_trained_alike(streamed, cached, 1e-3)
    grafted = cached.training.grafted
    variables = [weight.path for weight in grafted.model.weights]
    moved = {
        path for path, a, b in zip(variables, cached.before, cached.after, strict=True) if (np.asarray(a) != b).any()
    }
    norms = {path for path in variables if "_bn/" in path}
    trained = {weight.path for layer in cached.training.phases[-1].trained for weight in layer.weights}
    assert norms & moved == norms & trained
    assert any(path.endswith("moving_mean") for path in norms & moved)
    assert any(path.endswith("gamma") for path in norms & moved)


# --- callbacks and TensorBoard ----------------------------------------------------------------------------------------


def test_each_phase_calls_the_users_callbacks_and_tensorboard_draws_histograms(
    data: Data, tmp_path: pathlib.Path
) -> None:
    Marking.ended = 0
    prepared = prepare(
        data, tmp_path, training={"callbacks": [_CALLBACKS], "tensorboard": {"histogram_freq": 1, "write_graph": True}}
    )
    plain = prepare(data, tmp_path / "plain")
    training.train(plain, Checkpoints("", ""), str(tmp_path / "plain"))
    training.train(prepared, Checkpoints("", ""), str(tmp_path / "run"))
    assert Marking.ended == 2
    sizes = [sum(path.stat().st_size for path in (tmp_path / name).rglob("events*")) for name in ("run", "plain")]
    assert sizes[0] > 2 * sizes[1]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_package.callbacks:make", "'no_such_package.callbacks' cannot be imported (ModuleNotFoundError: "),
        (f"{__name__}:Markin", "has no function or class 'Markin'; did you mean 'Marking'?"),
        (f"{__name__}:not_a_callback", "not_a_callback() gives a int, but must give a keras.callbacks.Callback"),
        (f"{__name__}:fails", "fails() failed (RuntimeError: no token)"),
    ],
)
def test_callbacks_that_cannot_be_are_explained_before_any_training(path: str, message: str) -> None:
    small = BackboneSettings(weights="none", input_size=32, options={"alpha": 0.35})
    with pytest.raises(UserError) as error:
        checks.check(small, HeadSettings(), FineTuningSettings(), TrainingSettings(callbacks=[path]))
    assert str(error.value).startswith("training.callbacks: ")
    assert message in str(error.value)


def test_the_key_of_callbacks_follows_their_source_and_survives_a_package_that_fails(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_callbacks.py").write_text("one = 1")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("raise RuntimeError('no token')")
    first = cache_keys._callbacks_hash(["own_callbacks:one"])
    (tmp_path / "own_callbacks.py").write_text("one = 2")
    assert cache_keys._callbacks_hash(["own_callbacks:one"]) != first
    assert cache_keys._callbacks_hash(["broken.callbacks:make"]) != cache_keys._callbacks_hash([]) == ""


def test_a_callback_is_made_anew_for_each_phase() -> None:
    one, other = user_callbacks.make([_CALLBACKS]), user_callbacks.make([_CALLBACKS])
    assert one[0] is not other[0]


class Stopping(keras.callbacks.Callback):
    """Stops a phase after its second epoch."""

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        self.model.stop_training = epoch == 1


def test_a_phase_that_a_callback_stops_says_so() -> None:
    settings = _settings(epochs=12, learning_rate=0.1)
    result = phases.train_phase("p", _part(), settings, _TRAINING, [Stopping()])
    assert (result.ended, result.epochs) == ("callback", 2)


# --- from scratch, and model.keras ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fine_tuning", [{"epochs": 0}, {"unfreeze_from": "none"}, {"epochs": 2}])
def test_from_scratch_every_layer_trains(data: Data, tmp_path: pathlib.Path, fine_tuning: dict[str, object]) -> None:
    args = fn_args(data, tmp_path, {"fine_tuning": {"learning_rate": 1e-5, **fine_tuning}})
    settings = compare.train_from_scratch(TrainerSettings.model_validate(args.custom_config))
    training.reset_keras(0)
    grafted = heads.graft(models.build_trunk(settings.backbone, settings.head.cuts), settings.head, 3)
    planned = phases.plan(grafted, settings.feature_extraction, settings.fine_tuning, "conv_dw_4")
    assert planned[-1].trained == [layer for layer in grafted.trunk.layers if layer.weights]
    head_alone = fine_tuning != {"epochs": 2}
    assert len(planned) == (1 if head_alone else 2)
    assert planned[-1].settings.learning_rate == (1e-2 if head_alone else 1e-5)


@pytest.mark.slow
def test_with_all_images_transfer_is_held_against_training_from_scratch(data: Data, tmp_path: pathlib.Path) -> None:
    args = fn_args(data, tmp_path, {"training": {"transfer_images_per_class": "all"}})
    run_fn.run_fn(args)  # type: ignore[arg-type]
    content = json.loads((tmp_path / "model" / "training.json").read_text())
    transfer = content["transfer"]
    assert (transfer["images_per_class"], transfer["images"]) == ("all", 25)
    assert set(transfer) == {"images_per_class", "images", "pretrained", "random"}


def test_the_saved_model_has_the_recipes_optimizer_and_goes_on_training(
    data: Data, tmp_path: pathlib.Path, recwarn: pytest.WarningsRecorder
) -> None:
    changed = {"fine_tuning": {"optimizer": "sgd", "optimizer_options": {"momentum": 0.8}, "layer_decay": 0.5}}
    run_fn.run_fn(fn_args(data, tmp_path, changed))  # type: ignore[arg-type]
    recwarn.clear()
    model = keras.saving.load_model(tmp_path / "model" / "model.keras")
    assert type(model.optimizer) is keras.optimizers.SGD
    assert (model.optimizer.momentum, float(model.optimizer.learning_rate)) == (0.8, pytest.approx(1e-2))
    pixels = np.random.default_rng(0).uniform(-1, 1, (8, 32, 32, 3)).astype(np.float32)
    before = model.get_weights()
    model.fit(pixels, np.arange(8) % 3, verbose=0)
    assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))
    assert not [warning for warning in recwarn if "Skipping variable" in str(warning.message)]


@pytest.mark.slow
def test_the_saved_models_optimizer_is_that_of_the_last_phase_that_trains(data: Data, tmp_path: pathlib.Path) -> None:
    changed = {"feature_extraction": {"optimizer": "adam", "epochs": 1}, "fine_tuning": {"unfreeze_from": "none"}}
    run_fn.run_fn(fn_args(data, tmp_path, changed))  # type: ignore[arg-type]
    model = keras.saving.load_model(tmp_path / "model" / "model.keras")
    assert type(model.optimizer) is keras.optimizers.Adam


def test_a_value_that_is_not_monitored_is_refused() -> None:
    with pytest.raises(ValidationError, match="'val_loss' or 'val_accuracy'"):
        PhaseSettings(epochs=1, learning_rate=1, patience=1, monitor="val_auc")  # type: ignore[arg-type]
