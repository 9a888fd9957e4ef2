"""Load and hot swaps leave a server as it was. `benchmarks.soak` does it with 200,000 requests."""

import pytest

from tests.serving.oracle.soak import growth, soak


def test_growth_is_that_of_a_line_from_the_second_quarter_on():
    assert growth([0, 50, 10, 12, 14, 16, 18, 20]) < growth([0, 0, 10, 20, 30, 40, 50, 60]) == pytest.approx(50, abs=1)
    assert growth([900, 7, 7, 7]) == pytest.approx(0)


@pytest.mark.slow
def test_ten_thousand_requests_and_three_swaps_leave_memory_threads_and_descriptors(tmp_path):
    first, *rest = soak(tmp_path, 10_000, 3)
    for sample in rest:
        assert not sample.failed, sample.fault
        assert sample.descriptors == first.descriptors
        assert sample.threads <= first.threads + 3  # gRPC's pool and the server's grow to what the clients need at once
    assert rest[-1].memory - first.memory < 30 << 20  # one of these graphs left in each swap would be tens of MB
