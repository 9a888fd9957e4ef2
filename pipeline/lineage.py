"""Reads what runs left in ML Metadata: artifacts by node, whether they came from the cache, what was made of what."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2

# The Evaluator's input that a model is held against, but is not made of.
_BASELINE = "baseline_model"


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


@dataclass(frozen=True)
class Descent:
    """The artifacts that are live, by id, and those of them that each execution took in and put out.

    The model that an Evaluator compares with is not among its inputs.
    """

    artifacts: dict[int, metadata_store_pb2.Artifact]
    inputs: defaultdict[int, set[int]]
    outputs: defaultdict[int, set[int]]

    def made_by(self, executions: Iterable[int]) -> set[int]:
        """Ids of all that these executions put out and that is live."""
        return {artifact for execution in executions for artifact in self.outputs.get(execution, ())}

    def upstream(self, artifacts: Iterable[int]) -> set[int]:
        """Ids of the executions that made these artifacts, or anything that they were made of."""
        makers: defaultdict[int, set[int]] = defaultdict(set)
        for execution, made in self.outputs.items():
            for artifact in made:
                makers[artifact].add(execution)
        found: set[int] = set()
        ahead = list(artifacts)
        while ahead:
            for execution in makers.get(ahead.pop(), set()) - found:
                found.add(execution)
                ahead += self.inputs.get(execution, ())
        return found


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


def descent(store: metadata_store.MetadataStore) -> Descent:
    """What was made of what, of all artifacts that are live."""
    live = {a.id: a for a in store.get_artifacts() if a.state == metadata_store_pb2.Artifact.LIVE}
    inputs: defaultdict[int, set[int]] = defaultdict(set)
    outputs: defaultdict[int, set[int]] = defaultdict(set)
    for event in store.get_events_by_artifact_ids(list(live)) if live else ():
        compared = any(step.key == _BASELINE for step in event.path.steps)
        if event.type == metadata_store_pb2.Event.INPUT and not compared:
            inputs[event.execution_id].add(event.artifact_id)
        elif event.type == metadata_store_pb2.Event.OUTPUT:  # not INTERNAL_OUTPUT: a Resolver makes nothing
            outputs[event.execution_id].add(event.artifact_id)
    return Descent(live, inputs, outputs)


def properties(artifact: metadata_store_pb2.Artifact) -> dict[str, Any]:
    """An artifact's properties as plain values, custom ones included."""
    found = {}
    for values in (artifact.properties, artifact.custom_properties):
        for key, value in values.items():
            found[key] = getattr(value, value.WhichOneof("value"))
    return found


def _output(artifact: metadata_store_pb2.Artifact) -> Output:
    return Output(artifact.uri, properties(artifact))
