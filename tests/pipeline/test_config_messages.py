"""The config: what a user is told about unknown keys, wrong values and files that are no config."""

import pathlib
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftline.components.evaluator.settings import SliceThresholds
from graftline.errors import UserError
from graftline.pipeline import config_file
from graftline.pipeline.config_file import load
from graftline.trainer.model_settings import NOT_OPTIONS
from tests.pipeline.messages import message

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


@given(st.sampled_from(sorted(config_file.all_keys())), st.text(string.ascii_lowercase + "_", min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_no_misspelt_key_is_passed_over_in_silence(key: str, tail: str):
    known = set(config_file.all_keys())
    misspelt = key + tail
    if misspelt in known or key.startswith("backbone.options"):
        return
    assert message(None, f"{misspelt}=1").startswith(f"--set: unknown key '{misspelt}'")


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
        ("backbone.preprocessing={mean: 1}", "backbone.preprocessing is {mean: 1}, but must be null, tf, torch, caffe, "
         "rescale, none, or {mean: m, variance: v} with a number or three (red, green, blue) for each, and a variance "
         "above 0"),
        ("head.layers=[{Dense: {unit: 3}}]", "head.layers[0] is {Dense: {unit: 3}}, but must be without Dense's "
         "'unit': Dense takes units, activation, use_bias, kernel_initializer, kernel_regularizer; did you mean "
         "'units'?"),
        ("head.output=sigmod", "head.output is 'sigmod', but must be 'softmax' or 'sigmoid'"),
        ("head.cut_at=[a, a]", "head.cut_at is [a, a], but must be a layer's name or a list of different ones"),
        ("fine_tuning.monitor=val_auc", "fine_tuning.monitor is 'val_auc', but must be 'val_loss' or 'val_accuracy'"),
        ("fine_tuning.patience=null", "fine_tuning is {patience: null}, but must be with epochs, too, because patience "
         "null never ends a phase before them"),
        ("fine_tuning.batch_norm=on", "fine_tuning.batch_norm is 'on', but must be 'inference' or 'training'"),
        ("training.steps_per_epoch=0", "training.steps_per_epoch is 0, but must be at least 1"),
        ("training.callbacks=[mine]", "training.callbacks[0] is 'mine', but must be an import path such as "
         "package.module:factory"),
        ("training.tensorboard.histogram_freq=-1", "training.tensorboard.histogram_freq is -1, but must be at least 0"),
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
        ("gate.accuracy.min=1.5", "gate.accuracy.min is 1.5, but must be at most 1 or 'majority'"),
        ("gate.auc.min_change=-1.5", "gate.auc.min_change is -1.5, but must be at least -1"),
        ("gate.cross_entropy.max=-1", "gate.cross_entropy.max is -1, but must be at least 0"),
        ("gate.accuracy.max=0.4", "gate.accuracy is {max: 0.4, min: majority, min_change: 0.0}, but must be a "
         "range whose min is not above its max, or no model passes"),
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
         "must be without 'learning_rate': it is a key of its own, next to optimizer_options"),
        ("feature_extraction.solver_options={C: 0.5}", "feature_extraction.solver_options is {C: 0.5}, but must be "
         "empty, because solver is gradient, which takes optimizer_options"),
    ],
)  # fmt: skip
def test_a_wrong_value_names_the_key_what_was_found_and_what_is_expected(override: str, expected: str):
    assert message(None, override) == f"--set: {expected}"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("{Ce: 1}", "{Ce: 1}, but must be made of C, tol, max_iter; did you mean 'C'?"),
        ("{C: 0}", "{C: 0}, but must be with a C that is greater than 0"),
        ("{max_iter: 1.5}", "{max_iter: 1.5}, but must be with a max_iter that is a valid integer"),
    ],
)
def test_a_wrong_option_of_a_solver_names_what_it_takes(options: str, expected: str):
    said = message(None, "feature_extraction.solver=linear_svm", f"feature_extraction.solver_options={options}")
    assert said == f"--set: feature_extraction.solver_options is {expected}"


def test_a_number_where_a_file_needs_text_says_that_quotes_are_missing(write):
    assert (
        message(write("images: 2024"))
        == "config.yaml: images is 2024, but must be text (a number as a name goes in quotes) or a list"
    )


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


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\nseed: 2\n", "config.yaml, line 2, column 1: the key 'seed' is here a second time"),
        ("seed: [1\nimages: x", "config.yaml, line 2, column 7: expected ',' or ']', but got ':'"),
        ("seed:\n\t- 1", "config.yaml, line 2, column 1: found character '\\t' that cannot start any token"),
        ("- seed", "config.yaml: must hold keys and values, as `graftline config` prints them, but it holds [seed]"),
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
    assert message(path).startswith("config.yaml: is not a YAML text: ")


def test_a_missing_file_is_named(write):
    assert message("none.yaml") == "none.yaml: the config file cannot be read: No such file or directory"


def test_a_folder_in_the_place_of_a_config_says_what_to_type(tmp_path: pathlib.Path):
    assert message(str(tmp_path)).endswith(f"for a folder of images: graftline run --images {tmp_path}")


def test_an_override_without_a_value_says_how_to_write_it():
    expected = "--set: 'seed' is not key=value, for example --set fine_tuning.epochs=5"
    assert message(None, "seed") == expected
