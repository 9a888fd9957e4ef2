"""The names that applications import from `graftline`: which they are, what they cost, and their types from outside."""

import importlib.resources
import inspect
import os
import pathlib
import re
import subprocess
import sys

import pytest

import graftline
from graftline.serving import client

ROOT = pathlib.Path(__file__).parents[3]
_APPLICATION = """\
from graftline import AsyncClient, Client, Retry, ServiceError

try:
    with Client("localhost:8500", "flowers", retry=Retry(attempts=1)) as client:
        reveal_type(client.classify(["rose.jpg", b""]))
        for row in client.stream(name for name in ("a.png", "b.png")):
            reveal_type(row.score)
        reveal_type(client.predict({"x": [1.0]}))
        client.classify([1])
except ServiceError as error:
    reveal_type(error.retry_after)


async def ask() -> None:
    async with AsyncClient("http://localhost:8501") as client:
        reveal_type(await client.status())
"""


def test_every_name_of_the_client_can_be_imported_from_the_top() -> None:
    assert set(graftline.__all__) == {*client.__all__, "__version__"}
    assert all(getattr(graftline, name) is getattr(client, name) for name in client.__all__)
    with pytest.raises(AttributeError, match="module 'graftline' has no attribute 'Clint'"):
        _ = graftline.Clint  # type: ignore[attr-defined]


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, graftline; print([name for name in sys.modules if name.startswith(('graftline.', 'numpy'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "['graftline.faces']"


def test_an_application_sees_the_types(tmp_path: pathlib.Path) -> None:
    assert importlib.resources.files("graftline").joinpath("py.typed").is_file()
    (tmp_path / "application.py").write_text(_APPLICATION)
    # Without numpy and other libraries, mypy takes 1 s instead of 4. Their types are Any then.
    options = ["--follow-imports=silent", "--ignore-missing-imports", "--no-site-packages"]
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "application.py", f"--cache-dir={tmp_path}/cache"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "MYPYPATH": str(ROOT)},
    )
    assert re.findall(r'Revealed type is "(.*)"', checked.stdout.replace("graftline.serving.client.results.", "")) == [
        "list[Prediction]",
        "float | None",
        "dict[str, Any]",
        "float | None",
        "list[VersionStatus]",
    ]
    (fault,) = re.findall("application.py.* error: (.*)", checked.stdout)
    assert fault.startswith('List item 0 has incompatible type "int"; expected "bytes | str | PathLike[str] | Loaded"')


@pytest.mark.parametrize("kind", [graftline.Client, graftline.AsyncClient])
def test_every_public_method_is_documented(kind: type) -> None:
    methods = {name: method for name, method in inspect.getmembers(kind, callable) if not name.startswith("_")}
    assert set(methods) == {"classify", "close", "metadata", "predict", "status", "stream"}
    assert all(method.__doc__ for method in (kind, *methods.values()))
