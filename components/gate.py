"""The gate's metrics and thresholds, and the verdict that a person can read. `components.evaluator` applies them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

VERDICT_FILE = "verdict.json"


@dataclass(frozen=True)
class Metric:
    """A TFMA metric by its class name there, and which way is better."""

    tfma_class: str
    higher_is_better: bool
    config: Mapping[str, Any]


METRICS: dict[str, Metric] = {
    "accuracy": Metric("SparseCategoricalAccuracy", True, {}),
    "top_3_accuracy": Metric("SparseTopKCategoricalAccuracy", True, {"k": 3}),
    "cross_entropy": Metric("SparseCategoricalCrossentropy", False, {}),
}
EXAMPLE_COUNT = "example_count"
# 0.80 - 0.81 is -0.010000000000000009: a change is held against its bound with this much to spare.
ROUNDING = 1e-9


class Threshold(BaseModel):
    """Bounds of one metric on the eval split."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: float | None = Field(None, description="the least value that is blessed")
    max: float | None = Field(None, description="the greatest value that is blessed")
    min_change: float | None = Field(
        None,
        description="how much better than the served model it must be, on the same examples; negative allows that loss",
    )


@dataclass(frozen=True)
class Check:
    """One threshold: `metric` had `value` where `bound` (of `kind` min, max or min_change) was asked.

    For min_change `value` is by how much the candidate is better than the baseline.
    """

    metric: str
    kind: str
    bound: float
    value: float
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """What the gate found. `baseline` is empty when there was none to compare with; `note` says why."""

    blessed: bool
    examples: int
    candidate: dict[str, float]
    baseline: dict[str, float]
    checks: list[Check]
    note: str = ""

    def to_json(self) -> str:
        """For VERDICT_FILE."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Verdict":
        """Reads what `to_json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "checks": [Check(**check) for check in fields["checks"]]})


def check(
    thresholds: Mapping[str, Threshold], candidate: Mapping[str, float], baseline: Mapping[str, float]
) -> list[Check]:
    """Holds the metrics against the thresholds, as TFMA does; change thresholds only where there is a baseline."""
    checks = []
    for name, threshold in thresholds.items():
        value = candidate[name]
        if threshold.min is not None:
            checks.append(Check(name, "min", threshold.min, value, value >= threshold.min))
        if threshold.max is not None:
            checks.append(Check(name, "max", threshold.max, value, value <= threshold.max))
        if threshold.min_change is not None and name in baseline:
            better = value - baseline[name] if METRICS[name].higher_is_better else baseline[name] - value
            checks.append(
                Check(name, "min_change", threshold.min_change, better, better >= threshold.min_change - ROUNDING)
            )
    return checks
