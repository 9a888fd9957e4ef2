"""A nightly life in small: `python -m recipes.demo [--workspace DIR]`, as `make demo` does.

Four nights of digits with the commands that a person would give, `graftline run`, `serve` and `rollback`, while a
client with TensorFlow Serving's own stubs sends one request after another. Every line is said when it has happened, and
a night that goes another way than it should ends the demo; what the commands print goes to `demo.log`.
"""

import collections
import contextlib
import fcntl
import itertools
import json
import pathlib
import queue
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

_MARK = ".graftline-demo"  # in the folders that the demo made and may remove
_TESTED = 50  # of each digit, in images/test, which no night changes
_GRAFTLINE = (sys.executable, "-c", "from graftline.pipeline.cli import main; main(prog_name='graftline')")
_SETTINGS = (
    "training.transfer_images_per_class=0",
    "feature_extraction.epochs=20",
    "fine_tuning.epochs=5",
    "gate.accuracy.min=0.3",
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
        self.latest = 0  # the version that answered last
        self._address, self._images = address, images
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Requests":
        import tensorflow_serving.apis.prediction_service_pb2_grpc  # noqa: F401 - fails here, not in the thread

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
        """Returns when the last answer came from that version.

        Raises:
          UserError: none did in that time.
        """
        end = time.monotonic() + seconds
        while self.latest != version:
            if time.monotonic() > end:
                why = f"; the last failed request: {self.failed[-1]}" if self.failed else ""
                raise UserError(f"no answer came from version {version} in {seconds:.0f} s; see demo.log{why}")
            time.sleep(0.02)

    @property
    def told(self) -> str:
        """How many so far."""
        return f"{self.asked:,} requests so far, {len(self.failed):,} of them failed"

    @property
    def asked(self) -> int:
        """How many were answered or failed."""
        return sum(self.answered.values()) + len(self.failed)


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
        if done.returncode not in (DONE, NOT_BLESSED):
            raise UserError(f"graftline {arguments[0]} ended with status {done.returncode}; see {self._log}")
        return dict(json.loads(done.stdout))

    def night(self, number: int, arrived: str, good: bool = True) -> dict[str, Any]:
        """One nightly run; says what came, how it was judged and what became of it.

        Raises:
          UserError: a good night pushed no new version, or a bad one did.
        """
        self.say(f"Night {number}: {arrived}")
        settings = itertools.chain.from_iterable(("--set", setting) for setting in _SETTINGS)
        place = ("--images", str(self.images), "--workspace", str(self._workspace))
        summary = self.run("run", str(digits.RECIPE), *place, *settings)
        before, trained_on = summary["baseline_accuracy"], summary["splits"]["train"]
        served = "" if before is None else f"; the served model has {before:.3f}"
        self.say(f"  trained on {trained_on:,}: accuracy {summary['accuracy']:.3f} on the test images{served}")
        if summary["new_version"]:
            self.say(f"  BLESSED, pushed as version {summary['pushed_version']}")
        else:
            wrong = [check for check in summary["checks"] if not check["passed"]]
            self.say(f"  REFUSED: {'; '.join(sentences(Check(**check) for check in wrong))}")
        if summary["new_version"] != good:
            raise UserError(f"night {number} should have gone the other way; see {self._log}")
        return summary

    @contextlib.contextmanager
    def server(self) -> Iterator[str]:
        """`graftline serve`, and its gRPC address; ended afterwards."""
        command = [*_GRAFTLINE, "serve", str(self._workspace), "--rest-port=0", "--grpc-port=0", "--poll-seconds=1"]
        with self._log.open("a") as log, subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            found: queue.SimpleQueue[str | None] = queue.SimpleQueue()

            def drain() -> None:  # a pipe that nobody empties would stop the server
                for line in process.stderr or ():
                    log.write(line)
                    if match := re.search(r"gRPC (\S+:\d+)", line):
                        found.put(match.group(1))
                found.put(None)

            reader = threading.Thread(target=drain, daemon=True)
            reader.start()
            try:
                address = found.get()
                if address is None:
                    raise UserError(f"the server did not start; see {self._log}")
                yield address
            finally:
                process.terminate()
                process.wait()
                reader.join()


@contextlib.contextmanager
def _fresh(workspace: pathlib.Path) -> Iterator[None]:
    """Makes the folder, empty, and keeps other demos out of it.

    Raises:
      UserError: it holds files that are not the demo's, another demo is in it, or it cannot be made.
    """
    mark = workspace / _MARK
    if workspace.exists() and not workspace.is_dir():
        raise UserError(f"{workspace} is a file; give a folder with --workspace DIR")
    if workspace.is_dir() and any(workspace.iterdir()) and not mark.exists():
        raise UserError(f"{workspace} holds files that are not the demo's; give another with --workspace DIR")
    with contextlib.ExitStack() as stack:
        try:
            workspace.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(mark.open("a")), fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in workspace.iterdir():
                if path != mark:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except BlockingIOError:
            raise UserError(f"another demo is running in {workspace}; give another with --workspace DIR") from None
        except OSError as error:
            why = f"{workspace} cannot be made anew: {error.strerror}"
            raise UserError(f"{why}; give another with --workspace DIR") from None
        yield


@click.command(cls=Command)
@click.option(
    "--workspace",
    default="./graftline-demo",
    show_default=True,
    metavar="DIR",
    help="Where everything is put; the folder of an earlier demo is removed first, with all that is in it.",
)
def main(workspace: str) -> int:
    """Four nights: a first model, a worse one, a better one, and back again."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the server ends, too
    with _fresh(pathlib.Path(workspace)):
        return _tell(pathlib.Path(workspace))


def _tell(workspace: pathlib.Path) -> int:
    """The four nights; gives the exit status."""
    say = Story()
    demo = Demo(workspace, say)
    new = demo.put("train", 50, 80)
    first = demo.night(1, f"{new} images of ten digits, and {_TESTED * 10} that every night is tested on")
    with demo.server() as address, Requests(address, demo.test_images()) as requests:
        requests.wait_for(first["pushed_version"])
        say(f"  graftline serve answers with version {requests.latest}; a client sends one request after another")
        new = demo.put("train", 80, 100, moved=1)
        demo.night(2, f"{new} new images arrive, each in the folder of the next digit", good=False)
        say(f"  version {requests.latest} is served; {requests.told}")
        demo.take_back(80, 100)
        mended, new = demo.put("train", 80, 100), demo.put("train", 100, 160)
        better = demo.night(3, f"the {mended} are put into the right folders, and {new} more arrive")
        requests.wait_for(better["pushed_version"])
        say(f"  the server took up version {requests.latest}; {requests.told}")
        say(f"Night 4: version {requests.latest} shall go, for reasons that no gate could know")
        back = demo.run("rollback", str(workspace))
        requests.wait_for(back["version"])
        say(f"  graftline rollback: version {back['of']} is back, as version {back['version']}; {requests.told}")
    versions = ", ".join(f"{count:,} by version {version}" for version, count in sorted(requests.answered.items()))
    say(f"Done. Answers: {versions}; {len(requests.failed):,} of {requests.asked:,} requests failed")
    return UNEXPECTED if requests.failed else DONE


if __name__ == "__main__":
    main()
