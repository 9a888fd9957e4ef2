"""One training of both phases, as values: the images, the model, the phases and what they train on.

`run_fn` trains on all images; `compare` trains twice more on a few of them.
"""

import hashlib
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from graftline.trainer import (
    augmentation,
    boundary,
    export,
    heads,
    keras_settings,
    models,
    optimizers,
    phases,
    reference,
    report,
    solver,
    user_callbacks,
    warm_start,
)
from graftline.trainer.checkpoints import Checkpoints, key
from graftline.trainer.inputs import Pixels, Records, Resized
from graftline.trainer.phase_inputs import PhaseInputs
from graftline.trainer.phases import Phase
from graftline.trainer.settings import TrainerSettings, TrainingSettings
from graftline.workspace import Workspace

# Images that scale a random trunk. Memory holds all their activations at once: 65 MB for each image at 224 px.
_CALIBRATION = 8

# Cache settings that cannot change the trained weights.
_IRRELEVANT_CACHE_SETTINGS = {"memory_mb"}


@dataclass(frozen=True)
class Dataset:
    """The images of a training."""

    transform: tft.TFTransformOutput
    labels: list[str]  # in the order of the model's outputs
    train: Records
    val: Records
    resized: Resized | None  # as the Transform stored them; None where the image files are decoded

    def few(self, per_class: int) -> "Dataset":
        """Return the dataset with at most `per_class` images of each class to train on, and the whole eval split."""
        return replace(self, train=self.train.few(per_class))


@dataclass(frozen=True)
class PreparedTraining:
    """A model and the inputs of its phases, ready to train."""

    settings: TrainerSettings
    dataset: Dataset
    pixels: Pixels
    grafted: heads.Grafted  # holds the trained weights afterwards
    head_is_trained: bool  # by a warm start, for every class
    phases: Sequence[Phase]  # at least one, in the order in which they run
    inputs: PhaseInputs
    notes: Sequence[str]  # for the user

    @property
    def boundary(self) -> boundary.Boundary:
        """The tensors at which the last phase's part of the model begins."""
        return self.phases[-1].boundary


@dataclass(frozen=True)
class TrainingOutcome:
    """How the phases went, the part that the last one trained, and the model's answers for the eval split."""

    results: list[phases.PhaseResult]
    part: phases.TrainedPart
    predictions: report.Predictions
    notes: list[str]


def reset_keras(seed: int) -> None:
    """Seed all random numbers and restart Keras' numbering of layers without a name. Call it before building a model.

    The names are then those that the runner checked `fine_tuning.unfreeze_from` against. Keras' settings become
    Graftline's.
    """
    keras_settings.set_keras()
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)


def read_dataset(
    settings: TrainerSettings, transform_output: str, train_files: Sequence[str], eval_files: Sequence[str]
) -> Dataset:
    """Read both splits once, without their images; the files are those of TFX's FnArgs.

    Raise UserError if a label is not among the classes, or a resized image is missing.
    """
    transform = tft.TFTransformOutput(transform_output)
    labels = export.read_labels(transform)
    train, val = Records(train_files, labels), Records(eval_files, labels)
    resized = Resized(transform_output, settings.backbone, [train, val]) if settings.materialize else None
    return Dataset(transform, labels, train, val, resized)


def prepare(
    settings: TrainerSettings, dataset: Dataset, scratch: pathlib.Path, base_model: str | None = None
) -> PreparedTraining:
    """Build the model, decide on the phases and fill the cache of activations.

    `base_model` is the directory or URI of the last blessed SavedModel, for a warm start. Raise UserError if the model
    cannot be built, there is nothing to train, or the disk is full.
    """
    augment = augmentation.build(settings.augmentation, settings.backbone.size, settings.backbone.mode)
    pixels = Pixels(dataset.transform, augment, dataset.resized)
    grafted = _build_model(settings, dataset, pixels)
    start = warm_start.begin(grafted, dataset.labels, base_model, settings.served) if base_model else None
    landmark = settings.backbone.landmark
    planned = phases.plan(grafted, settings.feature_extraction, settings.fine_tuning, landmark)
    _check_memory(settings, planned, len(dataset.train))
    boundaries = [phase.boundary for phase in planned]
    inputs = PhaseInputs(settings, grafted.model, boundaries, dataset.train, dataset.val, pixels, scratch)
    warning = optimizers.precision_warning(settings.training.precision)
    repeats = _notes_on_repeats(settings.training, dataset)
    notes = [*([warning] if warning else []), *repeats, *([start.note] if start else []), *inputs.notes]
    head_is_trained = start is not None and start.knows_all_classes
    return PreparedTraining(settings, dataset, pixels, grafted, head_is_trained, planned, inputs, notes)


def _notes_on_repeats(settings: TrainingSettings, dataset: Dataset) -> list[str]:
    asked = {
        "steps_per_epoch": (settings.steps_per_epoch, "train", len(dataset.train)),
        "validation_steps": (settings.validation_steps, "eval", len(dataset.val)),
    }
    return [
        f"training.{key} is {steps}, which takes {steps * settings.batch_size} images, but the {split} split has "
        f"{count}: they repeat"
        for key, (steps, split, count) in asked.items()
        if steps and steps * settings.batch_size > count + settings.batch_size - 1
    ]


def _check_memory(settings: TrainerSettings, planned: Sequence[Phase], images: int) -> None:
    if planned[0].solved:
        views = settings.augmentation.views if settings.augmentation.enabled else 1
        solver.check_memory(images, views, boundary.numbers(planned[0].boundary))


def _build_model(settings: TrainerSettings, dataset: Dataset, pixels: Pixels) -> heads.Grafted:
    """Build the trunk with its head; a random trunk is scaled by the first images of the train split."""
    trunk = models.build_trunk(settings.backbone, settings.head.cuts, settings.training.precision)
    grafted = heads.graft(trunk, settings.head, len(dataset.labels))
    if settings.backbone.weights == "none":
        rows = np.arange(min(_CALIBRATION, len(dataset.train)))
        ((images, _),) = pixels.batches(dataset.train, lambda: rows, _CALIBRATION)
        models.calibrate(trunk, images)
    return grafted


def open_checkpoints(settings: TrainerSettings, dataset: Dataset, base_model: str | None) -> Checkpoints:
    """Return the checkpoints of the run with these settings, these images and this start."""
    decisive = settings.model_dump(mode="json", exclude={"state": True, "boundary_cache": _IRRELEVANT_CACHE_SETTINGS})
    digest = hashlib.sha256()
    for records in (dataset.train, dataset.val):
        digest.update(len(records).to_bytes(8, "little") + records.labels.tobytes())
        for sha256 in records.keys:
            digest.update(sha256)
    root = Workspace(settings.state).checkpoints if settings.state else ""
    return Checkpoints(root, key(decisive, dataset.labels, digest.hexdigest(), base_model or ""))


def train(prepared: PreparedTraining, checkpoints: Checkpoints, log_directory: str = "") -> TrainingOutcome:
    """Train the phases in their order, except those that a checkpoint says are finished.

    TensorBoard's logs go to `log_directory`, unless it is "".
    """
    checkpoint = checkpoints.load()
    results = [] if checkpoint is None else [phases.PhaseResult(**result) for result in checkpoint.meta["finished"]]
    notes = []
    for phase in prepared.phases:
        part = _trained_part(prepared, phase)
        if phase.name in [result.name for result in results]:
            continue
        phases.freeze_trunk(prepared.grafted, phase.trained)
        resume = checkpoint if checkpoint is not None and checkpoint.meta["phase"] == phase.name else None
        if resume is not None:
            notes.append(f"{phase.name} resumed after epoch {len(resume.meta['history']['loss'])}, from a checkpoint")
        if phase.solved:
            balanced, views = prepared.settings.training.class_weights == "balanced", prepared.inputs.views
            results.append(solver.solve_phase(phase, part, balanced, views, prepared.settings.seed))
            continue
        result = phases.train_phase(
            phase.name,
            part,
            phase.settings,
            prepared.settings.training,
            _callbacks(prepared.settings.training, log_directory, phase),
            checkpoints,
            resume,
            results,
            may_discard=bool(results) or prepared.head_is_trained,
        )
        results.append(result)
    notes += [f"{result.name}: {result.note}" for result in results if result.note]
    if checkpoints.trouble:
        notes.append(f"{checkpoints.trouble}; if the run is killed, it starts from the beginning")
    steps = prepared.settings.training.validation_steps
    all_val = part.val if steps is None else prepared.inputs.batches("val", phase.boundary)
    probabilities = part.model.predict(all_val.for_fit, verbose=0)
    val = prepared.dataset.val
    return TrainingOutcome(results, part, report.Predictions(val.filenames, val.labels, probabilities), notes)


def _callbacks(settings: TrainingSettings, log_directory: str, phase: Phase) -> list[keras.callbacks.Callback]:
    """Return new callbacks for a phase: the user's, and TensorBoard where there is a place for its logs."""
    if not log_directory:
        return []
    logs = os.path.join(log_directory, phase.name)
    return [
        keras.callbacks.TensorBoard(logs, **settings.tensorboard.model_dump()),
        *user_callbacks.make(settings.callbacks),
    ]


def _trained_part(prepared: PreparedTraining, phase: Phase) -> phases.TrainedPart:
    head = [layer for layer in prepared.grafted.head_layers if layer.weights]
    training = prepared.settings.training
    return phases.TrainedPart(
        boundary.part_above(prepared.grafted.model, phase.boundary),
        [*phase.trained, *head],
        head,
        prepared.inputs.batches("train", phase.boundary, None if phase.solved else training.steps_per_epoch),
        prepared.inputs.batches("val", phase.boundary, training.validation_steps),
    )


def predictor(prepared: PreparedTraining, part: phases.TrainedPart) -> reference.Predict:
    """Return the trained model as a function of pixels float32 [n, size, size, 3], without the exported graph."""
    if boundary.is_input(prepared.grafted.model, prepared.boundary):
        return lambda pixels: part.model.predict(pixels, verbose=0)
    frozen = prepared.inputs.frozen_part(prepared.boundary)
    return lambda pixels: part.model.predict(frozen(tf.constant(pixels)), verbose=0)
