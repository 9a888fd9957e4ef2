"""A phase's optimizer: its learning rate at each step, clipping, lower rates for lower layers, and loss scaling."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.optimizers import schedules

from graftline.trainer.settings import PhaseSettings

# Number of blocks that the trained layers of any trunk are divided into, as ConvNeXt's authors did for fine-tuning
# (https://github.com/facebookresearch/ConvNeXt, optim_factory.py). With a block for each layer or each residual block,
# a factor that suits MobileNetV2 would stop the lower half of a DenseNet201.
BLOCKS = 12


def build(
    settings: PhaseSettings,
    steps_per_epoch: int,
    layers: Sequence[keras.Layer],
    head: Sequence[keras.Layer] | None = None,
) -> keras.optimizers.Optimizer:
    """Return a new optimizer for the phase, wrapped in Keras' LossScaleOptimizer when a layer computes in float16.

    `layers` train, lower to upper, with their `trainable` flags set. Layers without trainable weights may be among
    them. Those in `head` (None: the last one) come at the end and have the full rate.
    """
    arguments: dict[str, Any] = {
        **({"momentum": 0.9} if settings.optimizer == "sgd" else {}),
        **settings.optimizer_options,
        "learning_rate": schedule(settings, steps_per_epoch),
        "global_clipnorm": settings.clip_norm,
    }
    plain, layerwise = _KINDS[settings.optimizer]
    if settings.layer_decay == 1:
        optimizer = plain(**arguments)
    else:
        optimizer = layerwise(rate_factors=rate_factors(layers, settings.layer_decay, head), **arguments)
    if any(layer.compute_dtype == "float16" for layer in layers):
        # `compile` looks only at the model's own policy, which is float32 since the head was grafted.
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def schedule(settings: PhaseSettings, steps_per_epoch: int) -> float | schedules.LearningRateSchedule:
    """Return the learning rate as a function of the step, or a plain number when it never changes.

    The warm-up is linear and starts at 0 (Goyal et al., https://arxiv.org/abs/1706.02677). The decay starts where the
    warm-up ends.
    """
    rate = settings.learning_rate
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    if settings.schedule == "cosine":
        # At least one step, for a phase of 0 epochs.
        decay_steps = max(1, settings.epochs * steps_per_epoch - warmup)
        if not warmup:
            return schedules.CosineDecay(rate, decay_steps, settings.alpha)
        return schedules.CosineDecay(0.0, decay_steps, settings.alpha, warmup_target=rate, warmup_steps=warmup)
    decay_rate = settings.decay_rate if settings.schedule == "exponential" else 1.0
    if warmup:
        return WarmUpExponentialDecay(rate, steps_per_epoch, decay_rate, warmup_steps=warmup)
    if settings.schedule == "exponential":
        return schedules.ExponentialDecay(rate, steps_per_epoch, decay_rate)
    return rate


@keras.saving.register_keras_serializable(package="graftline")
class WarmUpExponentialDecay(schedules.ExponentialDecay):
    """Keras' ExponentialDecay after a linear rise from 0. A `decay_rate` of 1 keeps the rate constant after it."""

    def __init__(self, *args: Any, warmup_steps: int, **kwargs: Any) -> None:
        """Create the schedule; the other arguments are those of ExponentialDecay."""
        super().__init__(*args, **kwargs)
        self.warmup_steps = warmup_steps

    def __call__(self, step: keras.KerasTensor) -> keras.KerasTensor:
        """Return the learning rate at a step."""
        step = keras.ops.cast(step, "float32")
        warmup_factor = keras.ops.minimum(step / self.warmup_steps, 1.0)
        return warmup_factor * super().__call__(keras.ops.maximum(step - self.warmup_steps, 0.0))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "warmup_steps": self.warmup_steps}


def rate_factors(
    layers: Sequence[keras.Layer], decay: float, head: Sequence[keras.Layer] | None = None
) -> dict[str, float]:
    """Return the factor on the learning rate of each variable, by the variable's path.

    The factor is 1 in the head, `decay` in the uppermost block of the trunk's layers, `decay`² in the next, and so on
    (Howard and Ruder, https://arxiv.org/abs/1801.06146, section 3.2; with a fixed factor as in ELECTRA,
    https://arxiv.org/abs/2003.10555). The layers make `BLOCKS` blocks of equal length, or one block each when there are
    fewer layers. `layers` and `head` are as `build` takes them.
    """
    training = [layer for layer in layers if layer.trainable_variables]
    in_head = set(map(id, training[-1:] if head is None else head))
    trunk = [layer for layer in training if id(layer) not in in_head]
    blocks = min(BLOCKS, len(trunk))
    factors = {variable.path: 1.0 for layer in training for variable in layer.trainable_variables}
    for position, layer in enumerate(reversed(trunk)):
        block = 1 + position * blocks // len(trunk)
        factors.update((variable.path, decay**block) for variable in layer.trainable_variables)
    return factors


class _LayerRates:
    """Multiplies the learning rate of each variable by a factor of its own.

    Scaling the gradient would not do: Adam and RMSprop divide by its size, so a smaller gradient moves a weight as far.
    """

    def __init__(self, *args: Any, rate_factors: Mapping[str, float], **kwargs: Any) -> None:
        """Create the optimizer; `rate_factors` are by the path of each trained variable."""
        super().__init__(*args, **kwargs)
        self._rate_factors = rate_factors

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the optimizer's variables."""
        super().build(variables)  # type: ignore[misc]
        self._factors = tuple(self._rate_factors[variable.path] for variable in variables)

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Update a variable, at its own rate."""
        factor = self._factors[self._get_variable_index(variable)]  # type: ignore[attr-defined]
        rate = keras.ops.cast(learning_rate, variable.dtype) * factor
        if self.weight_decay is not None:  # type: ignore[attr-defined]
            self.assign_sub(variable, variable * (self.weight_decay * rate))  # type: ignore[attr-defined]
        super().update_step(gradient, variable, rate)  # type: ignore[misc]

    def _apply_weight_decay(self, variables: list[keras.Variable]) -> None:
        """Do nothing. Keras would decay all weights at the head's rate; `update_step` decays at each layer's own."""

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "rate_factors": dict(self._rate_factors)}  # type: ignore[misc]


@keras.saving.register_keras_serializable(package="graftline")
class LayerwiseAdam(_LayerRates, keras.optimizers.Adam):
    """Adam with a learning rate for each layer."""


@keras.saving.register_keras_serializable(package="graftline")
class LayerwiseAdamW(_LayerRates, keras.optimizers.AdamW):
    """AdamW with a learning rate for each layer."""


@keras.saving.register_keras_serializable(package="graftline")
class LayerwiseRMSprop(_LayerRates, keras.optimizers.RMSprop):
    """RMSprop with a learning rate for each layer."""


@keras.saving.register_keras_serializable(package="graftline")
class LayerwiseSGD(_LayerRates, keras.optimizers.SGD):
    """SGD with a learning rate for each layer."""


_KINDS = {
    "adam": (keras.optimizers.Adam, LayerwiseAdam),
    "adamw": (keras.optimizers.AdamW, LayerwiseAdamW),
    "rmsprop": (keras.optimizers.RMSprop, LayerwiseRMSprop),
    "sgd": (keras.optimizers.SGD, LayerwiseSGD),
}


# In /proc/cpuinfo; the last is ARM's name.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def precision_warning(precision: str, cpuinfo: pathlib.Path = pathlib.Path("/proc/cpuinfo")) -> str | None:
    """Return why training in that precision is slow on this machine, and what to do; None when it is not slow."""
    if precision == "float32" or tf.config.list_physical_devices("GPU"):
        return None
    if precision == "mixed_float16":
        return (
            "training.precision is mixed_float16, but TensorFlow sees no GPU, and on a CPU a training step in float16 "
            "takes 50 to 100 times as long as in float32: set it to float32, or mixed_bfloat16 if the CPU supports it"
        )
    flags = set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set()
    if flags & _BFLOAT16_FLAGS:
        return None
    return (
        f"training.precision is mixed_bfloat16, but TensorFlow sees no GPU, and {cpuinfo} lists none of "
        f"{', '.join(sorted(_BFLOAT16_FLAGS))}: the CPU emulates bfloat16, which is slower than float32"
    )
