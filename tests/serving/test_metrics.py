"""The metrics: Prometheus can read them, their names are TensorFlow Serving's, and their values are correct."""

import urllib.request

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tensorflow_serving.apis import prediction_service_pb2_grpc

from graftline.serving.server import ModelServer
from graftline.serving.server.metrics import Counter, Histogram, Metrics
from graftline.serving.versions import locate
from tests.images import image_of
from tests.serving.rest import Rest, b64

REQUESTS, LATENCY = ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency"


def scrape(server: ModelServer) -> dict[tuple, float]:
    """Return (name, labels) → value of every sample."""
    url = f"http://127.0.0.1:{server.rest_port}/monitoring/prometheus/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = answer.read().decode()
    families = list(text_string_to_metric_families(text))
    assert {family.type for family in families} == {"counter", "histogram"}
    # The parser adds OpenMetrics' suffix to counters.
    return {
        (sample.name.removesuffix("_total"), tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def sample(found: dict[tuple, float], name: str, **labels: str) -> float:
    return found.get((name, tuple(sorted(labels.items()))), 0)


@pytest.fixture(scope="module")
def running(workspace):
    """A server that only these tests call, so that its counts are known."""
    with ModelServer(locate.find_models(str(workspace)), 0, 0) as server:
        yield server


def test_requests_are_counted_by_model_status_protocol_and_time(running):
    from tests.serving.predict_requests import request

    rest = Rest(running)
    for _ in range(3):
        assert rest.predict("colours", {"instances": [b64(image_of("red"))]})[0] == 200
    assert rest.predict("colours", {"instances": [b64(b"no image")]})[0] == 400
    assert rest.predict("nobody", {"instances": [1]})[0] == 404
    with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for name, image in (("colours", image_of("blue")), ("colours", b"no image"), ("nobody", b"")):
            try:
                stub.Predict(request(name, image_bytes=[image]))
            except grpc.RpcError:
                assert name == "nobody" or image == b"no image"
    found = scrape(running)
    assert sample(found, REQUESTS, model_name="colours", status="OK") == 4
    assert sample(found, REQUESTS, model_name="colours", status="INVALID_ARGUMENT") == 2
    assert sample(found, REQUESTS, model_name="(unknown)", status="NOT_FOUND") == 2
    assert sample(found, LATENCY + "_count", model_name="colours", API="predict", entrypoint="REST") == 3
    assert sample(found, LATENCY + "_count", model_name="colours", API="Predict", entrypoint="GRPC") == 1
    total = sample(found, LATENCY + "_sum", model_name="colours", API="Predict", entrypoint="GRPC")
    assert 100 < total < 60e6  # microseconds
    assert sample(found, LATENCY + "_bucket", model_name="colours", API="predict", entrypoint="REST", le="+Inf") == 3
    assert sample(found, LATENCY + "_bucket", model_name="colours", API="predict", entrypoint="REST", le="18") == 0


def test_a_name_that_is_quoted_in_the_url_is_counted_as_itself(running):
    before = sample(scrape(running), REQUESTS, model_name="numbers", status="OK")
    assert Rest(running).predict("%6Eumbers", {"instances": [[1, 2]]})[0] == 200
    assert sample(scrape(running), REQUESTS, model_name="numbers", status="OK") == before + 1


def test_runs_batches_and_loads_are_counted(running, workspace):
    before = scrape(running)
    assert Rest(running).predict("numbers", {"instances": [[1, 2]] * 5})[0] == 200
    after = scrape(running)

    def grown(name: str, **labels: str) -> float:
        return sample(after, name, **labels) - sample(before, name, **labels)

    batching = ":tensorflow:serving:batching_session:"
    assert grown(":tensorflow:core:graph_runs") == 1
    assert grown(":tensorflow:core:graph_run_time_usecs") > 0
    assert grown(":tensorflow:serving:runtime_latency_count", model_name="numbers", API="Predict", runtime="TF1") == 1
    assert grown(batching + "wrapped_run_count") == 1
    assert grown(batching + "input_batch_size_sum") == grown(batching + "processed_batch_size_sum") == 5
    assert grown(batching + "queuing_latency_count", thread_pool_name="batch_threads") == 1
    path = str(workspace / "models/numbers/1")
    assert sample(after, ":tensorflow:cc:saved_model:load_attempt_count", model_path=path, status="success") == 1
    assert sample(after, ":tensorflow:cc:saved_model:load_latency", model_path=path) > 0


def test_the_text_is_that_of_tensorflow_servings_exporter():
    counter = Counter(":a:b", "model_name")
    counter.add(2, 'a "quoted" back\\slash\n')
    counter.add(1, 'a "quoted" back\\slash\n')
    assert counter.samples() == [r':a:b{model_name="a \"quoted\" back\\slash\n"} 3']
    histogram = Histogram(":h", "x", first=10, factor=2, count=2)
    for value in (10, 10.5, 500):
        histogram.observe(value, "y")
    assert histogram.samples() == [
        ':h_bucket{x="y",le="10"} 1',
        ':h_bucket{x="y",le="20"} 2',
        ':h_bucket{x="y",le="+Inf"} 3',
        ':h_sum{x="y"} 520.5',
        ':h_count{x="y"} 3',
    ]
    metrics = Metrics()
    assert metrics.exposition() == "\n"
    metrics.graph_runs.add(7)
    assert metrics.exposition() == "# TYPE :tensorflow:core:graph_runs counter\n:tensorflow:core:graph_runs{} 7\n"
