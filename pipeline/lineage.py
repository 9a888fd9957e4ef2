"""Reads what runs left in ML Metadata: artifacts by node, whether they came from the cache, what was made of what."""

import pathlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2

from graftline.workspace import Workspace

METADATA_FILE = Workspace.METADATA

# Types and properties as TFX has them (tfx.types.standard_artifacts, its Pusher and its Evaluator).
_MODEL, _PUSHED, _BLESSING = "Model", "PushedModel", "ModelBlessing"
_BLESSED, _CURRENT_MODEL = "blessed", "current_model_id"
# A blessing that a rollback took away, and may give back.
_WITHDRAWN = "withdrawn"
_ROLLBACK = "graftline.Rollback"  # the type of its execution

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


def pushed_as(descent: Descent, name: str, version: int) -> set[int]:
    """Ids of the models that were pushed as a version, by the newest push that added one under that number."""
    made_by: dict[int, int] = {artifact: one for one, outputs in descent.outputs.items() for artifact in outputs}
    found: set[int] = set()
    for artifact in sorted(descent.artifacts.values(), key=lambda artifact: artifact.id):
        told = properties(artifact)
        # By its last two parts: the workspace may have been moved since.
        if pathlib.PurePath(told.get("pushed_destination", "")).parts[-2:] != (name, str(version)):
            continue
        models = {
            one for one in descent.inputs.get(made_by.get(artifact.id, -1), ()) if descent.artifacts[one].type == _MODEL
        }
        found = models if told.get("new_version") else found | models
    return found


def withdraw(store: metadata_store.MetadataStore, models: set[int], back: bool = False) -> int:
    """Takes the blessings of these models away, so that TFX's Resolver passes them over; `back` gives them back.

    Returns:
      How many blessings were changed.
    """
    was, now = (_WITHDRAWN, 1) if back else (_BLESSED, 0)
    changed = []
    for blessing in store.get_artifacts_by_type(_BLESSING):
        told = properties(blessing)
        if told.get(_CURRENT_MODEL) in models and told.get(was) == 1:
            blessing.custom_properties[_BLESSED].int_value = now
            blessing.custom_properties[_WITHDRAWN].int_value = 1 - now
            changed.append(blessing)
    if changed:
        store.put_artifacts(changed)
    return len(changed)


def record_rollback(store: metadata_store.MetadataStore, models: set[int], path: str, version: int) -> None:
    """Notes that a rollback pushed these models again, as the Pusher notes a push.

    What a version descends from is kept by what is noted of its push.
    """
    execution = metadata_store_pb2.Execution(
        type_id=store.put_execution_type(metadata_store_pb2.ExecutionType(name=_ROLLBACK)),
        last_known_state=metadata_store_pb2.Execution.COMPLETE,
    )
    pushed = metadata_store_pb2.Artifact(
        type_id=store.get_artifact_type(_PUSHED).id, uri=path, state=metadata_store_pb2.Artifact.LIVE
    )
    for key, text in (("pushed_destination", path), ("pushed_version", str(version))):
        pushed.custom_properties[key].string_value = text
    for key in ("pushed", "new_version"):
        pushed.custom_properties[key].int_value = 1
    taken = [
        (artifact, _event("model", index, metadata_store_pb2.Event.INPUT))
        for index, artifact in enumerate(store.get_artifacts_by_id(sorted(models)))
    ]
    store.put_execution(
        execution, [*taken, (pushed, _event("pushed_model", 0, metadata_store_pb2.Event.OUTPUT))], contexts=[]
    )


def _event(key: str, index: int, kind: "metadata_store_pb2.Event.Type") -> metadata_store_pb2.Event:
    steps = metadata_store_pb2.Event.Path.Step
    return metadata_store_pb2.Event(
        type=kind, path=metadata_store_pb2.Event.Path(steps=[steps(key=key), steps(index=index)])
    )


def properties(artifact: metadata_store_pb2.Artifact) -> dict[str, Any]:
    """An artifact's properties as plain values, custom ones included."""
    found = {}
    for values in (artifact.properties, artifact.custom_properties):
        for key, value in values.items():
            found[key] = getattr(value, value.WhichOneof("value"))
    return found


def _output(artifact: metadata_store_pb2.Artifact) -> Output:
    return Output(artifact.uri, properties(artifact))
