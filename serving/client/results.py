"""What a client returns, and the one error that it raises. Standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass, field


class ServiceError(Exception):
    """A call that got no answer, or was refused.

    Attributes:
      code: the name of a gRPC status, over REST too, such as "INVALID_ARGUMENT", "NOT_FOUND" or "UNAVAILABLE".
      message: the server's own words, or those of the library that could not reach it.
      retry_after: how many seconds the server asks to wait; None where it does not say.
      models: the names of the models that the server serves, where it lists them. Graftline's server does so when it is
        asked for a model that it does not have.
    """

    def __init__(self, code: str, message: str, retry_after: float | None = None, models: tuple[str, ...] = ()) -> None:
        """Store the attributes; the text of the error is "CODE: message"."""
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.models = models


@dataclass(frozen=True)
class Prediction:
    """The answer for one image: `label`, `score` and `top_k`, or else an `error`.

    Attributes:
      path: the image's file; "" for an image that was given as bytes.
      label: the class with the highest probability; None when there is an error.
      score: the probability of `label`, 0..1; None when there is an error.
      top_k: up to five (label, probability) pairs, the highest first; empty when there is an error.
      error: why the image could not be classified; None when it could.
    """

    path: str
    label: str | None
    score: float | None
    top_k: list[tuple[str, float]]
    error: str | None = None


@dataclass(frozen=True)
class VersionStatus:
    """The state of one version of a model, in the words of TensorFlow Serving's ModelVersionStatus.

    Attributes:
      version: the version's number.
      state: START, LOADING, AVAILABLE, UNLOADING or END.
      error: why the version could not be loaded; "" when it could.
    """

    version: int
    state: str
    error: str = ""


@dataclass(frozen=True)
class TensorSpec:
    """The type of a signature's input or output.

    Attributes:
      dtype: a numpy name, and "bytes" for strings. TensorFlow's number for a type that numpy does not have.
      shape: -1 stands for any size. None stands for any rank.
    """

    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Signature:
    """A function of a model.

    Attributes:
      inputs: the inputs by name.
      outputs: the outputs by name.
      method: such as "tensorflow/serving/predict".
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method: str = field(default="", compare=False)
