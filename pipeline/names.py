"""The name of a model: `model.name`, or one that is made of the name of the images' folder.

Two folders with different names never make one name. Characters that a model's name cannot hold are replaced, and then
a hash of the folder's name is added. Workspaces of earlier versions keep their names, which have no hash. Standard
library only.
"""

import hashlib
import json
import os
import pathlib
import re
import unicodedata

from graftline import disk, folder_name
from graftline.uri import is_uri
from graftline.workspace import Workspace

# A name is one part of a path, and of TensorFlow Serving's URL /v1/models/NAME:predict.
LEGAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
RESERVED = ("models.config",)  # what else lies in the folder of the models
_LONGEST = 200  # characters before the hash; a file's name may have 255 bytes


def from_folder(images: str | None) -> str:
    """Return a legal model name for a folder's path or URI.

    `photos` gives `photos`, `My photos` gives `My-photos-4a07b389`, and `花` gives `model-b0a1eab5`.
    """
    if images is None:
        return "model"
    name = folder_name.of(images)
    plain = _plain(name)
    return plain if plain == name and plain.casefold() not in RESERVED else _with_hash(plain, name)


def _plain(name: str) -> str:
    """Return the legal characters of a name; "model" if none is left."""
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", ascii_only).strip("-._") or "model"


def _with_hash(plain: str, name: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{plain[:_LONGEST]}-{digest[:8]}"


def settle(workspace: Workspace, images: str) -> str:
    """Return the name in this workspace of the model that is named after the images' folder.

    It is that of `from_folder`, with two exceptions:
    - a model of an earlier version keeps its name, unless another folder has that name already: it has no hash, and
      for a link it is the name of the folder that the link leads to;
    - a name that differs from another model's by case alone gets a hash: some file systems take both for one.
    """
    folder, name = folder_name.of(images), from_folder(images)
    owners, models, plain = _read(workspace), _names(workspace.models), _plain(folder)
    before = plain if is_uri(images) else _plain(os.path.basename(os.path.realpath(images)))
    kept = [old for old in (plain, before) if old in models and owners.get(old, folder) == folder]
    if kept and name not in models:
        return kept[0]
    is_taken = owners.get(name, folder) != folder
    is_alike = name not in models and name.casefold() in map(str.casefold, models)
    return _with_hash(plain, folder) if name == plain and (is_taken or is_alike) else name


def claim(workspace: Workspace, name: str, images: str) -> bool:
    """Write down that a model is named after this folder; return False if that was known.

    The caller holds the workspace's lock.
    """
    owners, folder = _read(workspace), folder_name.of(images)
    if owners.get(name) == folder:
        return False
    content = json.dumps({**owners, name: folder}, indent=1, sort_keys=True) + "\n"
    disk.write(workspace.names, content.encode())
    return True


def _names(folder: str) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    except OSError:
        return []


def _read(workspace: Workspace) -> dict[str, str]:
    """Return the folder that each model is named after; a file that cannot be read names none."""
    try:
        owners = json.loads(pathlib.Path(workspace.names).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(folder) for name, folder in owners.items()} if isinstance(owners, dict) else {}
