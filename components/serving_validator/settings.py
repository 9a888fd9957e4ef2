"""The config's section `serving_validation`. Imports no TFX."""

from typing import Literal

from pydantic import Field

from graftline.settings import Settings

TOLERANCE, _MIXED_TOLERANCE = 1e-4, 0.05


class ServingValidationSettings(Settings):
    """How the candidate is validated in a real model server; a model that fails is not blessed and not pushed."""

    enabled: bool = Field(True, description="whether the candidate is validated")
    engine: Literal["graftline", "docker"] = Field(
        "graftline",
        description="graftline (Graftline's server in a new process) or docker (TFX's InfraValidator with TensorFlow "
        "Serving's image; only for local runs)",
    )
    tolerance: float | None = Field(
        None,
        gt=0,
        description="how much a served probability may differ from the trainer's for the same image; null: 0.0001, or "
        "0.05 with a mixed training.precision, whose sums depend on their order in the third digit",
    )
    latency_ms: float | None = Field(
        10_000, gt=0, description="the longest median time of one image over gRPC; null: no limit"
    )
    memory_mb: float | None = Field(None, gt=0, description="the most memory that the server may use; null: no limit")
    start_seconds: float = Field(300, gt=0, description="how long the server's start and each answer may take")

    def for_precision(self, precision: str) -> "ServingValidationSettings":
        """Return these settings with the default tolerance for `training.precision` where none is set."""
        default = TOLERANCE if precision == "float32" else _MIXED_TOLERANCE
        return self.model_copy(update={"tolerance": self.tolerance or default})
