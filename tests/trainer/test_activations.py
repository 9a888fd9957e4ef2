"""The batches of a phase: from the cache or made anew, they are the same, in the same order, epoch by epoch."""

import functools
import pathlib
from collections.abc import Sequence

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft

from graftline.trainer import augmentation, models
from graftline.trainer.activations import Batches, CachedBatches, StreamedBatches
from graftline.trainer.inputs import Pixels, Records
from graftline.trainer.phase_inputs import PhaseInputs
from graftline.trainer.settings import TrainerSettings
from tests import images
from tests.conftest import Transformed

Batch = tuple[np.ndarray, np.ndarray]

_BATCH = 16  # of the train split's 72 images it leaves 8, of the eval split's 18 it leaves 2
_TURNED = {"flip": "both", "brightness": 0.3, "views": 2}


def _batches(of: Batches, epoch: int | None = None) -> list[Batch]:
    """What `fit` is given in an epoch."""
    if epoch is not None:
        of.epoch = epoch
    data = of.for_fit
    if isinstance(data, keras.utils.PyDataset):
        return [data[index] for index in range(len(data))]
    assert isinstance(data, tf.data.Dataset)
    return list(data.as_numpy_iterator())


def _assert_same(ours: Sequence[Batch], theirs: Sequence[Batch]) -> None:
    assert [len(labels) for _, labels in ours] == [len(labels) for _, labels in theirs]
    for (x, labels), (other_x, other_labels) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(labels, other_labels)
        assert (x.dtype, labels.dtype) == (other_x.dtype, other_labels.dtype) == (np.float32, np.int64)
        # Batches of another size may go through other kernels.
        np.testing.assert_allclose(x, other_x, rtol=1e-3, atol=1e-4 * np.abs(other_x).max())


def _differ(ours: Sequence[Batch], theirs: Sequence[Batch]) -> bool:
    x, other = (np.concatenate([x for x, _ in batches]) for batches in (ours, theirs))
    return bool((np.abs(x - other).reshape(len(x), -1).max(1) > 0.01 * np.abs(other).max()).mean() > 0.9)


@pytest.fixture(scope="module")
def grafted(transformed: Transformed) -> models.Grafted:
    """A short trunk with random weights, and a head."""
    keras.utils.set_random_seed(0)
    trunk = models.build_trunk(_settings().backbone, "block_2_add")
    models.calibrate(trunk, np.random.default_rng(0).uniform(-1, 1, (16, 32, 32, 3)).astype(np.float32))
    return models.graft_head(trunk, _settings().head, 3)


def _settings(**changed: object) -> TrainerSettings:
    return TrainerSettings.model_validate(
        {
            "backbone": {"weights": "none", "input_size": 32, "options": {"alpha": 0.35}},
            "head": {},
            "training": {"batch_size": _BATCH},
            "feature_extraction": {},
            "fine_tuning": {},
            "seed": 4,
            **changed,
        }
    )


class Made:
    """The inputs of phases for a short trunk, and the tensors that phases begin at."""

    def __init__(self, transformed: Transformed, grafted: models.Grafted, scratch: pathlib.Path) -> None:
        self.inputs = functools.cache(self._make_inputs)
        self._transform = tft.TFTransformOutput(transformed.directory)
        self._grafted, self._scratch = grafted, scratch
        self.train, self.val = (Records([path], images.CLASSES) for path in (transformed.train, transformed.eval))
        self.cut: keras.KerasTensor = grafted.trunk.get_layer("block_1_project_BN").output
        self.pooled, self.input = grafted.pooled, grafted.model.inputs[0]

    def _make_inputs(self, cached: bool, **augmented: object) -> PhaseInputs:
        """Make inputs from the cache, or inputs that are computed in each epoch. `inputs` makes each once."""
        settings = _settings(boundary_cache={"enabled": cached}, augmentation=augmented or "off")
        augment = augmentation.build(settings.augmentation, 32, settings.backbone.name)
        pixels = Pixels(self._transform, augment)
        tensors = [self.cut, self.pooled]
        return PhaseInputs(settings, self._grafted.model, tensors, self.train, self.val, pixels, self._scratch)


@pytest.fixture(scope="module")
def made(transformed: Transformed, grafted: models.Grafted, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(transformed, grafted, tmp_path_factory.mktemp("scratch"))


def test_batches_made_anew_are_those_of_the_cache_in_every_epoch(made: Made) -> None:
    cached, streamed = made.inputs(True), made.inputs(False)
    for tensor, split, epochs in ((made.cut, "train", 3), (made.pooled, "train", 1), (made.cut, "val", 1)):
        ours, theirs = cached.batches(split, tensor), streamed.batches(split, tensor)
        assert (type(ours), type(theirs)) == (CachedBatches, StreamedBatches)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        for epoch in range(epochs):
            _assert_same(_batches(theirs, epoch), _batches(ours, epoch))
    assert (cached.computed + cached.reused, streamed.computed + streamed.reused) == (90, 0)


def test_an_epoch_is_the_same_whether_or_not_those_before_it_were_gone_through(made: Made) -> None:
    """A run that goes on after its third epoch sees what the unbroken one saw."""
    for cached in (True, False):
        inputs = made.inputs(cached, **_TURNED)
        one, other = (inputs.batches("train", made.pooled) for _ in range(2))
        unbroken = [_batches(one, epoch) for epoch in range(4)]
        _assert_same(_batches(other, 3), unbroken[3])
        assert _differ(unbroken[2], unbroken[3])


def test_the_eval_split_comes_as_it_lies_in_every_epoch(made: Made) -> None:
    for cached in (True, False):
        batches = made.inputs(cached).batches("val", made.pooled)
        for epoch in (0, 1):
            labels = np.concatenate([labels for _, labels in _batches(batches, epoch)])
            np.testing.assert_array_equal(labels, made.val.labels)


def test_each_epoch_sees_every_image_once_with_its_label_in_another_order(made: Made) -> None:
    ((pixels, _),) = made.inputs(False)._pixels.batches(made.train, lambda: np.arange(72), 72)
    images_of = {image.tobytes(): label for image, label in zip(pixels.numpy(), made.train.labels, strict=True)}
    assert len(images_of) == 72
    batches = made.inputs(False).batches("train", made.input)
    seen = []
    for epoch in (0, 1):
        pairs = [
            (x.tobytes(), label) for xs, labels in _batches(batches, epoch) for x, label in zip(xs, labels, strict=True)
        ]
        assert len(pairs) == 72
        assert dict(pairs) == images_of
        seen.append(pairs)
    assert seen[0] != seen[1]


def test_the_order_follows_from_the_seed_and_the_epoch_alone() -> None:
    def epochs(seed: int | None) -> list[list[int]]:
        data = CachedBatches(np.arange(10.0)[:, None], np.arange(10), 4, seed)  # type: ignore[arg-type]
        return [[int(label) for _, labels in _batches(data, epoch) for label in labels] for epoch in range(2)]

    first, second = epochs(1)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert epochs(1) == [first, second]
    assert epochs(2) != [first, second]
    assert epochs(None) == [list(range(10))] * 2


# --- augmentation -----------------------------------------------------------------------------------------------------


def test_views_drawn_anew_are_those_of_the_cache_in_every_epoch(made: Made) -> None:
    cached, streamed = made.inputs(True, **_TURNED), made.inputs(False, **_TURNED)
    assert cached.computed + cached.reused == 72 * 2 + 18
    ours, theirs = cached.batches("train", made.pooled), streamed.batches("train", made.pooled)
    for epoch in range(4):  # the third begins with the first view again
        _assert_same(_batches(ours, epoch), _batches(theirs, epoch))


def test_epochs_go_round_the_cached_views(made: Made) -> None:
    batches = made.inputs(True, **_TURNED).batches("train", made.cut)

    def by_image(epoch: int) -> list[Batch]:
        """The epoch's images as the records lie."""
        taken = _batches(batches, epoch)
        rows = np.argsort(np.random.default_rng([4, epoch]).permutation(72))
        return [(np.concatenate([x for x, _ in taken])[rows], np.concatenate([y for _, y in taken])[rows])]

    epochs = [by_image(epoch) for epoch in range(4)]
    np.testing.assert_array_equal(epochs[0][0][1], made.train.labels)
    _assert_same(epochs[2], epochs[0])
    _assert_same(epochs[3], epochs[1])
    assert _differ(epochs[0], epochs[1])


def test_without_cached_views_each_epoch_draws_its_own_and_only_the_eval_split_is_cached(made: Made) -> None:
    inputs = made.inputs(True, **{**_TURNED, "views": 0})
    assert inputs.computed + inputs.reused == 18
    train, val = inputs.batches("train", made.pooled), inputs.batches("val", made.pooled)
    assert (type(train), type(val)) == (StreamedBatches, CachedBatches)
    twice = made.inputs(False, **_TURNED).batches("train", made.pooled)  # two views, in turn
    for epoch in (0, 1):
        _assert_same(_batches(train, epoch), _batches(twice, epoch))
    assert _differ(_batches(train, 2), _batches(twice, 2))


def test_the_eval_split_is_never_augmented(made: Made) -> None:
    plain = _batches(made.inputs(False).batches("val", made.pooled), 0)
    for cached in (True, False):
        augmented = made.inputs(cached, **_TURNED)
        _assert_same(_batches(augmented.batches("val", made.pooled), 1), plain)
    train = [_batches(made.inputs(True, **turned).batches("train", made.pooled), 1) for turned in (_TURNED, {})]
    assert _differ(*train), "augmentation that changes nothing would prove nothing"


def test_pixels_for_a_phase_that_trains_the_whole_model_are_augmented_as_well(made: Made) -> None:
    """Nothing lies under the input, so nothing is cached for it."""
    inputs = made.inputs(True, **_TURNED)
    batches = inputs.batches("train", made.input)
    assert type(batches) is StreamedBatches
    plain = made.inputs(False).batches("train", made.input)
    assert _differ(_batches(batches, 0), _batches(plain, 0))
    _assert_same(_batches(inputs.batches("val", made.input)), _batches(made.inputs(False).batches("val", made.input)))


# --- what Keras makes of them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [True, False])
def test_fit_is_given_the_order_of_each_epoch_and_no_batch_of_another(made: Made, cached: bool) -> None:
    """Keras reads ahead: what it holds when an epoch ends must not come into the next."""
    batches = made.inputs(cached).batches("train", made.pooled)
    expected = [labels for epoch in (2, 3, 4) for _, labels in _batches(batches, epoch)]
    seen: list[int] = []

    class Watch(keras.metrics.Metric):
        """Notes the labels that come by."""

        def update_state(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: object = None) -> None:
            tf.py_function(lambda labels: seen.extend(labels.numpy().ravel().tolist()), [y_true], [])

        def result(self) -> float:
            return 0.0

    class SetEpoch(keras.callbacks.Callback):
        """As `trainer.phases` does."""

        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
            batches.epoch = epoch

    model = keras.Sequential([keras.Input(made.pooled.shape[1:]), keras.layers.Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=[Watch()], jit_compile=False)
    model.fit(batches.for_fit, shuffle=False, initial_epoch=2, epochs=5, callbacks=[SetEpoch()], verbose=0)
    assert seen == np.concatenate(expected).tolist()
