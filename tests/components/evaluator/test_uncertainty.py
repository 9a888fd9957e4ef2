"""The gate's intervals and tests against published figures and against the properties of what they estimate."""

import numpy as np
import pytest
import scipy.sparse
import scipy.stats

from graftline.components.evaluator import uncertainty


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_of_a_share_is_the_published_one(successes: int, trials: int, low: float, high: float) -> None:
    """Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3."""
    assert uncertainty.wilson(successes, trials, 0.95) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (7, 10), (484, 500), (1, 1_000_000)])
def test_the_interval_of_a_share_is_the_formula_s(successes: int, trials: int, level: float) -> None:
    """Its ends are the shares that lie exactly z standard errors from the observed one."""
    z = scipy.stats.norm.ppf((1 + level) / 2)
    for end in uncertainty.wilson(successes, trials, level):
        distance = abs(successes / trials - end)
        assert distance == pytest.approx(z * np.sqrt(end * (1 - end) / trials), abs=1e-12)


def test_without_trials_a_share_may_be_anything() -> None:
    assert uncertainty.wilson(0, 0, 0.95) == (0, 1)


def test_mcnemars_p_value_counts_only_the_images_that_one_model_alone_has_right() -> None:
    ours = np.array([True] * 8 + [False] * 2 + [True] * 90)
    theirs = np.array([False] * 8 + [True] * 2 + [True] * 90)
    expected = 2 * sum(scipy.stats.binom.pmf(k, 10, 0.5) for k in (0, 1, 2))
    assert uncertainty.mcnemar(ours, theirs) == uncertainty.mcnemar(theirs, ours) == pytest.approx(expected)
    assert uncertainty.mcnemar(ours, ours) == 1


def test_bootstrapped_values_spread_as_the_mean_does_and_are_the_same_for_the_same_seed() -> None:
    loss = np.random.default_rng(0).exponential(size=400)
    terms = scipy.sparse.csr_matrix(np.stack([loss, np.ones(400)], axis=1))
    drawn = uncertainty.bootstrap(terms, lambda sums: sums[:, 0] / sums[:, 1], 4000)
    assert drawn.std() == pytest.approx(loss.std() / 20, rel=0.05)
    assert drawn.mean() == pytest.approx(loss.mean(), rel=0.01)
    again = uncertainty.bootstrap(terms, lambda sums: sums[:, 0] / sums[:, 1], 4000)
    np.testing.assert_array_equal(drawn, again)
    other = uncertainty.bootstrap(terms, lambda sums: sums[:, 0] / sums[:, 1], 4000, seed=1)
    assert (drawn != other).any()


def test_many_sums_are_held_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    terms = scipy.sparse.csr_matrix(np.eye(10, 50))
    held = []

    def value(sums: np.ndarray) -> np.ndarray:
        held.append(sums.size)
        return sums[:, 0]

    expected = uncertainty.bootstrap(terms, value, 100)
    monkeypatch.setattr(uncertainty, "_WEIGHTS", 200)
    held.clear()
    assert uncertainty.bootstrap(terms, value, 100).tolist() == expected.tolist()
    assert max(held) <= 200


def test_many_images_are_drawn_in_portions_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    terms = scipy.sparse.csr_matrix(np.stack([np.arange(50.0), np.ones(50)], axis=1))
    whole = uncertainty.bootstrap(terms, lambda sums: sums[:, 0], 100)
    monkeypatch.setattr(uncertainty, "_WEIGHTS", 350)
    np.testing.assert_array_equal(uncertainty.bootstrap(terms, lambda sums: sums[:, 0], 100), whole)
