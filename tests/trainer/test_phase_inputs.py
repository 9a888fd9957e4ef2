"""Training from the cached boundary is the same as the plain method."""

import pathlib

import keras
import numpy as np
import pytest

from tests.trainer.runs import (
    BATCH_SIZE,
    SEED,
    Analyse,
    Data,
    Outcome,
    activation_counts,
    assert_trained_alike,
    photos,
    train_both_phases,
    write_records,
)

# --- the same as the plain method -------------------------------------------------------------------------------------


def _plainly(like: Outcome, cut: str | None) -> Outcome:
    """Train in two phases as Keras' guide does: `fit` on the whole model, from pixels, with BatchNorm frozen.

    (https://keras.io/guides/transfer_learning/.) The pixels and the first weights are Graftline's.

    Args:
      like: its settings are taken; no dropout in the head.
      cut: name of the layer up to which the trunk is to give what it gives in inference; None where nothing in the
        trunk drops. Keras' `trainable = False` does not see to that: Dropout drops on.
    """
    settings = like.training.settings
    ((pixels, labels),) = like.training.pixels.batches(like.training.dataset.train, lambda: np.arange(25), 25)
    ((held_out, held_out_labels),) = like.training.pixels.batches(like.training.dataset.val, lambda: np.arange(6), 6)
    pixels, labels = pixels.numpy(), labels.numpy()
    keras.utils.clear_session()
    keras.utils.set_random_seed(SEED)
    size = settings.backbone.size
    trunk = getattr(keras.applications, settings.backbone.name)(
        include_top=False, weights=None, input_shape=(size, size, 3), **settings.backbone.options
    )
    if settings.head.cut_at:
        trunk = keras.Model(trunk.input, trunk.get_layer(settings.head.cut_at).output)
    head = keras.layers.Dense(3, activation="softmax")
    model = keras.Model(trunk.input, head(keras.layers.GlobalAveragePooling2D()(trunk.output)))
    model.set_weights(like.before)
    names = [layer.name for layer in trunk.layers]
    lowest = settings.fine_tuning.unfreeze_from
    first = names.index(lowest) if isinstance(lowest, str) else len(names) + lowest
    drop_rates = {layer.name: layer.rate for layer in trunk.layers if hasattr(layer, "rate")}
    phases = [
        (settings.feature_extraction, [], names),
        (settings.fine_tuning, trunk.layers[first:], names[: names.index(cut) + 1] if cut else names),
    ]
    for phase, upper, inference in phases:
        for layer in model.layers:
            trains = layer is head or any(layer is other for other in upper)
            layer.trainable = trains and not isinstance(layer, keras.layers.BatchNormalization)
            if layer.name in drop_rates:
                layer.rate = 0 if layer.name in inference else drop_rates[layer.name]
        rate = phase.learning_rate
        optimizer = keras.optimizers.Adam(rate) if phase.optimizer == "adam" else keras.optimizers.SGD(rate, 0.9)
        model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
        optimizer.build(model.trainable_variables)  # otherwise Keras traces the step twice
        # The weights of the best epoch are kept; those from before the second phase count as an epoch.
        best = model.evaluate(held_out, held_out_labels, verbose=0) if upper else np.inf
        for epoch in range(phase.epochs):
            order = np.random.default_rng([SEED, epoch]).permutation(len(pixels))
            model.fit(pixels[order], labels[order], batch_size=BATCH_SIZE, shuffle=False, verbose=0)
            loss = model.evaluate(held_out, held_out_labels, verbose=0)
            if loss < best:
                best, kept = loss, model.get_weights()
        model.set_weights(kept)
    return Outcome(like.training, like.before, model.get_weights(), model.predict(held_out, verbose=0))


# SGD's steps are as exact as the gradients. Adam's steps have the size of the learning rate even where a gradient is
# only a rounding error of random sign, so single weights may differ by as much as they can move. They are few, so the
# same tolerance holds for each variable as a whole.
@pytest.mark.parametrize(
    ("name", "size", "cut_at", "unfreeze_from", "cut", "optimizer", "rates"),
    [
        # Without the upper trunk, which takes seconds:
        ("MobileNetV2", 32, "block_5_add", "block_5_expand", "block_4_add", "adam", (1e-2, 1e-3)),
        (
            "MobileNetV3Small",
            32,
            "expanded_conv_4_add",
            "expanded_conv_4_expand",
            "expanded_conv_3_project_bn",
            "sgd",
            (1e-2, 1e-3),
        ),
        # The drop-connect layer of block2b lies under the boundary, that of block3b above.
        ("EfficientNetB0", 32, "block3b_add", "block3b_expand_conv", "block3a_project_bn", "sgd", (1e-2, 1e-3)),
        # Whole trunks:
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in [
                ("MobileNetV2", 32, None, -30, "block_13_project_BN", "sgd", (1e-3, 1e-3)),
                ("MobileNetV2", 32, None, -30, "block_13_project_BN", "adam", (1e-3, 1e-4)),
                ("MobileNetV3Small", 32, None, -30, "expanded_conv_8_project_bn", "sgd", (1e-2, 1e-3)),
                ("EfficientNetB0", 32, None, -30, "block6c_add", "sgd", (1e-2, 1e-3)),
                ("ResNet50", 32, None, -30, "conv4_block6_out", "sgd", (3e-4, 3e-4)),
                ("InceptionV3", 75, None, -30, "mixed9", "sgd", (1e-3, 1e-3)),
                ("DenseNet121", 32, None, -30, "conv5_block12_concat", "sgd", (1e-3, 1e-3)),
                # Several tensors: each cell takes the outputs of the two before.
                ("NASNetMobile", 32, None, "reduction_concat_reduce_8", None, "sgd", (1e-3, 1e-4)),
            ]
        ),
    ],
)
def test_training_from_the_cache_equals_training_the_whole_model_from_pixels(
    data: Data,
    analyse: Analyse,
    tmp_path: pathlib.Path,
    name: str,
    size: int,
    cut_at: str | None,
    unfreeze_from: int | str,
    cut: str | None,
    optimizer: str,
    rates: tuple[float, float],
) -> None:
    ours = train_both_phases(
        Data(analyse(backbone=name, size=size), data.train, data.eval),
        tmp_path,
        backbone={"name": name, "input_size": size, "options": {}},
        head={"cut_at": cut_at},
        feature_extraction={"optimizer": optimizer, "learning_rate": rates[0]},
        fine_tuning={"optimizer": optimizer, "learning_rate": rates[1], "unfreeze_from": unfreeze_from},
    )
    names = [tensor._keras_history.operation.name for tensor in ours.training.boundary]
    assert names == [cut] if cut else len(names) > 1
    assert activation_counts(ours.training) == {"computed": 31, "reused": 0}
    assert_trained_alike(ours, _plainly(ours, cut), 1e-3)


def test_dropout_of_the_head_and_class_weights_are_the_same_with_and_without_the_cache(
    data: Data, tmp_path: pathlib.Path
) -> None:
    records = [write_records(tmp_path / "train", [*photos(range(5)), *(("rot", "rot", seed) for seed in range(5, 15))])]
    uneven = Data(data.transform, records, data.eval)
    changed = {"head": {"dropout": 0.4, "dense": [8]}, "training": {"class_weights": "balanced"}}
    cached = train_both_phases(uneven, tmp_path / "cached", **changed)
    streamed = train_both_phases(uneven, tmp_path / "streamed", **changed, boundary_cache={"enabled": False})
    assert activation_counts(streamed.training) == {"computed": 0, "reused": 0}
    assert_trained_alike(streamed, cached, 1e-3)


def test_a_cache_in_float16_is_close(data: Data, tmp_path: pathlib.Path, cold: Outcome) -> None:
    """float16 keeps 11 bits, so each activation is off by up to 2^-11 = 5e-4 of its size, and gradients by as much.

    Twice that for both factors of a weight's gradient, and with room for a ReLU that flips: 5e-3 of the way.
    """
    half = train_both_phases(data, tmp_path, boundary_cache={"dtype": "float16"})
    assert_trained_alike(half, cold, 5e-3)
    assert any((a != b).any() for a, b in zip(half.after, cold.after, strict=True)), "was it kept in float16 at all?"
