"""The settings of data validation: the config's section `data.validation`. Imports no TFX."""

from typing import Literal

from pydantic import Field

from graftline.settings import Settings

Action = Literal["warn", "stop"]


class ValidationSettings(Settings):
    """The action for each kind of finding: warn, or stop the run before training."""

    new_label: Action = Field(
        "warn",
        description="a class that data.schema_file does not list; without this file a class that the last run of other "
        "images did not have, and then it only warns",
    )
    missing_class: Action = Field(
        "warn", description="a class that the schema file or the last run has, but this run does not have"
    )
    drift: Action = Field(
        "warn", description="labels, formats, sizes or quality that differ from those of the last run of other images"
    )
    skew: Action = Field("warn", description="the same differences between the train and the eval split")
    schema_violation: Action = Field("warn", description="any other value that data.schema_file does not allow")
    drift_threshold: float = Field(
        0.2, gt=0, le=1, description="smallest drift to report: Jensen-Shannon divergence, 0 (equal) to 1 (disjoint)"
    )
    skew_threshold: float = Field(0.2, gt=0, le=1, description="smallest skew to report, as drift_threshold")
