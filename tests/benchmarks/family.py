"""Kandinsky 2.2 at 512 px side by side with diffusers: run by hand, not by CI.

    python tests/benchmarks/family.py --write /data/models     # once: random weights of full size, bf16, 9.8 GB
    python tests/benchmarks/family.py /data/models             # prior, decoder, MoVQ, then memory; Markdown
    python tests/benchmarks/family.py /data/models --pieces decoder --steps 2   # holds what that piece needs alone
    python tests/benchmarks/family.py /data/models --sides diffusers ours       # see sides.py
    python tests/benchmarks/family.py --write /tmp/small --small    # reduced width: whether it works

prior: a whole call, prefix and 25 steps, by the median of `--steps` calls. decoder: a step, by the median of `--steps`.
movq: one decode of a picture, by the median too. Each side is a process with its networks, and they take turns piece by
piece; all get random conditions of the same shapes. memory: the peaks of two whole commands, text to picture, two steps
a stage: `unclip run`, and a process with both of diffusers' pipelines. Floor: the piece's operations, as diffusers
computes it, over the best rate measured in the run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from statistics import median

import sides
from kernels import rates
from sides import Side

PIECES = ("prior", "decoder", "movq", "memory")
PRIOR, DECODER, STACK = "kandinsky-2-2-prior", "kandinsky-2-2-decoder", "kandinsky-2-2"
PRIOR_STEPS, PRIOR_GUIDANCE, DECODER_STEPS, DECODER_GUIDANCE = 25, 4.0, 50, 4.0
TOKENS = 77
CAPTION = "a red star on a night sky"
CAPTION_LENGTH = 9  # its tokens, start and end included; the empty caption has 2
UNITS = {"prior": "a call", "decoder": "a step", "movq": "a picture"}
CHECKOUT = Path(__file__).parents[2]


class Ours:
    """Our stages, as `unclip run` drives them."""

    def __init__(self, options: argparse.Namespace) -> None:
        from comfyui_unclip.unclip_core.checkpoints.catalog import find

        self.stack = sides.own_stack(find(STACK, [options.folder]), options)
        self.side = options.side

    def units(self, piece: str, batch: int) -> Generator[object]:
        """Calls of the prior, steps of the decoder, decodes of MoVQ."""
        if piece == "decoder":
            yield from self._decode(batch)
        while True:
            yield self._prior(batch) if piece == "prior" else self._movq(batch)

    def _prior(self, batch: int) -> None:
        import torch

        from comfyui_unclip.unclip_core.types import TextEncoding

        handle = self.stack.prior
        config = handle.config
        generator = torch.Generator().manual_seed(0)

        def encoded(length: int) -> TextEncoding:
            states = torch.randn(1, TOKENS, config.text_width, generator=generator)
            embed = torch.randn(1, config.clip_dim, generator=generator)
            mask = torch.arange(TOKENS)[None] < length
            return TextEncoding(states, embed, mask, torch.zeros(1, TOKENS).long(), config.clip_id, ("",))

        handle.sample(
            encoded(CAPTION_LENGTH),
            negative_text=encoded(2),
            steps=PRIOR_STEPS,
            guidance_scale=PRIOR_GUIDANCE,
            candidates=1,
            count=batch,
        )

    def _decode(self, batch: int):
        import torch

        from comfyui_unclip.unclip_core.types import Embedding

        handle = self.stack.decoder
        config = handle.config
        embed, null = (Embedding(torch.randn(batch, config.clip_dim), config.clip_id) for _ in range(2))
        return handle.sample_steps(
            embed,
            negative_embed=null,
            steps=DECODER_STEPS,
            guidance_scale=DECODER_GUIDANCE,
            width=self.side,
            height=self.side,
        )

    def _movq(self, batch: int) -> None:
        import torch

        from comfyui_unclip.unclip_core.stages.grid import resolve_grid

        handle = self.stack.decoder
        grid = resolve_grid("benchmark", handle.config, handle.autoencoder, self.side, self.side, None, print)
        with torch.no_grad():
            grid.decode(torch.randn(batch, *grid.shape))


class Diffusers:
    """The networks and schedulers of diffusers' Kandinsky 2.2 pipelines, driven step by step."""

    def __init__(self, options: argparse.Namespace) -> None:
        import torch
        from diffusers import DDPMScheduler, PriorTransformer, UnCLIPScheduler, UNet2DConditionModel, VQModel

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = sides.dtype_of(options)
        self.batch = options.batch
        kinds = {
            "prior": (PriorTransformer, PRIOR, "prior"),
            "decoder": (UNet2DConditionModel, DECODER, "unet"),
            "movq": (VQModel, DECODER, "movq"),
        }
        self.networks = {}
        for piece in kinds.keys() & set(options.pieces):
            kind, folder, name = kinds[piece]
            network = kind.from_pretrained(options.folder / folder / name, torch_dtype=self.dtype)
            network.to(self.device).eval()
            sides.tune(network, options, maps=piece != "prior")
            self.networks[piece] = network
        self.prior_scheduler = UnCLIPScheduler.from_pretrained(options.folder / PRIOR / "scheduler")
        self.decoder_scheduler = DDPMScheduler.from_pretrained(options.folder / DECODER / "scheduler")
        self.latent = options.side // 8

    def units(self, piece: str, batch: int) -> Generator[object]:
        """Calls of the prior, steps of the decoder, decodes of MoVQ."""
        if piece == "decoder":
            yield from self._decode()
        while True:
            yield self._prior() if piece == "prior" else self._movq()

    def _noise(self, *shape: int):
        import torch

        return torch.randn(shape, device=self.device).to(self.dtype)

    def _prior(self) -> None:
        import torch

        network, scheduler = self.networks["prior"], self.prior_scheduler
        dim = network.config.embedding_dim
        embeds, states = self._noise(2 * self.batch, dim), self._noise(2 * self.batch, TOKENS, dim)
        lengths = torch.tensor([2] * self.batch + [CAPTION_LENGTH] * self.batch, device=self.device)
        mask = torch.arange(TOKENS, device=self.device)[None] < lengths[:, None]
        scheduler.set_timesteps(PRIOR_STEPS, device=self.device)
        latents, times = self._noise(self.batch, dim), scheduler.timesteps
        for index, t in enumerate(times):
            output = network(
                torch.cat([latents] * 2),
                timestep=t,
                proj_embedding=embeds,
                encoder_hidden_states=states,
                attention_mask=mask,
            ).predicted_image_embedding
            null, text = output.chunk(2)
            output = null + PRIOR_GUIDANCE * (text - null)
            previous = times[index + 1] if index + 1 < len(times) else None
            latents = scheduler.step(output, timestep=t, sample=latents, prev_timestep=previous).prev_sample
        network.post_process_latents(latents)

    def _decode(self):
        import torch

        network, scheduler = self.networks["decoder"], self.decoder_scheduler
        scheduler.set_timesteps(DECODER_STEPS, device=self.device)
        added = {"image_embeds": self._noise(2 * self.batch, network.config.encoder_hid_dim)}
        latents = self._noise(self.batch, 4, self.latent, self.latent)
        for t in scheduler.timesteps:
            output = network(
                sample=torch.cat([latents] * 2),
                timestep=t,
                encoder_hidden_states=None,
                added_cond_kwargs=added,
                return_dict=False,
            )[0]
            output, variance = output.split(latents.shape[1], dim=1)
            null, conditional = output.chunk(2)
            output = torch.cat([null + DECODER_GUIDANCE * (conditional - null), variance.chunk(2)[1]], dim=1)
            latents = scheduler.step(output, t, latents)[0]
            yield latents

    def _movq(self) -> None:
        self.networks["movq"].decode(self._noise(self.batch, 4, self.latent, self.latent), force_not_quantize=True)

    def gflop(self) -> dict[str, float]:
        """Operations of each piece, counted on networks without weights."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        counts = {}
        for piece, network in self.networks.items():
            shadow = Diffusers.__new__(Diffusers)
            shadow.__dict__.update(vars(self), device=torch.device("meta"), dtype=torch.float32)
            with torch.device("meta"):
                empty = type(network).from_config(network.config).eval()
            shadow.networks = {piece: empty}
            with FlopCounterMode(display=False) as counter:
                if piece == "prior":  # the loop's numbers are on the CPU: one forward, as often as there are steps
                    dim = empty.config.embedding_dim
                    rows = shadow._noise(2 * self.batch, dim)
                    empty(rows, 0, rows, shadow._noise(2 * self.batch, TOKENS, dim))
                elif piece == "decoder":
                    added = {"image_embeds": shadow._noise(2 * self.batch, empty.config.encoder_hid_dim)}
                    x = shadow._noise(2 * self.batch, 4, self.latent, self.latent)
                    empty(x, 0, encoder_hidden_states=None, added_cond_kwargs=added)
                else:
                    shadow._movq()
            counts[piece] = counter.get_total_flops() * (PRIOR_STEPS if piece == "prior" else 1) / 1e9
        return counts


def measure(options: argparse.Namespace) -> str:
    """The pieces that are timed, as Markdown."""
    pieces = [piece for piece in options.pieces if piece != "memory"]
    found = {name: Side.start(name, options) for name in options.sides}
    try:
        for piece in pieces:
            for side in found.values():
                side.ask("units", piece=piece, count=1)  # reads and packs the weights, compiles
            sides.in_turns(tuple(found.values()), piece, options.steps)
        theirs, ours = (next(s for s in found if sides.is_ours(s) is mine) for mine in (False, True))
        counts, rate = found[theirs].ask("gflop"), found[ours].ask("rate")
    finally:
        for side in found.values():
            side.close()
    seconds = {name: {piece: median(side.times[piece]) for piece in pieces} for name, side in found.items()}
    rows = {piece: f"{piece}, {UNITS[piece]}" for piece in pieces}
    peaks = sides.markdown(
        ["", *found], [["peak of this process, GB", *(f"{side.peak:.2f}" for side in found.values())]]
    )
    head = f"best rate {rate:.0f} GFLOP/s, {options.dtype}, batch {options.batch}, {options.side} px"
    return "\n\n".join([head, sides.tables(seconds, rows, {p: counts[p] / rate for p in pieces}), peaks])


def memory(options: argparse.Namespace) -> str:
    """Largest resident sets of the two whole commands, mapped pages included, as Markdown."""
    graph = CHECKOUT / "workflows" / "text_to_image_kandinsky.json"
    settings = {
        "model.model_name": STACK,
        "model.dtype": options.dtype,
        "prompt": CAPTION,
        "prior.steps": 2,
        "decoder.steps": 2,
        "decoder.width": options.side,
        "decoder.height": options.side,
    }
    command = [sys.executable, "-m", "comfyui_unclip.workflows.cli", "run", str(graph), "-o", str(options.out)]
    for name, value in settings.items():
        command += ["-s", f"{name}={value}"]
    ours = _peak_of(command, {"UNCLIP_MODELS": str(options.folder)})
    theirs = _peak_of([sys.executable, *sys.argv, "--dtype", options.dtype, "--serve", "pipelines"], {})
    return "\n".join(
        [
            "| | diffusers, both pipelines | ours, unclip run | ours / theirs |",
            "|---|---|---|---|",
            f"| peak memory of the whole command | {theirs:.2f} GB | {ours:.2f} GB | {ours / theirs:.2f} |",
        ]
    )


def _peak_of(command: list[str], environment: dict[str, str]) -> float:
    """GB that a command held at once."""
    process = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command[:6])} ... ended with exit code {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def run_pipelines(options: argparse.Namespace) -> None:
    """A picture by diffusers' two pipelines in this process, two steps a stage."""
    import torch
    from diffusers import KandinskyV22Pipeline, KandinskyV22PriorPipeline

    dtype = sides.dtype_of(options)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prior = KandinskyV22PriorPipeline.from_pretrained(options.folder / PRIOR, torch_dtype=dtype, tokenizer=None)
    prior.tokenizer = _Tokens()  # the folder has no words
    decoder = KandinskyV22Pipeline.from_pretrained(options.folder / DECODER, torch_dtype=dtype)
    embeds = prior.to(device)(CAPTION, num_inference_steps=2)
    decoder.to(device)(
        image_embeds=embeds.image_embeds,
        negative_image_embeds=embeds.negative_image_embeds,
        num_inference_steps=2,
        height=options.side,
        width=options.side,
    )


class _Tokens:
    """Ids as CLIP's tokenizer gives them for the caption and for the empty one."""

    model_max_length = TOKENS

    def __call__(self, captions: list[str] | str, **options):
        import torch
        from transformers import BatchEncoding

        captions = [captions] if isinstance(captions, str) else captions
        ids = torch.full((len(captions), TOKENS), 49407)
        lengths = torch.tensor([CAPTION_LENGTH if caption else 2 for caption in captions])
        ids[:, 0] = 49406
        for row, length in enumerate(lengths.tolist()):
            ids[row, 1 : length - 1] = torch.arange(320, 320 + length - 2)
        return BatchEncoding({"input_ids": ids, "attention_mask": (torch.arange(TOKENS) < lengths[:, None]).long()})


def write(folder: Path, small: bool) -> None:
    """Random weights, by the writer that the tests use."""
    import torch

    from comfyui_unclip.tests.family import FULL_2_2, Sizes, kandinsky_2_2

    kandinsky_2_2(folder, Sizes() if small else FULL_2_2, weights="drawn", dtype=torch.bfloat16)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help=f"a model folder with {PRIOR} and {DECODER}")
    parser.add_argument("--write", action="store_true", help="write them with random weights, and stop")
    parser.add_argument("--small", action="store_true", help="with --write: reduced width")
    parser.add_argument("--pieces", nargs="+", choices=PIECES, default=PIECES, help="only these")
    parser.add_argument("--side", type=int, default=512, help="pixels")
    parser.add_argument("--out", type=Path, default=Path("out/benchmark"), help="where `memory` saves its picture")
    sides.add_options(parser)
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    if options.write:
        return write(options.folder, options.small)
    if options.serve == "pipelines":
        return run_pipelines(options)
    if options.serve:
        return sides.serve(lambda: Ours(options) if sides.is_ours(options.serve) else Diffusers(options), options)
    sides.settle(options)
    if set(options.pieces) - {"memory"}:
        print(f"{rates()}\n\n{measure(options)}", flush=True)
    if "memory" in options.pieces:
        print(memory(options))


if __name__ == "__main__":
    main()
