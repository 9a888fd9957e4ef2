"""A model's answers to a set of images: the input of every metric of the gate."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Keras' epsilon: a probability of 0 would make the cross entropy of all images infinite.
_MIN_PROBABILITY = 1e-7
_UNKNOWN_RANK = np.iinfo(np.int64).max  # of a class that the model does not know


@dataclass(frozen=True)
class Scored:
    """The answers of one model to N images, in one order for all arrays.

    Attributes:
      classes: names of the C classes, in the order of the probabilities.
      label: int64 [N], the right class; -1 where the model does not know it.
      predicted: int64 [N], the class with the highest probability; the first of equal ones.
      rank: int64 [N], how many classes have a higher probability than the right one; more than there are classes where
        the model does not know the right one.
      loss: float64 [N], -log of the right class's probability, which counts as at least 1e-7, as in Keras.
      confidence: float64 [N], the highest probability.
      probabilities: float32 [N, C]; may be a memory map of a file.
    """

    classes: tuple[str, ...]
    label: np.ndarray
    predicted: np.ndarray
    rank: np.ndarray
    loss: np.ndarray
    confidence: np.ndarray
    probabilities: np.ndarray

    @property
    def examples(self) -> int:
        """Return N."""
        return len(self.label)

    @property
    def right(self) -> np.ndarray:
        """Return bool [N]: whether the predicted class is the right one."""
        return self.predicted == self.label


@dataclass(frozen=True)
class Slices:
    """One dimension's value for each of N images: `names[codes[i]]`."""

    codes: np.ndarray
    names: list[str]


@dataclass(frozen=True)
class Answers:
    """What the gate judges by.

    Attributes:
      candidate: the candidate's answers to all images.
      slices: the images' values, by dimension.
      shared: candidate's and baseline's answers to `rows`, restricted to the classes that both know; None without a
        baseline.
      rows: int [n], the images whose class both models know: all, where both know the same classes.
    """

    candidate: Scored
    slices: Mapping[str, Slices]
    shared: tuple[Scored, Scored] | None
    rows: np.ndarray


def score(
    classes: Sequence[str], batches: Iterable[tuple[np.ndarray, np.ndarray]], probabilities: np.ndarray
) -> Scored:
    """Score a model's probabilities batch by batch.

    A batch is the right classes, int [n] (-1 where the model does not know the class), and the probabilities, float
    [n, C]. All of them are also written to `probabilities`, float32 [N or more, C].
    """
    parts: list[tuple[np.ndarray, ...]] = []
    end = 0
    for label, batch in batches:
        begin, end = end, end + len(label)
        probabilities[begin:end] = batch
        known = label >= 0
        of_label = batch[np.arange(len(label)), np.where(known, label, 0)]
        parts.append(
            (
                label.astype(np.int64),
                batch.argmax(axis=1),
                np.where(known, (batch > of_label[:, None]).sum(axis=1), _UNKNOWN_RANK),
                -np.log(np.clip(np.where(known, of_label, 0).astype(np.float64), _MIN_PROBABILITY, 1.0)),
                batch.max(axis=1).astype(np.float64),
            )
        )
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else [np.zeros(0, np.int64)] * 5
    label, predicted, rank, loss, confidence = columns
    return Scored(tuple(classes), label, predicted, rank, loss, confidence, probabilities[:end])


def restricted(probabilities: np.ndarray, columns: Sequence[int]) -> np.ndarray:
    """Return the probabilities of some classes, divided by their sum: what a softmax over their logits gives.

    From float [n, C] these are float32 [n, S], in the order of the S `columns`; where all of them are 0, each is 1/S.
    """
    chosen = probabilities[:, list(columns)].astype(np.float64)
    total = chosen.sum(axis=1, keepdims=True)
    even = np.full_like(chosen, 1 / max(len(columns), 1))
    return np.divide(chosen, total, out=even, where=total > 0).astype(np.float32)
