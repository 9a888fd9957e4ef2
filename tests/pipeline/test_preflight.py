"""What a run refuses in its first second, and the lock that keeps two runs out of one workspace."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

from graftline.errors import UserError
from graftline.pipeline import preflight
from graftline.pipeline.config_file import load
from tests.images import write_noise_folder


@pytest.fixture
def images(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two classes of two images."""
    return write_noise_folder(tmp_path / "images", cat=2, dog=2)


def check(images: pathlib.Path | None, *overrides: str):
    workspace = [] if images is None else [f"workspace={images.parent / 'ws'}"]
    given = {} if images is None else {"images": str(images)}
    return preflight.check(load(None, ["backbone.weights=none", *workspace, *overrides], given))


def refusal(images: pathlib.Path | None, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        check(images, *overrides)
    return str(caught.value)


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
    assert refusal(None) == "no images are given: name their folder with --images DIR or in the config under 'images'"


def test_a_missing_images_folder_is_named(tmp_path: pathlib.Path):
    assert f"{tmp_path / 'nowhere'}: no such folder" in refusal(tmp_path / "nowhere")


def test_a_wrong_input_leaves_no_workspace_behind(tmp_path: pathlib.Path):
    refusal(tmp_path / "nowhere")
    assert not (tmp_path / "ws").exists()


def test_a_workspace_that_is_a_file_is_named_with_the_reason(images: pathlib.Path, tmp_path: pathlib.Path):
    (tmp_path / "file").write_text("")
    assert refusal(images, f"workspace={tmp_path / 'file'}") == (
        f"workspace {tmp_path / 'file'} cannot be made or written: File exists"
    )


def test_a_workspace_under_a_file_is_named_with_the_reason(images: pathlib.Path, tmp_path: pathlib.Path):
    (tmp_path / "file").write_text("")
    assert refusal(images, f"workspace={tmp_path / 'file' / 'ws'}").endswith(
        "cannot be made or written: Not a directory"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_workspace_that_may_not_be_written_is_named_with_the_reason(images: pathlib.Path, tmp_path: pathlib.Path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert refusal(images, f"workspace={closed}") == f"workspace {closed} cannot be made or written: Permission denied"


def test_a_folder_of_the_workspace_that_cannot_be_written_is_named_with_the_reason(images: pathlib.Path):
    check(images)
    workspace = images.parent / "ws"
    for name in ("artifacts", "cache", "checkpoints", "logs", "models", "quarantine"):
        (workspace / name).write_text("")
        assert refusal(images) == (
            f"{workspace / name} cannot be written: Not a directory; mend that, or give another --workspace"
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
    assert "lies inside the images' folder" in refusal(images, f"workspace={images / inside}")


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
    with pytest.raises(UserError, match=f"lies inside the images' folder {images.parent / inside}"):
        preflight.check(config.model_copy(update={"workspace": str(images.parent / inside / "ws")}))


def test_the_settings_of_the_data_reach_the_scan(images: pathlib.Path):
    assert "data.manifest: nowhere.csv can't be read: No such file" in refusal(images, "data.manifest=nowhere.csv")
    assert "data.spans is 1, but the folders of" in refusal(images, "data.spans=1")


def test_images_at_a_uri_are_listed_with_the_options_of_beam(images: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import S3Options

    from tests.components.image_example_gen.filesystems import Plain

    monkeypatch.setattr(FileSystems, "_pipeline_options", None)
    overrides = [f"workspace={images.parent / 'ws'}", "backbone.weights=none", "beam.options=[--s3_region_name=moon]"]
    config = load(None, overrides, {"images": f"{Plain.scheme()}://{images}"})
    assert preflight.check(config).classes == ("cat", "dog")
    assert FileSystems._pipeline_options.view_as(S3Options).s3_region_name == "moon"


def test_a_uri_that_nobody_knows_is_refused_before_a_workspace_is_made(tmp_path: pathlib.Path):
    config = load(None, [f"workspace={tmp_path / 'ws'}", "backbone.weights=none"], {"images": "nowhere://bucket/set"})
    with pytest.raises(UserError, match="no filesystem is known for nowhere://"):
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
        f"push.path {tmp_path / place} cannot be made or written: a file in {tmp_path / fault}: {why}; "
        "give a folder that can be, or null for <workspace>/models/<name>"
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
        "beam.runner is flink, but a local run has its Beam stages here: set beam.runner=direct"
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
        "fine_tuning.unfreeze_from is the text '-30'; an index goes without quotes: -30"
    )


def test_an_empty_landmark_is_refused(images: pathlib.Path):
    assert "fine_tuning.unfreeze_from is empty" in refusal(images, "fine_tuning.unfreeze_from=''")


def test_a_folder_of_the_gate_that_no_image_lies_in_is_refused_with_those_that_there_are(images: pathlib.Path):
    (images / "dog" / "old").mkdir()
    (images / "dog" / "0.jpg").rename(images / "dog" / "old" / "0.jpg")
    for name, hint in (("old", "did you mean 'dog/old'?"), ("lost", "there are cat, dog, dog/old")):
        assert refusal(images, f"gate.slices.folder.values.{name}.accuracy.min=0.5") == (
            f"gate.slices.folder.values names the folder '{name}', but no image to judge by lies in a folder of that "
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
        "gate.top_10_accuracy says nothing of a model of 5 classes: the right one is always among so many, so it is "
        "always 1"
    ]
    assert len(preflight.warnings(config, ["a", "b", "c"])) == 2
    assert preflight.warnings(config, [str(number) for number in range(11)]) == []


def test_skipping_the_first_phase_is_warned_of():
    assert preflight.warnings(load(None)) == []
    (warning,) = preflight.warnings(load(None, ["feature_extraction.epochs=0"]))
    assert warning.startswith("feature_extraction.epochs is 0: ")


# --- weights ----------------------------------------------------------------------------------------------------------


def write_zip(path: pathlib.Path, name: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"x")


def test_weights_of_each_kind_are_accepted(images: pathlib.Path, tmp_path: pathlib.Path):
    (tmp_path / "old.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    write_zip(tmp_path / "new.keras", "model.weights.h5")
    for weights in ("imagenet", "none", tmp_path / "old.h5", tmp_path / "new.keras"):
        check(images, f"backbone.weights={weights}")


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_weights_that_keras_would_not_know_by_their_name_are_told_the_right_one(
    images: pathlib.Path, tmp_path: pathlib.Path, suffix: str
):
    if suffix == ".h5":
        (tmp_path / "weights").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    else:
        write_zip(tmp_path / "weights", "model.weights.h5")
    assert f"Keras goes by the name's end: call it {tmp_path}/weights{suffix}" in refusal(
        images, f"backbone.weights={tmp_path}/weights"
    )


def test_missing_weights_say_what_to_give(images: pathlib.Path):
    assert refusal(images, "backbone.weights=nowhere.h5") == (
        "backbone.weights: there is no file 'nowhere.h5'; "
        "give imagenet, procedural, none, or the path of a .keras, .weights.h5 or .h5 file"
    )


def test_the_weights_that_ship_go_with_their_own_trunk_only(images: pathlib.Path):
    check(images, "backbone.weights=procedural")
    check(images, "backbone.weights=procedural", "backbone.options={alpha: 0.35}", "backbone.input_size=128")
    alone = load(None, ["backbone.weights=procedural"]).backbone
    assert (alone.name, alone.options, alone.size) == ("MobileNetV2", {"alpha": 0.35}, 96)
    assert load(None, ["backbone.weights=procedural", "backbone.input_size=64"]).backbone.size == 64
    printed = ["backbone.options={}", "backbone.input_size=null"]  # as `graftline config` has them
    assert load(None, ["backbone.weights=procedural", *printed]).backbone == alone
    for key, wrong, right in (("name", "ResNet50", "MobileNetV2"), ("options", "{'alpha': 0.5}", "{'alpha': 0.35}")):
        assert refusal(images, "backbone.weights=procedural", f"backbone.{key}={wrong}").endswith(
            f"backbone.weights: procedural goes with backbone.{key} {right} only, and here it is {wrong}: "
            f"leave backbone.{key} away, or give other weights"
        )


def test_random_weights_are_not_compared_with_random_weights(images: pathlib.Path):
    told = refusal(images, "backbone.weights=none", "training.transfer_images_per_class=10")
    assert told.startswith("training.transfer_images_per_class compares the backbone's weights with random ones, and ")
    assert "set training.transfer_images_per_class=0, or give other weights" in told


def test_misspelt_weights_name_the_nearest(images: pathlib.Path):
    assert "'procedual'; did you mean 'procedural'? Or give" in refusal(images, "backbone.weights=procedual")
    assert "there is no file 'imagnet'; did you mean 'imagenet'? Or give" in refusal(images, "backbone.weights=imagnet")


def test_a_file_that_holds_no_weights_is_refused_with_its_beginning(images: pathlib.Path, tmp_path: pathlib.Path):
    page = tmp_path / "w.h5"
    page.write_text("<!DOCTYPE html><html>")
    assert f"{page} is no Keras weights file: starts with b'<!DOCTYPE html><'" in refusal(
        images, f"backbone.weights={page}"
    )


def test_an_empty_weights_file_is_refused(images: pathlib.Path, tmp_path: pathlib.Path):
    (tmp_path / "w.h5").touch()
    assert "is no Keras weights file: it is empty" in refusal(images, f"backbone.weights={tmp_path / 'w.h5'}")


def test_a_zip_of_something_else_is_refused(images: pathlib.Path, tmp_path: pathlib.Path):
    write_zip(tmp_path / "w.keras", "photo.jpg")
    assert "a zip archive without model.weights.h5 in it" in refusal(images, f"backbone.weights={tmp_path / 'w.keras'}")


def test_a_half_downloaded_zip_is_refused(images: pathlib.Path, tmp_path: pathlib.Path):
    write_zip(tmp_path / "whole", "model.weights.h5")
    (tmp_path / "half.keras").write_bytes((tmp_path / "whole").read_bytes()[:40])
    assert "is no Keras weights file: starts with b'PK" in refusal(
        images, f"backbone.weights={tmp_path / 'half.keras'}"
    )


def test_a_folder_as_weights_is_refused(images: pathlib.Path, tmp_path: pathlib.Path):
    assert f"{tmp_path} is a folder" in refusal(images, f"backbone.weights={tmp_path}")


# --- the lock ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def other_run(tmp_path: pathlib.Path):
    """Another process that holds the workspace."""
    program = (
        "import sys; from graftline.pipeline import preflight\n"
        "with preflight.lock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=pipe, stdout=pipe, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_in_the_same_workspace_is_told_of_the_first(tmp_path: pathlib.Path, other_run: subprocess.Popen):
    with pytest.raises(UserError) as caught, preflight.lock(str(tmp_path)):
        pass
    assert str(caught.value) == (
        f"another run (process {other_run.pid}) is under way in {tmp_path}; wait for it, or give another --workspace"
    )


def test_a_killed_run_leaves_its_workspace_free(tmp_path: pathlib.Path, other_run: subprocess.Popen):
    other_run.kill()
    other_run.wait()
    with preflight.lock(str(tmp_path)):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


def test_a_run_that_fails_leaves_its_workspace_free(tmp_path: pathlib.Path):
    with pytest.raises(ZeroDivisionError), preflight.lock(str(tmp_path)):
        raise ZeroDivisionError
    with preflight.lock(str(tmp_path)):
        pass


def test_runs_in_two_workspaces_do_not_meet(tmp_path: pathlib.Path, other_run: subprocess.Popen):
    (tmp_path / "other").mkdir()
    with preflight.lock(str(tmp_path / "other")):
        assert other_run.poll() is None
