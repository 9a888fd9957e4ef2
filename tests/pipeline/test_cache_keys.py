"""Which nodes run again when a source file of Graftline, or what lies beside the pipeline, changes."""

import ast
import json
import pathlib
import shutil
import subprocess
import sys

import pytest
from tfx.orchestration.data_types import RuntimeParameter

import graftline
from graftline import faces
from graftline.components.image_example_gen import quarantine
from graftline.pipeline import cache_keys, config_file, dag
from graftline.pipeline.site import Site
from graftline.serving.versions import withdrawals
from graftline.serving.versions.base_path import Disk
from graftline.trainer import backbones
from graftline.workspace import Workspace

_ROOT = pathlib.Path(graftline.__file__).parents[1]

INGEST, SCHEMA, VALIDATION = "ImageExampleGen", "SchemaGen", "ExampleValidator"
TRANSFORM, TRAINER, CACHE = "Transform", "Trainer", "boundary cache"
SERVING, GATE, PUSH = "ServingValidator", "Evaluator", "Pusher"
ALL = {INGEST, SCHEMA, VALIDATION, TRANSFORM, TRAINER, CACHE, SERVING, GATE, PUSH}

# A changed file, and the nodes whose key changes. Nodes after these run again when their inputs have changed.
# "boundary cache": the activations of earlier runs are computed again.
RERUNS: dict[str, set[str]] = {
    # the ground
    "graftline/__init__.py": ALL - {CACHE},  # a new version keeps the activations
    "graftline/errors.py": ALL - {CACHE},
    "graftline/features.py": ALL - {PUSH},
    "graftline/uri.py": {INGEST, SCHEMA, VALIDATION, TRAINER, SERVING, GATE, PUSH},
    "graftline/signatures.py": {TRAINER, SERVING, GATE},
    "graftline/references.py": {TRAINER, SERVING},
    "graftline/withdrawn.py": {TRAINER, SERVING, GATE, PUSH},
    "graftline/faces.py": ALL - {CACHE},
    # the nodes' folders
    "components/image_example_gen/ingest.py": {INGEST},
    "components/image_example_gen/near_duplicates.py": {INGEST},
    "components/image_example_gen/settings.py": {INGEST},
    "components/data_validation/component.py": {SCHEMA, VALIDATION},
    "components/data_validation/statistics.py": {SCHEMA, VALIDATION},
    "components/data_validation/checks.py": {SCHEMA, VALIDATION},
    "components/transform/component.py": {TRANSFORM},
    "components/transform/preprocessing.py": {TRANSFORM, TRAINER, CACHE},
    "components/transform/pixels.py": {TRANSFORM, TRAINER, CACHE},
    "components/serving_validator/validation.py": {SERVING},
    "components/serving_validator/server_process.py": {SERVING},
    "components/evaluator/metrics.py": {GATE},
    "components/evaluator/verdict.py": {GATE},
    "components/pusher/settings.py": {PUSH},
    # storage
    "components/storage/files.py": {INGEST, SERVING, GATE, PUSH},
    "components/storage/listing.py": {INGEST, SERVING, GATE, PUSH},
    "components/storage/versions.py": {SERVING, GATE, PUSH},
    # the trainer
    "trainer/backbones.py": {TRANSFORM, TRAINER, CACHE},
    "trainer/inputs.py": {TRAINER, CACHE},
    "trainer/augmentation.py": {TRAINER, CACHE},
    "trainer/boundary.py": {TRAINER, CACHE},
    "trainer/models.py": {TRAINER, CACHE},
    "trainer/settings.py": {TRAINER},
    "trainer/training.py": {TRAINER},
    "trainer/phases.py": {TRAINER},
    "trainer/row_store.py": {TRAINER},
    "trainer/figures.py": {TRAINER},
    # serving
    "serving/images/formats.py": {INGEST, SERVING, GATE, PUSH},
    "serving/images/transcoding.py": {INGEST},
    "serving/images/isolated.py": {INGEST},
    "serving/versions/base_path.py": {SERVING, GATE, PUSH},
    "serving/versions/locate.py": {SERVING, GATE, PUSH},
    "serving/versions/withdrawals.py": {SERVING, PUSH},
    "serving/versions/publish.py": {PUSH},
    "serving/versions/labels.py": {PUSH},
    "serving/versions/rollback.py": set(),
    "serving/server/__main__.py": {SERVING},
    "serving/server/options.py": {SERVING},
    "serving/server/http/rest.py": {SERVING},
    "serving/server/grpc/services.py": {SERVING},
    "serving/server/model/batching.py": {SERVING},
    "serving/client/clients.py": set(),
    "serving/predict.py": set(),
    # the commands and the runners
    "pipeline/cli.py": set(),
    "pipeline/local_runner.py": set(),
    "pipeline/dag.py": set(),
    "pipeline/cache_keys.py": set(),
    "recipes/procedural_trunk/programs.py": set(),
    "recipes/procedural_trunk/training.py": set(),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of Graftline's sources."""
    root = tmp_path_factory.mktemp("sources")
    only = shutil.ignore_patterns("__pycache__", "weights")
    for folder in ("graftline", "recipes"):
        shutil.copytree(_ROOT / folder, root / folder, ignore=only)
    return root


def keys_by_node(sources: pathlib.Path) -> dict[str, str]:
    """The cache keys of a cluster's run, where nothing lies beside, and the name of the cached activations."""
    settings = config_file.load(None, ["backbone.weights=none"], {"images": "photos"})
    site = Site(Workspace("gs://bucket/workspace"), RuntimeParameter(name="fingerprint", ptype=str))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_keys, "_PACKAGE", sources / "graftline")
        keys = cache_keys.cache_keys(settings, site)
    return {CACHE: keys[TRAINER]["preprocessing"]} | {node: json.dumps(parameters) for node, parameters in keys.items()}


@pytest.fixture(scope="module")
def before(sources: pathlib.Path) -> dict[str, str]:
    return keys_by_node(sources)


@pytest.mark.parametrize("file", RERUNS)
def test_a_changed_file_runs_these_nodes_again(file: str, sources: pathlib.Path, before: dict[str, str]) -> None:
    path = sources / (file if file.startswith(("graftline/", "recipes/")) else f"graftline/{file}")
    original = path.read_bytes()
    path.write_bytes(original + b"# changed\n")
    try:
        assert changed(before, keys_by_node(sources)) == RERUNS[file]
    finally:
        path.write_bytes(original)


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {node for node in before if before[node] != after[node]}


def test_a_process_that_a_node_starts_is_part_of_its_code() -> None:
    """A module that stands as text in a node's code is not imported there: `MODULES` must name it."""
    for node, modules in cache_keys.MODULES.items():
        closure = cache_keys.closure(*modules)
        for module in closure - {"", "components"}:  # which import nothing but a public name, lazily
            for constant in ast.walk(ast.parse(cache_keys._source(module))):
                text = constant.value if isinstance(constant, ast.Constant) else None
                if not isinstance(text, str) or not text.startswith("graftline.") or text == "graftline.serving":
                    continue
                started = text.removeprefix("graftline.")
                if cache_keys._file(started):
                    assert {started, f"{started}.__main__"} & closure, f"{node}: {module} starts {started}"


def test_no_node_imports_a_name_of_a_face() -> None:
    """A face hides the module that the name comes from, and the node's code would lack it."""
    for module in {module for modules in cache_keys.MODULES.values() for module in cache_keys.closure(*modules)} - {""}:
        for statement in ast.walk(ast.parse(cache_keys._source(module))):
            if isinstance(statement, ast.ImportFrom) and str(statement.module).startswith("graftline"):
                names = {alias.name for alias in statement.names}
                assert not names & set(faces._origins(str(statement.module))), f"{module}: {ast.unparse(statement)}"


# --- what lies beside -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "folder", "retried"),
    [
        ("truncated JPEG", "photos", False),
        ("unreadable: Permission denied", "photos", False),
        ("unreadable: no connection to the server", "s3://bucket/photos", True),
        ("vanished during the run: No such file or directory", "photos", True),
        ("changed during the run", "photos", True),
        ("decoding took too long: more than 60 s", "photos", True),
        ("decoder was killed from outside: SIGKILL", "photos", True),
        ("decoding took too long: more than 20 s of processor time", "photos", False),
    ],
)
def test_ingest_runs_again_for_reasons_that_may_have_passed(
    tmp_path: pathlib.Path, reason: str, folder: str, retried: bool
) -> None:
    (tmp_path / "quarantine").mkdir()
    (tmp_path / "quarantine" / quarantine.CSV_NAME).write_text(f"path,reason,bytes,sha256\na/1.jpg,{reason},1,\n")
    settings = config_file.load(None, [], {"images": folder})
    site = Site(Workspace(str(tmp_path)), fingerprint="", readable=True)
    first, second = (cache_keys._retry(settings, site) for _ in range(2))
    assert (first != second) == retried
    assert retried or not first


def test_a_repeated_ingest_stays_under_its_new_key(tmp_path: pathlib.Path) -> None:
    """TFX would find the result that lacks an image under the old key."""
    (tmp_path / "quarantine").mkdir()
    listed = tmp_path / "quarantine" / quarantine.CSV_NAME
    settings = config_file.load(None, [], {"images": "photos"})
    site = Site(Workspace(str(tmp_path)), fingerprint="", readable=True)
    listed.write_text("path,reason,bytes,sha256\na/1.jpg,decoder was killed from outside: SIGKILL,1,\n")
    again = cache_keys._retry(settings, site)
    listed.write_text("path,reason,bytes,sha256\n")
    assert again and cache_keys._retry(settings, site) == cache_keys._retry(settings, site) == again


def test_neither_a_first_run_nor_a_cluster_retries_ingest(tmp_path: pathlib.Path) -> None:
    settings = config_file.load(None, [], {"images": "s3://bucket"})
    for site in (Site(Workspace(str(tmp_path)), "", readable=True), Site(Workspace("gs://bucket"), "")):
        assert cache_keys._retry(settings, site) == ""


def keys(folder: pathlib.Path, served: str | None, weights: str = "none", **training: bool) -> dict[str, str]:
    """All that TFX's cache knows each node by; without `served` on a cluster."""
    settings = config_file.load(None, [f"backbone.weights={weights}"], {"images": str(folder / "photos")})
    settings = settings.model_copy(update={"training": settings.training.model_copy(update=training)})
    fingerprint = RuntimeParameter(name="fingerprint", ptype=str) if served is None else "x"
    site = Site(Workspace(str(folder)), fingerprint, readable=served is not None, served=served)
    pipeline = dag.create_pipeline(settings, site)
    return {node.id: json.dumps(node.exec_properties, default=str) for node in pipeline.components}


def test_another_model_under_the_number_of_the_served_one_is_compared_with_and_replaced(
    tmp_path: pathlib.Path,
) -> None:
    version = tmp_path / "models" / "photos" / "1"
    version.mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(b"one")
    before = keys(tmp_path, str(version))
    assert keys(tmp_path, str(version)) == before
    (version / "saved_model.pb").write_bytes(b"two")
    assert changed(before, keys(tmp_path, str(version))) == {GATE, PUSH}


def test_a_withdrawn_model_is_validated_again_and_no_warm_start_begins_from_it(tmp_path: pathlib.Path) -> None:
    base = Disk(str(tmp_path / "models" / "photos"))
    cold, warm = keys(tmp_path, ""), keys(tmp_path, "", warm_start=True)
    withdrawals.withdraw(base, "0" * 64, withdrawals.Withdrawal(2, 1, "today"))
    # A first push never comes from the cache.
    assert changed(cold, keys(tmp_path, "")) == {SERVING, PUSH}
    assert changed(warm, keys(tmp_path, "", warm_start=True)) == {SERVING, PUSH, TRAINER}


@pytest.mark.parametrize("weights", ["FILE", "procedural"])
def test_other_weights_under_the_same_name_are_another_run(
    weights: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "trunk.weights.h5"
    monkeypatch.setattr(backbones, "PROCEDURAL", file)
    name = weights.replace("FILE", str(file))
    file.write_bytes(b"one")
    before = keys(tmp_path, None, name)
    assert keys(tmp_path, None, name) == before
    file.write_bytes(b"two")
    assert changed(before, keys(tmp_path, None, name)) == {TRAINER}


def test_the_same_config_compiles_to_the_same_pipeline(tmp_path: pathlib.Path) -> None:
    assert keys(tmp_path, None) == keys(tmp_path, None)


def test_an_installed_decoder_is_part_of_the_key() -> None:
    assert cache_keys._versions("pillow", "no-such-distribution").startswith(" pillow ")
    assert "no-such" not in cache_keys._versions("pillow", "no-such-distribution")


def test_the_command_says_which_nodes_a_file_is_part_of(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "graftline.pipeline.cache_keys"]
    weights = "trainer/weights/mobilenet_v2_0.35_procedural.weights.h5"
    checks = "components/data_validation/checks.py"
    files = ["trainer/inputs.py", checks, weights, "serving/server/http/routes.py", "recipes/demo.py"]
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False, cwd=_ROOT)
    assert done.stdout.splitlines() == [
        "trainer/inputs.py: Trainer, every cached activation",
        f"{checks}: SchemaGen, ExampleValidator",
        f"{weights}: Trainer, if backbone.weights is procedural",
        "serving/server/http/routes.py: ServingValidator",
        "recipes/demo.py: no node",
    ]
    done = subprocess.run([*command, "nope.py"], capture_output=True, text=True, check=False, cwd=tmp_path)
    message = "error: nope.py: no such file; give the path of a source file\n"  # TensorFlow, if imported, logs as well
    assert (done.returncode, done.stderr) == (1, message)
