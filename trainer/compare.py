"""Measures what transfer is worth: trains again, from the backbone's weights and from a random trunk."""

import pathlib
from collections.abc import Collection
from typing import Any

from graftline.errors import UserError
from graftline.trainer import training
from graftline.trainer.checkpoints import Checkpoints
from graftline.trainer.settings import FeatureExtractionSettings, PhaseSettings, TrainerSettings


def measure_transfer(
    settings: TrainerSettings, dataset: training.Dataset, scratch: pathlib.Path, run_notes: Collection[str] = ()
) -> tuple[dict[str, Any] | None, list[str]]:
    """Train from the backbone's weights, then from a random trunk; all other settings are the same.

    With "all" images the random trunk trains from scratch: every layer, and BatchNormalization in training mode.

    The two trainings leave no checkpoints and no logs. Models that were built before cannot be used afterwards,
    because Keras' session ends here.

    Returns:
      `images_per_class`, at most; `images` trained on; the accuracies on the eval split, `pretrained` and `random`.
      None when one of the two could not be trained. And notes about both, without those of the run itself.
    """
    per_class = settings.training.transfer_images_per_class
    few = dataset if per_class == "all" else dataset.few(per_class)
    accuracies: dict[str, Any] = {"images_per_class": per_class}
    notes: list[str] = []
    for name, weights in (("pretrained", settings.backbone.weights), ("random", "none")):
        changed = settings.model_copy(
            update={
                "backbone": settings.backbone.model_copy(update={"weights": weights}),
                "training": settings.training.model_copy(update={"warm_start": False}),
                # No other run can use a random trunk's activations, so they go with the scratch folder.
                "state": settings.state if name == "pretrained" else "",
            }
        )
        if name == "random" and per_class == "all":
            changed = train_from_scratch(changed)
        training.reset_keras(settings.seed)
        try:
            prepared = training.prepare(changed, few, scratch)
            outcome = training.train(prepared, Checkpoints("", ""))
        except UserError as error:  # the run's own model is trained and must not be lost
            return None, [*notes, f"the value of transfer could not be measured: with {name} weights, {error}"]
        own_notes = [note for note in (*prepared.notes, *outcome.notes) if note not in run_notes]
        notes += [
            f"with {per_class if per_class == 'all' else 'few'} images and {name} weights: {note}" for note in own_notes
        ]
        accuracies |= {name: outcome.results[-1].val_accuracy, "images": len(prepared.dataset.train)}
    return accuracies, notes


def train_from_scratch(settings: TrainerSettings) -> TrainerSettings:
    """Return settings that train every layer, with BatchNormalization in training mode.

    Where only the head is trained otherwise, every layer trains with the keys of that phase.
    """
    changes: dict[str, Any] = {"unfreeze_from": "all", "batch_norm": "training"}
    phases: dict[str, Any] = {}
    if settings.fine_tuning.epochs == 0 or settings.fine_tuning.unfreeze_from == "none":
        shared = PhaseSettings.model_fields
        changes |= {key: getattr(settings.feature_extraction, key) for key in shared}
        phases["feature_extraction"] = FeatureExtractionSettings(epochs=0)
    return settings.model_copy(update={**phases, "fine_tuning": settings.fine_tuning.model_copy(update=changes)})
