"""The part of each node's cache key that TFX does not see.

TFX's own key holds a node's inputs, its parameters and the name of its executor. An edited executor or user function
would come from the cache, and so would a node that reads what is neither an input nor a parameter. `cache_keys` gives
`dag.create_pipeline` parameters that stand for both. `python -m graftline.pipeline.cache_keys FILE…` says which nodes
run again when a file is edited.
"""

import ast
import contextlib
import csv
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import sys
import uuid
from collections.abc import Iterator, Sequence, Set
from typing import Any

import graftline
from graftline import csv_cells, streams, uri
from graftline.components import data_validation
from graftline.components.storage.versions import destination
from graftline.errors import UserError
from graftline.pipeline.config import Config
from graftline.pipeline.site import Site
from graftline.serving.versions import withdrawals
from graftline.trainer import weights_file

_PACKAGE = pathlib.Path(graftline.__file__).parent

# The modules whose imports make up each node's code: its component, its user functions and what it starts as a process.
# A process is named as text in the code that starts it, so no import leads to its module.
MODULES = {
    "ImageExampleGen": ("components.image_example_gen.component", "serving.images.isolated"),
    "SchemaGen": ("components.data_validation.component",),
    "ExampleValidator": ("components.data_validation.component",),
    "Transform": ("components.transform.component", "components.transform.preprocessing"),
    "Trainer": ("trainer.run_fn", "trainer.figures"),
    "ServingValidator": ("components.serving_validator.component", "serving.server.__main__"),
    "Evaluator": ("components.evaluator.component",),
    "Pusher": ("components.pusher.component",),
}
# What makes pixels of an image's bytes, and activations of pixels. The modules left out change no number: the values of
# the settings are in the name of the activations' store themselves.
ACTIVATIONS = ("components.transform.preprocessing", "trainer.inputs", "trainer.augmentation", "trainer.boundary")
_NO_NUMBERS = ("", "errors", "faces", "settings", "trainer.settings", "trainer.model_settings", "trainer.head_layers")
_DECODERS = ("pillow", "pillow-heif", "tensorflow")  # their versions decide which files can be decoded
_ATTEMPT_FILE = "attempt"  # beside the quarantine list: see `_retry`


def cache_keys(config: Config, site: Site) -> dict[str, dict[str, Any]]:
    """Return for each node the parameters that stand for what TFX's cache key lacks.

    No executor reads them, except for the Trainer's `preprocessing`, which names the activations in the boundary cache.
    """
    code = {node: code_hash(*modules) for node, modules in MODULES.items()}
    base_path, statistics = site.base_path(config), site.statistics(config)
    # A model that was validated before a rollback is validated again after it, and no warm start begins from it.
    withdrawn = " ".join(sorted(withdrawals.withdrawn(destination(base_path)))) if site.readable else ""
    served = _served_digest(base_path, site.served)
    stored = "uint8" if config.data.materialize else "float32"
    comparable = site.readable and not uri.is_uri(statistics)
    return {
        "ImageExampleGen": {"code": code["ImageExampleGen"] + _versions(*_DECODERS) + _retry(config, site)},
        "SchemaGen": {"code": code["SchemaGen"], "sha256": _schema_hash(config.data.schema_file, site.readable)},
        "ExampleValidator": {
            "code": code["ExampleValidator"],
            # The same statistics are validated again when there are others to compare them with.
            "reference": data_validation.reference_run(statistics, str(site.fingerprint)) if comparable else 0,
        },
        "Transform": {"code": code["Transform"]},
        "Trainer": {
            "code": code["Trainer"] + (withdrawn if config.training.warm_start else ""),
            "preprocessing": f"{config.data.resize} {stored} {code_hash(*ACTIVATIONS, without=_NO_NUMBERS)}",
            "weights_sha256": _weights_hash(config.backbone.weights),
            "callbacks_sha256": _callbacks_hash(config.training.callbacks),
        },
        "ServingValidator": {"code": code["ServingValidator"], "withdrawn": withdrawn},
        "Evaluator": {"code": code["Evaluator"] + served},
        "Pusher": {
            "code": code["Pusher"],
            # A push comes from the cache only while the pushed version is still served; a first push never does.
            "served": f"{site.served} {served}" if site.served else uuid.uuid4().hex if site.readable else "",
        },
    }


# --- the code ---------------------------------------------------------------------------------------------------------


def code_hash(*modules: str, without: Sequence[str] = ()) -> str:
    """Return a hash of the sources of these modules and of all that they import of Graftline, except for `without`.

    Modules are named within `graftline`, such as `trainer.run_fn`.
    """
    digest = hashlib.sha256()
    for module in sorted(closure(*modules) - set(without)):
        digest.update(module.encode() + b"\0" + hashlib.sha256(_source(module)).digest())
    return digest.hexdigest()


def closure(*modules: str) -> set[str]:
    """Return these modules, their packages, and all modules of Graftline that they import, directly or not.

    Imports inside functions count, imports for type checking alone do not. A package is its `__init__`; the name of
    Graftline's own is "".
    """
    found: set[str] = set()
    ahead = [name for module in modules for name in _with_packages(module)]
    while ahead:
        if (module := ahead.pop()) not in found:
            found.add(module)
            ahead += _imports(_source(module))
    return found


def nodes_of(path: str) -> list[str]:
    """Return the nodes whose code a source file is part of, and "every cached activation" where it makes these."""
    file = pathlib.Path(path).resolve()
    if not file.is_file():
        raise UserError(f"{path}: no such file; give the path of a source file")
    if (weights := weights_file("procedural")) and file == weights.resolve():
        return ["Trainer, if backbone.weights is procedural"]

    def holds(modules: Set[str]) -> bool:
        return any((source := _file(module)) and source.resolve() == file for module in modules)

    nodes = [node for node, modules in MODULES.items() if holds(closure(*modules))]
    return nodes + ["every cached activation"] * holds(closure(*ACTIVATIONS) - set(_NO_NUMBERS))


@functools.cache
def _imports(source: bytes) -> tuple[str, ...]:
    """Return the modules of Graftline that a source imports, with their packages."""
    names = [name.split(".", 1)[1] for name in _imported(ast.parse(source)) if name.startswith("graftline.")]
    return tuple(sorted({module for name in names for module in _with_packages(name)}))


def _imported(node: ast.AST) -> Iterator[str]:
    """Yield `a.b` for `import a.b`, and both `a` and `a.b` for `from a import b`: `b` may be a module."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        else:
            yield from _imported(child)


def _with_packages(name: str) -> Iterator[str]:
    """Yield the packages that `name` lies in and, if it is a module, `name`."""
    yield ""
    parts = name.split(".")
    yield from (module for end in range(len(parts)) if _file(module := ".".join(parts[: end + 1])))


def _file(module: str) -> pathlib.Path | None:
    path = _PACKAGE.joinpath(*filter(None, module.split(".")))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


def _source(module: str) -> bytes:
    if (file := _file(module)) is None:
        raise ModuleNotFoundError(f"graftline has no module {module}")
    return file.read_bytes()


# --- what lies beside -------------------------------------------------------------------------------------------------


def _versions(*distributions: str) -> str:
    """Return name and version of each of these that is installed."""
    installed = ""
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed += f" {name} {importlib.metadata.version(name)}"
    return installed


def _retry(config: Config, site: Site) -> str:
    """Return a text that is new when the last ingest left files out for reasons that may have passed.

    The text stays until there is such a reason again, since TFX would find the incomplete result under the old one.
    What is wrong with a file on disk is part of the images' fingerprint. The fingerprint of a file at a URI may be a
    checksum alone.
    """
    remote = any(uri.is_uri(folder) for folder in config.image_folders)

    def may_pass(reason: str) -> bool:
        busy = reason.startswith("decoding took too long") and "processor time" not in reason
        return (
            busy
            or reason.startswith(("vanished", "changed during", "decoder was killed"))
            or (remote and reason.startswith("unreadable"))
        )

    from graftline.components.image_example_gen import QUARANTINE_LIST  # it brings TensorFlow, which nodes_of can spare

    last = pathlib.Path(site.workspace.quarantine, QUARANTINE_LIST)
    if not site.readable or not last.is_file():
        return ""
    attempt = last.with_name(_ATTEMPT_FILE)
    try:
        with last.open(newline="", encoding="utf-8") as file:
            retry = any(may_pass(csv_cells.unescape(row.get("reason") or "")) for row in csv.DictReader(file))
    except (csv.Error, UnicodeDecodeError):  # what a power loss left; the next ingest writes the file anew
        retry = True
    if retry:
        attempt.write_text(uuid.uuid4().hex)
    return f" {attempt.read_text(errors='replace')}" if attempt.is_file() else ""


def _schema_hash(path: str | None, readable: bool) -> str:
    """Return the hash of the curated schema; "" without one, and for one that only the nodes of a cluster can read."""
    return data_validation.check_schema_file(path) if path and (readable or pathlib.Path(path).is_file()) else ""


def _served_digest(base_path: str, served: str | None) -> str:
    """Return the digest of the served version's files: a removed version may have had the same number; "" for none."""
    if not served:
        return ""
    base = destination(base_path)
    return next((base.digest(version) for version, path in base.versions().items() if path == served), "")


def _callbacks_hash(paths: Sequence[str]) -> str:
    """Return a digest of the sources of the modules of `training.callbacks`; what they import is not looked at."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            spec = importlib.util.find_spec(path.partition(":")[0])
        except Exception:  # noqa: BLE001 finding a module imports its package, which may raise anything
            spec = None
        if spec is not None and spec.origin is not None and os.path.isfile(spec.origin):
            digest.update(pathlib.Path(spec.origin).read_bytes())
    return digest.hexdigest() if paths else ""


def _weights_hash(weights: str) -> str:
    """Return the hash of a weights file, so that another file of that name is another run; "" for anything else."""
    file = weights_file(weights)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file is not None and file.is_file() else ""


def main() -> int:
    """Print the nodes of each file that the command line names; return the exit status."""
    for argument in sys.argv[1:]:
        try:
            sys.stdout.write(f"{argument}: {', '.join(nodes_of(argument)) or 'no node'}\n")
        except UserError as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
    return 0


if __name__ == "__main__":
    streams.run(main)
