"""New versions under traffic: no request fails, each answer is from the version that it names, memory stays flat."""

import gc
import os
import pathlib
import threading

import grpc
import pytest
from tensorflow_serving.apis import prediction_service_pb2_grpc

from graftline.serving.server import ModelServer
from graftline.serving.versions import locate
from tests.images import image_of
from tests.serving.predict_requests import request
from tests.serving.versions.saved_models import publish

CLIENTS = 16


class Traffic:
    """Clients that call over gRPC, each on a connection of its own, until the end of the `with`, and their answers."""

    def __init__(self, port: int, name: str) -> None:
        self._stop = threading.Event()
        self._port, self._name = port, name
        self.answers: list[list[tuple[int, float]]] = [[] for _ in range(CLIENTS)]
        self.failures: list[grpc.RpcError] = []
        self._answered = threading.Condition()
        self._threads = [threading.Thread(target=self._ask, args=(answers,)) for answers in self.answers]

    def _ask(self, answers: list[tuple[int, float]]) -> None:
        asked = request(self._name, image_bytes=[image_of("red")])
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{self._port}", options=options) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while not self._stop.is_set():
                try:
                    answer = stub.Predict(asked, timeout=60)
                except grpc.RpcError as error:
                    self.failures.append(error)
                    return
                with self._answered:
                    answers.append((answer.model_spec.version.value, answer.outputs["score"].float_val[0]))
                    self._answered.notify_all()

    def wait_for_version(self, version: int) -> None:
        """Wait until every client has an answer of `version`."""
        with self._answered:
            assert self._answered.wait_for(
                lambda: self.failures or all(answers and answers[-1][0] == version for answers in self.answers), 120
            )

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def resident_mb() -> float:
    gc.collect()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def swap(times: int, tmp_path: pathlib.Path, models: list[str]) -> list[float]:
    """Publish versions one by one, wait until all clients get each, and return the memory after each."""
    base = tmp_path / "roses"
    publish(models[0], str(base))
    memory = []
    with ModelServer(locate.find_models(str(base)), 0, 0, poll_seconds=600) as running:
        with Traffic(running.grpc_port, "roses") as traffic:
            for version in range(1, times + 2):
                if version > 1:
                    publish(models[(version - 1) % 2], str(base))
                    running.manager.poll()
                traffic.wait_for_version(version)
                memory.append(resident_mb())
        assert traffic.failures == []
        found = [answer for answers in traffic.answers for answer in answers]
        assert {version for version, _ in found} == set(range(1, times + 2))
        scores = {parity: {round(score, 4) for version, score in found if version % 2 == parity} for parity in (0, 1)}
        assert all(
            len(each) == 1 for each in scores.values()
        )  # each model has one score, so each answer is from its version
        assert scores[0] != scores[1]
        for answers in traffic.answers:  # no client gets an older version again
            assert [version for version, _ in answers] == sorted(version for version, _ in answers)
        assert running.served == {"roses": [times + 1]}
    return memory


def test_three_swaps_under_sixteen_clients_lose_no_request(tmp_path, colour_model, sharper_model):
    swap(3, tmp_path, [colour_model, sharper_model])


@pytest.mark.slow
def test_fifty_swaps_under_sixteen_clients_lose_no_request_and_leave_memory_flat(tmp_path, colour_model, sharper_model):
    memory = swap(50, tmp_path, [colour_model, sharper_model])
    # The first swaps fill TensorFlow's caches; a leak of one of these small graphs in each would be tens of MB.
    assert max(memory[-10:]) - max(memory[10:20]) < 30
