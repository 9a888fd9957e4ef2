"""Starts a module of Graftline as a child process: the validated server, the report's figures, the isolated decoder.

`python -m` puts the current folder before the installed modules, so a user's file could take a module's place.
The command made here never looks in the current folder.
"""

import pathlib
import sys

_ROOT = str(pathlib.Path(__file__).parents[1])
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
