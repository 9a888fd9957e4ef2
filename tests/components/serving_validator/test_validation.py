"""The candidate in a real server: what passes, and everything that keeps a model from being served."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from graftline import signatures
from graftline.components.serving_validator import server_process, validation
from graftline.components.serving_validator.settings import ServingValidationSettings
from graftline.references import Reference
from graftline.serving.client import Client
from tests.components.serving_validator.references import draw_references
from tests.images import encode, image_of


@pytest.fixture(scope="module")
def passed(colours: str) -> validation.Report:
    return validation.validate(colours, draw_references(), ServingValidationSettings())


def test_a_good_model_passes_and_the_report_says_what_was_measured(passed: validation.Report) -> None:
    assert passed.reasons == []
    assert passed.passed
    assert passed.images == 4
    assert passed.largest_difference is not None
    assert passed.largest_difference < 1e-5
    for measured in (passed.start_seconds, passed.first_ms, passed.grpc_ms, passed.rest_ms, passed.memory_mb):
        assert measured is not None
        assert measured > 0
    assert validation.Report.from_json(passed.to_json()) == passed
    assert json.loads(passed.to_json())["passed"] is True


def test_the_environment_has_no_say_in_how_the_server_is_reached(colours: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the port "discard", where nothing answers
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    monkeypatch.setenv("GRPC_POLL_STRATEGY", "none")  # the server would not start
    assert validation.validate(colours, draw_references(2), ServingValidationSettings()).reasons == []


def test_malformed_requests_of_both_protocols_get_errors(passed: validation.Report) -> None:
    assert passed.malformed["gRPC bytes that are not an image"] == "INVALID_ARGUMENT"
    assert passed.malformed["gRPC an unknown model"] == "NOT_FOUND"
    assert passed.malformed["REST broken JSON"] == "400"
    assert len(passed.malformed) == 15
    assert not {"OK", "UNAVAILABLE", "UNKNOWN", "200", "500", "0"} & set(passed.malformed.values())


def test_answers_that_are_not_the_trainers_and_budgets_that_are_passed_are_reasons(colours: str) -> None:
    wrong = draw_references()
    wrong[2].probabilities[0] += 0.01
    settings = ServingValidationSettings(latency_ms=1e-3, memory_mb=1)
    report = validation.validate(colours, wrong, settings)
    assert not report.passed
    over_grpc, over_rest, in_a_batch, slow, large = report.reasons
    assert over_grpc == (
        "1 of 4 answers over gRPC differ from the trainer's: 2.png by 0.01; serving_validation.tolerance is 0.0001"
    )
    assert over_rest.startswith("1 of 4 answers over REST differ from the trainer's")
    assert in_a_batch.startswith("1 of 4 answers over gRPC, 4 images in one batch differ")
    assert slow.startswith("one image takes ")
    assert slow.endswith("; serving_validation.latency_ms is 0.001")
    assert large.startswith("the server used ")
    assert large.endswith("MB; serving_validation.memory_mb is 1")


def test_a_model_that_answers_nonsense_does_not_pass(tmp_path: pathlib.Path) -> None:
    import tensorflow as tf

    class Careless(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=signatures.IMAGE_BYTES)])
        def serve(self, image_bytes):
            return {signatures.PROBABILITIES: tf.ones([tf.shape(image_bytes)[0], 2]) / 2.0}

    module = Careless()
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={signatures.SERVING_DEFAULT: module.serve})
    same = [Reference("a.png", image_of("red"), np.float32([0.5, 0.5]))]
    report = validation.validate(str(tmp_path / "m"), same, ServingValidationSettings())
    assert report.largest_difference == 0
    assert "bytes that are not an image over gRPC got OK, not an error for the client" in report.reasons
    assert any(reason.startswith("bytes that are not an image over REST got 200: ") for reason in report.reasons)


def test_a_model_that_answers_in_another_shape_does_not_pass(tmp_path: pathlib.Path) -> None:
    import tensorflow as tf

    class OneNumber(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=signatures.IMAGE_BYTES)])
        def serve(self, image_bytes):
            return {signatures.PROBABILITIES: tf.constant(0.5)}

    module = OneNumber()
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={signatures.SERVING_DEFAULT: module.serve})
    report = validation.validate(str(tmp_path / "m"), draw_references(2), ServingValidationSettings())
    (reason,) = report.reasons
    assert reason.startswith("an answer has the wrong form: IndexError: ")


def test_a_model_that_no_server_takes_does_not_pass(tmp_path: pathlib.Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"no graph")
    report = validation.validate(str(tmp_path), draw_references(1), ServingValidationSettings())
    (reason,) = report.reasons
    assert reason.startswith("the model server did not start with it: ")
    assert str(tmp_path) in reason


def test_a_model_without_the_trainers_predictions_does_not_pass(colours: str) -> None:
    report = validation.validate(colours, [], ServingValidationSettings())
    assert report.reasons == ["the model has no reference predictions to compare with: train it again"]


def test_a_model_of_mixed_precision_is_given_more_room_unless_the_config_says_how_much() -> None:
    default = ServingValidationSettings()
    assert default.for_precision("float32").tolerance == 1e-4
    assert default.for_precision("mixed_bfloat16").tolerance == 0.05
    assert ServingValidationSettings(tolerance=0.5).for_precision("mixed_float16").tolerance == 0.5


@pytest.mark.slow
def test_a_batch_of_large_photos_is_answered(colours: str) -> None:
    """The server's limit of the pixels of a request says nothing about the model."""
    photos = [encode(Image.new("1", (5000, 4100)), "PNG")] * 5
    with server_process.serving(colours, 60.0) as server, Client(server.grpc, server_process.NAME) as client:
        answer = client.predict({"image_bytes": photos})
    assert answer["probabilities"].shape[0] == 5
