"""What a client gives back, and the one error that it raises. Standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass, field


class ServiceError(Exception):
    """A call that was not answered.

    `code` is the name of a gRPC status, over REST too ("INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE", ...); `message`
    the server's own words, or those of the library that could not reach it. `retry_after` is how many seconds the
    server asks to wait. `models` are the names of what it serves, where it tells them: ours does of a model that it
    lacks.
    """

    def __init__(self, code: str, message: str, retry_after: float | None = None, models: tuple[str, ...] = ()) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.models = models


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image. `error` is why it says nothing; `label` and `score` are None then."""

    path: str  # "" of an image that was given as bytes
    label: str | None
    score: float | None  # the probability of `label`, 0..1
    top_k: list[tuple[str, float]]  # best first
    error: str | None = None


@dataclass(frozen=True)
class VersionStatus:
    """The state of one version of a model, in the words of TensorFlow Serving's ModelVersionStatus."""

    version: int
    state: str  # START, LOADING, AVAILABLE, UNLOADING or END
    error: str = ""  # why it could not be loaded


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of a signature."""

    dtype: str  # a numpy name, "bytes" for strings; TensorFlow's number for what numpy has no type for
    shape: tuple[int, ...] | None  # -1 for any size, None for any rank


@dataclass(frozen=True)
class Signature:
    """What a signature takes and gives, by name."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method: str = field(default="", compare=False)  # such as "tensorflow/serving/predict"
