"""The command line's contract: exit statuses, messages, what is on which stream. A function stands in for TFX's run."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

from graftline import __version__
from graftline.errors import UserError
from graftline.pipeline import cli
from graftline.pipeline.config import Config
from graftline.pipeline.config_file import load
from graftline.pipeline.console import Event
from graftline.pipeline.run_summary import Check, RunSummary
from graftline.serving.client import Prediction

SUMMARY = RunSummary(
    run_id="r1",
    blessed=True,
    pushed_version=1,
    pushed_path="/ws/models/images/1",
    accuracy=0.75,
    baseline_accuracy=None,
    examples=4,
    quarantined=0,
    duplicates=0,
    seconds={"Trainer": 1.0},
    new_version=True,
)
CONTRACT = (
    "run_id", "blessed", "pushed_version", "pushed_path", "accuracy", "baseline_accuracy", "examples", "quarantined",
    "duplicates", "seconds",
)  # fmt: skip


def graftline(*arguments: str | pathlib.Path) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments], prog_name="graftline")


@pytest.fixture
def images(images: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Two classes of two images, beside the current directory."""
    monkeypatch.chdir(images.parent)
    return images


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Config], RunSummary]], None]:
    """Puts a function in the place of TFX's runner, which takes minutes."""

    def put(result: Callable[[Config], RunSummary]) -> None:
        def run(
            config: Config, fingerprint: str, progress: Callable[[Event], None], reset_baseline: bool
        ) -> RunSummary:
            assert len(fingerprint) == 64
            progress(Event("Trainer", "started", 0))
            sys.stdout.write("TFX says much\n")
            os.write(2, b"TensorFlow says more\n")
            summary = result(config)
            progress(Event("Trainer", "finished", 1.0))
            return summary

        module = ModuleType("graftline.pipeline.local_runner")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "graftline.pipeline.local_runner", module)
        monkeypatch.setattr("graftline.pipeline.local_runner", module, raising=False)

    return put


def fail_with(error: BaseException) -> Callable[[Config], RunSummary]:
    def fail(config: Config) -> RunSummary:
        raise error

    return fail


# --- the command itself -----------------------------------------------------------------------------------------------


def test_asking_for_help_imports_nothing_heavy():
    program = (
        "import sys\n"
        "from graftline.pipeline import cli\n"
        "try: cli.main(['run', '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = ('tensorflow', 'tfx', 'keras', 'pydantic', 'yaml', 'numpy', 'rich', 'grpc')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == "[]"


def test_the_version():
    assert graftline("--version").stdout == f"graftline, version {__version__}\n"


def test_config_prints_the_defaults_on_standard_output(tmp_path: pathlib.Path):
    result = graftline("config")
    (tmp_path / "c.yaml").write_text(result.stdout)
    assert (result.exit_code, result.stderr) == (0, "")
    assert load(str(tmp_path / "c.yaml")) == Config()


def test_config_as_markdown_is_a_table_for_each_section():
    result = graftline("config", "--markdown")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "## `fine_tuning`" in result.stdout
    assert "| `seed` | `0` | " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "No such command 'rnu'; did you mean 'run'? See `graftline --help`."),
        (["run"], "Give a config file, or a folder of images with --images DIR. See `graftline run --help`."),
        (["run", "--images"], "Option '--images' requires an argument. See `graftline --help`."),
        (["run", "--images", "x", "--set", "sed=1"], "--set: unknown key 'sed'; did you mean 'seed'?"),
        (["run", "none.yaml"], "none.yaml: the config file cannot be read: No such file or directory"),
        (["run", "--images", "none"],
         "none: no such folder; give the folder that holds one folder of images per class"),
        (["predict", "a.png"], "Give either --model DIR or --server HOST:GRPC_PORT. See `graftline predict --help`."),
        (["predict", "--model", "m", "none.png"],
         "no such file or folder: none.png; name an image or a folder of images"),
        (["predict", "--server", "localhost:1", "images"],
         "no model server answers at localhost:1 (gRPC): start one with `graftline serve`, or correct --server"),
        (["predict", "--model", "none", "images"],
         "no model at none: no such folder; run `graftline run` first, or name another path"),
        (["serve", "none"],
         "no model at none: no such folder; run `graftline run` first, or name another path"),
        (["compile", "none.yaml", "--target", "vertex", "-o", "x"],
         "none.yaml: the config file cannot be read: No such file or directory"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message_on_standard_error_and_status_2(images, arguments: list[str], message: str):
    result = graftline(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == f"graftline: {message}\n"


def test_without_a_command_the_help_is_shown_and_the_status_is_2():
    result = graftline()
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: graftline ")


def test_output_that_nobody_reads_any_more_ends_without_a_traceback():
    program = (
        "import sys, time; from graftline.pipeline import cli\n"
        "time.sleep(0.3); sys.argv = ['graftline', 'config']; cli.main()"
    )
    shell = 'set -o pipefail; "$0" -c "$1" | true'
    process = subprocess.run(["bash", "-c", shell, sys.executable, program], capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (141, "")


# --- run --------------------------------------------------------------------------------------------------------------


def test_a_pushed_model_is_status_0_and_its_summary_on_standard_output(images: pathlib.Path, runner):
    runner(lambda config: SUMMARY)
    result = graftline("run", "--images", images)
    assert result.exit_code == 0
    assert "BLESSED. Pushed as version 1: /ws/models/images/1" in result.stdout
    assert "Trainer             … 1.0 s" in result.stderr


def test_a_refused_model_is_status_3_and_says_by_how_much(images: pathlib.Path, runner):
    check = Check("accuracy", "min", 0.9, 0.75, False)
    runner(lambda config: replace(SUMMARY, blessed=False, pushed_version=None, pushed_path=None, checks=[check]))
    result = graftline("run", "--images", images)
    assert result.exit_code == 3
    assert "accuracy is 0.7500; at least 0.9000 is required: failed, 0.1500 too low" in result.stdout


def test_with_json_standard_output_is_the_json_alone(images: pathlib.Path, runner):
    runner(lambda config: SUMMARY)
    result = graftline("run", "--images", images, "--json")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 1
    found = json.loads(result.stdout)
    assert {key: found[key] for key in CONTRACT} == {key: getattr(SUMMARY, key) for key in CONTRACT}
    assert "BLESSED" in result.stderr


def test_a_diverged_loss_is_still_json(images: pathlib.Path, runner):
    check = Check("cross_entropy", "max", 1.0, float("nan"), False)
    runner(lambda config: replace(SUMMARY, blessed=False, checks=[check]))
    text = graftline("run", "--images", images, "--json").stdout
    assert json.loads(text, parse_constant=pytest.fail)["checks"][0]["value"] is None


def test_options_lie_over_the_file(images: pathlib.Path, runner):
    seen: list[Config] = []
    runner(lambda config: seen.append(config) or SUMMARY)
    pathlib.Path("c.yaml").write_text("images: elsewhere\nworkspace: w1\nseed: 1\n")
    result = graftline("run", "c.yaml", "--images", "images", "--workspace", "w2", "--set", "seed=2")
    assert result.exit_code == 0, result.stderr
    assert (seen[0].images, seen[0].workspace, seen[0].seed) == ("images", "w2", 2)


def test_images_may_be_named_by_set_alone(images: pathlib.Path, runner):
    runner(lambda config: SUMMARY)
    assert graftline("run", "--set", "images=images").exit_code == 0


def test_what_libraries_say_is_in_the_log_and_not_on_the_screen(
    images: pathlib.Path, runner, capfd: pytest.CaptureFixture[str]
):
    runner(lambda config: SUMMARY)
    result = graftline("run", "--images", images, "--workspace", "ws")
    (log,) = pathlib.Path("ws/logs").iterdir()
    assert "TFX says much" in log.read_text()
    assert "TensorFlow says more" in log.read_text()
    assert "says" not in result.output + "".join(capfd.readouterr())
    assert f"log: {log}" in result.stderr


def test_an_unforeseen_error_is_status_1_and_names_the_log_that_has_the_traceback(images: pathlib.Path, runner):
    runner(fail_with(KeyError("image/encoded")))
    result = graftline("run", "--images", images, "--workspace", "ws", "--json")
    (log,) = pathlib.Path("ws/logs").iterdir()
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == (
        f"graftline: unexpected KeyError: 'image/encoded'; the traceback is in {log}"
    )
    assert "Traceback" not in result.stderr
    assert "Traceback" in log.read_text()


def test_a_mistake_that_a_node_finds_is_status_2(images: pathlib.Path, runner):
    runner(fail_with(UserError("backbone.weights: w.h5 is of another backbone")))
    result = graftline("run", "--images", images)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "graftline: backbone.weights: w.h5 is of another backbone"


def test_a_mistake_is_found_behind_what_beam_makes_of_it(images: pathlib.Path, runner):
    error = RuntimeError("a bundle failed")
    error.__cause__ = UserError("too many bad files [while running 'Ingest/Write']")
    runner(fail_with(error))
    result = graftline("run", "--images", images)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "graftline: too many bad files"


def test_ctrl_c_is_status_130_and_says_so(images: pathlib.Path, runner):
    runner(fail_with(KeyboardInterrupt()))
    result = graftline("run", "--images", images)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "graftline: interrupted; the same command continues where this run stopped"


def test_a_run_that_failed_leaves_the_workspace_free_for_the_next(images: pathlib.Path, runner):
    runner(fail_with(KeyError()))
    assert graftline("run", "--images", images).exit_code == 1
    runner(lambda config: SUMMARY)
    assert graftline("run", "--images", images).exit_code == 0


def test_a_workspace_of_a_newer_version_is_status_2_before_anything_runs(images: pathlib.Path, runner):
    runner(fail_with(AssertionError("the run began")))
    pathlib.Path("ws").mkdir()
    pathlib.Path("ws", "format").write_text("7\n")
    result = graftline("run", "--images", images, "--workspace", "ws")
    assert result.exit_code == 2
    assert result.stderr == (
        "graftline: a newer Graftline made workspace ws: its format is 7, and this Graftline knows formats up to 1. "
        "Update Graftline, or give another --workspace\n"
    )
    assert not pathlib.Path("ws", "logs").exists()


def test_what_is_odd_in_the_images_is_told_before_the_run(images: pathlib.Path, runner):
    runner(lambda config: SUMMARY)
    (images / "bird").mkdir()
    result = graftline("run", "--images", images)
    assert (
        result.stderr.splitlines()[0]
        == "graftline: note: these class folders hold no images and will not be used: 'bird'"
    )


# --- predict ----------------------------------------------------------------------------------------------------------

CAT = Prediction("a.png", "cat", 0.9, [("cat", 0.9), ("dog", 0.1)])
BAD = Prediction("b.png", None, None, [], "cannot be decoded")


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts rows in the place of what a model says; the paths are really looked for."""

    def put(*rows: Prediction) -> None:
        def predict(model: str, paths: list[str], name: str | None) -> list[Prediction]:
            assert model == "m"
            return [row for row in rows if row.path in paths]

        monkeypatch.setattr("graftline.serving.predict.predict_with_model", predict)

    return put


@pytest.fixture
def two_files(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png"):
        pathlib.Path(name).touch()


def test_predictions_as_json_are_one_list_on_standard_output(two_files, answers):
    answers(CAT, BAD)
    result = graftline("predict", "--model", "m", "a.png", "b.png", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == [
        {"path": "a.png", "label": "cat", "score": 0.9,
         "top_k": [{"label": "cat", "score": 0.9}, {"label": "dog", "score": 0.1}]},
        {"path": "b.png", "error": "cannot be decoded"},
    ]  # fmt: skip


def test_predictions_for_a_person_are_a_line_each_with_failures_on_standard_error(two_files, answers):
    answers(CAT, BAD)
    result = graftline("predict", "--model", "m", "a.png", "b.png")
    assert result.stdout == "a.png: cat 0.900  (dog 0.100)\n"
    assert result.stderr == "b.png: cannot be decoded\ngraftline: 1 classified, 1 not\n"


def test_when_nothing_can_be_classified_the_status_is_2(two_files, answers):
    answers(BAD)
    result = graftline("predict", "--model", "m", "b.png", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout) == [{"path": "b.png", "error": "cannot be decoded"}]


# --- compile ------------------------------------------------------------------------------------------------


def test_compile_hands_the_config_over_and_says_where_the_job_is(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[Any] = []
    monkeypatch.setattr("graftline.pipeline.compile.compile_pipeline", lambda *arguments: seen.append(arguments))
    (tmp_path / "c.yaml").write_text("images: gs://bucket/pets\nworkspace: /mnt/ws\n")
    result = graftline("compile", tmp_path / "c.yaml", "--target", "vertex", "-o", "job.json", "--set", "seed=3")
    assert (result.exit_code, result.stdout) == (0, "")
    *notes, said = result.stderr.splitlines()
    assert [note.split(":")[1] for note in notes] == [" note"]  # of the workspace, which is no object store's
    assert said == "graftline: vertex pipeline written to job.json"
    ((config, target, output),) = seen
    assert (config.images, config.seed, target, output) == ("gs://bucket/pets", 3, "vertex", pathlib.Path("job.json"))
