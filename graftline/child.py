"""Starts a module of Graftline as a child process: the validated server, the report's figures, the isolated decoder.

`python -m` puts the current folder before the installed modules, so a user's file could take a module's place.
The command made here never looks in the current folder.
"""

import os
import pathlib
import sys

_ROOT = str(pathlib.Path(__file__).parents[1])
# Variables that Python may need to start and to find its packages. All others may hold secrets, or plugins of HDF5.
_BARE = (
    *("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
    *("PYTHONHOME", "PYTHONPATH", "PYTHONPLATLIBDIR", "PYTHONUSERBASE", "PYTHONNOUSERSITE", "PYTHONSAFEPATH"),
)
# `os.read`, not `sys.stdin`: a daemon thread inside `sys.stdin` would hold its lock while Python shuts down.
_CODE = """
import sys
if sys.path[0] == "": del sys.path[0]  # absent with PYTHONSAFEPATH
import os, runpy, threading
root, ends_with_parent, module = sys.argv[1:4]
sys.argv[1:4] = []
if root not in sys.path: sys.path.append(root)
if ends_with_parent == "1":
    threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def command(module: str, *arguments: str, ends_with_parent: bool = False) -> list[str]:
    """Return the command line that runs a module as a program, as `python -m` does.

    With `ends_with_parent` the child ends as soon as its standard input is closed. The parent keeps a pipe to it open,
    so that a killed parent leaves no child behind.
    """
    return [sys.executable, "-c", _CODE, _ROOT, "1" if ends_with_parent else "0", module, *arguments]


def bare_environment() -> dict[str, str]:
    """Return the environment of a child that reads a stranger's file: what Python needs, and no secrets."""
    kept = {name: os.environ[name] for name in _BARE if name in os.environ}
    return {**kept, "MALLOC_ARENA_MAX": "1"}  # an arena takes 64 MiB of the address space, which is limited
