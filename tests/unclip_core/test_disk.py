"""Files written whole, leftovers of killed processes, locks that die with their process, full disks by name."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from comfyui_unclip.unclip_core import disk
from comfyui_unclip.unclip_core.disk import DiskFull, Taken, only_one, remove_leftovers, temporary_path, whole_file

HOLD = """
import sys, time
from pathlib import Path
from comfyui_unclip.unclip_core.disk import only_one, whole_file
with {what} as found:
    {then}
    print("held", flush=True)
    time.sleep(60)
"""


def started(what, then="pass"):
    """A process inside a with block, there until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(what=what, then=then)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / ("n" * 250 + ".json")  # as long as a name may be: the temporary one is no longer
    with whole_file(path, durable=True) as temporary:
        assert temporary.suffix == ".json" and temporary.name.startswith(".unclip-")
        temporary.write_text("first")
        assert not path.exists()
    for wrong in (KeyboardInterrupt, ValueError):
        with pytest.raises(wrong), whole_file(path) as temporary:
            temporary.write_text("second")
            raise wrong
    assert path.read_text() == "first" and names(path.parent) == [path.name]


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    """The next who writes into the folder clears it; neither the user's own hidden files nor links are touched."""
    where = f'whole_file(Path({str(tmp_path)!r}) / "a.bin")'
    living, killed = (started(where, 'found.write_bytes(b"x")') for _ in range(2))
    (tmp_path / ".unclip-mine.part").write_text("a name like ours, but not ours")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("")
    folder, link = (temporary_path(tmp_path) for _ in range(2))
    gone = f"-{killed.pid}-"
    folder, link = (path.with_name(path.name.replace(f"-{os.getpid()}-", gone)) for path in (folder, link))
    folder.mkdir()
    (folder / "half").write_text("")
    link.symlink_to(tmp_path / "outside", target_is_directory=True)
    killed.kill()
    killed.wait()
    assert len([name for name in names(tmp_path) if gone in name]) == 3
    with whole_file(tmp_path / "next") as temporary:
        left = names(tmp_path)
        assert [name for name in left if f"-{living.pid}-" in name] and not [name for name in left if gone in name]
        temporary.write_text("")
    assert (tmp_path / "outside" / "kept").exists() and (tmp_path / ".unclip-mine.part").exists()
    living.send_signal(signal.SIGINT)
    living.wait()
    assert not list(tmp_path.glob(".unclip-*-*"))


def test_what_another_machine_writes_is_left_alone_for_a_day(tmp_path, monkeypatch):
    here = temporary_path(tmp_path)
    monkeypatch.setattr(disk.socket, "gethostname", lambda: "elsewhere")
    there = temporary_path(tmp_path, ".npy")
    monkeypatch.undo()
    there.write_text("")
    here.write_text("")
    assert remove_leftovers(tmp_path) == []
    old = time.time() - 2 * disk.FOREIGN_AGE
    os.utime(there, (old, old))
    os.utime(here, (old, old))  # however old: this process lives
    assert remove_leftovers(tmp_path) == [there] and here.exists()


def test_a_lock_names_its_owner_and_dies_with_it(tmp_path):
    path = tmp_path / "deep" / "lock"
    process = started(f"only_one(Path({str(path)!r}))")
    with pytest.raises(Taken, match=f"process {process.pid} on "), only_one(path):
        pass
    process.kill()
    process.wait()
    assert path.exists()
    with only_one(path) as hold:
        hold.remove = True
    assert not path.exists()


def test_a_lock_whose_file_goes_is_not_held_twice(tmp_path, monkeypatch):
    """One opens the file, its owner removes it and leaves; the late one must not hold what nobody else can see."""
    path = tmp_path / "lock"
    tried = []

    def late(file):
        if not tried:
            path.unlink()  # its owner leaves just now
        tried.append(os.fstat(file.fileno()).st_ino)
        return True

    monkeypatch.setattr(disk, "lock", late)
    with only_one(path):
        assert len(tried) == 2 and os.stat(path).st_ino == tried[1]


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, caplog):
    fcntl = pytest.importorskip("fcntl")

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with only_one(tmp_path / "lock"):
        assert "cannot be locked (No locks available)" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("[enforce fail at inline_container.cc:668] . unexpected pos 128 vs 22"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),  # safetensors
    ],
    ids=["full", "quota", "torch", "safetensors"],
)
def test_a_full_disk_is_told_with_file_disk_and_sizes(tmp_path, error):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(DiskFull) as found, whole_file(path, size=1_500_000_000):
        raise error
    said = str(found.value)
    assert said.startswith(f"{path} cannot be written (") and "make room and run the same command again" in said
    assert "the disk of /" in said and " free and the file needs 1.5 GB" in said
    assert found.value.errno in disk.FULL and names(tmp_path) == []
    with pytest.raises(PermissionError), whole_file(path):
        raise PermissionError(errno.EACCES, "no")


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no such call")
def test_room_for_a_memory_map_is_taken_before_it_is_written(tmp_path, monkeypatch):
    """A map into a full disk would end the process by a signal."""
    path = tmp_path / "map"
    path.write_bytes(b"")
    disk.reserve(path, 100_000)
    assert path.stat().st_size == 100_000 and path.stat().st_blocks * 512 >= 100_000

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskFull, match=r"needs 2\.0 MB"):
        disk.reserve(path, 2_000_000)


def test_processes_are_told_apart_from_those_that_ended():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert disk.is_alive(os.getpid()) and disk.is_alive(1) and not disk.is_alive(process.pid)
