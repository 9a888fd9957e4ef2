"""The config's section `data.validation`. Imports no TFX."""

from typing import Literal

from pydantic import Field

from graftline.settings import Settings

Action = Literal["warn", "stop"]


class ValidationSettings(Settings):
    """What data validation does about each finding: warn, or stop the run before anything is trained."""

    new_label: Action = Field(
        "warn",
        description="a class that data.schema_file lacks; without such a file one that the last run of other images "
        "lacked, and then it never stops",
    )
    missing_class: Action = Field("warn", description="a class that they have and this run's images lack")
    drift: Action = Field(
        "warn", description="labels, formats, sizes or quality that differ from the last run of other images"
    )
    skew: Action = Field("warn", description="the same between the train and the eval split, by skew_threshold")
    schema_violation: Action = Field("warn", description="anything else that data.schema_file does not allow")
    drift_threshold: float = Field(
        0.2, gt=0, le=1, description="Jensen-Shannon divergence of two distributions, 0 (alike) to 1 (disjoint)"
    )
    skew_threshold: float = Field(0.2, gt=0, le=1, description="the same for train and eval")
