"""The Trainer's `run_fn`, by import path: a head on the frozen trunk, then the upper trunk fine-tuned, then export."""

import json
import logging
import os
import pathlib
import shutil
import tempfile
from dataclasses import asdict
from typing import Any

import keras
import tensorflow as tf
import tensorflow_transform as tft
from tfx import v1 as tfx

from graftline.errors import UserError
from trainer import boundary, export, inputs, models, phases, reference
from trainer.settings import TrainerSettings

TRAINING_FILE = "training.json"
KERAS_FILE = "model.keras"

# Images in one pass of the frozen trunk.
_FORWARD_BATCH = 32


def run_fn(fn_args: tfx.components.FnArgs) -> None:
    """Trains and exports.

    Writes the SavedModel to `fn_args.serving_model_dir`, and beside it `model.keras`, the reference predictions and
    `training.json`; TensorBoard logs go to `fn_args.model_run_dir`.
    """
    settings = TrainerSettings.model_validate(fn_args.custom_config)
    keras.utils.clear_session()  # Keras numbers layers that have no name: count anew, as where the names were checked
    keras.utils.set_random_seed(settings.seed)
    transform = tft.TFTransformOutput(fn_args.transform_output)
    labels = export.read_labels(transform)
    grafted = models.graft_head(models.build_trunk(settings.backbone, settings.head.cut_at), settings.head, len(labels))
    if settings.backbone.weights == "none":
        ((pixels, _),) = inputs.batches(fn_args.train_files, transform, _FORWARD_BATCH).take(1)
        models.calibrate(grafted.trunk, pixels)
    # Beside the logs, on the workspace's disk: /tmp may be memory. An object store can't be mapped.
    local = "://" not in fn_args.model_run_dir
    if local:
        os.makedirs(fn_args.model_run_dir, exist_ok=True)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="boundary-", dir=fn_args.model_run_dir if local else None))
    try:
        results = train(grafted, settings, fn_args, transform, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for result in results:
        logging.info(
            "%s: %d epochs, ended by %s, val_accuracy %.4f",
            result.name,
            result.epochs,
            result.ended,
            result.val_accuracy,
        )

    export.export(grafted.model, grafted.pooled, transform, fn_args.serving_model_dir)
    beside = os.path.dirname(fn_args.serving_model_dir)
    _save_keras(grafted.model, os.path.join(beside, KERAS_FILE))
    references = reference.compute(grafted.model, settings.backbone.name, settings.backbone.size, fn_args.eval_files)
    reference.write(references, os.path.join(beside, reference.FILE))
    summary: dict[str, Any] = {"labels": labels, "phases": [asdict(result) for result in results]}
    with tf.io.gfile.GFile(os.path.join(beside, TRAINING_FILE), "w") as file:
        file.write(json.dumps(summary, indent=2))


def train(
    grafted: models.Grafted,
    settings: TrainerSettings,
    fn_args: tfx.components.FnArgs,
    transform: tft.TFTransformOutput,
    scratch: pathlib.Path,
) -> list[phases.PhaseResult]:
    """Both phases; `grafted` holds the trained weights afterwards."""
    unfrozen = models.layers_to_unfreeze(grafted.trunk, settings.fine_tuning.unfreeze_from)
    fine_tune = settings.fine_tuning.epochs > 0 and bool(phases.trained(unfrozen))
    cut = phases.cut_under(grafted, unfrozen)
    frozen_part = cut is not grafted.model.inputs[0]
    # One pass over the images gives the inputs of both phases.
    tensors = [grafted.pooled, *([cut] if fine_tune and frozen_part else [])]
    cached: dict[str, tuple[list[Any], Any]] = {}
    for split, files in (("train", fn_args.train_files), ("eval", fn_args.eval_files)):
        batches = inputs.batches(files, transform, _FORWARD_BATCH)
        cached[split] = boundary.compute(grafted.model, tensors, batches, scratch / split)
    size, seed = settings.training.batch_size, settings.seed

    def from_cache(index: int, split: str) -> boundary.Activations:
        arrays, labels = cached[split]
        return boundary.Activations(arrays[index], labels, size, seed if split == "train" else None)

    def logs(name: str) -> list[keras.callbacks.Callback]:
        return [keras.callbacks.TensorBoard(os.path.join(fn_args.model_run_dir, name), write_graph=False)]

    results = []
    if settings.feature_extraction.epochs > 0:
        phases.freeze(grafted, [])
        head = boundary.above(grafted.model, grafted.pooled)
        name = "feature_extraction"
        results.append(
            phases.train(
                name,
                head,
                settings.feature_extraction,
                from_cache(0, "train"),
                from_cache(0, "eval"),
                logs(name),
                may_be_taken_back=False,
            )
        )
    if fine_tune:
        phases.freeze(grafted, unfrozen)
        name = "fine_tuning"
        if frozen_part:
            upper, train_data, eval_data = (
                boundary.above(grafted.model, cut),
                from_cache(1, "train"),
                from_cache(1, "eval"),
            )
        else:
            upper = grafted.model
            train_data = inputs.batches(fn_args.train_files, transform, size, seed)
            eval_data = inputs.batches(fn_args.eval_files, transform, size)
        head_is_trained = bool(results)
        results.append(
            phases.train(name, upper, settings.fine_tuning, train_data, eval_data, logs(name), head_is_trained)
        )
    if not results:
        raise UserError("feature_extraction.epochs and fine_tuning.epochs are both 0: there is nothing to train")
    return results


def _save_keras(model: keras.Model, path: str) -> None:
    """Keras writes to local files only; the artifact may be on an object store."""
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, KERAS_FILE)
        model.save(local)
        tf.io.gfile.copy(local, path, overwrite=True)
