"""Karlo side by side with diffusers: run by hand, not by CI.

    python tests/benchmarks/karlo.py --write /data/karlo-v1-alpha     # once: random weights of full size, 6.8 GB
    python tests/benchmarks/karlo.py /data/karlo-v1-alpha             # three steps a turn, Markdown
    python tests/benchmarks/karlo.py /data/karlo-v1-alpha --complete  # every step of a picture
    python tests/benchmarks/karlo.py /data/karlo-v1-alpha --sides diffusers ours      # see sides.py
    python tests/benchmarks/karlo.py /data/karlo-v1-alpha --stages prior --batch 4    # holds that stage alone
    OMP_NUM_THREADS=1 python tests/benchmarks/karlo.py /data/karlo-v1-alpha --cpu-time  # beside other work

Each side is a process with a picture's networks, and they take turns stage by stage. Floor: the stage's operations, as
diffusers computes it, over the best rate measured in the run.
"""

from __future__ import annotations

import argparse
from collections.abc import Generator
from pathlib import Path
from statistics import median

import sides
from kernels import rates
from sides import Side

CAPTION = "a red star on a night sky"
STAGES = {"prior": 25, "decoder": 25, "super_res": 7}  # steps of a picture
# What diffusers needs for a stage, besides its text encoder.
NETWORKS = {
    "prior": ("prior",),
    "decoder": ("decoder", "text_proj"),
    "super_res": ("super_res_first", "super_res_last"),
}
# Operations of one step with guidance, batch 1, as diffusers computes it.
GFLOP = {"prior": 328.8, "decoder": 1216.6, "super_res": 8497.4}
GUIDANCE = {"prior": 4.0, "decoder": 8.0}


class Ours:
    """Our stages, as `unclip run` drives them."""

    def __init__(self, options: argparse.Namespace) -> None:
        from comfyui_unclip.unclip_core.checkpoints.catalog import find

        self.stack = sides.own_stack(find(options.folder.name, [options.folder.parent]), options)

    def text(self) -> None:
        """The caption's encoding, and the empty one's."""
        self.encoded = self.stack.clip.encode_text(CAPTION)

    def units(self, piece: str, batch: int) -> Generator[object]:
        """Steps of a stage."""
        import torch

        from comfyui_unclip.unclip_core.types import Embedding

        if piece == "text":
            yield self.text()
        elif piece == "prior":
            yield from self.stack.prior.sample_steps(self.encoded, candidates=1, count=batch)
        elif piece == "decoder":
            embed = Embedding(torch.zeros(batch, 768), self.encoded.clip_id)
            yield from self.stack.decoder.sample_steps(embed, self.encoded)
        else:
            yield from self.stack.upsampler_256.sample_steps(torch.rand(batch, 64, 64, 3))


class Diffusers:
    """The networks and schedulers of diffusers' UnCLIPPipeline, driven step by step."""

    def __init__(self, options: argparse.Namespace) -> None:
        import torch
        from diffusers import PriorTransformer, UnCLIPScheduler, UNet2DConditionModel, UNet2DModel
        from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
        from transformers import CLIPTextModelWithProjection

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = sides.dtype_of(options)
        kinds = {
            "prior": PriorTransformer,
            "decoder": UNet2DConditionModel,
            "text_proj": UnCLIPTextProjModel,
            "super_res_first": UNet2DModel,
            "super_res_last": UNet2DModel,
            "text_encoder": CLIPTextModelWithProjection,
        }
        self.networks = {}
        for name in ("text_encoder", *(name for stage in options.stages for name in NETWORKS[stage])):
            network = kinds[name].from_pretrained(options.folder / name, torch_dtype=self.dtype).to(self.device).eval()
            if name not in ("text_encoder", "text_proj"):
                sides.tune(network, options, maps=name != "prior")
            self.networks[name] = network
        self.schedulers = {
            stage: UnCLIPScheduler.from_pretrained(options.folder / f"{stage}_scheduler") for stage in STAGES
        }

    def text(self) -> None:
        import torch

        ids = torch.full((1, 77), 49407, device=self.device)
        ids[0, :9] = torch.tensor([49406, 320, 736, 2509, 525, 320, 930, 2390, 49407], device=self.device)
        # The empty caption is a call of its own, as in the pipeline.
        found = []
        for tokens in (torch.full_like(ids, 49407).index_fill_(1, ids.new_tensor([0]), 49406), ids):
            output = self.networks["text_encoder"](tokens)
            found.append((output.text_embeds, output.last_hidden_state))
        self.embeds, self.states = (torch.cat(pair) for pair in zip(*found, strict=True))
        self.mask = torch.arange(77, device=self.device)[None] < torch.tensor([[2], [9]], device=self.device)

    def units(self, piece: str, batch: int) -> Generator[object]:
        """Steps of a stage."""
        if piece == "text":
            yield self.text()
            return
        scheduler = self.schedulers[piece]
        scheduler.set_timesteps(STAGES[piece], device=self.device)
        shape, predict = getattr(self, f"_{piece}")(batch)
        latents = self._noise(shape)
        times = scheduler.timesteps
        for index, t in enumerate(times):
            previous = times[index + 1] if index + 1 < len(times) else None
            output = predict(latents, t, index)
            latents = scheduler.step(output, t, latents, prev_timestep=previous).prev_sample
            yield latents

    def _noise(self, shape: tuple[int, ...]):
        import torch

        return torch.randn(shape, device=self.device).to(self.dtype)

    def _rows(self, tensor, batch: int):
        return tensor.repeat_interleave(batch, dim=0)

    def _prior(self, batch: int):
        import torch

        embeds, states, mask = (self._rows(x, batch) for x in (self.embeds, self.states, self.mask))

        def predict(latents, t, index):
            output = self.networks["prior"](
                torch.cat([latents] * 2), t, proj_embedding=embeds, encoder_hidden_states=states, attention_mask=mask
            ).predicted_image_embedding
            null, text = output.chunk(2)
            return null + GUIDANCE["prior"] * (text - null)

        return (batch, 768), predict

    def _decoder(self, batch: int):
        import torch

        states, added = self.networks["text_proj"](
            image_embeddings=self._noise((batch, 768)),
            prompt_embeds=self._rows(self.embeds, batch),
            text_encoder_hidden_states=self._rows(self.states, batch),
            do_classifier_free_guidance=True,
        )
        mask = torch.nn.functional.pad(self._rows(self.mask, batch), (4, 0), value=True)

        def predict(latents, t, index):
            output = self.networks["decoder"](
                torch.cat([latents] * 2), t, encoder_hidden_states=states, class_labels=added, attention_mask=mask
            ).sample
            null, text = output.chunk(2)
            text, variance = text.chunk(2, dim=1)
            null = null[:, :3]
            return torch.cat([null + GUIDANCE["decoder"] * (text - null), variance], dim=1)

        return (batch, 3, 64, 64), predict

    def _super_res(self, batch: int):
        import torch

        large = self._noise((batch, 3, 256, 256))

        def predict(latents, t, index):
            last = index + 1 == STAGES["super_res"]
            network = self.networks["super_res_last" if last else "super_res_first"]
            return network(torch.cat([latents, large], dim=1), t).sample

        return (batch, 3, 256, 256), predict


def measure(found: list[Side], options: argparse.Namespace) -> float:
    """Fill the sides' times, taking turns, and return the best rate."""
    for side in found:
        side.work("text", 1)
    for stage, whole in STAGES.items():
        if stage not in options.stages:
            continue
        for side in found:  # the first step reads the weights
            side.work(stage, 1)
            side.times[f"{stage} first"] = side.times.pop(stage)
            if stage == "decoder":
                earlier = side.times.get("prior", [0.0])
                side.times["to decoder"] = [side.busy + (STAGES["prior"] - 1 - len(earlier)) * median(earlier)]
            if options.complete:
                side.work(stage, whole)
        if not options.complete:
            sides.in_turns(found, stage, options.steps)
    return next(side for side in found if sides.is_ours(side.name)).ask("rate")


def table(found: list[Side], rate: float, options: argparse.Namespace) -> str:
    """Markdown."""
    stages = [stage for stage in STAGES if stage in options.stages]
    steps = {side.name: {stage: median(side.times[stage]) for stage in stages} for side in found}
    floors = {stage: GFLOP[stage] * options.batch / rate for stage in stages}
    names = {stage: f"{stage} x {STAGES[stage]}, a step" for stage in stages}
    whole = {"process start and load, s": [side.started for side in found]}
    if "decoder" in stages:
        whole["start to first decoder step, s"] = [side.times["to decoder"][0] for side in found]
    whole["all steps, s"] = [
        sum(side.times["text"])
        + sum(sum(side.times[s]) if options.complete else STAGES[s] * steps[side.name][s] for s in stages)
        for side in found
    ]
    whole["peak memory, GB"] = [side.peak for side in found]
    lines = [[name, *(f"{value:.2f}" for value in values)] for name, values in whole.items()]
    head = f"best rate {rate:.0f} GFLOP/s, {options.dtype}, batch {options.batch}"
    sums = sides.markdown(["", *(side.name for side in found)], lines)
    return "\n\n".join([head, sides.tables(steps, names, floors), sums])


def write_folder(path: Path) -> None:
    """Random weights of full size, with the writer that the tests use."""
    from comfyui_unclip.tests.unclip_core.checkpoints.karlo_folder import write_full_folder

    write_full_folder(path)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a Karlo folder in diffusers' layout")
    parser.add_argument("--write", action="store_true", help="write such a folder with random weights, and stop")
    parser.add_argument("--stages", nargs="+", choices=tuple(STAGES), default=tuple(STAGES), help="only these")
    parser.add_argument("--complete", action="store_true", help="every step of a picture")
    sides.add_options(parser)
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    if options.write:
        return write_folder(options.folder)
    if options.serve:
        return sides.serve(lambda: Ours(options) if sides.is_ours(options.serve) else Diffusers(options), options)
    sides.settle(options)
    print(rates(), flush=True)  # before the sides are there: they keep the processor busy
    found = [Side.start(name, options) for name in options.sides]
    try:
        print(table(found, measure(found, options), options))
    finally:
        for side in found:
            side.close()


if __name__ == "__main__":
    main()
