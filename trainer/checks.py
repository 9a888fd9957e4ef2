"""Finds what a training would fail at, in seconds: the runner calls `check` before the first node runs."""

import keras

from graftline.trainer import heads, keras_settings, models, optimizers, user_callbacks
from graftline.trainer.settings import BackboneSettings, FineTuningSettings, HeadSettings, TrainingSettings


def check(
    backbone: BackboneSettings, head: HeadSettings, fine_tuning: FineTuningSettings, training: TrainingSettings
) -> list[str]:
    """Build the model and the callbacks, to raise early the UserError that the Trainer would raise.

    Return what is allowed but slow on this machine, a sentence each.
    """
    keras_settings.set_keras()
    user_callbacks.make(training.callbacks)
    trunk = models.build_trunk(backbone, head.cuts)
    heads.graft(trunk, head, classes=2)
    if fine_tuning.epochs > 0:
        models.layers_to_unfreeze(trunk, fine_tuning.unfreeze_from, backbone.landmark)
    # Keras numbers the layers that it names itself. The Trainer, in this process, must find the same names.
    keras.utils.clear_session()
    warning = optimizers.precision_warning(training.precision)
    return [warning] if warning else []
