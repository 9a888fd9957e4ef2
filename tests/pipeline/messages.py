"""What a user is told about a config, for the tests of the config."""

import pytest

from graftline.errors import UserError
from graftline.pipeline.config_file import load


def message(path: str | None, *overrides: str) -> str:
    """Return the message of the UserError that loading raises."""
    with pytest.raises(UserError) as caught:
        load(path, overrides)
    return str(caught.value)
