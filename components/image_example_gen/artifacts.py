"""The artifact type that ImageExampleGen adds to TFX's."""

from tfx.types.artifact import Artifact


class Quarantine(Artifact):
    """What an ingest refused: quarantine.csv (path, reason, bytes, sha256) and summary.json (all counts).

    Custom properties, ints: found, examples, quarantined, duplicates.
    """

    TYPE_NAME = "Quarantine"
