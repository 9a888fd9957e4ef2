"""What a user can set about the push and the serving validation, sections of the config. Imports no TFX."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

TOLERANCE, _MIXED_TOLERANCE = 1e-4, 0.05


class VertexSettings(BaseModel):
    """The Vertex Endpoint that models are deployed to, instead of a folder; on a cluster only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: str | None = Field(None, description="the project of the endpoint; null pushes to a folder")
    region: str = Field("us-central1", description="where the endpoint is")
    endpoint: str | None = Field(None, description="its name; that of the model when null; made if there is none")
    machine_type: str = Field("n1-standard-4", description="of the machines that serve")
    image: str = Field(
        "us-docker.pkg.dev/vertex-ai/prediction/tf2-cpu.2-15:latest", description="the container that serves"
    )


class PushSettings(BaseModel):
    """Where a blessed model goes, and which versions stay."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = Field(
        None,
        description="folder or URI (gs://, s3://) of the model's versions; <workspace>/models/<name> when null",
    )
    keep_versions: int | None = Field(
        5,
        ge=1,
        description="so many versions stay, the newest, and those that models.config names; null removes none",
    )
    allow_withdrawn: bool = Field(
        False, description="push also a model that was rolled back from, when it comes again unchanged"
    )
    vertex: VertexSettings = VertexSettings()


class ServingValidationSettings(BaseModel):
    """The candidate in a real model server, before the gate: what fails is not blessed and not pushed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
