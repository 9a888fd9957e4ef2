"""The Trainer's `run_fn`, which TFX finds by its import path: trains the model, exports it and writes its report."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from graftline import signatures
from graftline.jsonable import finite
from graftline.references import write as write_references
from graftline.trainer import compare, export, optimizers, reference, report, training
from graftline.trainer.settings import PhaseSettings, TrainerSettings
from graftline.trainer.warm_start import KERAS_FILE, TRAINING_FILE
from graftline.uri import is_uri

if TYPE_CHECKING:  # TFX takes fifteen seconds to import
    from tfx import v1 as tfx

REPORT = "report"


def run_fn(fn_args: "tfx.components.FnArgs") -> None:
    """Train and export.

    Writes the SavedModel to `fn_args.serving_model_dir`, and next to it `model.keras`, the reference predictions,
    `training.json` and the report. TensorBoard's logs go to `fn_args.model_run_dir`.
    """
    settings = TrainerSettings.model_validate(fn_args.custom_config)
    training.reset_keras(settings.seed)
    directory = os.path.dirname(fn_args.serving_model_dir)
    with _scratch_folder(fn_args.model_run_dir) as scratch:
        dataset = training.read_dataset(settings, fn_args.transform_output, fn_args.train_files, fn_args.eval_files)
        base_model = fn_args.base_model if settings.training.warm_start else None
        prepared = training.prepare(settings, dataset, scratch, base_model)
        checkpoints = training.open_checkpoints(settings, dataset, base_model)
        outcome = training.train(prepared, checkpoints, fn_args.model_run_dir)
        notes = [*prepared.notes, *outcome.notes]

        pending_report = _start_report(os.path.join(directory, REPORT), prepared, outcome)
        references = reference.compute(training.predictor(prepared, outcome.part), settings, dataset.val)
        grafted = prepared.grafted
        export.export(grafted.model, grafted.embedding, dataset.transform, fn_args.serving_model_dir)
        _save_keras(grafted.model, prepared.phases[-1].settings, os.path.join(directory, KERAS_FILE))
        write_references(references, os.path.join(directory, signatures.REFERENCES_FILE))

        transfer: dict[str, Any] | None = None
        if settings.training.transfer_images_per_class:
            transfer, transfer_notes = compare.measure_transfer(settings, dataset, scratch, notes)
            notes += transfer_notes
    if not pending_report.finish():
        notes.append("the report is not complete; the log says why")
    summary: dict[str, Any] = {
        "labels": dataset.labels,
        "phases": [finite(asdict(result)) for result in outcome.results],
        "activations": {"computed": prepared.inputs.computed, "reused": prepared.inputs.reused},
        "transfer": transfer,
        "notes": notes,
    }
    with tf.io.gfile.GFile(os.path.join(directory, TRAINING_FILE), "w") as file:
        file.write(json.dumps(summary, indent=2))
    checkpoints.remove()


@contextlib.contextmanager
def _scratch_folder(log_directory: str) -> Iterator[pathlib.Path]:
    """Make a local folder for the time of the `with`.

    It lies next to the logs, on the workspace's disk, because /tmp may be memory. For logs at a URI it lies in /tmp.
    """
    local = None if is_uri(log_directory) else log_directory
    if local is not None:
        os.makedirs(local, exist_ok=True)
    scratch = tempfile.mkdtemp(prefix="boundary-", dir=local)
    try:
        yield pathlib.Path(scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _start_report(
    directory: str, prepared: training.PreparedTraining, outcome: training.TrainingOutcome
) -> report.PendingReport:
    val = prepared.dataset.val
    return report.start(
        directory,
        prepared.dataset.labels,
        [asdict(result) for result in outcome.results],
        outcome.predictions,
        lambda rows: dict(zip(rows, val.images(rows), strict=True)),
        prepared.grafted,
        prepared.phases[-1].trained,
        prepared.boundary,
    )


def _save_keras(model: keras.Model, last: PhaseSettings, path: str) -> None:
    """Save the model compiled with Keras' own parts, so that `keras.saving.load_model(path).fit(…)` works anywhere.

    The optimizer is that of the `last` phase, new, at its plain rate. The loss has no label smoothing, because Keras'
    own has none for label indices. Keras writes to local files only, but the artifact may be on an object store.
    """
    plain = last.model_copy(update={"layer_decay": 1.0, "schedule": "constant", "warmup_epochs": 0.0})
    optimizer = optimizers.build(plain, 1, model.layers)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, KERAS_FILE)
        model.save(local)
        tf.io.gfile.copy(local, path, overwrite=True)
