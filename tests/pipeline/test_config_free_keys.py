"""Unknown keys under keys that the user chooses, such as a class of the gate's slices."""

import pytest

from graftline.components.evaluator.settings import SliceThresholds
from graftline.errors import UserError
from graftline.pipeline.config import load


@pytest.mark.parametrize("key", ["images", "seed", "batch_size"])
def test_a_key_that_is_known_elsewhere_alone_is_not_suggested_under_a_free_key(key: str):
    with pytest.raises(UserError) as caught:
        load(None, [f"gate.slices.class.values.roses.{key}.min=5"])
    assert str(caught.value) == (
        f"--set: unknown key 'gate.slices.class.values.roses.{key}'; known here: "
        f"{', '.join(SliceThresholds.model_fields)}"
    )


def test_a_key_that_is_known_there_is_suggested_under_a_free_key():
    with pytest.raises(UserError, match=r"did you mean 'gate.slices.class.values.roses.min_examples'"):
        load(None, ["gate.slices.class.values.roses.min_exampels=5"])
