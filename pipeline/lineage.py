"""Reads ML Metadata: the artifacts of each node, which came from the cache, and what each was made from."""

import pathlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2

from graftline.blessings import BLESSED, CURRENT_MODEL, NEW_VERSION, PUSHED, PUSHED_DESTINATION, PUSHED_VERSION

# Types of TFX (tfx.types.standard_artifacts).
_MODEL, _PUSHED, _BLESSING = "Model", "PushedModel", "ModelBlessing"
# A property of a blessing that a rollback removed; another rollback may restore the blessing.
_WITHDRAWN = "withdrawn"
_ROLLBACK = "graftline.Rollback"  # the execution type of a rollback

# An input of the Evaluator: the model that the candidate is compared with. Nothing is made from it.
_BASELINE = "baseline_model"


@dataclass(frozen=True)
class Output:
    """An artifact: its URI and its properties, custom ones included."""

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
    """The live artifacts by id, and which of them are inputs and outputs of each execution.

    The model that an Evaluator compares with is not among the inputs.
    """

    artifacts: dict[int, metadata_store_pb2.Artifact]
    inputs: defaultdict[int, set[int]]
    outputs: defaultdict[int, set[int]]

    def made_by(self, executions: Iterable[int]) -> set[int]:
        """Return ids of the live outputs of these executions."""
        return {artifact for execution in executions for artifact in self.outputs.get(execution, ())}

    def upstream(self, artifacts: Iterable[int]) -> set[int]:
        """Return ids of the executions that made these artifacts, or anything that they were made from."""
        makers: defaultdict[int, set[int]] = defaultdict(set)
        for execution, made in self.outputs.items():
            for artifact in made:
                makers[artifact].add(execution)
        executions: set[int] = set()
        remaining = list(artifacts)
        while remaining:
            for execution in makers.get(remaining.pop(), set()) - executions:
                executions.add(execution)
                remaining += self.inputs.get(execution, ())
        return executions


def connect(path: str) -> metadata_store.MetadataStore:
    """Open the MLMD store in a SQLite file."""
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = path
    connection.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE
    return metadata_store.MetadataStore(connection)


def latest_run(store: metadata_store.MetadataStore) -> tuple[str, dict[str, NodeRun]]:
    """Return the id of the newest run in the store, and its nodes by id; raise LookupError if there is no run."""
    if not (runs := store.get_contexts_by_type("pipeline_run")):
        raise LookupError("no run is recorded")
    run = max(runs, key=lambda context: context.id)
    nodes = {}
    for execution in store.get_executions_by_context(run.id):
        contexts = store.get_contexts_by_execution(execution.id)
        # TFX names the context of a node "<pipeline>.<node id>".
        node = next(context.name for context in contexts if context.type == "node").rpartition(".")[2]
        events = store.get_events_by_execution_ids([execution.id])
        made = {e.artifact_id: e.path.steps[0].key for e in events if e.type == metadata_store_pb2.Event.OUTPUT}
        artifacts = {artifact.id: artifact for artifact in store.get_artifacts_by_id(list(made))}
        outputs = {key: Output(artifacts[one].uri, properties(artifacts[one])) for one, key in made.items()}
        cached = execution.last_known_state == metadata_store_pb2.Execution.CACHED
        nodes[node] = NodeRun(node, cached, outputs)
    return run.name, nodes


def descent(store: metadata_store.MetadataStore) -> Descent:
    """Return what each live artifact was made from."""
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
    """Return ids of the models that were pushed as a version, by the newest push under that number."""
    makers: dict[int, int] = {artifact: maker for maker, outputs in descent.outputs.items() for artifact in outputs}
    pushed: set[int] = set()
    for artifact in sorted(descent.artifacts.values(), key=lambda artifact: artifact.id):
        push = properties(artifact)
        # By the last two parts of the path: the workspace may have been moved since.
        if pathlib.PurePath(push.get(PUSHED_DESTINATION, "")).parts[-2:] != (name, str(version)):
            continue
        inputs = descent.inputs.get(makers.get(artifact.id, -1), set())
        models = {item for item in inputs if descent.artifacts[item].type == _MODEL}
        pushed = models if push.get(NEW_VERSION) else pushed | models
    return pushed


def withdraw(store: metadata_store.MetadataStore, models: set[int], back: bool = False) -> int:
    """Remove the blessings of these models, so that TFX's Resolver ignores them; `back` restores the blessings.

    Return how many blessings were changed.
    """
    required, blessed = (_WITHDRAWN, 1) if back else (BLESSED, 0)
    changed = []
    for blessing in store.get_artifacts_by_type(_BLESSING):
        values = properties(blessing)
        if values.get(CURRENT_MODEL) in models and values.get(required) == 1:
            blessing.custom_properties[BLESSED].int_value = blessed
            blessing.custom_properties[_WITHDRAWN].int_value = 1 - blessed
            changed.append(blessing)
    if changed:
        store.put_artifacts(changed)
    return len(changed)


def record_rollback(store: metadata_store.MetadataStore, models: set[int], path: str, version: int) -> None:
    """Record that a rollback pushed these models again, as the Pusher records a push.

    Housekeeping keeps what a version was made from by the record of its push.
    """
    execution = metadata_store_pb2.Execution(
        type_id=store.put_execution_type(metadata_store_pb2.ExecutionType(name=_ROLLBACK)),
        last_known_state=metadata_store_pb2.Execution.COMPLETE,
    )
    pushed = metadata_store_pb2.Artifact(
        type_id=store.get_artifact_type(_PUSHED).id, uri=path, state=metadata_store_pb2.Artifact.LIVE
    )
    for key, text in ((PUSHED_DESTINATION, path), (PUSHED_VERSION, str(version))):
        pushed.custom_properties[key].string_value = text
    for key in (PUSHED, NEW_VERSION):
        pushed.custom_properties[key].int_value = 1
    artifacts = enumerate(store.get_artifacts_by_id(sorted(models)))
    inputs = [(artifact, _event("model", index, metadata_store_pb2.Event.INPUT)) for index, artifact in artifacts]
    output = (pushed, _event("pushed_model", 0, metadata_store_pb2.Event.OUTPUT))
    store.put_execution(execution, [*inputs, output], contexts=[])


def _event(key: str, index: int, kind: "metadata_store_pb2.Event.Type") -> metadata_store_pb2.Event:
    steps = metadata_store_pb2.Event.Path.Step
    return metadata_store_pb2.Event(
        type=kind, path=metadata_store_pb2.Event.Path(steps=[steps(key=key), steps(index=index)])
    )


def properties(artifact: metadata_store_pb2.Artifact) -> dict[str, Any]:
    """Return an artifact's properties as plain values, custom ones included."""
    items = [*artifact.properties.items(), *artifact.custom_properties.items()]
    return {key: getattr(value, value.WhichOneof("value")) for key, value in items}
