"""What a package offers from its `__init__`, without importing it beforehand."""

import importlib
import pathlib
import subprocess
import sys

import pytest

import graftline
from graftline import components, faces

_NODES = sorted(path.parent.name for path in pathlib.Path(str(components.__file__)).parent.glob("*/component.py"))


@pytest.mark.parametrize(
    "package", ["graftline", "graftline.trainer", *(f"graftline.components.{node}" for node in _NODES)]
)
def test_every_name_of_a_face_is_there(package: str) -> None:
    names = faces._origins(package)
    assert names
    for name in names:
        assert getattr(importlib.import_module(package), name) is not None


@pytest.mark.parametrize("node", _NODES)
def test_a_node_offers_its_component_and_its_settings(node: str) -> None:
    modules = {module.rpartition(".")[2] for module, _ in faces._origins(f"graftline.components.{node}").values()}
    assert modules >= {"component", "settings"}


def test_an_unknown_name_is_an_attribute_error_as_of_any_module() -> None:
    with pytest.raises(AttributeError, match=r"module 'graftline' has no attribute 'Clint'"):
        graftline.Clint  # noqa: B018


def test_settings_come_without_tfx() -> None:
    code = "import sys; from graftline.components.pusher import PushSettings; print({'tfx', 'keras'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
