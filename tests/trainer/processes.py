"""Python code in a process of its own, which a test may kill."""

import subprocess
import sys
import textwrap


def run_python(code: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run code, indented as in a test, with arguments in `sys.argv[1:]`."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
