"""The verdict: what the gate found, for `verdict.json`, for a person, and for the summary of a run. Imports no TFX.

`components.evaluator.judging` makes it; `components.evaluator.component` writes it.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from graftline.jsonable import finite

VERDICT_FILE = "verdict.json"
VERDICT_TEXT = "verdict.txt"  # the same, to read

Interval = tuple[float, float]
# Checks that are of no metric.
EXAMPLES, SERVING, WITHDRAWN = "examples", "serving_validation", "withdrawn"
NOTHING_SERVED = "no model is served yet, so the value thresholds alone decided"  # a note


@dataclass(frozen=True)
class Check:
    """One threshold: `metric` had `value` where `bound` (of `kind` min, max or min_change) was asked.

    For min_change `value` is by how much the candidate is better than the baseline, whichever way is better. A check
    of the kind `passed` is of no figure: `because` says it all.

    Attributes:
      part: the slice, such as "class rose"; empty for all images.
      interval: where the value may lie in truth.
      baseline: the baseline's value of the metric, for min_change.
      examples: how many images the value is of.
      p_value: of a change, where significance was asked for.
      because: why it passed or failed, where the figures alone do not say.
    """

    metric: str
    kind: str
    bound: float
    value: float
    passed: bool
    part: str = ""
    interval: Interval | None = None
    baseline: float | None = None
    examples: int | None = None
    p_value: float | None = None
    because: str = ""


@dataclass(frozen=True)
class ClassFigures:
    """How one class fared; `interval` is that of the recall."""

    name: str
    examples: int
    precision: float
    recall: float
    f1: float
    interval: Interval


@dataclass(frozen=True)
class Verdict:
    """What the gate found.

    Attributes:
      blessed: whether every check passed.
      examples: how many images were judged by.
      candidate: its figures on all of them, by metric.
      baseline: those of the model that is served, empty when there was none to compare with; `note` says why.
      checks: every threshold.
      note: what must be said beside the checks, a sentence a line.
      intervals: of the candidate's figures.
      compared_examples: how many images both models were compared on.
      compared: the candidate's figures on these.
      other_classes: whether the baseline knows other classes, so that `compared` and `baseline` are on those images
        alone whose class both know.
      level: of the intervals.
      by_class: how each class fared.
      confusions: the most frequent mistakes: class, what it was taken for, how many images.
    """

    blessed: bool
    examples: int
    candidate: dict[str, float]
    baseline: dict[str, float]
    checks: list[Check]
    note: str = ""
    intervals: dict[str, Interval] = field(default_factory=dict)
    compared_examples: int = 0
    compared: dict[str, float] = field(default_factory=dict)
    other_classes: bool = False
    level: float = 0.95
    by_class: list[ClassFigures] = field(default_factory=list)
    confusions: list[tuple[str, str, int]] = field(default_factory=list)

    def to_json(self) -> str:
        """For VERDICT_FILE."""
        return json.dumps(finite(asdict(self)), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Verdict":
        """Reads what `to_json` wrote."""
        fields = json.loads(text)
        return cls(
            **{
                **fields,
                **{name: _numbers(fields[name]) for name in ("candidate", "baseline", "compared")},
                "checks": [Check(**_numbers(check)) for check in fields["checks"]],
                "intervals": _numbers(fields["intervals"]),
                "by_class": [ClassFigures(**_numbers(figures)) for figures in fields["by_class"]],
                "confusions": [tuple(confusion) for confusion in fields["confusions"]],
            }
        )

    def to_text(self) -> str:
        """For VERDICT_TEXT: everything, as a person reads it."""
        return "\n".join([*self._head(), *self._figures(), *self._classes()]) + "\n"

    def _head(self) -> Iterator[str]:
        yield "BLESSED" if self.blessed else f"NOT BLESSED: {', '.join(failed(self.checks))}"
        yield f"judged by {self.examples:,} images"
        yield from self.note.splitlines()
        yield ""
        yield from ("Thresholds", *(f"  {text}" for text in sentences(self.checks, every=True)), "")

    def _figures(self) -> Iterator[str]:
        same = not self.other_classes
        yield f"{'Metric':<28}{'value':>9}  {f'{self.level:.0%} interval':<18}" + (
            f"{'served model':>13}" if self.baseline and same else ""
        )
        for name, value in self.candidate.items():
            served = f"{self.baseline[name]:>13.4f}" if name in self.baseline and same else ""
            yield f"{name:<28}{value:>9.4f}  {_ends(self.intervals.get(name)):<18}{served}".rstrip()
        if self.baseline and not same:
            yield f"\nOn the {self.compared_examples:,} images of the classes that both models know:"
            yield f"{'Metric':<28}{'value':>9}{'served model':>15}"
            for name, value in self.compared.items():
                yield f"{name:<28}{value:>9.4f}{self.baseline[name]:>15.4f}"

    def _classes(self) -> Iterator[str]:
        width = max([12, *(len(figures.name) for figures in self.by_class)]) + 2
        yield f"\n{'Class':<{width}}{'images':>8}{'precision':>11}{'recall':>9}{'F1':>9}  interval of the recall"
        for each in self.by_class:
            figures = f"{each.examples:>8,}{each.precision:>11.4f}{each.recall:>9.4f}{each.f1:>9.4f}"
            yield f"{each.name:<{width}}{figures}  {_ends(each.interval)}"
        if self.confusions:
            yield "\nMost frequent mistakes"
            for name, taken_for, many in self.confusions:
                yield f"  {many:>6,} of {name} taken for {taken_for}"


_BOUND = {"min": "at least", "max": "at most"}


def sentence(check: Check) -> str:
    """One threshold and how it went: `accuracy 0.4800: at least 0.5000 was asked, falls short by 0.0200`."""
    if check.kind == "passed":
        return check.because
    name = f"{check.metric} of {check.part}" if check.part else check.metric
    if check.metric == EXAMPLES:
        value = f"{check.value:,.0f} images{f' of {check.part}' if check.part else ''}"
        asked = f"at least {check.bound:,.0f} {'is' if check.bound == 1 else 'are'} needed (min_examples)"
    elif check.kind == "min_change":
        value, asked = f"{name} {_change(check.value)}", f"{_change_asked(check.bound)} was asked"
    else:
        value, asked = f"{name} {check.value:.4f}", f"{_BOUND[check.kind]} {check.bound:.4f} was asked"
    ends = (_changes if check.kind == "min_change" else _ends)(check.interval)
    interval = f" ({ends})" if ends and not math.isnan(check.value) else ""
    missed = check.value - check.bound if check.kind == "max" else check.bound - check.value
    if check.passed:
        outcome = "passed"
    elif missed > 0:
        shown = f"{missed:,.0f}" if check.metric == EXAMPLES else f"{missed:.4f}"
        outcome = f"{'exceeds it' if check.kind == 'max' else 'falls short'} by {shown}"
    else:
        outcome = "refused"
    why = f" ({check.because})" if check.because else ""
    return f"{value}{interval}: {asked}, {outcome}{why}"


def sentences(checks: Iterable[Check], every: bool = False) -> list[str]:
    """What to say of the checks, those that failed first.

    Unless `every` one is asked for, those of slices that passed are told together: how many, and the one nearest to
    its bound.
    """
    ordered = sorted(checks, key=lambda check: check.passed)
    together: dict[tuple[str, str, str], list[Check]] = {}
    told = []
    for check in ordered:
        if check.passed and check.part and not every:
            together.setdefault((check.part.partition(" ")[0], check.metric, check.kind), []).append(check)
        else:
            told.append(sentence(check))
    for (dimension, *_), alike in together.items():
        nearest = min(alike, key=lambda check: abs(check.value - check.bound))
        several = f", as of {len(alike) - 1:,} more with regard to {dimension}" if len(alike) > 1 else ""
        told.append(sentence(nearest) + several)
    return told


def failed(checks: Iterable[Check]) -> list[str]:
    """What failed, in a few words each: `accuracy`, `recall of class rose`."""
    names = [
        check.because
        if check.metric == WITHDRAWN
        else f"{check.metric.replace('_', ' ') if check.kind == 'passed' else check.metric}"
        + (f" of {check.part}" if check.part else "")
        for check in checks
        if not check.passed
    ]
    shown = list(dict.fromkeys(names))
    return shown if len(shown) <= 5 else [*shown[:4], f"{len(shown) - 4:,} more"]


def _ends(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def _change(value: float) -> str:
    """By how much better than the served model's: a sign would mislead where less of the metric is better."""
    if value == 0 or math.isnan(value):
        return "unchanged" if value == 0 else "not comparable"
    return f"{'worse' if value < 0 else 'better'} by {abs(value):.4f}"


def _changes(interval: Sequence[float] | None) -> str:
    if interval is None or not any(interval):  # of two models that said the same
        return ""
    return f"{_change(interval[0])} to {_change(interval[1])}"


def _change_asked(bound: float) -> str:
    if bound == 0:
        return "no worse"
    return f"{'worse by at most' if bound < 0 else 'better by at least'} {abs(bound):.4f}"


_MAY_BE_NULL = ("interval", "baseline", "examples", "p_value")


def _numbers(fields: dict[str, Any]) -> dict[str, Any]:
    """The values as they were before `_finite`."""

    def number(value: Any) -> Any:
        if isinstance(value, list):
            return tuple(number(each) for each in value)
        return math.nan if value is None else value

    return {key: None if value is None and key in _MAY_BE_NULL else number(value) for key, value in fields.items()}
