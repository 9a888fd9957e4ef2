"""Loads a weights file onto a model that was built here. Nothing of the file is run: see `weights_reader`."""

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence

import keras
import numpy as np
from keras.src.utils.naming import to_snake_case

from graftline.child import bare_environment, command
from graftline.trainer import weights_reader
from graftline.trainer.weights_reader import Layer, MisfitError, RefusedError, Wanted

# Bytes of address space: Python with numpy and h5py, and for each byte of the weights the copies that the reader makes.
_MEMORY, _MEMORY_FACTOR = 512 << 20, 8
# Seconds of processor time, and the bytes of weights that get one second more. An idle core reads 1 GB in a second.
_CPU_SECONDS, _BYTES_PER_SECOND = 20, 50_000_000
_WALL_SECONDS = 600  # for a slow disk


class DamagedError(ValueError):
    """The file cannot be read."""


def load(model: keras.Model, path: str, trusted: bool = False) -> None:
    """Set the model's weights to those of a `.keras`, `.weights.h5` or legacy `.h5` file.

    The content decides which kind it is. The paths and the order are those of `keras.Model.load_weights`. A child
    process reads a file that is not `trusted`. State of random generators is not read.

    Raises:
      MisfitError, RefusedError, DamagedError: see `weights_reader`. The model keeps its weights.
    """
    own = list(own_variables(model.layers))
    in_order = [
        (layer.name, layer.trainable_weights + layer.non_trainable_weights) for layer in model.layers if layer.weights
    ]
    wanted = Wanted(*([Layer(name, [tuple(v.shape) for v in some]) for name, some in part] for part in (own, in_order)))
    legacy, arrays = read(path, wanted, trusted)
    assign(model, [variable for _, some in (in_order if legacy else own) for variable in some], arrays)


def assign(model: keras.Model, variables: Sequence[keras.Variable], arrays: Sequence[np.ndarray]) -> None:
    """Give the variables of the model their values."""
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    for layer in model.layers:
        if hasattr(layer, "finalize_state"):  # Normalization derives constants from its weights
            layer.finalize_state()


def own_variables(layers: Sequence[keras.Layer], folder: str = "") -> Iterator[tuple[str, list[keras.Variable]]]:
    """Return the path of each layer with variables in files of Keras 3, and the variables.

    Keras numbers the layers of a class; it does not use their names.
    """
    numbers: Counter[str] = Counter()
    for layer in layers:
        kind = to_snake_case(type(layer).__name__)
        path = f"{folder}layers/{kind}_{numbers[kind]}" if numbers[kind] else f"{folder}layers/{kind}"
        numbers[kind] += 1
        if isinstance(layer, keras.Model):
            yield from own_variables(layer.layers, f"{path}/")
        elif own := layer._trainable_variables + layer._non_trainable_variables:
            yield path, own


def read(path: str, wanted: Wanted, trusted: bool) -> tuple[bool, list[np.ndarray]]:
    """Run `weights_reader.read`, in a child process with limits unless the file is trusted."""
    if trusted:
        try:
            with open(path, "rb") as file:
                return weights_reader.read(file, wanted)
        except (MisfitError, RefusedError):
            raise
        except weights_reader.DAMAGED as error:
            raise DamagedError(_reason(f"{type(error).__name__}: {error}")) from error
    memory = _MEMORY + _MEMORY_FACTOR * wanted.size
    seconds = _CPU_SECONDS + wanted.size // _BYTES_PER_SECOND
    try:
        child = subprocess.run(
            command(weights_reader.__name__, os.path.abspath(path), str(memory), str(seconds)),
            input=json.dumps(wanted._asdict()).encode(),
            capture_output=True,
            env={**bare_environment(), "OPENBLAS_NUM_THREADS": "1"},  # a thread of BLAS takes more than an arena
            timeout=_WALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise RefusedError(f"reading it takes more than {_WALL_SECONDS} s") from None
    if child.returncode == -signal.SIGXCPU:
        raise RefusedError(f"reading it takes more than {seconds} s of processor time")
    if child.returncode < 0:
        raise RefusedError(f"reading it ends in {signal.Signals(-child.returncode).name}")
    if child.returncode:
        raise DamagedError(_reason(child.stderr.decode(errors="replace").strip().rpartition("\n")[2]))
    line, _, content = child.stdout.partition(b"\n")
    answer = json.loads(line)
    if "error" in answer:
        raise {error.__name__: error for error in (MisfitError, RefusedError)}[answer["error"]](answer["reason"])
    layers = wanted.legacy if answer["legacy"] else wanted.layers
    arrays, place = [], 0
    for shape in (shape for layer in layers for shape in layer.shapes):
        array = np.frombuffer(content, np.float32, int(np.prod(shape)), place).reshape(shape)
        arrays.append(array)
        place += array.nbytes
    return answer["legacy"], arrays


def _reason(text: str) -> str:
    return (text.strip() or "no reason").split("\n")[0][:300]
