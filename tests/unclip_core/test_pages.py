"""The C library's knobs: set in a process of its own, because they stay set."""

import subprocess
import sys

import pytest

from comfyui_unclip.unclip_core import pages

PROGRAM = """
import platform, sys
from comfyui_unclip.unclip_core.pages import give_back_pages, keep_pages

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

glibc = platform.libc_ver()[0] == "glibc"
assert keep_pages() is glibc
small, large = [], []
for number in range(30):  # the small ones hold the heap's end, so that it cannot just be cut
    large.append(bytearray(b"x" * 5_000_000))
    small.append(bytearray(b"x" * 100_000))
large.clear()
if glibc:
    kept = resident()
    assert give_back_pages()
    assert resident() < kept - 100_000_000
assert all(block == b"x" * 100_000 for block in small)
assert "torch" not in sys.modules
sys.platform = "win32"
assert keep_pages() is give_back_pages() is False
print("done")
"""


def test_only_glibc_has_the_knobs_and_memory_still_works():
    answer = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert answer.stdout.strip() == "done", answer.stderr


GROUPS = {
    "second version": (
        "0::/work/job\n",
        {
            "memory.max": None,  # the root group has no limit
            "work/memory.max": "9000000\n",
            "work/memory.current": "8000000\n",
            "work/memory.stat": "anon 1\nactive_file 1500000\ninactive_file 500000\n",
            "work/job/memory.max": "max\n",
        },
        3_000_000,
    ),
    "first version, whose group is the root of what a container sees": (
        "11:cpu:/docker/af\n4:memory,pids:/docker/af\n0::/\n",
        {
            "memory/memory.limit_in_bytes": "6000000",
            "memory/memory.usage_in_bytes": "5000000",
            "memory/memory.stat": "active_file 9\ntotal_active_file 100\ntotal_inactive_file 20\n",
        },
        1_000_120,
    ),
    "fuller than it may be": (
        "0::/\n",
        {"memory.max": "5", "memory.current": "9", "memory.stat": "active_file 1\ninactive_file 1\n"},
        0,
    ),
    "no limit": ("0::/\n", {"memory.max": "max"}, 8_192_000),
    "a limit above what the machine has": (
        "0::/\n",
        {"memory.max": "99000000", "memory.current": "0", "memory.stat": "active_file 0\ninactive_file 0\n"},
        8_192_000,
    ),
    "a limit that cannot be compared": ("0::/\n", {"memory.max": "5"}, 8_192_000),
}


@pytest.mark.parametrize("case", GROUPS)
def test_free_memory_is_that_of_the_container(tmp_path, monkeypatch, case):
    groups, files, free = GROUPS[case]
    for name, text in files.items():
        if text is not None:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
    (tmp_path / "groups").write_text(groups)
    (tmp_path / "meminfo").write_text("MemTotal: 16000 kB\nMemFree: 10 kB\nMemAvailable: 8000 kB\n")
    monkeypatch.setattr(pages, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(pages, "_HIERARCHY", tmp_path)
    monkeypatch.setattr(pages, "_MEMINFO", tmp_path / "meminfo")
    pages._limits.cache_clear()
    try:
        assert pages.available_ram() == free
        monkeypatch.setattr(pages, "_MEMINFO", tmp_path / "none")
        assert pages.available_ram() is None
    finally:
        pages._limits.cache_clear()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says it")
def test_free_memory_is_some():
    assert 2**20 < pages.available_ram() < 2**50
