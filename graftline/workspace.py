"""The map of a workspace: the path of every file and folder that runs keep."""

import os
import pathlib
from dataclasses import dataclass
from typing import ClassVar

from graftline import disk, uri
from graftline.errors import UserError


class _Path:
    """The path of a file or folder under the workspace's root."""

    def __init__(self, *parts: str) -> None:
        self._parts = parts

    def __get__(self, workspace: "Workspace", owner: type) -> str:
        return uri.join(workspace.root, *self._parts)


@dataclass(frozen=True)
class Workspace:
    """A workspace's folders and files, as paths. `root` is a folder or a URI.

    Paths are strings, since a cluster's workspace is a URI.
    """

    root: str

    MODELS: ClassVar[str] = "models"  # the folder's name, for messages and to recognize base paths
    FORMAT: ClassVar[int] = 1  # of the files in a workspace; to be raised when older versions cannot read new files

    metadata: ClassVar[_Path] = _Path("metadata.db")  # ML Metadata's SQLite file
    artifacts: ClassVar[_Path] = _Path("artifacts")  # TFX's pipeline root: <node>/<output>/<execution>/
    models: ClassVar[_Path] = _Path(MODELS)  # the base paths that a model server watches: <name>/<version>/
    quarantine: ClassVar[_Path] = _Path("quarantine")  # the files that the last ingest left out, also if it failed
    logs: ClassVar[_Path] = _Path("logs")  # one log file for each run
    splits: ClassVar[_Path] = _Path("splits")  # the split of each image
    statistics: ClassVar[_Path] = _Path("statistics")  # of the images validated last, in a folder for each pipeline
    checkpoints: ClassVar[_Path] = _Path("checkpoints")  # the state of trainings that did not end
    cache: ClassVar[_Path] = _Path("cache")
    # Activations of the frozen trunk by image. They may be deleted at any time.
    boundary_cache: ClassVar[_Path] = _Path("cache", "boundary")
    lock: ClassVar[_Path] = _Path(".lock")  # the file that a run locks, so that two runs never use one workspace
    names: ClassVar[_Path] = _Path("names.json")  # the name of the images' folder that each model is named after
    format_file: ClassVar[_Path] = _Path("format")  # holds the number of the format, as text

    def base_path(self, model_name: str) -> str:
        """Return the base path of one model, which holds its numbered versions."""
        return uri.join(self.models, model_name)

    @property
    def folders(self) -> tuple[str, ...]:
        """Every folder that a run writes to."""
        state = (self.artifacts, self.checkpoints, self.logs, self.models, self.quarantine, self.splits)
        return (*state, self.statistics, self.cache)

    def require_format(self) -> None:
        """Raise as `check_format` does; write the number of the format if there is none yet.

        New workspaces have none, and those of Graftline 0.1 do not.
        """
        self.check_format()
        if not os.path.exists(self.format_file):
            disk.write(self.format_file, f"{self.FORMAT}\n".encode())

    def check_format(self, advice: str = "give another --workspace") -> None:
        """Raise UserError if a newer Graftline made the workspace, or its file of the format holds no number.

        `advice` is the end of the message.
        """
        try:
            text = pathlib.Path(self.format_file).read_text(errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise UserError(f"{self.format_file} cannot be read: {error.strerror}; repair it") from None
        if not text.isdecimal():
            raise UserError(
                f"{self.format_file} holds {text[:20]!r} instead of the number of the workspace's format: restore the "
                f"file, or write {self.FORMAT} into it if no newer Graftline has used this workspace"
            )
        if int(text) > self.FORMAT:
            raise UserError(
                f"a newer Graftline made workspace {self.root}: its format is {int(text)}, and this Graftline knows "
                f"formats up to {self.FORMAT}. Update Graftline, or {advice}"
            )

    @classmethod
    def containing(cls, path: str) -> "Workspace":
        """Return the workspace on disk that a workspace, its `models`, a base path or a version in it belongs to.

        For any other path the result is a workspace without files.
        """
        head = os.path.abspath(path)
        for _ in range(3):
            head, tail = os.path.split(head)
            if tail == cls.MODELS:
                return cls(head)
        return cls(os.path.abspath(path))

    @classmethod
    def of_base_path(cls, base_path: str) -> "Workspace | None":
        """Return the workspace on disk that `base_path` belongs to; None for any other folder or URI of versions."""
        models, name = os.path.split(base_path)
        if uri.is_uri(base_path) or not name or os.path.basename(models) != cls.MODELS:
            return None
        return cls(os.path.dirname(models))
