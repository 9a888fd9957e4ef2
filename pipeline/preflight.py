"""Checks that end a run in its first second, before TFX is imported: a mistake in the input should not cost a minute.

`pipeline.cli` calls `check`, then holds `lock` while the run is under way. What needs Keras (weights of another
backbone, a landmark that the trunk does not have) the runner checks. Imports no TFX and no TensorFlow.
"""

import contextlib
import fcntl
import os
import pathlib
import posixpath
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from graftline import features
from graftline.components.evaluator.settings import always_one, check_classes, check_folders
from graftline.errors import UserError, did_you_mean
from graftline.trainer import backbones
from graftline.trainer.settings import BackboneSettings
from graftline.uri import is_uri
from graftline.workspace import Workspace

if TYPE_CHECKING:
    from graftline.components.image_example_gen.layouts import Layout
    from graftline.pipeline.config import Config

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"


def check(config: "Config") -> "Layout":
    """Everything that can be told without TFX about whether a local run can succeed. Makes the workspace.

    Images at a URI are listed through Beam, which is imported for that; folders on disk are told of in a second.

    Returns what the images' folders hold.

    Raises:
      UserError: the first thing found wrong.
    """
    from graftline.components.image_example_gen import layouts
    from graftline.components.storage import files

    check_runner(config)
    check_backbone(config.backbone)
    check_phases(config)
    if config.data.schema_file:
        from graftline.components.data_validation import schema_file

        schema_file.check(config.data.schema_file)
    images = images_folders(config)
    for folder in images:
        check_apart(folder, config.workspace)
    if any(map(is_uri, (*images, config.data.manifest or "", config.push.path or ""))):
        files.use_beam_options(config.beam.options)
    layout = layouts.scan(images, config.data.ingest)
    layouts.check_decodable(layout)
    check_classes(config.gate, layout.classes)
    judging = (file.path for file in layout.files if file.split != features.TRAIN)
    check_folders(config.gate, {posixpath.dirname(path) or "." for path in judging})
    check_push(config.push.path)
    make_workspace(config.workspace)
    return layout


def images_folders(config: "Config") -> tuple[str, ...]:
    """The folders or URIs of images.

    Raises:
      UserError: none is given.
    """
    if not config.image_folders:
        raise UserError("no images are given: name their folder with --images DIR or in the config under 'images'")
    return config.image_folders


def check_runner(config: "Config") -> None:
    """Raises UserError unless Beam's runner is the one that a local run has."""
    if config.beam.runner != "direct":
        raise UserError(
            f"beam.runner is {config.beam.runner}, but a local run has its Beam stages here: set beam.runner=direct"
        )


def check_backbone(backbone: BackboneSettings) -> None:
    """Raises UserError for an input that the backbone cannot take, or weights that are no weights file."""
    least = backbones.get(backbone.name).min_size
    if backbone.size < least:
        raise UserError(f"backbone.input_size is {backbone.size}, but {backbone.name} needs at least {least} pixels")
    if backbone.weights not in backbones.WEIGHTS:
        _check_weights(pathlib.Path(backbone.weights))


def _check_weights(path: pathlib.Path) -> None:
    give = f"give {', '.join(backbones.WEIGHTS)}, or the path of a .keras, .weights.h5 or .h5 file"
    if not path.exists():
        # A path is not a misspelt keyword; `none` would be a costly thing to follow.
        near = "" if path.suffix or len(path.parts) > 1 else did_you_mean(str(path), list(backbones.WEIGHTS))
        raise UserError(f"backbone.weights: there is no file '{path}'{near + ' Or' if near else ';'} {give}")
    if path.is_dir():
        raise UserError(f"backbone.weights: {path} is a folder; {give}")
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise UserError(f"backbone.weights: {path} cannot be read: {error.strerror}") from None
    suffix = ""
    if start.startswith(_HDF5):
        suffix = ".h5"
    if start.startswith(_ZIP) and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith(".weights.h5") for name in archive.namelist()):
                raise UserError(
                    f"backbone.weights: {path} is no Keras weights file: a zip archive without model.weights.h5 in it"
                )
        suffix = ".keras"
    if suffix and path.suffix not in (suffix, ".hdf5"):
        raise UserError(f"backbone.weights: {path}: Keras goes by the name's end: call it {path}{suffix}")
    if suffix:
        return
    found = f"starts with {start!r}" if start else "it is empty"
    raise UserError(f"backbone.weights: {path} is no Keras weights file: {found}; {give}")


def check_phases(config: "Config") -> None:
    """Raises UserError for phases that train nothing, or a landmark that can be none."""
    if config.feature_extraction.epochs == config.fine_tuning.epochs == 0:
        raise UserError("feature_extraction.epochs and fine_tuning.epochs are both 0: nothing would be trained")
    if config.feature_extraction.epochs == 0 and config.fine_tuning.unfreeze_from == "none":
        raise UserError(
            "feature_extraction.epochs is 0 and fine_tuning.unfreeze_from is none: nothing would be trained"
        )
    landmark = config.fine_tuning.unfreeze_from
    if isinstance(landmark, str):
        if not landmark.strip():
            raise UserError(
                "fine_tuning.unfreeze_from is empty; give a layer's name, an index such as -30, all, or none"
            )
        if landmark.lstrip("+-").isdigit():
            raise UserError(
                f"fine_tuning.unfreeze_from is the text '{landmark}'; an index goes without quotes: {landmark}"
            )
    if config.training.transfer_images_per_class and config.backbone.weights == "none":
        raise UserError(
            "training.transfer_images_per_class compares the backbone's weights with random ones, and backbone.weights "
            "is none, which is random already: set training.transfer_images_per_class=0, or give other weights"
        )


def warnings(config: "Config", classes: Sequence[str] = ()) -> list[str]:
    """What is allowed and seldom meant, a sentence each; `classes` are those of the images, where they are known."""
    found = []
    if config.feature_extraction.epochs == 0:
        found.append(
            "feature_extraction.epochs is 0: the trunk is tuned together with a head that knows nothing yet, "
            "whose large gradients can spoil pretrained features"
        )
    if config.fine_tuning.epochs > 0 and config.fine_tuning.unfreeze_from == "none":
        found.append("fine_tuning.unfreeze_from is none: there will be no second phase")
    found += [
        f"{key} says nothing of a model of {len(classes)} classes: the right one is always among so many, so it is "
        "always 1"
        for key in (always_one(config.gate, len(classes)) if classes else ())
    ]
    return found


def check_apart(images: str, workspace: str) -> None:
    """Raises UserError when the workspace lies inside the images, where its folders would be read as classes."""

    if is_uri(images):  # a local run's workspace is on disk
        return
    outer, inner = pathlib.Path(images).resolve(), pathlib.Path(workspace).resolve()
    if inner == outer or outer in inner.parents:
        raise UserError(
            f"workspace {workspace} lies inside the images' folder {images}, where it would be read as a class; "
            "give another with --workspace DIR"
        )


def check_push(path: str | None) -> None:
    """Tries a file in the folder that versions go to, or in the nearest one above it that is there; makes neither.

    Raises:
      UserError: a push to it would fail, with the reason that the system gives. A URI is the Pusher's to try.
    """

    if path is None or is_uri(path):
        return
    folder = pathlib.Path(path).absolute()
    while not os.path.lexists(folder):  # a link to what is not there counts: no folder can be made in its place
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"push.path {path} cannot be made or written: a file in {folder}: {error.strerror or error}; give a folder "
            "that can be, or null for <workspace>/models/<name>"
        ) from None


def make_workspace(workspace: str) -> None:
    """Makes the workspace's folder and tries a file in it, and in those of its folders that are there.

    Raises:
      UserError: with the path and the reason that the system gives.
    """
    if is_uri(workspace):
        raise UserError(
            f"workspace {workspace} is a URI, but `graftline run` keeps its workspace on this machine's disk"
        )
    root = pathlib.Path(workspace)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise UserError(f"workspace {workspace} cannot be made or written: {error.strerror or error}") from None
    for folder in Workspace(workspace).folders:
        if os.path.lexists(folder):  # also a link to what is not mounted
            try:
                with tempfile.TemporaryFile(dir=folder):
                    pass
            except OSError as error:
                raise UserError(
                    f"{folder} cannot be written: {error.strerror or error}; mend that, or give another --workspace"
                ) from None


@contextlib.contextmanager
def lock(workspace: str) -> Iterator[None]:
    """Holds the workspace for this run. The system releases it when the process ends, however it ends.

    Raises:
      UserError: another run holds it; the message names that process.
    """
    path = pathlib.Path(Workspace(workspace).lock)
    # Opened for appending: truncating before the lock is held would wipe the other run's number.
    try:
        opened = path.open("a+")
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}; it belongs to another user's run?") from None
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            process = file.read().strip() or "unknown"
            raise UserError(
                f"another run (process {process}) is under way in {workspace}; wait for it, or give another --workspace"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
