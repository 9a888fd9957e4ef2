"""The config as it is written: YAML that reads back as the same value, and the reference in the docs."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftline.components.evaluator.settings import (
    AccuracyThreshold,
    DimensionThresholds,
    GateSettings,
    LossThreshold,
    SliceThresholds,
    Threshold,
)
from graftline.pipeline import config, config_file, config_reference, names
from graftline.pipeline.config import Config
from graftline.pipeline.config_file import load
from graftline.trainer import backbones
from graftline.trainer.model_settings import NOT_OPTIONS
from graftline.trainer.settings import AugmentationSettings
from tests import assets

_text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20)
_folder = _text.filter(lambda text: not text.startswith("~"))
_configs = st.builds(
    Config,
    images=st.none() | _folder,
    workspace=_folder,
    seed=st.integers(0, 2**32 - 1),
    data=st.builds(config.DataSettings, eval_fraction=st.floats(0, 1, exclude_min=True, exclude_max=True)),
    backbone=st.builds(
        config.BackboneSettings,
        name=st.sampled_from(list(backbones.BACKBONES)),
        weights=_folder,
        input_size=st.none() | st.integers(1, 1000),
        options=st.dictionaries(
            st.text(string.ascii_lowercase, min_size=1).filter(lambda key: key not in NOT_OPTIONS),
            st.none() | st.booleans() | st.floats(-9, 9) | st.integers() | _text,
        ),
    ),
    head=st.builds(config.HeadSettings, dense=st.lists(st.integers(1, 4096), max_size=3)),
    fine_tuning=st.builds(
        config.FineTuningSettings,
        learning_rate=st.floats(1e-300, 1e10),
        unfreeze_from=st.integers(-500, 500) | _text,
        optimizer=st.just("sgd"),
        optimizer_options=st.fixed_dictionaries(
            {}, optional={"momentum": st.floats(0, 0.99), "nesterov": st.booleans(), "weight_decay": st.floats(0, 1)}
        ),
        schedule=st.sampled_from(["constant", "cosine", "exponential"]),
        warmup_epochs=st.floats(0, 9),
        clip_norm=st.none() | st.floats(1e-300, 1e10),
        layer_decay=st.floats(0, 1, exclude_min=True),
    ),
    training=st.builds(
        config.TrainingSettings,
        label_smoothing=st.floats(0, 1, exclude_max=True),
        class_weights=st.sampled_from(["none", "balanced"]),
    ),
    augmentation=st.builds(
        AugmentationSettings,
        flip=st.sampled_from(["none", "horizontal", "vertical", "both"]),
        crop=st.floats(0, 1),
        views=st.integers(0, 9),
    ),
    gate=st.builds(
        GateSettings,
        accuracy=st.builds(
            AccuracyThreshold, min=st.just("majority") | st.floats(0, 0.5), max=st.none() | st.floats(0.5, 1)
        ),
        macro_f1=st.none() | st.builds(Threshold, min_change=st.floats(-1, 1)),
        cross_entropy=st.none() | st.builds(LossThreshold, max=st.floats(0, 1e10)),
        tie=st.sampled_from(["bless", "refuse"]),
        significance=st.just("off") | st.floats(0.001, 0.5),
        slices=st.dictionaries(
            st.just("class"),
            st.builds(
                DimensionThresholds,
                recall=st.builds(Threshold, min=st.floats(0, 1)),
                values=st.dictionaries(_text, st.builds(SliceThresholds, min_examples=st.none() | st.integers(1, 99))),
            ),
        ),
    ),
    beam=st.builds(config.BeamSettings, options=st.lists(_text, max_size=3)),
)


@given(_configs)
@settings(max_examples=60, deadline=None)
def test_any_config_written_as_yaml_loads_back_as_the_same(tmp_path_factory: pytest.TempPathFactory, written: Config):
    path = tmp_path_factory.getbasetemp() / "roundtrip.yaml"
    path.write_text(config_file.as_yaml(written), encoding="utf-8")
    assert load(str(path)) == written


@given(st.integers(0, 2**32 - 1), st.floats(1e-300, 1e10), _folder)
@settings(max_examples=100, deadline=None)
def test_an_override_of_any_number_and_any_path_says_what_it_says(seed: int, rate: float, images: str):
    overrides = [f"seed={seed}", f"fine_tuning.learning_rate={rate!r}"]
    read = load(None, overrides, {"images": images})
    assert (read.seed, read.fine_tuning.learning_rate, read.images) == (seed, rate, images)


@given(_text)
def test_any_folder_gives_a_name_that_the_config_itself_accepts(folder: str):
    name = names.from_folder(f"/data/{folder.replace(chr(0), '')}")
    assert config.ModelSettings(name=name).name == name


# --- docs/config.md -------------------------------------------------------------------------------------------------


def test_the_reference_in_the_docs_is_what_the_command_prints():
    reference = assets.ROOT / "docs" / "config.md"
    assert reference.read_text() == config_reference.as_markdown(), "run `graftline config --markdown > docs/config.md`"


def test_the_reference_names_every_key_of_the_defaults():
    page = config_reference.as_markdown()
    keys = [key for key in config_file.all_keys() if not key.startswith(("gate.", "backbone.preprocessing."))]
    assert [key for key in keys if f"`{key}`" not in page] == []
