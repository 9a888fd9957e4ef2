"""The client in an environment that names proxies and certificates, against a real server and ports that nobody has."""

import pathlib
import socket
from collections.abc import Iterator

import pytest

from graftline.errors import UserError
from graftline.serving.client import Client, Retry, ServiceError
from graftline.serving.predict import connect
from graftline.serving.server import ModelServer
from tests.images import image_of

_VARIABLES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port of this machine on which nothing listens, kept from others."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch, dead_port: int) -> int:
    """The port of a proxy that every variable names and that does not answer."""
    for name in _VARIABLES:
        monkeypatch.setenv(name, f"http://user:secret@127.0.0.1:{dead_port}")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    return dead_port


@pytest.mark.usefixtures("proxied")
@pytest.mark.parametrize("scheme", ["", "http://"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_on_this_machine_is_asked_without_a_proxy(server: ModelServer, scheme: str, host: str) -> None:
    port = server.rest_port if scheme else server.grpc_port
    with Client(f"{scheme}{host}:{port}", "colours") as client:
        assert client.classify([image_of("red")])[0].label == "red"


@pytest.mark.usefixtures("proxied")
@pytest.mark.parametrize(
    ("address", "variable"), [("model.test:1", "grpc_proxy"), ("http://model.test:1", "http_proxy")]
)
def test_a_proxy_that_does_not_answer_is_named_by_its_variable(address: str, variable: str) -> None:
    with Client(address, "m", timeout=20, retry=Retry(attempts=1)) as client, pytest.raises(ServiceError) as raised:
        client.status()
    end = f" (through the proxy that the variable {variable} names; unset it, or add the server to no_proxy)"
    assert raised.value.message.endswith(end)
    with pytest.raises(UserError, match=f"went through the proxy that the variable {variable} names") as told:
        connect(address, "m")
    assert "secret" not in f"{raised.value} {told.value}"


def test_without_a_proxy_none_is_named(monkeypatch: pytest.MonkeyPatch, dead_port: int) -> None:
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for address in (f"127.0.0.1:{dead_port}", f"http://127.0.0.1:{dead_port}"):
        with pytest.raises(UserError, match="no model server answers") as raised:
            connect(address, "m")
        assert "proxy" not in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("http_proxy", "socks5://127.0.0.1:1", "SOCKS needs the package socksio"),
        ("ALL_PROXY", "ftp://127.0.0.1:1", "it is no proxy's URL"),
        ("http_proxy", "http://model:port", "it is no proxy's URL"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f"the proxy in the variable {variable} cannot be used: {reason}"):
        Client("http://model.test:1", "m")


def test_no_proxy_may_hold_brackets(monkeypatch: pytest.MonkeyPatch, server: ModelServer) -> None:
    monkeypatch.setenv("NO_PROXY", "[::1],[fd00::1]:80")
    with Client(f"http://127.0.0.1:{server.rest_port}", "colours") as client:
        assert client.status()


def test_certificates_that_are_missing_concern_https_alone(
    monkeypatch: pytest.MonkeyPatch, server: ModelServer, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "missing/keys.log"))
    with Client(f"http://127.0.0.1:{server.rest_port}", "colours") as client:
        assert client.status()
    with pytest.raises(ValueError, match=r"SSL_CERT_FILE=.*missing\.pem, .*SSLKEYLOGFILE=.*keys\.log"):
        Client("https://model.test", "m")
