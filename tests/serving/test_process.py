"""The end of a server's process: after the first signal it comes in time, whatever clients, loads and runs do."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.saved_models import save_colour_model
from tests.serving.conftest import Child


@pytest.fixture(scope="module")
def with_variables(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SavedModel whose load reads `variables/variables.index`."""
    return save_colour_model(str(tmp_path_factory.mktemp("variables") / "export"))


def push_endless(model: str, version: pathlib.Path) -> None:
    """Push a version whose load does not end: TensorFlow reads from a pipe."""
    aside = version.parent.parent / f"aside-{version.name}"
    shutil.copytree(model, aside)
    pipe = aside / "variables" / "variables.index"
    pipe.parent.mkdir(exist_ok=True)
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    aside.rename(version)


def wait_until_it_loads(process: subprocess.Popen) -> None:
    """Return when a thread of the process waits for somebody to write into a pipe, which nobody does."""
    for _ in range(3000):
        if any(
            path.read_text() == "wait_for_partner" for path in pathlib.Path(f"/proc/{process.pid}/task").glob("*/wchan")
        ):
            return
        time.sleep(0.01)
    raise AssertionError("nobody reads")


def test_a_load_that_does_not_end_holds_up_no_stop(with_variables: str, tmp_path: pathlib.Path) -> None:
    base_path = tmp_path / "models"
    shutil.copytree(with_variables, base_path / "1")
    with Child(str(base_path), "--name=m", "--poll-seconds=0.05") as child:
        push_endless(with_variables, base_path / "2")
        wait_until_it_loads(child.process)
        child.process.send_signal(signal.SIGTERM)
        said = child.end()
    assert "drained" in said and "stopped" in said and "version 2" not in said


@pytest.mark.slow
def test_a_stop_ends_a_load_at_the_start_that_does_not_end(with_variables: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "models").mkdir()
    push_endless(with_variables, tmp_path / "models" / "1")
    command = [sys.executable, "-m", "graftline.serving.server", str(tmp_path / "models"), "--rest-port=0"]
    with subprocess.Popen([*command, "--port=0", "--shutdown-grace-seconds=1"], stderr=subprocess.PIPE) as process:
        wait_until_it_loads(process)
        process.send_signal(signal.SIGTERM)
        assert process.stderr
        assert b"loads or requests are under way 5 s after SIGTERM: ending now" in process.stderr.read()
        assert process.wait(30) == 0


@pytest.mark.slow
def test_a_second_signal_ends_a_load_at_the_start_at_once(with_variables: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "models").mkdir()
    push_endless(with_variables, tmp_path / "models" / "1")
    command = [sys.executable, "-m", "graftline.serving.server", str(tmp_path / "models"), "--rest-port=0", "--port=0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        wait_until_it_loads(process)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(15) in (128 + signal.SIGINT, -signal.SIGINT)


def test_requests_that_are_not_whole_hold_up_no_stop(with_variables: str) -> None:
    with Child(with_variables, "--name=m") as child:
        host, _, port = child.rest.partition(":")
        clients = [socket.create_connection((host, int(port)), timeout=10) for _ in range(10)]
        for number, client in enumerate(clients):
            client.sendall(
                b"POST /v1/models/m:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"[: 40 * number]
            )
        child.process.send_signal(signal.SIGTERM)
        assert child.process.wait(15) == 0  # the grace is 25 s
        for client in clients:
            client.close()
