"""Settings of other projects for Keras change nothing here. `test_end_to_end` has a whole run among such settings."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from graftline import own_keras
from graftline.errors import UserError

# `Keras first` is how TFX on a cluster calls run_fn. jax is not installed.
_SHOW = """
import sys
if sys.argv[1:] == ["Keras first"]: import keras
from graftline.trainer import checks, models
from graftline.trainer.settings import BackboneSettings, FineTuningSettings, HeadSettings, TrainingSettings
backbone = BackboneSettings(weights="none", input_size=32, options={"alpha": 0.35})
checks.check(backbone, HeadSettings(), FineTuningSettings(), TrainingSettings())
import keras
trunk = models.build_trunk(backbone)
config = keras.config
print(config.backend(), config.image_data_format(), config.floatx(), config.epsilon(), config.dtype_policy().name)
print(config.max_epochs(), config.max_steps_per_epoch(), trunk.input_shape, trunk.dtype, trunk.output_shape)
"""
_OWN = ["tensorflow channels_last float32 1e-07 float32", "None None (None, 32, 32, 3) float32 (None, 1, 1, 1280)"]


@pytest.mark.parametrize(
    ("order", "environment"),
    [
        ("Graftline first", {"KERAS_BACKEND": "jax", "KERAS_MAX_EPOCHS": "many", "TF_USE_LEGACY_KERAS": "1"}),
        ("Keras first", {"KERAS_BACKEND": "tensorflow", "KERAS_MAX_EPOCHS": "1", "KERAS_MAX_STEPS_PER_EPOCH": "1"}),
    ],
)
def test_keras_has_our_settings_whoever_imports_it_first(
    tmp_path: pathlib.Path, order: str, environment: dict[str, str]
) -> None:
    settings = {"image_data_format": "channels_first", "floatx": "float16", "epsilon": 0.1, "backend": "jax"}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-c", _SHOW, order],
        env={**os.environ, **environment, "KERAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == _OWN, done.stderr


def test_a_program_that_uses_the_client_keeps_its_own_keras() -> None:
    code = "import os; import graftline; graftline.Client; print(os.environ['KERAS_BACKEND'])"
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "jax"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"floatx": "float8"}', "floatx is 'float8', but Keras takes float16 or float32 or float64"),
        ('{"image_data_format": "tf"}', "image_data_format is 'tf', but Keras takes channels_last or channels_first"),
        ('{"floatx": ["float32"]}', "floatx is ['float32'], but"),
        ('{"epsilon": 1}', "epsilon is 1, but Keras takes a number like 1e-7"),
        ("[]", "its JSON is no object"),
        (None, "cannot be read: Is a directory"),
    ],
)
def test_a_file_with_which_keras_cannot_be_imported_is_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, content: str | None, reason: str
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    path = tmp_path / "keras.json"
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    with pytest.raises(UserError) as caught:
        own_keras.check_file()
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)
    assert "remove the file" in str(caught.value)


@pytest.mark.parametrize("content", ["{}", "not JSON", '{"backend": "jax", "epsilon": 0.5, "floatx": "float64"}'])
def test_a_file_that_keras_takes_is_left_alone(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    own_keras.check_file()
    (tmp_path / "keras.json").write_text(content)
    own_keras.check_file()
