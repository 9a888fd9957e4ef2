"""The config: defaults, and how a file, `--set` and the command's options are read."""

import pathlib
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from graftline.components.evaluator.settings import (
    AccuracyThreshold,
    DimensionThresholds,
    GateSettings,
    LossThreshold,
    SliceThresholds,
    Threshold,
)
from graftline.errors import UserError
from graftline.pipeline import config_file
from graftline.pipeline.config import Config
from graftline.pipeline.config_file import load
from graftline.trainer.settings import AugmentationSettings
from tests.pipeline.messages import message

# --- defaults ---------------------------------------------------------------------------------------------------------


def test_the_printed_defaults_load_back_as_the_defaults(write):
    assert load(write(config_file.defaults_as_yaml())) == Config()


def test_every_key_of_the_printed_defaults_has_a_comment_above_it():
    lines = config_file.defaults_as_yaml().splitlines()
    keys = [number for number, line in enumerate(lines) if ":" in line and not line.lstrip().startswith("#")]
    assert len(keys) > 30
    bare = [lines[number].strip() for number in keys if not lines[number - 1].lstrip().startswith("# ")]
    assert bare == []


def test_the_printed_defaults_are_also_what_a_yaml_1_1_reader_expects():
    read = yaml.safe_load(config_file.defaults_as_yaml())
    assert read["fine_tuning"]["learning_rate"] == 1e-5
    assert set(read) == set(Config.model_fields)


def test_without_a_file_and_overrides_the_config_is_the_default():
    assert load(None) == Config()


def test_an_empty_file_and_sections_whose_keys_are_commented_out_are_the_defaults(write):
    assert load(write("")) == Config()
    assert load(write("fine_tuning:\n  # epochs: 3\ngate:\n")) == Config()


def test_a_config_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Config().seed = 3  # type: ignore[misc]


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("augmentation=off", AugmentationSettings()),
        ("augmentation={flip: both, zoom: .2}", AugmentationSettings(flip="both", zoom=0.2)),
        ("augmentation.flip=none", "none"),
        ("augmentation.rotation=.1", 0.1),
        ("backbone.weights=none", "none"),
        ("fine_tuning.learning_rate=1e-5", 1e-5),
        ("fine_tuning.learning_rate=.5", 0.5),
        ("fine_tuning.unfreeze_from=-30", -30),
        ("fine_tuning.unfreeze_from=010", 10),
        ("fine_tuning.unfreeze_from=none", "none"),
        ("fine_tuning.unfreeze_from=block_13_expand", "block_13_expand"),
        ("head.dense=[256, 128]", [256, 128]),
        ("backbone.options.alpha=0.35", {"alpha": 0.35}),
        ("backbone.options={alpha: 0.35, minimalistic: true}", {"alpha": 0.35, "minimalistic": True}),
        ("beam.options=[--a=b, --c]", ["--a=b", "--c"]),
        ("model.name=2024", "2024"),
        ("images=photos: the #1 folder", "photos: the #1 folder"),
        ("images='2024'", "2024"),
        ("images=2024-01-31", "2024-01-31"),
        ("backbone.input_size=null", None),
        ("images=", None),
        ("fine_tuning.optimizer_options={weight_decay: 1e-4, amsgrad: true}", {"weight_decay": 1e-4, "amsgrad": True}),
        ("fine_tuning.schedule=cosine", "cosine"),
        ("fine_tuning.warmup_epochs=.5", 0.5),
        ("fine_tuning.clip_norm=null", None),
        ("training.class_weights=none", "none"),
        ("training.precision=mixed_bfloat16", "mixed_bfloat16"),
    ],
)
def test_an_override_is_read_as_the_key_needs_it(override: str, value: Any):
    found: Any = load(None, [override])
    for part in override.split("=")[0].removesuffix(".alpha").split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_a_file_is_read_with_the_scalars_of_yaml_1_2(write):
    read = load(
        write("augmentation: off\nfine_tuning: {learning_rate: 1e-5}\nbackbone: {weights: none}\nmodel: {name: no}")
    )
    assert (read.augmentation.enabled, read.fine_tuning.learning_rate, read.backbone.weights) == (False, 1e-5, "none")
    assert read.model.name == "no"


def test_a_tag_that_would_build_an_object_is_refused(write, tmp_path):
    with pytest.raises(UserError, match="line 1, column 9: could not determine a constructor for the tag"):
        load(write(f'images: !!python/object/apply:os.mkdir ["{tmp_path}/made"]'))
    assert not (tmp_path / "made").exists()


def test_augmentation_is_a_section_or_the_word_off_and_an_override_lies_over_either(write):
    path = write("augmentation:\n  flip: horizontal\n  rotation: 0.05\n")
    assert load(path).augmentation == AugmentationSettings(flip="horizontal", rotation=0.05)
    assert load(path, ["augmentation.flip=both"]).augmentation == AugmentationSettings(flip="both", rotation=0.05)
    assert load(path, ["augmentation=off"]).augmentation == AugmentationSettings()
    path = write("augmentation: off")
    assert load(path, ["augmentation.views=0"]).augmentation == AugmentationSettings(views=0)


def test_overrides_lie_over_the_file_and_given_values_over_both(write):
    path = write("seed: 1\nimages: a\nworkspace: w")
    read = load(path, ["seed=2", "images=b"], {"images": "c"})
    assert (read.seed, read.images, read.workspace) == (2, "c", "w")


def test_the_last_of_two_overrides_counts():
    assert load(None, ["seed=1", "seed=2"]).seed == 2


def test_a_leading_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/me")
    read = load(None, ["images=~/photos", "backbone.weights=~/w.h5"])
    assert (read.images, read.backbone.weights) == ("/home/me/photos", "/home/me/w.h5")


def test_several_folders_are_a_list_and_one_is_text(write):
    assert load(write("images: [a, ~/b]")).image_folders == ("a", str(pathlib.Path.home() / "b"))
    assert load(None, ["images=[a, 'b c']"]).image_folders == ("a", "b c")
    assert load(None, ["images=photos #1"]).image_folders == ("photos #1",)
    assert load(None).image_folders == ()
    assert load(None, ["images=[/data/My photos, b]"]).model_name == "My-photos-4a07b389"
    assert message(None, "images=[1]") == "--set: images[0] is 1, but must be text (a number as a name goes in quotes)"


def test_a_warm_up_may_be_as_long_as_it_likes_where_the_phase_is_skipped():
    assert load(None, ["fine_tuning.epochs=0", "fine_tuning.warmup_epochs=3"]).fine_tuning.warmup_epochs == 3


# --- the gate ---------------------------------------------------------------------------------------------------------


def test_a_threshold_set_alone_keeps_the_others(write):
    expected = GateSettings(accuracy=AccuracyThreshold(min=0.9, min_change=0.0))
    assert load(None, ["gate.accuracy.min=0.9"]).gate == expected
    assert load(write("gate: {accuracy: {min: 0.9}}")).gate == expected


def test_a_metric_that_is_null_has_no_threshold():
    read = load(None, ["gate.accuracy=null", "gate.cross_entropy.max=0.7"]).gate
    assert read == GateSettings(cross_entropy=LossThreshold(max=0.7))
    assert list(read.thresholds) == ["cross_entropy"]


@pytest.mark.parametrize(
    "overrides", [["gate.accuracy=null"], ["gate={}"], ["gate.accuracy.min=null", "gate.accuracy.min_change=null"]]
)
def test_a_gate_without_a_threshold_is_refused(overrides: list[str]):
    assert message(None, *overrides).endswith(
        "but must be at least one min or max, for example gate.accuracy.min=majority: "
        "without one every first model is blessed"
    )


def test_thresholds_of_slices_are_read_from_a_file_and_from_overrides(write):
    expected = DimensionThresholds(recall=Threshold(min=0.6), values={"red rose": SliceThresholds(min_examples=3)})
    section = "{recall: {min: 0.6}, values: {red rose: {min_examples: 3}}}"
    assert load(write(f"gate: {{slices: {{class: {section}}}}}")).gate.slices == {"class": expected}
    read = load(None, ["gate.slices.class.recall.min=0.6", "gate.slices.size.min_examples=3"]).gate.slices
    assert read["class"] == DimensionThresholds(recall=Threshold(min=0.6))
    assert read["size"] == DimensionThresholds(min_examples=3)


def test_an_unknown_metric_names_the_nearest():
    assert message(None, "gate.acuracy.min=0.9") == "--set: unknown key 'gate.acuracy'; did you mean 'gate.accuracy'?"


# --- the model's name -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "name"),
    [
        ("photos", "photos"),
        ("some/My photos (2024)/", "My-photos-2024-099fc589"),
        ("/data/Äpfel", "Apfel-ebf2411b"),
        ("/data/写真", "model-9c3250ff"),
        ("gs://bucket/flowers/", "flowers"),
        ("gs://bucket/flowers/span-{SPAN}", "flowers"),
        (None, "model"),
    ],
)
def test_the_model_is_called_after_the_images_folder_made_legal(images: str | None, name: str):
    assert Config(images=images).model_name == name


def test_images_in_the_current_folder_give_its_name(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "birds").mkdir()
    monkeypatch.chdir(tmp_path / "birds")
    assert Config(images=".").model_name == "birds"


def test_a_given_name_wins():
    assert load(None, ["images=photos", "model.name=v2.best"]).model_name == "v2.best"
