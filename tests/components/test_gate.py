"""The gate: thresholds to TFMA's config and back, and the verdict."""

import pytest

from components import gate
from components.evaluator import eval_config, thresholds_of

_THRESHOLDS = {
    "accuracy": gate.Threshold(min=0.5, min_change=-0.01),
    "cross_entropy": gate.Threshold(max=2.0, min_change=0.0),
}


def test_thresholds_survive_tfmas_config() -> None:
    assert thresholds_of(eval_config(_THRESHOLDS)) == _THRESHOLDS


def test_every_metric_of_the_gate_exists_in_tfma() -> None:
    from tensorflow_model_analysis.metrics import metric_specs

    config = eval_config({})
    computations = metric_specs.to_computations(list(config.metrics_specs), eval_config=config)
    assert {key.name for computation in computations for key in computation.keys} >= set(gate.METRICS)


@pytest.mark.parametrize(
    ("candidate", "baseline", "failed"),
    [
        ({"accuracy": 0.5, "cross_entropy": 1.0}, {}, []),
        ({"accuracy": 0.49, "cross_entropy": 1.0}, {}, [("accuracy", "min")]),
        ({"accuracy": 0.8, "cross_entropy": 2.5}, {}, [("cross_entropy", "max")]),
        ({"accuracy": 0.8, "cross_entropy": 1.0}, {"accuracy": 0.8, "cross_entropy": 1.0}, []),
        (
            {"accuracy": 0.8, "cross_entropy": 1.0},
            {"accuracy": 0.82, "cross_entropy": 1.0},
            [("accuracy", "min_change")],
        ),
        (
            {"accuracy": 0.8, "cross_entropy": 1.1},
            {"accuracy": 0.8, "cross_entropy": 1.0},
            [("cross_entropy", "min_change")],
        ),
        ({"accuracy": float("nan"), "cross_entropy": 1.0}, {}, [("accuracy", "min")]),
    ],
)
def test_each_threshold_is_held_against_its_metric_in_the_right_direction(
    candidate: dict[str, float], baseline: dict[str, float], failed: list[tuple[str, str]]
) -> None:
    checks = gate.check(_THRESHOLDS, candidate, baseline)
    assert [(check.metric, check.kind) for check in checks if not check.passed] == failed


def test_the_verdict_survives_its_file() -> None:
    verdict = gate.Verdict(False, 12, {"accuracy": 0.4}, {}, [gate.Check("accuracy", "min", 0.5, 0.4, False)], "first")
    assert gate.Verdict.from_json(verdict.to_json()) == verdict
