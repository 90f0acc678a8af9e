"""Training steps side by side with plain loops over diffusers' and open_clip's modules: run by hand, not by CI.

    python tests/benchmarks/training.py                          # every stage of the storybook, Markdown
    python tests/benchmarks/training.py --check                  # exit code 1 below 1.3 times the plain loop
    python tests/benchmarks/training.py --tuned                  # against plain loops with every switch turned
    python tests/benchmarks/training.py --stages decoder --dtype fp32 --batch 8 --steps 3
    python tests/benchmarks/training.py --waiting 100            # how long steps wait for data, from 100 large JPEGs
    OMP_NUM_THREADS=1 python tests/benchmarks/training.py --cpu-time    # beside other work

Two processes, ours and the plain loop's, take turns stage by stage, so that both see the same machine. Ours is
`training.loop.train`, as `unclip train` drives it. The plain loop is what one writes with diffusers: a module of equal
shape (its parameters are counted in the table), DDPMScheduler, torch.optim.AdamW, clipped gradients, diffusers'
EMAModel, autocast; for CLIP open_clip's network and its ClipLoss. Both read the same batches, made by the same code, of
pictures that are drawn first, and both encode captions by the same frozen CLIP. A step is all of it, with its data.
Operations are those of the plain network's forward and backward pass; the share is of the best rate in the run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from statistics import median

import sides
from sides import Side

TARGET = 1.3  # times the plain loop's pictures a second
WAITING_TARGET = 0.05  # of a step, from the second epoch on
STAGES = ("clip", "prior", "decoder", "upsampler_256", "upsampler_1024")
PICTURES = 64  # that the stages train on, 1024 px
PHOTO = (4000, 3000)
NEVER = 10**9


class Setting:
    """What both sides share of a stage: its task and recipe, which make the batches."""

    def __init__(self, stage: str, options: argparse.Namespace) -> None:
        import dataclasses

        import torch

        from comfyui_unclip.unclip_core.training.clips import open_clip_of
        from comfyui_unclip.unclip_core.training.plan import SPEAKERS, make_plan
        from comfyui_unclip.unclip_core.training.start import RunOptions, make_task, open_source, rows_for

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        plan = make_plan(options.preset, changes={"steps": NEVER, "validation": 0.0}, stages=STAGES)
        self.recipe = plan.recipe(stage)
        if options.batch:
            self.recipe = dataclasses.replace(self.recipe, batch=options.batch)
        run = RunOptions(stage, options.folder / "run", str(options.folder / "pictures"), options.folder / "cache")
        data = open_source(run, self.recipe)
        clip = open_clip_of(None, plan, (), self.device) if stage in SPEAKERS else None
        self.task = make_task(run, plan, data, self.recipe, clip)
        self.rows = rows_for(stage, plan.config(stage), data)


class Ours:
    """Our loop."""

    def __init__(self, stage: str, options: argparse.Namespace) -> None:
        from comfyui_unclip.unclip_core.training.loop import LoopOptions, train

        setting = Setting(stage, options)
        self.run = tempfile.TemporaryDirectory()
        loop = LoopOptions(
            device=setting.device,
            dtype=options.dtype,
            compile=options.compile,
            log_every=1,
            sheet_every=NEVER,
            save_every=NEVER,
            save_minutes=NEVER,
        )
        self.parameters = sum(value.numel() for value in setting.task.build().parameters())
        self.steps = train(setting.task, setting.recipe, Path(self.run.name), setting.rows, options=loop)

    def step(self) -> None:
        """One optimiser step."""
        next(self.steps)

    def close(self) -> None:
        """Forget the run."""
        self.steps.close()
        self.run.cleanup()


class Plain:
    """A loop as one writes it."""

    def __init__(self, stage: str, options: argparse.Namespace) -> None:
        import torch
        from diffusers.training_utils import EMAModel

        from comfyui_unclip.unclip_core.training.batches import MicroBatches

        setting = Setting(stage, options)
        self.task, self.recipe, self.device, self.dtype = setting.task, setting.recipe, setting.device, options.dtype
        torch.manual_seed(0)
        self.network = PEERS[stage](setting.task).to(self.device).train()
        self.parameters = sum(value.numel() for value in self.network.parameters())
        if options.tuned:
            self.network.to(memory_format=torch.channels_last)
        self.module = torch.compile(self.network) if options.compile else self.network
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=self.recipe.lr / 100,
            betas=self.recipe.betas,
            weight_decay=self.recipe.weight_decay,
            fused=True if options.tuned else None,
        )
        self.ema = EMAModel(self.network.parameters(), decay=self.recipe.ema, foreach=options.tuned)
        batches = MicroBatches(self.task, self.recipe, setting.rows)
        self.batches = (batches[number] for number in itertools.count())

    def batch(self):
        """The next batch, on the device, its captions encoded."""
        import torch

        from comfyui_unclip.unclip_core.training.data import move

        batch = move(next(self.batches), self.device)
        with torch.no_grad():
            return self.task.prepare(batch) if hasattr(self.task, "prepare") else batch

    def loss(self, batch):
        """The loss of a batch, under autocast."""
        import torch

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == "bf16"):
            return self.module(batch)

    def step(self) -> None:
        """One optimiser step."""
        import torch

        loss = self.loss(self.batch())
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.grad_clip)
        self.optimiser.step()
        self.ema.step(self.network.parameters())
        loss.item()

    def gflop(self) -> float:
        """Operations of a step's forward and backward pass."""
        from torch.utils.flop_counter import FlopCounterMode

        batch = self.batch()
        with FlopCounterMode(display=False) as counter:
            self.loss(batch).backward()
        self.optimiser.zero_grad()
        return counter.get_total_flops() / 1e9

    def close(self) -> None:
        """Nothing is kept."""


def _peers():
    """The plain networks with their losses, by stage; each is called with a batch. Torch is imported here."""
    import torch
    import torch.nn.functional as F
    from diffusers import DDPMScheduler, PriorTransformer, UNet2DConditionModel, UNet2DModel
    from diffusers.models.downsampling import Downsample2D
    from diffusers.models.upsampling import Upsample2D
    from torch import nn

    def scheduler_of(config):
        return DDPMScheduler(
            config.timesteps,
            beta_schedule={"cosine": "squaredcos_cap_v2"}.get(config.name, config.name),
            prediction_type={"eps": "epsilon", "x0": "sample", "v": "v_prediction"}[config.prediction],
        )

    class Diffusion(nn.Module):
        """The usual loss."""

        def mse(self, output, x_0, noise, t):
            if self.scheduler.config.prediction_type == "v_prediction":
                target = self.scheduler.get_velocity(x_0, noise, t)
            else:
                target = x_0 if self.scheduler.config.prediction_type == "sample" else noise
            return F.mse_loss(output.float(), target.float())

    class Clip(nn.Module):
        """open_clip's network and loss."""

        def __init__(self, task) -> None:
            super().__init__()
            import open_clip

            from comfyui_unclip.unclip_core.clip.networks import build_network

            self.network, self.contrast = build_network(task.config), open_clip.ClipLoss()

        def forward(self, batch):
            return self.contrast(*self.network(batch["pictures"], batch["ids"]))

    class Prior(Diffusion):
        def __init__(self, task) -> None:
            super().__init__()
            config = self.config = task.config
            self.scheduler = scheduler_of(config.schedule)
            self.network = PriorTransformer(
                num_attention_heads=config.heads,
                attention_head_dim=config.width // config.heads,
                num_layers=config.depth,
                embedding_dim=config.clip_dim,
                num_embeddings=config.context_length,
                dropout=config.dropout,
            )
            if config.text_width != config.clip_dim:
                self.network.encoder_hidden_states_proj = nn.Linear(config.text_width, config.width)
            self.network.clip_mean.requires_grad_(False)
            self.network.clip_std.requires_grad_(False)
            self.null_token = nn.Parameter(torch.randn(config.text_width))
            self.null_embed = nn.Parameter(torch.zeros(config.clip_dim))

        def forward(self, batch):
            text, drop = batch["text"], batch["drop"][:, None]
            x_0 = batch["z"] * self.config.embed_scale
            x_t = self.scheduler.add_noise(x_0, batch["noise"], batch["t"])
            output = self.network(
                x_t,
                batch["t"],
                proj_embedding=torch.where(drop, self.null_embed, text.embed * self.config.embed_scale),
                encoder_hidden_states=torch.where(drop[..., None], self.null_token, text.tokens),
                attention_mask=text.mask,
            ).predicted_image_embedding
            return self.mse(output, x_0, batch["noise"], batch["t"])

    class Upsample(Upsample2D):
        """diffusers' attending blocks give the time embedding as well."""

        def forward(self, x, temb=None, *rest):
            return super().forward(x)

    class Downsample(Downsample2D):
        """See Upsample."""

        def forward(self, x, temb=None):
            return super().forward(x)

    class Decoder(Diffusion):
        def __init__(self, task) -> None:
            super().__init__()
            config = self.config = task.config
            unet = config.unet
            self.scheduler, self.patch = scheduler_of(config.schedule), unet.patch_size
            side, area, levels = unet.image_size // unet.patch_size, unet.patch_size**2, len(unet.channel_mult)
            attends = [side >> level in unet.attention_resolutions for level in range(levels)]
            plain = ("ResnetDownsample", "ResnetUpsample") if unet.resblock_updown else ("Down", "Up")
            down, up = (
                [f"SimpleCrossAttn{way}Block2D" if each else f"{kind}Block2D" for each in attends]
                for way, kind in zip(("Down", "Up"), plain, strict=True)
            )
            self.network = UNet2DConditionModel(
                sample_size=side,
                in_channels=unet.in_channels * area,
                out_channels=unet.out_channels * area,
                block_out_channels=[unet.channels * mult for mult in unet.channel_mult],
                down_block_types=down,
                up_block_types=up[::-1],
                mid_block_type="UNetMidBlock2DSimpleCrossAttn",
                layers_per_block=unet.depth,
                cross_attention_dim=unet.context_width,
                attention_head_dim=unet.head_channels,
                class_embed_type="identity",
                resnet_time_scale_shift="scale_shift",
                norm_num_groups=unet.norm_groups,
                norm_eps=unet.norm_eps,
                dropout=unet.dropout,
            )
            if not unet.resblock_updown:
                for block in (*self.network.down_blocks, *self.network.up_blocks):
                    way, kind = (
                        ("downsamplers", Downsample) if hasattr(block, "downsamplers") else ("upsamplers", Upsample)
                    )
                    if getattr(block, way) is not None:
                        width = block.resnets[-1].out_channels
                        setattr(block, way, nn.ModuleList([kind(width, use_conv=True, out_channels=width)]))
            self.to_time = nn.Linear(config.clip_dim, unet.time_width)
            self.to_tokens = nn.Linear(config.clip_dim, config.extra_tokens * unet.context_width)
            self.text, self.text_norm = (
                nn.Linear(config.text_width, unet.context_width),
                nn.LayerNorm(unet.context_width),
            )
            self.null_embed = nn.Parameter(torch.zeros(config.clip_dim))
            self.null_token = nn.Parameter(torch.randn(unet.context_width))

        def forward(self, batch):
            text, x_0, noise, t = batch["text"], batch["x_0"], batch["noise"], batch["t"]
            z = torch.where(batch["drop_embed"][:, None], self.null_embed, batch["z"] * self.config.embed_scale)
            drop = batch["drop_text"][:, None]
            states = torch.where(drop[..., None], self.null_token, self.text_norm(self.text(text.tokens)))
            states = torch.cat([self.to_tokens(z).unflatten(1, (-1, states.shape[2])), states], dim=1)
            first = torch.arange(text.mask.shape[1], device=drop.device) == 0
            mask = F.pad(torch.where(drop, first, text.mask), (self.config.extra_tokens, 0), value=True)
            x_t = self.scheduler.add_noise(x_0, noise, t)
            output = self.network(
                F.pixel_unshuffle(x_t, self.patch),
                t,
                encoder_hidden_states=states,
                class_labels=self.to_time(z),
                attention_mask=mask,
            ).sample
            return self.mse(F.pixel_shuffle(output, self.patch), x_0, noise, t)

    class Upsampler(Diffusion):
        def __init__(self, task) -> None:
            super().__init__()
            config = self.config = task.config
            unet = config.unet
            self.scheduler, self.patch = scheduler_of(config.schedule), unet.patch_size
            area, levels = unet.patch_size**2, len(unet.channel_mult)
            self.network = UNet2DModel(
                sample_size=None,
                in_channels=unet.in_channels * area,
                out_channels=unet.out_channels * area,
                block_out_channels=[unet.channels * mult for mult in unet.channel_mult],
                down_block_types=["DownBlock2D"] * levels,
                up_block_types=["UpBlock2D"] * levels,
                downsample_type="resnet" if unet.resblock_updown else "conv",
                upsample_type="resnet" if unet.resblock_updown else "conv",
                layers_per_block=unet.depth,
                add_attention=False,
                class_embed_type="timestep" if config.augmentation_level else None,
                resnet_time_scale_shift="scale_shift",
                norm_num_groups=unet.norm_groups,
                norm_eps=unet.norm_eps,
                dropout=unet.dropout,
            )

        def forward(self, batch):
            x_0, noise, t, level = batch["x_0"], batch["noise"], batch["t"], batch["level"]
            x_t = self.scheduler.add_noise(x_0, noise, t)
            x = F.pixel_unshuffle(torch.cat([x_t, batch["low"]], dim=1), self.patch)
            output = self.network(x, t, None if level is None else level * 1000).sample
            output = F.pixel_shuffle(output, self.patch)
            return self.mse(output + batch["low"] if self.config.residual else output, x_0, noise, t)

    return {"clip": Clip, "prior": Prior, "decoder": Decoder, "upsampler_256": Upsampler, "upsampler_1024": Upsampler}


PEERS: dict = {}


class Session:
    """A side's process: one stage in training after the other."""

    def __init__(self, options: argparse.Namespace) -> None:
        if options.serve == "ours":
            from comfyui_unclip.unclip_core.pages import keep_pages

            keep_pages()
        else:
            PEERS.update(_peers())
        self.options = options

    def begin(self, stage: str) -> dict[str, int | None]:
        """Build a stage, and make two steps."""
        self.worker = (Ours if self.options.serve == "ours" else Plain)(stage, self.options)
        for _ in range(2):
            self.worker.step()
        recipe = getattr(self.worker, "recipe", None)
        return {"parameters": self.worker.parameters, "batch": recipe and recipe.batch}

    def units(self, piece: str, batch: int) -> Generator[object]:
        """Steps of the stage that was begun."""
        while True:
            yield self.worker.step()

    def gflop(self) -> float:
        """Operations of a step of it."""
        return self.worker.gflop()

    def end(self) -> None:
        """Forget it."""
        self.worker.close()
        del self.worker


def draw(folder: Path, count: int) -> None:
    """Storybook's pictures and captions as files, 1024 px."""
    from PIL import Image

    from comfyui_unclip.unclip_core.storybook.captions import caption
    from comfyui_unclip.unclip_core.storybook.draw import render
    from comfyui_unclip.unclip_core.storybook.scenes import sample_scene

    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    for number in range(count):
        scene = sample_scene(rng)
        Image.fromarray(render(scene, 1024)).save(folder / f"{number:04}.png", compress_level=1)
        (folder / f"{number:04}.txt").write_text(caption(scene, rng)[0], encoding="utf-8")


def compare(options: argparse.Namespace) -> tuple[str, dict[str, float]]:
    """Markdown, and ours over the plain loop's pictures a second by stage."""
    found = [
        Side.start(name, options, "--folder", str(options.folder), allocator=options.tuned and name == "plain")
        for name in ("plain", "ours")
    ]
    peer, mine = found
    lines, ratios = [], {}
    try:
        rate = mine.ask("rate")
        for stage in options.stages:
            told = {side.name: side.ask("begin", stage=stage) for side in found}
            gflop = peer.ask("gflop")
            for turn in range(options.rounds):
                for side in found if turn % 2 == 0 else reversed(found):
                    side.work(stage, options.steps)
            for side in found:
                side.ask("end")
            plain, ours = (median(side.times[stage]) for side in found)
            ratios[stage], batch = plain / ours, told["plain"]["batch"]
            sizes = " / ".join(f"{each['parameters'] / 1e6:.2f}" for each in told.values())
            shares = " / ".join(f"{gflop / each / rate:.0%}" for each in (plain, ours))
            lines.append(
                f"| {stage} | {sizes} | {batch} | {gflop:.0f} | {batch / plain:.1f} | {batch / ours:.1f} | "
                f"{plain / ours:.2f} | {shares} |"
            )
            print(lines[-1], file=sys.stderr)
    finally:
        for side in found:
            side.close()
    kind = "plain loop, tuned" if options.tuned else "plain loop"
    head = [
        f"best rate {rate:.0f} GFLOP/s, {options.dtype}; AdamW, clipped gradients, EMA on both sides",
        "",
        f"| stage | million parameters, plain / ours | batch | GFLOP a step | {kind}, pictures/s | ours, pictures/s | "
        "ratio | of the best rate, plain / ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *lines]), ratios


def photographs(folder: Path, count: int) -> None:
    """JPEGs of a camera's size: noise of many scales, so that they are as hard to decode as a photograph."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        image = Image.new("RGB", PHOTO)
        for side in (8, 64, 512):
            noise = rng.integers(0, 256, (side * 3 // 4, side, 3), dtype=np.uint8)
            layer = Image.fromarray(noise).resize(PHOTO, Image.Resampling.BICUBIC)
            image = layer if side == 8 else Image.blend(image, layer, 0.3)
        image.save(folder / f"{number:04}.jpg", quality=92)
        (folder / f"{number:04}.txt").write_text("a red star on a night sky", encoding="utf-8")


def waiting(options: argparse.Namespace) -> tuple[str, float]:
    """Markdown, and the largest share of steps that is spent waiting for data from the second epoch on.

    Of a new cache: the first epoch resizes what a stage asks for.
    """
    import dataclasses

    from comfyui_unclip.unclip_core.pages import keep_pages
    from comfyui_unclip.unclip_core.training.loop import LoopOptions, train

    keep_pages()
    photographs(options.folder / "pictures", options.waiting)
    passes: dict[str, float] = {}

    lines = [
        f"{options.waiting} JPEGs of {PHOTO[0]} x {PHOTO[1]} px",
        "",
        "| stage | batch | ms a step | waits for data, first epoch | second epoch on |",
        "|---|---|---|---|---|",
    ]
    worst = 0.0
    begin = time.perf_counter()
    for stage in options.stages:
        setting = Setting(stage, options)
        passes[stage] = time.perf_counter() - begin
        batch = min(setting.recipe.batch, len(setting.rows))
        epoch = -(-len(setting.rows) // batch)
        recipe = dataclasses.replace(setting.recipe, batch=batch)
        loop = LoopOptions(setting.device, options.dtype, log_every=epoch, sheet_every=NEVER, save_every=NEVER)
        with tempfile.TemporaryDirectory() as run:
            steps = train(setting.task, recipe, Path(run), setting.rows, options=loop)
            speeds = [next(steps).pictures_per_second for _ in range(3)]
            steps.close()
            metrics = (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            shares = [json.loads(line)["data_share"] for line in metrics]
        later = max(shares[1:])
        worst = max(worst, later)
        lines.append(f"| {stage} | {batch} | {1000 * batch / speeds[-1]:.0f} | {shares[0]:.1%} | {later:.1%} |")
        print(lines[-1], file=sys.stderr)
        begin = time.perf_counter()
    lines += [
        "",
        "read before the first step, s: " + ", ".join(f"{name} {value:.1f}" for name, value in passes.items()),
    ]
    return "\n".join(lines), worst


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="storybook", help="whose networks")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="only these")
    parser.add_argument(
        "--dtype", choices=("auto", "bf16", "fp32"), default="auto", help="auto: the faster in products"
    )
    parser.add_argument("--batch", type=int, default=0, help="rows of a step; 0: the recipe's")
    parser.add_argument("--steps", type=int, default=4, help="a turn")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each side")
    parser.add_argument("--tuned", action="store_true", help="plain loops: channels-last, fused AdamW, our allocator")
    parser.add_argument("--compile", action="store_true", help="torch.compile on both sides")
    parser.add_argument("--check", action="store_true", help="exit code 1 where a target is missed")
    parser.add_argument("--waiting", type=int, metavar="JPEGS", help="measure the wait for data instead")
    parser.add_argument("--cpu-time", action="store_true", help="count processor time: for a shared machine")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", choices=("ours", "plain"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return sides.serve(lambda: Session(options), options, gradients=True)
    from storybook import machine

    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        print(f"{machine()}\n")
        if options.dtype == "auto":
            clock = time.process_time if options.cpu_time else time.perf_counter
            rates = {dtype: sides.best_rate(dtype, clock) for dtype in ("fp32", "bf16")}
            print(", ".join(f"{dtype} {rate:.0f} GFLOP/s" for dtype, rate in rates.items()) + "\n")
            options.dtype = max(rates, key=rates.__getitem__)
        if options.waiting:
            text, worst = waiting(options)
            missed = worst > WAITING_TARGET
        else:
            draw(options.folder / "pictures", PICTURES)
            text, ratios = compare(options)
            missed = min(ratios.values()) < TARGET
    print(text)
    if options.check and missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
