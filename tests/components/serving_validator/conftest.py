"""A SavedModel for the tests of the serving validation."""

import pytest

from tests.saved_models import save_colour_model


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_colour_model(str(tmp_path_factory.mktemp("colours") / "export"))
