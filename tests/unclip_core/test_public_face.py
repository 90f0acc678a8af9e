"""`unclip_core.load` and what it gives: a Stack, each stage by itself, the same pictures as the saved graph."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from comfyui_unclip import unclip_core
from comfyui_unclip.workflows import run


def as_saved(image):
    """An IMAGE as SaveImage writes it: 8 bits, cut off."""
    return (255.0 * image).clamp(0, 255).to(torch.uint8).numpy()


def test_text_to_image_is_the_saved_graph(tiny_stack, repository, tmp_path):
    caption, seed = "a red star on the night sky", 6
    picture = unclip_core.load(tiny_stack).text_to_image(caption, seed=seed)
    assert picture.shape == (1, 1024, 1024, 3) and picture.dtype == torch.float32
    settings = {"model": tiny_stack, "prompt": caption, "seed": seed}
    (file,) = run(repository / "workflows" / "text_to_image.json", settings, output=tmp_path).files
    assert (np.asarray(Image.open(file)) == as_saved(picture[0])).all()


def test_several_captions_are_a_batch_with_a_seed_each(tiny_stack):
    stack = unclip_core.load(tiny_stack, dtype="fp32", device="cpu")
    captions = ["a red star", "a blue boat"]
    batch = stack.text_to_image(captions, seed=6)
    alone = [stack.text_to_image(caption, seed=6 + item) for item, caption in enumerate(captions)]
    assert torch.allclose(batch, torch.cat(alone), atol=1e-4)


def test_each_stage_by_itself_gives_the_same_picture(tiny_stack):
    stack = unclip_core.load(tiny_stack, dtype="fp32", device="cpu")
    text = stack.clip.encode_text(["a blue boat in the sea"])
    small = stack.decoder.sample(stack.prior.sample(text, seed=3), text, seed=3)
    large = stack.upsampler_1024.sample(stack.upsampler_256.sample(small, seed=3), seed=3)
    assert torch.equal(large, stack.text_to_image("a blue boat in the sea", seed=3))
    *_, last = stack.prior.sample_steps(text, seed=3)
    assert (last.index + 1, last.total) == (3, 3)


def test_models_are_listed_and_an_unknown_one_is_refused_with_their_names(tiny_stack):
    assert tiny_stack in unclip_core.list_models() and "storybook" in unclip_core.list_models()
    with pytest.raises(ValueError, match=r"nosuch.*storybook"):
        unclip_core.load("nosuch")


def test_importing_it_loads_no_torch():
    program = (
        "import sys\n"
        "from comfyui_unclip import unclip_core\n"
        "names = unclip_core.list_models()\n"
        "print('storybook' in names, sorted({'torch', 'numpy', 'open_clip'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True []"


def test_a_stack_at_the_prompt_is_a_line_and_names_what_it_has():
    shown = repr(unclip_core.load("storybook"))
    assert len(shown) < 200 and "storybook" in shown and "upsampler_1024" in shown and "ar_prior" in shown
