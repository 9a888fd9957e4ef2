"""What a run refuses in its first second: images, workspace, place to push to, settings."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from graftline.errors import UserError
from graftline.pipeline import preflight
from graftline.pipeline.config_file import load
from tests import folders
from tests.pipeline.preflights import check, refusal


def test_a_good_config_passes_and_its_workspace_is_there(images: pathlib.Path):
    layout = check(images)
    assert layout.classes == ("cat", "dog")
    assert len(layout.files) == 4
    assert (images.parent / "ws").is_dir()


@pytest.mark.parametrize("by", ["folders", "a table"])
def test_no_heavy_library_is_imported_by_the_checks(images: pathlib.Path, by: str):
    (images.parent / "labels.csv").write_text("path,label\ncat/0.jpg,a\ncat/1.jpg,a\ndog/0.jpg,b\ndog/1.jpg,b\n")
    manifest = images.parent / "labels.csv" if by == "a table" else "null"
    program = (
        "import sys; from graftline.pipeline import preflight; from graftline.pipeline.config_file import load; "
        f"overrides = ['backbone.weights=none', 'data.manifest={manifest}']; "
        "preflight.check(load(None, overrides, {'images': sys.argv[1], 'workspace': sys.argv[2]})); "
        "print([name for name in ('tensorflow', 'tfx', 'keras', 'apache_beam', 'numpy') if name in sys.modules])"
    )
    arguments = [sys.executable, "-c", program, str(images), str(images.parent / "ws")]
    assert subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.strip() == "[]"


# --- images and workspace ---------------------------------------------------------------------------------------------


def test_no_images_given_says_how_to_give_them():
    assert refusal(None) == "no images: name their folder with --images DIR, or set images in the config"


def test_a_missing_images_folder_is_named(tmp_path: pathlib.Path):
    assert f"{tmp_path / 'nowhere'}: no such folder" in refusal(tmp_path / "nowhere")


def test_a_wrong_input_leaves_no_workspace_behind(tmp_path: pathlib.Path):
    refusal(tmp_path / "nowhere")
    assert not (tmp_path / "ws").exists()


def test_a_workspace_that_is_a_file_is_named_with_the_reason(images: pathlib.Path, tmp_path: pathlib.Path):
    (tmp_path / "file").write_text("")
    assert refusal(images, f"workspace={tmp_path / 'file'}") == (
        f"workspace {tmp_path / 'file'} cannot be made or written: File exists; give another with --workspace"
    )


def test_a_workspace_under_a_file_is_named_with_the_reason(images: pathlib.Path, tmp_path: pathlib.Path):
    (tmp_path / "file").write_text("")
    assert refusal(images, f"workspace={tmp_path / 'file' / 'ws'}").endswith(
        "cannot be made or written: Not a directory; give another with --workspace"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_workspace_that_may_not_be_written_is_named_with_the_reason(images: pathlib.Path, tmp_path: pathlib.Path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert refusal(images, f"workspace={closed}") == (
        f"workspace {closed} cannot be made or written: Permission denied; give another with --workspace"
    )


def test_a_folder_of_the_workspace_that_cannot_be_written_is_named_with_the_reason(images: pathlib.Path):
    check(images)
    workspace = images.parent / "ws"
    for name in ("artifacts", "cache", "checkpoints", "logs", "models", "quarantine"):
        (workspace / name).write_text("")
        assert refusal(images) == (
            f"{workspace / name} cannot be written: Not a directory; repair it, or give another --workspace"
        )
        (workspace / name).unlink()
        (workspace / name).symlink_to(images.parent / "not mounted")
        assert refusal(images).startswith(f"{workspace / name} cannot be written: No such file or directory")
        (workspace / name).unlink()
        (workspace / name).mkdir()
    check(images)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_may_only_be_read_is_refused(images: pathlib.Path):
    (images.parent / "ws" / "cache").mkdir(parents=True, mode=0o500)
    assert refusal(images).startswith(f"{images.parent / 'ws' / 'cache'} cannot be written: Permission denied")


@pytest.mark.parametrize("inside", ["", "ws", "cat/ws"])
def test_a_workspace_inside_the_images_is_refused(images: pathlib.Path, inside: str):
    assert "is inside the images' folder" in refusal(images, f"workspace={images / inside}")


def test_images_inside_the_workspace_are_fine(images: pathlib.Path):
    assert check(images, f"workspace={images.parent}").classes == ("cat", "dog")


@pytest.mark.parametrize("inside", ["images", "more"])
def test_of_several_folders_none_may_hold_the_workspace(images: pathlib.Path, inside: str):
    for path in ("bird/0.jpg", "bird/1.jpg"):
        (images.parent / "more" / path).parent.mkdir(parents=True, exist_ok=True)
        (images.parent / "more" / path).write_bytes((images / "cat/0.jpg").read_bytes())
    both = {"images": [str(images), str(images.parent / "more")]}
    config = load(None, ["backbone.weights=none", f"workspace={images.parent / 'ws'}"]).model_copy(update=both)
    assert preflight.check(config).classes == ("bird", "cat", "dog")
    with pytest.raises(UserError, match=f"is inside the images' folder {images.parent / inside}"):
        preflight.check(config.model_copy(update={"workspace": str(images.parent / inside / "ws")}))


def test_the_settings_of_the_data_reach_the_scan(images: pathlib.Path):
    assert "data.manifest: nowhere.csv cannot be read: No such file" in refusal(images, "data.manifest=nowhere.csv")
    assert "data.spans is 1, but the folders of" in refusal(images, "data.spans=1")


def test_images_at_a_uri_are_listed_with_the_options_of_beam(images: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import S3Options

    from tests.components.storage.file_systems import Plain

    monkeypatch.setattr(FileSystems, "_pipeline_options", None)
    overrides = [f"workspace={images.parent / 'ws'}", "backbone.weights=none", "beam.options=[--s3_region_name=moon]"]
    config = load(None, overrides, {"images": f"{Plain.scheme()}://{images}"})
    assert preflight.check(config).classes == ("cat", "dog")
    assert FileSystems._pipeline_options.view_as(S3Options).s3_region_name == "moon"


def test_a_uri_that_nobody_knows_is_refused_before_a_workspace_is_made(tmp_path: pathlib.Path):
    config = load(None, [f"workspace={tmp_path / 'ws'}", "backbone.weights=none"], {"images": "nowhere://bucket/set"})
    with pytest.raises(UserError, match="no file system is known for nowhere://"):
        preflight.check(config)
    assert not (tmp_path / "ws").exists()


def test_a_workspace_in_a_bucket_is_refused(images: pathlib.Path):
    assert "gs://bucket/ws is a URI, but" in refusal(images, "workspace=gs://bucket/ws")


@pytest.mark.parametrize(
    ("place", "fault", "why"),
    [
        ("file", "file", "Not a directory"),
        ("file/a/b", "file", "Not a directory"),
        ("gone/a", "gone", "No such file or directory"),
        ("/proc/nope/deeper", "/proc", "No such file or directory"),
    ],
)
def test_a_place_to_push_to_that_cannot_be_is_refused(
    images: pathlib.Path, tmp_path: pathlib.Path, place: str, fault: str, why: str
):
    (tmp_path / "file").touch()
    (tmp_path / "gone").symlink_to(tmp_path / "not mounted")
    assert refusal(images, f"push.path={tmp_path / place}") == (
        f"push.path {tmp_path / place}: no file can be written into {tmp_path / fault}: {why}; "
        "give a folder that can be written, or null for <workspace>/models/<name>"
    )
    assert not (tmp_path / "ws").exists()


def test_a_place_to_push_to_is_tried_and_not_made(images: pathlib.Path, tmp_path: pathlib.Path):
    check(images, f"push.path={tmp_path / 'a' / 'b'}")
    assert not (tmp_path / "a").exists()
    (tmp_path / "there").mkdir()
    check(images, f"push.path={tmp_path / 'there'}")
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_to_push_to_that_may_not_be_written_is_refused(images: pathlib.Path, tmp_path: pathlib.Path):
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "Permission denied" in refusal(images, f"push.path={tmp_path / 'closed' / 'roses'}")


# --- what needs no Keras to be found wrong ----------------------------------------------------------------------------


def test_a_runner_elsewhere_is_refused(images: pathlib.Path):
    assert refusal(images, "beam.runner=flink") == (
        "beam.runner is flink, but `graftline run` runs Beam here: set beam.runner=direct"
    )


def test_one_logit_is_for_two_classes(images: pathlib.Path):
    check(images, "head.output=sigmoid")
    shutil.copytree(next(path for path in images.iterdir() if path.is_dir()), images / "third")
    assert refusal(images, "head.output=sigmoid") == (
        "head.output: sigmoid is one logit for two classes, but there are 3: set head.output=softmax"
    )


def test_an_input_smaller_than_the_backbone_takes_is_refused(images: pathlib.Path):
    assert refusal(images, "backbone.name=InceptionV3", "backbone.input_size=74") == (
        "backbone.input_size is 74, but InceptionV3 needs at least 75 pixels"
    )
    check(images, "backbone.name=InceptionV3", "backbone.input_size=75")


def test_phases_that_train_nothing_are_refused(images: pathlib.Path):
    assert refusal(images, "feature_extraction.epochs=0", "fine_tuning.epochs=0").endswith("nothing would be trained")


def test_an_index_in_quotes_is_refused(images: pathlib.Path):
    assert refusal(images, "fine_tuning.unfreeze_from='-30'") == (
        "fine_tuning.unfreeze_from is the text '-30'; write an index without quotes: -30"
    )


def test_an_empty_landmark_is_refused(images: pathlib.Path):
    assert "fine_tuning.unfreeze_from is empty" in refusal(images, "fine_tuning.unfreeze_from=''")


def test_a_folder_of_the_gate_that_no_image_lies_in_is_refused_with_those_that_there_are(images: pathlib.Path):
    (images / "dog" / "old").mkdir()
    (images / "dog" / "0.jpg").rename(images / "dog" / "old" / "0.jpg")
    for name, hint in (("old", "did you mean 'dog/old'?"), ("lost", "the folders are cat, dog, dog/old")):
        assert refusal(images, f"gate.slices.folder.values.{name}.accuracy.min=0.5") == (
            f"gate.slices.folder.values names the folder '{name}', but no image to judge on lies in a folder of that "
            f"name; {hint}"
        )
    check(images, "gate.slices.folder.values.dog/old.accuracy.min=0.5")


def test_a_folder_of_the_gate_whose_images_are_trained_on_is_refused(images: pathlib.Path, tmp_path: pathlib.Path):
    for split in ("train", "val"):
        shutil.copytree(images, tmp_path / "split" / split)
    check(tmp_path / "split", "gate.slices.folder.values.val/cat.accuracy.min=0.5")
    assert refusal(tmp_path / "split", "gate.slices.folder.values.train/cat.accuracy.min=0.5").endswith(
        "; did you mean 'val/cat'?"
    )


def test_a_threshold_that_every_model_of_so_few_classes_reaches_is_warned_of():
    config = load(None, ["gate.top_10_accuracy.min=0.9", "gate.top_3_accuracy.min=0.9"])
    assert preflight.warnings(config, ["a", "b", "c", "d", "e"]) == [
        "gate.top_10_accuracy is always 1 for 5 classes: it judges nothing"
    ]
    assert len(preflight.warnings(config, ["a", "b", "c"])) == 2
    assert preflight.warnings(config, [str(number) for number in range(11)]) == []


def test_skipping_the_first_phase_is_warned_of():
    assert preflight.warnings(load(None)) == []
    (warning,) = preflight.warnings(load(None, ["feature_extraction.epochs=0"]))
    assert warning.startswith("feature_extraction.epochs is 0: ")


def few_judged(images: pathlib.Path, *overrides: str) -> list[str]:
    config = load(None, ["backbone.weights=none", *overrides], {"images": str(images)})
    return list(preflight.warn_of_few_judged(config, check(images, *overrides)))


def test_too_few_images_for_the_gate_to_tell_are_noted_before_the_training(tmp_path: pathlib.Path) -> None:
    folders.write_stubs(tmp_path / "few", [f"{name}/{number}.jpg" for name in ("cat", "dog") for number in range(3)])
    assert few_judged(tmp_path / "few") == [
        "about 2 images are held back to judge the model: by gate.accuracy.min=majority no model can pass on fewer "
        "than 4, because 50% of them are of one class: add images, or set gate.accuracy.min to a number"
    ]
    assert few_judged(tmp_path / "few", "gate.accuracy.min=0.5") == []
    assert few_judged(tmp_path / "few", "data.eval_fraction=0.7") == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("head.dense=[8]", r"solves a linear head, but head\.dense is \[8\]"),
        ("head.layers=[Flatten, {Dense: 8}, PReLU]", r"but head\.layers has weights of its own in Dense, PReLU"),
        ("training.label_smoothing=0.1", r"but training\.label_smoothing is 0\.1: set it to 0"),
        ("augmentation={flip: both, views: 0}", r"but augmentation\.views is 0, .* set augmentation\.views=4"),
        ("feature_extraction.epochs=0", r"has nothing to do, because feature_extraction\.epochs is 0"),
    ],
)
def test_a_solver_is_refused_what_it_cannot_solve(images: pathlib.Path, change: str, expected: str):
    changes = ["backbone.weights=none", change]
    check(images, *changes)
    said = refusal(images, "feature_extraction.solver=linear_svm", *changes)
    assert re.search("feature_extraction.solver: linear_svm .*" + expected, said), said


def test_a_classifier_that_no_cut_names_is_refused(images: pathlib.Path):
    check(images, "backbone.weights=none", "backbone.include_top=true", "head.cut_at=predictions")
    assert "backbone.include_top: it needs head.cut_at" in refusal(
        images, "backbone.weights=none", "backbone.include_top=true"
    )
    assert "backbone.include_top: the procedural weights have no classifier" in refusal(
        images, "backbone.weights=procedural", "backbone.include_top=true", "head.cut_at=predictions"
    )
