"""Which proxy the environment names for a host: none for this machine, in every spelling of it."""

import pathlib
import subprocess
import sys
import urllib.request

import pytest

from graftline import proxies
from tests import images

EVERY = dict.fromkeys(("grpc_proxy", "http_proxy", "https_proxy", "all_proxy", "ALL_PROXY"), "http://proxy:9")


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST", "localhost.", "a.localhost", "ip6-localhost", "127.0.0.1", "127.9.8.7", "127.1"),
        *("2130706433", "0.0.0.0", "::1", "[::1]", "::1%lo", "::", "::ffff:127.0.0.1"),
    ],
)
def test_this_machine_has_no_proxy(host: str) -> None:
    assert proxies.is_loopback(host)
    assert proxies.of_grpc(host, EVERY) is None
    assert proxies.of_http("https", host, EVERY) is None


@pytest.mark.parametrize("host", ["example.com", "localhost.example.com", "10.0.0.1", "128.0.0.1", "::2", "1.host", ""])
def test_another_machine_is_not_this_one(host: str) -> None:
    assert not proxies.is_loopback(host)


@pytest.mark.parametrize(
    ("environment", "of_grpc", "of_http", "of_https"),
    [
        ({}, None, None, None),
        ({"http_proxy": ""}, None, None, None),
        ({"http_proxy": "x"}, "http_proxy", "http_proxy", None),
        ({"HTTP_PROXY": "x"}, None, "HTTP_PROXY", None),
        ({"http_proxy": "x", "HTTP_PROXY": "y"}, "http_proxy", "http_proxy", None),
        ({"HTTP_PROXY": "x", "REQUEST_METHOD": "GET"}, None, None, None),
        ({"https_proxy": "x", "http_proxy": "y"}, "https_proxy", "http_proxy", "https_proxy"),
        ({"grpc_proxy": "x", "http_proxy": "y"}, "grpc_proxy", "http_proxy", None),
        ({"ALL_PROXY": "x"}, None, "ALL_PROXY", "ALL_PROXY"),
    ],
)
def test_the_variables_are_those_of_grpc_and_of_curl(
    environment: dict[str, str], of_grpc: str | None, of_http: str | None, of_https: str | None
) -> None:
    found = [proxies.of_grpc("model.example", environment)]
    found += [proxies.of_http(scheme, "model.example", environment) for scheme in ("http", "https")]
    assert [proxy and proxy.variable for proxy in found] == [of_grpc, of_http, of_https]


@pytest.mark.parametrize(
    ("exempt", "host", "is_exempt"),
    [
        ("*", "model.example", True),
        ("model.example", "MODEL.example.", True),
        (" a , .example ", "model.example", True),
        ("*.example", "model.example", True),
        ("model.example:8500", "model.example", True),
        ("http://model.example", "model.example", True),
        ("odel.example", "model.example", False),
        ("10.0.0.0/8", "10.2.3.4", True),
        ("10.0.0.0/8", "11.2.3.4", False),
        ("fd00::/8", "[fd00::2]", True),
        ("[fd00::2]", "fd00::2", True),
        ("[fd00::2]:8500", "[fd00::2]", True),
        ("[", "model.example", False),
    ],
)
def test_no_proxy_names_hosts_domains_networks_and_addresses_in_brackets(
    exempt: str, host: str, is_exempt: bool
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        assert (proxies.of_http("http", host, {**EVERY, name: exempt}) is None) == is_exempt
    for name in ("no_proxy", "no_grpc_proxy"):
        assert (proxies.of_grpc(host, {**EVERY, name: exempt}) is None) == is_exempt


def test_libraries_are_kept_from_asking_a_proxy_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"http_proxy": "http://proxy:9", "no_proxy": "example.com"}
    proxies.exempt_loopback(environment)
    once = dict(environment)
    proxies.exempt_loopback(environment)
    assert environment == once
    assert environment["no_grpc_proxy"] == "example.com,localhost,127.0.0.1,::1"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert urllib.request.proxy_bypass("127.0.0.1")
    assert urllib.request.proxy_bypass("example.com")
    assert not urllib.request.proxy_bypass("example.org")


def test_what_tells_grpc_how_to_work_is_dropped_and_its_logs_stay() -> None:
    environment = {"GRPC_POLL_STRATEGY": "none", "GRPC_EXPERIMENTS": "x", "GRPC_VERBOSITY": "debug", "PATH": "/bin"}
    proxies.drop_settings_of_grpc(environment)
    assert environment == {"GRPC_VERBOSITY": "debug", "PATH": "/bin"}


def test_a_command_asks_a_server_whatever_tells_grpc_how_to_work(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With this variable gRPC aborts the process."""
    monkeypatch.setenv("GRPC_POLL_STRATEGY", "none")
    (tmp_path / "a.png").write_bytes(images.encode(images.draw_scene(), "PNG"))
    command = [sys.executable, "-m", "tests.graftline", "predict", tmp_path / "a.png", "--server", "127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("graftline: no model server answers at 127.0.0.1:1 (gRPC)")


def test_a_log_of_keys_that_cannot_be_written_is_passed_over_with_a_note(tmp_path: pathlib.Path) -> None:
    bad, good = str(tmp_path / "missing/keys"), str(tmp_path / "keys")
    environment = {"SSLKEYLOGFILE": bad}
    note = f"SSLKEYLOGFILE is {bad}, which cannot be written (No such file or directory): it is passed over"
    assert proxies.drop_unusable_key_log(environment) == note
    assert environment == {}
    for environment in ({"SSLKEYLOGFILE": good}, {"SSLKEYLOGFILE": ""}, {}):
        before = dict(environment)
        assert proxies.drop_unusable_key_log(environment) == ""
        assert environment == before
