"""Four nights in two minutes, as `make demo` shows them.

    python -m recipes.demo [--workspace DIR]

The demo gives the commands that a person would give: `graftline run`, `serve` and `rollback`. Meanwhile a client with
TensorFlow Serving's own stubs sends one request after another. Each line is printed when its event has happened. An
unexpected result ends the demo. The output of the commands goes to `demo.log`.
"""

import collections
import contextlib
import fcntl
import itertools
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import click

from graftline.components.evaluator.verdict import Check, sentences
from graftline.errors import UserError
from graftline.pipeline.command import DONE, NOT_BLESSED, UNEXPECTED, Command
from graftline.signatures import IMAGE_BYTES, SERVING_DEFAULT
from recipes import digits

_START = time.monotonic()
_MARK = ".graftline-demo"  # a file in each folder that the demo made and may remove
_HELP = "Where everything is put. The content of an earlier demo is removed first."
_TEST_IMAGES = 50  # of each digit, in images/test, which no night changes
_GRAFTLINE = (sys.executable, "-c", "from graftline.pipeline.cli import main; main(prog_name='graftline')")
_SETTINGS = (
    "training.transfer_images_per_class=0",
    "feature_extraction.epochs=20",
    "fine_tuning.epochs=5",
    "gate.accuracy.min=0.3",
)


def _say(text: str) -> None:
    """Print one line for each event, with the seconds since the start."""
    click.echo(f"{time.monotonic() - _START:4.0f} s  {text}")


class _Requests:
    """A client without retries that sends one image after another and counts the answers of each version."""

    def __init__(self, address: str, images: list[bytes]) -> None:
        self.answered: collections.Counter[int] = collections.Counter()
        self.failed: list[str] = []
        self.latest = 0  # the version of the last answer
        self._address, self._images = address, images
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "_Requests":
        import tensorflow_serving.apis.prediction_service_pb2_grpc  # noqa: F401 - a missing package fails here

        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
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
                    self.latest = answer.model_spec.version.value
                    self.answered[self.latest] += 1
                except grpc.RpcError as error:
                    self.failed.append(str(error))
                if self._stop.wait(0.1):
                    return

    def wait_for(self, version: int, seconds: float = 120) -> None:
        """Wait until the last answer comes from that version; raise UserError if none comes in time."""
        end = time.monotonic() + seconds
        while self.latest != version:
            if time.monotonic() > end:
                reason = f"; the last failed request: {self.failed[-1]}" if self.failed else ""
                raise UserError(f"no answer came from version {version} in {seconds:.0f} s; see demo.log{reason}")
            time.sleep(0.02)

    @property
    def counts(self) -> str:
        """How many requests were sent so far, as text."""
        return f"{self.sent:,} requests so far, {len(self.failed):,} of them failed"

    @property
    def sent(self) -> int:
        """How many requests were answered or failed."""
        return sum(self.answered.values()) + len(self.failed)


class _Demo:
    """A workspace, the images in it, and the commands that run on it."""

    def __init__(self, workspace: pathlib.Path) -> None:
        self._workspace, self.images, self._log = workspace, workspace / "images", workspace / "demo.log"
        scans = workspace / "scans"
        digits.write_images(scans)
        self._scans = {folder.name: sorted(folder.iterdir()) for folder in sorted(scans.iterdir())}
        self.add("test", 0, _TEST_IMAGES)

    def add(self, split: str, first: int, last: int, label_shift: int = 0) -> int:
        """Copy scans of each digit into the folder of that digit plus `label_shift`; return how many."""
        for digit, paths in self._scans.items():
            folder = self.images / split / str((int(digit) + label_shift) % 10)
            folder.mkdir(parents=True, exist_ok=True)
            for path in paths[first:last]:
                shutil.copy(path, folder)
        return (last - first) * len(self._scans)

    def remove(self, first: int, last: int) -> None:
        """Remove these scans from every folder of the train split."""
        names = {path.name for paths in self._scans.values() for path in paths[first:last]}
        for path in self.images.glob("train/*/*.png"):
            if path.name in names:
                path.unlink()

    def run(self, *arguments: str) -> dict[str, Any]:
        """Return the JSON object of `graftline <arguments> --json`; a status but pushed or refused is a UserError."""
        command = [*_GRAFTLINE, *arguments, "--json"]
        with self._log.open("a") as log:
            process = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, check=False)
            log.write(process.stdout)
        if process.returncode not in (DONE, NOT_BLESSED):
            raise UserError(f"graftline {arguments[0]} ended with status {process.returncode}; see {self._log}")
        return dict(json.loads(process.stdout))

    def night(self, number: int, arrived: str, pushes: bool = True) -> dict[str, Any]:
        """Run the pipeline once; print how the model was judged. A push that is not as `pushes` is a UserError."""
        _say(f"Night {number}: {arrived}")
        settings = itertools.chain.from_iterable(("--set", setting) for setting in _SETTINGS)
        paths = ("--images", str(self.images), "--workspace", str(self._workspace))
        summary = self.run("run", str(digits.RECIPE), *paths, *settings)
        before, trained_on = summary["baseline_accuracy"], summary["splits"]["train"]
        served = "" if before is None else f"; the served model has {before:.3f}"
        _say(f"  trained on {trained_on:,}: accuracy {summary['accuracy']:.3f} on the test images{served}")
        if summary["new_version"]:
            _say(f"  BLESSED, pushed as version {summary['pushed_version']}")
        else:
            failed = [Check(**check) for check in summary["checks"] if not check["passed"]]
            _say(f"  REFUSED: {'; '.join(sentences(failed))}")
        if summary["new_version"] != pushes:
            expected = "push a new version" if pushes else "push no new version"
            raise UserError(f"night {number} should {expected}; see {self._log}")
        return summary

    @contextlib.contextmanager
    def server(self) -> Iterator[str]:
        """Run `graftline serve` inside the `with`; yield its gRPC address."""
        command = [*_GRAFTLINE, "serve", str(self._workspace), "--rest-port=0", "--grpc-port=0", "--poll-seconds=1"]
        start = self._log.stat().st_size
        with self._log.open("a") as log, subprocess.Popen(command, stderr=log) as process:
            try:
                while not (ready := re.search(rb"gRPC (\S+:\d+).*\n", self._log.read_bytes()[start:])):
                    if process.poll() is not None:
                        raise UserError(f"the server did not start; see {self._log}")
                    time.sleep(0.1)
                yield ready[1].decode()
            finally:
                process.terminate()


@contextlib.contextmanager
def _empty_folder(workspace: pathlib.Path) -> Iterator[None]:
    """Make the folder empty, and lock it against other demos inside the `with`."""
    mark = workspace / _MARK
    if workspace.exists() and not workspace.is_dir():
        raise UserError(f"{workspace} is a file; give a folder with --workspace DIR")
    remedy = "give another with --workspace DIR"
    if workspace.is_dir() and any(workspace.iterdir()) and not mark.exists():
        raise UserError(f"{workspace} holds files that are not the demo's; {remedy}")
    with contextlib.ExitStack() as stack:
        try:
            workspace.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(mark.open("a")), fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in workspace.iterdir():
                if path != mark:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except BlockingIOError:
            raise UserError(f"another demo is running in {workspace}; {remedy}") from None
        except OSError as error:
            raise UserError(f"{workspace} cannot be emptied: {error.strerror}; {remedy}") from None
        yield


@click.command(cls=Command)
@click.option(
    "--workspace", default="./graftline-demo", show_default=True, metavar="DIR", type=pathlib.Path, help=_HELP
)
def main(workspace: pathlib.Path) -> int:
    """Show four nights: a first model, a refused one, a better one, and a rollback."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the server, too
    with _empty_folder(workspace):
        return _run_nights(workspace)


def _run_nights(workspace: pathlib.Path) -> int:
    """Run the four nights; return the exit status."""
    demo = _Demo(workspace)
    new = demo.add("train", 50, 80)
    first = demo.night(1, f"{new} images of ten digits, and {_TEST_IMAGES * 10} that every night is tested on")
    images = [path.read_bytes() for path in sorted(demo.images.glob("test/*/*.png"))]
    with demo.server() as address, _Requests(address, images) as requests:
        requests.wait_for(first["pushed_version"])
        _say(f"  graftline serve answers with version {requests.latest}; a client sends one request after another")
        new = demo.add("train", 80, 100, label_shift=1)
        demo.night(2, f"{new} new images arrive, each in the folder of the next digit", pushes=False)
        _say(f"  version {requests.latest} is served; {requests.counts}")
        demo.remove(80, 100)
        corrected, new = demo.add("train", 80, 100), demo.add("train", 100, 160)
        better = demo.night(3, f"the {corrected} are put into the right folders, and {new} more arrive")
        requests.wait_for(better["pushed_version"])
        _say(f"  the server took up version {requests.latest}; {requests.counts}")
        _say(f"Night 4: version {requests.latest} must go, for a reason that no gate could know")
        outcome = demo.run("rollback", str(workspace))
        requests.wait_for(outcome["version"])
        back = f"version {outcome['of']} is back, as version {outcome['version']}"
        _say(f"  graftline rollback: {back}; {requests.counts}")
    versions = ", ".join(f"{count:,} by version {version}" for version, count in sorted(requests.answered.items()))
    _say(f"Done. Answers: {versions}; {len(requests.failed):,} of {requests.sent:,} requests failed")
    return UNEXPECTED if requests.failed else DONE


if __name__ == "__main__":
    main()
