"""One server for all tables of conformance."""

import pytest

from tests.serving.conformance.model import serving
from tests.serving.rest import Rest


@pytest.fixture(scope="package")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("models")) as running:
        yield running


@pytest.fixture(scope="package")
def rest(server):
    return Rest(server)
