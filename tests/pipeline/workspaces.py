"""What lies in a workspace after runs and cleanings, for the tests of housekeeping."""

import pathlib

from ml_metadata.proto import metadata_store_pb2

from graftline.pipeline import lineage

_STATE = metadata_store_pb2.Artifact


def live(workspace: pathlib.Path) -> list[pathlib.Path]:
    """The folders that ML Metadata holds to be there."""
    store = lineage.connect(str(workspace / "metadata.db"))
    return sorted(pathlib.Path(artifact.uri) for artifact in store.get_artifacts() if artifact.state == _STATE.LIVE)


def payloads(workspace: pathlib.Path) -> list[pathlib.Path]:
    """The folders of artifacts that are there."""
    return sorted(path for path in (workspace / "artifacts").glob("[!.]*/[!.]*/*"))


def tree(root: pathlib.Path) -> dict[str, bytes]:
    """All files under `root`, with what is in them."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
