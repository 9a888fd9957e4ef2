"""A weights file may come from a stranger: its numbers are read, and nothing else of it has an effect."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import h5py
import keras
import numpy as np
import pytest

from graftline.errors import UserError
from graftline.trainer import models, weights_loading, weights_reader
from graftline.trainer.settings import BackboneSettings
from tests import assets
from tests.trainer import evil_weights

Spoil = Callable[[h5py.File, pathlib.Path], None]
Write = Callable[[pathlib.Path, pathlib.Path], None]


def _model(seed: int = 0) -> keras.Model:
    """Return a model with every kind of layer that the trunks have, and one inside another."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input([6, 6, 3])
    x = keras.layers.Normalization()(inputs)
    x = keras.layers.Conv2D(4, 3, name="first")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.Sequential([keras.Input([4, 4, 4]), keras.layers.Conv2D(5, 1), keras.layers.Dropout(0.5)])(x)
    x = keras.layers.Conv2D(2, 1, use_bias=False)(x)
    model = keras.Model(inputs, x)
    random = np.random.default_rng(seed)
    model.set_weights([random.uniform(0.1, 1, w.shape).astype(w.dtype) for w in model.weights])
    return model


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("good") / "good.weights.h5"
    _model(1).save_weights(path)
    return path


@pytest.fixture
def spoilt(good: pathlib.Path, tmp_path: pathlib.Path) -> Callable[[Spoil], pathlib.Path]:
    """Return a function that spoils a copy of the good file; `secret` in it is another file of the user."""

    def spoil(how: Spoil) -> pathlib.Path:
        secret, path = tmp_path / "secret", tmp_path / "evil.weights.h5"
        # A file of HDF5, so that links into it work, with a text that external storage finds.
        secret.write_bytes(good.read_bytes() + evil_weights.SECRET)
        path.write_bytes(good.read_bytes())
        with h5py.File(path, "a") as file:
            how(file, secret)
        return path

    return spoil


def _assert_equal(ours: keras.Model, theirs: keras.Model) -> None:
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["x.weights.h5", "x.h5", "x.keras"])
@pytest.mark.parametrize("trusted", [False, True])
def test_every_kind_of_file_gives_the_weights_that_keras_gives(
    tmp_path: pathlib.Path, name: str, trusted: bool
) -> None:
    path, ours = str(tmp_path / name), _model(2)
    (_model(1).save_weights if name == "x.weights.h5" else _model(1).save)(path)
    weights_loading.load(ours, path, trusted)
    _assert_equal(ours, _model(1))
    pixels = np.ones((1, 6, 6, 3), np.float32)
    theirs = _model(2)
    theirs.load_weights(path)
    np.testing.assert_array_equal(ours(pixels), theirs(pixels), err_msg="what Normalization derives")


@pytest.mark.parametrize(
    ("how", "error", "reason"),
    [
        (evil_weights.external_storage, weights_reader.RefusedError, "vars/0 lies in another file"),
        (evil_weights.virtual_dataset, weights_reader.RefusedError, "vars/0 lies in another file"),
        (evil_weights.external_link, weights_reader.RefusedError, "vars/0 is a link"),
        (evil_weights.external_link_to_a_layer, weights_reader.RefusedError, "conv2d/vars is a link"),
        (evil_weights.soft_link, weights_reader.RefusedError, "vars/0 is a link"),
        (evil_weights.giant, weights_reader.MisfitError, r"vars/0 has the shape \(1099511627776, 1048576\)"),
        (evil_weights.giant_chunk, weights_reader.RefusedError, "chunks that are larger than itself"),
        (evil_weights.deflate_bomb, (weights_reader.RefusedError, weights_loading.DamagedError), "memory|filter"),
        (evil_weights.unknown_filter, weights_reader.RefusedError, "compressed in an unusual way"),
        (evil_weights.references, weights_reader.MisfitError, "holds no numbers"),
        (evil_weights.pickled, weights_reader.MisfitError, "holds no numbers"),
        (evil_weights.strings, weights_reader.MisfitError, "holds no numbers"),
        (evil_weights.compound, weights_reader.MisfitError, "holds no numbers"),
        (evil_weights.circle, weights_reader.MisfitError, r"conv2d has \d weights, the backbone's has 2"),
        (evil_weights.a_group_in_place_of_an_array, weights_reader.MisfitError, "it has no array layers/conv2d/vars/0"),
        (evil_weights.an_array_in_place_of_a_layer, weights_reader.MisfitError, "conv2d has 0 weights"),
        (evil_weights.many_names, weights_reader.RefusedError, "no proper list of layer_names"),
        (evil_weights.numbers_for_names, weights_reader.RefusedError, "no proper list of layer_names"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_crafted_file_is_refused_and_the_model_keeps_its_weights(
    spoilt: Callable[[Spoil], pathlib.Path], how: Spoil, error: type[Exception], reason: str
) -> None:
    path, model = spoilt(how), _model(2)
    with pytest.raises(error, match=reason):
        weights_loading.load(model, str(path))
    _assert_equal(model, _model(2))


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (evil_weights.zip_bomb, r"has 104,8\d\d,\d\d\d bytes; for this backbone at most 67,\d\d\d,\d\d\d are read"),
        (evil_weights.two_members, "a zip archive with 2 files model.weights.h5"),
        (evil_weights.encrypted, "is encrypted or compressed in an unusual way"),
        (evil_weights.bzip2, "is encrypted or compressed in an unusual way"),
        (evil_weights.pickled_numpy, "a zip archive with 0 files model.weights.h5"),
        (evil_weights.outside, "a zip archive with 0 files model.weights.h5"),
        (evil_weights.wrong_size, "Bad CRC-32"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_crafted_archive_is_refused(good: pathlib.Path, tmp_path: pathlib.Path, write: Write, reason: str) -> None:
    write(tmp_path / "evil.keras", good)
    model = _model(2)
    with pytest.raises(ValueError, match=reason):
        weights_loading.load(model, str(tmp_path / "evil.keras"))
    _assert_equal(model, _model(2))
    assert not (tmp_path.parent / "model.weights.h5").exists()


def test_the_config_in_a_keras_file_is_never_read(good: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """CVE-2025-8747. The pinned Keras falls to this file, in its safe mode."""
    path = tmp_path / "evil.keras"
    written = evil_weights.keras_archive(path, good)
    model = _model(2)
    weights_loading.load(model, str(path))
    _assert_equal(model, _model(1))
    assert not written.exists()
    with pytest.raises(ValueError, match="not connected"):
        keras.saving.load_model(path, compile=False)
    assert written.read_text() == "written by a weights file", "the attack has no teeth"


def test_what_another_file_holds_does_not_become_weights(spoilt: Callable[[Spoil], pathlib.Path]) -> None:
    """CVE-2026-1669. The pinned Keras reads the other file."""
    path = spoilt(evil_weights.external_storage)
    theirs = _model(2)
    theirs.load_weights(path)
    assert theirs.get_layer("first").kernel.numpy().tobytes()[:8] == b"\x89HDF\r\n\x1a\n", "the attack has no teeth"


def test_the_reader_sees_no_secret_and_no_plugin_of_the_environment(
    good: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HDF5_DRIVER", "no_such_driver")  # HDF5 itself would stop
    weights_loading.load(_model(2), str(good))


def test_the_reader_can_open_nothing_but_the_file(good: pathlib.Path) -> None:
    code = """
import socket, sys
from graftline.trainer import weights_reader
def read(file, wanted):
    for attempt in (lambda: open("/etc/passwd"), lambda: open("made", "w"), socket.socket):
        try:
            attempt()
        except OSError as error:
            print(error.strerror)
    return False, []
weights_reader.read = read
weights_reader.main(sys.argv[1], 1 << 30, 20)
"""
    command = [sys.executable, "-c", code, str(good)]
    done = subprocess.run(command, input='{"layers": [], "legacy": []}', capture_output=True, text=True, check=False)
    assert done.stdout.count("Too many open files") == 3, done.stdout + done.stderr


def test_a_user_is_told_which_file_is_refused_and_why(tmp_path: pathlib.Path) -> None:
    settings = BackboneSettings(weights="none", input_size=32, options={"alpha": 0.35})
    path = tmp_path / "evil.weights.h5"
    models.build_trunk(settings).save_weights(path)
    with h5py.File(path, "a") as file:
        evil_weights.external_link(file, tmp_path / "secret.h5")
    with pytest.raises(UserError) as caught:
        models.build_trunk(settings.model_copy(update={"weights": str(path)}))
    assert str(caught.value) == (
        f"backbone.weights: '{path}' is refused: layers/conv2d/vars/0 is a link, which may lead to another file; "
        "give a file that Keras wrote"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(models.backbones.BACKBONES))
def test_the_paths_are_those_that_keras_writes(name: str, tmp_path: pathlib.Path) -> None:
    entry = models.backbones.get(name)
    trunk = models.build_trunk(BackboneSettings(name=name, weights="none", input_size=max(96, entry.min_size)))
    trunk.save_weights(tmp_path / "x.weights.h5")
    with h5py.File(tmp_path / "x.weights.h5") as file:
        written = set()
        file.visititems(lambda path, node: written.add((path, node.shape)) if isinstance(node, h5py.Dataset) else None)
    ours = {
        (f"{path}/vars/{index}", tuple(variable.shape))
        for path, variables in weights_loading.own_variables(trunk.layers)
        for index, variable in enumerate(variables)
    }
    assert ours <= written
    assert all("seed_generator" in path for path, _ in written - ours)
    keras.utils.clear_session()


@assets.needs_assets
@pytest.mark.parametrize(
    ("name", "file", "options"),
    [
        ("MobileNet", "mobilenet_2_5_224_tf_no_top.h5", {"alpha": 0.25}),
        pytest.param(
            *("MobileNetV2", "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5", {"alpha": 0.35}),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("MobileNetV2", "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5", {"alpha": 1.0}),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("MobileNetV3Large", "mobilenet_v3_large_minimalistic_1.0_224_no_top_DEQUANT.h5", {"minimalistic": True}),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_real_imagenet_weights_are_the_numbers_that_keras_reads(name: str, file: str, options: dict) -> None:
    path = str(assets.ASSETS / "weights" / file)
    theirs = models.build_trunk(BackboneSettings(name=name, weights="none", options=options))
    theirs.load_weights(path)
    _assert_equal(models.build_trunk(BackboneSettings(name=name, weights=path, options=options)), theirs)


@assets.needs_assets
def test_a_crafted_file_in_the_cache_of_keras_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`weights: imagenet` reads what lies in Keras' cache, which a user may have filled by hand."""
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path))
    cached = tmp_path / "models" / assets.MOBILENET_V2_035.name
    cached.parent.mkdir()
    cached.write_bytes(assets.MOBILENET_V2_035.read_bytes())
    settings = BackboneSettings(weights="imagenet", options={"alpha": 0.35})
    theirs = models.build_trunk(settings.model_copy(update={"weights": str(assets.MOBILENET_V2_035)}))
    _assert_equal(models.build_trunk(settings), theirs)
    os.chmod(cached, 0o600)
    with h5py.File(cached, "a") as file:
        del file["Conv1/Conv1/kernel:0"]
        file["Conv1/Conv1/kernel:0"] = h5py.ExternalLink(str(assets.MOBILENET_V2_035), "Conv1/Conv1/kernel:0")
    with pytest.raises(UserError, match=r"kernel:0 is a link.*remove the file, and Keras downloads it again"):
        models.build_trunk(settings)
