"""The two phases of transfer learning: what is frozen in each, and one phase of training as it goes."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import keras
import numpy as np

from graftline.errors import UserError
from graftline.trainer import boundary, losses, models, optimizers
from graftline.trainer.activations import Batches
from graftline.trainer.checkpoints import Checkpoint, Checkpoints
from graftline.trainer.settings import PhaseSettings, TrainingSettings


@dataclass(frozen=True)
class PhaseResult:
    """How a phase went.

    `ended` is "plateau" (the validation loss stopped improving), "epochs", or "nan" (the loss was no longer a number).
    `best_epoch`, from 0, is the one whose weights were kept; -1, and `kept` False, when those from before the phase
    had the lower validation loss. `history` holds a list for each of Keras' logs. `note` says what went wrong.
    """

    name: str
    epochs: int
    ended: str
    accuracy: float
    val_accuracy: float
    val_loss: float
    trainable_weights: int
    best_epoch: int
    kept: bool = True
    history: dict[str, list[float]] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Part:
    """The part of the model that a phase trains, from the boundary to the probabilities, and its batches.

    `layers` are those that train, lower to upper; `head` are those of them that make the head, the last.
    """

    model: keras.Model
    layers: Sequence[keras.Layer]
    head: Sequence[keras.Layer]
    train: Batches
    val: Batches


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


def train(
    name: str,
    part: Part,
    settings: PhaseSettings,
    training: TrainingSettings,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoints: Checkpoints | None = None,
    resume: Checkpoint | None = None,
    finished: Sequence[PhaseResult] = (),
    may_be_taken_back: bool = True,
) -> PhaseResult:
    """Compiles and trains until the validation loss stops improving or the epochs are over; keeps the best weights.

    Args:
      name: of the phase.
      part: its `trainable` flags are set.
      settings: of the phase.
      training: what both phases share.
      callbacks: more of them.
      checkpoints: where the state after each epoch is saved.
      resume: a state that an earlier run of this phase saved.
      finished: the phases before; they are saved with the state.
      may_be_taken_back: counts the validation loss before the phase as that of an epoch, whose weights are put back
        when no other is better; not for a head that knows nothing.

    Raises:
      UserError: the loss was not a number before any epoch was finished.
    """
    model = part.model
    optimizer = optimizers.build(settings, steps_per_epoch(part.train, training), part.layers, part.head)
    # XLA on CPU made a MobileNetV2 forward pass 15-20 times slower than the oneDNN path, so jit_compile is off.
    model.compile(
        optimizer=optimizer,
        loss=losses.build(training.label_smoothing),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=False,
    )
    watch = _Watch(name, part, settings, checkpoints, finished)
    if resume is not None:
        watch.restore(resume)
        logging.info("%s goes on after epoch %d", name, watch.epochs)
    elif may_be_taken_back:
        watch.begin(model.evaluate(part.val.for_fit, verbose=0, return_dict=True))
    weights = losses.class_weights(part.train.labels) if training.class_weights == "balanced" else None
    if not watch.over:
        model.fit(
            part.train.for_fit,
            validation_data=part.val.for_fit,
            shuffle=False,  # the batches come in an order of our seed already
            initial_epoch=watch.epochs,
            epochs=settings.epochs,
            callbacks=[watch, *callbacks],
            class_weight=weights,
            verbose=0,
        )
    return watch.result()


def steps_per_epoch(batches: Batches, training: TrainingSettings) -> int:
    """Batches in an epoch."""
    return -(-len(batches.labels) // training.batch_size)


class _Watch(keras.callbacks.Callback):
    """Keeps the best weights, stops on a plateau or when the loss is no number, and saves the state of each epoch."""

    def __init__(
        self,
        name: str,
        part: Part,
        settings: PhaseSettings,
        checkpoints: Checkpoints | None,
        finished: Sequence[PhaseResult],
    ) -> None:
        super().__init__()
        self._name, self._part, self._settings = name, part, settings
        self._checkpoints, self._finished = checkpoints, finished
        self.history: dict[str, list[float]] = {}
        self._best_loss, self._best_epoch = math.inf, -1
        self._best: list[np.ndarray] = []
        self._before: dict[str, float] = {}
        self._ended, self._note = "", ""
        self._failed_at: int | None = None

    @property
    def epochs(self) -> int:
        """How many are finished."""
        return len(self.history.get("loss", []))

    @property
    def over(self) -> bool:
        """Whether there is nothing left to train."""
        return bool(self._ended) or self.epochs >= self._settings.epochs

    def begin(self, before: Mapping[str, float]) -> None:
        """The model's metrics before the phase are what the epochs must beat."""
        self._before = dict(before)
        if math.isfinite(before["loss"]):
            self._best_loss, self._best = before["loss"], self._values(self._part.model.trainable_variables)

    # --- Keras' hooks -------------------------------------------------------------------------------------------------

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Sets the order of the batches."""
        self._part.train.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Stops at the first step whose loss is no number."""
        if logs and not math.isfinite(logs["loss"]):
            self._failed_at = batch
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Judges the epoch."""
        logs = dict(logs or {})
        if self._failed_at is not None or not math.isfinite(logs["val_loss"]):
            where = f"epoch {epoch + 1}" + ("" if self._failed_at is None else f", step {self._failed_at + 1}")
            self._fail(where)
            return
        for key, value in {**logs, "learning_rate": float(self.model.optimizer.learning_rate)}.items():
            self.history.setdefault(key, []).append(float(value))
        if logs["val_loss"] < self._best_loss - self._settings.min_delta:
            self._best_loss, self._best_epoch = logs["val_loss"], epoch
            self._best = self._values(self.model.trainable_variables)
        elif epoch - self._best_epoch >= max(self._settings.patience, 1):
            self._ended = "plateau"
            self.model.stop_training = True
        if self._checkpoints is not None:
            self._checkpoints.save(*self._state())

    # --- results ------------------------------------------------------------------------------------------------------

    def _fail(self, where: str) -> None:
        advice = (
            f"lower {self._name}.learning_rate (now {self._settings.learning_rate:g}) or set {self._name}.clip_norm"
        )
        if not self._best:
            raise UserError(
                f"{self._name}: the loss was no longer a number at {where}, nothing is trained yet; {advice}"
            )
        kept = f"of epoch {self._best_epoch + 1}" if self._best_epoch >= 0 else "from before the phase"
        self._ended = "nan"
        self._note = f"the loss was no longer a number at {where}; the weights {kept} were kept; {advice}"
        logging.warning("%s: %s", self._name, self._note)
        self.model.stop_training = True

    def result(self) -> PhaseResult:
        """Puts the best weights back and says how the phase went."""
        variables = self._part.model.trainable_variables
        for variable, value in zip(variables, self._best, strict=True):
            variable.assign(value)
        best, history = self._best_epoch, self.history
        return PhaseResult(
            name=self._name,
            epochs=self.epochs,
            ended=self._ended or "epochs",
            accuracy=history["accuracy"][best] if best >= 0 else math.nan,
            val_accuracy=history["val_accuracy"][best] if best >= 0 else self._before["accuracy"],
            val_loss=self._best_loss,
            trainable_weights=sum(math.prod(variable.shape) for variable in variables),
            best_epoch=best,
            kept=best >= 0,
            history=history,
            note=self._note,
        )

    # --- the state of an epoch ----------------------------------------------------------------------------------------

    def _moving(self) -> dict[str, Sequence[keras.Variable]]:
        """All that an epoch changes: weights, the optimizer's variables, the state of dropout's random numbers."""
        model = self._part.model
        weights = set(map(id, model.weights))
        seeds = [variable for variable in model.variables if id(variable) not in weights]
        return {"weights": model.trainable_variables, "optimizer": model.optimizer.variables, "seeds": seeds}

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays = {
            f"{kind}.{number}": value
            for kind, variables in self._moving().items()
            for number, value in enumerate(self._values(variables))
        }
        arrays |= {f"best.{number}": value for number, value in enumerate(self._best)}
        meta = {
            "phase": self._name,
            "finished": [asdict(result) for result in self._finished],
            "history": self.history,
            "best_loss": self._best_loss,
            "best_epoch": self._best_epoch,
            "before": self._before,
            "ended": self._ended,
        }
        return meta, arrays

    def restore(self, state: Checkpoint) -> None:
        """Takes up what `_state` gave."""
        model, meta, arrays = self._part.model, state.meta, state.arrays
        model.optimizer.build(model.trainable_variables)
        for kind, variables in self._moving().items():
            for number, variable in enumerate(variables):
                variable.assign(arrays[f"{kind}.{number}"])
        self.history = {key: list(values) for key, values in meta["history"].items()}
        self._best_loss, self._best_epoch = meta["best_loss"], meta["best_epoch"]
        self._best = [arrays[f"best.{number}"] for number in range(len(model.trainable_variables))]
        self._before, self._ended = dict(meta["before"]), meta["ended"]

    @staticmethod
    def _values(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
        return [keras.ops.convert_to_numpy(variable).copy() for variable in variables]
