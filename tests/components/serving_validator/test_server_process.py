"""The server's process: what it accepts, what it does not import, and that it ends with the run."""

import base64
import http.client
import json
import os
import pathlib
import select
import signal
import subprocess
import sys

import pytest

from graftline.components.serving_validator import server_process
from graftline.serving.server.options import ServerOptions
from tests.images import image_of


def test_a_request_may_be_larger_than_a_server_takes_by_default(colours: str) -> None:
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
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
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


def test_modules_in_the_users_folder_do_not_take_the_servers_place(
    colours: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("graftline", "serving", "trainer", "runpy", "threading", "json", "tensorflow"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user was imported')\n")
    monkeypatch.chdir(tmp_path)
    with server_process.serving(colours, 120) as server:
        assert server.alive
