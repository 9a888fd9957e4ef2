"""The candidate in a real server: what passes, and everything that keeps a model from being served."""

import base64
import json
import os
import pathlib
import select
import signal
import subprocess
import sys

import numpy as np
import pytest

from graftline import blessings, signatures
from graftline import references as reference_predictions
from graftline.components.serving_validator import server_process, validation
from graftline.components.serving_validator.settings import ServingValidationSettings
from graftline.serving.server.options import ServerOptions
from graftline.serving.versions import rollback, withdrawals
from graftline.serving.versions.base_path import Disk, content_digest
from graftline.serving.versions.publish import publish
from tests.images import image_of
from tests.serving.conftest import save_colour_model

_SHARPNESS = 5.0  # of `save_colour_model`


def probabilities(image: bytes) -> np.ndarray:
    """What the colour model must say, by another way than its graph."""
    import io

    from PIL import Image

    means = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"), np.float64).mean(axis=(0, 1)) / 255
    powers = np.exp(_SHARPNESS * means[::-1])
    return np.float32(powers / powers.sum())


def references(count: int = 4) -> list[reference_predictions.Reference]:
    colours = ("red", "green", "blue")
    images = [image_of(colours[number % 3], 16 + number, "PNG") for number in range(count)]
    return [reference_predictions.Reference(f"{n}.png", image, probabilities(image)) for n, image in enumerate(images)]


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_colour_model(str(tmp_path_factory.mktemp("colours") / "export"))


@pytest.fixture(scope="module")
def passed(colours: str) -> validation.Report:
    return validation.validate(colours, references(), ServingValidationSettings())


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


def test_malformed_requests_of_both_protocols_get_errors(passed: validation.Report) -> None:
    assert passed.malformed["gRPC bytes that are no image"] == "INVALID_ARGUMENT"
    assert passed.malformed["gRPC an unknown model"] == "NOT_FOUND"
    assert passed.malformed["REST broken JSON"] == "400"
    assert len(passed.malformed) == 15
    assert not {"OK", "UNAVAILABLE", "UNKNOWN", "200", "500", "0"} & set(passed.malformed.values())


def test_answers_that_are_not_the_trainers_and_budgets_that_are_passed_are_reasons(colours: str) -> None:
    wrong = references()
    wrong[2].probabilities[0] += 0.01
    settings = ServingValidationSettings(latency_ms=1e-3, memory_mb=1)
    report = validation.validate(colours, wrong, settings)
    assert not report.passed
    over_grpc, over_rest, in_a_batch, slow, large = report.reasons
    assert over_grpc == (
        "1 of 4 answers over gRPC are not what the trainer had: 2.png differs by 0.01, and "
        "serving_validation.tolerance is 0.0001"
    )
    assert over_rest.startswith("1 of 4 answers over REST are not what the trainer had")
    assert in_a_batch.startswith("1 of 4 answers over gRPC, 4 images in one batch are not")
    assert slow.startswith("one image takes ")
    assert slow.endswith("and serving_validation.latency_ms is 0.001")
    assert large.startswith("the server needed ")
    assert large.endswith("MB, and serving_validation.memory_mb is 1")


def test_a_model_that_answers_nonsense_does_not_pass(tmp_path: pathlib.Path) -> None:
    import tensorflow as tf

    class Careless(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=signatures.IMAGE_BYTES)])
        def serve(self, image_bytes):
            return {signatures.PROBABILITIES: tf.ones([tf.shape(image_bytes)[0], 2]) / 2.0}

    module = Careless()
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={signatures.SERVING_DEFAULT: module.serve})
    same = [reference_predictions.Reference("a.png", image_of("red"), np.float32([0.5, 0.5]))]
    report = validation.validate(str(tmp_path / "m"), same, ServingValidationSettings())
    assert report.largest_difference == 0
    assert "bytes that are no image over gRPC got OK for an answer, not an error" in report.reasons
    assert any(reason.startswith("bytes that are no image over REST got 200: ") for reason in report.reasons)


def test_a_model_that_answers_in_another_shape_does_not_pass(tmp_path: pathlib.Path) -> None:
    import tensorflow as tf

    class OneNumber(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=signatures.IMAGE_BYTES)])
        def serve(self, image_bytes):
            return {signatures.PROBABILITIES: tf.constant(0.5)}

    module = OneNumber()
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={signatures.SERVING_DEFAULT: module.serve})
    report = validation.validate(str(tmp_path / "m"), references(2), ServingValidationSettings())
    (reason,) = report.reasons
    assert reason.startswith("an answer was not what was asked for: IndexError: ")


def test_a_request_may_be_larger_than_a_server_takes_by_default(colours: str) -> None:
    import http.client

    image = base64.b64encode(image_of("red")).decode()
    body = json.dumps({"instances": [{"b64": image}]}).encode() + b" " * ServerOptions.max_request_bytes
    with server_process.serving(colours, 120) as server:
        connection = http.client.HTTPConnection(server.rest, timeout=120)
        connection.request("POST", f"/v1/models/{server_process.NAME}:predict", body)
        assert connection.getresponse().status == 200
        connection.close()


_KILLED = """
import os, signal, sys
from graftline.components.serving_validator.server_process import serving
with serving(sys.argv[1], 120) as server:
    print(server._process.pid, flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the end of another's child is awaited by a pidfd")
def test_a_run_that_is_killed_leaves_no_server(colours: str) -> None:
    command = [sys.executable, "-c", _KILLED, colours]
    root = pathlib.Path(__file__).parents[3]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        server = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.stdin.write(b"\n")
            parent.stdin.flush()
            assert parent.wait() == -signal.SIGKILL
            ended, _, _ = select.select([server], [], [], 60)
            if not ended:
                signal.pidfd_send_signal(server, signal.SIGKILL)
            assert ended
        finally:
            os.close(server)


def test_a_model_that_no_server_takes_does_not_pass(tmp_path: pathlib.Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"no graph")
    report = validation.validate(str(tmp_path), references(1), ServingValidationSettings())
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


# --- the node ---------------------------------------------------------------------------------------------------------


def execute(
    root: pathlib.Path, saved_model: str, served: pathlib.Path, **changed: object
) -> tuple[int, validation.Report]:
    """Runs the executor on a model artifact made of the SavedModel; the blessing's property, and the report."""
    import shutil

    from tfx.types import standard_artifacts

    from graftline.components.serving_validator.executor import Executor

    model, blessing = standard_artifacts.Model(), standard_artifacts.InfraBlessing()
    model.uri, blessing.uri = str(root / "model"), str(root / "blessing")
    shutil.copytree(saved_model, root / "model" / "Format-Serving")
    reference_predictions.write(references(2), str(root / "model" / signatures.REFERENCES_FILE))
    properties = {
        "settings": ServingValidationSettings(enabled=False).model_dump_json(),
        "served": str(served),
        "allow_withdrawn": 0,
        **changed,
    }
    Executor().Do({"model": [model]}, {"blessing": [blessing]}, properties)
    report = validation.Report.from_json((root / "blessing" / blessings.SERVING_VALIDATION_FILE).read_text())
    assert (root / "blessing" / ("INFRA_BLESSED" if report.passed else "INFRA_NOT_BLESSED")).is_file()
    return blessing.get_int_custom_property("blessed"), report


def test_the_node_validates_the_model_by_the_predictions_beside_it(colours: str, tmp_path: pathlib.Path) -> None:
    settings = ServingValidationSettings().model_dump_json()
    blessed, report = execute(tmp_path, colours, tmp_path / "models" / "roses", settings=settings)
    assert (blessed, report.images, report.reasons) == (1, 2, [])


def test_a_model_that_was_rolled_back_from_is_not_blessed_again_unless_that_is_allowed(
    colours: str, tmp_path: pathlib.Path
) -> None:
    base = tmp_path / "models" / "roses"
    other = tmp_path / "other"
    other.mkdir()
    (other / "saved_model.pb").write_bytes(b"an earlier one")
    publish(str(other), str(base))
    publish(colours, str(base))
    rollback.roll_back(Disk(str(base)))
    assert withdrawals.withdrawn(Disk(str(base))) == {content_digest(colours)}

    blessed, report = execute(tmp_path / "refused", colours, base)
    assert blessed == 0
    (reason,) = report.reasons
    assert (report.withdrawn, report.images) == (True, 0)
    assert reason.startswith("this very model was version 2 and was rolled back from, to version 1, on 2")
    assert reason.endswith("; push.allow_withdrawn=true pushes it all the same")
    _assert_the_verdict_says_withdrawn(tmp_path / "refused" / "blessing", reason)
    assert execute(tmp_path / "allowed", colours, base, allow_withdrawn=1) == (1, validation.Report())


def _assert_the_verdict_says_withdrawn(infra: pathlib.Path, reason: str) -> None:
    from tfx.types import standard_artifacts

    from graftline.components.evaluator import verdict
    from graftline.components.evaluator.executor import _serving_validation

    blessing = standard_artifacts.InfraBlessing()
    blessing.uri = str(infra)
    check = _serving_validation({"infra_blessing": [blessing]})
    assert check is not None
    assert not check.passed
    assert verdict.sentence(check) == f"withdrawn: {reason}", "no server was asked, so none refused it"
    assert verdict.failures([check]) == [f"withdrawn: {reason}"]


def test_docker_s_engine_is_tfx_s_own_under_the_same_name() -> None:
    """Built, not run: there is no docker here."""
    from tfx.components import InfraValidator
    from tfx.types import Channel, standard_artifacts

    from graftline.components.serving_validator.component import NODE, ServingValidator, serving_validator

    given = {
        "model": Channel(type=standard_artifacts.Model),
        "examples": Channel(type=standard_artifacts.Examples),
        "served": "/models/roses",
        "allow_withdrawn": False,
        "withdrawn": "",
        "code": "",
    }
    docker = serving_validator(ServingValidationSettings(engine="docker", start_seconds=60), **given)
    assert isinstance(docker, InfraValidator)
    assert docker.id == NODE
    assert '"max_loading_time_seconds": 60' in docker.exec_properties["validation_spec"]
    assert "serving_examples" in docker.exec_properties["request_spec"]
    ours = serving_validator(ServingValidationSettings(engine="docker", enabled=False), **given)
    assert isinstance(ours, ServingValidator), "which looks for withdrawals all the same"
    assert ours.id == NODE
