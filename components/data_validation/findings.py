"""The findings of data validation, for people and for scripts. Imports no TFX and no TensorFlow."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from graftline.components.data_validation.settings import Action
from graftline.errors import UserError

FILE = "findings.json"  # beside the anomalies


@dataclass(frozen=True)
class Finding:
    """One difference between this run's images and the expected ones."""

    check: str  # a key of `ValidationSettings`: new_label, missing_class, drift, skew, schema_violation
    action: Action
    feature: str  # name in the tf.Examples; "" for a finding about the whole data set
    message: str  # the difference: one sentence without its full stop
    advice: str  # how to correct the data: the beginning of a sentence
    classes: tuple[str, ...] = ()  # the labels concerned
    value: float | None = None  # Jensen-Shannon divergence, 0..1
    threshold: float | None = None  # that the value exceeds


def require_none_to_stop(findings: Sequence[Finding]) -> None:
    """Raise UserError if there is a finding with the action "stop"; the message lists all such findings."""
    lines = [
        f"- {finding.message}. {finding.advice}, or set data.validation.{finding.check}=warn"
        for finding in findings
        if finding.action == "stop"
    ]
    if lines:
        raise UserError("\n".join(["data validation stopped the run before anything was trained:", *lines]))


def to_json(findings: Iterable[Finding]) -> str:
    """Return indented JSON, which `from_json` reads."""
    return json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False) + "\n"


def from_json(text: str) -> list[Finding]:
    """Return the findings that `to_json` wrote."""
    return [Finding(**{**values, "classes": tuple(values["classes"])}) for values in json.loads(text)]
