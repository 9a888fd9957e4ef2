"""The checks of a config before a run, for the tests of the preflight."""

import pathlib

import pytest

from graftline.components.image_example_gen.layouts import Layout
from graftline.errors import UserError
from graftline.pipeline import preflight
from graftline.pipeline.config_file import load


def check(images: pathlib.Path | None, *overrides: str) -> Layout:
    """Check a config of these images; its workspace lies beside them."""
    workspace = [] if images is None else [f"workspace={images.parent / 'ws'}"]
    given = {} if images is None else {"images": str(images)}
    return preflight.check(load(None, ["backbone.weights=none", *workspace, *overrides], given))


def refusal(images: pathlib.Path | None, *overrides: str) -> str:
    """Return the message of the UserError that the check raises."""
    with pytest.raises(UserError) as caught:
        check(images, *overrides)
    return str(caught.value)
