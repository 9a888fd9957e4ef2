"""The batches of a phase: from the cache or made anew, they are the same, in the same order, epoch by epoch."""

import functools
import pathlib
from collections.abc import Sequence

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft

from graftline.trainer import augmentation, heads, models
from graftline.trainer.activations import Batches, CachedBatches, StreamedBatches
from graftline.trainer.inputs import Pixels, Records
from graftline.trainer.phase_inputs import PhaseInputs
from graftline.trainer.settings import TrainerSettings
from tests import images
from tests.conftest import Transformed

Batch = tuple[np.ndarray, np.ndarray]

_BATCH = 16  # the last batch of 72 training images has 8, that of 18 eval images 2
_TURNED = {"flip": "both", "brightness": 0.3, "views": 2}


def _batches(of: Batches, epoch: int | None = None) -> list[Batch]:
    """Return the batches that `fit` gets in an epoch."""
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
def grafted(transformed: Transformed) -> heads.Grafted:
    """A short trunk with random weights, and a head."""
    keras.utils.set_random_seed(0)
    trunk = models.build_trunk(_settings().backbone, ["block_2_add"])
    models.calibrate(trunk, np.random.default_rng(0).uniform(-1, 1, (16, 32, 32, 3)).astype(np.float32))
    return heads.graft(trunk, _settings().head, 3)


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


class ShortTrunk:
    """The inputs of phases for a short trunk, and the boundaries that phases begin at."""

    def __init__(self, transformed: Transformed, grafted: heads.Grafted, scratch: pathlib.Path) -> None:
        self.inputs = functools.cache(self._make_inputs)
        self._transform = tft.TFTransformOutput(transformed.directory)
        self._grafted, self._scratch = grafted, scratch
        self.train, self.val = (Records([path], images.CLASSES) for path in (transformed.train, transformed.eval))
        self.cut = (grafted.trunk.get_layer("block_1_project_BN").output,)
        self.embedding, self.input = (grafted.embedding,), (grafted.model.inputs[0],)

    def _make_inputs(self, cached: bool, **augmented: object) -> PhaseInputs:
        """Make inputs from the cache, or inputs that are computed in each epoch. `inputs` makes each once."""
        settings = _settings(boundary_cache={"enabled": cached}, augmentation=augmented or "off")
        augment = augmentation.build(settings.augmentation, 32, settings.backbone.mode)
        pixels = Pixels(self._transform, augment)
        boundaries = [self.cut, self.embedding]
        return PhaseInputs(settings, self._grafted.model, boundaries, self.train, self.val, pixels, self._scratch)


@pytest.fixture(scope="module")
def short_trunk(
    transformed: Transformed, grafted: heads.Grafted, tmp_path_factory: pytest.TempPathFactory
) -> ShortTrunk:
    return ShortTrunk(transformed, grafted, tmp_path_factory.mktemp("scratch"))


def test_streamed_batches_are_those_of_the_cache_in_every_epoch(short_trunk: ShortTrunk) -> None:
    cached, streamed = short_trunk.inputs(True), short_trunk.inputs(False)
    for tensor, split, epochs in (
        (short_trunk.cut, "train", 3),
        (short_trunk.embedding, "train", 1),
        (short_trunk.cut, "val", 1),
    ):
        ours, theirs = cached.batches(split, tensor), streamed.batches(split, tensor)
        assert (type(ours), type(theirs)) == (CachedBatches, StreamedBatches)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        for epoch in range(epochs):
            _assert_same(_batches(theirs, epoch), _batches(ours, epoch))
    assert (cached.computed + cached.reused, streamed.computed + streamed.reused) == (90, 0)


def test_an_epoch_is_the_same_with_or_without_the_epochs_before_it(short_trunk: ShortTrunk) -> None:
    """A run that resumes after its third epoch sees the same as an unbroken run."""
    for cached in (True, False):
        inputs = short_trunk.inputs(cached, **_TURNED)
        one, other = (inputs.batches("train", short_trunk.embedding) for _ in range(2))
        unbroken = [_batches(one, epoch) for epoch in range(4)]
        _assert_same(_batches(other, 3), unbroken[3])
        assert _differ(unbroken[2], unbroken[3])


def test_the_eval_split_keeps_the_order_of_its_records_in_every_epoch(short_trunk: ShortTrunk) -> None:
    for cached in (True, False):
        batches = short_trunk.inputs(cached).batches("val", short_trunk.embedding)
        for epoch in (0, 1):
            labels = np.concatenate([labels for _, labels in _batches(batches, epoch)])
            np.testing.assert_array_equal(labels, short_trunk.val.labels)


def test_each_epoch_sees_every_image_once_with_its_label_in_another_order(short_trunk: ShortTrunk) -> None:
    ((pixels, _),) = short_trunk.inputs(False)._pixels.batches(short_trunk.train, lambda: np.arange(72), 72)
    images_of = {image.tobytes(): label for image, label in zip(pixels.numpy(), short_trunk.train.labels, strict=True)}
    assert len(images_of) == 72
    batches = short_trunk.inputs(False).batches("train", short_trunk.input)
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


def test_streamed_views_are_those_of_the_cache_in_every_epoch(short_trunk: ShortTrunk) -> None:
    cached, streamed = short_trunk.inputs(True, **_TURNED), short_trunk.inputs(False, **_TURNED)
    assert cached.computed + cached.reused == 72 * 2 + 18
    ours, theirs = cached.batches("train", short_trunk.embedding), streamed.batches("train", short_trunk.embedding)
    for epoch in range(4):  # the third starts with the first view again
        _assert_same(_batches(ours, epoch), _batches(theirs, epoch))


def test_epochs_take_turns_with_the_cached_views(short_trunk: ShortTrunk) -> None:
    batches = short_trunk.inputs(True, **_TURNED).batches("train", short_trunk.cut)

    def by_image(epoch: int) -> list[Batch]:
        """The epoch's images as the records lie."""
        epoch_batches = _batches(batches, epoch)
        rows = np.argsort(np.random.default_rng([4, epoch]).permutation(72))
        return [
            (np.concatenate([x for x, _ in epoch_batches])[rows], np.concatenate([y for _, y in epoch_batches])[rows])
        ]

    epochs = [by_image(epoch) for epoch in range(4)]
    np.testing.assert_array_equal(epochs[0][0][1], short_trunk.train.labels)
    _assert_same(epochs[2], epochs[0])
    _assert_same(epochs[3], epochs[1])
    assert _differ(epochs[0], epochs[1])


def test_without_cached_views_each_epoch_makes_new_ones_and_only_the_eval_split_is_cached(
    short_trunk: ShortTrunk,
) -> None:
    inputs = short_trunk.inputs(True, **{**_TURNED, "views": 0})
    assert inputs.computed + inputs.reused == 18
    train, val = inputs.batches("train", short_trunk.embedding), inputs.batches("val", short_trunk.embedding)
    assert (type(train), type(val)) == (StreamedBatches, CachedBatches)
    twice = short_trunk.inputs(False, **_TURNED).batches("train", short_trunk.embedding)  # two views, in turn
    for epoch in (0, 1):
        _assert_same(_batches(train, epoch), _batches(twice, epoch))
    assert _differ(_batches(train, 2), _batches(twice, 2))


def test_the_eval_split_is_never_augmented(short_trunk: ShortTrunk) -> None:
    plain = _batches(short_trunk.inputs(False).batches("val", short_trunk.embedding), 0)
    for cached in (True, False):
        augmented = short_trunk.inputs(cached, **_TURNED)
        _assert_same(_batches(augmented.batches("val", short_trunk.embedding), 1), plain)
    train = [
        _batches(short_trunk.inputs(True, **turned).batches("train", short_trunk.embedding), 1)
        for turned in (_TURNED, {})
    ]
    assert _differ(*train), "augmentation that changes nothing would prove nothing"


def test_pixels_for_a_phase_that_trains_the_whole_model_are_augmented_as_well(short_trunk: ShortTrunk) -> None:
    """Nothing lies under the input, so nothing is cached for it."""
    inputs = short_trunk.inputs(True, **_TURNED)
    batches = inputs.batches("train", short_trunk.input)
    assert type(batches) is StreamedBatches
    plain = short_trunk.inputs(False).batches("train", short_trunk.input)
    assert _differ(_batches(batches, 0), _batches(plain, 0))
    _assert_same(
        _batches(inputs.batches("val", short_trunk.input)),
        _batches(short_trunk.inputs(False).batches("val", short_trunk.input)),
    )


# --- what Keras makes of them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [True, False])
def test_fit_gets_the_order_of_each_epoch_and_no_batch_of_another(short_trunk: ShortTrunk, cached: bool) -> None:
    """Keras reads ahead, and a batch that it holds at the end of an epoch must not enter the next."""
    batches = short_trunk.inputs(cached).batches("train", short_trunk.embedding)
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

    model = keras.Sequential(
        [keras.Input(short_trunk.embedding[0].shape[1:]), keras.layers.Dense(3, activation="softmax")]
    )
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=[Watch()], jit_compile=False)
    model.fit(batches.for_fit, shuffle=False, initial_epoch=2, epochs=5, callbacks=[SetEpoch()], verbose=0)
    assert seen == np.concatenate(expected).tolist()
