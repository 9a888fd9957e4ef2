"""`models.config` beside the base paths: which versions TensorFlow Serving loads, and their labels stable and canary.

Written by each push and rollback. `canary` is the newest version, `stable` the one that was served before it, so that a
client that asks for `stable` is a push behind; after a rollback, and for a first version, both are the newest.
Format: https://www.tensorflow.org/tfx/serving/serving_config ("Assigning string labels to model versions").
"""

import logging
import os
from typing import Any

from graftline.serving.versions.base_path import BasePath

FILE = "models.config"
STABLE, CANARY = "stable", "canary"

_logger = logging.getLogger(__name__)
_HEAD = """\
# Versions and labels of the models in this folder, for tensorflow_model_server --model_config_file=THIS_FILE
# --model_config_file_poll_wait_seconds=60. Graftline writes it anew with each push: it sets the labels stable and
# canary, and keeps what else you put in (other labels, other models, a policy that is not `specific`), but no comments.
"""


class _UnreadableError(Exception):
    """The file is no ModelServerConfig with a list of models."""


def path_of(base: BasePath) -> str:
    """Where the file lies that tells of the models beside `base`."""
    return f"{base.path.rpartition('/')[0]}/{FILE}"


def pinned(base: BasePath) -> set[int] | None:
    """The versions of this model that `models.config` names; None when it cannot be read, and so may name any."""
    try:
        config = _parse(base.read(path_of(base)))
    except (_UnreadableError, OSError) as error:
        _logger.warning("%s cannot be read (%s): no version is removed", path_of(base), error)
        return None
    entries = [entry for entry in config.model_config_list.config if _is_of(entry, base)]
    labels = {version for entry in entries for version in entry.version_labels.values()}
    return labels | {version for entry in entries for version in entry.model_version_policy.specific.versions}


def canary(base: BasePath) -> int | None:
    """The version that bears the label canary; None when none does, or the file cannot be read."""
    try:
        config = _parse(base.read(path_of(base)))
    except (_UnreadableError, OSError):
        return None
    entries = [entry for entry in config.model_config_list.config if _is_of(entry, base)]
    return entries[0].version_labels.get(CANARY) if entries else None


def update(base: BasePath, stable: int, canary: int) -> None:
    """Set both labels of the model. A file that cannot be read or written is left as it is, with a warning.

    The server can do without it; a push must not fail for it.
    """
    path = path_of(base)
    try:
        with base.holding(path.rpartition("/")[0]):
            before = base.read(path)
            config = _parse(before)
            _set(config, base, stable, canary)
            after = _text(config)
            if after != before:
                base.write(path, after)
    except (_UnreadableError, OSError) as error:
        _logger.warning("%s was not updated: %s", path, error)


def _set(config: Any, base: BasePath, stable: int, canary: int) -> None:
    mine = [entry for entry in config.model_config_list.config if _is_of(entry, base)]
    if mine:
        entry = mine[0]
    else:
        entry = config.model_config_list.config.add(name=_name(base), base_path=base.path, model_platform="tensorflow")
    there = set(base.versions())
    labels = dict(entry.version_labels)
    pins = set(entry.model_version_policy.specific.versions) - set(labels.values())
    labels = {label: version for label, version in labels.items() if version in there}
    labels |= {STABLE: stable, CANARY: canary}
    for label in list(entry.version_labels):
        del entry.version_labels[label]
    for label, version in labels.items():
        entry.version_labels[label] = version
    if entry.model_version_policy.WhichOneof("policy_choice") in (None, "specific"):
        # Of the latest version alone, which is loaded by default, only one label could be given.
        entry.model_version_policy.specific.versions[:] = sorted((pins & there) | set(labels.values()))


def _name(base: BasePath) -> str:
    return base.path.rpartition("/")[2]


def _is_of(entry: Any, base: BasePath) -> bool:
    """Whether an entry is of the model at `base`: a server may see the folder under another path."""
    return entry.base_path == base.path or os.path.basename(entry.base_path.rstrip("/")) == _name(base)


def _parse(content: bytes | None) -> Any:
    # They take 30 ms, without TensorFlow; serving.versions.publish must import at once.
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


def _text(config: Any) -> bytes:
    from google.protobuf import text_format

    return (_HEAD + text_format.MessageToString(config, as_utf8=True)).encode()
