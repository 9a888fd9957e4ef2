"""The drawings that the shipped trunk learned from, and its training."""

import pathlib
import subprocess
import sys
from dataclasses import replace

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from graftline.errors import UserError
from graftline.trainer import backbones, models
from graftline.trainer.settings import BackboneSettings
from recipes.procedural_trunk import drawing, programs, shapes, textures, training
from recipes.procedural_trunk.recipe import Recipe
from tests import assets

_PATTERN = textures.Pattern("flat", 6.0, 0.5, 0.6, 0.5, 0.5, 0.1)
_FIGURE = shapes.Figure("ellipse", 5, 0.5, 0.3, 1.0, 0.2, 4, False, 0.3, 7)


def _random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("texture", list(textures.TEXTURES))
def test_a_texture_is_drawn_anew_from_each_seed_and_alike_from_one(texture: str) -> None:
    pattern = replace(_PATTERN, texture=texture)
    first, again, other = (textures.draw(pattern, _random(seed)) for seed in (1, 1, 2))
    assert first.shape == (textures.SIDE, textures.SIDE)
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.std() > 0.01  # the picture is not empty


@pytest.mark.parametrize("shape", [shape for shape in shapes.SHAPES if shape != "none"])
def test_a_shape_covers_part_of_the_image(shape: str) -> None:
    for seed in range(5):
        cover, depth = shapes.draw(replace(_FIGURE, shape=shape), _random(seed))
        assert cover.shape == depth.shape == (textures.SIDE, textures.SIDE)
        assert cover.min() >= 0
        assert cover.max() <= 1
        assert 0 < cover.mean() < 0.9
        assert depth.min() >= 0
        assert depth.max() <= 1


def test_shapes_are_of_their_size_and_number() -> None:
    """Sizes vary by up to 1.4 and numbers by a third, but means over many images do not."""

    def mean_cover(**changes: object) -> float:
        figure = replace(_FIGURE, stretch=0.0, **changes)  # type: ignore[arg-type]
        return float(np.mean([shapes.draw(figure, _random(seed))[0].mean() for seed in range(60)]))

    assert 3 < mean_cover(count=1, size=0.2) / mean_cover(count=1, size=0.1) < 5
    assert 2 < mean_cover(count=8, size=0.05) / mean_cover(count=2, size=0.05) < 5


def test_images_of_a_program_differ_and_are_like_each_other() -> None:
    nearer = 0
    for seed in range(20):
        random = _random(seed)
        one, other = programs.invent(random), programs.invent(random)
        first, second, third = (programs.draw(program, random) for program in (one, one, other))
        assert first.shape == (textures.SIDE, textures.SIDE, 3)
        assert first.dtype == np.uint8
        assert not np.array_equal(first, second)
        mean = [image.mean(axis=(0, 1)) for image in (first, second, third)]
        nearer += np.abs(mean[0] - mean[1]).sum() < np.abs(mean[0] - mean[2]).sum()
    assert nearer >= 16  # by their mean colour alone


def test_attributes_say_what_a_program_draws() -> None:
    random = _random()
    values_of_programs = [
        (program := programs.invent(random), dict(zip(programs.ATTRIBUTES, programs.attributes(program), strict=True)))
        for _ in range(300)
    ]
    for program, values in values_of_programs:
        assert all(0 <= values[name] < size for name, size in programs.ATTRIBUTES.items())
        assert list(textures.TEXTURES)[values["texture"]] == program.ground.texture
        assert shapes.SHAPES[values["shape"]] == program.figure.shape
        assert (values["figure's colour"] == programs.ATTRIBUTES["figure's colour"] - 1) == (
            program.figure.shape == "none"
        )
    for name, size in programs.ATTRIBUTES.items():
        assert len({values[name] for _, values in values_of_programs}) == size, name  # each value occurs


def test_colours_are_named_by_hue_and_lightness() -> None:
    colours = [programs._colour(np.array([colour], np.float32)) for colour in ((1, 0, 0), (0, 0, 0.3), (0.9, 0.9, 0.9))]
    assert colours == [(0, 3), (8, 1), (12, 3)]


def test_all_images_are_drawn_the_same_from_one_seed(tmp_path: pathlib.Path) -> None:
    drawn = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        drawn.append(drawing.draw_all(10, 3, 5, tmp_path / name))
    np.testing.assert_array_equal(drawn[0].images, drawn[1].images)
    assert drawn[0].images.shape == (30, textures.SIDE, textures.SIDE, 3)
    assert drawn[0].labels[:, 0].tolist() == [number for number in range(10) for _ in range(3)]
    assert len({image.tobytes() for image in drawn[0].images}) == 30


def test_the_fused_batch_normalization_is_that_of_keras() -> None:
    images = tf.random.stateless_uniform((8, 5, 5, 3), (1, 2), -2, 5)
    results = []
    for kind in (training._BatchNormalization, keras.layers.BatchNormalization):
        layer = kind(momentum=0.9)
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_sum(layer(images, training=True) ** 3)
        results.append([tape.gradient(loss, images), layer(images, training=False), layer.moving_mean.value])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_crops_lie_in_the_image_and_are_no_smaller_than_asked() -> None:
    boxes = training._boxes(Recipe(smallest_crop=0.2), 1000, _random())
    sides = boxes[:, 2:] - boxes[:, :2]
    assert boxes.min() >= 0
    assert boxes.max() <= 1 + 1e-6
    assert 0.15 < sides.prod(axis=1).min() < 0.25
    assert sides.prod(axis=1).max() > 0.9


def test_gray_images_have_no_colour_and_others_keep_theirs() -> None:
    images = tf.constant(_random().integers(0, 256, (64, 16, 16, 3)), tf.uint8)
    boxes = tf.tile([[0.0, 0.0, 1.0, 1.0]], (64, 1))
    pixels = training._augmented(images, boxes, 16, Recipe(gray=0.5)).numpy()
    assert pixels.shape == (64, 16, 16, 3)
    assert pixels.min() >= -1
    assert pixels.max() <= 1
    gray = np.ptp(pixels, axis=3).max(axis=(1, 2)) < 1e-5
    assert 16 < gray.sum() < 48


def test_the_command_trains_and_saves_what_the_backbone_loads(tmp_path: pathlib.Path) -> None:
    """A short run shows that the program ends and what it writes, not how good the weights are."""
    path = tmp_path / "some.weights.h5"
    small = ["--programs=8", "--each=8", "--images=1600", "--projection=16", "--batch=16"]
    command = [sys.executable, "-m", "recipes.procedural_trunk", "--out", str(path), *small]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=assets.ROOT)
    assert "64 images of 8 programs drawn" in done.stdout
    assert f"{path} has {path.stat().st_size:,} bytes" in done.stdout
    settings = BackboneSettings(name="MobileNetV2", weights=str(path), input_size=96, options={"alpha": 0.35})
    trained = models.build_trunk(settings)
    with h5py.File(path) as file:
        kinds: set[np.dtype] = set()
        file.visititems(lambda _, node: kinds.add(node.dtype) if isinstance(node, h5py.Dataset) else None)
    assert kinds == {np.dtype(np.float16)}
    variance = trained.get_layer("bn_Conv1").moving_variance.numpy()
    assert not np.allclose(variance, 1)  # statistics were taken


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--out=nowhere/x.weights.h5"],
            "--out nowhere/x.weights.h5: give a file that ends in .weights.h5, in an existing folder",
        ),
        (["--out=x.h5"], "--out x.h5: give a file that ends in .weights.h5"),
        (["--seed=-1"], "--seed -1: give 0 or more"),
        (["--programs=-20"], "--programs -20: Input should be greater than or equal to 2"),
        (["--smallest-crop=5"], "--smallest-crop 5.0: Input should be less than or equal to 1"),
        (["--batch=3"], "--batch 3: Input should be a multiple of 2"),
        (["--programs=2", "--each=4"], "--programs times --each is less than the images of one --batch"),
        (["--images=10"], "--images 10: give at least 12,800, 100 batches"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_drawn(
    arguments: list[str], message: str, tmp_path: pathlib.Path
) -> None:
    command = [sys.executable, "-m", "recipes.procedural_trunk", f"--out={tmp_path}/x.weights.h5", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=assets.ROOT)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_weights_that_are_nan_are_neither_saved_nor_loaded(tmp_path: pathlib.Path) -> None:
    trunk = training.build(0)
    trunk.layers[1].set_weights([np.full_like(values, np.nan) for values in trunk.layers[1].get_weights()])
    with pytest.raises(FloatingPointError, match=r"is NaN, or too large for float16: give a lower --rate"):
        training.save(trunk, tmp_path / "x.weights.h5")
    assert not (tmp_path / "x.weights.h5").exists()
    settings = BackboneSettings(name="MobileNetV2", weights="none", input_size=32, options={"alpha": 0.35})
    plain = models.build_trunk(settings)
    plain.set_weights(trunk.get_weights())
    plain.save_weights(tmp_path / "nan.weights.h5")
    with pytest.raises(UserError, match="it holds NaN or infinite numbers"):
        models.build_trunk(settings.model_copy(update={"weights": str(tmp_path / "nan.weights.h5")}))


def test_the_shipped_weights_are_small_and_load() -> None:
    assert backbones.PROCEDURAL.stat().st_size < 2e6
    settings = BackboneSettings(name="MobileNetV2", weights="procedural", input_size=96, options={"alpha": 0.35})
    trunk = models.build_trunk(settings)
    random = _random(99)
    names = [programs.invent(random) for _ in range(6)]
    images = np.stack([programs.draw(program, random) for program in names for _ in range(6)])
    pixels = tf.image.resize(images, (96, 96)) / 127.5 - 1
    features = tf.reduce_mean(trunk(pixels, training=False), axis=(1, 2)).numpy()
    features = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-3)
    distances = np.linalg.norm(features[:, None] - features[None], axis=2) + 1e9 * np.eye(36)
    same = distances.argmin(axis=1) // 6 == np.arange(36) // 6
    assert same.mean() > 0.8  # programs that it never saw; by chance it would be 0.14


@pytest.mark.slow
@assets.needs_assets
def test_a_short_pretraining_beats_random_weights_on_real_images(tmp_path: pathlib.Path) -> None:
    from benchmarks import linear_probe

    path = tmp_path / "short.weights.h5"
    small = ["--programs=500", "--each=32", "--images=100000"]
    subprocess.run(
        [sys.executable, "-m", "recipes.procedural_trunk", "--out", path, *small], check=True, cwd=assets.ROOT
    )
    images, labels = linear_probe.folder(assets.EUROSAT)
    pretrained = linear_probe.accuracy(linear_probe.trunk(str(path))(images), labels, 5)[0]
    random = [
        linear_probe.trunk("none")(images),
        linear_probe.trunk("none", images[::50])(images),
    ]
    assert pretrained > max(linear_probe.accuracy(features, labels, 5)[0] for features in random) + 0.05
