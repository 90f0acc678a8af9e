"""The C library's knobs: set in a process of its own, because they stay set."""

import subprocess
import sys

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
