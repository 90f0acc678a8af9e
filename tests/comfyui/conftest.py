"""Tests in a real ComfyUI are collected only where there is one: $UNCLIP_COMFYUI is the folder of its main.py."""

import os

collect_ignore = [] if os.environ.get("UNCLIP_COMFYUI") else ["test_in_comfyui.py"]
