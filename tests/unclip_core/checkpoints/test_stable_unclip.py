"""Stable unCLIP's folders and single files: known by what is in them, every tensor in its place, errors that help."""

import json

import pytest
import torch
from diffusers.loaders import single_file_utils

from comfyui_unclip.tests import family_stable
from comfyui_unclip.tests.stable_unclip_single import write_single
from comfyui_unclip.unclip_core.checkpoints import catalog
from comfyui_unclip.unclip_core.checkpoints.catalog import read_stack
from comfyui_unclip.unclip_core.checkpoints.loading import load_network
from comfyui_unclip.unclip_core.checkpoints.verify import verify_stack
