"""Where the pipeline runs, and what is known there before the run.

The DAG is the same in every place. Each runner builds one `Site` and hands it to `dag.create_pipeline`.
"""

import os
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

from graftline import uri
from graftline.pipeline.config import Config
from graftline.workspace import Workspace

if TYPE_CHECKING:
    from tfx.orchestration.data_types import RuntimeParameter


@dataclass(frozen=True)
class Site:
    """A place to run.

    Attributes:
      workspace: where artifacts, models and state lie.
      fingerprint: of the images' content, so that a changed image runs ingest again; or the parameter that brings the
        fingerprint when the compiled pipeline is submitted.
      readable: whether the workspace and the served models can be read before the run. On a cluster they cannot:
        nothing that lies there goes into a cache key.
      served: directory of the version that is served now, "" when none is; None when that is not known.
    """

    workspace: Workspace
    fingerprint: Union[str, "RuntimeParameter"]
    readable: bool = False
    served: str | None = None

    def base_path(self, config: Config) -> str:
        """Return the folder or URI of the model's numbered versions: `push.path`, or the workspace's for the model."""
        path = config.push.path or self.workspace.base_path(config.model_name)
        return path if uri.is_uri(path) else os.path.abspath(path)

    def statistics(self, config: Config) -> str:
        """Return the folder or URI where the statistics of this pipeline's validated images are kept."""
        return uri.join(self.workspace.statistics, pipeline_name(config))


def pipeline_name(config: Config) -> str:
    """Return the name of the TFX pipeline. TFX looks for the baseline under it, so each served model has its own."""
    # Vertex takes lower-case letters, digits and hyphens only. Names that differ must stay different.
    plain = "".join(character if character.isalnum() else "-" for character in config.model_name.lower()).strip("-")
    suffix = "" if plain == config.model_name else f"-{zlib.crc32(config.model_name.encode()):08x}"
    return f"graftline-{plain}{suffix}"
