"""Training: transfer learning in two phases, and the export of the model. Everything that knows Keras."""

from typing import TYPE_CHECKING

from graftline import own_keras
from graftline.faces import face

if TYPE_CHECKING:
    from graftline.trainer.backbones import WEIGHTS, weights_file
    from graftline.trainer.backbones import get as get_backbone
    from graftline.trainer.checks import check as check_training
    from graftline.trainer.model_settings import check_output, check_top
    from graftline.trainer.run_fn import REPORT, TRAINING_FILE
    from graftline.trainer.settings import (
        AugmentationSettings,
        BackboneSettings,
        BoundaryCacheSettings,
        FeatureExtractionSettings,
        FineTuningSettings,
        HeadSettings,
        TrainerSettings,
        TrainingSettings,
    )
    from graftline.trainer.solver_check import check_solver
    from graftline.trainer.unfreezing import check as check_unfreezing
    from graftline.trainer.unfreezing import warn as warn_of_unfreezing

own_keras.set_environment()

__getattr__ = face(__name__)
