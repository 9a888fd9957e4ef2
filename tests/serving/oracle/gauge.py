"""Memory, processor time, descriptors and threads of a server: its process and the processes that it has started."""

import os
import pathlib
import re
import time

import psutil

_RESET_PEAK = "5"  # of /proc/PID/clear_refs, see proc(5)


class Gauge:
    """Reads what a tree of processes has used since `reset`.

    The peak is the sum of each process's own, so it may exceed what all had at one moment. A process that ends between
    two looks is missed; `look` may be called often.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._peaks: dict[int, int] = {}
        self._seconds: dict[int, float] = {}
        self._base = 0
        for process in self._tree():
            pathlib.Path(f"/proc/{process.pid}/clear_refs").write_text(_RESET_PEAK)
            self._base += process.memory_info().rss
        self._used_before = 0.0
        self._used_before = self.seconds()

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def look(self) -> None:
        """Take note of the processes that run now."""
        for process in self._tree():
            try:
                status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
                times = process.cpu_times()
            except (OSError, psutil.NoSuchProcess):
                continue
            if match := re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE):
                self._peaks[process.pid] = int(match[1]) << 10
            self._seconds[process.pid] = times.user + times.system

    def growth(self) -> int:
        """Return by how many bytes the peak memory since `reset` passes the memory at `reset`."""
        self.look()
        return max(0, sum(self._peaks.values()) - self._base)

    def seconds(self) -> float:
        """Return the processor seconds used since `reset`."""
        self.look()
        return sum(self._seconds.values()) - self._used_before

    def descriptors(self) -> int:
        """Return how many descriptors the server's own process holds."""
        return self._root.num_fds()

    def threads(self) -> int:
        """Return how many threads the server's own process has."""
        return self._root.num_threads()

    def memory(self) -> int:
        """Return the resident bytes of all processes."""
        return sum(process.memory_info().rss for process in self._tree())

    def settle(self, seconds: float = 3.0) -> None:
        """Wait until the processes are idle, at most so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            before = self.seconds()
            time.sleep(0.2)
            if self.seconds() - before <= 0.02:
                return


def load() -> str:
    """Return the machine's load of the last minute, for reports."""
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
