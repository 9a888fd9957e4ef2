"""Training in 16 bits: what the layers compute in, calibration, loss scaling and the exported model."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow.core.protobuf import saved_model_pb2

from graftline import features, signatures
from graftline.errors import UserError
from graftline.trainer import boundary, export, heads, models, optimizers, phases
from graftline.trainer.settings import BackboneSettings, HeadSettings
from tests import images
from tests.conftest import Transformed
from tests.trainer.small_models import STEPS, assert_resumed_equals_unbroken, make_model, phase_settings

_SMALL = BackboneSettings(name="MobileNetV2", weights="none", input_size=32, options={"alpha": 0.35})
_CUT_AT = "block_4_add"


def _pixels(count: int = 12) -> np.ndarray:
    drawn = [images.draw(images.CLASSES[seed % 3], seed, (32, 32)) for seed in range(count)]
    return np.stack([np.asarray(image, np.float32) for image in drawn]) / 127.5 - 1


def _grafted(precision: str, like: keras.Model | None = None) -> heads.Grafted:
    keras.utils.set_random_seed(0)
    grafted = heads.graft(models.build_trunk(_SMALL, [_CUT_AT], precision), HeadSettings(dropout=0), 3)
    if like is not None:
        grafted.model.set_weights(like.get_weights())
        return grafted
    models.calibrate(grafted.trunk, _pixels())
    kernel = grafted.model.get_layer("probabilities").kernel
    kernel.assign(np.random.default_rng(2).normal(0, 0.03, kernel.shape))  # it starts at zero
    return grafted


@pytest.fixture(scope="module")
def full() -> heads.Grafted:
    return _grafted("float32")


@pytest.fixture(scope="module")
def half(full: heads.Grafted) -> heads.Grafted:
    """The same weights, computed in bfloat16."""
    return _grafted("mixed_bfloat16", like=full.model)


def test_the_trunk_computes_in_16_bits_with_weights_in_32(half: heads.Grafted) -> None:
    assert {layer.compute_dtype for layer in half.trunk.layers if layer.weights} == {"bfloat16"}
    assert {variable.dtype for variable in half.model.weights} == {"float32"}
    assert half.trunk.output.dtype == "bfloat16"
    assert half.embedding.dtype == half.model.output.dtype == "float32"


def test_the_policy_is_put_back_even_where_the_trunk_cannot_be_built() -> None:
    with pytest.raises(UserError):
        models.build_trunk(_SMALL.model_copy(update={"options": {"alhpa": 1}}), precision="mixed_bfloat16")
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("name", ["EfficientNetB0", "ConvNeXtTiny"])
def test_trunks_with_layers_of_their_own_run_in_16_bits(name: str) -> None:
    trunk = models.build_trunk(BackboneSettings(name=name, weights="none", input_size=32), precision="mixed_bfloat16")
    values = keras.ops.cast(trunk(_pixels(2) * 127.5 + 127.5, training=False), "float32")
    assert np.isfinite(values).all()


def test_a_random_trunk_is_calibrated_in_float16_without_overflow() -> None:
    trunk = models.build_trunk(_SMALL, [_CUT_AT], "mixed_float16")
    loud = _pixels() * 500  # float16 cannot hold the squares
    models.calibrate(trunk, loud)
    values = keras.ops.convert_to_numpy(trunk(loud, training=False))
    assert values.dtype == np.float16
    assert 0.01 < values.astype(np.float32).std(axis=0).mean() < 10


def test_answers_in_bfloat16_are_near_those_in_float32(full: heads.Grafted, half: heads.Grafted) -> None:
    expected, answers = (
        keras.ops.convert_to_numpy(grafted.model(_pixels(), training=False)) for grafted in (full, half)
    )
    assert expected.std(axis=0).max() > 0.02, "answers that are all alike would prove nothing"
    np.testing.assert_allclose(answers, expected, atol=0.02)
    assert (answers != expected).any()


def test_training_from_activations_at_the_boundary_is_training_the_whole_in_bfloat16(full: heads.Grafted) -> None:
    """The cache holds float32, which keeps bfloat16 numbers unchanged."""
    labels = np.arange(12) % 3
    results = []
    for cached in (True, False):
        grafted = _grafted("mixed_bfloat16", like=full.model)
        trained = phases.trainable_layers(models.layers_to_unfreeze(grafted.trunk, "block_4_project"))
        phases.freeze_trunk(grafted, trained)
        model, x = grafted.model, _pixels()
        if cached:
            (cut,) = phases.find_boundary(grafted, trained)
            assert cut.dtype == "bfloat16"
            below = keras.Model(model.inputs[0], cut)(x, training=False)
            model, x = boundary.part_above(model, (cut,)), below.numpy().astype(np.float32)
        layers = [*trained, *grafted.head_layers]
        optimizer = optimizers.build(phase_settings(learning_rate=1e-3), 1, layers, grafted.head_layers)
        model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
        model.fit(x, labels, batch_size=12, epochs=2, verbose=0)
        results.append({variable.path: variable.numpy() for variable in grafted.model.trainable_variables})
    assert len(results[0]) == 3
    before = {variable.path: variable.numpy() for variable in full.model.weights}
    for path, values in results[0].items():
        assert np.abs(values - before[path]).max() > 1e-4
        np.testing.assert_allclose(values, results[1][path], atol=2e-5)


def test_a_model_in_bfloat16_is_exported_with_float32_weights_and_answers(
    half: heads.Grafted, full: heads.Grafted, transformed: Transformed, tmp_path: pathlib.Path
) -> None:
    transform = tft.TFTransformOutput(transformed.directory)
    export.export(half.model, half.embedding, transform, str(tmp_path))
    files = tf.constant([images.encode(images.draw(label, seed)) for label in images.CLASSES for seed in range(2)])
    answers = tf.saved_model.load(str(tmp_path)).signatures[signatures.SERVING_DEFAULT](image_bytes=files)
    pixels = transform.transform_features_layer()({features.IMAGE: files[:, tf.newaxis]})[features.PIXELS]
    probabilities, expected = answers[signatures.PROBABILITIES], full.model(pixels, training=False)
    assert probabilities.dtype == tf.float32
    np.testing.assert_allclose(probabilities, expected, atol=0.02)
    saved = saved_model_pb2.SavedModel.FromString((tmp_path / "saved_model.pb").read_bytes())
    nodes = [node for one in saved.meta_graphs[0].graph_def.library.function for node in one.node_def]
    constants = [node.attr["value"].tensor for node in nodes if node.op == "Const"]
    weights = [one for one in constants if len(one.tensor_content) > 100]
    assert len(weights) > 40
    assert {tf.as_dtype(one.dtype) for one in weights} == {tf.float32}


def test_layers_in_float16_have_their_loss_scaled_and_resume_as_if_never_stopped() -> None:
    settings = phase_settings(learning_rate=0.01, schedule="cosine", warmup_epochs=1, layer_decay=0.5, clip_norm=1.0)
    optimizer = optimizers.build(settings, STEPS, make_model(dtype="mixed_float16").layers)
    assert type(optimizer) is keras.optimizers.LossScaleOptimizer
    assert type(optimizer.inner_optimizer) is optimizers.LayerwiseAdam
    assert_resumed_equals_unbroken(settings, "mixed_float16")


def test_other_layers_keep_their_loss_unscaled() -> None:
    for dtype in ("float32", "mixed_bfloat16"):
        assert type(optimizers.build(phase_settings(), STEPS, make_model(dtype=dtype).layers)) is keras.optimizers.Adam


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="a GPU computes in 16 bits")
def test_a_cpu_without_the_precision_is_a_warning(tmp_path: pathlib.Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"

    def warning(precision: str, flags: str) -> str | None:
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: fpu sse2 {flags}\n")
        return optimizers.precision_warning(precision, cpuinfo)

    assert warning("float32", "avx2") is None
    assert warning("mixed_bfloat16", "avx512_bf16 avx2") is None
    assert warning("mixed_bfloat16", "avx2 amx_bf16") is None
    assert "the CPU emulates bfloat16" in (warning("mixed_bfloat16", "avx512f avx2") or "")
    assert "emulates" in (optimizers.precision_warning("mixed_bfloat16", tmp_path / "none") or "")
    assert "on a CPU a training step in float16 takes 50 to 100 times" in (warning("mixed_float16", "avx2") or "")
