"""How each stage is trained: the optimiser's numbers and the condition dropout, as frozen data, for each preset.

The paper's are Table 3 (App. C); the storybook's are those its shipped weights were made with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..storybook.captions import CHINESE

TIMESTEPS = ("uniform", "logit_normal", "noisy", "last")


@dataclass(frozen=True)
class Recipe:
    """One stage's training run. Batches are a function of (seed, step) alone, so a killed run resumes exactly."""

    steps: int
    batch: int  # rows of a step
    lr: float
    micro_batch: int = 0  # rows computed at once, a divisor of batch; 0: all. Gradients are the mean over the step
    warmup: int = 200  # steps of linear warm-up
    decay: bool = True  # cosine decay to a tenth of lr over the run
    decay_steps: int = 0  # over so many steps, of which the run may be a part; 0: the run's own
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = 1e-8
    grad_clip: float = 1.0
    ema: float = 0.999
    embed_drop: float = 0.1  # §2.1: image embedding dropped 10 %
    text_drop: float = 0.5  # §2.1: caption dropped 50 %, independently
    prior_drop: float = 0.1  # §2.2: the prior's text conditioning dropped 10 %
    embed_levels: int = 1000  # Stable unCLIP: the levels of noise on embeddings, drawn below this; 0 for none
    draws: int = 1  # prior: noises and timesteps drawn for each caption of a batch
    vlb_weight: float = 0.001  # L_simple + 0.001 L_vlb where the variance is learned (Nichol & Dhariwal 2021)
    timesteps: str = "uniform"  # how t is drawn: "uniform", "logit_normal" (Esser et al. 2024), "noisy" or "last"
    crop_fraction: int = 4  # upsamplers: crops are the target's side over this (Table 3: 0.25)
    level_power: float = 1.0  # upsamplers: degradation levels are u^level_power; above 1, mostly mild ones
    blur_share: float = 1.0  # upsamplers: share of the inputs that the augmentation "blur" blurs
    low_noise: float = 0.0  # upsamplers: deviation of the inputs' noise, at most; the scale is -1..1
    clean_share: float = 0.0  # upsamplers: share of the inputs that are made small and not spoilt
    halo_weight: float = 0.0  # upsamplers: weight of what goes beyond every true colour near by, beside L_simple
    passed: int = 8000  # upsamplers told --through: rows that go through the stages before it, and ...
    passed_share: float = 0.5  # ... their share of the inputs; clean_share is of the others
    passed_level: float = 0.25  # how far they are noised, of the schedule's length
    passed_steps: int = 8  # of the decoder's, from there down
    passed_guidance: float = 1.0  # the decoder's guidance; 1: none
    siblings: int = 1  # CLIP: rows per batch that share object, colour and background; their places become the lesson
    cousins: float = 0.0  # CLIP: the share of siblings that need not share the object: it becomes the lesson
    swaps: bool = (
        False  # storybook: 40 % of two things, in groups that differ by an exchange alone; CLIP meets them whole
    )
    chinese: float = CHINESE  # storybook: share of the captions that are Chinese
    lettered: float = 0.0  # CLIP: share of the groups that are of written words, told from each other
    shift: int = 0  # CLIP: pictures are moved by up to so many pixels each way, edges mirrored
    readout: float = 0.0  # CLIP: weight of reading the scene's facts off picture and caption embeddings, linearly
    trunk_stages: int = -1  # CLIP: so many of the trunk's stages, and its stem, keep their weights; -1: none does
    train_text: bool = True  # CLIP: False keeps the text tower, so that what reads captions need not learn anew
    validation: float = 0.02  # share of the rows that is held out, to tell learning from remembering
    pictures: int = 60_000  # scenes drawn for training
    seed: int = 1

    def check(self, where: str) -> None:
        """Raises ValueError, which begins with `where`, for a number that no run could be made with."""
        inputs = ("clean_share", "passed_share", "blur_share")
        for name in ("embed_drop", "text_drop", "prior_drop", "cousins", "lettered", "chinese", *inputs):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{where}.{name} {getattr(self, name)!r}: a share; give 0 to 1")
        for name in ("ema", "validation"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{where}.{name} {getattr(self, name)!r}: give 0 or more, and less than 1")
        for name in ("steps", "batch", "draws", "crop_fraction", "siblings", "pictures", "passed", "passed_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{where}.{name} {getattr(self, name)!r}: give 1 or more")
        for name in ("lr", "grad_clip", "adam_eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{where}.{name} {getattr(self, name)!r}: give more than 0")
        if not 0 < self.passed_level < 1:
            raise ValueError(
                f"{where}.passed_level {self.passed_level!r}: a noise level; give more than 0, less than 1"
            )
        weights = "weight_decay vlb_weight halo_weight"
        for name in f"{weights} micro_batch warmup decay_steps embed_levels low_noise shift passed_guidance".split():
            if not getattr(self, name) >= 0:
                raise ValueError(f"{where}.{name} {getattr(self, name)!r}: give 0 or more")
        if self.timesteps not in TIMESTEPS:
            raise ValueError(f"{where}.timesteps {self.timesteps!r} is unknown; choose one of {', '.join(TIMESTEPS)}")
        if self.micro_batch and self.batch % self.micro_batch:
            raise ValueError(
                f"{where}.micro_batch {self.micro_batch}: a step of {self.batch} rows is made of equal parts; give a "
                f"divisor, as {math.gcd(self.batch, self.micro_batch)}"
            )


# A run may go on with these changed: the steps before are what they were.
FREE_TO_CHANGE = ("steps", "lr")

STORYBOOK_RECIPES: dict[str, Recipe] = {
    "clip": Recipe(steps=2000, batch=128, lr=8e-4, warmup=100, weight_decay=0.1, betas=(0.9, 0.98), ema=0.99),
    "prior": Recipe(steps=2000, batch=128, lr=8e-4, weight_decay=6e-2, betas=(0.9, 0.96), adam_eps=1e-6, ema=0.998),
    "decoder": Recipe(
        steps=4400, batch=32, lr=8e-4, weight_decay=0.01, betas=(0.9, 0.99), ema=0.999, timesteps="logit_normal"
    ),
    # Noise among what they mend, and one input in five sharp: what its decoder leaves behind is no blur alone.
    "upsampler_256": Recipe(
        steps=1200, batch=32, lr=1e-3, betas=(0.9, 0.99), ema=0.998, blur_share=0.8, low_noise=0.12
    ),
    "upsampler_1024": Recipe(
        steps=3000, batch=32, lr=2e-3, betas=(0.9, 0.99), ema=0.998, crop_fraction=8, level_power=2.0, low_noise=0.12
    ),
    "ar_prior": Recipe(steps=2200, batch=64, lr=1.5e-3, warmup=100, weight_decay=4e-2, betas=(0.9, 0.95), ema=0.998),
}

# Table 3. What it does not say: warm-up, a decay of the rate, clipping of gradients. Its CLIP (ViT-H/16 with
# sharpness-aware minimisation) is not trained here: open_clip's are taken.
_PAPER = Recipe(steps=0, batch=0, lr=0.0, warmup=1000, decay=False, ema=0.9999)
PAPER_RECIPES: dict[str, Recipe] = {
    "prior": replace(_PAPER, steps=600_000, batch=4096, lr=1.1e-4, weight_decay=6e-2, betas=(0.9, 0.96), adam_eps=1e-6),
    "ar_prior": replace(
        _PAPER, steps=1_000_000, batch=4096, lr=1.6e-4, weight_decay=4e-2, betas=(0.9, 0.91), adam_eps=1e-10, ema=0.999
    ),
    "decoder": replace(_PAPER, steps=800_000, batch=2048, lr=1.2e-4),
    "upsampler_256": replace(_PAPER, steps=1_000_000, batch=1024, lr=1.2e-4),
    "upsampler_1024": replace(_PAPER, steps=1_000_000, batch=512, lr=1.0e-4, low_noise=2 * 25 / 255),  # BSRGAN's most
}

# Karlo says how often conditions are dropped, and nothing of its rates: the paper's are taken.
KARLO_RECIPES: dict[str, Recipe] = {
    "prior": replace(PAPER_RECIPES["prior"], prior_drop=0.2),
    "decoder": replace(PAPER_RECIPES["decoder"], text_drop=0.3),
    "upsampler_256": PAPER_RECIPES["upsampler_256"],
}

# Kandinsky drops the paper's shares; of its rates nothing is published either.
KANDINSKY_RECIPES: dict[str, Recipe] = {name: PAPER_RECIPES[name] for name in ("prior", "decoder")}

# Stable unCLIP: embeddings dropped 25 %, noised at any level. The rate and the batch are Stable Diffusion 2's; how long
# it was trained is not published. The prior that its smaller model paints after is Karlo's.
_STABLE = replace(
    _PAPER, steps=200_000, batch=2048, lr=1e-4, warmup=10_000, weight_decay=0.01, embed_drop=0.25, text_drop=0.1
)

RECIPES: dict[str, dict[str, Recipe]] = {
    "paper": PAPER_RECIPES,
    "karlo-v1-alpha": KARLO_RECIPES,
    "kandinsky-2-1": KANDINSKY_RECIPES,
    "kandinsky-2-2": KANDINSKY_RECIPES,
    "stable-diffusion-2-1-unclip": {"decoder": _STABLE},
    "stable-diffusion-2-1-unclip-small": {"prior": KARLO_RECIPES["prior"], "decoder": _STABLE},
    "storybook": STORYBOOK_RECIPES,
}

# From weights that can paint already a step of the size that makes new ones would destroy them: a tenth of the rate,
# constant, for as long as some thousand pictures take, in batches that one GPU holds. 1e-5 for the large networks is
# what is used for their kin (Stable Diffusion, Kandinsky 2.2).
FINE_TUNING_STEPS, FINE_TUNING_BATCH = 4000, 16
LORA_MICRO_BATCH, LARGE_BATCH = 4, 512


def lora_tuning(recipe: Recipe) -> Recipe:
    """The recipe of a LoRA: a fine-tuning at the rate that made the weights, since branches begin at nothing.

    1e-4 for the large networks is what is used for their kin. Of those, which are trained by thousands of rows a step,
    few are computed at once: a GPU of 12 GB is to hold them.
    """
    tuned = replace(fine_tuning(recipe), lr=recipe.lr, ema=min(recipe.ema, 0.99))
    return replace(tuned, micro_batch=LORA_MICRO_BATCH) if recipe.batch >= LARGE_BATCH else tuned


def fine_tuning(recipe: Recipe) -> Recipe:
    """The recipe of a run that begins with trained weights, from that which made such weights."""
    return replace(
        recipe,
        lr=recipe.lr / 10,
        warmup=min(recipe.warmup, 100),
        decay=False,
        steps=min(recipe.steps, FINE_TUNING_STEPS),
        batch=min(recipe.batch, FINE_TUNING_BATCH),
    )
