"""A folder from which Docker runs the real TensorFlow Serving: `python -m graftline.serving.tf_serving WORKSPACE DIR`.

What does not depend on the workspace lies in `files/` and is copied; `configs` writes the rest. Imports no TensorFlow.
"""

import importlib.util
import os
import pathlib
import shutil

from graftline.errors import UserError
from graftline.serving.server.options import ServerOptions
from graftline.serving.tf_serving import configs
from graftline.serving.versions import labels, model_config
from graftline.serving.versions.base_path import Disk
from graftline.serving.versions.locate import Model, find_models

__all__ = ["write"]

_FILES = pathlib.Path(__file__).with_name("files")


def write(path: str, directory: str) -> list[str]:
    """Write the folder, over an earlier one; the names of the models that it serves.

    The container watches the folder of the models itself and the `models.config` in it, so a later push needs no new
    folder. A model that this file does not tell of yet is added to it.

    Raises UserError: no models at `path`, a SavedModel alone, a path that Compose cannot take, a `models.config` that
    cannot be read or is of other paths, a folder that cannot be written, or no tensorflow-serving-api here.
    """
    if importlib.util.find_spec("tensorflow_serving") is None:  # its messages are those of `models.config`
        raise UserError("this needs tensorflow_serving, which is not installed: run `pip install 'graftline[serve]'`")
    models = find_models(path)
    folder = _folder_of(models, path)
    for model in models:
        _list(model)
    try:
        _fill(pathlib.Path(directory), folder)
    except OSError as error:
        raise UserError(f"{directory} cannot be written: {error.strerror}; name another folder") from error
    return [model.name for model in models]


def _fill(target: pathlib.Path, folder: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for file in _FILES.iterdir():
        shutil.copy(file, target)
    (target / "smoke.sh").chmod(0o755)  # which an installation may have lost
    options = ServerOptions()
    (target / "batching.config").write_text(configs.batching(options.batching))
    (target / "monitoring.config").write_text(configs.monitoring(True, options.monitoring_path))
    (target / ".env").write_text(f"GRAFTLINE_MODELS='{folder}'\n")


def _folder_of(models: list[Model], path: str) -> str:
    """The folder that holds the base paths; all have the same."""
    base_path = models[0].base_path
    if base_path is None:
        raise UserError(
            f"{path} is a single SavedModel: TensorFlow Serving serves folders of numbered versions; name a workspace, "
            "or the folder above a numbered version"
        )
    folder = os.path.dirname(base_path)
    if "'" in folder or "\n" in folder:
        raise UserError(f"{folder!r} has a quote or a line end in its path, which Compose cannot take: move it")
    return folder


def _list(model: Model) -> None:
    """See to it that `models.config` tells of a model, under the path that it has."""
    base = Disk(str(model.base_path))
    if labels.canary(base) is None:
        newest_two = sorted(model.versions)[-2:]
        labels.update(base, stable=newest_two[0], canary=newest_two[-1])
    path = labels.path_of(base)
    if base.path not in {listed.base_path for listed in model_config.read(path)}:
        raise UserError(
            f"{path} tells of no model at {base.path}, as when a workspace was moved: remove it, then try again"
        )
