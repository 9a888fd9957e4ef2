"""A pushed version is seen complete or not at all, whatever happens to the pusher."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from graftline.errors import UserError
from graftline.serving.versions.base_path import Disk, content_digest
from graftline.serving.versions.locate import scan_versions
from graftline.serving.versions.publish import Published
from tests.serving.versions.saved_models import export, publish

PUSH = (
    "import sys; from graftline.serving.versions import base_path, publish\n"
    "print(publish.push(sys.argv[1], base_path.Disk(sys.argv[2])).version)"
)


def visible(base: pathlib.Path) -> list[str]:
    return sorted(name for name in os.listdir(base) if not name.startswith("."))


def test_the_first_version_is_one_and_holds_every_file_and_folder(tmp_path):
    source = export(tmp_path / "export")
    pushed = publish(str(source), str(tmp_path / "models/roses"))
    assert pushed == Published(1, str(tmp_path / "models/roses/1"), new=True)
    assert content_digest(pushed.path) == content_digest(str(source))
    assert os.path.isdir(f"{pushed.path}/assets")
    assert os.listdir(tmp_path / "models/roses") == ["1"]


def test_the_next_version_is_the_highest_plus_one(tmp_path):
    for version in ("2", "10"):
        export(tmp_path / f"roses/{version}", content=version.encode())
    assert publish(str(export(tmp_path / "export")), str(tmp_path / "roses")).version == 11


def test_a_number_in_use_by_something_incomplete_is_never_reused(tmp_path):
    (tmp_path / "roses/5").mkdir(parents=True)
    assert publish(str(export(tmp_path / "export")), str(tmp_path / "roses")).version == 6


def test_one_version_under_two_names_is_removed_under_both(tmp_path):
    for version in ("8", "008", "7"):
        export(tmp_path / f"roses/{version}", content=version.encode())
    Disk(str(tmp_path / "roses")).remove(8)
    assert visible(tmp_path / "roses") == ["7"]


def test_after_the_highest_number_nothing_is_pushed(tmp_path):
    export(tmp_path / f"roses/{(1 << 63) - 1}", content=b"1")
    with pytest.raises(UserError, match="no number is higher: give its folder a lower number"):
        publish(str(export(tmp_path / "export")), str(tmp_path / "roses"))
    assert visible(tmp_path / "roses") == [str((1 << 63) - 1)]


def test_the_same_model_again_adds_no_version(tmp_path):
    source, base = export(tmp_path / "export"), tmp_path / "roses"
    publish(str(source), str(base))
    assert publish(str(source), str(base)) == Published(1, str(base / "1"), new=False)
    assert os.listdir(base) == ["1"]


@pytest.mark.parametrize("change", ["a byte", "a name", "a file more"])
def test_any_change_is_a_new_version(tmp_path, change):
    source, base = export(tmp_path / "export"), tmp_path / "roses"
    publish(str(source), str(base))
    if change == "a byte":
        (source / "variables/0").write_bytes(b"Weights")
    elif change == "a name":
        (source / "variables/0").rename(source / "variables/zero")
    else:
        (source / "variables/more").write_bytes(b"")
    assert publish(str(source), str(base)).version == 2


def test_an_older_model_is_pushed_again_as_the_highest(tmp_path):
    old, new, base = export(tmp_path / "old", b"old"), export(tmp_path / "new", b"new"), str(tmp_path / "roses")
    publish(str(old), base)
    publish(str(new), base)
    assert publish(str(old), base) == Published(3, f"{base}/3", new=True)


def test_bytes_moved_from_one_file_to_the_next_change_the_digest(tmp_path):
    one, other = export(tmp_path / "one", files=0), export(tmp_path / "other", files=0)
    (one / "variables/a").write_bytes(b"xy")
    (one / "variables/b").write_bytes(b"")
    (other / "variables/a").write_bytes(b"x")
    (other / "variables/b").write_bytes(b"y")
    assert content_digest(str(one)) != content_digest(str(other))


def test_a_pushed_version_is_readable_by_other_users_as_the_umask_allows(tmp_path):
    before = os.umask(0o022)
    try:
        pushed = publish(str(export(tmp_path / "export")), str(tmp_path / "roses"))
    finally:
        os.umask(before)
    assert os.stat(pushed.path).st_mode & 0o777 == 0o755


def test_only_the_newest_versions_are_kept_and_what_has_a_label(tmp_path):
    base = str(tmp_path / "roses")
    for number in range(4):
        publish(str(export(tmp_path / f"export{number}", str(number).encode())), base, keep=1)
    # The newest is canary, and the one that was served before it is stable.
    assert visible(tmp_path / "roses") == ["3", "4"] == sorted(os.listdir(base))


def test_keeping_less_than_one_version_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep=0: at least the newest version is kept"):
        publish(str(export(tmp_path / "export")), str(tmp_path / "roses"), keep=0)


def test_a_folder_that_is_no_saved_model_is_refused_and_nothing_is_made(tmp_path):
    (tmp_path / "export").mkdir()
    with pytest.raises(UserError) as caught:
        publish(str(tmp_path / "export"), str(tmp_path / "roses"))
    assert str(caught.value) == (
        f"nothing to push: {tmp_path}/export holds no saved_model.pb; name the folder of a SavedModel"
    )
    assert not (tmp_path / "roses").exists()


def test_a_file_that_cannot_be_read_leaves_nothing_behind(tmp_path):
    source = export(tmp_path / "export")
    (source / "variables/broken").symlink_to(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        publish(str(source), str(tmp_path / "roses"))
    assert not (tmp_path / "roses").exists()


def test_a_killed_push_shows_no_version_and_the_next_one_cleans_up(tmp_path):
    source, base = export(tmp_path / "export", os.urandom(4 << 20), files=30), tmp_path / "roses"
    pusher = subprocess.Popen([sys.executable, "-c", PUSH, str(source), str(base)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not any(base.glob(".push-*/variables/5")):  # until it is copying
        assert pusher.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    pusher.send_signal(signal.SIGKILL)
    pusher.wait()
    assert visible(base) == []
    assert any(base.glob(".push-*"))
    assert publish(str(source), str(base)).version == 1
    assert os.listdir(base) == ["1"]


def test_a_reader_never_sees_a_version_in_part(tmp_path):
    base = tmp_path / "roses"
    base.mkdir()
    sources = [export(tmp_path / f"export{number}", bytes([number]) * 50_000, files=20) for number in range(8)]
    whole = [content_digest(str(source)) for source in sources]
    seen: set[int] = set()
    torn: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            for version in set(map(int, visible(base))) - seen:
                if content_digest(str(base / str(version))) != whole[version - 1]:
                    torn.append(version)
                seen.add(version)

    reader = threading.Thread(target=read)
    reader.start()
    for source in sources:
        publish(str(source), str(base))
        time.sleep(0.02)
    done.set()
    reader.join()
    assert not torn
    assert len(seen) >= 6  # the reader did look while versions were added


def test_pushers_at_once_take_turns(tmp_path):
    base = tmp_path / "roses"
    sources = [export(tmp_path / f"export{number}", bytes([number]) * 1_000_000) for number in range(4)]
    pushers = [
        subprocess.Popen([sys.executable, "-c", PUSH, str(source), str(base)], stdout=subprocess.PIPE)
        for source in sources
    ]
    answers = [int(pusher.communicate(timeout=60)[0]) for pusher in pushers]
    assert sorted(answers) == [1, 2, 3, 4]
    for source, version in zip(sources, answers, strict=True):
        assert content_digest(str(source)) == content_digest(str(base / str(version)))
    assert sorted(scan_versions(str(base))) == [1, 2, 3, 4]


def test_pushers_of_the_same_model_at_once_add_one_version(tmp_path):
    source, base = export(tmp_path / "export", b"x" * 1_000_000), tmp_path / "roses"
    pushers = [
        subprocess.Popen([sys.executable, "-c", PUSH, str(source), str(base)], stdout=subprocess.DEVNULL)
        for _ in range(3)
    ]
    assert [pusher.wait(timeout=60) for pusher in pushers] == [0, 0, 0]
    assert os.listdir(base) == ["1"]
