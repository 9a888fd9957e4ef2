"""The verdict: what the gate found, for scripts (JSON), for a person, and for the summary of a run. Imports no TFX.

`components.evaluator.judging` makes it; `components.evaluator.executor` writes it.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from graftline.components.evaluator.settings import MAJORITY
from graftline.jsonable import to_json

VERDICT_FILE = "verdict.json"
VERDICT_TEXT = "verdict.txt"  # the same as text

Interval = tuple[float, float]  # lower and upper end of a confidence interval
# What a check is of, if not of a metric.
EXAMPLES, SERVING, WITHDRAWN = "examples", "serving_validation", "withdrawn"
SERVED_CLASSES = "classes_of_the_served_model"
NOTHING_SERVED = "no model is served yet: only the min and max thresholds were applied"  # a note


@dataclass(frozen=True)
class Check:
    """One threshold and its outcome: `value` was measured where `bound` was required.

    Attributes:
      metric: name of the metric, or EXAMPLES, SERVING, WITHDRAWN or SERVED_CLASSES.
      kind: min, max, min_change, or majority (the interval must lie above `bound`); or passed, for a check without
        figures, which `because` describes.
      bound: the threshold.
      value: the metric's value; for min_change, by how much the candidate is better than the baseline, also where less
        of the metric is better.
      passed: the outcome.
      part: the slice, such as "class rose"; empty for all images.
      interval: the value's confidence interval.
      baseline: the baseline's value of the metric, for min_change.
      examples: how many images the value was computed from.
      p_value: of a change, where significance was asked for.
      because: why the check passed or failed, where the figures do not tell.
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
    """The figures of one class; `interval` is the recall's."""

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
      examples: how many images the candidate was judged on.
      candidate: the candidate's figures on all images, by metric.
      baseline: the served model's figures; empty when there was none to compare with, and `note` says why.
      checks: every threshold and its outcome.
      note: further sentences, one a line.
      intervals: confidence intervals of the candidate's figures.
      compared_examples: how many images both models were compared on.
      compared: the candidate's figures on these images.
      other_classes: whether the baseline knows other classes. Then `compared` and `baseline` are figures on the images
        whose class both models know.
      level: of the intervals.
      by_class: the figures of each class.
      confusions: the most frequent mistakes: the class, what it was classified as, how many images.
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
        """Return the content of VERDICT_FILE."""
        return to_json(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Verdict":
        """Return the verdict that `to_json` wrote."""
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
        """Return the content of VERDICT_TEXT: everything, for a person."""
        return "\n".join([*self._head(), *self._figures(), *self._classes()]) + "\n"

    def _head(self) -> Iterator[str]:
        yield "BLESSED" if self.blessed else f"NOT BLESSED: {', '.join(failures(self.checks))}"
        yield f"judged on {self.examples:,} images"
        yield from self.note.splitlines()
        yield ""
        yield from ("Thresholds", *(f"  {text}" for text in sentences(self.checks, every=True)), "")

    def _figures(self) -> Iterator[str]:
        same = not self.other_classes
        served = f"{'served model':>13}" if self.baseline and same else ""
        yield f"{'Metric':<28}{'value':>9}  {f'{self.level:.0%} interval':<18}{served}".rstrip()
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
        yield f"\n{'Class':<{width}}{'images':>8}{'precision':>11}{'recall':>9}{'F1':>9}  recall interval"
        for each in self.by_class:
            figures = f"{each.examples:>8,}{each.precision:>11.4f}{each.recall:>9.4f}{each.f1:>9.4f}"
            yield f"{each.name:<{width}}{figures}  {_ends(each.interval)}"
        if self.confusions:
            yield "\nMost frequent mistakes"
            for name, other, count in self.confusions:
                yield f"  {count:>6,} of {name} classified as {other}"


def sentence(check: Check) -> str:
    """Return a check as a sentence: `accuracy is 0.4800; at least 0.5000 is required: failed, 0.0200 too low`."""
    if check.kind == "passed":
        return check.because
    name = f"{check.metric} of {check.part}" if check.part else check.metric
    if check.metric == EXAMPLES:
        images = f"{check.value:,.0f} {'image' if check.value == 1 else 'images'}"
        value = f"{images} of {check.part}" if check.part else images
        required = f"at least {check.bound:,.0f} {'is' if check.bound == 1 else 'are'} required (min_examples)"
    elif check.kind == MAJORITY:
        value, required = f"{name} is {check.value:.4f}", f"the interval must lie above {check.bound:.4f}"
    elif check.kind == "min_change":
        value = f"{name} is {_change(check.value)} the served model's"
        required = _required_change(check.bound)
    else:
        value = f"{name} is {check.value:.4f}"
        required = f"{'at least' if check.kind == 'min' else 'at most'} {check.bound:.4f} is required"
    ends = (_changes if check.kind == "min_change" else _ends)(check.interval)
    interval = f" (interval {ends})" if ends and not math.isnan(check.value) else ""
    return f"{value}{interval}; {required}: {_outcome(check)}"


def _outcome(check: Check) -> str:
    """Return `passed` or by how much the check failed, and why where the figures do not tell."""
    outcome = "passed" if check.passed else "failed"
    missing = check.value - check.bound if check.kind == "max" else check.bound - check.value
    if not check.passed and missing > 0:
        if check.metric == EXAMPLES:
            outcome += f", {missing:,.0f} too few"
        elif check.kind in ("min", "max"):
            outcome += f", {missing:.4f} too {'high' if check.kind == 'max' else 'low'}"
        elif check.kind == "min_change" and check.bound:
            outcome += f", {missing:.4f} too {'much' if check.bound < 0 else 'little'}"
    return f"{outcome} ({check.because})" if check.because else outcome


def sentences(checks: Iterable[Check], every: bool = False) -> list[str]:
    """Return a sentence for each check, failed ones first.

    Unless `every` check is wanted, the passed checks of slices share one sentence for each dimension, metric and kind:
    that of the value closest to its bound.
    """
    texts = []
    alike: dict[tuple[str, str, str], list[Check]] = {}
    for check in sorted(checks, key=lambda check: check.passed):
        if check.passed and check.part and not every:
            alike.setdefault((check.part.partition(" ")[0], check.metric, check.kind), []).append(check)
        else:
            texts.append(sentence(check))
    for (dimension, *_), passed in alike.items():
        closest = min(passed, key=lambda check: abs(check.value - check.bound))
        others = f"; it is the closest of {len(passed):,} slices by {dimension}, and all passed" if passed[1:] else ""
        texts.append(sentence(closest) + others)
    return texts


def failures(checks: Iterable[Check]) -> list[str]:
    """Return a few words on each check that failed: `accuracy`, `recall of class rose`."""
    names = [
        check.because
        if check.metric == WITHDRAWN
        else f"{check.metric.replace('_', ' ') if check.kind == 'passed' else check.metric}"
        + (f" of {check.part}" if check.part else "")
        # The sentence on a withdrawn model comes last: words after it would seem to be a part of it.
        for check in sorted(checks, key=lambda check: check.metric == WITHDRAWN)
        if not check.passed
    ]
    shown = list(dict.fromkeys(names))
    return shown if len(shown) <= 5 else [*shown[:4], f"{len(shown) - 4:,} more"]


def _ends(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def _change(value: float) -> str:
    """Compare with the served model in words: a sign would mislead where less of the metric is better."""
    if math.isnan(value):
        return "not comparable with"
    return "equal to" if value == 0 else f"{abs(value):.4f} {'worse' if value < 0 else 'better'} than"


def _changes(interval: Sequence[float] | None) -> str:
    """Return both ends in words; "" for two models that gave the same answers."""
    if interval is None or not any(interval):
        return ""
    return " to ".join(f"{abs(end):.4f} {'worse' if end < 0 else 'better'}" for end in interval)


def _required_change(bound: float) -> str:
    if bound == 0:
        return "it must not be worse"
    return f"it may be at most {-bound:.4f} worse" if bound < 0 else f"it must be at least {bound:.4f} better"


_MAY_BE_NULL = ("interval", "baseline", "examples", "p_value")


def _numbers(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the values as they were before `finite` took out NaN."""

    def number(value: Any) -> Any:
        if isinstance(value, list):
            return tuple(number(each) for each in value)
        return math.nan if value is None else value

    return {key: None if value is None and key in _MAY_BE_NULL else number(value) for key, value in fields.items()}
