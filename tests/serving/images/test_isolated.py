"""The child that decodes files which may harm it: its limits, its crashes and its end, with real processes."""

import io
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from graftline import child
from graftline.serving.images import formats, headers, isolated, transcoding
from graftline.serving.images.trust import Refused
from tests.assets import ASSETS, needs_assets
from tests.images import draw_scene, encode, encode_noise

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def no_children() -> Iterator[None]:
    """Begin and end each test without children."""
    isolated.close()
    yield
    isolated.close()
    assert children() == set()


def children() -> set[int]:
    """Return the ids of this process' children that run the module."""
    tasks = pathlib.Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = [int(pid) for task in tasks for pid in content(task).split()]
    return {pid for pid in pids if b"isolated" in content(pathlib.Path(f"/proc/{pid}/cmdline"))}


def content(file: pathlib.Path) -> bytes:
    """Return a file's content; b"" for a process that has ended, even if it was not waited for."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


def wait_until(condition: object, seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.01)
    return met


def slow() -> bytes:
    """Return a JPEG that takes minutes: a flat progressive image with its last scan 20,000 times."""
    data = encode(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * 20_000 + data[-2:]


def works() -> bool:
    made = isolated.transcode(encode_noise(1, "WEBP", lossless=True), "webp", None)
    return isinstance(made, bytes) and Image.open(io.BytesIO(made)).size == (48, 32)


def test_a_child_makes_what_this_process_would_make_and_is_used_again() -> None:
    data = encode(draw_scene(1), "TIFF")
    assert isolated.transcode(data, "tiff", 100) == transcoding.transcode(data, "tiff", 100)
    first = children()
    assert len(first) == 1
    assert isolated.transcode(b"BM no bitmap", "bmp", None) == Refused(isolated.BROKEN)
    assert works() and children() == first


def test_only_the_decoder_that_was_asked_for_is_tried() -> None:
    assert isolated.transcode(encode_noise(1, "PNG"), "jpeg", None) == Refused(isolated.BROKEN)
    assert isolated.transcode(encode(Image.new("L", (9, 9)), "EPS"), "tiff", None) == Refused(isolated.BROKEN)


def test_heic_without_the_extra_is_refused_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert transcoding.transcode(b"", "heic", None) == Refused("HEIC needs pillow-heif: install graftline[heif]")


def test_a_file_that_takes_too_much_processor_time_costs_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "CPU_SECONDS", 0)  # rounded up to one
    refused = isolated.transcode(slow(), "jpeg", None)
    assert refused == Refused("decoding took too long: more than 0 s of processor time")
    assert children() == set() and works()


def test_the_processor_time_of_one_file_is_not_counted_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "CPU_SECONDS", 2)
    big = encode(Image.effect_noise((3000, 3000), 50), "PNG")
    first = None
    for _ in range(6):
        assert isinstance(isolated.transcode(big, "png", None), bytes)
        first = first or children()
    assert children() == first


def test_a_file_that_takes_too_long_costs_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "WALL_SECONDS", 0.3)
    assert isolated.transcode(slow(), "jpeg", None) == Refused("decoding took too long: more than 0.3 s")
    monkeypatch.undo()
    assert children() == set() and works()


def test_a_file_that_takes_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = encode(Image.new("RGB", (9000, 9000)), "PNG")
    monkeypatch.setattr(isolated, "MEMORY", 300 << 20)
    assert isolated.transcode(flat, "png", None) == Refused("decoding took too much memory")
    assert works()


def test_a_size_over_the_limit_is_refused_before_it_is_decoded() -> None:
    flat = encode(Image.new("1", (20_000, 6_000)), "TIFF", compression="group4")
    assert isolated.transcode(flat, "tiff", None) == Refused("too many pixels: 20000 x 6000")


def test_a_crash_costs_one_file() -> None:
    assert works()
    (pid,) = children()
    killer = threading.Thread(target=lambda: wait_until(lambda: is_busy(pid)) and os.kill(pid, signal.SIGSEGV))
    killer.start()
    assert isolated.transcode(slow(), "jpeg", None) == Refused("decoder crashed: SIGSEGV")
    killer.join()
    assert children() == set() and works()


def is_busy(pid: int) -> bool:
    """Return whether the process has used 0.5 s of processor time, more than its start takes."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12]) > os.sysconf("SC_CLK_TCK")


class Killer(threading.Thread):
    """Kills the first `most` children as they start."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.killed: set[int] = set()
        self.start()

    def run(self) -> None:
        while len(self.killed) < self.most:
            if wait_until(lambda: children() - self.killed):
                self.killed |= (pids := children() - self.killed)
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)


def test_a_file_whose_decoder_was_killed_from_outside_is_tried_once_more() -> None:
    killer = Killer(most=1)
    assert works()
    killer.join()
    assert len(killer.killed) == 1


def test_a_decoder_that_is_killed_twice_is_a_reason_that_may_pass() -> None:
    killer = Killer(most=2)
    refused = isolated.transcode(encode_noise(1, "WEBP"), "webp", None)
    killer.join()
    assert len(killer.killed) == 2
    assert refused == Refused(
        "decoder was killed from outside: SIGKILL, as a machine does that has too little memory; run again",
        temporary=True,
    )
    assert works()


def test_a_child_has_no_secrets_and_no_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    assert works()
    (pid,) = children()
    process = pathlib.Path(f"/proc/{pid}")
    names = {line.partition(b"=")[0].decode() for line in content(process / "environ").split(b"\0") if line}
    assert names == set(child.bare_environment())
    limits = content(process / "limits").decode()
    for name in ("Max open files", "Max file size", "Max core file size"):
        assert re.search(rf"{name} +0 +0 ", limits), limits
    assert re.search(r"Max processes +0 ", limits), limits
    assert "NoNewPrivs:\t1" in content(process / "status").decode()


def test_a_child_without_rights_decodes_every_format() -> None:
    isolated.close()
    for image_format in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF"):
        made = isolated.transcode(encode(draw_scene(1), image_format), image_format.lower(), 50)
        assert isinstance(made, bytes), image_format
    assert len(children()) == 1


@needs_assets
@pytest.mark.filterwarnings("ignore")
def test_a_child_without_rights_decodes_what_this_process_decodes() -> None:
    """Decoders import modules for odd files, which a child must have imported before."""
    made = 0
    for file in sorted((ASSETS / "awkward").rglob("*.*")):
        data = file.read_bytes()
        image_format = formats.sniff(data[: formats.HEAD_BYTES])
        if image_format not in ("png", "gif", "bmp", "webp", "tiff") or "bomb" in file.name:
            continue
        answer = isolated.transcode(data, image_format, 64)
        try:
            here: object = transcoding.transcode(data, image_format, 64)
        except headers.ERRORS:
            here = Refused(isolated.BROKEN)
        assert answer == here, file
        made += isinstance(answer, bytes)
    assert made > 150


def test_a_child_that_was_killed_while_idle_costs_nothing() -> None:
    assert works()
    (pid,) = children()
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # the child has ended, and the module does not know yet
    assert works() and children() != {pid}


def test_threads_have_a_child_each_and_close_ends_them_all() -> None:
    files = [encode(draw_scene(seed, (400, 300)), "TIFF") for seed in range(12)]
    expected = [transcoding.transcode(data, "tiff", 90) for data in files]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert list(pool.map(lambda data: isolated.transcode(data, "tiff", 90), files)) == expected
    assert 1 <= len(children()) <= 4


def test_a_child_needs_nothing_heavy() -> None:
    code = f"import sys, {isolated.__name__}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"tensorflow", "apache_beam", "tfx", "numpy", "scipy"} & set(loaded.split())


PARENT = f"""
import os, signal, sys
from {isolated.__name__} import _idle, transcode
data = sys.stdin.buffer.read()
made = transcode(data, "webp", None)
print(_idle[0]._process.pid, flush=True)
"""


@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)"])
def test_children_end_with_their_parent_however_it_ends(end: str) -> None:
    data = encode_noise(1, "WEBP")
    done = subprocess.run([sys.executable, "-c", PARENT + end], cwd=ROOT, input=data, capture_output=True)
    assert not done.stderr
    assert wait_until(lambda: b"isolated" not in content(pathlib.Path(f"/proc/{int(done.stdout)}/cmdline")))


def test_a_forked_process_does_not_use_its_parents_child() -> None:
    fork = """
parent = _idle[0]._process.pid
if os.fork() == 0:
    assert not _idle and transcode(data, "webp", None) == made and _idle[0]._process.pid != parent
    print("forked", flush=True)
else:
    os.wait()
    assert _idle[0]._process.pid == parent and transcode(data, "webp", None) == made
    print("parent", flush=True)
"""
    data = encode_noise(1, "WEBP")
    done = subprocess.run([sys.executable, "-c", PARENT + fork], cwd=ROOT, input=data, capture_output=True)
    assert done.stdout.split()[1:] == [b"forked", b"parent"], done.stderr


def test_a_child_imports_nothing_from_the_current_folder(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    assert works()


def test_an_orientation_that_makes_no_sense_does_not_spoil_an_image() -> None:
    of_four_bytes = b"\x12\x01\x04\x00\x01\x00\x00\x00\x00\x00\x06\x00"  # tag, LONG, one, 6 << 16
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + of_four_bytes + bytes(4)
    odd = encode(draw_scene(1), "WEBP", exif=exif)
    assert isinstance(transcoding.transcode(odd, "webp", None), bytes)
