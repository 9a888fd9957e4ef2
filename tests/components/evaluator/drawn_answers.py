"""Drawn answers of two models, for the tests of the judgement and of the verdict."""

from collections.abc import Sequence

import numpy as np

from graftline.components.evaluator import scored
from graftline.components.evaluator.scored import Answers, Scored, Slices
from graftline.components.evaluator.settings import GateSettings

CLASSES = ("cat", "dog", "owl")


def asked(**keys) -> GateSettings:
    """Return settings as a config file gives them; the default passes every model."""
    return GateSettings.model_validate({"accuracy": {"min": 0}, **keys})


def model(right: Sequence[bool], sure: float = 0.8, classes: tuple[str, ...] = CLASSES) -> Scored:
    """Return the answers to one image of each class in turn; a wrong answer is the next class."""
    hits = np.array(right, bool)
    label = np.arange(len(hits)) % len(classes)
    said = np.where(hits, label, (label + 1) % len(classes))
    rest = (1 - sure) / (len(classes) - 1)
    probabilities = np.where(np.eye(len(classes), dtype=bool)[said], sure, rest).astype(np.float32)
    return scored.score(classes, [(label, probabilities)], np.zeros(probabilities.shape, np.float32))


def answers(ours: Scored, theirs: Scored | None = None, folders: Sequence[str] | None = None) -> Answers:
    """Return the answers of both models to all images."""
    names = list(folders or ["."] * ours.examples)
    of_folder = Slices(np.array([sorted(set(names)).index(name) for name in names], int), sorted(set(names)))
    normal = Slices(np.zeros(ours.examples, int), ["normal"])
    slices = {
        "class": Slices(ours.label, list(ours.classes)),
        "folder": of_folder,
        "size": Slices(np.zeros(ours.examples, int), ["small"]),
        "brightness": normal,
    }
    return Answers(ours, slices, None if theirs is None else (ours, theirs), np.arange(ours.examples))


def hits(right: int, of: int) -> list[bool]:
    return [True] * right + [False] * (of - right)
