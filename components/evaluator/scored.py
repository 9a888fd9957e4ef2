"""What a model said of a set of images, and how many it got right: the input of every metric of the gate."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Keras' epsilon: a probability of 0 would make the cross entropy of all images infinite.
_LEAST = 1e-7
_UNKNOWN = np.iinfo(np.int64).max  # the rank of a class that the model does not know


@dataclass(frozen=True)
class Scored:
    """The answers of one model to N images, in one order for all arrays.

    Attributes:
      classes: names of the C classes, in the order of the probabilities.
      label: int64 [N], the right class; -1 where the model does not know it.
      predicted: int64 [N], the class with the highest probability, the first of several.
      rank: int64 [N], how many classes have a higher probability than the right one; where that is not known, more
        than there are.
      loss: float64 [N], -log of the right class's probability (at least 1e-7, as in Keras).
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
        """N."""
        return len(self.label)

    @property
    def right(self) -> np.ndarray:
        """bool [N]: whether the right class was the best one."""
        return self.predicted == self.label


@dataclass(frozen=True)
class Slices:
    """The value of one dimension of each of N images: `names[codes[i]]`."""

    codes: np.ndarray
    names: list[str]


@dataclass(frozen=True)
class Answers:
    """What the gate judges by.

    `shared` is None without a baseline; else candidate and baseline on the images `rows` (int [n]), whose class both
    know, with the probabilities of the classes that both know. Where both know the same classes that is all.
    """

    candidate: Scored
    slices: Mapping[str, Slices]
    shared: tuple[Scored, Scored] | None
    rows: np.ndarray


def score(
    classes: Sequence[str], batches: Iterable[tuple[np.ndarray, np.ndarray]], probabilities: np.ndarray
) -> Scored:
    """Works off answers batch by batch.

    Args:
      classes: names of the C classes.
      batches: right class, int [n] (-1 where the model does not know it), and probabilities, float [n, C], of each.
      probabilities: float32 [N or more, C], where they are put.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    end = 0
    for label, given in batches:
        begin, end = end, end + len(label)
        probabilities[begin:end] = given
        known = label >= 0
        of_label = given[np.arange(len(label)), np.where(known, label, 0)]
        parts.append(
            (
                label.astype(np.int64),
                given.argmax(axis=1),
                np.where(known, (given > of_label[:, None]).sum(axis=1), _UNKNOWN),
                -np.log(np.clip(np.where(known, of_label, 0).astype(np.float64), _LEAST, 1.0)),
                given.max(axis=1).astype(np.float64),
            )
        )
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else [np.zeros(0, np.int64)] * 5
    label, predicted, rank, loss, confidence = columns
    return Scored(tuple(classes), label, predicted, rank, loss, confidence, probabilities[:end])


def restricted(probabilities: np.ndarray, columns: Sequence[int]) -> np.ndarray:
    """Probabilities over some of the classes alone: divided by their sum, as a softmax over their logits gives them.

    Args:
      probabilities: float [n, C].
      columns: the S classes that stay, in the order that they shall have.

    Returns:
      float32 [n, S]; where all of them are 0, each is 1/S.
    """
    kept = probabilities[:, list(columns)].astype(np.float64)
    total = kept.sum(axis=1, keepdims=True)
    even = np.full_like(kept, 1 / max(len(columns), 1))
    return np.divide(kept, total, out=even, where=total > 0).astype(np.float32)
