"""Which requests of web pages the HTTP port takes: by `Host`, `Origin` and `Sec-Fetch-*`."""

import pytest

from graftline.serving.server.addresses import is_loopback
from graftline.serving.server.errors import Code, ServingError
from graftline.serving.server.http.access import Access

OWN = "localhost:8501"


def denied(access: Access, method: str = "POST", target: str | None = None, **headers: str) -> str:
    """Return the message of the refusal, "" when the request is taken."""
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    try:
        access.check(method, target, lines)
    except ServingError as error:
        assert error.code is Code.PERMISSION_DENIED and error.code.http_status == 403
        return error.message
    return ""


@pytest.mark.parametrize(
    ("bound", "host", "taken"),
    [
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "LocalHost.:8501", True),
        ("127.0.0.1", "127.0.0.1:8501", True),
        ("127.0.0.1", "127.1.2.3", True),
        ("127.0.0.1", "[::1]:8501", True),
        ("127.0.0.1", "photos.localhost:8501", True),
        ("127.0.0.1", "", True),  # a client of HTTP 1.0
        ("localhost", "localhost", True),
        ("127.0.0.1", "evil.example", False),
        ("127.0.0.1", "localhost.evil.example:8501", False),
        ("127.0.0.1", "localhost@evil.example", False),
        ("127.0.0.1", "evil.example:80:80", False),
        ("127.0.0.1", "10.0.0.7:8501", False),
        ("::1", "evil.example", False),
        # In a cluster a server has many names, and the address of its pod.
        ("0.0.0.0", "10.0.0.7:8501", True),
        ("0.0.0.0", "photos.default.svc.cluster.local:8501", True),
        ("::", "[fd00::7]:8501", True),
        ("10.0.0.7", "photos", True),
        ("0.0.0.0", "localhost:8501", True),
    ],
)
def test_a_program_may_use_the_names_of_the_server(bound: str, host: str, taken: bool) -> None:
    assert (denied(Access(bound), host=host) == "") == taken


@pytest.mark.parametrize(
    ("bound", "host", "origin", "taken"),
    [
        ("127.0.0.1", OWN, "http://localhost:8501", True),
        ("127.0.0.1", "LOCALHOST:8501", "HTTP://localhost:8501", True),
        ("127.0.0.1", OWN, "https://localhost:8501", True),  # a proxy that ends TLS
        ("127.0.0.1", OWN, "http://localhost:3000", False),
        ("127.0.0.1", OWN, "http://evil.example", False),
        ("127.0.0.1", OWN, "http://localhost:8501.evil.example", False),
        ("127.0.0.1", OWN, "null", False),
        ("127.0.0.1", OWN, "", False),
        ("127.0.0.1", "", "http://", False),
        ("127.0.0.1", "evil.example:8501", "http://evil.example:8501", False),  # DNS rebinding
        ("0.0.0.0", "evil.example:8501", "http://evil.example:8501", False),
        ("0.0.0.0", "10.0.0.7:8501", "http://10.0.0.7:8501", True),
        ("0.0.0.0", "10.0.0.7:8501", "http://10.0.0.8:8501", False),
    ],
)
def test_a_page_must_be_the_servers_own(bound: str, host: str, origin: str, taken: bool) -> None:
    assert (denied(Access(bound), host=host, origin=origin, content_type="text/plain") == "") == taken


@pytest.mark.parametrize(
    ("method", "headers", "taken"),
    [
        ("GET", {"sec_fetch_site": "none"}, True),
        ("GET", {"sec_fetch_site": "same-origin", "sec_fetch_mode": "cors"}, True),
        ("GET", {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}, True),
        ("GET", {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"}, False),
        ("POST", {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}, False),
        ("GET", {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}, False),
        ("GET", {"sec_fetch_site": "same-site"}, False),  # another port of localhost
        ("GET", {"sec_fetch_site": "Cross-Site"}, False),
    ],
)
def test_a_browser_says_which_site_asks(method: str, headers: dict[str, str], taken: bool) -> None:
    assert (denied(Access("127.0.0.1"), method, host=OWN, **headers) == "") == taken


def test_names_can_be_allowed() -> None:
    access = Access("127.0.0.1", ("photos.example", "[fd00::7]"))
    assert denied(access, host="Photos.example") == denied(access, host="[fd00::7]:8501") == ""
    assert denied(access, host=OWN, origin="https://photos.example", sec_fetch_site="cross-site") == ""
    assert denied(access, host="photos.example", origin="https://photos.example") == ""
    assert denied(access, host="evil.example")
    assert denied(Access("127.0.0.1", ("*",)), host="evil.example", origin="http://evil.example") == ""


def test_two_origins_are_none() -> None:
    access = Access("127.0.0.1")
    with pytest.raises(ServingError):
        access.check("POST", None, [(b"host", b"localhost"), (b"origin", b"http://localhost"), (b"origin", b"null")])


def test_the_authority_of_a_whole_url_counts_in_place_of_host() -> None:
    assert denied(Access("127.0.0.1"), target="evil.example", host=OWN)
    assert denied(Access("127.0.0.1"), target=OWN, host="evil.example") == ""


def test_the_refusal_says_what_to_do() -> None:
    access = Access("127.0.0.1")
    assert denied(access, host="evil.example:8501") == (
        "Host: evil.example:8501 is not a name of this server: use localhost, an address, or start the server with "
        "--allowed-hosts evil.example"
    )
    assert denied(access, host=OWN, origin="http://evil.example:80") == (
        "Origin: http://evil.example:80 is another site: use the server's own page, or start the server with "
        "--allowed-hosts evil.example"
    )


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("10.0.0.7", False)],
)
def test_loopback_is_known(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected
