"""What is in TFX's cache keys beside what TFX puts there."""

import json
import pathlib

import pytest
from tfx.orchestration.data_types import RuntimeParameter

from graftline.components.image_example_gen import quarantine
from graftline.pipeline import config_file, dag
from graftline.serving.versions import withdrawals
from graftline.serving.versions.base_path import Disk
from graftline.trainer import backbones


@pytest.mark.parametrize(
    ("reason", "folder", "again"),
    [
        ("truncated JPEG", "photos", False),
        ("unreadable: Permission denied", "photos", False),
        ("unreadable: no connection to the server", "s3://bucket/photos", True),
        ("vanished during the run: No such file or directory", "photos", True),
        ("changed during the run", "photos", True),
        ("decoding took too long: more than 60 s", "photos", True),
        ("decoding took too long: more than 20 s of processor time", "photos", False),
    ],
)
def test_ingest_is_run_again_for_what_may_have_passed(
    tmp_path: pathlib.Path, reason: str, folder: str, again: bool
) -> None:
    (tmp_path / quarantine.CSV_NAME).write_text(f"path,reason,bytes,sha256\na/1.jpg,{reason},1,\n")
    first, second = (dag._again(str(tmp_path), [folder]) for _ in range(2))
    assert (first != second) == again
    assert again or not first


def test_the_first_run_and_a_cluster_know_of_nothing_that_passed(tmp_path: pathlib.Path) -> None:
    assert dag._again(str(tmp_path), ["s3://bucket"]) == dag._again("", ["s3://bucket"]) == ""


def keys(
    folder: pathlib.Path, served: str | None, fingerprint: object = "x", weights: str = "none", **training: bool
) -> dict[str, str]:
    """What of each node TFX's cache knows it by."""
    settings = config_file.load(None, [f"backbone.weights={weights}"], {"images": str(folder / "photos")})
    settings = settings.model_copy(update={"training": settings.training.model_copy(update=training)})
    made = dag.create_pipeline(
        settings, pipeline_root=str(folder), models=str(folder / "models"), fingerprint=fingerprint, served=served
    )
    return {node.id: json.dumps(node.exec_properties, default=str) for node in made.components}


def differing(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {node for node in before if before[node] != after[node]}


def test_another_model_under_the_number_of_the_served_one_is_judged_against_and_pushed_over(
    tmp_path: pathlib.Path,
) -> None:
    version = tmp_path / "models" / "photos" / "1"
    version.mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(b"one")
    before = keys(tmp_path, str(version))
    assert keys(tmp_path, str(version)) == before
    (version / "saved_model.pb").write_bytes(b"two")
    assert differing(before, keys(tmp_path, str(version))) == {"Evaluator", "Pusher"}


def test_what_was_rolled_back_from_is_validated_again_and_is_no_start_of_a_warm_start(tmp_path: pathlib.Path) -> None:
    base = Disk(str(tmp_path / "models" / "photos"))
    cold, warm = keys(tmp_path, ""), keys(tmp_path, "", warm_start=True)
    withdrawals.withdraw(base, "0" * 64, withdrawals.Withdrawal(2, 1, "today"))
    # A first push never comes from the cache.
    assert differing(cold, keys(tmp_path, "")) == {"ServingValidator", "Pusher"}
    assert differing(warm, keys(tmp_path, "", warm_start=True)) == {"ServingValidator", "Pusher", "Trainer"}


@pytest.mark.parametrize("weights", ["FILE", "procedural"])
def test_other_weights_under_the_same_name_are_another_run(
    weights: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "trunk.weights.h5"
    monkeypatch.setattr(backbones, "PROCEDURAL", file)
    name = weights.replace("FILE", str(file))
    parameter = RuntimeParameter(name="fingerprint", ptype=str)
    file.write_bytes(b"one")
    before = keys(tmp_path, None, parameter, name)
    assert keys(tmp_path, None, parameter, name) == before
    file.write_bytes(b"two")
    assert differing(before, keys(tmp_path, None, parameter, name)) == {"Trainer"}


def test_the_same_config_compiles_to_the_same_pipeline(tmp_path: pathlib.Path) -> None:
    parameter = RuntimeParameter(name="fingerprint", ptype=str)
    assert keys(tmp_path, None, parameter) == keys(tmp_path, None, parameter)


def test_a_decoder_that_is_installed_is_part_of_the_key() -> None:
    assert dag._versions("pillow", "no-such-distribution").startswith(" pillow ")
    assert "no-such" not in dag._versions("pillow", "no-such-distribution")
