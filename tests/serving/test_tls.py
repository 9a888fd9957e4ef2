"""TLS on both ports, by TensorFlow Serving's `--ssl_config_file`."""

import contextlib
import datetime
import http.client
import pathlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tensorflow_serving.apis import prediction_service_pb2_grpc

from graftline.errors import UserError
from graftline.serving.server import ModelServer, ServerOptions, tls
from graftline.serving.versions import locate
from tests.images import image_of
from tests.serving.predict_requests import request


@dataclass
class Pair:
    """A key and a certificate as PEM; `signer` has what a certificate of another one is signed with."""

    key: str
    certificate: str
    signer: Any


def make_pair(name: str, by: Pair | None = None) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    issuer_key, issuer = by.signer if by else (key, subject)
    certificate = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Pair(private.decode(), certificate.public_bytes(pem).decode(), (key, subject))


@pytest.fixture(scope="module")
def authority() -> Pair:
    """A certificate that signs others."""
    return make_pair("authority")


@pytest.fixture(scope="module")
def of_server(authority: Pair) -> Pair:
    """The certificate of localhost."""
    return make_pair("localhost", authority)


def write(path: pathlib.Path, **fields: str | bool) -> str:
    lines = []
    for name, value in fields.items():
        text = str(value).lower() if isinstance(value, bool) else '"' + value.replace("\n", "\\n") + '"'
        lines.append(f"{name}: {text}")
    path.write_text("\n".join(lines))
    return str(path)


def serving(workspace: pathlib.Path, config: str) -> ModelServer:
    options = ServerOptions(port=0, rest_api_port=0, ssl_config_file=config)
    return ModelServer(locate.find_models(str(workspace)), options=options)


@pytest.fixture(scope="module")
def secure(workspace: pathlib.Path, tmp_path_factory: pytest.TempPathFactory, of_server: Pair) -> Iterator[ModelServer]:
    """A server with TLS that takes every client."""
    path = tmp_path_factory.mktemp("tls") / "ssl.config"
    with serving(workspace, write(path, server_key=of_server.key, server_cert=of_server.certificate)) as server:
        yield server


def get(server: ModelServer, path: str, context: ssl.SSLContext) -> tuple[int, str]:
    connection = http.client.HTTPSConnection("localhost", server.rest_port, timeout=30, context=context)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def label(server: ModelServer, **credentials: bytes) -> bytes:
    """Return what the model answers over gRPC."""
    with grpc.secure_channel(f"localhost:{server.grpc_port}", grpc.ssl_channel_credentials(**credentials)) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer = stub.Predict(request("colours", image_bytes=[image_of("red")]), timeout=30)
    return bytes(answer.outputs["label"].string_val[0])


def test_both_ports_speak_tls(secure: ModelServer, authority: Pair) -> None:
    context = ssl.create_default_context(cadata=authority.certificate)
    assert get(secure, "/v1/models/colours", context)[0] == 200
    assert get(secure, "/readyz", context) == (200, "ready\n")
    assert label(secure, root_certificates=authority.certificate.encode()) == b"red"


def test_a_large_answer_and_a_refusal_arrive_over_tls(secure: ModelServer, authority: Pair) -> None:
    context = ssl.create_default_context(cadata=authority.certificate)
    with socket.create_connection(("localhost", secure.rest_port), timeout=30) as plain:
        client = context.wrap_socket(plain, server_hostname="localhost")
        client.sendall(
            b"POST /v1/models/colours:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\n"
        )
        assert client.recv(65536).startswith(b"HTTP/1.1 413 ")
    assert len(get(secure, "/graftline/page.js", context)[1]) > 1000


def test_clients_without_tls_or_trust_get_no_answer(secure: ModelServer) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        get(secure, "/healthz", ssl.create_default_context())
    with socket.create_connection(("localhost", secure.rest_port), timeout=30) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"200" not in plain.recv(65536)


def test_a_client_that_does_not_end_its_handshake_holds_no_place(secure: ModelServer, authority: Pair) -> None:
    context = ssl.create_default_context(cadata=authority.certificate)
    held = [socket.create_connection(("localhost", secure.rest_port), timeout=30) for _ in range(600)]
    assert get(secure, "/healthz", context)[0] == 200
    for each in held:
        each.close()


def test_clients_may_have_to_have_a_certificate(
    workspace: pathlib.Path, tmp_path: pathlib.Path, authority: Pair, of_server: Pair
) -> None:
    config = write(
        tmp_path / "ssl.config",
        server_key=of_server.key,
        server_cert=of_server.certificate,
        custom_ca=authority.certificate,
        client_verify=True,
    )
    of_client, stranger = make_pair("client", authority), make_pair("stranger")
    root = authority.certificate.encode()
    with serving(workspace, config) as server:
        for pair, taken in ((of_client, True), (stranger, False)):
            context = ssl.create_default_context(cadata=authority.certificate)
            files = []
            for name, text in (("certificate", pair.certificate), ("key", pair.key)):
                files.append(tmp_path / name)
                files[-1].write_text(text)
            context.load_cert_chain(*files)
            credentials = {"private_key": pair.key.encode(), "certificate_chain": pair.certificate.encode()}
            if taken:
                assert get(server, "/readyz", context) == (200, "ready\n")
                assert label(server, root_certificates=root, **credentials) == b"red"
            else:
                with pytest.raises(OSError):  # an alert of TLS, or a reset
                    get(server, "/readyz", context)
                with pytest.raises(grpc.RpcError):
                    label(server, root_certificates=root, **credentials)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"server_key": ""}, "server_key is missing: give it as PEM text"),
        ({"server_cert": "/etc/tls/cert.pem"}, "server_cert is not PEM: give the text of the file itself"),
        ({"server_key": "another"}, "cannot be used together: KEY_VALUES_MISMATCH"),
        ({"custom_ca": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}, "cannot be used together"),
        ({"client_verify": True}, "client_verify needs custom_ca"),
        ({"certificate": "x"}, 'is not an SSLConfig: 3:1 : Message type "tensorflow.serving.SSLConfig" has no field'),
    ],
)
def test_what_is_wrong_with_the_file_is_named(
    change: dict[str, Any], message: str, tmp_path: pathlib.Path, of_server: Pair
) -> None:
    if change.get("server_key") == "another":
        change = {"server_key": make_pair("other").key}
    fields = {"server_key": of_server.key, "server_cert": of_server.certificate} | change
    path = write(tmp_path / "ssl.config", **fields)
    with pytest.raises(UserError) as caught:
        tls.read(path)
    assert path in str(caught.value) and message in str(caught.value)


def test_a_key_with_a_password_is_refused_and_nobody_is_asked(tmp_path: pathlib.Path, of_server: Pair) -> None:
    key = serialization.load_pem_private_key(of_server.key.encode(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    path = write(tmp_path / "ssl.config", server_key=locked.decode(), server_cert=of_server.certificate)
    with pytest.raises(UserError, match="server_key has a password: give a key without one"):
        tls.read(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the TLS configuration .*none: No such file or directory"):
        tls.read(str(tmp_path / "none"))
