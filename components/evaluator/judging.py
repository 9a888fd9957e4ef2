"""Holds a candidate against the gate's thresholds and against the model that is served. Imports no TFX.

Change thresholds and their significance, as `settings.GateSettings` has them:
- Without `significance` a change is what it is: it must reach `min_change`; one that is exactly that is a tie.
- With it, a change counts only where a test on the same images finds it significant: McNemar's for a share of images,
  DeLong's for the AUC, a paired bootstrap for the others. Where a gain is asked for (`min_change` over 0), it must be
  reached and be significant. Where none is (0 or less), a change under the bound is refused only if the loss is
  significant. What is neither is a tie.
- `tie` decides a tie. No correction is made for the number of slices that are tested.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse

from graftline.components.evaluator import metrics, settings, uncertainty
from graftline.components.evaluator.metrics import ROUNDING, Part
from graftline.components.evaluator.scored import Answers, Scored
from graftline.components.evaluator.settings import GateSettings, SliceThresholds, Threshold
from graftline.components.evaluator.verdict import EXAMPLES, Check, ClassFigures, Interval, Verdict

# Told of every model, whether or not there is a threshold.
_FIGURES = (
    metrics.ACCURACY, "top_3_accuracy", *metrics.MACRO, metrics.AUC, metrics.CROSS_ENTROPY, metrics.CALIBRATION
)  # fmt: skip
_CONFUSIONS = 10
_UNDEFINED = "it is not defined on these images"  # as the AUC of images of one class


@dataclass(frozen=True)
class Change:
    """By how much the candidate is better than the baseline, where that may lie in truth, and how likely by chance."""

    value: float
    interval: Interval
    p_value: float


def judge(
    gate: GateSettings,
    answers: Answers,
    notes: Sequence[str] = (),
    infra: Check | None = None,
) -> Verdict:
    """The verdict on a candidate.

    Args:
      gate: what is asked.
      answers: what candidate and baseline said.
      notes: what must be said beside the checks.
      infra: what the serving validation found, where it ran.
    """
    judged = _Judge(gate, answers)
    checks = [*([infra] if infra else []), *judged.checks()]
    figures = dict.fromkeys([*_FIGURES, *gate.thresholds])
    ours, theirs = answers.shared or (None, None)
    return Verdict(
        blessed=all(check.passed for check in checks),
        examples=answers.candidate.examples,
        candidate={name: metrics.value(name, answers.candidate) for name in figures},
        baseline={name: metrics.value(name, theirs) for name in figures} if theirs else {},
        checks=checks,
        note="\n".join([*notes, *judged.skipped]),
        intervals={name: judged.interval(name, answers.candidate, metrics.ALL) for name in figures},
        compared_examples=theirs.examples if theirs else 0,
        compared={name: metrics.value(name, ours) for name in figures} if ours else {},
        other_classes=ours is not None and ours is not answers.candidate,
        level=judged.level,
        by_class=list(_by_class(answers.candidate, judged.level)),
        confusions=_confusions(answers.candidate),
    )


class _Judge:
    """The settings and the answers, for the many small questions about them."""

    def __init__(self, gate: GateSettings, answers: Answers) -> None:
        self._gate, self._answers = gate, answers
        self.level = 1 - (gate.alpha or 0.05)
        self._repeats = uncertainty.repeats(gate.alpha or 0.05)
        self.skipped: list[str] = []  # what was not judged, and why

    def checks(self) -> Iterator[Check]:
        """Every threshold, those of all images first."""
        examples = self._answers.candidate.examples
        if self._gate.min_examples > min(1, examples):  # 1 is the default: worth a word only where there is none
            yield Check(EXAMPLES, "min", self._gate.min_examples, examples, examples >= self._gate.min_examples)
        for metric, threshold in self._gate.thresholds.items():
            yield from self._of_metric(metric, threshold, "", None, None)
        for dimension, thresholds in self._gate.slices.items():
            yield from self._of_dimension(dimension, thresholds)

    def _of_dimension(self, dimension: str, of_each: settings.DimensionThresholds) -> Iterator[Check]:
        slices = self._answers.slices[dimension]
        counts = np.bincount(slices.codes, minlength=len(slices.names))
        few = []
        least = of_each.min_examples or settings.MIN_EXAMPLES_OF_A_SLICE
        for code, name in sorted(enumerate(slices.names), key=lambda pair: pair[1]):
            own = of_each.values.get(name)
            asked = {**of_each.thresholds, **(own.thresholds if own else {})}
            if own is None and counts[code] < least:
                few += [name] if asked else []
                continue
            yield from self._of_slice(dimension, name, slices.codes == code, asked, own, least)
        for name in sorted(set(of_each.values) - set(slices.names)):
            own = of_each.values[name]
            yield from self._of_slice(dimension, name, np.zeros(len(slices.codes), bool), {}, own, least)
        if few:
            shown = ", ".join(few[:5]) + (f" and {len(few) - 5:,} more" if len(few) > 5 else "")
            self.skipped.append(f"not judged by {dimension}, for there are fewer than {least} images: {shown}")

    def _of_slice(
        self,
        dimension: str,
        name: str,
        inside: np.ndarray,
        asked: Mapping[str, Threshold],
        own: SliceThresholds | None,
        least: int,
    ) -> Iterator[Check]:
        """One slice; one that is asked for by name must have its images."""
        part, count = f"{dimension} {name}", int(inside.sum())
        if own is not None:
            least = own.min_examples or least
            yield Check(EXAMPLES, "min", least, count, count >= least, part, because=self._not_there(dimension, name))
            if count < least:
                return
        for metric, threshold in asked.items():
            of_class = name if dimension == settings.CLASS and metric in (*settings.PER_CLASS, metrics.AUC) else None
            yield from self._of_metric(metric, threshold, part, inside, of_class)

    def _not_there(self, dimension: str, name: str) -> str:
        """What to say of a folder that none of these images lies in: its name may be wrong, or its images train."""
        if dimension != settings.FOLDER or name in (names := self._answers.slices[dimension].names):
            return ""
        return f"none of the images judged by lies in a folder of that name{settings.near_folder(name, names)}"

    def _of_metric(
        self, metric: str, threshold: Threshold, name: str, inside: np.ndarray | None, of_class: str | None
    ) -> Iterator[Check]:
        """The bounds of one metric on the images `inside` (bool [N], None for all), or of their class."""
        candidate = self._answers.candidate
        part = _part(metric, [candidate], inside, of_class)
        if threshold.min is not None or threshold.max is not None:
            value, interval = metrics.value(metric, candidate, part), self.interval(metric, candidate, part)
            examples = candidate.examples if inside is None else int(inside.sum())
            why = _UNDEFINED if np.isnan(value) else ""
            if threshold.min is not None:
                passed = value >= threshold.min
                yield Check(metric, "min", threshold.min, value, passed, name, interval, examples=examples, because=why)
            if threshold.max is not None:
                passed = value <= threshold.max
                yield Check(metric, "max", threshold.max, value, passed, name, interval, examples=examples, because=why)
        if threshold.min_change is not None and self._answers.shared:
            yield from self._of_change(metric, threshold.min_change, name, inside, of_class)

    def _of_change(
        self, metric: str, bound: float, name: str, inside: np.ndarray | None, of_class: str | None
    ) -> Iterator[Check]:
        assert self._answers.shared is not None
        ours, theirs = self._answers.shared
        inside = None if inside is None else inside[self._answers.rows]
        if (inside is not None and not inside.any()) or not ours.examples:
            if name:
                self.skipped.append(f"no change of {metric} of {name} was judged: the served model does not know it")
            return
        part = _part(metric, [ours, theirs], inside, of_class)
        change = self.change(metric, ours, theirs, part)
        passed, because = decide(self._gate, bound, change)
        yield Check(
            metric,
            "min_change",
            bound,
            change.value,
            passed,
            name,
            change.interval,
            baseline=metrics.value(metric, theirs, part),
            examples=ours.examples if inside is None else int(inside.sum()),
            p_value=change.p_value if self._gate.alpha else None,
            because=because,
        )

    def interval(self, metric: str, of: Scored, part: Part) -> Interval:
        """Wilson's for a share of images, DeLong's for the AUC, bootstrapped for the others."""
        hits = metrics.hits(metric, of, part)
        if hits is not None:
            return uncertainty.wilson(float(hits.sum()), len(hits), self.level)
        if metric == metrics.AUC:
            area, errors = metrics.auc(of, part)
            return uncertainty.around(area, float(np.sqrt((errors**2).sum())), self.level)
        drawn = uncertainty.bootstrap(
            metrics.terms(metric, of, part), lambda sums: metrics.of_sums(metric, sums), self._repeats
        )
        return uncertainty.percentiles(drawn, self.level)

    def change(self, metric: str, ours: Scored, theirs: Scored, part: Part) -> Change:
        """How much better `ours` is than `theirs` on the same images."""
        sign = -1 if metric in metrics.LOWER_IS_BETTER else 1
        value = sign * (metrics.value(metric, ours, part) - metrics.value(metric, theirs, part)) + 0.0  # never -0.0
        if metric == metrics.AUC:
            errors = metrics.auc(ours, part)[1] - metrics.auc(theirs, part)[1]
            error = float(np.sqrt((errors**2).sum()))
            interval = uncertainty.around(value, error, self.level, low=-1.0)
            return Change(value, interval, uncertainty.normal_p_value(value, error))
        both = [metrics.terms(metric, each, part) for each in (ours, theirs)]
        half = both[0].shape[1]

        def changes(sums: np.ndarray) -> np.ndarray:
            return sign * (metrics.of_sums(metric, sums[:, :half]) - metrics.of_sums(metric, sums[:, half:])) + 0.0

        drawn = uncertainty.bootstrap(scipy.sparse.hstack(both, format="csr"), changes, self._repeats)
        interval = uncertainty.percentiles(drawn, self.level)
        pair = [metrics.hits(metric, each, part) for each in (ours, theirs)]
        if metric != "precision" and pair[0] is not None and pair[1] is not None:
            return Change(value, interval, uncertainty.mcnemar(pair[0], pair[1]))
        return Change(value, interval, uncertainty.bootstrap_p_value(drawn))


def decide(gate: GateSettings, bound: float, change: Change) -> tuple[bool, str]:
    """Whether a change is enough, and why where that needs words; see this module's docstring."""
    over, under = change.value > bound + ROUNDING, change.value < bound - ROUNDING
    if np.isnan(change.value):
        return False, _UNDEFINED
    if gate.alpha is None:
        return (over, "") if over or under else _tie(gate, "a tie")
    significant = change.p_value < gate.alpha
    chance = f"{'' if significant else 'not '}significant, p = {change.p_value:.2g}"
    if bound > 0:
        if under or not significant:
            return False, f"a gain that is {chance}" if not under else chance
        return (True, chance) if over else _tie(gate, chance)
    if over and (significant or bound < 0):
        return True, chance
    if under and significant:
        return False, chance
    return _tie(gate, chance)


def _tie(gate: GateSettings, what: str) -> tuple[bool, str]:
    blessed = gate.tie == "bless"
    return blessed, what if blessed else f"{what}, and gate.tie is refuse"


def _part(metric: str, models: Sequence[Scored], inside: np.ndarray | None, of_class: str | None) -> Part:
    if of_class is None:
        return metrics.ALL if inside is None else Part(np.flatnonzero(inside))
    which = models[0].classes.index(of_class)
    if metric == metrics.AUC:
        return Part(None, which)
    concerned = [(each.label == which) | (each.predicted == which) for each in models]
    return Part(np.flatnonzero(np.logical_or.reduce(concerned)), which)


def _by_class(of: Scored, level: float) -> Iterator[ClassFigures]:
    classes = len(of.classes)
    counts = np.asarray(metrics.macro_terms(of.label, of.predicted, classes).sum(axis=0)).reshape(3, classes)
    for name, column in zip(of.classes, counts.T, strict=True):
        found, _, actual = column
        figures = [float(metrics.of_sums(metric, column[None])[0]) for metric in settings.PER_CLASS]
        recall, precision, f1 = figures
        interval = uncertainty.wilson(found, actual, level)
        yield ClassFigures(name, int(actual), precision, recall, f1, interval)


def _confusions(of: Scored) -> list[tuple[str, str, int]]:
    wrong = ~of.right & (of.label >= 0)
    pairs, counts = np.unique(np.stack([of.label[wrong], of.predicted[wrong]], axis=1), axis=0, return_counts=True)
    most = np.argsort(-counts, kind="stable")[:_CONFUSIONS]
    return [(of.classes[pairs[i, 0]], of.classes[pairs[i, 1]], int(counts[i])) for i in most]
