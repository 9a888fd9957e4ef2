"""The config's section `push`. Imports no TFX."""

from pydantic import Field

from graftline.settings import Settings


class VertexSettings(Settings):
    """The Vertex Endpoint that models are deployed to, instead of a folder; on a cluster only."""

    project: str | None = Field(None, description="the project of the endpoint; null pushes to a folder")
    region: str = Field("us-central1", description="where the endpoint is")
    endpoint: str | None = Field(None, description="its name; that of the model when null; made if there is none")
    machine_type: str = Field("n1-standard-4", description="of the machines that serve")
    image: str = Field(
        "us-docker.pkg.dev/vertex-ai/prediction/tf2-cpu.2-15:latest", description="the container that serves"
    )


class PushSettings(Settings):
    """Where a blessed model goes, and which versions stay."""

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
