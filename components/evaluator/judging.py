"""Compares a candidate with the gate's thresholds and with the served model. Imports no TFX.

How a change is judged, with the settings of `settings.GateSettings`:
- Without `significance`, the change must exceed `min_change`. A change of exactly `min_change` is a tie.
- With `significance`, a test on the same images decides whether a change counts: McNemar's for a share of images,
  DeLong's for the AUC, a paired bootstrap for the other metrics. A `min_change` over 0 asks for a gain, which must be
  reached and be significant. A `min_change` of 0 or less asks for no gain: a change under it fails only if the loss is
  significant. Every other change is a tie.
- `tie` decides whether a tie passes. The tests are not corrected for the number of slices.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse

from graftline.components.evaluator import majority, metrics, settings, uncertainty
from graftline.components.evaluator.metrics import ROUNDING, Subset
from graftline.components.evaluator.scored import Answers, Scored
from graftline.components.evaluator.settings import GateSettings, SliceThresholds, Threshold
from graftline.components.evaluator.verdict import EXAMPLES, Check, ClassFigures, Interval, Verdict

# Metrics that the verdict gives for every model, with and without a threshold.
_FIGURES = (
    metrics.ACCURACY, "top_3_accuracy", *metrics.MACRO, metrics.AUC, metrics.CROSS_ENTROPY, metrics.CALIBRATION
)  # fmt: skip
_CONFUSIONS = 10
_UNDEFINED = "it is not defined on these images"  # for example the AUC of images of one class


@dataclass(frozen=True)
class Change:
    """By how much the candidate is better than the baseline, with its interval and the p-value of no change."""

    value: float
    interval: Interval
    p_value: float


def judge(gate: GateSettings, answers: Answers, notes: Sequence[str] = (), others: Sequence[Check] = ()) -> Verdict:
    """Return the verdict on a candidate; `others` are checks without a metric, such as the serving validation's."""
    checker = _Checker(gate, answers)
    checks = [*others, *checker.checks()]
    figures = dict.fromkeys([*_FIGURES, *gate.thresholds])
    ours, theirs = answers.shared or (None, None)
    return Verdict(
        blessed=all(check.passed for check in checks),
        examples=answers.candidate.examples,
        candidate={name: metrics.value(name, answers.candidate) for name in figures},
        baseline={name: metrics.value(name, theirs) for name in figures} if theirs else {},
        checks=checks,
        note="\n".join(
            [*notes, *_note_unjudged(answers.candidate), *checker.skipped, *_doubt(gate, answers.candidate)]
        ),
        intervals={name: checker.interval(name, answers.candidate, metrics.ALL) for name in figures},
        compared_examples=theirs.examples if theirs else 0,
        compared={name: metrics.value(name, ours) for name in figures} if ours else {},
        other_classes=ours is not None and ours is not answers.candidate,
        level=checker.level,
        by_class=list(_by_class(answers.candidate, checker.level)),
        confusions=_confusions(answers.candidate),
    )


def _note_unjudged(candidate: Scored) -> list[str]:
    """Return a note on the classes without an image to judge on: a test split need not have all."""
    counts = np.bincount(candidate.label[candidate.label >= 0], minlength=len(candidate.classes))
    names = [candidate.classes[which] for which in np.flatnonzero(counts == 0)]
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return [f"no image to judge on is of these classes: {', '.join(names[:5])}{more}"] if names else []


def _doubt(gate: GateSettings, candidate: Scored) -> list[str]:
    """Return a note for a model that may be one of chance, where the gate does not ask."""
    asked = gate.accuracy is not None and gate.accuracy.above_majority
    return [text] if not asked and (text := majority.note(candidate)) else []


class _Checker:
    """Checks the thresholds of all images and of each slice."""

    def __init__(self, gate: GateSettings, answers: Answers) -> None:
        self._gate, self._answers = gate, answers
        self.level = 1 - (gate.alpha or 0.05)
        self._repeats = uncertainty.repeats(gate.alpha or 0.05)
        self.skipped: list[str] = []  # sentences on what was not judged

    def checks(self) -> Iterator[Check]:
        """Yield a check for every threshold; those of all images come first."""
        examples = self._answers.candidate.examples
        if self._gate.min_examples > min(1, examples):  # the default is 1, which is worth a line only for 0 images
            yield Check(EXAMPLES, "min", self._gate.min_examples, examples, examples >= self._gate.min_examples)
        for metric, threshold in self._gate.thresholds.items():
            if threshold.above_majority and examples:
                yield majority.check(self._answers.candidate)
            yield from self._check_metric(metric, threshold, "", None, None)
        for dimension, thresholds in self._gate.slices.items():
            yield from self._check_dimension(dimension, thresholds)

    def _check_dimension(self, dimension: str, common: settings.DimensionThresholds) -> Iterator[Check]:
        slices = self._answers.slices[dimension]
        counts = np.bincount(slices.codes, minlength=len(slices.names))
        too_small = []
        minimum = common.min_examples or settings.MIN_EXAMPLES_OF_A_SLICE
        for code, name in sorted(enumerate(slices.names), key=lambda pair: pair[1]):
            own = common.values.get(name)
            thresholds = {**common.thresholds, **(own.thresholds if own else {})}
            if own is None and counts[code] < minimum:
                too_small += [name] if thresholds else []
                continue
            yield from self._check_slice(dimension, name, slices.codes == code, thresholds, own, minimum)
        for name in sorted(set(common.values) - set(slices.names)):
            own = common.values[name]
            yield from self._check_slice(dimension, name, np.zeros(len(slices.codes), bool), {}, own, minimum)
        if too_small:
            names = ", ".join(too_small[:5]) + (f" and {len(too_small) - 5:,} more" if len(too_small) > 5 else "")
            self.skipped.append(f"not judged by {dimension}, because each has fewer than {minimum} images: {names}")

    def _check_slice(
        self,
        dimension: str,
        name: str,
        inside: np.ndarray,
        thresholds: Mapping[str, Threshold],
        own: SliceThresholds | None,
        minimum: int,
    ) -> Iterator[Check]:
        """Check one slice. A slice that the settings name (`own`) must have enough images."""
        part, count = f"{dimension} {name}", int(inside.sum())
        if own is not None:
            minimum = own.min_examples or minimum
            why = self._explain_missing_folder(dimension, name)
            yield Check(EXAMPLES, "min", minimum, count, count >= minimum, part, because=why)
            if count < minimum:
                return
        for metric, threshold in thresholds.items():
            of_class = name if dimension == settings.CLASS and metric in (*settings.PER_CLASS, metrics.AUC) else None
            yield from self._check_metric(metric, threshold, part, inside, of_class)

    def _explain_missing_folder(self, dimension: str, name: str) -> str:
        """Return the sentence for a folder without a judged image: its name may be wrong, or all its images train."""
        if dimension != settings.FOLDER or name in (names := self._answers.slices[dimension].names):
            return ""
        return f"no judged image lies in a folder of that name{settings.near_folder(name, names)}"

    def _check_metric(
        self, metric: str, threshold: Threshold, part: str, inside: np.ndarray | None, of_class: str | None
    ) -> Iterator[Check]:
        """Check the bounds of one metric on the images `inside` (bool [N], None for all), or on their class."""
        candidate = self._answers.candidate
        subset = _subset(metric, [candidate], inside, of_class)
        if threshold.lowest is not None or threshold.max is not None:
            value, interval = metrics.value(metric, candidate, subset), self.interval(metric, candidate, subset)
            examples = candidate.examples if inside is None else int(inside.sum())
            why = _UNDEFINED if np.isnan(value) else ""
            for kind, bound in (("min", threshold.lowest), ("max", threshold.max)):
                if bound is not None:
                    passed = value >= bound if kind == "min" else value <= bound
                    yield Check(metric, kind, bound, value, passed, part, interval, examples=examples, because=why)
        if threshold.min_change is not None and self._answers.shared:
            yield from self._check_change(metric, threshold.min_change, part, inside, of_class)

    def _check_change(
        self, metric: str, bound: float, part: str, inside: np.ndarray | None, of_class: str | None
    ) -> Iterator[Check]:
        assert self._answers.shared is not None
        ours, theirs = self._answers.shared
        inside = None if inside is None else inside[self._answers.rows]
        if (inside is not None and not inside.any()) or not ours.examples:
            if part:
                why = "the served model knows none of its images' classes"
                self.skipped.append(f"the change of {metric} of {part} was not judged: {why}")
            return
        subset = _subset(metric, [ours, theirs], inside, of_class)
        change = self.change(metric, ours, theirs, subset)
        passed, because = decide(self._gate, bound, change)
        yield Check(
            metric,
            "min_change",
            bound,
            change.value,
            passed,
            part,
            change.interval,
            baseline=metrics.value(metric, theirs, subset),
            examples=ours.examples if inside is None else int(inside.sum()),
            p_value=change.p_value if self._gate.alpha else None,
            because=because,
        )

    def interval(self, metric: str, answers: Scored, subset: Subset) -> Interval:
        """Return Wilson's interval for a share of images, DeLong's for the AUC, a bootstrapped one for the others."""
        hits = metrics.hits(metric, answers, subset)
        if hits is not None:
            return uncertainty.wilson(int(hits.sum()), len(hits), self.level)
        if metric == metrics.AUC:
            area, errors = metrics.auc(answers, subset)
            return uncertainty.normal_interval(area, float(np.sqrt((errors**2).sum())), self.level)
        drawn = uncertainty.bootstrap(
            metrics.terms(metric, answers, subset), lambda sums: metrics.from_sums(metric, sums), self._repeats
        )
        return uncertainty.percentile_interval(drawn, self.level)

    def change(self, metric: str, ours: Scored, theirs: Scored, subset: Subset) -> Change:
        """Return by how much `ours` is better than `theirs` on the same images."""
        sign = -1 if metric in metrics.LOWER_IS_BETTER else 1
        difference = metrics.value(metric, ours, subset) - metrics.value(metric, theirs, subset)
        value = sign * difference + 0.0  # never -0.0
        if metric == metrics.AUC:
            errors = metrics.auc(ours, subset)[1] - metrics.auc(theirs, subset)[1]
            error = float(np.sqrt((errors**2).sum()))
            interval = uncertainty.normal_interval(value, error, self.level, low=-1.0)
            return Change(value, interval, uncertainty.normal_p_value(value, error))
        both = [metrics.terms(metric, each, subset) for each in (ours, theirs)]
        half = both[0].shape[1]

        def changes(sums: np.ndarray) -> np.ndarray:
            return sign * (metrics.from_sums(metric, sums[:, :half]) - metrics.from_sums(metric, sums[:, half:])) + 0.0

        drawn = uncertainty.bootstrap(scipy.sparse.hstack(both, format="csr"), changes, self._repeats)
        interval = uncertainty.percentile_interval(drawn, self.level)
        pair = [metrics.hits(metric, each, subset) for each in (ours, theirs)]
        if metric != "precision" and pair[0] is not None and pair[1] is not None:
            return Change(value, interval, uncertainty.mcnemar(pair[0], pair[1]))
        return Change(value, interval, uncertainty.bootstrap_p_value(drawn))


def decide(gate: GateSettings, bound: float, change: Change) -> tuple[bool, str]:
    """Return whether a change passes, and why where that needs words; see this module's docstring."""
    over, under = change.value > bound + ROUNDING, change.value < bound - ROUNDING
    if np.isnan(change.value):
        return False, _UNDEFINED
    if gate.alpha is None:
        return (over, "") if over or under else _tie(gate, "a tie")
    significant = change.p_value < gate.alpha
    test = f"the change is {'' if significant else 'not '}significant, p = {change.p_value:.2g}"
    if bound > 0:
        if under or not significant:
            return False, test
        return (True, test) if over else _tie(gate, test)
    if over and (significant or bound < 0):
        return True, test
    if under and significant:
        return False, test
    return _tie(gate, test)


def _tie(gate: GateSettings, what: str) -> tuple[bool, str]:
    blessed = gate.tie == "bless"
    return blessed, what if blessed else f"{what}, and gate.tie is refuse"


def _subset(metric: str, models: Sequence[Scored], inside: np.ndarray | None, of_class: str | None) -> Subset:
    if of_class is None:
        return metrics.ALL if inside is None else Subset(np.flatnonzero(inside))
    which = models[0].classes.index(of_class)
    if metric == metrics.AUC:
        return Subset(None, which)
    concerned = [(each.label == which) | (each.predicted == which) for each in models]
    return Subset(np.flatnonzero(np.logical_or.reduce(concerned)), which)


def _by_class(answers: Scored, level: float) -> Iterator[ClassFigures]:
    classes = len(answers.classes)
    sums = metrics.macro_terms(answers.label, answers.predicted, classes).sum(axis=0)
    for name, counts in zip(answers.classes, np.asarray(sums).reshape(3, classes).T, strict=True):
        right, _, actual = map(int, counts)
        recall, precision, f1 = (float(metrics.from_sums(metric, counts[None])[0]) for metric in settings.PER_CLASS)
        yield ClassFigures(name, actual, precision, recall, f1, uncertainty.wilson(right, actual, level))


def _confusions(answers: Scored) -> list[tuple[str, str, int]]:
    wrong = ~answers.right & (answers.label >= 0)
    mistakes = np.stack([answers.label[wrong], answers.predicted[wrong]], axis=1)
    pairs, counts = np.unique(mistakes, axis=0, return_counts=True)
    classes, most = answers.classes, np.argsort(-counts, kind="stable")[:_CONFUSIONS]
    return [(classes[pairs[i, 0]], classes[pairs[i, 1]], int(counts[i])) for i in most]
