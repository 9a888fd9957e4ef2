"""The config's section `push`. Imports no TFX."""

from pydantic import Field

from graftline.settings import Settings


class VertexSettings(Settings):
    """The Vertex Endpoint that models are deployed to instead of a folder; on a cluster only."""

    project: str | None = Field(None, description="the endpoint's project; null: push to a folder")
    region: str = Field("us-central1", description="the endpoint's region")
    endpoint: str | None = Field(
        None, description="the endpoint's name; null: the model's name; it is created if it does not exist"
    )
    machine_type: str = Field("n1-standard-4", description="type of the serving machines")
    image: str = Field(
        "us-docker.pkg.dev/vertex-ai/prediction/tf2-cpu.2-15:latest", description="image of the serving container"
    )


class PushSettings(Settings):
    """Where a blessed model is pushed to, and which versions stay."""

    path: str | None = Field(
        None, description="folder or URI (gs://, s3://) of the model's versions; null: <workspace>/models/<name>"
    )
    keep_versions: int | None = Field(
        5,
        ge=1,
        description="how many of the newest versions stay; versions that models.config names always stay; null: all",
    )
    allow_withdrawn: bool = Field(False, description="also push an unchanged model that was rolled back from")
    vertex: VertexSettings = VertexSettings()
