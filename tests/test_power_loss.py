"""What a power loss may leave of a finished workspace is found and made again by the same command.

The tests run in order in one workspace: each cuts one file and runs the same command.
"""

import pathlib

import pytest

from graftline.pipeline import app, config_file
from graftline.pipeline.run_summary import RunSummary
from tests import images

_SETTINGS = [
    "backbone.weights=procedural",
    "feature_extraction.epochs=1",
    "fine_tuning.epochs=0",
    "gate.accuracy.min=0.05",
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with images and a finished workspace."""
    root = tmp_path_factory.mktemp("power")
    for label in images.CLASSES:
        (root / "photos" / label).mkdir(parents=True)
        for seed in range(20):
            (root / "photos" / label / f"{seed}.jpg").write_bytes(images.encode(images.draw(label, seed)))
    first = run(root)
    assert first.pushed_version == 1
    return root


def run(root: pathlib.Path, *overrides: str) -> RunSummary:
    given = {"images": str(root / "photos"), "workspace": str(root / "ws")}
    return app.run_pipeline(config_file.load(None, [*_SETTINGS, *overrides], given))


def newest(root: pathlib.Path, pattern: str) -> pathlib.Path:
    return max((root / "ws").glob(pattern), key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.parametrize(
    ("pattern", "node", "length"),  # the share of the file that is left
    [
        ("artifacts/ImageExampleGen/examples/*/Split-train/*", "ImageExampleGen", 0.5),
        ("artifacts/ImageExampleGen/quarantine/*/summary.json", "ImageExampleGen", 0),
        ("artifacts/StatisticsGen/statistics/*/Split-eval/*", "StatisticsGen", 0.5),
        ("artifacts/ExampleValidator/anomalies/*/findings.json", "ExampleValidator", 0),
        ("artifacts/Transform/transform_graph/*/transform_fn/saved_model.pb", "Transform", 0.5),
        ("artifacts/Trainer/model/*/Format-Serving/saved_model.pb", "Trainer", 0),
        ("artifacts/Trainer/model/*/training.json", "Trainer", 0.5),
        ("artifacts/ServingValidator/blessing/*/serving_validation.json", "ServingValidator", 0),
        ("artifacts/Evaluator/evaluation/*/verdict.json", "Evaluator", 0.5),
    ],
)
def test_a_node_whose_output_was_cut_runs_again(
    place: pathlib.Path, pattern: str, node: str, length: float, capfd: pytest.CaptureFixture[str]
) -> None:
    file = newest(place, pattern)
    with file.open("r+b") as opened:
        opened.truncate(int(file.stat().st_size * length))
    again = run(place)
    assert node not in again.cached
    assert again.pushed_path is not None
    assert "files of 1 outputs were lost" in capfd.readouterr().err


@pytest.mark.parametrize(
    "pattern", ["statistics/*/last.json", "statistics/*/*.pb", "quarantine/*.csv", "cache/**/*.sqlite"]
)
def test_what_a_run_keeps_beside_its_outputs_is_passed_over(place: pathlib.Path, pattern: str) -> None:
    newest(place, pattern).write_bytes(b"")
    assert run(place).pushed_path is not None


def test_a_memory_of_splits_that_was_cut_is_told_in_the_summary(place: pathlib.Path) -> None:
    file = newest(place, "splits/*.csv")
    file.write_bytes(file.read_bytes()[:-200])
    again = run(place)
    assert any(f"{file}, the memory of each image's split, was cut off" in text for text in again.data_warnings)
    assert not any("was cut off" in text for text in run(place).data_warnings)


def test_without_metadata_every_node_runs_again(place: pathlib.Path) -> None:
    (place / "ws/metadata.db").write_bytes(b"")
    again = run(place)
    assert again.cached == []
    assert again.pushed_path is not None
    assert len(list((place / "ws").glob("artifacts-*"))) == 1
