"""Whether a model is shown to be better than always answering the most frequent class. Imports no TFX.

It is shown when Wilson's 95 % interval of the accuracy lies above the share of that class.
"""

import math
from dataclasses import dataclass

import numpy as np

from graftline.components.evaluator import uncertainty
from graftline.components.evaluator.scored import Scored
from graftline.components.evaluator.settings import MAJORITY, MAJORITY_LEVEL, images_needed
from graftline.components.evaluator.verdict import Check


@dataclass(frozen=True)
class Majority:
    """The most frequent class of the judged images, and its share of them; the first by name of equal ones."""

    name: str
    share: float


def find(labels: np.ndarray, names: list[str] | tuple[str, ...]) -> Majority:
    """Return the majority of `labels`, int [N]: indexes into `names`, or -1 for other classes."""
    if not (labels >= 0).any():
        return Majority("", 0.0)
    counts = np.bincount(labels[labels >= 0], minlength=len(names))
    most = int(counts.argmax())
    return Majority(names[most], float(counts[most]) / len(labels))


def check(scored: Scored) -> Check:
    """Return the check of `gate.accuracy.min=majority`."""
    majority, images, right = find(scored.label, scored.classes), scored.examples, int(scored.right.sum())
    accuracy = right / images if images else math.nan
    interval = uncertainty.wilson(right, images, MAJORITY_LEVEL)
    passed = bool(images) and interval[0] > majority.share
    because = f"always answering '{majority.name}' reaches {majority.share:.4f}"
    if images and not passed:
        because += f"; {advise(accuracy, majority.share, images)}"
    return Check("accuracy", MAJORITY, majority.share, accuracy, passed, "", interval, examples=images, because=because)


def advise(accuracy: float, share: float, images: int) -> str:
    """Return what a user can do about a model that is not shown to be better than the share of one class."""
    key = "or set gate.accuracy.min to a number"
    if share >= 1:
        return f"add images of a second class to judge on, {key}"
    if accuracy <= share:
        return f"the model learned nothing that this answer does not know: see its most frequent mistakes, {key}"
    enough = images_needed(accuracy, share)
    return (
        f"{enough:,} images to judge on are enough for an accuracy of {accuracy:.4f}, these are {images:,}: "
        f"add images, {key}"
    )


def note(scored: Scored) -> str:
    """Return a sentence if the model is not shown to be better than the majority, for a gate that does not ask."""
    outcome = check(scored)
    if outcome.passed or not scored.examples:
        return ""
    name = find(scored.label, scored.classes).name
    return (
        f"the accuracy is not shown to be more than {outcome.bound:.4f}, which always answering '{name}' reaches: "
        f"gate.accuracy.min={MAJORITY}, the default, refuses such a model"
    )
