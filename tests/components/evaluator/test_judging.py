"""What is blessed and what is not: directions, ties, significance, slices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from graftline.components.evaluator import judging, metrics, scored
from graftline.components.evaluator.judging import Change
from graftline.components.evaluator.scored import Answers, Scored
from graftline.components.evaluator.settings import GateSettings, always_one, check_classes
from graftline.components.evaluator.verdict import failures, sentence, sentences
from graftline.errors import UserError
from tests.components.evaluator.drawn_answers import CLASSES, answers, asked, hits, model

# --- all images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "right", "failed"),
    [
        ({"accuracy": {"min": 0.5}}, 15, []),
        ({"accuracy": {"min": 0.5}}, 14, ["accuracy"]),
        ({"cross_entropy": {"max": 0.3}}, 30, []),
        ({"cross_entropy": {"max": 0.2}}, 30, ["cross_entropy"]),
        ({"expected_calibration_error": {"max": 0.1}}, 24, []),
        ({"expected_calibration_error": {"max": 0.1}}, 30, ["expected_calibration_error"]),
        ({"macro_f1": {"min": 0.9}, "auc": {"min": 0.9}}, 30, []),
        ({"macro_f1": {"min": 0.9}, "auc": {"min": 0.9}}, 10, ["macro_f1", "auc"]),
        ({"accuracy": {"max": 0.9}}, 30, ["accuracy"]),
        ({"min_examples": 30}, 30, []),
        ({"min_examples": 31}, 30, ["examples"]),
    ],
)
def test_a_value_is_held_against_its_bounds(keys: dict, right: int, failed: list[str]) -> None:
    verdict = judging.judge(asked(**keys), answers(model(hits(right, 30))))
    assert sorted(failures(verdict.checks)) == sorted(failed)
    assert verdict.blessed is not bool(failed)


def test_no_images_are_never_blessed() -> None:
    verdict = judging.judge(asked(), answers(model([])))
    assert not verdict.blessed
    assert sentence(verdict.checks[0]) == "0 images; at least 1 is required (min_examples): failed, 1 too few"


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "auc", "cross_entropy", "expected_calibration_error"])
@pytest.mark.parametrize("significance", ["off", 0.05])
def test_a_better_model_passes_and_a_worse_one_fails_whichever_way_is_better(metric: str, significance) -> None:
    # The surer one is right 80 times of 100, and so better calibrated; the other is right 40 times.
    good, bad = model(hits(80, 100), 0.8), model(hits(40, 100), 0.9)
    keys = {metric: {"min_change": 0.0}, "significance": significance, "macro_recall": {"min": 0}}
    better, worse = (judging.judge(asked(**keys), answers(*pair)) for pair in ((good, bad), (bad, good)))
    (up,), (down,) = ([c for c in verdict.checks if c.kind == "min_change"] for verdict in (better, worse))
    assert up.value == -down.value > 0
    assert (better.blessed, worse.blessed) == (True, False)
    assert up.interval is not None
    assert up.interval[0] <= up.value <= up.interval[1]


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "auc", "cross_entropy", "expected_calibration_error"])
@pytest.mark.parametrize("significance", ["off", 0.05])
@pytest.mark.parametrize("tie", ["bless", "refuse"])
def test_a_tie_is_decided_as_asked(metric: str, significance, tie: str) -> None:
    same = model(hits(70, 100))
    keys = {metric: {"min_change": 0.0}, "significance": significance, "tie": tie, "macro_recall": {"min": 0}}
    verdict = judging.judge(asked(**keys), answers(same, model(hits(70, 100))))
    assert verdict.blessed is (tie == "bless")


def test_without_a_baseline_the_changes_are_not_judged() -> None:
    verdict = judging.judge(asked(accuracy={"min": 0.5, "min_change": 1.0}), answers(model(hits(80, 100))))
    assert verdict.blessed
    assert (verdict.baseline, verdict.compared_examples) == ({}, 0)


# --- significance -----------------------------------------------------------------------------------------------------


def paired(gained: int, lost: int, of: int = 1000) -> tuple[Scored, Scored]:
    """Candidate and baseline that differ on so many images."""
    ours, theirs = np.ones(of, bool), np.ones(of, bool)
    theirs[:gained] = False
    ours[gained : gained + lost] = False
    return model(ours), model(theirs)


@pytest.mark.parametrize(
    ("gained", "lost", "bound", "tie", "blessed"),
    [
        (3, 6, 0.0, "bless", True),  # a loss of 0.3 points that is none
        (3, 6, 0.0, "refuse", False),
        (6, 3, 0.001, "bless", False),  # a gain of 0.3 points that is none
        (6, 3, 0.0, "bless", True),
        (6, 3, 0.0, "refuse", False),
        (1, 20, 0.0, "bless", False),  # a loss that is one
        (1, 20, -0.05, "bless", True),  # and is allowed
        (20, 1, 0.001, "refuse", True),  # a gain that is one
        (20, 1, 0.05, "bless", False),  # and is not enough
        (20, 1, 0.019, "bless", True),
        (20, 1, 0.019, "refuse", False),
        (2, 5, -0.001, "refuse", False),  # a loss over the bound that is none
        (2, 5, -0.001, "bless", True),
    ],
)
def test_only_a_significant_change_is_a_change(gained: int, lost: int, bound: float, tie: str, blessed: bool) -> None:
    keys = {"accuracy": {"min": 0, "min_change": bound}, "significance": 0.05, "tie": tie}
    verdict = judging.judge(asked(**keys), answers(*paired(gained, lost)))
    (check,) = (check for check in verdict.checks if check.kind == "min_change")
    assert (check.passed, verdict.blessed) == (blessed, blessed)
    assert "significant, p = " in check.because


def test_without_significance_every_change_counts() -> None:
    for gained, lost, bound, blessed in ((3, 4, 0.0, False), (4, 3, 0.0005, True), (3, 4, -0.001, True)):
        settings = asked(accuracy={"min": 0, "min_change": bound})
        assert judging.judge(settings, answers(*paired(gained, lost))).blessed is blessed


_changes = st.builds(
    Change, st.floats(-1, 1), st.just((0.0, 0.0)), st.floats(0, 1, exclude_min=True)
)  # fmt: skip
_gates = st.builds(
    lambda tie, significance: asked(tie=tie, significance=significance),
    st.sampled_from(["bless", "refuse"]),
    st.sampled_from(["off", 0.05, 0.5]),
)


@given(_gates, st.floats(-1, 1), _changes, st.floats(0, 1))
@hypothesis_settings(max_examples=300, deadline=None)
def test_a_better_change_of_the_same_significance_is_never_judged_worse(
    settings: GateSettings, bound: float, change: Change, more: float
) -> None:
    if settings.alpha is not None and change.value < 0 < change.value + more:
        return  # it became a gain: its significance is another matter
    passed, _ = judging.decide(settings, bound, change)
    better, _ = judging.decide(settings, bound, Change(change.value + more, change.interval, change.p_value))
    assert better >= passed or (change.value < 0 and change.value + more == 0)


@given(_gates, st.floats(-1, 1), _changes)
@hypothesis_settings(max_examples=300, deadline=None)
def test_what_a_refused_tie_lets_through_a_blessed_one_does_too(
    settings: GateSettings, bound: float, change: Change
) -> None:
    strict, lenient = (settings.model_copy(update={"tie": tie}) for tie in ("refuse", "bless"))
    assert judging.decide(lenient, bound, change)[0] >= judging.decide(strict, bound, change)[0]


@given(st.floats(-1, 0), _changes)
@hypothesis_settings(max_examples=300, deadline=None)
def test_significance_never_refuses_a_loss_that_is_allowed_without_it(bound: float, change: Change) -> None:
    if judging.decide(asked(), bound, change)[0]:
        assert judging.decide(asked(significance=0.05), bound, change)[0]


# --- slices -----------------------------------------------------------------------------------------------------------


def test_each_class_is_held_against_the_thresholds_of_classes_and_its_own() -> None:
    right = [number % 3 != 2 or number < 45 for number in range(90)]  # owls: half of them
    keys = {"class": {"recall": {"min": 0.4}, "values": {"owl": {"recall": {"min": 0.6}}}}}
    verdict = judging.judge(asked(slices=keys), answers(model(right)))
    assert failures(verdict.checks) == ["recall of class owl"]
    owl = next(check for check in verdict.checks if check.part == "class owl" and check.metric == "recall")
    assert (owl.bound, owl.value, owl.examples) == (0.6, 0.5, 30)
    assert judging.judge(asked(slices={"class": {"recall": {"min": 0.4}}}), answers(model(right))).blessed


def test_precision_counts_the_images_of_other_classes() -> None:
    right = [number % 3 != 2 for number in range(90)]  # every owl is called a cat
    verdict = judging.judge(asked(slices={"class": {"precision": {"min": 0.8}}}), answers(model(right)))
    found = {check.part: check.value for check in verdict.checks if check.metric == "precision"}
    assert found == {"class cat": 0.5, "class dog": 1.0, "class owl": 0.0}


def test_a_slice_of_too_few_images_is_not_judged_and_that_is_said() -> None:
    folders = ["old"] * 5 + ["new"] * 25
    keys = {"folder": {"accuracy": {"min": 0.9}}}
    verdict = judging.judge(asked(slices=keys), answers(model([False] * 5 + [True] * 25), folders=folders))
    assert verdict.blessed
    assert "not judged by folder, because each has fewer than 10 images: old" in verdict.note
    keys["folder"]["min_examples"] = 5
    verdict = judging.judge(asked(slices=keys), answers(model([False] * 5 + [True] * 25), folders=folders))
    assert failures(verdict.checks) == ["accuracy of folder old"]


@pytest.mark.parametrize("name", ["old", "gone"])
def test_a_slice_that_is_asked_for_by_name_must_have_its_images(name: str) -> None:
    keys = {"folder": {"values": {name: {"accuracy": {"min": 0.5}}}}}
    verdict = judging.judge(asked(slices=keys), answers(model([True] * 30), folders=["old"] * 5 + ["new"] * 25))
    assert failures(verdict.checks) == [f"examples of folder {name}"]


def test_a_folder_that_no_image_lies_in_names_the_nearest_and_what_is_needed() -> None:
    keys = {"folder": {"values": {"lost": {"accuracy": {"min": 0.5}}, "now": {"accuracy": {"min": 0.5}}}}}
    folders = ["deep/lost"] * 15 + ["new"] * 15
    verdict = judging.judge(asked(slices=keys), answers(model([True] * 30), folders=folders))
    required = "at least 10 are required (min_examples): failed, 10 too few (no judged image lies in a folder of that"
    assert sentences(verdict.checks)[:2] == [
        f"0 images of folder lost; {required} name; did you mean 'deep/lost'?)",
        f"0 images of folder now; {required} name; did you mean 'new'?)",
    ]


def test_top_k_of_as_many_classes_is_always_one() -> None:
    values = {"owl": {"top_2_accuracy": {"min": 0.5}, "top_10_accuracy": {"min": 0.5}}}
    settings = asked(top_3_accuracy={"min": 0.9}, top_2_accuracy={"min": 0.9}, slices={"class": {"values": values}})
    assert list(always_one(settings, 3)) == ["gate.top_3_accuracy", "gate.slices.class.values.owl.top_10_accuracy"]
    for key in always_one(settings, 3):
        name = key.rpartition(".")[2]
        assert metrics.value(name, model([False] * 30)) == 1


@pytest.mark.parametrize("metric", ["accuracy", "recall", "precision", "f1", "auc", "cross_entropy"])
def test_a_change_of_a_class_is_of_the_same_images_and_of_that_class_alone(metric: str) -> None:
    ours, theirs = np.ones(90, bool), np.ones(90, bool)
    ours[2:60:3] = False  # most owls, called cats
    keys = {"class": {metric: {"min_change": -0.01}}}
    verdict = judging.judge(asked(slices=keys, significance=0.05), answers(model(ours), model(theirs)))
    hurt = {"precision": {"cat"}, "f1": {"cat", "owl"}, "auc": {"cat", "owl"}}.get(metric, {"owl"})
    assert set(failures(verdict.checks)) == {f"{metric} of class {name}" for name in hurt}


@pytest.mark.parametrize("asked_for", [{"min": 0.1}, {"max": 0.9}, {"min_change": -1.0}])
@pytest.mark.parametrize("significance", ["off", 0.05])
def test_what_is_not_defined_is_refused_and_that_is_said(asked_for: dict[str, float], significance) -> None:
    ours = model([True] * 30)
    folders = [f"of {name}" for name in CLASSES] * 10  # an AUC needs images of two classes
    keys = {"folder": {"auc": asked_for}}
    verdict = judging.judge(asked(slices=keys, significance=significance), answers(ours, ours, folders))
    assert failures(verdict.checks) == [f"auc of folder of {name}" for name in sorted(CLASSES)]
    texts = sentences(verdict.checks)[:3]
    assert all(text.endswith(": failed (it is not defined on these images)") for text in texts)
    change = "auc of folder of cat is not comparable with the served model's; it may be at most 1.0000 worse: failed"
    assert "min_change" not in asked_for or texts[0].startswith(change)


def test_a_class_that_is_not_there_names_the_nearest() -> None:
    settings = asked(slices={"class": {"values": {"owls": {"recall": {"min": 0.5}}}}})
    with pytest.raises(UserError, match=r"names the class 'owls', which does not exist; did you mean 'owl'\?"):
        check_classes(settings, CLASSES)
    check_classes(asked(slices={"class": {"values": {"owl": {"recall": {"min": 0.5}}}}}), CLASSES)


def test_a_class_that_the_served_model_does_not_know_has_no_change() -> None:
    ours, theirs = model([True] * 60), model([True] * 40, classes=CLASSES[:2])
    rows = np.flatnonzero(ours.label < 2)
    kept = scored.restricted(ours.probabilities[rows], [0, 1])
    shared = scored.score(CLASSES[:2], [(ours.label[rows], kept)], np.zeros((40, 2), np.float32))
    both = Answers(ours, answers(ours).slices, (shared, theirs), rows)
    verdict = judging.judge(asked(slices={"class": {"recall": {"min_change": 0.0}}}), both)
    assert {check.part for check in verdict.checks if check.kind == "min_change"} == {"class cat", "class dog"}
    assert "the change of recall of class owl was not judged" in verdict.note
    assert (verdict.other_classes, verdict.compared_examples, verdict.examples) == (True, 40, 60)


def test_classes_without_an_image_to_judge_on_are_named_and_judged_by_nothing() -> None:
    keys = {"slices": {"class": {"recall": {"min": 0.5}, "min_examples": 1}}}
    label = np.array([0, 0, 2, 2])  # of CLASSES: cat, dog, owl
    ours = scored.score(CLASSES, [(label, np.eye(3, dtype=np.float32)[label])], np.zeros((4, 3), np.float32))
    verdict = judging.judge(asked(**keys), answers(ours))
    assert verdict.blessed
    assert {check.part for check in verdict.checks if check.part} == {"class cat", "class owl"}
    assert verdict.note.splitlines()[0] == "no image to judge on is of these classes: dog"
    keys["slices"]["class"]["values"] = {"dog": {"recall": {"min": 0.5}}}
    assert "examples of class dog" in failures(judging.judge(asked(**keys), answers(ours)).checks)
