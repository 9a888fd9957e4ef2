"""The report of a training: tables, figures, and the model in words.

`start` writes the tables of the epochs and the model's summary. It also starts `trainer.figures`, which draws in a
process of its own while the caller exports the model. `finish` waits for that process and copies its files. When the
report fails, the log has a warning, and the trained model is not lost.
"""

import csv
import io
import json
import logging
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from graftline import child
from graftline.jsonable import finite
from graftline.trainer import boundary, heads

MISTAKES = 24

# The figures take three seconds, and nine for 1,000 classes and 20,000 images. A busy machine may be slow.
_TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Predictions:
    """The model's answers for the eval split."""

    filenames: list[str]  # [n]
    labels: np.ndarray  # label index int64 [n]
    probabilities: np.ndarray  # float32 [n, C]

    @property
    def predicted(self) -> np.ndarray:
        """Index of the most likely class, int64 [n]."""
        return self.probabilities.argmax(axis=1)

    @property
    def scores(self) -> np.ndarray:
        """Probability of the most likely class, float32 [n]."""
        return self.probabilities.max(axis=1, initial=0)


def most_confident_mistakes(predictions: Predictions, count: int = MISTAKES) -> np.ndarray:
    """Return the rows of the mistakes with the highest scores, int64 [at most count]; equal scores in row order."""
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    return wrong[np.argsort(-predictions.scores[wrong], kind="stable")][:count]


class PendingReport:
    """A report that is being drawn."""

    def __init__(self, directory: str) -> None:
        """Create a report for a path or URI; `start` starts it."""
        self._directory = directory
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def finish(self) -> bool:
        """Wait for the figures, copy those that succeeded to the report's directory, and return whether all did.

        When one failed, the log has a warning.
        """
        if self._process is None or self._folder is None:
            return False  # `start` has logged the reason
        try:
            with self._folder as folder:
                try:
                    status = self._process.wait(_TIMEOUT_SECONDS)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    status = self._process.wait()
                for product in pathlib.Path(folder).iterdir():
                    if product.is_file():
                        tf.io.gfile.copy(str(product), os.path.join(self._directory, product.name), overwrite=True)
                if status:
                    stderr = pathlib.Path(folder, "inputs", "stderr").read_text(errors="replace")[-2000:]
                    logging.warning("The report's figures failed with status %d: %s", status, stderr)
        except Exception:
            logging.warning("The report could not be written to %s", self._directory, exc_info=True)
            return False
        return status == 0


def start(
    directory: str,
    labels: Sequence[str],
    results: Sequence[Mapping[str, Any]],
    predictions: Predictions,
    images: Callable[[Sequence[int]], Mapping[int, bytes]],
    grafted: heads.Grafted,
    trained: list[keras.Layer],
    cut: boundary.Boundary,
) -> PendingReport:
    """Write `history.csv`, `history.json` and `model.txt`, and start to draw the rest. Raise nothing.

    `results` are `dataclasses.asdict` of each phase's result, in the order in which they ran. `images` is called once
    with at most MISTAKES rows of the predictions and returns the bytes of their files; a row that it leaves out becomes
    a grey tile. `describe` explains the last three arguments.
    """
    pending = PendingReport(directory)
    try:
        tf.io.gfile.makedirs(directory)
        phases_json = [finite(result) for result in results]
        _write(directory, "history.csv", _history_csv(results))
        _write(directory, "history.json", json.dumps(phases_json, indent=2))
        _write(directory, "model.txt", _summary(grafted.model))
        pending._folder = tempfile.TemporaryDirectory(prefix="report-")
        inputs = pathlib.Path(pending._folder.name, "inputs")
        inputs.mkdir()
        rows = most_confident_mistakes(predictions).tolist()
        files = images(rows) if rows else {}
        for row, content in files.items():
            (inputs / f"{row}.image").write_bytes(content)
        data = {
            "labels": list(labels),
            "phases": phases_json,
            "filenames": predictions.filenames,
            "true": predictions.labels.tolist(),
            "predicted": predictions.predicted.tolist(),
            # The shortest decimal number that gives this float32: 0.9, not 0.8999999761581421.
            "scores": [finite(float(str(score))) for score in predictions.scores],
            "mistakes": [{"row": row, "file": f"{row}.image" if row in files else None} for row in rows],
            "model": describe(grafted, trained, cut),
        }
        (inputs / "report.json").write_text(json.dumps(data))
        with (inputs / "stderr").open("wb") as stderr:
            pending._process = subprocess.Popen(
                child.command("graftline.trainer.figures", pending._folder.name),
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env={**os.environ, "MPLBACKEND": "agg"},
            )
    except Exception:
        logging.warning("The report could not be started in %s", directory, exc_info=True)
    return pending


def describe(grafted: heads.Grafted, trained: list[keras.Layer], cut: boundary.Boundary) -> dict[str, Any]:
    """Describe the model's parts from pixels to probabilities, for `model.png`.

    `trained` are the trunk's layers that phase 2 trained, none when it did not run; `cut` is the boundary under them.

    Returns:
      A dict without the batch in its shapes. `input` is a shape. `trunk` has name, layers and parameters of the frozen
      part under the boundary. `boundary` has layer and shape of each tensor, or is None when phase 2 did not run or
      trains all. `unfrozen` has layers and parameters of the trunk above the boundary, and how many of them are
      trained, or is None. `head` is a list of its layers.
    """
    upper_ids = set(map(id, boundary.part_above(grafted.model, cut).layers)) if trained else set()
    hidden = [layer for layer in grafted.trunk.layers if not isinstance(layer, keras.layers.InputLayer)]
    upper = [layer for layer in hidden if id(layer) in upper_ids]
    lower = [layer for layer in hidden if id(layer) not in upper_ids]
    return {
        "input": list(grafted.model.inputs[0].shape[1:]),
        "trunk": {"name": grafted.trunk.name, **_amount(lower)},
        "boundary": [{"layer": tensor._keras_history.operation.name, "shape": list(tensor.shape[1:])} for tensor in cut]
        if upper and lower
        else None,
        "unfrozen": {
            **_amount(upper),
            "trained_layers": len(trained),
            "trained_parameters": _amount(trained)["parameters"],
        }
        if upper
        else None,
        "head": [
            {
                "name": layer.name,
                "kind": type(layer).__name__,
                "shape": list(layer.output.shape[1:]),
                "parameters": layer.count_params(),
                "rate": getattr(layer, "rate", None),
            }
            for layer in grafted.head_layers
        ],
    }


def _amount(layers: list[keras.Layer]) -> dict[str, int]:
    return {"layers": len(layers), "parameters": sum(layer.count_params() for layer in layers)}


def _summary(model: keras.Model) -> str:
    """Return Keras' summary. Keras and rich take the width from the terminal and cut names off when there is none."""
    lines: list[str] = []
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "140"
    try:
        model.summary(print_fn=lines.append, show_trainable=True)
    finally:
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns
    return "\n".join(lines) + "\n"


def _history_csv(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a row for each epoch: phase, epoch in the phase from 1, and the logs; empty where the log is missing."""
    logs = list(dict.fromkeys(log for result in results for log in result["history"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["phase", "epoch", *logs])
    for result in results:
        for epoch in range(result["epochs"]):
            values = [result["history"][log][epoch] if log in result["history"] else "" for log in logs]
            writer.writerow([result["name"], epoch + 1, *values])
    return text.getvalue()


def _write(directory: str, name: str, text: str) -> None:
    with tf.io.gfile.GFile(os.path.join(directory, name), "w") as file:
        file.write(text)
