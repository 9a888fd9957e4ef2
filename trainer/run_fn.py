"""The Trainer's `run_fn`, by import path: a head on the frozen trunk, then the upper trunk fine-tuned, then export."""

import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from graftline import signatures
from graftline.errors import UserError
from graftline.jsonable import finite
from graftline.references import write as write_references
from graftline.trainer import (
    augmentation,
    boundary,
    checkpoints,
    export,
    feeds,
    models,
    optimizers,
    phases,
    reference,
    report,
)
from graftline.trainer import warm_start as warm_starts
from graftline.trainer.inputs import Pixels, Records, Resized
from graftline.trainer.settings import TrainerSettings
from graftline.uri import is_uri
from graftline.workspace import Workspace

if TYPE_CHECKING:  # takes fifteen seconds to import, and what runs this has done so
    from tfx import v1 as tfx

TRAINING_FILE = "training.json"
KERAS_FILE = "model.keras"
REPORT = "report"

# Images that a random trunk is scaled by. Every activation of theirs is in memory at once: 65 MB each at 224 px.
_CALIBRATION = 8

# Of the cache's settings, what changes no number.
_NO_MATTER = {"memory_mb"}


def run_fn(fn_args: "tfx.components.FnArgs") -> None:
    """Trains and exports.

    Writes the SavedModel to `fn_args.serving_model_dir`, and beside it `model.keras`, the reference predictions,
    `training.json` and the report; TensorBoard logs go to `fn_args.model_run_dir`.
    """
    settings = TrainerSettings.model_validate(fn_args.custom_config)
    _begin(settings.seed)
    beside = os.path.dirname(fn_args.serving_model_dir)
    # Beside the logs, on the workspace's disk: /tmp may be memory. An object store has no files to read from.
    local = not is_uri(fn_args.model_run_dir)
    if local:
        os.makedirs(fn_args.model_run_dir, exist_ok=True)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="boundary-", dir=fn_args.model_run_dir if local else None))
    try:
        run = Run(settings, fn_args, scratch)
        outcome = run.train()
        drawing = report.start(
            os.path.join(beside, REPORT),
            run.labels,
            [asdict(result) for result in outcome.results],
            outcome.predictions,
            lambda rows: dict(zip(rows, run.val.images(rows), strict=True)),
            run.grafted,
            run.unfrozen if run.fine_tunes else [],
            run.cut,
        )
        predictions = reference.compute(run.predictor(outcome.part), settings, run.val)
        export.export(run.grafted.model, run.grafted.pooled, run.transform, fn_args.serving_model_dir)
        _save_keras(run.grafted.model, settings, os.path.join(beside, KERAS_FILE))
        write_references(predictions, os.path.join(beside, signatures.REFERENCES_FILE))
        transfer: dict[str, float] | None = None
        notes: list[str] = []
        if settings.training.transfer_images_per_class:
            transfer, notes = compare(run, fn_args, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    whole = drawing.finish()
    summary: dict[str, Any] = {
        "labels": run.labels,
        "phases": [finite(asdict(result)) for result in outcome.results],
        "activations": run.activations,
        "transfer": transfer,
        "notes": [*run.notes, *notes, *([] if whole else ["the report is not complete; the log says why"])],
    }
    with tf.io.gfile.GFile(os.path.join(beside, TRAINING_FILE), "w") as file:
        file.write(json.dumps(summary, indent=2))
    run.checkpoints.remove()


def compare(
    run: "Run", fn_args: "tfx.components.FnArgs", scratch: pathlib.Path
) -> tuple[dict[str, float] | None, list[str]]:
    """Trains on few images from the backbone's weights, then from a random trunk, with all other settings the same.

    Ends the Keras session: models that were built before, such as that of `run`, are not to be used after it.

    Returns:
      `images_per_class`, at most; `images` trained on; and the accuracy on the eval split, `pretrained` and `random`;
      None when one of the two could not be trained. And notes about both.
    """
    settings = run.settings
    found: dict[str, float] = {"images_per_class": settings.training.transfer_images_per_class}
    notes: list[str] = []
    for name, weights in (("pretrained", settings.backbone.weights), ("random", "none")):
        other = settings.model_copy(
            update={
                "backbone": settings.backbone.model_copy(update={"weights": weights}),
                "training": settings.training.model_copy(update={"warm_start": False}),
                # What a random trunk gives no other run can use: its activations go with the scratch folder.
                "state": settings.state if name == "pretrained" else "",
            }
        )
        _begin(settings.seed)
        try:
            few = Run(other, fn_args, scratch, run)
            result = few.train().results[-1]
        except UserError as error:  # the model is trained: it is not lost for this
            return None, [*notes, f"what transfer is worth is not known: with {name} weights, {error}"]
        notes += [f"with few images and {name} weights: {note}" for note in few.notes if note not in run.notes]
        found |= {name: result.val_accuracy, "images": len(few.train_records)}
    return found, notes


def _begin(seed: int) -> None:
    """Before a model is built. Keras numbers layers that have no name: count anew, as where the names were checked."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)


@dataclass(frozen=True)
class Outcome:
    """What training gives: how the phases went, the part that the last one trained, and what the model says of eval."""

    results: list[phases.PhaseResult]
    part: phases.Part
    predictions: report.Predictions


class Run:
    """One run of the trainer: model, data and what is cached, put together from the settings."""

    def __init__(
        self,
        settings: TrainerSettings,
        fn_args: "tfx.components.FnArgs",
        scratch: pathlib.Path,
        whole: "Run | None" = None,
    ) -> None:
        """
        Args:
          settings: of the run.
          fn_args: the Trainer's.
          scratch: a local folder.
          whole: a run whose images this one has few of, `training.transfer_images_per_class`. It leaves no
            checkpoints and no logs.
        """
        self.settings, self._logs = settings, "" if whole else fn_args.model_run_dir
        warning = optimizers.precision_warning(settings.training.precision)
        self.notes = [warning] if warning else []
        self.transform = tft.TFTransformOutput(fn_args.transform_output)
        self.labels = export.read_labels(self.transform)
        self.train_records: Records
        self.val: Records
        self._resized: Resized | None
        if whole is not None:
            self.train_records = whole.train_records.few(settings.training.transfer_images_per_class)
            self.val, self._resized = whole.val, whole._resized
        else:
            self.train_records = Records(fn_args.train_files, self.labels)
            self.val = Records(fn_args.eval_files, self.labels)
            splits = [self.train_records, self.val]
            self._resized = (
                Resized(fn_args.transform_output, settings.backbone, splits) if settings.materialize else None
            )
        augment = augmentation.build(settings.augmentation, settings.backbone.size, settings.backbone.name)
        self._pixels = Pixels(self.transform, augment, self._resized)

        trunk = models.build_trunk(settings.backbone, settings.head.cut_at, settings.training.precision)
        self.grafted = models.graft_head(trunk, settings.head, len(self.labels))
        if settings.backbone.weights == "none":
            some = np.arange(min(_CALIBRATION, len(self.train_records)))
            ((pixels, _),) = self._pixels.batches(self.train_records, lambda: some, _CALIBRATION)
            models.calibrate(trunk, pixels)
        base = fn_args.base_model if settings.training.warm_start else None
        self._ready = False
        if base:
            beside = os.path.dirname(base.rstrip("/"))
            files = [os.path.join(beside, name) for name in (KERAS_FILE, TRAINING_FILE)]
            start = warm_starts.refused(base, settings.served) or warm_starts.load(self.grafted, self.labels, *files)
            self._ready, note = start
            self.notes.append(note)
        self.unfrozen = models.layers_to_unfreeze(trunk, settings.fine_tuning.unfreeze_from)
        self.fine_tunes = settings.fine_tuning.epochs > 0 and bool(phases.trained(self.unfrozen))
        self._phases: list[tuple[str, keras.KerasTensor, list[keras.Layer]]] = []
        if settings.feature_extraction.epochs > 0:
            self._phases.append(("feature_extraction", self.grafted.pooled, []))
        if self.fine_tunes:
            self._phases.append(("fine_tuning", phases.cut_under(self.grafted, self.unfrozen), self.unfrozen))
        if not self._phases:
            raise UserError("feature_extraction.epochs is 0 and nothing is fine-tuned: there is nothing to train")
        self.cut = self._phases[-1][1]
        self.checkpoints = checkpoints.Checkpoints(
            Workspace(settings.state).checkpoints if settings.state and whole is None else "",
            self._checkpoint_key(base),
        )
        # One pass over the images gives the inputs of both phases.
        tensors = list({id(cut): cut for _, cut, _ in self._phases}.values())
        self._feeds = feeds.Feeds(
            settings, self.grafted.model, tensors, self.train_records, self.val, self._pixels, scratch
        )
        self.notes += self._feeds.notes

    @property
    def activations(self) -> dict[str, int]:
        """How many images (augmented views of them) were run through the frozen part, and how many had been before."""
        return {"computed": self._feeds.computed, "reused": self._feeds.reused}

    def predictor(self, part: phases.Part) -> reference.Predict:
        """The trained model as a function of pixels float32 [n, size, size, 3], not by way of the exported graph."""
        if self.cut is self.grafted.model.inputs[0]:
            return lambda pixels: part.model.predict(pixels, verbose=0)
        frozen = self._feeds.frozen(self.cut)
        return lambda pixels: part.model.predict(frozen(tf.constant(pixels)), verbose=0)

    def train(self) -> Outcome:
        """Both phases; `grafted` holds the trained weights afterwards."""
        resume = self.checkpoints.load()
        results = [] if resume is None else [phases.PhaseResult(**result) for result in resume.meta["finished"]]
        for name, cut, unfrozen in self._phases:
            part = self._part(cut, unfrozen)
            if name in [result.name for result in results]:
                continue
            phases.freeze(self.grafted, unfrozen)
            resumed = resume if resume is not None and resume.meta["phase"] == name else None
            if resumed is not None:
                self.notes.append(
                    f"{name} went on after epoch {len(resumed.meta['history']['loss'])}, from a checkpoint"
                )
            result = phases.train(
                name,
                part,
                getattr(self.settings, name),
                self.settings.training,
                [keras.callbacks.TensorBoard(os.path.join(self._logs, name), write_graph=False)] if self._logs else [],
                self.checkpoints,
                resumed,
                results,
                may_be_taken_back=bool(results) or self._ready,
            )
            results.append(result)
        self.notes += [f"{result.name}: {result.note}" for result in results if result.note]
        if self.checkpoints.trouble:
            self.notes.append(f"{self.checkpoints.trouble}; a run that is killed begins anew")
        return Outcome(results, part, self._predictions(part))

    def _part(self, cut: keras.KerasTensor, unfrozen: list[keras.Layer]) -> phases.Part:
        head = [layer for layer in self.grafted.head_layers if layer.weights]
        train, val = self._feeds.batches("train", cut), self._feeds.batches("val", cut)
        return phases.Part(
            boundary.above(self.grafted.model, cut), [*phases.trained(unfrozen), *head], head, train, val
        )

    def _predictions(self, part: phases.Part) -> report.Predictions:
        probabilities = part.model.predict(part.val.for_fit, verbose=0)
        return report.Predictions(self.val.filenames, self.val.labels, probabilities)

    def _checkpoint_key(self, base: str | None) -> str:
        settings = self.settings.model_dump(mode="json", exclude={"state": True, "boundary_cache": _NO_MATTER})
        data = hashlib.sha256()
        for records in (self.train_records, self.val):
            data.update(len(records).to_bytes(8, "little") + records.labels.tobytes())
            for key in records.keys:
                data.update(key)
        return checkpoints.key(settings, self.labels, data.hexdigest(), base or "")


def _save_keras(model: keras.Model, settings: TrainerSettings, path: str) -> None:
    """Compiled with Keras' own parts, so that `keras.saving.load_model(path).fit(…)` goes on anywhere.

    Keras writes to local files only; the artifact may be on an object store.
    """
    rate = settings.fine_tuning.learning_rate
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, KERAS_FILE)
        model.save(local)
        tf.io.gfile.copy(local, path, overwrite=True)
