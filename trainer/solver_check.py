"""What `feature_extraction.solver` needs of the other settings. Imports no Keras and no scikit-learn."""

from graftline.errors import UserError
from graftline.trainer import head_layers
from graftline.trainer.settings import AugmentationSettings, FeatureExtractionSettings, HeadSettings, TrainingSettings


def check_solver(
    phase: FeatureExtractionSettings,
    head: HeadSettings,
    training: TrainingSettings,
    augmentation: AugmentationSettings,
) -> None:
    """Raise UserError if the solver cannot solve this head with these labels and images."""
    if phase.solver == "gradient":
        return
    name = f"feature_extraction.solver: {phase.solver}"
    if phase.epochs == 0:
        raise UserError(f"{name} has nothing to do, because feature_extraction.epochs is 0, which skips the phase")
    if head.dense:
        raise UserError(f"{name} solves a linear head, but head.dense is {head.dense}: leave one of the two out")
    kinds = [head_layers.parse(layer).kind for layer in head.layers or ()]
    if trained := [kind for kind in kinds if kind in head_layers.WITH_WEIGHTS]:
        raise UserError(
            f"{name} solves a linear head, but head.layers has weights of its own in {', '.join(trained)}: leave "
            "them out, or set feature_extraction.solver=gradient"
        )
    if training.label_smoothing:
        raise UserError(
            f"{name} takes labels as they are, but training.label_smoothing is {training.label_smoothing:g}: set it to "
            "0, or set feature_extraction.solver=gradient"
        )
    if augmentation.enabled and augmentation.views == 0:
        raise UserError(
            f"{name} needs a fixed set of images, but augmentation.views is 0, which makes new ones in each epoch: set "
            "augmentation.views=4"
        )
