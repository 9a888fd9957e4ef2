"""What the client sends with a call: headers, over TLS where the address asks for it."""

import http.server
import os
import pathlib
import shutil
import ssl
import subprocess
import sys
import threading
from concurrent import futures
from typing import Any

import grpc
import pytest

from graftline.serving.client import Client, ServiceError


class Recorder(grpc.GenericRpcHandler):
    """Servers of both protocols that refuse every call and record its headers; with TLS if they have a certificate."""

    def __init__(self, certificate: tuple[bytes, bytes] | None = None) -> None:
        self.seen: list[dict[str, str]] = []
        self._rest = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._rpc = grpc.server(futures.ThreadPoolExecutor(1), handlers=[self])
        if certificate is None:
            port = self._rpc.add_insecure_port("127.0.0.1:0")
        else:
            port = self._rpc.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([certificate]))
        secure = "s" if certificate else ""
        self.addresses = [f"grpc{secure}://localhost:{port}", f"http{secure}://localhost:{self._rest.server_port}"]

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        seen = self.seen

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append({name.lower(): value for name, value in self.headers.items()})
                self.send_error(403)

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        return Handler

    def service(self, details: Any) -> grpc.RpcMethodHandler:
        """Handle any method."""
        self.seen.append(dict(details.invocation_metadata))
        return grpc.unary_unary_rpc_method_handler(
            lambda _, context: context.abort(grpc.StatusCode.PERMISSION_DENIED, "")
        )

    def secured(self, certificate: pathlib.Path, key: pathlib.Path) -> None:
        """Wrap the REST server in TLS, which reads its certificate from files."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._rest.socket = context.wrap_socket(self._rest.socket, server_side=True)

    def __enter__(self) -> "Recorder":
        self._rpc.start()
        threading.Thread(target=self._rest.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._rpc.stop(None).wait()
        self._rest.shutdown()
        self._rest.server_close()


def test_headers_go_with_each_call_of_either_protocol() -> None:
    with Recorder() as recorder:
        for address in recorder.addresses:
            client = Client(address, "m", headers={"authorization": "Bearer token"})
            with client, pytest.raises(ServiceError, match="PERMISSION_DENIED"):
                client.status()
    assert [seen["authorization"] for seen in recorder.seen] == ["Bearer token"] * 2


@pytest.mark.skipif(shutil.which("openssl") is None, reason="a certificate is made with openssl")
def test_tls_is_spoken_to_whom_the_machine_trusts_and_to_nobody_else(tmp_path: pathlib.Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    where = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    subprocess.run([*made, *where, "-keyout", key, "-out", certificate], capture_output=True, check=True)
    code = (
        "import sys\n"
        "from graftline.serving.client import Client, Retry, ServiceError\n"
        "for address in sys.argv[1:]:\n"
        "    try:\n"
        "        Client(address, 'm', retry=Retry(1)).status()\n"
        "    except ServiceError as error:\n"
        "        print(error.code)\n"
    )
    with Recorder((key.read_bytes(), certificate.read_bytes())) as recorder:
        recorder.secured(certificate, key)
        command = [sys.executable, "-c", code, *recorder.addresses]
        trusting = {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(certificate), "SSL_CERT_FILE": str(certificate)}
        codes = [
            subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **more}).stdout
            for more in (trusting, {})
        ]
    assert codes == ["PERMISSION_DENIED\n" * 2, "UNAVAILABLE\n" * 2]
