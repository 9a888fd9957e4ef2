"""The config's section `serving_validation`. Imports no TFX."""

from typing import Literal

from pydantic import Field

from graftline.settings import Settings

TOLERANCE, _MIXED_TOLERANCE = 1e-4, 0.05


class ServingValidationSettings(Settings):
    """The candidate in a real model server, before the gate: what fails is not blessed and not pushed."""

    enabled: bool = Field(True, description="whether the candidate is served at all")
    engine: Literal["graftline", "docker"] = Field(
        "graftline",
        description="graftline (its own server, in a fresh process) or docker (TFX's InfraValidator with TensorFlow "
        "Serving's image; on this machine alone)",
    )
    tolerance: float | None = Field(
        None,
        gt=0,
        description="by how much a served probability may differ from what the trainer had for that image; null: "
        "0.0001, and 0.05 where training.precision is mixed, for its sums depend on their order in the third digit",
    )
    latency_ms: float | None = Field(
        10_000, gt=0, description="the most that one image may take over gRPC, as the median; null: any time"
    )
    memory_mb: float | None = Field(None, gt=0, description="the most memory that the server may need; null: any")
    start_seconds: float = Field(300, gt=0, description="how long the server may take to start, and any one answer")

    def for_precision(self, precision: str) -> "ServingValidationSettings":
        """The same with the tolerance that suits `training.precision`, where none is set."""
        suits = TOLERANCE if precision == "float32" else _MIXED_TOLERANCE
        return self.model_copy(update={"tolerance": self.tolerance or suits})
