"""`graftline rollback` on a workspace: versions, withdrawals, labels, ML Metadata and what a person is told."""

import json
import pathlib
import shutil

import pytest
from click.testing import CliRunner
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2

from graftline.errors import UserError
from graftline.pipeline import cli, lineage
from graftline.pipeline import rollback as command
from graftline.serving.versions import labels, withdrawals
from graftline.serving.versions.base_path import Disk, content_digest
from graftline.serving.versions.rollback import roll_back
from tests.serving.versions.saved_models import publish


def model(path: pathlib.Path, content: str) -> str:
    """A folder shaped as a SavedModel."""
    path.mkdir(parents=True)
    (path / "saved_model.pb").write_text(content)
    return str(path)


@pytest.fixture
def workspace(tmp_path: pathlib.Path) -> pathlib.Path:
    """Versions 1, 2 and 3 of roses, all different."""
    for number in (1, 2, 3):
        publish(model(tmp_path / f"export{number}", f"model {number}"), str(tmp_path / "ws/models/roses"))
    return tmp_path / "ws"


def contents(workspace: pathlib.Path) -> dict[int, str]:
    versions = Disk(str(workspace / "models/roses")).versions()
    return {number: pathlib.Path(path, "saved_model.pb").read_text() for number, path in sorted(versions.items())}


def base_of(workspace: pathlib.Path) -> Disk:
    return Disk(str(workspace / "models/roses"))


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli.main, ["rollback", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_the_version_before_becomes_the_newest_and_what_was_served_is_withdrawn(workspace: pathlib.Path) -> None:
    status, out, _ = run(str(workspace))
    assert status == 0
    assert out == (
        f"rolled back from version 3 to 2, which is now version 4: {workspace}/models/roses/4\n"
        "version 3 is withdrawn: its model is not pushed again unless push.allow_withdrawn is true\n"
    )
    assert contents(workspace) == {1: "model 1", 2: "model 2", 3: "model 3", 4: "model 2"}
    assert withdrawals.withdrawn(base_of(workspace)) == {content_digest(str(workspace / "models/roses/3"))}


def test_the_model_that_was_rolled_back_from_is_refused_until_it_is_allowed(workspace: pathlib.Path) -> None:
    base = str(workspace / "models/roses")
    roll_back(base_of(workspace))
    with pytest.raises(withdrawals.WithdrawnError) as caught:
        publish(str(workspace.parent / "export3"), base)
    assert str(caught.value).startswith(
        "not pushed: this very model was version 3 and was rolled back from, to version 2"
    )
    assert str(caught.value).endswith("; train another model, or allow this one with --set push.allow_withdrawn=true")
    assert max(contents(workspace)) == 4
    assert publish(str(workspace.parent / "export3"), base, allow_withdrawn=True).version == 5
    assert withdrawals.withdrawn(base_of(workspace)) == set()
    assert publish(str(workspace.parent / "export3"), base).version == 5, "it is a model like any other again"


def test_rolling_back_again_goes_further_back_and_ends_where_nothing_is_left(workspace: pathlib.Path) -> None:
    assert roll_back(base_of(workspace)).of == 2
    assert roll_back(base_of(workspace)).of == 1
    assert contents(workspace)[5] == "model 1"
    status, _, err = run(str(workspace))
    assert status == 2
    assert err == (
        f"graftline: nothing to go back to in {workspace}/models/roses: version 5 is served; there is 4 (itself rolled "
        "back from), 3 (itself rolled back from), 2 (itself rolled back from), 1 (the same model); name one with "
        "--to VERSION, or train and push another model\n"
    )
    assert max(contents(workspace)) == 5


def test_a_rollback_is_taken_back_by_naming_the_version(workspace: pathlib.Path) -> None:
    roll_back(base_of(workspace))
    status, out, err = run(str(workspace), "--to", "3", "--json")
    assert status == 0
    assert json.loads(out) == {
        "before": 4,
        "of": 3,
        "version": 5,
        "path": f"{workspace}/models/roses/5",
        "digest": content_digest(str(workspace.parent / "export3")),
        "withdrawn": None,
        "note": None,
    }
    assert err.endswith("\nthe rollback from version 3 is undone\n")
    assert withdrawals.withdrawn(base_of(workspace)) == set(), "neither is bad now"
    assert contents(workspace)[5] == "model 3"


def test_a_named_version_may_lie_further_back(workspace: pathlib.Path) -> None:
    assert roll_back(base_of(workspace), to=1).version == 4
    assert contents(workspace)[4] == "model 1"


@pytest.mark.parametrize(
    ("to", "message"),
    [
        (7, "--to 7: {base} holds no such version; it holds 1, 2, 3"),
        (3, "--to 3: version 3 is the one that is served; name another, or leave --to out"),
    ],
)
def test_a_version_that_cannot_be_gone_back_to_is_told(workspace: pathlib.Path, to: int, message: str) -> None:
    with pytest.raises(UserError) as caught:
        roll_back(base_of(workspace), to)
    assert str(caught.value) == message.format(base=workspace / "models/roses")
    assert sorted(contents(workspace)) == [1, 2, 3]
    assert withdrawals.withdrawn(base_of(workspace)) == set()


def test_a_first_version_has_nothing_before_it(tmp_path: pathlib.Path) -> None:
    publish(model(tmp_path / "export", "only"), str(tmp_path / "models/roses"))
    status, _, err = run(str(tmp_path))
    assert status == 2
    assert "version 1 is served and it is the only one; train" in err


def test_what_is_no_workspace_and_a_single_model_are_told(workspace: pathlib.Path, tmp_path: pathlib.Path) -> None:
    status, _, err = run(str(tmp_path / "nowhere"))
    assert (status, "no such folder" in err) == (2, True)
    status, _, err = run(str(workspace / "models/roses/1"))
    assert status == 2
    assert "is a single model without other versions: give a workspace, or a folder of versions" in err


def test_after_a_rollback_both_labels_are_on_what_is_served(workspace: pathlib.Path) -> None:
    base = base_of(workspace)
    roll_back(base)
    assert labels.canary_version(base) == 4
    assert 'key: "stable"\n      value: 4' in (workspace / "models/models.config").read_text()


def test_a_warm_start_does_not_begin_from_a_model_that_was_rolled_back_from(workspace: pathlib.Path) -> None:
    from graftline.trainer import warm_start

    export, served = workspace.parent / "export3", str(workspace / "models/roses")
    assert warm_start.refuse_withdrawn(str(export), served) is None
    roll_back(base_of(workspace))
    assert warm_start.refuse_withdrawn(str(export), served) == (
        False,
        "warm start: the last blessed model was rolled back from; started cold",
    )
    assert warm_start.refuse_withdrawn(str(workspace.parent / "export2"), served) is None
    assert warm_start.refuse_withdrawn(str(export), str(workspace / "models/tulips")) is None, (
        "another model's withdrawals"
    )
    assert warm_start.refuse_withdrawn(str(export), "") is None


# --- ML Metadata ------------------------------------------------------------------------------------------------------


def _artifact(store: object, kind: str, **custom: object) -> int:
    artifact = metadata_store_pb2.Artifact(
        type_id=store.put_artifact_type(metadata_store_pb2.ArtifactType(name=kind)),  # type: ignore[attr-defined]
        state=metadata_store_pb2.Artifact.LIVE,
    )
    for key, value in custom.items():
        if isinstance(value, int):
            artifact.custom_properties[key].int_value = value
        else:
            artifact.custom_properties[key].string_value = str(value)
    (number,) = store.put_artifacts([artifact])  # type: ignore[attr-defined]
    return number


@pytest.fixture
def told(workspace: pathlib.Path) -> tuple[dict[int, int], dict[int, int]]:
    """The metadata of three runs, as TFX leaves it: the ids of the models and of their blessings by version."""
    made = metadata_store_pb2.ConnectionConfig()
    made.sqlite.filename_uri = str(workspace / "metadata.db")
    made.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    store = metadata_store.MetadataStore(made)
    kind = store.put_execution_type(metadata_store_pb2.ExecutionType(name="Pusher"))
    models, blessings = {}, {}
    for version in (1, 2, 3):
        models[version] = _artifact(store, "Model")
        blessings[version] = _artifact(store, "ModelBlessing", blessed=1, current_model_id=models[version])
        push = _artifact(
            store,
            "PushedModel",
            # The workspace may have lain elsewhere.
            pushed_destination=f"/elsewhere/models/roses/{version}",
            pushed_version=str(version),
            new_version=1,
        )
        (execution,) = store.put_executions([metadata_store_pb2.Execution(type_id=kind)])
        events = metadata_store_pb2.Event
        path = {key: events.Path(steps=[events.Path.Step(key=key)]) for key in ("model", "blessing", "pushed_model")}
        store.put_events(
            [
                events(artifact_id=models[version], execution_id=execution, type=events.INPUT, path=path["model"]),
                events(
                    artifact_id=blessings[version], execution_id=execution, type=events.INPUT, path=path["blessing"]
                ),
                events(artifact_id=push, execution_id=execution, type=events.OUTPUT, path=path["pushed_model"]),
            ]
        )
    return models, blessings


def blessed(workspace: pathlib.Path, blessings: dict[int, int]) -> list[int]:
    """The versions whose models the Resolver's strategy would take for blessed."""
    store = lineage.connect(str(workspace / "metadata.db"))
    found = {one.id: one.custom_properties["blessed"].int_value for one in store.get_artifacts_by_type("ModelBlessing")}
    return [version for version, blessing in blessings.items() if found[blessing] == 1]


def test_the_blessing_in_the_metadata_goes_and_comes_back_with_the_rollback(
    workspace: pathlib.Path, told: tuple[dict[int, int], dict[int, int]]
) -> None:
    _, blessings = told
    command.run(str(workspace))
    assert blessed(workspace, blessings) == [1, 2]
    command.run(str(workspace))
    assert blessed(workspace, blessings) == [1], "version 4 is the model of version 2"
    command.run(str(workspace), to=3)
    assert blessed(workspace, blessings) == [1, 3]


def test_what_the_new_version_descends_from_is_known(
    workspace: pathlib.Path, told: tuple[dict[int, int], dict[int, int]]
) -> None:
    models, _ = told
    command.run(str(workspace))
    command.run(str(workspace), to=1)
    descent = lineage.descent(lineage.connect(str(workspace / "metadata.db")))
    assert lineage.pushed_as(descent, "roses", 4) == {models[2]}
    assert lineage.pushed_as(descent, "roses", 5) == {models[1]}
    assert lineage.pushed_as(descent, "roses", 3) == {models[3]}


def test_housekeeping_keeps_what_the_new_version_descends_from_also_when_the_old_one_is_gone(
    workspace: pathlib.Path, told: tuple[dict[int, int], dict[int, int]]
) -> None:
    from graftline.pipeline import housekeeping

    models, _ = told
    command.run(str(workspace))
    shutil.rmtree(workspace / "models/roses/2")
    descent = lineage.descent(lineage.connect(str(workspace / "metadata.db")))
    kept = housekeeping._pushed(descent, housekeeping._versions(workspace / "models"))
    taken = {model for execution in descent.upstream(kept) for model in descent.inputs[execution]}
    assert models[2] in taken, "version 4 is that model"
    shutil.rmtree(workspace / "models/roses/4")
    kept = housekeeping._pushed(descent, housekeeping._versions(workspace / "models"))
    taken = {model for execution in descent.upstream(kept) for model in descent.inputs[execution]}
    assert models[2] not in taken
    assert models[3] in taken


def test_metadata_that_cannot_be_told_costs_a_note_and_no_rollback(workspace: pathlib.Path) -> None:
    (workspace / "metadata.db").write_bytes(b"not a database, for certain" * 100)
    outcome = command.run(str(workspace))
    assert outcome.rolled_back.version == 4
    assert f"note: {workspace}/metadata.db could not be updated" in outcome.text
