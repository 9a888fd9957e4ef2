"""Malformed requests cost a live server little, and other clients nothing. `oracle.judge` has the limits."""

import pytest

from tests.serving.oracle.judge import Oracle, make_case
from tests.serving.oracle.known_cases import known_cases


def _judge(oracle: Oracle, seed: int, count: int, most: int) -> list[str]:
    failed = []
    for number in range(count):
        case = make_case(seed, number, most)
        if faults := oracle.judge(case):
            failed.append(f"case {number} of seed {seed}: {case.name}: {faults}")
    return failed


def test_a_hundred_malformed_requests_cost_little(workspace):
    with Oracle(str(workspace), longest_wait=15.0) as oracle:
        failed = [f"{case.name}: {faults}" for case in known_cases() if (faults := oracle.judge(case))]
        failed += _judge(oracle, seed=1, count=90, most=1_000_000)
        assert not failed, "\n".join(failed)
        # Answers of several kinds show that the requests have reached the model.
        assert {"REST 200", "REST 400", "gRPC OK", "gRPC INVALID_ARGUMENT"} <= set(oracle.answers), oracle.answers


@pytest.mark.slow
def test_three_thousand_malformed_requests_cost_little(workspace):
    with Oracle(str(workspace)) as oracle:
        failed = _judge(oracle, seed=2, count=3_000, most=8 << 20)
    assert not failed, "\n".join(failed)
