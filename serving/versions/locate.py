"""Find the models that a path given by a user means: a workspace, a TF Serving base path, or one SavedModel.

Called by `graftline serve`, `graftline predict` and the server's polling. Standard library only: it costs nothing.
"""

import os
from dataclasses import dataclass

from graftline.errors import UserError, did_you_mean
from graftline.workspace import Workspace

SAVED_MODEL = "saved_model.pb"


@dataclass(frozen=True)
class Model:
    """A model that can be served: its name and where its versions lie.

    `base_path` is polled for new versions; it is None for a SavedModel that was named directly, whose version is fixed.
    `versions` maps the version number to the SavedModel's directory and is never empty.
    """

    name: str
    base_path: str | None
    versions: dict[int, str]

    @property
    def newest(self) -> tuple[int, str]:
        """The highest version and its directory: the one that TF Serving serves by default."""
        version = max(self.versions)
        return version, self.versions[version]


def is_saved_model(path: str) -> bool:
    """Whether `path` is a directory that holds a SavedModel."""
    return os.path.isfile(os.path.join(path, SAVED_MODEL))


def is_version_name(name: str) -> bool:
    """Return whether TF Serving takes a folder of this name for a version: ASCII digits alone."""
    return name.isascii() and name.isdecimal()


def scan_versions(base_path: str) -> dict[int, str]:
    """Version number → directory, of every complete version under a TF Serving base path.

    Names that are no whole number are passed over, as TF Serving does; so is a number without `saved_model.pb`,
    which is how a push to an object store looks before its last file has come. A base path that is gone has none.
    """
    try:
        names = os.listdir(base_path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    numbered = {int(name): os.path.join(base_path, name) for name in names if is_version_name(name)}
    return {version: path for version, path in numbered.items() if is_saved_model(path)}


def _base_paths(folder: str) -> dict[str, dict[int, str]]:
    """Name → versions, of every sub-folder of `folder` that is a TF Serving base path."""
    if not os.path.isdir(folder):
        return {}
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    found = {name: scan_versions(os.path.join(folder, name)) for name in names}
    return {name: versions for name, versions in found.items() if versions}


def _describe(path: str) -> str:
    """What a folder that holds no model holds instead, in a few words."""
    names = sorted(os.listdir(path))
    if not names:
        return "it is empty"
    shown = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
    return f"it holds {shown}"


def _name_of_saved_model(path: str) -> tuple[str, int]:
    """The name and version of a SavedModel that was named directly: `…/flowers/3` is version 3 of flowers."""
    parent, last = os.path.split(path)
    if is_version_name(last):
        return os.path.basename(parent) or "model", int(last)
    return last or "model", 1


def find_models(path: str, name: str | None = None) -> list[Model]:
    """Every model that `path` means, sorted by name; with `name`, that one only.

    `path` is a workspace (`models/<name>/<version>/saved_model.pb`), the `models` folder of one, a TF Serving base path
    of numeric version directories, or a single SavedModel. One of the last two has the name of its folder, and another
    when `name` gives it; of a workspace's models `name` chooses one.

    Raises UserError when there is no such path, when no model is in it, or when none of a workspace is called `name`.
    """
    given = path
    path = os.path.abspath(path)
    if not os.path.exists(path):
        raise UserError(f"no model at {given}: no such folder; run `graftline run` first, or name another path")
    if not os.path.isdir(path):
        raise UserError(f"no model at {given}: it is a file; name the folder of a SavedModel, or a workspace")

    if is_saved_model(path):
        own_name, version = _name_of_saved_model(path)
        return [Model(name or own_name, None, {version: path})]
    if versions := scan_versions(path):
        return [Model(name or os.path.basename(path) or "model", path, versions)]
    # A workspace is asked for its models/ first, so that no folder beside it is taken for a model.
    base_paths = Workspace(path).models
    folder = base_paths if os.path.isdir(base_paths) else path
    models = [Model(key, os.path.join(folder, key), found) for key, found in _base_paths(folder).items()]
    if not models:
        raise UserError(
            f"no model in {given}: {_describe(path)}, but neither {SAVED_MODEL}, nor numbered versions, nor "
            f"{Workspace.MODELS}/<name>/<version>; run `graftline run` first, or name another path"
        )
    return models if name is None else [_called(name, models, given)]


def _called(name: str, models: list[Model], path: str) -> Model:
    for model in models:
        if model.name == name:
            return model
    known = [model.name for model in models]
    raise UserError(f"no model '{name}' in {path}: it holds {', '.join(known)}{did_you_mean(name, known)}")


def find_model(path: str, name: str | None = None) -> Model:
    """The one model that `path` means, under its own name.

    Raises UserError as `find_models`, when there are several and `name` is None, or when it is not called `name`.
    """
    models = find_models(path)
    if name is not None:
        return _called(name, models, path)
    if len(models) > 1:
        raise UserError(f"{len(models)} models in {path}: {', '.join(m.name for m in models)}; choose one with --name")
    return models[0]
