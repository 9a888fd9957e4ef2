"""`models.config` beside the base paths: which versions TensorFlow Serving loads, and their labels stable and canary.

Each push and rollback writes it. `canary` is the newest version. `stable` is the version that was served before, so a
client of `stable` is one push behind. After a rollback, and for a first version, both are the newest.
Format: https://www.tensorflow.org/tfx/serving/serving_config ("Assigning string labels to model versions").
"""

import logging
import os
from collections.abc import Collection
from typing import Any

from graftline.serving.versions.base_path import BasePath, Disk
from graftline.serving.versions.model_config import HEAD_LINE

FILE = "models.config"
STABLE, CANARY = "stable", "canary"

_logger = logging.getLogger(__name__)
_HEAD = f"""\
{HEAD_LINE}, for tensorflow_model_server --model_config_file=THIS_FILE
# --model_config_file_poll_wait_seconds=60. Graftline rewrites this file with each push. It sets the labels stable and
# canary, and keeps your other labels, other models, and any policy that is not `specific`. It keeps no comments.
"""


class _UnreadableError(Exception):
    """The file is no ModelServerConfig with a list of models."""


def config_path(base: BasePath) -> str:
    """Return the path of the `models.config` that lists the model at `base`."""
    return f"{base.path.rpartition('/')[0]}/{FILE}"


def pinned_versions(base: BasePath) -> set[int] | None:
    """Return the versions of this model that `models.config` names; None when it cannot be read, and may name any."""
    try:
        entries = _entries_of(base, _parse(base.read(config_path(base))))
    except (_UnreadableError, OSError) as error:
        _logger.warning("%s cannot be read (%s): no version is removed", config_path(base), error)
        return None
    labels = {version for entry in entries for version in entry.version_labels.values()}
    return labels | {version for entry in entries for version in entry.model_version_policy.specific.versions}


def canary_version(base: BasePath) -> int | None:
    """Return the version with the label canary; None when there is none, or the file cannot be read."""
    try:
        entries = _entries_of(base, _parse(base.read(config_path(base))))
    except (_UnreadableError, OSError):
        return None
    return entries[0].version_labels.get(CANARY) if entries else None


def update(base: BasePath, stable: int, canary: int) -> None:
    """Set both labels of the model.

    A file that cannot be read or written is left as it is, with a warning: a push must not fail because of it.
    """
    path = config_path(base)
    try:
        with base.locked(path.rpartition("/")[0]):
            before = base.read(path)
            config = _parse(before)
            _set_labels(config, base, stable, canary)
            after = _to_text(config)
            if after != before:
                base.write(path, after)
    except (_UnreadableError, OSError) as error:
        _logger.warning("%s was not updated: %s", path, error)


def relocate(folder: str, moved_from: Collection[str] | None = None) -> None:
    """Name `folder`, which holds the models, in the base paths of its `models.config`; nothing without such a file.

    `moved_from` are the folders that it was moved or copied from; None stands for every other folder. A base path is
    changed if its last part is a folder in `folder`. A file that cannot be read or written is left, with a warning.
    """
    disk = Disk(folder)
    path = f"{disk.path}/{FILE}"
    try:
        if not os.path.exists(path):
            return
        with disk.locked(disk.path):
            before = disk.read(path)
            config = _parse(before)
            for entry in config.model_config_list.config:
                parent, name = os.path.split(entry.base_path.rstrip("/"))
                moved = parent != disk.path if moved_from is None else parent in moved_from
                if moved and os.path.isdir(os.path.join(disk.path, name)):
                    entry.base_path = os.path.join(disk.path, name)
            if (after := _to_text(config)) != before:
                disk.write(path, after)
    except (_UnreadableError, OSError) as error:
        _logger.warning("%s was not updated: %s", path, error)


def _set_labels(config: Any, base: BasePath, stable: int, canary: int) -> None:
    entries = _entries_of(base, config)
    name = base.path.rpartition("/")[2]
    listed = config.model_config_list.config
    entry = entries[0] if entries else listed.add(name=name, base_path=base.path, model_platform="tensorflow")
    versions = set(base.versions())
    labels = dict(entry.version_labels)
    pins = set(entry.model_version_policy.specific.versions) - set(labels.values())
    labels = {label: version for label, version in labels.items() if version in versions}
    labels |= {STABLE: stable, CANARY: canary}
    entry.version_labels.clear()
    entry.version_labels.update(labels)
    if entry.model_version_policy.WhichOneof("policy_choice") in (None, "specific"):
        # By default only the latest version is loaded, and only loaded versions can have a label.
        entry.model_version_policy.specific.versions[:] = sorted((pins & versions) | set(labels.values()))


def _entries_of(base: BasePath, config: Any) -> list[Any]:
    """Return the entries of the model at `base`. A server may see the folder under another path of the same name."""
    name = base.path.rpartition("/")[2]
    return [entry for entry in config.model_config_list.config if os.path.basename(entry.base_path.rstrip("/")) == name]


def _parse(content: bytes | None) -> Any:
    # These imports take 30 ms (without TensorFlow), which importing serving.versions.publish must not cost.
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    config = model_server_config_pb2.ModelServerConfig()
    if content is None:
        return config
    try:
        text_format.Parse(content.decode(), config)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise _UnreadableError(str(error)) from error
    if config.WhichOneof("config") == "custom_model_config":
        raise _UnreadableError("it has a custom_model_config")
    return config


def _to_text(config: Any) -> bytes:
    from google.protobuf import text_format

    return (_HEAD + text_format.MessageToString(config, as_utf8=True)).encode()
