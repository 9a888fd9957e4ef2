"""The artifact type that ImageExampleGen adds to TFX's."""

from tfx.types.artifact import Artifact


class Quarantine(Artifact):
    """The report of an ingest: quarantine.csv (path, reason, bytes, sha256) and summary.json (all counts).

    Custom properties, ints: found, examples, quarantined, duplicates.
    """

    # Kubeflow and Vertex take a custom type by this name only if it is an import path of one module and the class.
    TYPE_NAME = "graftline.Quarantine"
