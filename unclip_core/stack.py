"""From a stack on disk to the handles of its stages."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from .checkpoints.caption_tower import has_caption_tower, load_caption_tower
from .checkpoints.catalog import StackEntry
from .checkpoints.header import StageFile
from .checkpoints.loading import load_network
from .checkpoints.lora_file import load_lora
from .checkpoints.null_image import remembered_null_image
from .checkpoints.states import read_state
from .checkpoints.tables import Folders, read_basis, read_noise_powers
from .clip.model import Clip
from .clip.multilingual import MultilingualTokenizer
from .config import STAGES, UPSAMPLERS
from .models.integers import to_integers
from .presets import KARLO
from .runtime.device import memory_format, pick_device, pick_dtype
from .runtime.halves import half_precisions, widest
from .runtime.placement import Manager, Placed
from .stages import ARPrior, Decoder, PassThrough, Prior, Upsampler
from .stages.lora import apply_lora
from .stages.own_text import OwnText, own_clip_text, own_multilingual_text
from .types import Embedding, TextEncoding

# Parameters from which a CLIP is large. ViT-L has 0.43 billion, ViT-H one; bigG 2.5, of which 1.8 read pictures.
LARGE_CLIP = 600_000_000


@dataclass(frozen=True, eq=False)
class Stack:
    """The handles of one unCLIP model. A stage that it lacks is there too, and says so when used.

    Weights are read when a stage is first used; on a CPU only one large network is in memory at a time.
    """

    entry: StackEntry
    clip: Clip | MissingStage
    prior: Prior | MissingStage
    decoder: Decoder | MissingStage
    upsampler_256: Upsampler | PassThrough | MissingStage
    upsampler_1024: Upsampler | PassThrough | MissingStage
    ar_prior: ARPrior | MissingStage

    def __repr__(self) -> str:
        return f"<Stack {self.entry.name!r}: {', '.join(self.entry.stages)}>"

    def text_to_image(self, caption: str | list[str], *, seed: int = 0) -> Tensor:
        """Pictures of captions, (B, S, S, 3) float32 in 0..1 on the CPU, by all stages from CLIP to the upsamplers.

        Every stage has its own defaults, item i has seed + i: what `unclip run text_to_image.json -s seed=N` makes.

        Raises ValueError where the stack has no CLIP, prior or decoder.
        """
        text = self.clip.encode_text(caption)
        embed = self.prior.sample(text, seed=seed)
        picture = self.decoder.sample(embed, text if self.decoder.reads_text else None, seed=seed)
        for stage in UPSAMPLERS:
            if stage in self.entry.stages:
                picture = getattr(self, stage).sample(picture, seed=seed)
        return picture

    def with_lora(self, path: str | Path, strength: float = 1.0) -> Stack:
        """This stack with a LoRA file's branches on prior and decoder, and its new words in CLIP.

        strength: 1 is as it was trained. Raises ValueError for a file that is none, or of another model.
        """
        clip, prior, decoder = apply_lora(
            load_lora(path), strength, clip=self.clip, prior=self.prior, decoder=self.decoder
        )
        return replace(self, clip=clip, prior=prior, decoder=decoder)


class MissingStage:
    """Stands for a stage that a stack lacks: using it raises ValueError with what the stack has."""

    def __init__(self, stage: str, entry: StackEntry) -> None:
        fix = "load a model that has one"
        if stage == "prior" and _has_own_text(entry):
            karlos = entry.stages["decoder"].config.clip_id == KARLO.clip.clip_id
            fix = (
                "Karlo's speaks its CLIP, get it with `unclip pull karlo-v1-alpha`" if karlos else "none was published"
            )
            fix += "; variations of a picture need no prior, CLIP Image Encode gives the embedding"
        elif entry.layout == "native":
            fix += f", or put a {stage}.safetensors into its folder"
        elif stage == "prior":
            fix += " (karlo-v1-alpha does); variations of a picture need none, CLIP Image Encode gives the embedding"
        self._message = (
            f"Load unCLIP: model {entry.name!r} has no {stage} stage (it has {', '.join(entry.stages)}); {fix}"
        )

    def __getattr__(self, name: str):
        # Copying, pickling and inspecting a handle is no use of it.
        if name.startswith("_"):
            raise AttributeError(name)
        raise ValueError(self._message)


def _has_own_text(entry: StackEntry) -> bool:
    """Whether the decoder encodes captions by itself (Stable unCLIP)."""
    decoder = entry.stages.get("decoder")
    return decoder is not None and decoder.config.text == "own_clip"


def load_stack(
    entry: StackEntry,
    dtype: str | torch.dtype = "auto",
    device: torch.device | str | None = None,
    manager: Manager | None = None,
    folders: Folders = (),
    check: Callable[[], None] | None = None,
    halves: Collection[str] | None = None,
    compiled: bool = False,
) -> Stack:
    """The handles of an entry's stages; nothing is read until one is used.

    dtype, halves: see `pick_dtype`; a CLIP of fewer than LARGE_CLIP parameters stays in float32. int8 is for the
    networks that sample step by step; autoencoders, CLIP, text encoders and the autoregressive prior are then in what
    "auto" picks. device: None picks the best. manager: what places the networks; None is `Placed`'s own rule. folders:
    the host's model folders, where fitted tables may lie. check: called before each tensor that is read; an exception
    from it stops the reading, and the next use starts it again. compiled: whether the networks that run once a step go
    through `torch.compile` when first used; RuntimeError is raised then where that does not work.

    Raises ValueError for int8 that is to be compiled.
    """
    device = pick_device(device)
    if halves is None:
        halves = () if device.type == "cpu" else half_precisions(device)
    painting = pick_dtype(dtype, device, halves)
    if compiled and painting == torch.int8:
        raise ValueError(
            "Load unCLIP: compile does not go with dtype int8, whose operators are compiled already; turn compile off, "
            "or choose dtype auto"
        )
    weights = pick_dtype("auto", device, halves) if painting == torch.int8 else painting
    # Where "auto" picked float16, what overflows goes on in `wider`; a CLIP cannot, it says so.
    wider = widest(halves) if dtype == "auto" and weights == torch.float16 else None
    text_dtype = torch.bfloat16 if wider == torch.bfloat16 else weights
    handles: dict[str, object] = {stage: MissingStage(stage, entry) for stage in STAGES}
    if clip := entry.stages.get("clip"):
        handles["clip"] = _open_clip(entry, clip, text_dtype, device, manager, folders, check)

    # By itself: a function that held `handles`, which will hold the function, would keep a dropped stack in memory.
    text_encoder = handles["clip"]

    @cache  # shared by prior and decoder: CLIP is loaded for it once
    def null_text() -> TextEncoding:
        return text_encoder.encode_text([""])

    @cache
    def null_image() -> Embedding:
        encode = text_encoder.encode_null_image  # which a missing CLIP has not, and says so
        return remembered_null_image(clip, encode, str(text_encoder.placed.dtype))

    def placed(found: StageFile, part: str = "", kind: torch.dtype = weights) -> Placed:
        def build(dtype: torch.dtype) -> nn.Module:
            if dtype == torch.int8:  # rounded straight from the mapped file, in whatever dtype and layout that is
                return to_integers(load_network(found, part=part, check=check))
            return load_network(found, dtype, memory_format(device), part, check)

        def build_with_halves() -> nn.Module:
            return load_network(found, torch.float32, memory_format(device), part, check, keep_halves=True)

        widening = wider if kind == torch.float16 else None
        return Placed(build, device, kind, manager, wider=widening, compiles=compiled, with_halves=build_with_halves)

    passing = PassThrough(entry.name)  # one for both sizes, so that it speaks once
    if found := entry.stages.get("prior"):
        timesteps = found.config.schedule.timesteps
        noise_powers = partial(read_noise_powers, entry, found.config.prior_id, timesteps, folders)
        handles["prior"] = Prior(found.config, placed(found, kind=painting), null_text, noise_powers)
    if found := entry.stages.get("decoder"):
        if found.config.autoencoder is None:
            network = placed(found, kind=painting)
            handles["decoder"] = Decoder(found.config, network, null_text, encode_null_image=null_image)
        else:
            # Never float16: its largest number is 65504, which SD's autoencoder passes in its last levels, where
            # nothing normalises the sums of its residual blocks; MoVQ is the same network.
            kind = torch.float32 if weights == torch.float16 else weights
            handles["decoder"] = Decoder(
                found.config,
                placed(found, "network", painting),
                null_text,
                placed(found, "autoencoder", kind),
                null_image,
                own_text=_own_text(found, partial(placed, found, "text_tower", text_dtype)),
                normalizer=placed(found, "normalizer", torch.float32) if _has_own_text(entry) else None,
            )
    for stage in UPSAMPLERS:
        if found := entry.stages.get(stage):
            parts = ("first", "final") if found.config.final_network else ("",)
            handles[stage] = Upsampler(found.config, *(placed(found, part, painting) for part in parts))
        elif (decoder := entry.stages.get("decoder")) and decoder.config.autoencoder is not None:
            handles[stage] = passing
    if found := entry.stages.get("ar_prior"):
        handles["ar_prior"] = ARPrior(found.config, placed(found))
    return Stack(entry, **handles)


def _open_clip(
    entry: StackEntry,
    found: StageFile,
    dtype: torch.dtype,
    device: torch.device,
    manager: Manager | None,
    folders: Folders,
    check: Callable[[], None] | None,
) -> Clip:
    """A small CLIP in float32, which embeddings are compared in. A large one, whose rounding is its publishers' own, in
    `dtype`, and its towers apart: text to picture never holds the one for pictures."""
    large = found.parameters >= LARGE_CLIP
    dtype = dtype if large else torch.float32
    return Clip(
        found.config,
        partial(read_state, found, dtype=dtype, check=check),  # as that dtype one by one, not first all as they are
        device,
        manager,
        partial(read_basis, entry, found.config.clip_id, folders),
        dtype,
        apart=large,
        captions_alone=_has_own_text(entry),
        read_text_half=partial(load_caption_tower, found, check=check) if has_caption_tower(found) else None,
        read_with_halves=partial(read_state, found, dtype=torch.float32, check=check, keep_halves=True),
    )


def _own_text(found: StageFile, network: Callable[[], Placed]) -> OwnText | None:
    """The text encoder of a decoder that has its own."""
    if found.config.text == "own_clip":
        return own_clip_text(found.config.text_tower, network())
    if (words := found.config.multilingual) is not None:
        tokenizer = MultilingualTokenizer(found.tokenizer, words.context_length, words.padding)
        return own_multilingual_text(tokenizer, network())
    return None
