"""What data validation found, as values that a person and a script can read. Imports no TFX and no TensorFlow."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from graftline.components.data_validation.settings import Action
from graftline.errors import UserError

FILE = "findings.json"  # beside the anomalies


@dataclass(frozen=True)
class Finding:
    """One way in which this run's images differ from what was expected."""

    check: str  # a key of `ValidationSettings`: new_label, missing_class, drift, skew, schema_violation
    action: Action  # what was done about it
    feature: str  # its name in the tf.Examples; "" when it is about the data set as a whole
    message: str  # what was found, and against what: one sentence without its full stop
    advice: str  # what mends the data
    classes: tuple[str, ...] = ()  # the labels it is about
    value: float | None = None  # Jensen-Shannon divergence, 0..1
    threshold: float | None = None  # that it exceeds


def require_none_to_stop(findings: Sequence[Finding]) -> None:
    """Ends the run when a check whose action is "stop" found something.

    Raises:
      UserError: with all that it is stopped for.
    """
    stopping = [finding for finding in findings if finding.action == "stop"]
    if not stopping:
        return
    told = [
        f"- {finding.message}. {finding.advice}, or set data.validation.{finding.check}=warn" for finding in stopping
    ]
    raise UserError("\n".join(["data validation stopped the run before anything was trained:", *told]))


def to_json(findings: Iterable[Finding]) -> str:
    """Readable JSON; `from_json` reads it back."""
    return json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False) + "\n"


def from_json(text: str) -> list[Finding]:
    """The reverse of `to_json`."""
    return [Finding(**{**values, "classes": tuple(values["classes"])}) for values in json.loads(text)]
