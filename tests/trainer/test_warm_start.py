"""A warm start takes over what fits, class by class, and starts cold where nothing fits."""

import json
import pathlib
import types
from collections.abc import Callable

import keras
import numpy as np
import pytest

from graftline.trainer import heads, run_fn, warm_start
from graftline.trainer.settings import HeadSettings
from tests.conftest import Transformed

OLD = ["daisy", "rose", "tulip"]


def _grafted(
    classes: int, seed: int, units: int = 4, convolution: str = "convolution", **head: object
) -> heads.Grafted:
    """Return a small trunk with random weights and BatchNormalization statistics, and a head that is not zero."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input([6, 6, 3])
    x = keras.layers.Conv2D(units, 3, name=convolution)(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    grafted = heads.graft(keras.Model(inputs, x, name="trunk"), HeadSettings(**head), classes)  # type: ignore[arg-type]
    random = np.random.default_rng(seed)
    grafted.model.set_weights([random.uniform(0.1, 1, w.shape).astype(np.float32) for w in grafted.model.weights])
    return grafted


@pytest.fixture
def blessed(tmp_path: pathlib.Path) -> pathlib.Path:
    """The artifact of a model of three classes; its weights are those of seed 1."""
    _grafted(3, 1).model.save(tmp_path / run_fn.KERAS_FILE)
    (tmp_path / run_fn.TRAINING_FILE).write_text(json.dumps({"labels": OLD}))
    return tmp_path


def _load(grafted: heads.Grafted, labels: list[str], blessed: pathlib.Path) -> warm_start.Start:
    return warm_start.load(grafted, labels, str(blessed / run_fn.KERAS_FILE), str(blessed / run_fn.TRAINING_FILE))


def _pixels() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5, 6, 6, 3)).astype(np.float32)


def test_the_model_starts_as_the_blessed_one_with_any_dropout(blessed: pathlib.Path) -> None:
    new = _grafted(3, 2, dropout=0.0)
    assert _load(new, OLD, blessed) == (True, "warm start from the last blessed model")
    np.testing.assert_array_equal(new.model(_pixels()), _grafted(3, 1).model(_pixels(), training=False))


@pytest.mark.parametrize(
    ("labels", "changes"),
    [
        (["daisy", "lily", "rose", "tulip"], " (new: lily)"),
        (["aster", "rose", "violet"], " (new: aster, violet; gone: daisy, tulip)"),
        (["daisy", "tulip"], " (gone: rose)"),
        (["tulip", "rose", "daisy"], ""),
        (["aster", "lily"], " (new: aster, lily; gone: daisy, rose, tulip)"),
    ],
)
def test_a_class_keeps_its_weights_and_a_new_class_starts_at_zero(
    blessed: pathlib.Path, labels: list[str], changes: str
) -> None:
    new = _grafted(len(labels), 2)
    start = _load(new, labels, blessed)
    assert start == ("new" not in changes, f"warm start from the last blessed model{changes}")
    old_layer, new_layer = (grafted.model.get_layer(heads.PROBABILITIES) for grafted in (_grafted(3, 1), new))
    for ours, theirs in zip(new_layer.get_weights(), old_layer.get_weights(), strict=True):
        for column, label in enumerate(labels):
            expected = theirs[..., OLD.index(label)] if label in OLD else np.zeros_like(theirs[..., 0])
            np.testing.assert_array_equal(ours[..., column], expected, err_msg=label)
    # The old classes compare as before: softmax of the same logits.
    both = [label for label in labels if label in OLD]
    ratios = [
        np.asarray(grafted.model(_pixels(), training=False))[:, [names.index(label) for label in both]]
        for grafted, names in ((_grafted(3, 1), OLD), (new, labels))
    ]
    if both:
        expected, got = (part / part.sum(axis=1, keepdims=True) for part in ratios)
        np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "other", [{"units": 5}, {"convolution": "conv2d"}, {"dense": [4]}, {"pooling": "max"}, {"pooling": "flatten"}]
)
def test_a_model_with_another_trunk_or_head_starts_cold(blessed: pathlib.Path, other: dict[str, object]) -> None:
    new = _grafted(3, 2, **other)  # type: ignore[arg-type]
    before = new.model.get_weights()
    assert _load(new, OLD, blessed) == (
        False,
        "warm start: the last blessed model has another trunk or head; started cold",
    )
    for ours, theirs in zip(new.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", [run_fn.KERAS_FILE, run_fn.TRAINING_FILE])
@pytest.mark.parametrize(
    "damage",
    [
        None,
        lambda data: b"",
        lambda data: b"not what it was",
        lambda data: data[: len(data) // 2],
        lambda data: bytes(byte ^ 0xFF if 2 * place // len(data) else byte for place, byte in enumerate(data)),
        lambda data: bytes(byte ^ 0xFF if 5 < place * 20 // len(data) < 9 else byte for place, byte in enumerate(data)),
    ],
    ids=["gone", "empty", "text", "half", "flipped", "flipped inside"],
)
def test_a_blessed_model_with_missing_or_damaged_files_starts_cold_and_names_them(
    blessed: pathlib.Path, name: str, damage: Callable[[bytes], bytes] | None
) -> None:
    path = blessed / name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    new = _grafted(3, 2)
    before = new.model.get_weights()
    ready, note = _load(new, OLD, blessed)
    assert not ready
    expected = f"has no {name}; started cold" if damage is None else "cannot be read ("
    assert note.startswith(f"warm start: the last blessed model {expected}"), note
    assert note.endswith("started cold")
    for ours, theirs in zip(new.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


# --- a whole run ------------------------------------------------------------------------------------------------------

_SETTINGS = {
    "backbone": {"weights": "none", "input_size": 32, "options": {"alpha": 0.35}},
    "head": {"cut_at": "block_2_add"},
    "training": {"batch_size": 16, "warm_start": True},
    "feature_extraction": {"epochs": 20, "learning_rate": 0.01},
    "fine_tuning": {"epochs": 2, "learning_rate": 0.001, "unfreeze_from": "block_2_project"},
    "seed": 1,
}


def _run(transformed: Transformed, out: pathlib.Path, base: pathlib.Path | None, **changed: object) -> dict:
    """Train and return the training.json of the model."""
    fn_args = types.SimpleNamespace(
        custom_config=json.loads(json.dumps({**_SETTINGS, **changed})),
        transform_output=transformed.directory,
        train_files=[transformed.train],
        eval_files=[transformed.eval],
        serving_model_dir=str(out / "model" / "Format-Serving"),
        model_run_dir=str(out / "run"),
        base_model=None if base is None else str(base / "model" / "Format-Serving"),
    )
    run_fn.run_fn(fn_args)  # type: ignore[arg-type]
    return json.loads((out / "model" / run_fn.TRAINING_FILE).read_text())


def test_a_trained_head_is_kept_where_no_epoch_is_better(transformed: Transformed, tmp_path: pathlib.Path) -> None:
    """The second night starts with the trunk and head of the first, although its seed would give other weights."""
    tuned = {**_SETTINGS["fine_tuning"], "epochs": 20, "learning_rate": 0.01}  # type: ignore[dict-item]
    first = _run(transformed, tmp_path / "1", None, feature_extraction={"epochs": 0}, fine_tuning=tuned)
    assert first["notes"] == []
    (fine_tuned,) = first["phases"]
    assert (fine_tuned["name"], fine_tuned["kept"]) == ("fine_tuning", True)
    assert fine_tuned["val_loss"] < 0.9, "knowing nothing is 1.1"
    better = {"epochs": 2, "learning_rate": 1, "min_delta": 10}
    second = _run(
        transformed, tmp_path / "2", tmp_path / "1", seed=2, feature_extraction=better, fine_tuning={"epochs": 0}
    )
    assert second["notes"] == ["warm start from the last blessed model"]
    (phase,) = second["phases"]
    assert not phase["kept"]
    assert phase["val_loss"] == pytest.approx(fine_tuned["val_loss"], rel=1e-4)
    assert phase["val_accuracy"] == fine_tuned["val_accuracy"]
    ours, theirs = (
        keras.saving.load_model(tmp_path / night / "model" / run_fn.KERAS_FILE).get_weights() for night in ("2", "1")
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
