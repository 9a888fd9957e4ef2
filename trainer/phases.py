"""The two phases of transfer learning: what is frozen in each, and one phase of training as it goes."""

from dataclasses import dataclass, field

import keras

from trainer import boundary, models
from trainer.settings import PhaseSettings

Batches = object  # what keras.Model.fit takes


@dataclass(frozen=True)
class PhaseResult:
    """How a phase went: `ended` is "plateau" (the validation loss stopped improving) or "epochs".

    `history` holds a list for each of Keras' logs; `kept` is False when the weights from before the phase were better
    on the validation loss and were put back.
    """

    name: str
    epochs: int
    ended: str
    accuracy: float
    val_accuracy: float
    val_loss: float
    trainable_weights: int
    kept: bool = True
    history: dict[str, list[float]] = field(default_factory=dict)


def trained(unfrozen: list[keras.Layer]) -> list[keras.Layer]:
    """Those of the unfrozen layers that training moves: they have weights, and are no BatchNormalization."""
    return [layer for layer in unfrozen if layer.weights and not isinstance(layer, keras.layers.BatchNormalization)]


def cut_under(grafted: models.Grafted, unfrozen: list[keras.Layer]) -> keras.KerasTensor:
    """The boundary: the last single tensor under all that either phase trains."""
    return boundary.find_cut(grafted.model, [*trained(unfrozen), *grafted.head_layers])


def freeze(grafted: models.Grafted, unfrozen: list[keras.Layer]) -> None:
    """Freezes the trunk but for `unfrozen`; the head stays trainable. Recompile after it.

    A BatchNormalization of the trunk is frozen always: in Keras 3 that alone makes it use (and keep) its moving
    statistics inside `fit`, where `trunk(x, training=False)` is ignored (keras issue 20285).
    """
    grafted.model.trainable = True
    keep = set(map(id, trained(unfrozen)))
    for layer in grafted.trunk.layers:
        layer.trainable = id(layer) in keep


def optimizer(settings: PhaseSettings) -> keras.optimizers.Optimizer:
    """A fresh optimizer as the phase asks for it."""
    kinds = {
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "rmsprop": keras.optimizers.RMSprop,
        "sgd": lambda learning_rate: keras.optimizers.SGD(learning_rate, momentum=0.9),
    }
    return kinds[settings.optimizer](settings.learning_rate)


def train(
    name: str,
    model: keras.Model,
    settings: PhaseSettings,
    train_batches: Batches,
    val_batches: Batches,
    callbacks: list[keras.callbacks.Callback] | None = None,
    may_be_taken_back: bool = True,
) -> PhaseResult:
    """Compiles and trains until the validation loss stops improving or the epochs are over; keeps the best weights.

    Args:
      name: of the phase.
      model: its `trainable` flags are set.
      settings: of the phase.
      train_batches, val_batches: batches of (inputs, label index), for `fit`.
      callbacks: more of them.
      may_be_taken_back: puts the weights from before back when no epoch was better; not for a head that knows nothing.
    """
    # XLA on CPU made a MobileNetV2 forward pass 15-20 times slower than the oneDNN path, so jit_compile is off.
    model.compile(
        optimizer=optimizer(settings),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=False,
    )
    before = model.evaluate(val_batches, verbose=0, return_dict=True)
    weights_before = [variable.numpy() for variable in model.trainable_variables]
    stopping = keras.callbacks.EarlyStopping(
        monitor="val_loss", patience=settings.patience, min_delta=settings.min_delta, restore_best_weights=True
    )
    history = model.fit(
        train_batches,
        validation_data=val_batches,
        shuffle=False,  # the batches come in an order of our seed already
        epochs=settings.epochs,
        callbacks=[stopping, *(callbacks or [])],
        verbose=0,
    ).history
    best = stopping.best_epoch
    # A phase never leaves a trained model worse than it found it.
    kept = not may_be_taken_back or history["val_loss"][best] <= before["loss"]
    if not kept:
        for variable, value in zip(model.trainable_variables, weights_before, strict=True):
            variable.assign(value)
    ran = len(history["loss"])
    return PhaseResult(
        name=name,
        epochs=ran,
        ended="plateau" if stopping.stopped_epoch else "epochs",
        accuracy=history["accuracy"][best],
        val_accuracy=history["val_accuracy"][best] if kept else before["accuracy"],
        val_loss=history["val_loss"][best] if kept else before["loss"],
        trainable_weights=sum(variable.shape.num_elements() for variable in model.trainable_variables),
        kept=kept,
        history={key: [float(value) for value in values] for key, values in history.items()},
    )
