"""Reads what a run left in ML Metadata: each node's artifacts, and whether they came from the cache."""

from dataclasses import dataclass
from typing import Any

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2


@dataclass(frozen=True)
class Output:
    """An artifact: its uri and its properties, custom ones included."""

    uri: str
    properties: dict[str, Any]


@dataclass(frozen=True)
class NodeRun:
    """One execution of a node in a run; `outputs` holds the first artifact of each output key."""

    node: str
    cached: bool
    outputs: dict[str, Output]


def connect(path: str) -> metadata_store.MetadataStore:
    """The MLMD store in a SQLite file."""
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = path
    connection.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE
    return metadata_store.MetadataStore(connection)


def latest_run(store: metadata_store.MetadataStore) -> tuple[str, dict[str, NodeRun]]:
    """The id of the newest run in the store, and its nodes by id.

    Raises:
      LookupError: there is none.
    """
    runs = store.get_contexts_by_type("pipeline_run")
    if not runs:
        raise LookupError("no run is recorded")
    run = max(runs, key=lambda context: context.id)
    nodes = {}
    for execution in store.get_executions_by_context(run.id):
        contexts = store.get_contexts_by_execution(execution.id)
        # TFX names the context of a node "<pipeline>.<node id>".
        node = next(context.name for context in contexts if context.type == "node").rpartition(".")[2]
        events = [
            event
            for event in store.get_events_by_execution_ids([execution.id])
            if event.type == metadata_store_pb2.Event.OUTPUT
        ]
        artifacts = {artifact.id: artifact for artifact in store.get_artifacts_by_id([e.artifact_id for e in events])}
        outputs = {event.path.steps[0].key: _output(artifacts[event.artifact_id]) for event in events}
        cached = execution.last_known_state == metadata_store_pb2.Execution.CACHED
        nodes[node] = NodeRun(node, cached, outputs)
    return run.name, nodes


def _output(artifact: metadata_store_pb2.Artifact) -> Output:
    properties = {}
    for values in (artifact.properties, artifact.custom_properties):
        for key, value in values.items():
            properties[key] = getattr(value, value.WhichOneof("value"))
    return Output(artifact.uri, properties)
