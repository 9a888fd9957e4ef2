"""`make audit`: each known vulnerability of a pin has a decision, which holds for this version alone."""

import importlib.metadata
import importlib.util
import pathlib
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import pytest
import tomli

from tests import saved_models

ROOT = pathlib.Path(__file__).parents[1]
_SPEC = importlib.util.spec_from_file_location("audit", ROOT / ".ci/audit.py")
assert _SPEC and _SPEC.loader
audit = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(audit)

_PINS = {"keras": "3.10.0", "h11": "0.16.0"}
_OPEN = {"package": "keras", "ids": ["CVE-2026-1669"], "affected": "<3.12.1", "summary": "external storage"}
_DECIDED = {**_OPEN, "pinned": "3.10.0", "reachable": "no", "reason": "own reader", "lifted_by": "Keras 3.13.2"}


def test_the_list_of_this_repository_is_whole() -> None:
    done = subprocess.run([sys.executable, ROOT / ".ci/audit.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("0 reachable; 0 faults\n"), done.stdout


@pytest.mark.parametrize(
    ("pins", "change", "fault"),
    [
        ({}, {}, None),
        (
            {"keras": "3.11.0"},
            {},
            "keras: CVE-2026-1669: the decision is about 3.10.0, the pin is 3.11.0; decide again",
        ),
        ({"keras": "3.13.2"}, {}, "the pin 3.13.2 is not affected; remove pinned, reachable, reason, lifted_by"),
        ({}, {"reason": " "}, "keras: CVE-2026-1669: the decision has no reason"),
        ({}, {"lifted_by": ""}, "the decision has no lifted_by"),
        ({}, {"reachable": "maybe"}, "reachable is 'maybe', not one of no, limited, yes"),
        ({}, {"package": "kera"}, "kera is not pinned; remove the advisory"),
        ({}, {"ids": []}, "keras: an advisory without ids: no ids"),
        ({}, {"affected": ""}, "no affected"),
    ],
)
def test_a_pin_and_its_decision_belong_together(
    pins: dict[str, str], change: dict[str, Any], fault: str | None
) -> None:
    faults = list(audit.check({**_PINS, **pins}, [{**_DECIDED, **change}]))
    assert len(faults) == (fault is not None), faults
    assert all(fault in found for found in faults if fault)


def test_a_pin_in_the_range_of_an_advisory_needs_a_decision() -> None:
    assert list(audit.check(_PINS, [_OPEN])) == [
        "keras: CVE-2026-1669: the pin 3.10.0 is affected (<3.12.1) and has no decision"
    ]
    assert list(audit.check({**_PINS, "keras": "3.13.2"}, [_OPEN])) == []


def test_an_advisory_is_listed_once() -> None:
    assert list(audit.check(_PINS, [_DECIDED, _DECIDED])) == ["keras: CVE-2026-1669: CVE-2026-1669 is listed twice"]


def test_going_back_to_a_version_with_a_known_fault_is_noticed() -> None:
    advisories = tomli.loads((ROOT / ".ci/vulnerabilities.toml").read_text())["advisory"]
    pins = audit.read_pins((ROOT / "constraints.txt").read_text())
    (fault,) = audit.check({**pins, "h11": "0.14.0"}, advisories)
    assert fault.startswith("h11: CVE-2025-43859")


def test_the_pins_of_the_server_are_those_that_it_requires() -> None:
    pins = audit.read_pins((ROOT / "constraints.txt").read_text())
    head, *lines = audit.SERVE_HEAD, *audit.serve_lock(pins)
    assert (ROOT / "constraints-serve.txt").read_text() == "\n".join([head, *lines]) + "\n", "its head says what to do"
    assert 40 < len(lines) < 70


_SERVE = """
import sys
sys.path[:0] = sys.argv[1:3]
import graftline.serving.server.__main__
from graftline.serving.server import ModelServer
from graftline.serving.versions.locate import find_models
import grpc, httpx
with ModelServer(find_models(sys.argv[3], "half"), rest_port=0, grpc_port=0) as server:
    answer = httpx.post(f"http://127.0.0.1:{server.rest_port}/v1/models/half:predict", json={"instances": [[1.0, 2.0]]})
    assert answer.json() == {"predictions": [[2.5, 3.0]]}, answer.text
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc  # imports TensorFlow
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}"))
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "half"
    try:
        stub.Predict(request)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
print("answered", "keras" in sys.modules, "apache_beam" in sys.modules)
"""


def _link_packages(names: Iterable[str], folder: pathlib.Path) -> None:
    """Make a folder of packages that holds these distributions alone."""
    for name in names:
        for file in importlib.metadata.files(name) or []:
            parts = file.parts[: 2 if file.parts[0] == "google" else 1]  # several distributions share `google`
            link = folder.joinpath(*parts)
            if parts[0] != ".." and not link.is_symlink():
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(pathlib.Path(str(file.locate())).parents[len(file.parts) - 1].joinpath(*parts))


def test_the_server_works_with_its_pins_alone(tmp_path: pathlib.Path) -> None:
    saved_models.save_float_model(str(tmp_path / "half" / "1"))
    packages = tmp_path / "packages"
    packages.mkdir()
    _link_packages(audit.read_pins((ROOT / "constraints-serve.txt").read_text()), packages)
    assert not (packages / "tfx").exists()
    command = [sys.executable, "-S", "-c", _SERVE, str(packages), str(ROOT), str(tmp_path / "half")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "answered False False\n", done.stderr
