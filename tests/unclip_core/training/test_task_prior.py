"""Training the prior: several noises for a caption cost one prefix and teach what single ones would."""

import dataclasses
import random

import torch

from comfyui_unclip.unclip_core.training.recipes import Recipe
from comfyui_unclip.unclip_core.training.task_prior import PriorTask


def test_draws_of_one_caption_are_as_many_rows(tiny_configs, tiny_clip, story, randomise):
    vectors = torch.nn.functional.normalize(torch.randn(64, 24, generator=torch.Generator().manual_seed(0)), dim=-1)
    recipe = Recipe(steps=1, batch=6, lr=1e-3, draws=3, prior_drop=0.5)
    task = PriorTask(tiny_configs.prior, story, tiny_clip, vectors, recipe)
    network = randomise(task.build())
    batch = task.prepare(task.batch(list(range(6)), random.Random(0), torch.Generator().manual_seed(0)))
    assert batch["noise"].shape == (18, 24) and batch["t"].shape == (18,) and batch["drop"].any()
    loss, _ = task.loss(network, batch)

    text, drop = batch["text"], batch["drop"]
    single = PriorTask(tiny_configs.prior, story, tiny_clip, vectors, dataclasses.replace(recipe, draws=1))
    losses = []
    for draw in range(3):
        parts = {"noise": batch["noise"][draw::3], "t": batch["t"][draw::3]}
        losses.append(float(single.loss(network, {**batch, **parts})[0]))
    assert abs(float(loss) - sum(losses) / 3) < 1e-5

    # What a draw costs is what the whole network says of it, padding and all.
    null = network.null_text(6)
    tokens, embed, mask = (
        torch.where(drop.view(6, *[1] * (own.ndim - 1)), none, own)
        for none, own in zip(null, (text.tokens, text.embed, text.mask), strict=True)
    )
    x_0, noise, t = network.scale(batch["z"]), batch["noise"][::3], batch["t"][::3]
    output = network(task.schedule.add_noise(x_0, t, noise), t, tokens, embed, mask)
    assert abs(float((output - x_0).square().mean()) - losses[0]) < 1e-5
