"""The C library's knobs: set in a process of its own, because they stay set."""

import subprocess
import sys

PROGRAM = """
import platform, sys
from comfyui_unclip.unclip_core.allocator import keep_pages
assert keep_pages() is (platform.libc_ver()[0] == "glibc")
big = bytearray(300_000_000)
del big
assert "torch" not in sys.modules
sys.platform = "win32"
assert keep_pages() is False
print("done")
"""


def test_only_glibc_has_the_knobs_and_memory_still_works():
    answer = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert answer.stdout.strip() == "done", answer.stderr
