"""The map of a workspace: the path of every file and folder that runs keep."""

import os
import pathlib
from dataclasses import dataclass
from typing import ClassVar

from graftline import uri
from graftline.errors import UserError


@dataclass(frozen=True)
class Workspace:
    """A workspace's folders and files, as paths. `root` is a folder or a URI.

    Paths are strings, since a cluster's workspace is a URI.
    """

    root: str

    MODELS: ClassVar[str] = "models"  # the folder's name, for messages and to recognize base paths
    FORMAT: ClassVar[int] = 1  # of the files in a workspace; to be raised when older versions cannot read new files

    @property
    def metadata(self) -> str:
        """ML Metadata's SQLite file."""
        return self._at("metadata.db")

    @property
    def artifacts(self) -> str:
        """TFX's pipeline root: `<node>/<output>/<execution>/`."""
        return self._at("artifacts")

    @property
    def models(self) -> str:
        """The base paths that a model server watches: `<name>/<version>/`."""
        return self._at(self.MODELS)

    def base_path(self, model_name: str) -> str:
        """Return the base path of one model, which holds its numbered versions."""
        return self._at(self.MODELS, model_name)

    @property
    def quarantine(self) -> str:
        """The list of the files that the last ingest left out, written also when the ingest failed."""
        return self._at("quarantine")

    @property
    def logs(self) -> str:
        """One log file for each run."""
        return self._at("logs")

    @property
    def splits(self) -> str:
        """The split of each image."""
        return self._at("splits")

    @property
    def statistics(self) -> str:
        """Statistics of the images that were validated last, in a folder for each pipeline."""
        return self._at("statistics")

    @property
    def checkpoints(self) -> str:
        """The state of trainings that did not end."""
        return self._at("checkpoints")

    @property
    def boundary_cache(self) -> str:
        """Activations of the frozen trunk by image. They may be deleted at any time."""
        return self._at("cache", "boundary")

    @property
    def lock(self) -> str:
        """The file that a run locks, so that two runs never use one workspace."""
        return self._at(".lock")

    @property
    def format_file(self) -> str:
        """Holds the number of the format, as text."""
        return self._at("format")

    @property
    def folders(self) -> tuple[str, ...]:
        """Every folder that a run writes to."""
        named = (
            self.artifacts,
            self.checkpoints,
            self.logs,
            self.models,
            self.quarantine,
            self.splits,
            self.statistics,
        )
        return (*named, self._at("cache"))

    def require_format(self) -> None:
        """Raise as `check_format` does; write the number of the format if there is none yet.

        New workspaces have none, and those of Graftline 0.1 do not.
        """
        self.check_format()
        file = pathlib.Path(self.format_file)
        if not file.exists():
            aside = file.with_name(f"{file.name}.new")  # a run killed while it writes must not leave half a number
            aside.write_text(f"{self.FORMAT}\n")
            aside.replace(file)

    def check_format(self) -> None:
        """Check that this Graftline can use the workspace. Nothing to check where no number is written.

        Raises:
          UserError: a newer Graftline made the workspace, or the file does not hold a number.
        """
        try:
            text = pathlib.Path(self.format_file).read_text(errors="replace").strip()
        except FileNotFoundError:
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
                f"formats up to {self.FORMAT}. Update Graftline, or give another --workspace"
            )

    @classmethod
    def of_base_path(cls, base_path: str) -> "Workspace | None":
        """Return the workspace on disk that `base_path` belongs to; None for any other folder or URI of versions."""
        models, name = os.path.split(base_path)
        if uri.is_uri(base_path) or not name or os.path.basename(models) != cls.MODELS:
            return None
        return cls(os.path.dirname(models))

    def _at(self, *parts: str) -> str:
        return uri.join(self.root, *parts)
