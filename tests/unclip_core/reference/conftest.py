"""A reduced Karlo folder, read by us and by the pipelines of diffusers, that draw the same noise."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from comfyui_unclip.unclip_core.checkpoints.catalog import find
from comfyui_unclip.unclip_core.diffusion.noise import ItemNoise
from comfyui_unclip.unclip_core.stack import Stack, load_stack

SEED = 7
# What diffusers calls a stage, and what our noise streams do.
STAGES = {"prior": "prior", "decoder": "decoder", "super_res": "upsampler_32"}


class Tokenizer:
    """Open_clip's byte pairs behind transformers' interface: padded with the end token, as transformers pads."""

    model_max_length = 77
    END = 49407

    @dataclass
    class Tokens:
        input_ids: Tensor
        attention_mask: Tensor

    def __init__(self, tokenize) -> None:
        self._tokenize = tokenize

    def __call__(self, prompt, **options) -> Tokens:
        ids, mask = self._tokenize([prompt] if isinstance(prompt, str) else list(prompt))
        return self.Tokens(ids.masked_fill(~mask, self.END), mask.long())


@dataclass
class Trajectory:
    """Every x_t of a pipeline's call by stage ("prior", "decoder", "super_res"), and what it returned."""

    steps: dict[str, list[Tensor]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    images: Tensor | None = None


def draws(stages: tuple[str, ...], calls: dict[str, int]) -> Iterator[Tensor]:
    """What our stages draw for one item, in a pipeline's order: each stage's start, then a draw a step but the last."""
    for stage in stages:
        noise = ItemNoise(SEED, 1, STAGES[stage])
        yield from itertools.repeat(noise, calls[stage])


@pytest.fixture
def run_reference(monkeypatch):
    """run_reference(pipeline, steps, **arguments) -> its Trajectory over our noise."""

    def run(pipeline, steps: dict[str, int], **arguments) -> Trajectory:
        from diffusers.pipelines.deprecated.unclip import pipeline_unclip, pipeline_unclip_image_variation
        from diffusers.schedulers import scheduling_unclip

        stages = tuple(stage for stage in STAGES if stage in steps)
        sources = draws(stages, steps)

        def randn(shape, **_) -> Tensor:
            return next(sources).draw(tuple(shape)[1:])

        for module in (pipeline_unclip, pipeline_unclip_image_variation, scheduling_unclip):
            monkeypatch.setattr(module, "randn_tensor", randn)
        trajectory = Trajectory()
        for stage in stages:
            scheduler = getattr(pipeline, f"{stage}_scheduler")
            monkeypatch.setattr(scheduler, "step", _recorded(scheduler.step, trajectory.steps[stage]))
        pipeline.set_progress_bar_config(disable=True)
        counts = {f"{stage}_num_inference_steps": count for stage, count in steps.items()}
        trajectory.images = torch.from_numpy(pipeline(**counts, **arguments, output_type="np").images)
        assert next(sources, None) is None, "it drew less than we do"
        return trajectory

    return run


def _recorded(step, steps: list[Tensor]):
    def recorded(*args, **options):
        result = step(*args, **options)
        steps.append(result.prev_sample)
        return result

    return recorded


@dataclass(frozen=True)
class Both:
    """The folder's networks as diffusers built them, and our handles of the stages."""

    networks: dict[str, torch.nn.Module]
    stages: Stack

    def tokenizer(self) -> Tokenizer:
        """Captions as the pipelines read them."""
        return Tokenizer(self.stages.clip.tokenize)

    def schedulers(self, karlo, **changes) -> dict[str, object]:
        """UnCLIPSchedulers; changes: by name, over the published settings."""
        from diffusers import UnCLIPScheduler

        settings = {name: values | changes.get(name, {}) for name, values in karlo.SCHEDULERS.items()}
        return {name: UnCLIPScheduler(**values) for name, values in settings.items()}


@pytest.fixture(scope="module")
def both(karlo, tmp_path_factory):
    """A folder with every network, read by us.

    The prior's output is made large enough for its clamp to matter. The UNets' is made small: where the cosine schedule
    starts, x_0 = (x_t - eps) / 5e-5, and the last bits of a large eps alone would decide an element of it.
    """
    folder = tmp_path_factory.mktemp("models") / "karlo-v1-alpha"
    networks = karlo.write_karlo_folder(folder, with_image_encoder=True)
    scales = {"prior": 4.0, "decoder": 0.05, "super_res_first": 0.05, "super_res_last": 0.05}
    for name, scale in scales.items():
        network = networks[name]
        with torch.no_grad():
            for parameter in (network.proj_to_clip_embeddings if name == "prior" else network.conv_out).parameters():
                parameter.mul_(scale)
        network.save_pretrained(folder / name)
    return Both(networks, load_stack(find(folder.name, [folder.parent]), "fp32", "cpu"))
