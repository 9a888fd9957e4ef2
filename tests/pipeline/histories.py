"""Long and broken histories, written into ML Metadata as TFX writes them, since a run takes a second."""

import pathlib
import uuid
from dataclasses import dataclass, field

from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration.metadata import Metadata, sqlite_metadata_connection_config

from graftline.pipeline import lineage
from tests.pipeline.workspaces import live as _live
from tests.pipeline.workspaces import payloads as _payloads
from tests.pipeline.workspaces import tree as _tree

_STATE = metadata_store_pb2.Artifact


# --- histories, written as TFX writes them ----------------------------------------------------------------------------


def _event(kind: str, key: str) -> metadata_store_pb2.Event:
    event = metadata_store_pb2.Event(type=metadata_store_pb2.Event.Type.Value(kind))
    event.path.steps.add().key = key
    event.path.steps.add().index = 0
    return event


@dataclass
class History:
    """A workspace in which runs of Data, Trainer, Evaluator and Pusher were, and what each version is made of."""

    root: pathlib.Path
    runs: list[set[pathlib.Path]] = field(default_factory=list)  # the folders that each run put out, or took over
    made_of: dict[pathlib.Path, set[pathlib.Path]] = field(default_factory=dict)  # by model
    judged: dict[pathlib.Path, set[pathlib.Path]] = field(default_factory=dict)  # by model
    needs: dict[pathlib.Path, set[pathlib.Path]] = field(default_factory=dict)  # by version
    blessed: dict[str, pathlib.Path] = field(default_factory=dict)  # the last one, by name
    perhaps: set[pathlib.Path] = field(default_factory=set)  # what may stay: which version it made nobody knows

    def __post_init__(self) -> None:
        self.root.mkdir(exist_ok=True)
        with Metadata(sqlite_metadata_connection_config(str(self.root / "metadata.db"))):
            pass  # makes the database
        self._store = lineage.connect(str(self.root / "metadata.db"))
        self._types: dict[tuple[str, str], int] = {}
        self._ids: dict[pathlib.Path, int] = {}
        self._data: tuple[pathlib.Path, ...] = ()
        self._contexts: dict[tuple[str, str], metadata_store_pb2.Context] = {}

    def _type(self, kind: str, name: str) -> int:
        if (kind, name) not in self._types:
            made = getattr(metadata_store_pb2, f"{kind}Type")(name=name)
            self._types[kind, name] = getattr(self._store, f"put_{kind.lower()}_type")(made)
        return self._types[kind, name]

    def _context(self, kind: str, name: str) -> metadata_store_pb2.Context:
        if (kind, name) not in self._contexts:
            context = metadata_store_pb2.Context(type_id=self._type("Context", kind), name=name)
            (context.id,) = self._store.put_contexts([context])
            self._contexts[kind, name] = context
        return self._contexts[kind, name]

    def _execute(
        self,
        run: str,
        pipeline: str,
        node: str,
        inputs: dict[str, pathlib.Path],
        outputs: tuple[str, ...],
        cached: tuple[pathlib.Path, ...] = (),
        killed: bool = False,
        told: dict[str, str | int] | None = None,
    ) -> tuple[pathlib.Path, ...]:
        """One execution: folders with two files, and the rows that TFX's launcher writes for it."""
        names = (("pipeline", pipeline), ("pipeline_run", run), ("node", f"{pipeline}.{node}"))
        contexts = [self._context(*name) for name in names]
        execution = metadata_store_pb2.Execution(
            type_id=self._type("Execution", node), last_known_state=metadata_store_pb2.Execution.RUNNING
        )
        taken = [
            (self._store.get_artifacts_by_id([self._ids[path]])[0], _event("INPUT", key))
            for key, path in inputs.items()
        ]
        execution.id, _, _ = self._store.put_execution(execution, taken, contexts)
        artifacts = self.root / "artifacts" / node
        work = artifacts / ".system" / "executor_execution" / str(execution.id)
        paths = cached or tuple(artifacts / output / str(execution.id) for output in outputs)
        if not cached:
            for path in paths:
                path.mkdir(parents=True)
                (path / "a").write_text(f"a of {path}")
                if not killed:
                    (path / "b").write_text(f"b of {path}")
            work.mkdir(parents=True)
        if killed:
            (work / ".temp").mkdir()
            (work / ".temp" / "half").write_text("half")
            (artifacts / ".system" / "stateful_working_dir" / str(uuid.uuid4())).mkdir(parents=True)
            return ()
        made = []
        for path, output in zip(paths, outputs, strict=True):
            artifact = metadata_store_pb2.Artifact(
                type_id=self._type("Artifact", output), uri=str(path), state=_STATE.LIVE
            )
            if cached:
                (artifact,) = self._store.get_artifacts_by_id([self._ids[path]])
            for key, value in (told or {}).items():
                kind = "int_value" if isinstance(value, int) else "string_value"
                setattr(artifact.custom_properties[key], kind, value)
            made.append((artifact, _event("OUTPUT", output)))
        state = metadata_store_pb2.Execution.CACHED if cached else metadata_store_pb2.Execution.COMPLETE
        execution.last_known_state = state
        _, ids, _ = self._store.put_execution(execution, made, contexts)
        self._ids.update(zip(paths, ids, strict=True))
        return paths

    def run(
        self, name: str = "m", same: bool = False, warm: bool = False, blessed: bool = True, killed: str = ""
    ) -> set[pathlib.Path]:
        """One run, killed in a node when one is named; `same` takes the examples from the cache. Gives its folders."""
        run = f"run-{len(self.runs)}"
        mine: set[pathlib.Path] = set()
        self.runs.append(mine)
        cached = self._data if same and self._data and all(path.exists() for path in self._data) else ()
        outputs = ("examples", "quarantine")
        data = self._execute(run, name, "Data", {}, outputs, cached, killed == "Data" and not cached)
        mine |= set(data)
        if killed == "Data":
            return mine
        self._data = data
        last = self.blessed.get(name)
        base = {"base_model": last} if warm and last else {}
        made = self._execute(
            run, name, "Trainer", {"examples": data[0], **base}, ("model", "model_run"), (), killed == "Trainer"
        )
        mine |= set(made)
        if killed == "Trainer":
            return mine
        self.made_of[made[0]] = {*data, *made, *(self.made_of[last] if warm and last else ())}
        taken = {"examples": data[0], "model": made[0], **({"baseline_model": last} if last else {})}
        told: dict[str, str | int] = {"blessed": int(blessed), "current_model_id": self._ids[made[0]]}
        judged = self._execute(run, name, "Evaluator", taken, ("evaluation", "blessing"), told=told)
        self.judged[made[0]] = set(judged)
        mine |= set(judged)
        told = {"pushed": 0}
        if blessed:
            self.blessed[name] = made[0]
            base_path = self.root / "models" / name
            base_path.mkdir(parents=True, exist_ok=True)
            version = base_path / str(max((int(path.name) for path in base_path.iterdir()), default=0) + 1)
            version.mkdir()
            (version / "saved_model.pb").write_text(f"of {made[0]}")
            if killed == "Pusher":  # then the number's former holder may stay as well
                self.perhaps |= self.needs.get(version, set())
            self.needs[version] = {*self.made_of[made[0]], *judged}
            told = {"pushed": 1, "pushed_destination": str(version), "new_version": 1}
        dies = killed == "Pusher"
        pushed = self._execute(
            run,
            name,
            "Pusher",
            {"model": made[0], "model_blessing": judged[1]},
            ("pushed_model",),
            killed=dies,
            told=told,
        )
        mine |= set(pushed)
        if blessed:
            self.needs[version] |= set(pushed)
        if dies:
            self.perhaps |= {*self.made_of[made[0]], *judged}
        return mine

    def versions(self) -> list[pathlib.Path]:
        """Of all names."""
        return sorted((self.root / "models").glob("*/*"))

    def needed(self, keep_runs: int) -> set[pathlib.Path]:
        """The folders that must stay."""
        found: set[pathlib.Path] = set().union(*self.runs[-keep_runs:])
        for version in self.versions():
            found |= self.needs[version]
        for model in self.blessed.values():
            found |= self.made_of[model] | self.judged[model]
        return found.union(*(self.made_of[path] for path in found if path in self.made_of))

    def check(self, keep_runs: int) -> None:
        """Asserts that what must stay is there, whole and live, and that nothing else is."""
        needed, there = self.needed(keep_runs), set(_payloads(self.root))
        assert needed <= there
        assert there <= needed | self.perhaps
        assert there == set(_live(self.root))
        for path in there:
            assert _tree(path) == {name: f"{name} of {path}".encode() for name in "ab"}
        working = {int(path.name) for path in (self.root / "artifacts").glob("*/.system/executor_execution/*")}
        assert working <= {int(path.name) for path in there}
        assert not list((self.root / "artifacts").glob("*/.system/stateful_working_dir/*"))
