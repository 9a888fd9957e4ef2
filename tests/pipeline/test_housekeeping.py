"""What old runs left is removed, never what a kept model descends from, and a kill at any moment breaks nothing.

The pipelines here are TFX's own on SQLite, run by the real LocalDagRunner with the real cache; only their nodes are
small. Long and broken histories are written into ML Metadata as TFX writes them, since a run takes a second.
"""

import contextlib
import json
import logging
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import LatestBlessedModelStrategy
from tfx.orchestration.local.local_dag_runner import LocalDagRunner
from tfx.orchestration.metadata import Metadata, sqlite_metadata_connection_config
from tfx.orchestration.pipeline import Pipeline
from tfx.types import Channel, standard_artifacts

from pipeline import config, housekeeping, lineage
from pipeline.console import Event
from tests import images

_STATE = metadata_store_pb2.Artifact
_BROKEN_OFF = 2  # blessed, and Ctrl-C comes between the push and the line that tells of it


# --- a real pipeline of four nodes ------------------------------------------------------------------------------------


@component
def Draw(text: Parameter[str], examples: OutputArtifact[standard_artifacts.Examples]) -> None:  # noqa: N802
    """Writes two files."""
    for name in ("a.txt", "b.txt"):
        pathlib.Path(examples.uri, name).write_text(text)


@component
def Train(  # noqa: N802
    examples: InputArtifact[standard_artifacts.Examples],
    model: OutputArtifact[standard_artifacts.Model],
    model_run: OutputArtifact[standard_artifacts.ModelRun],
    base: InputArtifact[standard_artifacts.Model] = None,
) -> None:
    """Writes down what it was made of, which it reads."""
    texts = [pathlib.Path(examples.uri, name).read_text() for name in ("a.txt", "b.txt")]
    story = json.loads(pathlib.Path(base.uri, "story.json").read_text()) if base else []
    pathlib.Path(model.uri, "story.json").write_text(json.dumps([*story, texts]))
    pathlib.Path(model_run.uri, "log").write_text("x" * 1000)


@component
def Judge(  # noqa: N802
    model: InputArtifact[standard_artifacts.Model],
    blessed: Parameter[int],
    blessing: OutputArtifact[standard_artifacts.ModelBlessing],
) -> None:
    """Does as it is told."""
    blessing.set_int_custom_property("blessed", int(blessed > 0))
    blessing.set_int_custom_property("asked", blessed)
    blessing.set_int_custom_property("current_model_id", model.id)


@component
def Pusher(  # noqa: N802
    model: InputArtifact[standard_artifacts.Model],
    blessing: InputArtifact[standard_artifacts.ModelBlessing],
    models: Parameter[str],
    pushed_model: OutputArtifact[standard_artifacts.PushedModel],
) -> None:
    """Copies a blessed model as the next version."""
    if blessing.get_int_custom_property("blessed"):
        pathlib.Path(models).mkdir(parents=True, exist_ok=True)
        version = max((int(name) for name in os.listdir(models)), default=0) + 1
        shutil.copytree(model.uri, pathlib.Path(models, str(version)))
        if blessing.get_int_custom_property("asked") == _BROKEN_OFF:
            raise KeyboardInterrupt
        pushed_model.set_string_custom_property("pushed_destination", f"{models}/{version}")


def _run(workspace: pathlib.Path, text: str, blessed: int = True, warm: bool = False) -> dict[str, lineage.NodeRun]:
    """One run; gives its nodes."""
    baseline = Resolver(
        strategy_class=LatestBlessedModelStrategy,
        model=Channel(type=standard_artifacts.Model),
        model_blessing=Channel(type=standard_artifacts.ModelBlessing),
    ).with_id("baseline")
    draw = Draw(text=text)
    train = Train(examples=draw.outputs["examples"], **({"base": baseline.outputs["model"]} if warm else {}))
    judge = Judge(model=train.outputs["model"], blessed=int(blessed))
    push = Pusher(
        model=train.outputs["model"], blessing=judge.outputs["blessing"], models=str(workspace / "models" / "m")
    )
    workspace.mkdir(exist_ok=True)
    LocalDagRunner().run(
        Pipeline(
            pipeline_name="small",
            pipeline_root=str(workspace / "artifacts"),
            components=[draw, baseline, train, judge, push],
            enable_cache=True,
            metadata_connection_config=sqlite_metadata_connection_config(str(workspace / "metadata.db")),
        )
    )
    return lineage.latest_run(lineage.connect(str(workspace / "metadata.db")))[1]


def _story(nodes: dict[str, lineage.NodeRun]) -> list[list[str]]:
    return json.loads(pathlib.Path(nodes["Train"].outputs["model"].uri, "story.json").read_text())


def _live(workspace: pathlib.Path) -> list[pathlib.Path]:
    store = lineage.connect(str(workspace / "metadata.db"))
    return sorted(pathlib.Path(artifact.uri) for artifact in store.get_artifacts() if artifact.state == _STATE.LIVE)


def _payloads(workspace: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in (workspace / "artifacts").glob("[!.]*/[!.]*/*"))


def _tree(root: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_node_whose_output_was_removed_runs_again_and_the_others_come_from_the_cache(tmp_path: pathlib.Path) -> None:
    first = _run(tmp_path, "one", blessed=False)
    _run(tmp_path, "two", blessed=False)
    before = sum(map(len, _tree(tmp_path / "artifacts").values()))
    freed = housekeeping.clean_up(tmp_path, 1)
    assert len(freed.runs) == 1
    assert freed.bytes == before - sum(map(len, _tree(tmp_path / "artifacts").values())) > 1000
    for node in ("Draw", "Train", "Judge", "Pusher"):
        for output in first[node].outputs.values():
            assert not os.path.exists(output.uri)
    assert _payloads(tmp_path) == _live(tmp_path)

    same = _run(tmp_path, "two", blessed=False)
    assert {name for name, node in same.items() if node.cached} == {"Draw", "Train", "Judge", "Pusher"}
    again = _run(tmp_path, "one", blessed=False)
    assert not any(node.cached for node in again.values())
    assert _story(again) == [["one", "one"]]
    assert housekeeping.clean_up(tmp_path, 2) == housekeeping.Freed()


def test_what_is_left_of_a_folder_is_not_taken_from_the_cache(tmp_path: pathlib.Path) -> None:
    """Why the mark comes first: the cache itself looks only whether the folder is there."""
    first = _run(tmp_path, "one", blessed=False)
    _run(tmp_path, "two", blessed=False)
    half = tmp_path / "half"
    shutil.copytree(first["Draw"].outputs["examples"].uri, half)
    (half / "b.txt").unlink()
    housekeeping.clean_up(tmp_path, 1)
    shutil.copytree(half, first["Draw"].outputs["examples"].uri)
    again = _run(tmp_path, "one", blessed=False)
    assert not again["Draw"].cached
    assert _story(again) == [["one", "one"]]
    housekeeping.clean_up(tmp_path, 1)
    assert _payloads(tmp_path) == _live(tmp_path)


def test_a_resolver_finds_the_last_blessed_model_and_never_one_that_was_removed(tmp_path: pathlib.Path) -> None:
    _run(tmp_path, "one")
    _run(tmp_path, "two")
    shutil.rmtree(tmp_path / "models")
    _run(tmp_path, "three", blessed=False)
    housekeeping.clean_up(tmp_path, 1)
    assert len(list((tmp_path / "artifacts/Train/model").iterdir())) == 2
    assert _story(_run(tmp_path, "four", warm=True)) == [["two", "two"], ["four", "four"]]

    store = lineage.connect(str(tmp_path / "metadata.db"))
    models = store.get_artifacts_by_type("Model")
    assert [model.state for model in models] == [_STATE.DELETED, _STATE.LIVE, _STATE.LIVE, _STATE.LIVE]
    for model in models:
        model.state = _STATE.DELETED
    store.put_artifacts(models)
    assert _story(_run(tmp_path, "five", warm=True)) == [["five", "five"]]


def test_what_a_warm_start_began_with_stays_as_long_as_the_model(tmp_path: pathlib.Path) -> None:
    def models() -> list[list[list[str]]]:
        found = (tmp_path / "artifacts/Train/model").glob("*/story.json")
        return sorted(json.loads(path.read_text()) for path in found)

    one, two, three, four = ([text, text] for text in ("one", "two", "three", "four"))
    _run(tmp_path, "one")
    _run(tmp_path, "two", warm=True)
    _run(tmp_path, "three")
    shutil.rmtree(tmp_path / "models/m/1")
    _run(tmp_path, "four", blessed=False)
    housekeeping.clean_up(tmp_path, 1)
    assert models() == [[four], [one], [one, two], [three]]
    shutil.rmtree(tmp_path / "models/m/2")
    housekeeping.clean_up(tmp_path, 1)
    assert models() == [[four], [three]]
    assert _payloads(tmp_path) == _live(tmp_path)


def test_a_version_whose_push_was_broken_off_keeps_what_it_is_made_of(tmp_path: pathlib.Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, "one", blessed=_BROKEN_OFF)
    made = [path for path in _live(tmp_path) if path.parts[-3] != "Pusher"]
    _run(tmp_path, "two")
    _run(tmp_path, "three")
    shutil.rmtree(tmp_path / "models/m/2")
    assert housekeeping.clean_up(tmp_path, 1).bytes
    assert set(made) < set(_live(tmp_path))
    assert _payloads(tmp_path) == _live(tmp_path)


def _killed_at(step: int, workspace: pathlib.Path, keep_runs: int) -> bool:
    """Cleans up in a child that SIGKILLs itself at its `step`-th use of the file system; whether it came so far."""
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, _arguments: object) -> None:
            nonlocal seen
            if event in ("os.scandir", "os.listdir", "os.remove", "os.rmdir", "sqlite3.connect"):
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            housekeeping.clean_up(workspace, keep_runs)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_kill_at_any_moment_leaves_a_workspace_that_works(tmp_path: pathlib.Path) -> None:
    workspace, backup = tmp_path / "workspace", tmp_path / "backup"
    for text, blessed in (("one", False), ("two", True), ("three", False), ("four", False)):
        _run(workspace, text, blessed)
    shutil.copytree(workspace, backup)
    whole = _tree(workspace / "artifacts")
    housekeeping.clean_up(workspace, 1)
    expected, tried, step, marked = _tree(workspace / "artifacts"), 0, 1, 0
    assert len(expected) < len(whole)
    while True:
        shutil.rmtree(workspace)
        shutil.copytree(backup, workspace)
        if not _killed_at(step, workspace, 1):
            break
        live = _live(workspace)
        tried, marked = tried + 1, marked + (len(live) < len(_live(backup)))
        left = _tree(workspace / "artifacts")
        for path in live:
            under = f"{path.relative_to(workspace / 'artifacts')}/"
            for name, data in whole.items():
                assert not name.startswith(under) or left[name] == data, f"{name} was lost at step {step}"
        if tried % 10 == 0:
            assert _story(_run(workspace, "one", blessed=False)) == [["one", "one"]]
            assert _story(_run(workspace, "four", blessed=False)) == [["four", "four"]]
        else:
            housekeeping.clean_up(workspace, 1)
            assert _tree(workspace / "artifacts") == expected
            assert _payloads(workspace) == _live(workspace)
        step += 1 + step // 6
    assert 10 < marked < tried, "the kills were not spread over all that is done"


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


@pytest.mark.parametrize("seed", range(4))
def test_all_that_a_kept_model_descends_from_is_there_and_nothing_else(tmp_path: pathlib.Path, seed: int) -> None:
    history, draw = History(tmp_path), random.Random(seed)
    for _ in range(10):
        history.run(
            name=draw.choice("mmn"),
            same=draw.random() < 0.4,
            warm=draw.random() < 0.3,
            blessed=draw.random() < 0.6,
            killed=draw.choice(["", "", "", "Data", "Trainer", "Pusher"]),
        )
        for version in history.versions():
            if draw.random() < 0.3:
                shutil.rmtree(version)
        if draw.random() < 0.6:
            history.run(blessed=draw.random() < 0.5)  # it ended well, so there is a cleaning
            keep_runs = draw.randint(1, 4)
            housekeeping.clean_up(tmp_path, keep_runs)
            history.check(keep_runs)


def test_what_killed_runs_left_goes_at_once_and_is_told_of(tmp_path: pathlib.Path) -> None:
    history = History(tmp_path)
    for node in ("Data", "Trainer"):
        history.run(blessed=False, killed=node)
    history.run()
    freed = housekeeping.clean_up(tmp_path, 10)
    assert freed.runs == {"run-0", "run-1"}
    assert freed.text == f"removed artifacts of 2 old runs, {freed.bytes} bytes"
    history.check(10)
    assert housekeeping.clean_up(tmp_path, 10).text == ""


def test_a_moved_workspace_keeps_what_its_models_descend_from(tmp_path: pathlib.Path) -> None:
    history = History(tmp_path / "here")
    for _ in range(3):
        history.run()
    shutil.rmtree(history.root / "models/m/2")
    (tmp_path / "here").rename(tmp_path / "there")
    housekeeping.clean_up(tmp_path / "there", 1)
    assert {path.name for path in (tmp_path / "there/artifacts/Trainer/model").iterdir()} == {"2", "10"}


def test_nothing_is_touched_outside_the_workspaces_own_folders(tmp_path: pathlib.Path) -> None:
    history = History(tmp_path / "workspace")
    for _ in range(4):
        history.run(blessed=False)
    artifacts, elsewhere = history.root / "artifacts", tmp_path / "elsewhere"
    # A node's folder moved to another disk, a link within a payload, a uri that points elsewhere.
    shutil.move(artifacts / "Data" / "examples", elsewhere)
    (artifacts / "Data" / "examples").symlink_to(elsewhere)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (artifacts / "Trainer" / "model" / "2" / "link").symlink_to(outside)
    store = lineage.connect(str(history.root / "metadata.db"))
    (foreign,) = [one for one in store.get_artifacts() if one.uri.endswith("Evaluator/evaluation/3")]
    foreign.uri = str(outside)
    store.put_artifacts([foreign])
    # Folders of nobody's: an execution that is not recorded, one of another node, names that TFX does not give.
    for folder in ("Trainer/model/999", "Trainer/model/1", "Trainer/model/mine", "Mine/things/2"):
        (artifacts / folder).mkdir(parents=True)
        (artifacts / folder / "precious").write_text("x")
    before, others = _tree(elsewhere), _tree(outside)

    freed = housekeeping.clean_up(history.root, 1)
    assert not freed.trouble
    assert not (artifacts / "Trainer/model/2").exists()
    assert _tree(elsewhere) == before and _tree(outside) == others
    assert outside in _live(history.root), "marked as gone, though it is there"
    assert artifacts / "Data/examples/1" in _live(history.root)
    for folder in ("Trainer/model/999", "Trainer/model/1", "Trainer/model/mine", "Mine/things/2"):
        assert (artifacts / folder / "precious").exists()


@pytest.mark.parametrize("linked", ["artifacts", "logs"])
def test_a_link_in_place_of_the_folder_is_not_followed(tmp_path: pathlib.Path, linked: str) -> None:
    history = History(tmp_path / "workspace")
    (history.root / "logs").mkdir()
    (history.root / "logs" / "run-1.log").write_text("old")
    os.utime(history.root / "logs" / "run-1.log", (0, 0))
    for _ in range(3):
        history.run(blessed=False)
    shutil.move(history.root / linked, tmp_path / "disk")
    (history.root / linked).symlink_to(tmp_path / "disk")
    before = _tree(tmp_path / "disk")
    housekeeping.clean_up(history.root, 1)
    assert _tree(tmp_path / "disk") == before


def test_logs_stay_with_their_runs(tmp_path: pathlib.Path) -> None:
    history = History(tmp_path)
    logs = tmp_path / "logs"
    logs.mkdir()
    for number, blessed in enumerate((False, True, False, False, False)):
        time.sleep(0.02)
        history.run(blessed=blessed)
        time.sleep(0.02)
        (logs / f"run-{number}.log").write_text("said")
    (logs / "mine.txt").write_text("said")
    os.utime(logs / "mine.txt", (0, 0))
    housekeeping.clean_up(tmp_path, 2)
    assert sorted(os.listdir(logs)) == ["mine.txt", "run-1.log", "run-3.log", "run-4.log"]


# --- what a run says of it --------------------------------------------------------------------------------------------


def _after_run(workspace: pathlib.Path, keep_runs: int | None) -> list[str]:
    events: list[Event] = []
    settings = config.HousekeepingSettings(keep_runs=keep_runs)
    housekeeping.after_run(config.Config(workspace=str(workspace), housekeeping=settings), events.append)
    assert all(event.state == "finished" and event.node == "Housekeeping" for event in events)
    return [event.detail for event in events]


def test_one_line_when_something_was_removed_and_none_otherwise(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    history = History(tmp_path)
    for _ in range(3):
        history.run(blessed=False)
    with caplog.at_level(logging.INFO):
        assert _after_run(tmp_path, None) == _after_run(tmp_path, 3) == []
        assert not [record for record in caplog.records if record.name == "root"]
        (line,) = _after_run(tmp_path, 1)
    assert line.startswith("removed artifacts of 2 old runs, ")
    assert [record.getMessage() for record in caplog.records if record.name == "root"] == [f"Housekeeping: {line}"]
    assert _after_run(tmp_path, 1) == []


@pytest.mark.parametrize(
    ("count", "text"),
    [(1, "1 bytes"), (999, "999 bytes"), (1_234, "1.2 kB"), (45_600_000, "46 MB"), (1_230_000_000, "1.2 GB")],
)
def test_sizes_as_a_person_reads_them(count: int, text: str) -> None:
    assert housekeeping.Freed({"a", "b"}, count).text == f"removed artifacts of 2 old runs, {text}"


def test_models_on_a_disk_that_is_not_there_are_not_taken_for_removed(tmp_path: pathlib.Path) -> None:
    history = History(tmp_path)
    for _ in range(3):
        history.run()
    shutil.rmtree(tmp_path / "models/m")
    (tmp_path / "models/m").symlink_to(tmp_path / "not-mounted")
    before = _tree(tmp_path / "artifacts")
    (line,) = _after_run(tmp_path, 1)
    assert line.startswith("ended early (FileNotFoundError: ")
    assert _tree(tmp_path / "artifacts") == before
    assert _after_run(tmp_path / "nowhere", 1)[0].startswith("ended early (")


@contextlib.contextmanager
def _bound_by_permissions(root: pathlib.Path) -> Iterator[None]:
    """Root may remove anything: goes on as nobody, who owns all under `root`."""
    if os.geteuid() != 0:
        yield
        return
    subprocess.run(["chown", "-R", "65534", root], check=True)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_cannot_be_removed_is_a_warning_and_the_rest_goes() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own lie where nobody but root may look
        history = History(pathlib.Path(folder))
        for _ in range(3):
            history.run(blessed=False)
        (history.root / "artifacts/Data/examples/1/a").chmod(0o444)  # no hindrance: its folder may be written
        stuck = history.root / "artifacts/Trainer/model/2"
        with _bound_by_permissions(history.root):
            stuck.chmod(0o555)
            (line,) = _after_run(history.root, 1)
            again = _after_run(history.root, 1)
            stuck.chmod(0o755)
        assert line.startswith("removed artifacts of 2 old runs, ")
        assert line.endswith(f"; could not remove {stuck} (Permission denied)")
        assert again == [f"could not remove {stuck} (Permission denied)"]
        assert set(_payloads(history.root)) - {stuck} == history.needed(1)
        assert set(_live(history.root)) == history.needed(1)
        assert _after_run(history.root, 1)[0].startswith("removed artifacts of 1 old run, ")
        history.check(1)


@pytest.mark.slow
def test_four_nightly_runs_of_the_whole_pipeline(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each on other images: what stays are the latest two runs and what the served versions are made of."""
    from pipeline import cli

    workspace, photos = tmp_path / "workspace", images.folder(tmp_path / "photos", 4)
    settings = [
        "backbone.weights=none",
        "backbone.input_size=32",
        "backbone.options={alpha: 0.35}",
        "head.cut_at=block_2_add",
        "feature_extraction.epochs=2",
        "fine_tuning.epochs=0",
        "gate.accuracy={min: 0.0, min_change: -1}",
        "housekeeping.keep_runs=2",
    ]
    given = {"images": str(photos), "workspace": str(workspace)}
    said = []
    for night in range(4):
        label = images.CLASSES[night % 3]
        (photos / label / f"new-{night}.jpg").write_bytes(images.encoded(images.draw(label, 100 + night)))
        least = 1 if night < 2 else 1_000_000  # images to judge by
        summary = cli.run_pipeline(config.load(None, [*settings, f"gate.min_examples={least}"], given))
        assert summary.blessed == (night < 2)
        said.append([line for line in capfd.readouterr().err.splitlines() if line.startswith("Housekeeping")])
        if night == 1:
            shutil.rmtree(workspace / "models" / "photos" / "1")
    assert said[:2] == [[], []]
    for (line,) in said[2:]:  # a whole run, and of another what its model was not made of
        assert "removed artifacts of 1 old run, " in line
    assert len(list((workspace / "artifacts" / "ExampleValidator" / "anomalies").iterdir())) == 2
    for node, output in (("ImageExampleGen", "examples"), ("Trainer", "model"), ("Trainer", "model_run")):
        assert len(list((workspace / "artifacts" / node / output).iterdir())) == 3
    assert len(list((workspace / "logs").iterdir())) == 3
    assert _payloads(workspace) == _live(workspace)
    again = cli.run_pipeline(config.load(None, [*settings, "gate.min_examples=1000000"], given))
    assert {"ImageExampleGen", "Transform", "Trainer", "Evaluator"} <= set(again.cached)
