"""Find the models that a user's path names: a workspace, a TF Serving base path, or one SavedModel.

`graftline serve`, `graftline predict` and the server's polling call it. Standard library only, so it imports at once.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from graftline.errors import UserError, did_you_mean
from graftline.workspace import Workspace

SAVED_MODEL = "saved_model.pb"
INT64_MAX = (1 << 63) - 1  # the highest version
_DIGITS = len(str(INT64_MAX))


@dataclass(frozen=True)
class Model:
    """A model that can be served."""

    name: str
    base_path: str | None  # polled for new versions; None for a SavedModel that was named directly
    versions: dict[int, str]  # version number → folder of the SavedModel; never empty

    @property
    def newest(self) -> tuple[int, str]:
        """The highest version and its folder, which TF Serving serves by default."""
        version = max(self.versions)
        return version, self.versions[version]


def is_saved_model(path: str) -> bool:
    """Return whether `path` is a folder that holds a SavedModel."""
    return os.path.isfile(os.path.join(path, SAVED_MODEL))


def is_version_name(name: str) -> bool:
    """Return whether TF Serving takes a folder of this name for a version: ASCII digits alone, an int64."""
    return name.isascii() and name.isdecimal() and len(name.lstrip("0")) <= _DIGITS and int(name) <= INT64_MAX


def scan_versions(base_path: str) -> dict[int, str]:
    """Return version number → folder of every complete version under a TF Serving base path.

    Names that are no whole number are skipped, as TF Serving does. So are numbers without `saved_model.pb`, which is
    the last file of a push to an object store. A missing base path has no versions. `8` and `008` are one version, for
    TF Serving as well: the shortest name counts.
    """
    try:
        names = os.listdir(base_path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    complete = (name for name in names if is_version_name(name) and is_saved_model(os.path.join(base_path, name)))
    return {version: os.path.join(base_path, name) for version, name in by_number(complete).items()}


def by_number(names: Iterable[str]) -> dict[int, str]:
    """Return number → name of versions; the shortest name of each number."""
    return {int(name): name for name in sorted(names, key=len, reverse=True)}


def _base_paths(folder: str) -> dict[str, dict[int, str]]:
    """Return name → versions of every sub-folder of `folder` that is a TF Serving base path."""
    if not os.path.isdir(folder):
        return {}
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    scanned = {name: scan_versions(os.path.join(folder, name)) for name in names}
    return {name: versions for name, versions in scanned.items() if versions}


def _describe(path: str) -> str:
    """Return what a folder without a model holds, in a few words."""
    names = sorted(os.listdir(path))
    return f"it holds {', '.join(names[:4])}{', …' if len(names) > 4 else ''}" if names else "it is empty"


def _name_of_saved_model(path: str) -> tuple[str, int]:
    """Return the name and version of a SavedModel by its path: `…/flowers/3` is version 3 of flowers."""
    parent, last = os.path.split(path)
    if is_version_name(last):
        return os.path.basename(parent) or "model", int(last)
    return last or "model", 1


def find_models(path: str, name: str | None = None) -> list[Model]:
    """Return every model that a path names, sorted by name.

    Args:
      path: a workspace (`models/<name>/<version>/saved_model.pb`), its `models` folder, a TF Serving base path of
        numbered versions, or a single SavedModel. The last two have the name of their folder.
      name: of a workspace, the one model to return. For a base path or a SavedModel, its name instead of the folder's.

    Raises:
      UserError: there is no such path, no model in it, no model of this name in a workspace, or a newer Graftline made
        the workspace.
    """
    argument = path
    path = os.path.abspath(path)
    if not os.path.exists(path):
        raise UserError(f"no model at {argument}: no such folder; run `graftline run` first, or name another path")
    if not os.path.isdir(path):
        raise UserError(f"no model at {argument}: it is a file; name the folder of a SavedModel, or a workspace")

    Workspace.containing(path).check_format("name another path")
    if is_saved_model(path):
        own_name, version = _name_of_saved_model(path)
        return [Model(name or own_name, None, {version: path})]
    if versions := scan_versions(path):
        return [Model(name or os.path.basename(path) or "model", path, versions)]
    # A workspace's models/ comes first, so that no other folder of it is taken for a model.
    base_paths = Workspace(path).models
    folder = base_paths if os.path.isdir(base_paths) else path
    models = [Model(key, os.path.join(folder, key), versions) for key, versions in _base_paths(folder).items()]
    if not models:
        raise UserError(
            f"no model in {argument}: {_describe(path)}, but neither {SAVED_MODEL}, nor numbered versions, nor "
            f"{Workspace.MODELS}/<name>/<version>; run `graftline run` first, or name another path"
        )
    return models if name is None else [_by_name(name, models, argument)]


def _by_name(name: str, models: list[Model], path: str) -> Model:
    named = {model.name: model for model in models}
    if name not in named:
        raise UserError(f"no model '{name}' in {path}: it holds {', '.join(named)}{did_you_mean(name, list(named))}")
    return named[name]


def find_model(path: str, name: str | None = None) -> Model:
    """Return the one model that a path names, under its own name. Raises UserError, also for several without `name`."""
    models = find_models(path)
    if name is not None:
        return _by_name(name, models, path)
    if len(models) > 1:
        raise UserError(f"{len(models)} models in {path}: {', '.join(m.name for m in models)}; choose one with --name")
    return models[0]
