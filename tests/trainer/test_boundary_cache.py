"""The cached boundary gives the same from run to run, whatever happens to the cache."""

import functools
import json
import logging
import pathlib
import shutil
from collections.abc import Callable, Iterator

import keras
import numpy as np
import pytest

from graftline.trainer import models, row_store, run_fn
from graftline.trainer.settings import BackboneSettings
from graftline.trainer.training import PreparedTraining
from tests.trainer import disks
from tests.trainer.runs import (
    CUT,
    SMALL,
    Analyse,
    Data,
    Outcome,
    activation_counts,
    assert_identical,
    assert_trained_alike,
    fn_args,
    photos,
    prepare,
    train_both_phases,
    write_records,
)

# --- from run to run --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first(data: Data, weights: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return the folder of a first run with these weights, which has all activations in its cache."""
    out = tmp_path_factory.mktemp("first")
    assert activation_counts(prepare(data, out, backbone={"weights": str(weights)})) == {"computed": 31, "reused": 0}
    return out


@pytest.fixture
def again(first: pathlib.Path, weights: pathlib.Path, tmp_path: pathlib.Path) -> Callable[..., PreparedTraining]:
    """Return a function that prepares another run, with a copy of the first one's cache."""
    shutil.copytree(first / "state", tmp_path / "state")

    def run(data: Data, **changed: object) -> PreparedTraining:
        return prepare(
            data, tmp_path, **{**changed, "backbone": {"weights": str(weights), **changed.get("backbone", {})}}
        )  # type: ignore[dict-item]

    return run


def _files(out: pathlib.Path) -> dict[str, dict[str, bytes]]:
    """Return the files in the folder of each store, without the file `used`."""
    stores = (out / "state" / "cache" / "boundary").iterdir()
    return {
        store.name: {file.name: file.read_bytes() for file in store.iterdir() if file.stat().st_size}
        for store in stores
    }


def test_a_second_run_computes_nothing(data: Data, again: Callable[..., PreparedTraining]) -> None:
    assert activation_counts(again(data)) == {"computed": 0, "reused": 31}


def test_a_run_with_other_settings_above_the_boundary_computes_nothing(
    data: Data, again: Callable[..., PreparedTraining]
) -> None:
    run = again(
        data,
        head={"dropout": 0.5, "dense": [7]},
        training={"batch_size": 5, "label_smoothing": 0.1, "class_weights": "balanced"},
        feature_extraction={"learning_rate": 0.5, "optimizer": "adamw", "epochs": 7},
        fine_tuning={"learning_rate": 0.5, "layer_decay": 0.5},
        boundary_cache={"memory_mb": 0},
        seed=9,
        code="other sources",
    )
    assert activation_counts(run) == {"computed": 0, "reused": 31}


def _assert_stores_are_new(first: pathlib.Path, out: pathlib.Path, count: int) -> None:
    """Assert that `count` stores are new, and that the two of the first run have not changed."""
    before, after = _files(first), _files(out)
    assert (len(before), len(after)) == (2, 2 + count)
    assert {name: after[name] for name in before} == before


def _with_one_number_changed(weights: pathlib.Path, copy: pathlib.Path, layer: str) -> str:
    trunk = models.build_trunk(BackboneSettings.model_validate({**SMALL["backbone"], "weights": str(weights)}))  # type: ignore[dict-item]
    values = trunk.get_layer(layer).get_weights()
    values[0].flat[0] = np.nextafter(values[0].flat[0], np.float32(np.inf))
    trunk.get_layer(layer).set_weights(values)
    trunk.save_weights(copy)
    return str(copy)


@pytest.mark.parametrize(
    "changed",
    [
        {"preprocessing": "other sources"},
        {"training": {"precision": "mixed_bfloat16"}},
        {"boundary_cache": {"dtype": "float16"}},
        {"backbone": {"input_size": 48}},
    ],
    ids=["preprocessing", "precision", "dtype", "input size"],
)
def test_with_other_settings_under_the_boundary_all_is_computed(
    data: Data,
    analyse: Analyse,
    again: Callable[..., PreparedTraining],
    first: pathlib.Path,
    tmp_path: pathlib.Path,
    changed: dict[str, dict[str, object]],
) -> None:
    data = Data(analyse(size=48) if "backbone" in changed else data.transform, data.train, data.eval)
    assert activation_counts(again(data, **changed)) == {"computed": 31, "reused": 0}
    _assert_stores_are_new(first, tmp_path, 2)


def test_with_the_last_bit_of_a_weight_under_the_boundary_changed_all_is_computed(
    data: Data, again: Callable[..., PreparedTraining], weights: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    other = _with_one_number_changed(weights, tmp_path / "other.weights.h5", "conv1")
    assert activation_counts(again(data, backbone={"weights": other})) == {"computed": 31, "reused": 0}


def test_with_a_weight_above_the_boundary_changed_only_the_pooled_features_are_computed(
    data: Data,
    again: Callable[..., PreparedTraining],
    weights: pathlib.Path,
    first: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    other = _with_one_number_changed(weights, tmp_path / "other.weights.h5", "conv_pw_4")
    again(data, backbone={"weights": other})
    _assert_stores_are_new(first, tmp_path, 1)


@pytest.mark.parametrize(
    "changed",
    [{"fine_tuning": {"unfreeze_from": "conv_pw_3"}}, {"head": {"pooling": "max"}}],
    ids=["unfreeze_from", "pooling"],
)
def test_the_activations_at_the_other_tensor_are_kept(
    data: Data,
    again: Callable[..., PreparedTraining],
    first: pathlib.Path,
    tmp_path: pathlib.Path,
    changed: dict[str, object],
) -> None:
    again(data, **changed)
    _assert_stores_are_new(first, tmp_path, 1)


def test_in_a_folder_that_has_grown_only_the_new_images_are_computed(
    data: Data, again: Callable[..., PreparedTraining], tmp_path: pathlib.Path
) -> None:
    # The new file comes first, so that all other images have another row than before.
    more = str(pathlib.Path(data.train[0]).with_name("a"))
    write_records(pathlib.Path(more), photos([50]))
    run = again(Data(data.transform, [*data.train, more], data.eval))
    assert activation_counts(run) == {"computed": 3, "reused": 31}
    _assert_rows_are_those_of_their_images(run)


def test_an_image_that_moved_to_the_other_split_is_not_computed(
    data: Data, again: Callable[..., PreparedTraining], tmp_path: pathlib.Path
) -> None:
    train = write_records(tmp_path / "train", photos(range(8)))
    held_out = write_records(tmp_path / "eval", [*photos(range(9))[24:25], *photos(range(100, 102))])
    run = again(Data(data.transform, [train], [held_out]))
    assert activation_counts(run) == {"computed": 0, "reused": 31}
    _assert_rows_are_those_of_their_images(run)


def test_with_classes_renamed_and_one_added_the_new_images_are_computed(
    data: Data, analyse: Analyse, again: Callable[..., PreparedTraining], tmp_path: pathlib.Path
) -> None:
    names = {"rot": "ásgarður ★", "green": "zöld"}  # the order of the classes changes as well
    new = [("new", "rot", 60), ("new", "rot", 61)]
    train = write_records(tmp_path / "train", [*photos(range(9), **names)[:25], *new])
    held_out = write_records(tmp_path / "eval", [*photos(range(100, 102), **names), ("new", "rot", 62)])
    run = again(Data(analyse(("blue sky", "new", "zöld", "ásgarður ★")), [train], [held_out]))
    assert run.dataset.labels == ["blue sky", "new", "zöld", "ásgarður ★"]
    assert activation_counts(run) == {"computed": 3, "reused": 31}
    _assert_rows_are_those_of_their_images(run)
    assert run.dataset.train.labels[:3].tolist() == [0, 2, 3]


def _assert_rows_are_those_of_their_images(run: PreparedTraining) -> None:
    """Assert that every activation of both splits is what the trunk gives for the image of its row."""
    below = keras.Model(run.grafted.model.input, run.boundary[0])
    for split, records in (("train", run.dataset.train), ("val", run.dataset.val)):
        batches = run.inputs.batches(split, run.boundary)
        batches.epoch = 1
        x = np.concatenate([x for x, _ in (batches.for_fit[i] for i in range(len(batches.for_fit)))])  # type: ignore[index,arg-type]
        rows = np.argsort(batches._order)  # type: ignore[attr-defined]
        ((pixels, _),) = run.pixels.batches(records, functools.partial(np.arange, len(records)), len(records))
        expected = below(pixels, training=False).numpy()
        np.testing.assert_allclose(x[rows], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
        assert len(np.unique(expected.round(3), axis=0)) == len(records), "images that are alike would prove nothing"


def test_augmented_views_of_new_images_are_computed_and_those_of_another_seed_all(
    data: Data, again: Callable[..., PreparedTraining], tmp_path: pathlib.Path
) -> None:
    augmentation = {"flip": "both", "views": 2}
    assert activation_counts(again(data, augmentation=augmentation)) == {"computed": 50, "reused": 6}
    # The cached views are the first ones of more; three new images have none yet.
    more = Data(data.transform, [*data.train, write_records(tmp_path / "z", photos([50]))], data.eval)
    run = again(more, augmentation={**augmentation, "views": 3}, fine_tuning={"epochs": 3})
    assert activation_counts(run) == {"computed": 25 + 3 * 3, "reused": 50 + 6}
    assert activation_counts(again(data, augmentation=augmentation, seed=9)) == {"computed": 50, "reused": 6}


def test_a_warm_cache_gives_the_same_weights_to_the_last_bit(data: Data, cold: Outcome, tmp_path: pathlib.Path) -> None:
    out = pathlib.Path(cold.training.settings.state).parent
    shutil.copytree(out / "state", tmp_path / "state")
    warm = train_both_phases(data, tmp_path)
    assert activation_counts(warm.training) == {"computed": 0, "reused": 31}
    assert_identical(warm, cold)


def test_training_json_says_how_many_were_computed(
    data: Data, again: Callable[..., PreparedTraining], weights: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    more = Data(data.transform, [*data.train, write_records(tmp_path / "z", photos([50]))], data.eval)
    run_fn.run_fn(fn_args(more, tmp_path, {"backbone": {"weights": str(weights)}}))  # type: ignore[arg-type]
    story = json.loads((tmp_path / "model" / run_fn.TRAINING_FILE).read_text())
    assert story["activations"] == {"computed": 3, "reused": 31}


# --- whatever happens to it -------------------------------------------------------------------------------------------


def _flip_a_byte(state: pathlib.Path, row: np.ndarray) -> pathlib.Path:
    """Flip a byte in the file that holds the row."""
    for file in state.rglob("*"):
        data = bytearray(file.read_bytes() if file.is_file() else b"")
        place = data.find(row.tobytes()[:64])
        if place >= 0:
            data[place] ^= 1
            file.write_bytes(data)
            return file
    raise AssertionError("no such row")


def _warning(caplog: pytest.LogCaptureFixture, file: pathlib.Path) -> str:
    """Return the one warning that names the file."""
    (message,) = (record.message for record in caplog.records if str(file) in record.message)
    return message


def test_a_damaged_row_is_computed_again_with_a_warning(
    data: Data, cold: Outcome, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(cold.training.settings.state, tmp_path / "state")
    # The pooled features of one image and the activations of another. Both images run through the trunk together, and
    # only the damaged row of each is new.
    cuts = ((cold.training.grafted.embedding,), cold.training.boundary)
    (pooled, _), (activations, _) = (next(iter(cold.training.inputs.batches("val", cut).for_fit)) for cut in cuts)  # type: ignore[call-overload]
    files = [_flip_a_byte(tmp_path / "state", row) for row in (pooled[1], activations[4])]
    with caplog.at_level(logging.WARNING):
        repaired = train_both_phases(data, tmp_path)
    assert activation_counts(repaired.training) == {"computed": 2, "reused": 29}
    for file in files:
        assert _warning(caplog, file) == f"{file} is damaged; rows to compute again: 1"
    # TensorFlow may use other kernels for few images.
    assert_trained_alike(repaired, cold, 1e-3)


def test_a_truncated_file_is_replaced_with_a_warning(
    data: Data, cold: Outcome, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(cold.training.settings.state, tmp_path / "state")
    files = [file for file in (tmp_path / "state").rglob("*") if file.is_file()]
    largest = max(files, key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    with caplog.at_level(logging.WARNING):
        repaired = train_both_phases(data, tmp_path)
    assert activation_counts(repaired.training) == {"computed": 31, "reused": 0}
    assert _warning(caplog, largest).endswith("its rows are computed again")
    assert_identical(repaired, cold)


def test_activations_without_room_on_the_disk_are_computed_in_each_epoch(
    data: Data, cold: Outcome, tmp_path: pathlib.Path
) -> None:
    """The pooled features of 31 images take 8 kB, the activations 300 kB."""
    pooled = train_both_phases(data, tmp_path / "pooled", boundary_cache={"disk_gb": 1e-5})
    assert activation_counts(pooled.training) == {"computed": 31, "reused": 0}
    (note,) = pooled.training.notes
    assert note.startswith(f"the activations at {CUT} would take")
    assert "boundary_cache.disk_gb" in note
    assert_trained_alike(pooled, cold, 1e-3)


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system of 0.8 MB, which has room for the activations of one run and a commit's copy, but not of two."""
    with disks.mounted(tmp_path / "small", "800k") as folder:
        yield folder


def test_activations_of_past_runs_are_removed_before_new_ones_are_computed(
    data: Data, small_disk: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for sources in ("one", "other"):
        run = prepare(data, tmp_path, state=str(small_disk), preprocessing=sources)
        assert activation_counts(run) == {"computed": 31, "reused": 0}
        assert not run.notes
        # Which store of the past run goes first depends on their names; the pooled features alone may stay.
        stores = (small_disk / "cache" / "boundary").iterdir()
        assert sum(row_store.size(str(store)) > 100_000 for store in stores) == 1


def test_activations_on_disk_for_one_run_only_give_the_same_weights_to_the_last_bit(
    data: Data, cold: Outcome, tmp_path: pathlib.Path
) -> None:
    bound = train_both_phases(data, tmp_path, state="", boundary_cache={"memory_mb": 0})
    assert activation_counts(bound.training) == {"computed": 31, "reused": 0}
    # run_fn removes the scratch folder, and TensorBoard's logs stay.
    assert {path.name for path in tmp_path.iterdir()} == {"scratch", "run"}
    assert_identical(bound, cold)
