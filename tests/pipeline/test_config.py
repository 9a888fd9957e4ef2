"""The config: what a file and `--set` may say, and what a user is told when they say something else."""

import pathlib
import string
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from graftline.components.evaluator.settings import (
    DimensionThresholds,
    GateSettings,
    LossThreshold,
    SliceThresholds,
    Threshold,
)
from graftline.errors import UserError
from graftline.pipeline import config
from graftline.pipeline.config import Config, load
from graftline.trainer import backbones
from graftline.trainer.settings import NOT_OPTIONS, AugmentationSettings


@pytest.fixture
def write(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    """Writes config.yaml in the current directory and gives its name."""
    monkeypatch.chdir(tmp_path)

    def write_config(text: str) -> str:
        pathlib.Path("config.yaml").write_text(text)
        return "config.yaml"

    return write_config


def message(path: str | None, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(path, overrides)
    return str(caught.value)


# --- defaults ---------------------------------------------------------------------------------------------------------


def test_the_printed_defaults_load_back_as_the_defaults(write):
    assert load(write(config.defaults_as_yaml())) == Config()


def test_every_key_of_the_printed_defaults_has_a_comment_above_it():
    lines = config.defaults_as_yaml().splitlines()
    keys = [number for number, line in enumerate(lines) if ":" in line and not line.lstrip().startswith("#")]
    assert len(keys) > 30
    bare = [lines[number].strip() for number in keys if not lines[number - 1].lstrip().startswith("# ")]
    assert bare == []


def test_the_printed_defaults_are_also_what_a_yaml_1_1_reader_expects():
    read = yaml.safe_load(config.defaults_as_yaml())
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
        accuracy=st.builds(Threshold, min=st.floats(0, 0.5), max=st.none() | st.floats(0.5, 1)),
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
    path.write_text(config.as_yaml(written), encoding="utf-8")
    assert load(str(path)) == written


@given(st.integers(0, 2**32 - 1), st.floats(1e-300, 1e10), _folder)
@settings(max_examples=100, deadline=None)
def test_an_override_of_any_number_and_any_path_says_what_it_says(seed: int, rate: float, images: str):
    overrides = [f"seed={seed}", f"fine_tuning.learning_rate={rate!r}"]
    read = load(None, overrides, {"images": images})
    assert (read.seed, read.fine_tuning.learning_rate, read.images) == (seed, rate, images)


# --- the gate ---------------------------------------------------------------------------------------------------------


def test_a_threshold_set_alone_keeps_the_others(write):
    expected = GateSettings(accuracy=Threshold(min=0.9, min_change=0.0))
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
        "but must be at least one min or max, for example gate.accuracy.min=0.5: "
        "without one nothing judges a first model"
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


# --- unknown keys -----------------------------------------------------------------------------------------------------


def test_an_unknown_key_in_a_file_names_the_file_the_whole_key_and_the_nearest(write):
    path = write("fine_tuning:\n  epoch: 3\n")
    assert message(path) == "config.yaml: unknown key 'fine_tuning.epoch'; did you mean 'fine_tuning.epochs'?"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("finetuning.epochs=3", "--set: unknown key 'finetuning'; did you mean 'fine_tuning'?"),
        ("Seed=3", "--set: unknown key 'Seed'; did you mean 'seed'?"),
        ("batch_size=3", "--set: unknown key 'batch_size'; did you mean 'training.batch_size'?"),
        ("augmentation.rotate=0.1", "--set: unknown key 'augmentation.rotate'; did you mean 'augmentation.rotation'?"),
        ("gate.accuracy.mim=0.9", "--set: unknown key 'gate.accuracy.mim'; did you mean 'gate.accuracy.min'?"),
        ("gate.slices.clas.recall.min=0.9", "--set: unknown key 'gate.slices.clas'; did you mean 'gate.slices.class'?"),
        (
            "gate.slices.class.recal.min=0.9",
            "--set: unknown key 'gate.slices.class.recal'; did you mean 'gate.slices.class.recall'?",
        ),
        (
            "gate.slices.class.values.rose.recal.min=0.9",
            "--set: unknown key 'gate.slices.class.values.rose.recal'; did "
            "you mean 'gate.slices.class.values.rose.recall'?",
        ),
        ("model.xyz=1", "--set: unknown key 'model.xyz'; known here: name"),
    ],
)
def test_an_unknown_key_of_an_override_names_the_nearest(override: str, expected: str):
    assert message(None, override) == expected


@given(st.sampled_from(sorted(config._all_keys())), st.text(string.ascii_lowercase + "_", min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_no_misspelt_key_is_passed_over_in_silence(key: str, tail: str):
    known = set(config._all_keys())
    misspelt = key + tail
    if misspelt in known or key.startswith("backbone.options"):
        return
    assert message(None, f"{misspelt}=1").startswith(f"--set: unknown key '{misspelt}'")


# --- wrong values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("fine_tuning.epochs=ten", "fine_tuning.epochs is 'ten', but must be a whole number"),
        ("fine_tuning.epochs=1.5", "fine_tuning.epochs is 1.5, but must be a whole number"),
        ("seed=true", "seed is true, but must be a whole number"),
        ("seed=-1", "seed is -1, but must be at least 0"),
        ("data.eval_fraction=1", "data.eval_fraction is 1, but must be less than 1"),
        ("data.eval_fraction=0", "data.eval_fraction is 0, but must be greater than 0"),
        ("data.max_bad_fraction=2", "data.max_bad_fraction is 2, but must be at most 1"),
        ("head.pooling=average", "head.pooling is 'average', but must be 'avg', 'max' or 'flatten'"),
        ("head.dense=[8, x]", "head.dense[1] is 'x', but must be a whole number"),
        ("head.dense=8", "head.dense is 8, but must be a list"),
        ("fine_tuning.unfreeze_from=[1]", "fine_tuning.unfreeze_from is [1], but must be a whole number or "
         "text (a number as a name goes in quotes)"),
        ("fine_tuning=3", "fine_tuning is 3, but must be a section of keys"),
        ("augmentation=strong", "augmentation is 'strong', but must be 'off' or a section of keys"),
        ("augmentation=false", "augmentation is false, but must be 'off' or a section of keys"),
        ("augmentation.flip=left", "augmentation.flip is 'left', but must be 'none', 'horizontal', 'vertical' "
         "or 'both'"),
        ("augmentation.rotation=90", "augmentation.rotation is 90, but must be at most 0.5"),
        ("augmentation.zoom=1", "augmentation.zoom is 1, but must be less than 1"),
        ("model.name=a/b", "model.name is 'a/b', but must be letters, digits, '.', '_' and '-', "
         "beginning with a letter or digit"),
        ("gate.accuracy.min=.nan", "gate.accuracy.min is nan, but must be a finite number"),
        ("gate.accuracy.min=1.5", "gate.accuracy.min is 1.5, but must be at most 1"),
        ("gate.auc.min_change=-1.5", "gate.auc.min_change is -1.5, but must be at least -1"),
        ("gate.cross_entropy.max=-1", "gate.cross_entropy.max is -1, but must be at least 0"),
        ("gate.accuracy.max=0.4", "gate.accuracy is {max: 0.4, min: 0.5, min_change: 0.0}, but must be with a min that "
         "is not above max, or nothing is blessed"),
        ("gate.significance=2.0", "gate.significance is 2.0, but must be 'off' or at most 0.5"),
        ("gate.tie=maybe", "gate.tie is 'maybe', but must be 'bless' or 'refuse'"),
        ("gate.slices={size: {recall: {min: 0.5}}}", "gate.slices is {size: {recall: {min: 0.5}}}, but must be without "
         "size.recall: only the slices of class have a recall"),
        ("gate.slices={size: {values: {larg: {accuracy: {min: 0.5}}}}}", "gate.slices is {size: {values: {larg: "
         "{accuracy: {min: 0.5}}}}}, but must be without size.values.larg: its values are tiny, small, medium, large; "
         "did you mean 'large'?"),
        ("training.batch_size=", "training.batch_size is null, but must be a whole number"),
        ("training.label_smoothing=1", "training.label_smoothing is 1, but must be less than 1"),
        ("training.precision=bfloat16", "training.precision is 'bfloat16', but must be 'float32', 'mixed_bfloat16' or "
         "'mixed_float16'"),
        ("fine_tuning.layer_decay=0", "fine_tuning.layer_decay is 0, but must be greater than 0"),
        ("fine_tuning.clip_norm=0", "fine_tuning.clip_norm is 0, but must be greater than 0"),
        ("fine_tuning.warmup_epochs=10", "fine_tuning.warmup_epochs is 10, but must be less than epochs, which is 10"),
        ("fine_tuning.optimizer_options.momentum=0.9", "fine_tuning.optimizer_options is {momentum: 0.9}, but must be "
         "made of the options of adam: beta_1, beta_2, epsilon, amsgrad, weight_decay, gradient_accumulation_steps"),
        ("fine_tuning.optimizer_options={beta1: 0.5}", "fine_tuning.optimizer_options is {beta1: 0.5}, but must be "
         "made of the options of adam: beta_1, beta_2, epsilon, amsgrad, weight_decay, gradient_accumulation_steps; "
         "did you mean 'beta_1'?"),
        ("fine_tuning.optimizer_options={beta_1: high}", "fine_tuning.optimizer_options is {beta_1: high}, but must be "
         "with a beta_1 that is a valid number"),
        ("fine_tuning.optimizer_options={learning_rate: 1}", "fine_tuning.optimizer_options is {learning_rate: 1}, but "
         "must be without 'learning_rate': it is a key of its own, beside optimizer_options"),
    ],
)  # fmt: skip
def test_a_wrong_value_names_the_key_what_was_found_and_what_is_expected(override: str, expected: str):
    assert message(None, override) == f"--set: {expected}"


def test_a_number_where_a_file_needs_text_says_that_quotes_are_missing(write):
    assert (
        message(write("images: 2024"))
        == "config.yaml: images is 2024, but must be text (a number as a name goes in quotes) or a list"
    )


def test_several_folders_are_a_list_and_one_is_text(write):
    assert load(write("images: [a, ~/b]")).image_folders == ("a", str(pathlib.Path.home() / "b"))
    assert load(None, ["images=[a, 'b c']"]).image_folders == ("a", "b c")
    assert load(None, ["images=photos #1"]).image_folders == ("photos #1",)
    assert load(None).image_folders == ()
    assert load(None, ["images=[/data/My photos, b]"]).model_name == "My-photos"
    assert message(None, "images=[1]") == "--set: images[0] is 1, but must be text (a number as a name goes in quotes)"


def test_all_wrong_values_are_told_at_once_each_with_its_source(write):
    path = write("seed: x\ndata: {eval_fraction: 3}")
    assert message(path, "fine_tuning.epochs=-1").splitlines() == [
        "config.yaml: seed is 'x', but must be a whole number",
        "config.yaml: data.eval_fraction is 3, but must be less than 1",
        "--set: fine_tuning.epochs is -1, but must be at least 0",
    ]


def test_an_unknown_backbone_names_the_nearest_and_the_source(write):
    assert message(write("backbone: {name: ResNet5}")).startswith(
        "config.yaml: backbone.name: there is no backbone 'ResNet5'; did you mean 'ResNet50'?"
    )


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\nseed: 2\n", "config.yaml, line 2, column 1: the key 'seed' stands here a second time"),
        ("seed: [1\nimages: x", "config.yaml, line 2, column 7: expected ',' or ']', but got ':'"),
        ("seed:\n\t- 1", "config.yaml, line 2, column 1: found character '\\t' that cannot start any token"),
        ("- seed", "config.yaml: must hold keys and values, as `graftline config` prints them; found [seed]"),
        ("seed: !!python/name:os.system x",
         "config.yaml, line 1, column 7: could not determine a constructor for the tag "
         "'tag:yaml.org,2002:python/name:os.system'"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_config_names_file_line_and_column(write, text: str, expected: str):
    assert message(write(text)) == expected


def test_a_file_that_is_no_text_is_refused(write):
    path = write("")
    pathlib.Path(path).write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    assert message(path).startswith("config.yaml: is no YAML text: ")


def test_a_missing_file_is_named(write):
    assert message("none.yaml") == "none.yaml: the config file cannot be read: No such file or directory"


def test_a_folder_in_the_place_of_a_config_says_what_to_type(tmp_path: pathlib.Path):
    assert message(str(tmp_path)).endswith(f"for a folder of images: graftline run --images {tmp_path}")


def test_an_override_without_a_value_says_how_to_write_it():
    expected = "--set: 'seed' is not key=value, for example --set fine_tuning.epochs=5"
    assert message(None, "seed") == expected


# --- the model's name -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "name"),
    [
        ("photos", "photos"),
        ("some/My photos (2024)/", "My-photos-2024"),
        ("/data/Äpfel", "Apfel"),
        ("/data/写真", "model"),
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


@given(_text)
def test_any_folder_gives_a_name_that_the_config_itself_accepts(folder: str):
    name = config.name_from_folder(f"/data/{folder.replace(chr(0), '')}")
    assert config.ModelSettings(name=name).name == name


def test_a_warm_up_may_be_as_long_as_it_likes_where_the_phase_is_skipped():
    assert load(None, ["fine_tuning.epochs=0", "fine_tuning.warmup_epochs=3"]).fine_tuning.warmup_epochs == 3


def test_options_are_judged_by_the_optimizer_that_is_asked_for(write):
    path = write("fine_tuning: {optimizer_options: {momentum: 0.5}, optimizer: sgd}")
    assert load(path).fine_tuning.optimizer_options == {"momentum": 0.5}
    assert "the options of adamw" in message(path, "fine_tuning.optimizer=adamw")
    assert message(path, "fine_tuning.optimizer=sdg") == (
        "--set: fine_tuning.optimizer is 'sdg', but must be 'adam', 'adamw', 'rmsprop' or 'sgd'"
    )


@pytest.mark.parametrize("option", NOT_OPTIONS)
def test_an_option_that_graftline_sets_itself_is_refused(option: str):
    assert f"backbone.options is {{{option}: null}}, but must be without '{option}'" in message(
        None, f"backbone.options={{{option}: null}}"
    )
