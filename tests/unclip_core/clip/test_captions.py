"""The text half of a CLIP without open_clip, against open_clip's."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from comfyui_unclip.unclip_core.checkpoints.caption_tower import has_caption_tower
from comfyui_unclip.unclip_core.checkpoints.catalog import EMBEDDED, read_stack
from comfyui_unclip.unclip_core.clip.networks import text_states
from comfyui_unclip.unclip_core.stack import load_stack

ROOT = Path(__file__).parents[3]
CAPTIONS = ["a big red apple on a night sky", "", "a star above a boat, with the word hello on it"]

PROGRAM = """
import sys
from comfyui_unclip.unclip_core.checkpoints.catalog import EMBEDDED, read_stack
from comfyui_unclip.unclip_core.stack import load_stack
stack = load_stack(read_stack(EMBEDDED / "storybook"), "bf16", "cpu")
text = stack.clip.encode_text(["a red star"])
picture = stack.decoder.sample(stack.prior.sample(text, steps=1), text, steps=1)
picture = stack.upsampler_1024.sample(stack.upsampler_256.sample(picture))
# torch._dynamo and sympy: PyTorch's compiler, which is more than a second's import.
slow = {"open_clip", "timm", "torchvision", "transformers", "scipy", "PIL", "torch._dynamo", "sympy"}
print(tuple(picture.shape), sorted(slow & set(sys.modules)))
"""


def test_captions_are_encoded_as_open_clip_does():
    clip = load_stack(read_stack(EMBEDDED / "storybook"), "fp32", "cpu").clip
    text = clip.encode_text(CAPTIONS)
    assert not clip.placed.loaded
    with torch.no_grad():
        tokens, embed = text_states(clip.network, text.ids)
    assert torch.allclose(text.tokens, tokens, atol=2e-5)
    assert torch.allclose(text.embed, torch.nn.functional.normalize(embed, dim=-1), atol=1e-6)


def test_new_words_are_read_by_it_too():
    clip = load_stack(read_stack(EMBEDDED / "storybook"), "fp32", "cpu").clip
    row = clip.network.token_embedding.weight[clip.tokenize(["apple"])[0][0, 1]].detach()
    knows = clip.with_words({"sks_apple": row})
    one, other = knows.encode_text(["a red sks_apple"]), clip.encode_text(["a red apple"])
    assert torch.allclose(one.embed, other.embed, atol=1e-5)
    assert not torch.allclose(one.embed, clip.encode_text(["a red boat"]).embed, atol=1e-2)


def test_a_picture_takes_no_slow_imports():
    environment = os.environ | {"PYTHONPATH": str(ROOT.parent)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300, env=environment)
    assert done.stdout.strip() == "(1, 1024, 1024, 3) []", done.stderr[-2000:]


def test_which_clips_have_such_a_half(tiny_models):
    assert has_caption_tower(read_stack(EMBEDDED / "storybook").stages["clip"])
    assert has_caption_tower(read_stack(tiny_models / "tiny").stages["clip"])
