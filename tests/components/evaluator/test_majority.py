"""The default of the gate: a model must be shown to be better than always answering the most frequent class."""

import numpy as np
import pytest

from graftline.components.evaluator import judging, majority, scored, settings, uncertainty
from graftline.components.evaluator.scored import Scored
from graftline.components.evaluator.verdict import Check, Verdict, failures, sentence
from graftline.pipeline.config_file import load
from tests.components.evaluator.drawn_answers import answers, asked, hits, model


def of_counts(counts: list[int], said: list[int] | int) -> Scored:
    """Return the answers of a model that says the classes `said`, or always one, to so many images of each class."""
    label = np.repeat(np.arange(len(counts)), counts)
    predicted = np.full(len(label), said) if isinstance(said, int) else np.array(said)
    probabilities = np.eye(len(counts), dtype=np.float32)[predicted]
    names = tuple("abcdefgh"[: len(counts)])
    return scored.score(names, [(label, probabilities)], np.zeros(probabilities.shape, np.float32))


def judged(ours: Scored, *overrides: str) -> Verdict:
    return judging.judge(load(None, list(overrides)).gate, answers(ours))


def of_majority(verdict: Verdict) -> Check:
    (check,) = (check for check in verdict.checks if check.kind == settings.MAJORITY)
    return check


@pytest.mark.parametrize("counts", [[20, 20], [90, 10], [300, 300, 300], [1, 1], [1_800, 200]])
def test_a_model_that_always_answers_one_class_is_refused(counts: list[int]) -> None:
    verdict = judged(of_counts(counts, 0))
    assert failures(verdict.checks) == ["accuracy"]
    assert "the model learned nothing that this answer does not know" in sentence(of_majority(verdict))


@pytest.mark.parametrize("counts", [[20, 20], [200, 200], [50, 50, 50]])
def test_a_model_that_guesses_passes_about_once_in_forty_trainings(counts: list[int]) -> None:
    rng = np.random.default_rng(0)
    guesses = [rng.integers(0, len(counts), sum(counts)).tolist() for _ in range(400)]
    passed = sum(majority.check(of_counts(counts, guess)).passed for guess in guesses)
    assert passed <= 20  # 10 are expected


@pytest.mark.parametrize(
    ("right", "of"),
    [(28, 30), (29, 30), (18, 30), (9, 10), (6, 6)],
)
def test_a_good_model_on_few_images_passes(right: int, of: int) -> None:
    assert judged(model(hits(right, of))).blessed


@pytest.mark.parametrize(("counts", "wrong"), [([27, 27], 5), ([2, 2], 0), ([36, 4], 0), ([900, 100], 70)])
def test_a_good_model_of_two_classes_passes(counts: list[int], wrong: int) -> None:
    label = np.repeat([0, 1], counts)
    said = np.concatenate([1 - label[:wrong], label[wrong:]]).tolist()
    assert judged(of_counts(counts, said)).blessed


def test_the_message_says_how_many_images_are_enough_and_which_key_to_change() -> None:
    verdict = judged(model(hits(15, 30)))
    assert not verdict.blessed
    assert sentence(of_majority(verdict)) == (
        "accuracy is 0.5000 (interval 0.3315 to 0.6685); the interval must lie above 0.3333: failed (always answering "
        "'cat' reaches 0.3333; 31 images to judge on are enough for an accuracy of 0.5000, these are 30: add images, "
        "or set gate.accuracy.min to a number)"
    )


@pytest.mark.parametrize(("accuracy", "share"), [(0.5, 1 / 3), (1.0, 0.5), (1.0, 0.9), (0.95, 0.9), (0.6, 0.5)])
def test_the_number_of_images_is_the_smallest_that_is_enough(accuracy: float, share: float) -> None:
    enough = settings.images_needed(accuracy, share)

    def lower_end(images: int) -> float:  # also of a number of right answers that is not whole
        below = uncertainty.wilson(int(accuracy * images), images, 0.95)[0]
        above = uncertainty.wilson(min(images, int(accuracy * images) + 1), images, 0.95)[0]
        return below + (above - below) * (accuracy * images - int(accuracy * images))

    assert lower_end(enough) > share - 1e-3
    assert lower_end(enough - 1) <= share + 1e-3


def test_a_poor_model_of_many_classes_is_refused_though_it_is_better_than_one_class() -> None:
    label = np.repeat(np.arange(8), 100)
    said = np.where(np.arange(800) % 100 < 45, label, (label + 1) % 8).tolist()  # 45 % are right
    verdict = judged(of_counts([100] * 8, said))
    assert of_majority(verdict).passed
    assert not verdict.blessed
    assert "accuracy is 0.4500 (interval 0.4158 to 0.4846); at least 0.5000 is required: failed" in sentence(
        next(check for check in verdict.checks if check.kind == "min")
    )


def test_images_of_one_class_alone_bless_no_model() -> None:
    verdict = judged(of_counts([30, 0], 0))
    assert not verdict.blessed
    assert "add images of a second class to judge on" in sentence(of_majority(verdict))


def test_classes_that_the_model_does_not_know_are_wrong_and_not_the_majority() -> None:
    labels = np.array([-1] * 6 + [0] * 3 + [1])
    assert majority.find(labels, ("a", "b")) == majority.Majority("a", 0.3)


def test_a_number_of_the_user_replaces_the_default_and_a_note_says_what_it_lets_through() -> None:
    guessing = of_counts([20, 20], 0)
    verdict = judged(guessing, "gate.accuracy.min=0.05")
    assert verdict.blessed
    assert verdict.note == (
        "the accuracy is not shown to be more than 0.5000, which always answering 'a' reaches: "
        "gate.accuracy.min=majority, the default, refuses such a model"
    )
    assert judging.judge(asked(), answers(model(hits(25, 30)))).note == ""


def test_significance_does_not_weaken_the_default() -> None:
    assert not judged(model(hits(15, 30)), "gate.significance=0.5").blessed
