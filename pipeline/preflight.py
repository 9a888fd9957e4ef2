"""Checks that find mistakes in the input in the first second of a run, before TFX is imported.

`pipeline.app` calls `check`, then holds `lock` during the run. The runner checks what needs Keras: weights of another
backbone, and a layer that the trunk does not have. Imports no TFX and no TensorFlow.
"""

import contextlib
import os
import pathlib
import posixpath
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from graftline import disk, features, full_disk, own_keras, patterns, uri
from graftline.components.evaluator import (
    always_one,
    check_classes,
    check_folders,
    describe_lookalikes,
    explain_other_classes,
    warn_of_few_images,
)
from graftline.errors import UserError, did_you_mean
from graftline.trainer import (
    WEIGHTS,
    BackboneSettings,
    check_output,
    check_solver,
    check_top,
    check_unfreezing,
    get_backbone,
    warn_of_unfreezing,
)
from graftline.uri import is_uri
from graftline.workspace import Workspace

if TYPE_CHECKING:
    from graftline.components.image_example_gen import Layout
    from graftline.pipeline.config import Config

_MAX_LABELS = 64 << 20  # bytes of a file of class names
_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"


def check(config: "Config") -> "Layout":
    """Check everything that can be checked without TFX, then make the workspace; return what the images' folders hold.

    Folders on disk are listed in a second. Images at a URI are listed with Beam, which is imported for them. The first
    mistake is raised as UserError.
    """
    from graftline.components.image_example_gen import check_decodable, scan_images
    from graftline.components.storage import files

    check_runner(config)
    if not is_uri(config.workspace):
        Workspace(config.workspace).check_format()
    own_keras.check_file()
    check_backbone(config.backbone)
    check_phases(config)
    if config.data.schema_file:
        from graftline.components.data_validation import check_schema_file

        check_schema_file(config.data.schema_file)
    images = images_folders(config)
    for folder in images:
        check_apart(folder, config.workspace)
    if any(map(is_uri, (*images, config.data.manifest or "", config.push.path or ""))):
        files.use_beam_options(config.beam.options)
    layout = scan_images(images, config.data.ingest)
    check_decodable(layout)
    check_classes(config.gate, layout.classes)
    check_output(config.head.output, len(layout.classes))
    judged = (file.path for file in layout.files if file.split != features.TRAIN)
    check_folders(config.gate, {posixpath.dirname(path) or "." for path in judged})
    check_push(config.push.path)
    make_workspace(config.workspace)
    return layout


def images_folders(config: "Config") -> tuple[str, ...]:
    """Return the folders or URIs of images; raise UserError if the config names none."""
    if not config.image_folders:
        raise UserError("no images: name their folder with --images DIR, or set images in the config")
    return config.image_folders


def check_runner(config: "Config") -> None:
    """Raise UserError for a Beam runner that a local run cannot use."""
    if config.beam.runner != "direct":
        raise UserError(
            f"beam.runner is {config.beam.runner}, but `graftline run` runs Beam here: set beam.runner=direct"
        )


def check_backbone(backbone: BackboneSettings) -> None:
    """Raise UserError for an input that is too small for the backbone, or a file that holds no weights."""
    least = get_backbone(backbone.name).min_size
    if backbone.size < least:
        raise UserError(f"backbone.input_size is {backbone.size}, but {backbone.name} needs at least {least} pixels")
    if backbone.weights not in WEIGHTS:
        _check_weights(pathlib.Path(backbone.weights))


def _check_weights(path: pathlib.Path) -> None:
    advice = f"give {', '.join(WEIGHTS)}, or the path of a .keras, .weights.h5 or .h5 file"
    if not path.exists():
        # A path is no misspelt keyword: to suggest `none` for one could cost a training run.
        near = "" if path.suffix or len(path.parts) > 1 else did_you_mean(str(path), list(WEIGHTS))
        raise UserError(f"backbone.weights: there is no file '{path}'{near + ' Or' if near else ';'} {advice}")
    if path.is_dir():
        raise UserError(f"backbone.weights: {path} is a folder; {advice}")
    if not path.is_file():
        raise UserError(f"backbone.weights: {path} is no regular file; {advice}")
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise UserError(f"backbone.weights: {path} cannot be read: {error.strerror}") from None
    if start.startswith(_HDF5) or (start.startswith(_ZIP) and "model.weights.h5" in _names_in_zip(path)):
        return  # the trainer knows the kind of a file by its content, not by its suffix
    content = f"it starts with {start!r}" if start else "it is empty"
    if start.startswith(_ZIP) and zipfile.is_zipfile(path):
        content = "a zip archive without model.weights.h5"
    raise UserError(f"backbone.weights: {path} is not a Keras weights file: {content}; {advice}")


def _names_in_zip(path: pathlib.Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, ValueError, NotImplementedError, struct.error, zipfile.BadZipFile):  # damaged or crafted
        return []


def check_phases(config: "Config") -> None:
    """Raise UserError for phases that train nothing, a head that no solver solves, or an impossible unfreeze_from."""
    check_unfreezing(config.feature_extraction, config.fine_tuning)
    check_top(config.backbone, config.head)
    check_solver(config.feature_extraction, config.head, config.training, config.augmentation)
    if config.training.transfer_images_per_class and config.backbone.weights == "none":
        raise UserError(
            "training.transfer_images_per_class compares the backbone's weights with random weights, but "
            "backbone.weights is none, which means random: set training.transfer_images_per_class=0, or give other "
            "weights"
        )


def check_served_classes(config: "Config", classes: Sequence[str]) -> str:
    """Return a note on classes that look like classes of the model that is served by this name; "" for none.

    Raise UserError if the served model knows none of the classes: a model of other things would take its place without
    a comparison. A served model whose classes cannot be read is left to the gate, which says so.
    """
    from graftline.components.storage import files, versions
    from graftline.pipeline.site import Site

    base_path = Site(Workspace(config.workspace), "").base_path(config)
    try:
        if not (served := versions.served_version(base_path)):
            return ""
        data, _ = files.read(uri.join(served, "assets", features.LABELS_FILE), _MAX_LABELS)
        served_classes = features.parse_labels(data)
    except (OSError, UnicodeDecodeError):
        return ""
    if reason := explain_other_classes(classes, served_classes):
        raise UserError(
            f"the model '{config.model_name}' is served from {served}, and {reason}. If this is another model, name it "
            "with --set model.name=NAME. If it takes the place of the served one, add --reset-baseline"
        )
    if alike := describe_lookalikes(classes, served_classes):
        return f"the served model '{config.model_name}' has other classes{alike}"
    return ""


def warnings(config: "Config", classes: Sequence[str] = ()) -> list[str]:
    """Return a sentence for each setting that is allowed but rarely intended; `classes` are the labels."""
    sentences = []
    if config.feature_extraction.epochs == 0:
        sentences.append(
            "feature_extraction.epochs is 0: the trunk is trained together with an untrained head, whose large "
            "gradients can spoil the pretrained features"
        )
    sentences += warn_of_unfreezing(config.fine_tuning)
    useless = always_one(config.gate, len(classes)) if classes else ()
    return sentences + [f"{key} is always 1 for {len(classes)} classes: it judges nothing" for key in useless]


def warn_of_few_judged(config: "Config", layout: "Layout") -> Iterator[str]:
    """Yield a note if so few images will be judged on that the gate's default refuses every model."""
    by_class: dict[str, dict[str, int]] = {}  # the files of each split, by class
    for file in layout.files:
        counts = by_class.setdefault(file.split, {})
        counts[file.label] = counts.get(file.label, 0) + 1
    # Where the content decides the split, each class has at least one image to judge on.
    by_content = {name: max(1.0, count * config.data.eval_fraction) for name, count in by_class.get("", {}).items()}
    judged: Mapping[str, float] = by_class.get(features.TEST) or by_class.get(features.EVAL) or by_content
    if total := sum(judged.values()):
        yield from warn_of_few_images(config.gate, total, max(judged.values()) / total)


def check_apart(images: str, workspace: str) -> None:
    """Raise UserError for a workspace inside the images, where its folders would be read as classes."""
    if is_uri(images):  # the workspace of a local run is on disk
        return
    outer, inner = pathlib.Path(images).resolve(), pathlib.Path(workspace).resolve()
    if inner == outer or outer in inner.parents:
        raise UserError(
            f"workspace {workspace} is inside the images' folder {images}, where it would be read as a class; "
            "give another folder with --workspace DIR"
        )


def check_push(path: str | None) -> None:
    """Try all that a push does in the folder of the versions, or in the nearest existing folder above it.

    A URI is not tried here: the Pusher does.
    """
    if path is None or is_uri(path):
        return
    if trouble := patterns.no_text(os.path.abspath(path)):
        raise UserError(f"push.path {path} holds {trouble}; give another folder")
    folder = pathlib.Path(path).absolute()
    while not os.path.lexists(folder):  # a broken link counts: no folder can be made in its place
        folder = folder.parent
    advice = "give a folder that can be written, or null for <workspace>/models/<name>"
    with _explained(f"push.path {path}: no file can be written into {folder}", advice):
        disk.rehearse(str(folder))


def make_workspace(workspace: str) -> None:
    """Make the workspace's folder; try all that a run does in it, and to write into each of its folders that exists."""
    if is_uri(workspace):
        raise UserError(
            f"workspace {workspace} is a URI, but `graftline run` needs a folder on disk: give another with --workspace"
        )
    root = pathlib.Path(workspace)
    for path in (os.path.abspath(root), os.path.realpath(root)):
        if trouble := patterns.fault(path):
            raise UserError(
                f"workspace {workspace}: its path {path} holds {trouble} for TensorFlow and Beam; give another with "
                "--workspace"
            )
    with _explained(f"workspace {workspace} cannot be made or written", "give another with --workspace"):
        root.mkdir(parents=True, exist_ok=True)
        disk.rehearse(str(root))
    for folder in filter(os.path.lexists, Workspace(workspace).folders):  # also a link to a disk that is not mounted
        with _explained(f"{folder} cannot be written", "repair it, or give another --workspace"):
            tempfile.TemporaryFile(dir=folder).close()


@contextlib.contextmanager
def _explained(trouble: str, advice: str) -> Iterator[None]:
    """Turn an OSError into a UserError that gives the operating system's reason."""
    try:
        yield
    except OSError as error:
        full = full_disk.explain(error)
        raise UserError(f"{trouble}: {full or error.strerror or error}; {advice}") from None


@contextlib.contextmanager
def lock(workspace: str) -> Iterator[None]:
    """Hold the workspace for this run, and write the number of its format if it has none.

    The operating system releases the lock when the process ends, for whatever reason it ends. UserError: another run
    holds the workspace (the message names its process), a newer Graftline made it, or its file system has no locks.
    """
    Workspace(workspace).check_format()  # before anything is written into it
    path = pathlib.Path(Workspace(workspace).lock)
    # Opened for appending: truncating before the lock is held would remove the other run's process number.
    with _explained(f"{path} cannot be opened", "if it belongs to another user's run, give another --workspace"):
        opened = path.open("a+")
    with opened as file:
        try:
            disk.lock(file.fileno(), workspace, wait=False)
        except BlockingIOError:
            file.seek(0)
            process = file.read().strip() or "unknown"
            raise UserError(
                f"another run (process {process}) uses {workspace}: wait until it ends, or give another --workspace"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        Workspace(workspace).require_format()
        yield
