"""A client of the REST API for tests, and the form of bytes in its JSON."""

import base64
import json
import urllib.error
import urllib.request


class Rest:
    """A client of plain HTTP without state."""

    def __init__(self, server):
        self.base = f"http://127.0.0.1:{server.rest_port}"

    def ask(self, method, path, body=None, headers=None):
        """Return the HTTP status and the JSON of the answer."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data=data, method=method, headers=headers or {})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert answer.headers["Content-Type"] == "application/json"
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            assert error.headers["Content-Type"] == "application/json"
            return error.code, json.loads(error.read())

    def predict(self, model, body, **options):
        return self.ask("POST", f"/v1/models/{model}:predict", body, **options)


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}
