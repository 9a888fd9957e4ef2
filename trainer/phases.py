"""The two phases of transfer learning: what each one freezes, and how one phase trains."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import keras
import numpy as np

from graftline.errors import UserError
from graftline.trainer import boundary, heads, losses, models, optimizers
from graftline.trainer.activations import Batches
from graftline.trainer.checkpoints import Checkpoint, Checkpoints
from graftline.trainer.settings import FeatureExtractionSettings, FineTuningSettings, PhaseSettings, TrainingSettings


@dataclass(frozen=True)
class Phase:
    """A phase that is going to be trained."""

    name: str  # its section of the config
    settings: PhaseSettings
    boundary: boundary.Boundary  # where the part of the model begins that the phase trains
    trained: list[keras.Layer]  # of the trunk

    @property
    def solved(self) -> bool:
        """Whether `trainer.solver` solves the head in place of training by epochs."""
        return isinstance(self.settings, FeatureExtractionSettings) and self.settings.solver != "gradient"


@dataclass(frozen=True)
class PhaseResult:
    """How a phase went. The accuracies and the loss are those of the weights that the phase ended with."""

    name: str
    epochs: int  # that were finished
    # "plateau" (no epoch was better for long), "epochs", "callback" (one of the user's stopped the phase before), or
    # "nan" (the loss was NaN or infinite). A solver ends with "optimum", or with "max_iter" when its iterations were
    # over before.
    ended: str
    accuracy: float  # in training; NaN when no epoch was better than the start
    val_accuracy: float
    val_loss: float
    trainable_weights: int
    best_epoch: int  # from 0, the one whose weights were kept; -1 for the weights from before the phase
    kept: bool = True  # False when no epoch was better than the start, so that the phase's weights were discarded
    history: dict[str, list[float]] = field(default_factory=dict)  # each of Keras' logs, epoch by epoch
    note: str = ""  # what went wrong


@dataclass(frozen=True)
class TrainedPart:
    """The part of the model that a phase trains, from the boundary to the probabilities, and its batches."""

    model: keras.Model
    layers: Sequence[keras.Layer]  # those that train, lower to upper
    head: Sequence[keras.Layer]  # those of `layers` that make the head, at the end
    train: Batches
    val: Batches

    @property
    def weights(self) -> list[keras.Variable]:
        """All weights that training changes: also the moving statistics of a BatchNormalization in the head."""
        return [weight for layer in self.layers for weight in layer.weights]


def plan(
    grafted: heads.Grafted,
    feature_extraction: FeatureExtractionSettings,
    fine_tuning: FineTuningSettings,
    landmark: str,
) -> list[Phase]:
    """Return the phases that the settings ask for, in the order in which they run.

    `landmark` is the layer that `fine_tuning.unfreeze_from: auto` means.
    Raise UserError if there is nothing to train, or no layer `fine_tuning.unfreeze_from`.
    """
    unfrozen = models.layers_to_unfreeze(grafted.trunk, fine_tuning.unfreeze_from, landmark)
    phases = []
    if feature_extraction.epochs > 0:
        phases.append(Phase("feature_extraction", feature_extraction, find_boundary(grafted, []), []))
    if fine_tuning.epochs > 0 and (trained := trainable_layers(unfrozen, fine_tuning.batch_norm)):
        phases.append(Phase("fine_tuning", fine_tuning, find_boundary(grafted, trained), trained))
    if not phases:
        raise UserError("feature_extraction.epochs is 0 and nothing is fine-tuned: there is nothing to train")
    return phases


def trainable_layers(unfrozen: list[keras.Layer], batch_norm: str = "inference") -> list[keras.Layer]:
    """Return the unfrozen layers that training changes: those with weights, and BatchNormalization in "training" only.

    In Keras 3 only a frozen BatchNormalization uses (and keeps) its moving statistics inside `fit`, where
    `trunk(x, training=False)` is ignored (keras issue 20285). Its scale and offset are then frozen, too.
    """
    with_weights = [layer for layer in unfrozen if layer.weights]
    if batch_norm == "training":
        return with_weights
    return [layer for layer in with_weights if not isinstance(layer, keras.layers.BatchNormalization)]


def find_boundary(grafted: heads.Grafted, trained: list[keras.Layer]) -> boundary.Boundary:
    """Return the boundary under the layers of the trunk that train and those of the head that change."""
    return boundary.find_cut(grafted.model, [*trained, *grafted.changing_head_layers])


def freeze_trunk(grafted: heads.Grafted, trained: list[keras.Layer]) -> None:
    """Freeze the trunk except the layers `trained`; the head stays trainable. Compile the model again after it."""
    grafted.model.trainable = True
    trainable = set(map(id, trained))
    for layer in grafted.trunk.layers:
        layer.trainable = id(layer) in trainable


def train_phase(
    name: str,
    part: TrainedPart,
    settings: PhaseSettings,
    training: TrainingSettings,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoints: Checkpoints | None = None,
    resume: Checkpoint | None = None,
    finished: Sequence[PhaseResult] = (),
    may_discard: bool = True,
) -> PhaseResult:
    """Compile and train until the monitored value stops improving or the epochs are over; keep the best weights.

    The `trainable` flags of the part are set. `checkpoints` save the state after each epoch, with the phases that
    `finished` before; `resume` is a state that an earlier run of this phase saved. `may_discard` says whether the
    weights from before the phase are restored when no epoch is better; it is False for a head that has
    not learned anything yet.

    Raises:
      UserError: the loss was NaN or infinite before any epoch was finished.
    """
    model = part.model
    optimizer = optimizers.build(settings, part.train.steps, part.layers, part.head)
    # XLA on CPU made a MobileNetV2 forward pass 15-20 times slower than the oneDNN path, so jit_compile is off.
    model.compile(
        optimizer=optimizer,
        loss=losses.build(training.label_smoothing),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=False,
    )
    monitor = _PhaseMonitor(name, part, settings, checkpoints, finished)
    if resume is not None:
        monitor.restore(resume)
        logging.info("%s resumes after epoch %d", name, monitor.epochs)
    elif may_discard:
        monitor.set_baseline(model.evaluate(part.val.for_fit, verbose=0, return_dict=True))
    weights = losses.class_weights(part.train.labels) if training.class_weights == "balanced" else None
    if not monitor.over:
        model.fit(
            part.train.for_fit,
            validation_data=part.val.for_fit,
            shuffle=False,  # the batches already come in the order that the seed gives
            initial_epoch=monitor.epochs,
            epochs=settings.epochs,
            callbacks=[monitor, *callbacks],
            class_weight=weights,
            verbose=0,
        )
    return monitor.result()


class _PhaseMonitor(keras.callbacks.Callback):
    """Keeps the best or the last weights, stops on a plateau or a NaN loss, and saves the state after each epoch."""

    def __init__(
        self,
        name: str,
        part: TrainedPart,
        settings: PhaseSettings,
        checkpoints: Checkpoints | None,
        finished: Sequence[PhaseResult],
    ) -> None:
        super().__init__()
        self._name, self._part, self._settings = name, part, settings
        self._checkpoints, self._finished = checkpoints, finished
        self.history: dict[str, list[float]] = {}
        self._best_score, self._best_epoch = -math.inf, -1
        self._kept_epoch = -1  # whose weights are kept: the best one, or the last
        self._kept_weights: list[np.ndarray] = []
        self._baseline: dict[str, float] = {}
        self._ended, self._note = "", ""
        self._failed_step: int | None = None

    @property
    def epochs(self) -> int:
        """Number of finished epochs."""
        return len(self.history.get("loss", []))

    @property
    def over(self) -> bool:
        """Whether there is nothing left to train."""
        return bool(self._ended) or self.epochs >= self._settings.epochs

    def set_baseline(self, metrics: Mapping[str, float]) -> None:
        """Set the model's metrics before the phase, which an epoch must beat."""
        self._baseline = {f"val_{key}": value for key, value in metrics.items()}
        if math.isfinite(metrics["loss"]):
            self._best_score, self._kept_weights = self._score(self._baseline), self._values(self._part.weights)

    def _score(self, logs: Mapping[str, float]) -> float:
        """Return the monitored value so that more is better."""
        value = logs[self._settings.monitor]
        return -value if self._settings.monitor == "val_loss" else value

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Set the order of the batches."""
        self._part.train.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Stop at the first step whose loss is NaN or infinite."""
        if logs and not math.isfinite(logs["loss"]):
            self._failed_step = batch
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Compare the epoch with the best one and save a checkpoint."""
        logs = dict(logs or {})
        if self._failed_step is not None or not math.isfinite(logs["val_loss"]):
            step = "" if self._failed_step is None else f", step {self._failed_step + 1}"
            self._stop_at_nan(f"epoch {epoch + 1}{step}")
            return
        for key, value in {**logs, "learning_rate": float(self.model.optimizer.learning_rate)}.items():
            self.history.setdefault(key, []).append(float(value))
        patience = math.inf if self._settings.patience is None else max(self._settings.patience, 1)
        if self._score(logs) > self._best_score + self._settings.min_delta:
            self._best_score, self._best_epoch = self._score(logs), epoch
        elif epoch - self._best_epoch >= patience:
            self._ended = "plateau"
            self.model.stop_training = True
        if self._best_epoch == epoch or not self._settings.restore_best_weights:
            self._kept_epoch, self._kept_weights = epoch, self._values(self._part.weights)
        if self._checkpoints is not None:
            self._checkpoints.save(*self._state())

    def _stop_at_nan(self, place: str) -> None:
        name, rate = self._name, self._settings.learning_rate
        advice = f"lower {name}.learning_rate (now {rate:g}) or set {name}.clip_norm"
        if not self._kept_weights:
            raise UserError(f"{name}: the loss was no longer a number at {place}, and nothing is trained yet; {advice}")
        origin = f"of epoch {self._kept_epoch + 1}" if self._kept_epoch >= 0 else "from before the phase"
        self._ended = "nan"
        self._note = f"the loss was no longer a number at {place}; the weights {origin} were kept; {advice}"
        logging.warning("%s: %s", name, self._note)
        self.model.stop_training = True

    def result(self) -> PhaseResult:
        """Restore the weights that are kept and return how the phase went."""
        for variable, value in zip(self._part.weights, self._kept_weights, strict=True):
            variable.assign(value)
        kept, history = self._kept_epoch, self.history
        val = {key: values[kept] for key, values in history.items()} if kept >= 0 else self._baseline
        by_itself = "epochs" if self.epochs >= self._settings.epochs else "callback"
        return PhaseResult(
            name=self._name,
            epochs=self.epochs,
            ended=self._ended or by_itself,
            accuracy=val.get("accuracy", math.nan),
            val_accuracy=val["val_accuracy"],
            val_loss=val["val_loss"],
            trainable_weights=sum(math.prod(variable.shape) for variable in self._part.model.trainable_variables),
            best_epoch=kept,
            kept=kept >= 0,
            history=history,
            note=self._note,
        )

    def _changing_variables(self) -> dict[str, Sequence[keras.Variable]]:
        """Return what an epoch changes: weights, the optimizer's variables, and the seeds of dropout."""
        model = self._part.model
        weights = set(map(id, model.weights))
        seeds = [variable for variable in model.variables if id(variable) not in weights]
        return {"weights": self._part.weights, "optimizer": model.optimizer.variables, "seeds": seeds}

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return a checkpoint's metadata and arrays."""
        arrays = {
            f"{kind}.{number}": value
            for kind, variables in self._changing_variables().items()
            for number, value in enumerate(self._values(variables))
        }
        arrays |= {f"kept.{number}": value for number, value in enumerate(self._kept_weights)}
        meta = {
            "phase": self._name,
            "finished": [asdict(result) for result in self._finished],
            "history": self.history,
            "best_score": self._best_score,
            "best_epoch": self._best_epoch,
            "kept_epoch": self._kept_epoch,
            "before": self._baseline,
            "ended": self._ended,
        }
        return meta, arrays

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state that `_state` returned."""
        model, meta, arrays = self._part.model, checkpoint.meta, checkpoint.arrays
        model.optimizer.build(model.trainable_variables)
        for kind, variables in self._changing_variables().items():
            for number, variable in enumerate(variables):
                variable.assign(arrays[f"{kind}.{number}"])
        self.history = {key: list(values) for key, values in meta["history"].items()}
        self._best_score, self._best_epoch = meta["best_score"], meta["best_epoch"]
        self._kept_epoch = meta["kept_epoch"]
        self._kept_weights = [arrays[f"kept.{number}"] for number in range(len(self._part.weights))]
        self._baseline, self._ended = dict(meta["before"]), meta["ended"]

    @staticmethod
    def _values(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
        return [keras.ops.convert_to_numpy(variable).copy() for variable in variables]
