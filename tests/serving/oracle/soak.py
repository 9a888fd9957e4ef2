"""A server under load while its versions are swapped: what it holds after each swap."""

import json
import pathlib
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tests.saved_models import save_float_model
from tests.serving.oracle.gauge import Gauge
from tests.serving.oracle.live import Live
from tests.serving.oracle.load import Clients
from tests.serving.versions.saved_models import publish

_CLIENTS = 3
_SWAP_SECONDS = 60.0  # that a swap may take
_QUIET_SECONDS = 0.5  # without requests, before the server is looked at
_WARM = 1000  # requests before the first look


@dataclass(frozen=True)
class Sample:
    """What the server held after so many requests, while none was under way."""

    requests: int
    version: int
    memory: int  # bytes
    threads: int
    descriptors: int
    failed: int  # good requests since the sample before
    fault: str
    seconds: float  # since the sample before


def soak(folder: pathlib.Path, requests: int, swaps: int) -> Iterator[Sample]:
    """Send so many requests to a new server, and publish a version `swaps` times meanwhile; yield a sample after each.

    `folder` will hold the models.
    """
    base = str(folder / "numbers")
    models = [save_float_model(str(folder / name)) for name in ("even", "odd")]
    for name in ("even", "odd"):  # a version with the bytes of the one before it would not be published
        (folder / name / "assets.extra").mkdir()
        (folder / name / "assets.extra/name").write_text(name)
    publish(models[1], base)
    with Live(base, "--name=numbers", "--poll-seconds=0.5") as live, Clients(live.rest, live.grpc, _CLIENTS) as clients:
        gauge = Gauge(live.pid)
        clients.begin(_WARM)
        clients.wait()
        for swap in range(swaps + 1):
            began = time.monotonic()
            clients.begin(requests // (swaps + 1))
            if swap:
                publish(models[(swap + 1) % 2], base)
                _wait_for_version(live.rest, swap + 1)
            failed, fault = clients.wait()
            seconds = time.monotonic() - began
            time.sleep(_QUIET_SECONDS)
            done = (swap + 1) * (requests // (swaps + 1))
            held = gauge.memory(), gauge.threads(), gauge.descriptors()
            yield Sample(done, swap + 1, *held, failed, fault, seconds)


def _wait_for_version(rest: str, version: int) -> None:
    until = time.monotonic() + _SWAP_SECONDS
    while time.monotonic() < until:
        with urllib.request.urlopen(f"http://{rest}/v1/models/numbers", timeout=_SWAP_SECONDS) as answer:
            states = {each["version"]: each["state"] for each in json.load(answer)["model_version_status"]}
        if states.get(str(version)) == "AVAILABLE":
            return
        time.sleep(0.2)
    raise AssertionError(f"version {version} was not served after {_SWAP_SECONDS:g} s: {states}")


def growth(values: list[int]) -> float:
    """Return by how much a straight line through `values` rises from the second quarter to the end."""
    rest = values[len(values) // 4 :]
    slope = np.polyfit(range(len(rest)), rest, 1)[0] if len(rest) > 1 else 0.0
    return float(slope) * (len(rest) - 1)
