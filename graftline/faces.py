"""The face of a package: the public names of its modules, each imported when it is first used."""

import ast
import functools
import importlib
from collections.abc import Callable
from typing import Any


def face(package: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package whose public names are imported under `if TYPE_CHECKING:`.

    Each name is written once, type checkers see it, and the import of the package costs nothing. So the config may
    import a node's settings from the package that also offers the node's component, which imports TFX.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - the name in tracebacks
        origin = None if name.startswith("__") else _origins(package).get(name)
        if origin is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, attribute = origin
        return getattr(importlib.import_module(module), attribute)

    return __getattr__


@functools.cache
def _origins(package: str) -> dict[str, tuple[str, str]]:
    """Return the module and the name there of each public name."""
    # By the loader, not by the file: the package may lie in a zip.
    loader: Any = importlib.import_module(package).__loader__
    tree = ast.parse(loader.get_source(package))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom) and node.module]
    return {alias.asname or alias.name: (str(node.module), alias.name) for node in imports for alias in node.names}
