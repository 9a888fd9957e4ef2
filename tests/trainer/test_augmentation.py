"""Augmentation: each change does what it says to the picture itself, and follows from the image's own seed alone."""

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from pydantic import ValidationError

from graftline.trainer import augmentation, backbones
from graftline.trainer.settings import AugmentationSettings

SIZE = 24
COUNT = 24
FAMILIES = {"tf": "MobileNetV2", "torch": "DenseNet121", "caffe": "ResNet50", "none": "EfficientNetB0"}
AMOUNTS = {
    "flip": "both",
    "rotation": 0.1,
    "zoom": 0.3,
    "translation": 0.2,
    "crop": 0.5,
    "contrast": 0.4,
    "brightness": 0.3,
}
EVERYTHING = AugmentationSettings(**AMOUNTS)
families = pytest.mark.parametrize("backbone", [pytest.param(name, id=mode) for mode, name in FAMILIES.items()])


def _raw(low: float = 0, high: float = 255) -> np.ndarray:
    """Return a noisy picture, float32 [SIZE, SIZE, 3] in low..high, with another mean in each channel."""
    noise = np.random.default_rng(0).uniform(low, high, (SIZE, SIZE, 3))
    return (low + (noise - low) * [0.5, 0.8, 1.0]).astype(np.float32)


def _normalised(raw: np.ndarray, backbone: str = "MobileNetV2") -> np.ndarray:
    return np.asarray(backbones.get(backbone).preprocess_input(np.array(raw, np.float32)))


def _many(raw: np.ndarray, backbone: str = "MobileNetV2") -> np.ndarray:
    """Return the same picture COUNT times, so that only the augmentation makes a difference."""
    return np.stack([_normalised(raw, backbone)] * COUNT)


def _seeds(count: int = COUNT, run: int = 0, view: int = 0) -> tf.Tensor:
    return augmentation.seeds(tf.constant([f"{number:064x}" for number in range(count)]), run, view)


def _build(backbone: str = "MobileNetV2", **amounts: str | float) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    return augmentation.build(AugmentationSettings.model_validate(amounts), SIZE, backbones.get(backbone).preprocessing)


def _close(one: np.ndarray, other: np.ndarray) -> bool:
    return np.allclose(one, other, rtol=0, atol=1e-5 * max(1.0, float(np.abs(other).max())))


def _distinct(pictures: np.ndarray) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    for picture in pictures:
        if not any(_close(picture, other) for other in found):
            found.append(picture)
    return found


# --- what is done to a picture ----------------------------------------------------------------------------------------


def test_without_any_change_the_pixels_stay_the_same() -> None:
    pixels = tf.constant(_many(_raw()))
    assert _build()(pixels, _seeds()) is pixels


@families
@pytest.mark.parametrize("kind", AMOUNTS)
def test_each_kind_changes_the_picture_and_keeps_shape_type_and_range(kind: str, backbone: str) -> None:
    pixels = _many(_raw(), backbone)
    changed = _build(backbone, **{kind: AMOUNTS[kind]})(tf.constant(pixels), _seeds())
    assert (changed.shape, changed.dtype) == (pixels.shape, tf.float32)
    assert len(_distinct(changed.numpy())) >= (4 if kind == "flip" else COUNT - 5)
    black, white = (_normalised(np.full([1, 1, 3], end), backbone) for end in (0, 255))
    slack = 1e-5 * np.abs(white - black)
    assert np.all(changed >= black - slack) and np.all(changed <= white + slack)


@families
def test_without_interpolation_the_way_to_0_255_and_back_is_exact(backbone: str) -> None:
    (plain, *_), mirrored = _many(_raw(), backbone), _normalised(_raw()[:, ::-1], backbone)
    for picture in _build(backbone, flip="horizontal")(_many(_raw(), backbone), _seeds()).numpy():
        assert _close(picture, plain) or _close(picture, mirrored)


@families
def test_brightness_is_added_to_the_picture_and_not_to_its_normalised_pixels(backbone: str) -> None:
    raw = _raw(100, 150)  # far enough from both ends, so nothing is cut off
    pixels = _many(raw, backbone)
    span = (_normalised(np.full([1, 1, 3], 255), backbone) - _normalised(np.zeros([1, 1, 3]), backbone)).ravel()
    shifts = []
    for picture in _build(backbone, brightness=0.3)(pixels, _seeds()).numpy():
        shift = 255 * float((picture[0, 0, 0] - pixels[0, 0, 0, 0]) / span[0])
        assert _close(picture, _normalised(raw + shift, backbone))
        shifts.append(shift)
    assert min(shifts) < -20 and max(shifts) > 20 and max(np.abs(shifts)) <= 0.3 * 255


@families
def test_contrast_is_that_of_the_picture_and_rises_or_falls(backbone: str) -> None:
    raw = _raw(60, 160)
    mean = raw.mean((0, 1))
    deviation = _normalised(raw, backbone).std()
    factors = []
    for picture in _build(backbone, contrast=0.4)(_many(raw, backbone), _seeds()).numpy():
        around = picture - picture.mean((0, 1)), _normalised(raw, backbone) - _normalised(raw, backbone).mean((0, 1))
        factor = float(around[0].std() / around[1].std())
        assert np.abs(picture - _normalised((raw - mean) * factor + mean, backbone)).max() < 1e-4 * deviation
        factors.append(factor)
    assert 0.6 <= min(factors) < 0.85 and 1.15 < max(factors) <= 1.4


@pytest.mark.parametrize(("flip", "turned"), [("horizontal", [1]), ("vertical", [0]), ("both", [0, 1, (0, 1)])])
def test_a_flip_turns_some_pictures_over_in_its_directions_and_leaves_the_others(flip: str, turned: list) -> None:
    pixels = _many(_raw())
    expected = [pixels[0], *(np.flip(pixels[0], axes) for axes in turned)]
    counts = [0] * len(expected)
    for picture in _build(flip=flip)(pixels, _seeds()).numpy():
        (which,) = [index for index, other in enumerate(expected) if _close(picture, other)]
        counts[which] += 1
    assert min(counts) >= 2


def test_a_crop_is_a_window_of_the_enlarged_picture() -> None:
    enlarged = tf.image.resize(_raw(), [36, 36]).numpy()
    places = set()
    for picture in _build("EfficientNetB0", crop=0.5)(_many(_raw(), "EfficientNetB0"), _seeds()).numpy():
        places.update(
            (top, left)
            for top in range(13)
            for left in range(13)
            if _close(picture, enlarged[top : top + SIZE, left : left + SIZE])
        )
    assert len(places) > COUNT - 5
    assert len({top for top, _ in places}) > 6 and len({left for _, left in places}) > 6


@pytest.mark.parametrize("kind", ["rotation", "zoom", "translation"])
def test_uncovered_areas_are_filled_from_the_picture(kind: str) -> None:
    grey = _many(np.full([SIZE, SIZE, 3], 200.0))
    assert _close(_build(**{kind: AMOUNTS[kind]})(grey, _seeds()).numpy(), grey)


def test_pixels_outside_the_range_are_clipped() -> None:
    pixels = np.full([1, SIZE, SIZE, 3], 1.5, np.float32)
    np.testing.assert_allclose(_build(flip="both")(pixels, _seeds(1)), np.ones_like(pixels), atol=1e-6)


# --- what it follows from ---------------------------------------------------------------------------------------------


def _pictures() -> np.ndarray:
    """Return COUNT different pictures for MobileNetV2, float32 [COUNT, SIZE, SIZE, 3]."""
    return np.random.default_rng(1).uniform(-1, 1, (COUNT, SIZE, SIZE, 3)).astype(np.float32)


def test_a_picture_is_the_same_in_any_batch_and_order() -> None:
    augment = augmentation.build(EVERYTHING, SIZE, "tf")
    pixels, seeds = _pictures(), _seeds().numpy()
    whole = augment(pixels, seeds).numpy()
    assert _close(augment(pixels, seeds).numpy(), whole)
    order = np.random.default_rng(2).permutation(COUNT)
    assert _close(augment(pixels[order], seeds[order]).numpy(), whole[order])
    assert _close(augment(pixels[5:6], seeds[5:6]).numpy(), whole[5:6])
    again = augmentation.build(EVERYTHING, SIZE, "tf")
    assert _close(again(pixels, seeds).numpy(), whole)


def test_a_parallel_map_gives_the_same_pictures_with_any_threads() -> None:
    augment = augmentation.build(EVERYTHING, SIZE, "tf")
    pixels, seeds = _pictures(), _seeds().numpy()
    whole = augment(pixels, seeds).numpy()
    numbered = tf.data.Dataset.from_tensor_slices((np.arange(COUNT), pixels, seeds)).repeat(4)

    def mapped(batch: int, deterministic: bool) -> dict[int, list[np.ndarray]]:
        found: dict[int, list[np.ndarray]] = {}
        dataset = numbered.batch(batch).map(
            lambda number, pixels, seeds: (number, augment(pixels, seeds)),
            num_parallel_calls=8,
            deterministic=deterministic,
        )
        for number, picture in dataset.unbatch().as_numpy_iterator():
            found.setdefault(int(number), []).append(picture)
        return found

    for found in (mapped(1, False), mapped(5, True)):
        assert sorted(found) == list(range(COUNT))
        for number, pictures in found.items():
            assert len(pictures) == 4
            assert all(_close(picture, whole[number]) for picture in pictures)


def test_another_seed_is_another_picture() -> None:
    augment = augmentation.build(EVERYTHING, SIZE, "tf")
    one = augment(_many(_raw()), _seeds(view=0)).numpy()
    other = augment(_many(_raw()), _seeds(view=1)).numpy()
    assert len(_distinct(np.concatenate([one, other]))) == 2 * COUNT


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(Exception, match="shape"):
        _build(flip="both")(tf.zeros([2, SIZE + 1, SIZE, 3]), _seeds(2))


# --- seeds ------------------------------------------------------------------------------------------------------------

DIGESTS = ["0" * 64, "0" * 63 + "1", "f" * 64]


def test_seeds_differ_by_image_run_and_view() -> None:
    all_of_them = {
        tuple(augmentation.seeds(digest, run, view).numpy())
        for digest in DIGESTS
        for run in (0, 1, 2**32 - 1)
        for view in range(12)
    }
    assert len(all_of_them) == 3 * 3 * 12


def test_seeds_are_the_same_from_python_and_in_a_map_with_the_view_as_a_tensor() -> None:
    dataset = tf.data.Dataset.from_tensor_slices((DIGESTS, np.array([0, 7, 7])))
    one_by_one = list(dataset.map(lambda digest, view: augmentation.seeds(digest, 5, view)).as_numpy_iterator())
    (batch,) = dataset.batch(3).map(lambda digest, view: augmentation.seeds(digest, 5, view)).as_numpy_iterator()
    python = [augmentation.seeds(digest, 5, view).numpy() for digest, view in zip(DIGESTS, [0, 7, 7], strict=True)]
    assert batch.dtype == np.int32
    assert batch.shape == (3, 2)
    np.testing.assert_array_equal(one_by_one, python)
    np.testing.assert_array_equal(batch, python)
    np.testing.assert_array_equal(augmentation.seeds(DIGESTS, 5, np.array([0, 7, 7])), python)


def test_seeds_never_change() -> None:
    """A cache of augmented views outlives the process, and may outlive an upgrade of TensorFlow."""
    assert augmentation.seeds("0" * 64, 0, 0).numpy().tolist() == [1114825356, 1188217879]


# --- settings ---------------------------------------------------------------------------------------------------------


def test_by_default_nothing_is_changed() -> None:
    assert not AugmentationSettings().enabled
    assert AugmentationSettings.model_validate("off") == AugmentationSettings()
    assert not AugmentationSettings(views=0).enabled


@pytest.mark.parametrize("kind", AMOUNTS)
def test_any_one_kind_enables_it(kind: str) -> None:
    assert AugmentationSettings.model_validate({kind: AMOUNTS[kind]}).enabled


@pytest.mark.parametrize(
    "wrong",
    [
        {"flip": "diagonal"},
        {"rotation": 0.6},
        {"zoom": 1.0},
        {"translation": 0.6},
        {"crop": -0.1},
        {"contrast": 1.0},
        {"brightness": -0.1},
        {"views": -1},
        {"shear": 0.1},
        "on",
    ],
)
def test_settings_out_of_bounds_are_refused(wrong: object) -> None:
    with pytest.raises(ValidationError):
        AugmentationSettings.model_validate(wrong)


@pytest.mark.parametrize("kind", ["rotation", "zoom", "translation", "crop", "contrast", "brightness"])
def test_the_largest_amounts_of_the_settings_are_those_of_keras(kind: str) -> None:
    largest = {"rotation": 0.5, "translation": 0.5, "crop": 1.0}.get(kind, 0.999)
    assert np.isfinite(_build(**{kind: largest})(_many(_raw()), _seeds())).all()
