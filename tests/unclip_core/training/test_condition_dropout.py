"""Which conditions rows lose in training, how often, and that what is dropped is really gone."""

import dataclasses
import random

import pytest
import torch

from comfyui_unclip.unclip_core.training.recipes import STORYBOOK_RECIPES, Recipe
from comfyui_unclip.unclip_core.training.task_decoder import DecoderTask
from comfyui_unclip.unclip_core.training.task_prior import PriorTask
from comfyui_unclip.unclip_core.training.task_upsampler import UpsamplerTask
from comfyui_unclip.unclip_core.training.texts import Texts

RECIPE = Recipe(steps=2, batch=4, lr=1e-3)


@pytest.fixture
def vectors():
    generator = torch.Generator().manual_seed(3)
    return torch.nn.functional.normalize(torch.randn(64, 24, generator=generator), dim=-1)


def batches(task, count=8, rows=128):
    picked = [row % 64 for row in range(rows)]
    return [task.batch(picked, random.Random(i), torch.Generator().manual_seed(i)) for i in range(count)]


def test_the_papers_shares_are_the_defaults():
    for recipe in (RECIPE, *STORYBOOK_RECIPES.values()):
        assert (recipe.embed_drop, recipe.text_drop, recipe.prior_drop, recipe.vlb_weight) == (0.1, 0.5, 0.1, 0.001)


def test_the_decoder_loses_embedding_and_text_independently(tiny_configs, tiny_clip, story, vectors):
    made = batches(DecoderTask(tiny_configs.decoder, story, tiny_clip, vectors, RECIPE))
    embed, text = (torch.cat([batch[name] for batch in made]) for name in ("drop_embed", "drop_text"))
    assert abs(embed.float().mean() - 0.1) < 0.03 and abs(text.float().mean() - 0.5) < 0.05
    assert abs((embed & text).float().mean() - 0.05) < 0.025


def test_a_null_that_is_the_empty_caption_is_encoded_as_such(tiny_configs, tiny_clip, story, vectors):
    config = dataclasses.replace(tiny_configs.decoder, null_text="empty_caption")
    task = DecoderTask(config, story, tiny_clip, vectors, RECIPE)
    made = batches(task, 4)
    assert all(batch["drop_text"] is None for batch in made)
    lengths = torch.cat([batch["tokens"][1].sum(1) for batch in made])  # of "": start and end
    assert abs((lengths == 2).float().mean() - 0.5) < 0.08
    batch = task.prepare(task.batch([0, 1], random.Random(0), torch.Generator()))
    loss, _ = task.loss(task.build(), batch)
    assert loss.isfinite()


def test_the_prior_loses_its_text(tiny_configs, tiny_clip, story, vectors):
    made = batches(PriorTask(tiny_configs.prior, story, tiny_clip, vectors, RECIPE))
    assert abs(torch.cat([batch["drop"] for batch in made]).float().mean() - 0.1) < 0.03


@pytest.mark.parametrize("stage", ["prior", "decoder"])
@pytest.mark.parametrize("null_text", ["learned", "empty_caption"])
def test_a_dropped_condition_has_no_influence(stage, null_text, tiny_configs, tiny_clip, story, vectors, randomise):
    config = dataclasses.replace(getattr(tiny_configs, stage), null_text=null_text)
    losses = {}
    for share in (0.0, 1.0):
        recipe = dataclasses.replace(RECIPE, embed_drop=share, text_drop=share, prior_drop=share)
        made = PriorTask if stage == "prior" else DecoderTask
        task = made(config, story, tiny_clip, vectors, recipe)
        network = randomise(task.build())
        for words in ("a red star", "the blue boat above"):
            task.data = Captioned(story, words)
            batch = task.prepare(task.batch([0, 1, 2], random.Random(0), torch.Generator().manual_seed(0)))
            if stage == "decoder" and words != "a red star":
                batch["z"] = batch["z"].flip(0)
            losses[share, words] = task.loss(network, batch)[0].item()
    assert losses[1.0, "a red star"] == pytest.approx(losses[1.0, "the blue boat above"], rel=1e-6)
    assert abs(losses[0.0, "a red star"] - losses[0.0, "the blue boat above"]) > 1e-4


class Captioned:
    """Data whose captions are all the same."""

    def __init__(self, data, words):
        self.data, self.words = data, words
        self.pictures = data.pictures

    def captions(self, rows, rng):
        return [self.words] * len(rows)


def test_captions_encoded_in_training_are_those_of_inference(tiny_clip):
    texts, captions = Texts(tiny_clip), ["a red star", "", "the blue boat"]
    found, wanted = texts.encode(texts.tokens(captions)), tiny_clip.encode_text(captions)
    for name in ("tokens", "embed", "mask", "ids"):
        assert torch.equal(getattr(found, name), getattr(wanted, name))
    torch.testing.assert_close(texts.null(torch.device("cpu")).embed, wanted.embed[1:2])


def test_mean_and_std_scaling_come_from_the_data(tiny_configs, tiny_clip, story, vectors):
    config = dataclasses.replace(tiny_configs.prior, scaling="mean_std")
    network = PriorTask(config, story, tiny_clip, vectors * 7 + 2, RECIPE).build()
    scaled = network.scale(vectors * 7 + 2)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(24), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(24), atol=1e-4, rtol=0)


def test_an_upsampler_sees_a_spoilt_enlarged_quarter_of_the_picture(tiny_configs, story):
    task = UpsamplerTask("upsampler_256", tiny_configs.upsampler_256, story, RECIPE)
    batch = task.batch([0, 1, 2], random.Random(0), torch.Generator().manual_seed(0))
    assert batch["low"].shape == (3, 3, 16, 16)
    batch = task.prepare(batch)
    assert batch["x_0"].shape == batch["low"].shape == batch["noise"].shape == (3, 3, 64, 64)
    assert batch["level"].shape == (3,) and batch["level"].min() >= 0 and batch["level"].max() <= 1
    error = (batch["low"] - batch["x_0"]).square().mean()
    assert 1e-4 < error < 0.2 * batch["x_0"].var()
    plain = dataclasses.replace(tiny_configs.upsampler_256, augmentation_level=False)
    task = UpsamplerTask("upsampler_256", plain, story, RECIPE)
    batch = task.prepare(task.batch([0], random.Random(0), torch.Generator()))
    assert batch["level"] is None and task.loss(task.build(), batch)[0].isfinite()
