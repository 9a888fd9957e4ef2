"""A server in a process of its own, for attacks: with few descriptors if asked, and whatever its end is."""

import os
import subprocess
import sys
import threading

# glibc then gives freed memory back at once. What it keeps would hide the growth by the next request. See mallopt(3).
_RETURN_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TOP_PAD_": "0"}


class Live:
    """`python -m graftline.serving.server` on free ports, from when it answers to the end of the `with`."""

    def __init__(self, *arguments: str, descriptors: int | None = None) -> None:
        command = [sys.executable, "-m", "graftline.serving.server", *arguments, "--rest-port=0", "--grpc-port=0"]
        limit = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh"] if descriptors else []
        self._command = [*limit, *command]
        self._announced = threading.Event()
        self.said: list[str] = []

    def __enter__(self) -> "Live":
        self.process = subprocess.Popen(
            self._command, stderr=subprocess.PIPE, text=True, errors="replace", env=os.environ | _RETURN_MEMORY
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._announced.wait(90), "the server did not start in 90 s"
        line = next((line for line in self.said if line.startswith("serving ")), "")
        assert line, "".join(self.said)
        *_, rest, rpc = line.split()
        self.rest, self.grpc = rest.partition("=")[2], rpc.partition("=")[2]
        return self

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            if len(self.said) < 10_000:
                self.said.append(line)
            if line.startswith("serving "):
                self._announced.set()
        self._announced.set()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr
        self.process.stderr.close()
