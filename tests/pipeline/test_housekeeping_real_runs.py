"""After a cleaning the cache and the resolver work on, and a kill at any moment breaks nothing.

The pipelines here are TFX's own on SQLite, run by the real LocalDagRunner with the real cache; only their nodes are
small, but for the last test, which is slow.
"""

import json
import os
import pathlib
import shutil
import signal
import sys

import pytest
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import LatestBlessedModelStrategy
from tfx.orchestration.local.local_dag_runner import LocalDagRunner
from tfx.orchestration.metadata import sqlite_metadata_connection_config
from tfx.orchestration.pipeline import Pipeline
from tfx.types import Channel, standard_artifacts

from graftline.pipeline import config_file, housekeeping, lineage
from tests import images
from tests.pipeline.workspaces import live as _live
from tests.pipeline.workspaces import payloads as _payloads
from tests.pipeline.workspaces import tree as _tree

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


@pytest.mark.slow
def test_four_nightly_runs_of_the_whole_pipeline(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each on other images: what stays are the latest two runs and what the served versions are made of."""
    from graftline.pipeline import app

    workspace, photos = tmp_path / "workspace", images.write_folder(tmp_path / "photos", 4)
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
        (photos / label / f"new-{night}.jpg").write_bytes(images.encode(images.draw(label, 100 + night)))
        least = 1 if night < 2 else 1_000_000  # images to judge by
        summary = app.run_pipeline(config_file.load(None, [*settings, f"gate.min_examples={least}"], given))
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
    again = app.run_pipeline(config_file.load(None, [*settings, "gate.min_examples=1000000"], given))
    assert {"ImageExampleGen", "Transform", "Trainer", "Evaluator"} <= set(again.cached)
