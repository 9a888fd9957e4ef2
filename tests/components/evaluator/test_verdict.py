"""How the verdict reads, and that its file keeps it."""

import re

import numpy as np
import pytest

from graftline.components.evaluator import judging, scored
from graftline.components.evaluator.verdict import SERVING, Check, Verdict, failures, sentence, sentences
from tests.components.evaluator.drawn_answers import answers, asked, hits, model


def test_what_the_serving_validation_refused_is_not_blessed() -> None:
    infra = Check(SERVING, "passed", 1, 0, False, because="the serving validation refused the model: too slow")
    verdict = judging.judge(asked(), answers(model([True] * 30)), others=[infra])
    assert not verdict.blessed
    assert failures(verdict.checks) == ["serving validation"]
    assert sentences(verdict.checks)[0] == "the serving validation refused the model: too slow"


def test_the_verdict_survives_its_file_also_where_a_figure_is_no_number() -> None:
    verdict = judging.judge(asked(), answers(model([True] * 30), model([False] * 30)))
    assert Verdict.from_json(verdict.to_json()) == verdict
    one_class = model([True] * 5, classes=("only", "other"))
    alone = scored.score(("only",), [(np.zeros(5, int), np.ones((5, 1), np.float32))], np.zeros((5, 1), np.float32))
    assert one_class.examples == alone.examples
    text = judging.judge(asked(), answers(alone)).to_json()
    assert "NaN" not in text
    assert np.isnan(Verdict.from_json(text).candidate["auc"])


def test_the_verdict_reads_as_a_page() -> None:
    right = [number % 3 != 2 or number < 45 for number in range(90)]
    keys = {"accuracy": {"min": 0.9, "min_change": 0.0}, "slices": {"class": {"recall": {"min": 0.6}}}}
    text = judging.judge(asked(**keys), answers(model(right), model([True] * 90)), ["a note"]).to_text()
    lines = text.splitlines()
    assert lines[:3] == ["NOT BLESSED: accuracy, recall of class owl", "judged on 90 images", "a note"]
    assert (
        "  accuracy is 0.8333 (interval 0.7431 to 0.8963); at least 0.9000 is required: failed, 0.0667 too low" in lines
    )
    recall = "recall of class owl is 0.5000 (interval 0.3315 to 0.6685)"
    assert f"  {recall}; at least 0.6000 is required: failed, 0.1000 too low" in lines
    assert any(line.split() == ["accuracy", "0.8333", "0.7431", "to", "0.8963", "1.0000"] for line in lines)
    assert any(line.split()[:5] == ["owl", "30", "1.0000", "0.5000", "0.6667"] for line in lines)
    assert "      15 of owl classified as cat" in lines


@pytest.mark.parametrize("metric", ["accuracy", "cross_entropy"])
@pytest.mark.parametrize(
    ("bound", "required"),
    [
        (0.0, "it must not be worse"),
        (0.01, "it must be at least 0.0100 better"),
        (-0.01, "it may be at most 0.0100 worse"),
    ],
)
def test_a_change_is_told_as_better_or_worse_whichever_way_the_metric_goes(
    metric: str, bound: float, required: str
) -> None:
    good, bad = model(hits(80, 100)), model(hits(40, 100))
    texts = {}
    for pair in ((good, bad), (bad, good), (good, good)):
        verdict = judging.judge(asked(**{metric: {"min": 0.0, "min_change": bound}}), answers(*pair))
        (check,) = (check for check in verdict.checks if check.kind == "min_change")
        texts[check.value > 0, check.value < 0] = sentence(check)
        assert f"  {sentence(check)}" in verdict.to_text().splitlines()
    end = r"\d\.\d{4} (better|worse)"
    than = rf"than the served model's \(interval {end} to {end}\); {required}:"
    assert re.fullmatch(rf"{metric} is \S+ better {than} passed", texts[True, False])
    missing = f", .* too {'little' if bound > 0 else 'much'}" if bound else ""
    assert re.fullmatch(rf"{metric} is \S+ worse {than} failed{missing}", texts[False, True])
    outcome = "failed, 0.0100 too little" if bound > 0 else "passed"
    assert texts[False, False].startswith(f"{metric} is equal to the served model's; {required}: {outcome}")


def test_slices_that_passed_are_told_together_in_a_summary_and_apart_on_the_page() -> None:
    verdict = judging.judge(asked(slices={"class": {"recall": {"min": 0.6}}}), answers(model([True] * 90)))
    assert len(sentences(verdict.checks)) == 2
    assert sentences(verdict.checks)[1].endswith("passed; it is the closest of 3 slices by class, and all passed")
    assert len(sentences(verdict.checks, every=True)) == 4


def test_many_failures_are_named_in_part() -> None:
    checks = [Check("recall", "min", 0.5, 0.4, False, f"class {number}") for number in range(9)]
    assert failures(checks) == [*(f"recall of class {number}" for number in range(4)), "5 more"]
