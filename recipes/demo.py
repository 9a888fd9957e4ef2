"""A nightly life in small: `python -m recipes.demo [--workspace DIR]`, as `make demo` does.

Four nights of digits with the commands that a person would give, `graftline run`, `serve` and `rollback`, while a
stock TensorFlow Serving client asks the server ten times a second. Every line is said when it has happened; what the
commands print goes to `demo.log`.
"""

import collections
import contextlib
import itertools
import json
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import click

from components import gate
from graftline.errors import UserError
from graftline.signatures import IMAGE_BYTES, SERVING_DEFAULT
from pipeline import cli
from recipes import digits

_MARK = ".graftline-demo"  # in the folders that the demo made and may remove
_TESTED = 50  # of each digit, in images/test, which no night changes
_GRAFTLINE = (sys.executable, "-c", "from pipeline.cli import main; main(prog_name='graftline')")
_SETTINGS = (
    "training.compare_with_random=0",
    "feature_extraction.epochs=20",
    "fine_tuning.epochs=2",
    "gate.accuracy.min=0.5",
)


class Story:
    """Says one line for each event, with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, text: str) -> None:
        click.echo(f"{time.monotonic() - self._start:4.0f} s  {text}")


class Requests:
    """A client without retries that asks for one image after another; counts answers by the version that gave them."""

    def __init__(self, address: str, images: list[bytes]) -> None:
        self.answered: collections.Counter[int] = collections.Counter()
        self.failed: list[str] = []
        self._address, self._images = address, images
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Requests":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        import grpc
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

        with grpc.insecure_channel(self._address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            for image in itertools.cycle(self._images):
                request = predict_pb2.PredictRequest()
                request.model_spec.name, request.model_spec.signature_name = "digits", SERVING_DEFAULT
                request.inputs[IMAGE_BYTES].CopyFrom(tf.make_tensor_proto([image]))
                try:
                    answer = stub.Predict(request, timeout=30)
                    self.answered[answer.model_spec.version.value] += 1
                except grpc.RpcError as error:
                    self.failed.append(str(error))
                if self._stop.wait(0.1):
                    return

    def wait_for(self, version: int, seconds: float = 120) -> None:
        """Returns when an answer came from that version.

        Raises:
          UserError: none did in that time.
        """
        end = time.monotonic() + seconds
        while not self.answered[version]:
            if time.monotonic() > end:
                raise UserError(f"the server did not take up version {version} in {seconds:.0f} s; see demo.log")
            time.sleep(0.02)

    @property
    def told(self) -> str:
        """How many so far."""
        return f"{sum(self.answered.values()):,} requests answered so far, {len(self.failed):,} failed"


class Demo:
    """The workspace and what is said of it."""

    def __init__(self, workspace: pathlib.Path, say: Story) -> None:
        self._workspace, self.say = workspace, say
        self.images = workspace / "images"
        self._log = workspace / "demo.log"
        scans = workspace / "scans"
        digits.write_images(scans)
        self._scans = {folder.name: sorted(folder.iterdir()) for folder in sorted(scans.iterdir())}
        self.put("test", 0, _TESTED)

    def put(self, split: str, first: int, last: int, moved: int = 0) -> int:
        """Copies scans of each digit into the images' folders, `moved` folders too far; gives how many."""
        for digit, paths in self._scans.items():
            folder = self.images / split / str((int(digit) + moved) % 10)
            folder.mkdir(parents=True, exist_ok=True)
            for path in paths[first:last]:
                shutil.copy(path, folder)
        return (last - first) * len(self._scans)

    def take_back(self, first: int, last: int) -> None:
        """Removes these scans from the folders of the train split, in whichever they lie."""
        names = {path.name for paths in self._scans.values() for path in paths[first:last]}
        for path in self.images.glob("train/*/*.png"):
            if path.name in names:
                path.unlink()

    def test_images(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted(self.images.glob("test/*/*.png"))]

    def run(self, *arguments: str) -> dict[str, Any]:
        """`graftline <arguments> --json`, and what it printed.

        Raises:
          UserError: it ended with a status that is neither pushed nor refused.
        """
        with self._log.open("a") as log:
            command = [*_GRAFTLINE, *arguments, "--json"]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, check=False)
            log.write(done.stdout)
        if done.returncode not in (cli.DONE, cli.NOT_BLESSED):
            raise UserError(f"graftline {arguments[0]} ended with status {done.returncode}; see {self._log}")
        return dict(json.loads(done.stdout))

    def night(self, number: int, arrived: str) -> dict[str, Any]:
        """One nightly run; says what came, how it was judged and what became of it."""
        self.say(f"Night {number}: {arrived}")
        settings = itertools.chain.from_iterable(("--set", setting) for setting in _SETTINGS)
        place = ("--images", str(self.images), "--workspace", str(self._workspace))
        summary = self.run("run", str(digits.RECIPE), *place, *settings)
        before, trained_on = summary["baseline_accuracy"], summary["splits"]["train"]
        served = "" if before is None else f"; the served model has {before:.3f}"
        self.say(f"  trained on {trained_on:,}: accuracy {summary['accuracy']:.3f} on the test images{served}")
        if summary["blessed"]:
            self.say(f"  BLESSED, pushed as version {summary['pushed_version']}")
        else:
            wrong = [check for check in summary["checks"] if not check["passed"]]
            self.say(f"  REFUSED: {'; '.join(gate.sentences(gate.Check(**check) for check in wrong))}")
        return summary

    @contextlib.contextmanager
    def server(self) -> Iterator[str]:
        """`graftline serve`, and its gRPC address; ended afterwards."""
        command = [*_GRAFTLINE, "serve", str(self._workspace), "--rest-port=0", "--grpc-port=0", "--poll-seconds=1"]
        with self._log.open("a") as log, subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                lines = iter(process.stderr.readline, "")
                found = next((match for line in lines if (match := re.search(r"gRPC (\S+:\d+)", line))), None)
                if found is None:
                    raise UserError("the server did not start; see demo.log")
                # A pipe that nobody empties would stop the server.
                threading.Thread(target=lambda: log.writelines(lines), daemon=True).start()
                yield found.group(1)
            finally:
                process.terminate()
                process.wait()


def _fresh(workspace: pathlib.Path) -> None:
    """Makes the folder, empty. Raises UserError for one with files that are not the demo's."""
    if workspace.exists() and not workspace.is_dir():
        raise UserError(f"{workspace} is a file; give a folder with --workspace DIR")
    if workspace.is_dir() and any(workspace.iterdir()):
        if not (workspace / _MARK).exists():
            raise UserError(f"{workspace} holds files that are not the demo's; give another with --workspace DIR")
        shutil.rmtree(workspace)
    workspace.mkdir(parents=True, exist_ok=True)
    (workspace / _MARK).touch()


@click.command(cls=cli.Command)
@click.option("--workspace", default="./graftline-demo", show_default=True, metavar="DIR")
def main(workspace: str) -> int:
    """Four nights: a first model, a worse one, a better one, and back again."""
    _fresh(pathlib.Path(workspace))
    say = Story()
    demo = Demo(pathlib.Path(workspace), say)
    demo.night(1, f"{demo.put('train', 50, 70)} images of ten digits, and {_TESTED * 10} that every night is tested on")
    with demo.server() as address, Requests(address, demo.test_images()) as requests:
        requests.wait_for(1)
        say("  graftline serve answers with version 1; from now on a client asks ten times a second")
        demo.night(2, f"{demo.put('train', 70, 90, moved=1)} new images arrive, each in the folder of the next digit")
        say(f"  version 1 is served as before; {requests.told}")
        demo.take_back(70, 90)
        demo.night(
            3, f"the {demo.put('train', 70, 90)} are in the right folders, and {demo.put('train', 90, 150)} more"
        )
        requests.wait_for(2)
        say(f"  the server took up version 2; {requests.told}")
        say("Night 4: version 2 shall go, for whatever reason")
        back = demo.run("rollback", workspace)
        requests.wait_for(back["version"])
        say(f"  graftline rollback: version {back['of']} is back, as version {back['version']}; {requests.told}")
    versions = ", ".join(f"{count:,} by version {version}" for version, count in sorted(requests.answered.items()))
    say(f"Done. Answers: {versions}; {len(requests.failed)} of {sum(requests.answered.values()):,} requests failed")
    return cli.DONE


if __name__ == "__main__":
    main()
