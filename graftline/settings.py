"""The base class of every section of the config."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A section of the config: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
