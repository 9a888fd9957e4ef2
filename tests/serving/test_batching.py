"""The batcher: which requests run together, when, and how bad ones fail. Then the same with a real model."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from graftline.serving.server.errors import Code, ServingError, invalid
from graftline.serving.server.metrics import Metrics
from graftline.serving.server.model.batching import Batcher, Function
from graftline.serving.server.options import BatchingParameters
from tests.images import image_of


class Doubler:
    """A function that doubles its rows and records the sizes of its runs. Its first run can be held."""

    def __init__(self, held: bool = False) -> None:
        self.sizes: list[int] = []
        self.started = threading.Event()
        self.go_on = threading.Event()
        self.function = Function(self._run, mergeable=True)
        if not held:
            self.go_on.set()

    def _run(self, inputs, seconds):
        self.sizes.append(len(inputs["x"]))
        self.started.set()
        assert self.go_on.wait(20)
        if np.any(inputs["x"] < 0):
            raise invalid("negative")
        return {"y": inputs["x"] * 2}


class Crowd:
    """Requests in threads of their own."""

    def __init__(self, batcher: Batcher) -> None:
        self.batcher = batcher
        self._pool = ThreadPoolExecutor(64)

    def ask(self, function: Function, *values: float, dtype=np.float32, seconds: float | None = None) -> Future:
        deadline = None if seconds is None else time.monotonic() + seconds
        return self._pool.submit(self.batcher.run, function, {"x": np.array(values, dtype)}, deadline)

    def wait_for(self, requests: int) -> None:
        """Wait until so many requests are in the queue."""
        with self.batcher._arrived:
            queues = self.batcher._queues
            arrived = lambda: sum(len(queue) for queue in queues.values()) == requests  # noqa: E731
            assert self.batcher._arrived.wait_for(arrived, 20)

    def close(self) -> None:
        self._pool.shutdown()


@pytest.fixture
def crowd():
    made: list[Crowd] = []

    def make(**parameters) -> Crowd:
        made.append(
            Crowd(
                Batcher(BatchingParameters(**{"num_batch_threads": 1, "max_batch_size": 32, **parameters}), Metrics())
            )
        )
        return made[-1]

    yield make
    for each in made:
        each.close()


def busy(crowd: Crowd) -> tuple[Doubler, Future]:
    """A function whose first run is held."""
    holding = Doubler(held=True)
    first = crowd.ask(holding.function, 100)
    assert holding.started.wait(20)
    return holding, first


def values(future: Future) -> list[float]:
    return future.result(20)["y"].tolist()


def code(future: Future) -> Code:
    error = future.exception(20)
    assert isinstance(error, ServingError)
    return error.code


def test_an_idle_batcher_runs_a_request_in_its_own_thread(crowd):
    seen: list[int] = []

    def run(inputs, seconds):
        seen.append(threading.get_ident())
        return {"y": inputs["x"]}

    crowd().batcher.run(Function(run, True), {"x": np.ones(1)}, None)
    assert seen == [threading.get_ident()]


def test_requests_that_come_during_a_run_share_the_next_run_and_get_their_own_rows(crowd):
    together = crowd()
    holding, first = busy(together)
    others = [together.ask(holding.function, n, n + 0.5) for n in range(5)]
    together.wait_for(5)
    holding.go_on.set()
    assert values(first) == [200]
    assert [values(other) for other in others] == [[2 * n, 2 * n + 1] for n in range(5)]
    assert holding.sizes == [1, 10]


def test_a_batch_is_never_larger_than_max_batch_size(crowd):
    together = crowd(max_batch_size=4)
    holding, _ = busy(together)
    others = [together.ask(holding.function, n, n) for n in range(5)]
    together.wait_for(5)
    holding.go_on.set()
    assert [values(other) for other in others] == [[2 * n, 2 * n] for n in range(5)]
    assert holding.sizes == [1, 4, 4, 2]


@pytest.mark.parametrize("other", [lambda: np.ones(1, np.float64), lambda: np.ones((1, 3), np.float32)])
def test_rows_of_different_types_or_shapes_run_apart(crowd, other: Callable[[], np.ndarray]):
    together = crowd()
    holding, _ = busy(together)
    same = together.ask(holding.function, 1)
    differing = together._pool.submit(together.batcher.run, holding.function, {"x": other()}, None)
    together.wait_for(2)
    holding.go_on.set()
    assert values(same) == [2]
    assert differing.result(20)["y"].shape == other().shape
    assert holding.sizes == [1, 1, 1]


def test_functions_share_no_run_and_the_longest_wait_is_next(crowd):
    together = crowd()
    holding, _ = busy(together)
    order: list[str] = []

    def noting(name: str) -> Function:
        return Function(lambda inputs, seconds: order.append(name) or {"y": inputs["x"]}, True)

    first, second = noting("first"), noting("second")
    asked = []
    for position, function in enumerate((first, second, first), 1):
        asked.append(together.ask(function, position))
        together.wait_for(position)
    holding.go_on.set()
    assert [values(each) for each in asked] == [[1], [2], [3]]
    assert order == ["first", "second"]


def test_a_bad_request_in_a_batch_fails_alone(crowd):
    together = crowd()
    holding, _ = busy(together)
    others = [together.ask(holding.function, -1 if n == 3 else n) for n in range(16)]
    together.wait_for(16)
    holding.go_on.set()
    assert code(others[3]) is Code.INVALID_ARGUMENT
    good = [n for n in range(16) if n != 3]
    assert [values(others[n]) for n in good] == [[2 * n] for n in good]
    assert sorted(holding.sizes) == [1, 1, 1, 2, 2, 4, 4, 8, 8, 16]  # halves, down to the bad one


def test_a_batch_that_took_too_long_is_not_run_again(crowd):
    together = crowd()
    holding, _ = busy(together)
    runs: list[int] = []

    def late(inputs, seconds):
        runs.append(len(inputs["x"]))
        raise ServingError(Code.DEADLINE_EXCEEDED, "late")

    function = Function(late, True)
    others = [together.ask(function, n) for n in range(4)]
    together.wait_for(4)
    holding.go_on.set()
    assert [code(other) for other in others] == [Code.DEADLINE_EXCEEDED] * 4
    assert runs == [4]


def test_a_request_that_times_out_in_the_queue_is_not_run(crowd):
    together = crowd()
    holding, first = busy(together)
    assert code(together.ask(holding.function, 7, seconds=0.01)) == Code.DEADLINE_EXCEEDED
    holding.go_on.set()
    assert values(first) == [200]
    assert values(together.ask(holding.function, 8)) == [16]
    assert holding.sizes == [1, 1]


def test_a_run_may_take_as_long_as_the_latest_deadline_of_its_requests(crowd):
    together = crowd()
    holding, _ = busy(together)
    told: list[float | None] = []
    function = Function(lambda inputs, seconds: told.append(seconds) or {"y": inputs["x"]}, True)
    asked = [together.ask(function, n, seconds=seconds) for n, seconds in enumerate((1000, 50))]
    together.wait_for(2)
    holding.go_on.set()
    assert [values(each) for each in asked] == [[0], [1]]
    assert told[0] is not None and 900 < told[0] <= 1000


def test_a_full_queue_refuses_in_tf_servings_words(crowd):
    together = crowd(max_batch_size=2, max_enqueued_batches=1)
    holding, _ = busy(together)
    waiting = [together.ask(holding.function, n) for n in range(2)]
    together.wait_for(2)
    with pytest.raises(
        ServingError, match="The batch scheduling queue to which this task was submitted is full"
    ) as one:
        together.batcher.run(holding.function, {"x": np.ones(1, np.float32)}, None)
    assert one.value.code is Code.UNAVAILABLE
    holding.go_on.set()
    assert [values(each) for each in waiting] == [[0], [2]]


def test_batches_are_padded_to_an_allowed_size_and_the_padding_is_dropped(crowd):
    padded = crowd(max_batch_size=8, allowed_batch_sizes=(2, 8))
    holding, first = busy(padded)
    others = [padded.ask(holding.function, n) for n in range(3)]
    padded.wait_for(3)
    holding.go_on.set()
    assert values(first) == [200]
    assert [values(other) for other in others] == [[0], [2], [4]]
    assert holding.sizes == [2, 8]


def test_a_request_of_more_rows_than_a_batch_is_split_or_refused(crowd):
    doubler = Doubler()
    many = list(range(10))
    splitting = crowd(max_batch_size=4, enable_large_batch_splitting=True)
    assert values(splitting.ask(doubler.function, *many)) == [2 * n for n in many]
    assert doubler.sizes == [4, 4, 2]
    refused = crowd(max_batch_size=4, enable_large_batch_splitting=False).ask(doubler.function, *many)
    assert code(refused) is Code.INVALID_ARGUMENT
    assert str(refused.exception()) == "Task size 10 is larger than maximum input batch size 4"


def test_a_request_of_more_rows_than_a_batch_runs_alone_by_default(crowd):
    alone = crowd(max_batch_size=4, max_enqueued_batches=1)
    holding, first = busy(alone)
    large = alone.ask(holding.function, *range(10))
    alone.wait_for(1)
    holding.go_on.set()
    assert values(first) == [200]
    assert values(large) == [2 * n for n in range(10)]
    assert holding.sizes == [1, 10]


def test_outputs_without_a_row_for_each_input_row_end_the_merging(crowd):
    together = crowd(max_batch_size=4)
    holding, _ = busy(together)
    sizes: list[int] = []

    def total(inputs, seconds):
        sizes.append(len(inputs["x"]))
        return {"y": inputs["x"].sum(keepdims=True)}

    function = Function(total, True)
    others = [together.ask(function, n, n) for n in range(2)]
    together.wait_for(2)
    holding.go_on.set()
    assert [values(other) for other in others] == [[0], [2]]
    assert sizes == [4, 2, 2]
    assert values(together.ask(function, 1, 2, 3, 4, 5, 6)) == [21]


def test_a_batch_waits_for_other_requests_for_the_batch_timeout(crowd):
    patient = crowd(max_batch_size=2, batch_timeout_micros=20_000_000)
    doubler = Doubler()
    first = patient.ask(doubler.function, 1)
    patient.wait_for(1)
    assert values(patient.ask(doubler.function, 2)) == [4]
    assert values(first) == [2]
    assert doubler.sizes == [2]


def test_every_request_is_answered_when_a_run_fails_unexpectedly(crowd):
    together = crowd()
    holding, _ = busy(together)

    def broken(inputs, seconds):
        raise ZeroDivisionError

    others = [together.ask(Function(broken, True), n) for n in range(3)]
    together.wait_for(3)
    holding.go_on.set()
    assert all(isinstance(other.exception(20), ZeroDivisionError) for other in others)
    assert values(together.ask(Doubler().function, 3)) == [6]


@pytest.mark.parametrize("threads", [1, 3])
def test_many_requests_at_once_each_get_their_own_answer(crowd, threads):
    together = crowd(num_batch_threads=threads, max_batch_size=8, max_enqueued_batches=100)
    doubler = Doubler()
    random = np.random.default_rng(0)
    asked = []
    for _ in range(400):
        rows = random.integers(-3, 1000, random.integers(1, 12)).astype(np.float32)
        asked.append((rows, together.ask(doubler.function, *rows, seconds=60)))
    for rows, future in asked:
        if (rows < 0).any():
            assert code(future) is Code.INVALID_ARGUMENT
        else:
            assert values(future) == (rows * 2).tolist()


def test_images_of_parallel_clients_get_the_same_answers_as_alone(colour_model):
    from graftline.serving.server.model.loaded_model import LoadedModel

    alone = LoadedModel(colour_model)
    metrics = Metrics()
    together = LoadedModel(
        colour_model, batcher=Batcher(BatchingParameters(num_batch_threads=1, max_batch_size=8), metrics)
    )
    pictures = [image_of(colour, size) for colour in ("red", "green", "blue") for size in (8, 16, 33)]
    pictures += [b"no image", pictures[0][:40]]

    def answer(model, picture: bytes) -> dict[str, np.ndarray] | str:
        try:
            return model.predict("", {"image_bytes": np.array([picture], object)})
        except ServingError as error:
            assert error.code is Code.INVALID_ARGUMENT
            return error.message

    expected = [answer(alone, picture) for picture in pictures]
    assert expected[-2:] == [
        "not an image: starts with 'no image'",
        "truncated PNG",
    ]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda number: answer(together, pictures[number % len(pictures)]), range(220)))
    for number, one in enumerate(found):
        wanted = expected[number % len(pictures)]
        if isinstance(wanted, str):
            assert one == wanted
            continue
        assert set(one) == set(wanted)
        for name, array in wanted.items():
            if array.dtype == object:
                assert one[name].tolist() == array.tolist()
            else:
                np.testing.assert_allclose(one[name], array, rtol=1e-5)
    runs_of_one = int(metrics.processed_batch_size.samples()[0].rpartition(" ")[2])
    assert runs_of_one < len(found)  # some ran together
    alone.retire()
    together.retire()


def test_only_signatures_whose_tensors_all_have_rows_are_batched(float_model):
    from graftline.serving.server.model.loaded_model import LoadedModel

    model = LoadedModel(float_model)
    served = [name for name in model.signatures if not name.startswith("__")]
    mergeable = {name: model._function(name, sorted(model.signatures[name].outputs)).mergeable for name in served}
    assert mergeable == {
        "serving_default": True,
        "mixed": True,
        "narrow": True,
        "scalar": False,
    }
    model.retire()


def test_a_request_does_not_wait_for_other_requests_past_its_deadline(crowd):
    waiting = crowd(batch_timeout_micros=3_600_000_000)
    assert code(waiting.ask(Doubler().function, 1, seconds=0.1)) is Code.DEADLINE_EXCEEDED
    assert waiting.batcher._queues == {}


def test_models_take_turns_however_many_requests_one_of_them_has(crowd):
    crowd = crowd(max_batch_size=1)
    order: list[str] = []

    def model(name: str) -> Function:
        def run(inputs, seconds):
            order.append(name)
            return {"y": inputs["x"]}

        return Function(run, mergeable=True, model=name)

    holding, first = busy(crowd)
    crowded, quiet = model("crowded"), model("quiet")
    futures = [crowd.ask(crowded, number) for number in range(5)]
    crowd.wait_for(5)
    futures.append(crowd.ask(quiet, 9))
    crowd.wait_for(6)
    holding.go_on.set()
    for future in [first, *futures]:
        future.result(20)
    assert order.index("quiet") <= 1 and len(order) == 6
