"""A phase's optimizer: its learning rate step by step, clipping, lower rates for lower layers, and loss scaling."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from graftline.trainer.settings import PhaseSettings

# Into how many blocks the trained layers of a trunk are divided, whatever the backbone, as ConvNeXt's authors did to
# fine-tune theirs (https://github.com/facebookresearch/ConvNeXt, optim_factory.py). With a block for each layer or each
# residual block, a factor that suits MobileNetV2 would stop the lower half of a DenseNet201.
BLOCKS = 12


def build(
    settings: PhaseSettings,
    steps_per_epoch: int,
    layers: Sequence[keras.Layer],
    head: Sequence[keras.Layer] | None = None,
) -> keras.optimizers.Optimizer:
    """A fresh optimizer as the phase asks for it, in Keras' LossScaleOptimizer when a layer computes in float16.

    Args:
      settings: of the phase.
      steps_per_epoch: batches in an epoch, at least 1.
      layers: those that train, lower to upper, the head's last; their `trainable` flags are set. Layers without
        trainable weights may be among them.
      head: those of `layers` that make the head, which has the full rate; the last of them when None.
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
        # `compile` would look at the model's own policy, which is float32: Keras has it from when the head was grafted.
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


# --- the learning rate, step by step ----------------------------------------------------------------------------------


def schedule(settings: PhaseSettings, steps_per_epoch: int) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate as a function of the step, or a plain number where it never changes.

    The warm-up is linear, from 0 (Goyal et al., https://arxiv.org/abs/1706.02677); the decay begins where it ends.
    """
    rate = settings.learning_rate
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    if settings.schedule == "cosine":
        # At least one step, for a phase of 0 epochs.
        decay_steps = max(1, settings.epochs * steps_per_epoch - warmup)
        if not warmup:
            return keras.optimizers.schedules.CosineDecay(rate, decay_steps, settings.alpha)
        return keras.optimizers.schedules.CosineDecay(
            0.0, decay_steps, settings.alpha, warmup_target=rate, warmup_steps=warmup
        )
    decay_rate = settings.decay_rate if settings.schedule == "exponential" else 1.0
    if warmup:
        return WarmUpExponentialDecay(rate, steps_per_epoch, decay_rate, warmup_steps=warmup)
    if settings.schedule == "exponential":
        return keras.optimizers.schedules.ExponentialDecay(rate, steps_per_epoch, decay_rate)
    return rate


@keras.saving.register_keras_serializable(package="graftline")
class WarmUpExponentialDecay(keras.optimizers.schedules.ExponentialDecay):
    """Keras' ExponentialDecay after a linear rise from 0 over `warmup_steps`; a `decay_rate` of 1 keeps it constant."""

    def __init__(self, *args: Any, warmup_steps: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.warmup_steps = warmup_steps

    def __call__(self, step: keras.KerasTensor) -> keras.KerasTensor:
        step = keras.ops.cast(step, "float32")
        risen = keras.ops.minimum(step / self.warmup_steps, 1.0)
        return risen * super().__call__(keras.ops.maximum(step - self.warmup_steps, 0.0))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "warmup_steps": self.warmup_steps}


# --- a rate for each layer --------------------------------------------------------------------------------------------


def rate_factors(
    layers: Sequence[keras.Layer], decay: float, head: Sequence[keras.Layer] | None = None
) -> dict[str, float]:
    """By what the learning rate of each variable is multiplied, by the variable's path.

    1 in the head; `decay` in the uppermost block of the trunk's layers, `decay`² in the next, and so on down
    (Howard and Ruder, https://arxiv.org/abs/1801.06146, section 3.2; by a fixed factor as in ELECTRA,
    https://arxiv.org/abs/2003.10555). The layers make `BLOCKS` blocks of equal length, or one block each when
    there are fewer.

    Args:
      layers, head: as `build` takes them.
      decay: in (0, 1].
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

    The rate, not the gradient: Adam and RMSprop divide by the gradient's size, so a smaller one moves as far.
    """

    def __init__(self, *args: Any, rate_factors: Mapping[str, float], **kwargs: Any) -> None:
        """`rate_factors`: by the path of each variable that is trained. The rest is the Keras optimizer's."""
        super().__init__(*args, **kwargs)
        self._rate_factors = rate_factors

    def build(self, variables: list[keras.Variable]) -> None:
        super().build(variables)  # type: ignore[misc]
        self._factors = tuple(self._rate_factors[variable.path] for variable in variables)

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        factor = self._factors[self._get_variable_index(variable)]  # type: ignore[attr-defined]
        rate = keras.ops.cast(learning_rate, variable.dtype) * factor
        if self.weight_decay is not None:  # type: ignore[attr-defined]
            self.assign_sub(variable, variable * (self.weight_decay * rate))  # type: ignore[attr-defined]
        super().update_step(gradient, variable, rate)  # type: ignore[misc]

    def _apply_weight_decay(self, variables: list[keras.Variable]) -> None:
        """Not here: Keras would decay all weights at the head's rate. `update_step` does it at each layer's own."""

    def get_config(self) -> dict[str, Any]:
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


# --- 16 bits ----------------------------------------------------------------------------------------------------------

# In /proc/cpuinfo; the last is what ARM calls it.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def precision_warning(precision: str, cpuinfo: pathlib.Path = pathlib.Path("/proc/cpuinfo")) -> str | None:
    """What is slow about training in that precision on this machine, and what to do; None when nothing is.

    Args:
      precision: of `TrainingSettings`.
      cpuinfo: Linux' description of the CPU.
    """
    if precision == "float32" or tf.config.list_physical_devices("GPU"):
        return None
    if precision == "mixed_float16":
        return (
            "training.precision is mixed_float16, but TensorFlow sees no GPU, and on a CPU a training step in float16 "
            "takes 50 to 100 times as long as in float32: set it to float32, or to mixed_bfloat16 where the CPU has it"
        )
    flags = set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set()
    if flags & _BFLOAT16_FLAGS:
        return None
    return (
        "training.precision is mixed_bfloat16, but TensorFlow sees no GPU, and the CPU shows none of "
        f"{', '.join(sorted(_BFLOAT16_FLAGS))} in {cpuinfo}: bfloat16 is then emulated, and slower than float32"
    )
