"""Reads numbers out of a Keras weights file, and nothing else: such a file may come from a stranger.

Keras' own readers trust the file. `keras.saving.load_model` builds objects from the config inside (CVE-2025-8747,
CVE-2025-9906), and HDF5 follows links and external storage to any file that the user may read (CVE-2026-1669). Here the
caller says which arrays it wants, by path and shape. Each array is looked up by name, and its shape is compared before
a number is read. Nothing else in the file is touched.

HDF5 is a library in C with a history of crashes and endless loops on crafted files, and its decompression has no limit.
So `trainer.weights_loading` runs this module as a child process with limits on memory and time. It imports no Keras.
"""

import codecs
import io
import json
import math
import resource
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import h5py
import numpy as np

ARCHIVE_MEMBER = "model.weights.h5"  # the weights inside a .keras file
_ZIP = b"PK\x03\x04"
_NAMES = 10_000  # layers in a file, and weights in a layer
_NAME_BYTES = 1 << 20  # all names of a layer
# A whole model in a .keras file holds the state of its optimizer, twice the weights for Adam, and a head.
_ARCHIVE_FACTOR, _ARCHIVE_EXTRA = 4, 64 << 20
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}

# What zipfile and h5py raise for a damaged file.
DAMAGED = (OSError, RuntimeError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)

Shape = tuple[int, ...]


class Layer(NamedTuple):
    """A layer's path in Keras 3's files, or its name for legacy files, and the shapes of its weights in their order."""

    path: str
    shapes: list[Shape]


class Wanted(NamedTuple):
    """The arrays that a caller wants. A file has one of two layouts, which hold the same arrays in another order."""

    layers: list[Layer]  # as Keras 3 saves them: by path
    legacy: list[Layer]  # as Keras 1 and 2 saved them: by order

    @property
    def size(self) -> int:
        """The bytes of all arrays as float32."""
        return sum(4 * math.prod(shape) for layer in self.layers for shape in layer.shapes)


class MisfitError(ValueError):
    """The file holds other arrays than the caller wants."""


class RefusedError(ValueError):
    """The file holds something that no file of weights needs, and that may do harm."""


def read(file: BinaryIO, wanted: Wanted) -> tuple[bool, list[np.ndarray]]:
    """Return whether the file has the legacy layout, and its arrays as float32 in the order of `wanted`.

    Raises:
      MisfitError: an array is missing, has another shape, or holds no numbers.
      RefusedError: the file has links, external storage, unknown filters or a zip entry that is too large.
      Any of `DAMAGED`: the file is damaged.
    """
    is_archive = file.read(len(_ZIP)) == _ZIP
    source = _extract(file, _ARCHIVE_FACTOR * wanted.size + _ARCHIVE_EXTRA) if is_archive else file
    with h5py.File(source, "r") as root:
        legacy_root = _legacy_root(root)
        if legacy_root is None:
            datasets = list(_find(root, wanted.layers))
        else:
            datasets = list(_find_legacy(legacy_root, wanted.legacy))
        return legacy_root is not None, [np.asarray(dataset[()], np.float32) for dataset in datasets]


def _extract(file: BinaryIO, most: int) -> io.BytesIO:
    """Return the weights inside a .keras file; nothing is written to the disk."""
    with zipfile.ZipFile(file) as archive:
        entries = [entry for entry in archive.infolist() if entry.filename == ARCHIVE_MEMBER]
        if len(entries) != 1:
            raise MisfitError(f"it is a zip archive with {len(entries)} files {ARCHIVE_MEMBER}")
        (entry,) = entries
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise RefusedError(f"its {ARCHIVE_MEMBER} is encrypted or compressed in an unusual way")
        if entry.file_size > most:
            raise RefusedError(
                f"its {ARCHIVE_MEMBER} has {entry.file_size:,} bytes; for this backbone at most {most:,} are read"
            )
        with archive.open(entry) as content:
            return io.BytesIO(content.read(entry.file_size))  # zipfile checks the CRC


def _legacy_root(root: h5py.Group) -> h5py.Group | None:
    """Return the group with the layers' names as Keras 1 and 2 wrote them, or None for a file of Keras 3."""
    for group in (root, _get(root, "model_weights")):
        if isinstance(group, h5py.Group) and {"layer_names", "layer_names0"} & set(_attribute_names(group)):
            return group
    return None


def _attribute_names(group: h5py.Group) -> list[str]:
    if (number := len(group.attrs)) > _NAMES:
        raise RefusedError(f"{group.name} has {number:,} attributes")
    return list(group.attrs)


def _find(root: h5py.Group, layers: Sequence[Layer]) -> Iterator[h5py.Dataset]:
    old = _get(root, "_layer_checkpoint_dependencies") is not None  # Keras 2.12
    for path, shapes in layers:
        path = path.replace("layers", "_layer_checkpoint_dependencies") if old else path
        group = _get(root, f"{path}/vars")
        number = len(group) if isinstance(group, h5py.Group) else 0
        if not isinstance(group, h5py.Group) or number != len(shapes):
            raise MisfitError(f"{path} has {number} weights, the backbone's has {len(shapes)}")
        for index, shape in enumerate(shapes):
            name = f"{path}/vars/{index}"
            yield _check(_get(root, name), shape, name)


def _find_legacy(root: h5py.Group, layers: Sequence[Layer]) -> Iterator[h5py.Dataset]:
    named = []
    for name in _names(root, "layer_names"):
        group = _get(root, name)
        if not isinstance(group, h5py.Group):
            raise MisfitError(f"{name} is not a layer")
        if weights := _names(group, "weight_names"):
            named.append((name, weights))
    if len(named) != len(layers):
        raise MisfitError(f"it has {len(named)} layers with weights, the backbone has {len(layers)}")
    for (name, weights), layer in zip(named, layers, strict=True):
        if len(weights) != len(layer.shapes):
            raise MisfitError(f"{name} has {len(weights)} weights, the backbone's {layer.path} has {len(layer.shapes)}")
        for weight, shape in zip(weights, layer.shapes, strict=True):
            yield _check(_get(root, f"{name}/{weight}"), shape, f"{name}/{weight}")


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """Return a list of names. A list too long for one attribute lies in several, with a number each."""
    present = set(_attribute_names(group))
    chunks = [attribute] if attribute in present else []
    while chunks[:1] != [attribute] and f"{attribute}{len(chunks)}" in present:
        chunks.append(f"{attribute}{len(chunks)}")
    names: list[str] = []
    for chunk in chunks:
        header = group.attrs.get_id(chunk)
        number = math.prod(header.shape)
        if number == 0:
            continue
        if (
            header.dtype.kind not in "SO"
            or len(names) + number > _NAMES
            or number * header.dtype.itemsize > _NAME_BYTES
        ):
            raise RefusedError(f"{group.name} has no proper list of {attribute}")
        names += [name.decode() if isinstance(name, bytes) else str(name) for name in np.ravel(group.attrs[chunk])]
    return names


def _get(group: h5py.Group, path: str) -> h5py.Group | h5py.Dataset | None:
    """Return the object at a path, or None. Each step must be a hard link: other links lead out of the file."""
    found = group
    for step in filter(None, path.split("/")):
        name = step.encode()
        if not isinstance(found, h5py.Group) or not found.id.links.exists(name):
            return None
        if found.id.links.get_info(name).type != h5py.h5l.TYPE_HARD:
            raise RefusedError(f"{path} is a link, which may lead to another file")
        found = found[step]
    return found


def _check(dataset: object, shape: Shape, name: str) -> h5py.Dataset:
    """Return the dataset if it holds numbers of this shape in this file."""
    if not isinstance(dataset, h5py.Dataset):
        raise MisfitError(f"it has no array {name}")
    # First, because HDF5 opens other files to find the shape of a virtual dataset.
    properties = dataset.id.get_create_plist()
    if properties.get_layout() == h5py.h5d.VIRTUAL or properties.get_external_count():
        raise RefusedError(f"{name} lies in another file")
    filters = {properties.get_filter(number)[0] for number in range(properties.get_nfilters())}
    if filters - _FILTERS or len(filters) != properties.get_nfilters():
        raise RefusedError(f"{name} is compressed in an unusual way")
    if dataset.shape != tuple(shape):
        raise MisfitError(f"{name} has the shape {dataset.shape}, the backbone's {tuple(shape)}")
    if dataset.dtype.kind not in "fiu":
        raise MisfitError(f"{name} holds no numbers: its type is {dataset.dtype}")
    if properties.get_layout() == h5py.h5d.CHUNKED and any(
        part > whole for part, whole in zip(properties.get_chunk(), dataset.shape, strict=True)
    ):
        raise RefusedError(f"{name} has chunks that are larger than itself")
    return dataset


def main(path: str, memory: int, cpu_seconds: int) -> None:
    """Read the file within limits, and write a line of JSON and the arrays' bytes to standard output.

    The file is open before the process loses the right to open others, and to start processes (root keeps that one).
    """
    file = open(path, "rb")  # noqa: SIM115 - until the process ends
    for encoding in ("ascii", "cp437"):  # of names in HDF5 and in zip archives; Python reads them from files
        codecs.lookup(encoding)
    limits = {resource.RLIMIT_AS: memory, resource.RLIMIT_CPU: cpu_seconds}
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_CORE):
        limits[kind] = 0
    for kind, limit in limits.items():
        hard = resource.getrlimit(kind)[1]
        lowest = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (lowest, hard if kind == resource.RLIMIT_CPU else lowest))
    request = json.load(sys.stdin)
    wanted = Wanted(*([Layer(*layer) for layer in request[layout]] for layout in Wanted._fields))
    try:
        legacy, arrays = read(file, wanted)
    except (MisfitError, RefusedError) as error:
        answer: dict[str, object] = {"error": type(error).__name__, "reason": str(error)}
        arrays = []
    except MemoryError:
        answer, arrays = {"error": RefusedError.__name__, "reason": "it needs too much memory"}, []
    else:
        answer = {"legacy": legacy}
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    for array in arrays:
        sys.stdout.buffer.write(array.data)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
