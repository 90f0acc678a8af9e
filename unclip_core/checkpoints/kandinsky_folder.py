"""Kandinsky 2 as diffusers folders, without torch: one holds prior and CLIP, others hold a decoder each.

Recognised by the networks' config.json, or by model_index.json where one of those is missing. `Parts` of several
folders make one stack: a decoder and the prior that speaks its CLIP.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..config import ClipConfig, MultilingualConfig, SamplingConfig, ScheduleConfig
from ..presets import KANDINSKY_2_1, KANDINSKY_2_2
from ..texts import shown
from .diffusers_configs import (
    SCHEDULERS,
    attending_unet,
    autoencoder_config,
    expect,
    number,
    prior_config,
    sampler_of,
    schedule_config,
    whole,
)
from .diffusers_folder import INDEX, DiffusersFolder, read_clip
from .header import CheckpointError, StageFile, guarded, read_json

LAYOUT = "kandinsky"
# Whose image tokens and time embedding a decoder adds: (encoder_hid_dim_type, addition_embed_type).
_FIRST, _SECOND, _HINTED = ("text_image_proj", "text_image"), ("image_proj", "image"), ("image_proj", "image_hint")
_KINDS = {_FIRST: KANDINSKY_2_1.decoder, _SECOND: KANDINSKY_2_2.decoder, _HINTED: KANDINSKY_2_2.decoder}
_PIPELINE = re.compile(r"Kandinsky(V22)?((?P<prior>Prior)(Emb2Emb)?|Inpaint|(Controlnet)?(Img2Img)?)Pipeline")
# What transformers leaves out of a config.json.
_XLM_R = {
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "pad_token_id": 1,
    "layer_norm_eps": 1e-12,
}
# How many image tokens diffusers' projections make, which their configs do not say.
_TOKENS = {"text_image_proj": 10, "image_proj": 32}


@dataclass(frozen=True)
class Prior:
    """A folder with a prior and its CLIP, as stages, or with what is wrong with them."""

    name: str
    folder: Path
    stages: dict[str, StageFile] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def clip(self) -> ClipConfig | None:
        """None where it could not be read."""
        return self.stages["clip"].config if "clip" in self.stages else None


@dataclass(frozen=True)
class Decoder:
    """A folder with a decoder. Its stage speaks, by its sizes alone, the published CLIP, until a prior tells.

    stack: the published stack it is of, by what it is; "" for one that cannot be read.
    """

    name: str
    folder: Path
    stage: StageFile | None = None
    problems: tuple[str, ...] = ()
    stack: str = ""

    @property
    def stages(self) -> dict[str, StageFile]:
        """As a prior's."""
        return {} if self.stage is None else {"decoder": self.stage}


@dataclass(frozen=True)
class Joined:
    """A stack made of several folders."""

    name: str
    folder: Path
    stages: dict[str, StageFile]
    problems: tuple[str, ...]

    def is_of(self, folder: Path) -> bool:
        """Whether one of its parts lies in the folder."""
        return any(path.is_relative_to(folder) for path in (self.folder, *(s.path for s in self.stages.values())))


def read_part(folder: Path, name: str) -> Part | None:
    """The part of a Kandinsky in `folder`, or None if it holds none. Whatever is wrong with it is in its problems."""
    try:
        with guarded(folder):
            kind = _kind(folder)
    except CheckpointError:  # anybody's folder
        return None
    if kind is None:
        return None
    source = DiffusersFolder(folder, _networks(folder), LAYOUT)
    try:
        with guarded(folder):
            if kind is Prior:
                return Prior(name, folder, _read_prior(source))
            stage, stack = _read_decoder(source)
            return Decoder(name, folder, stage, (), stack)
    except CheckpointError as error:
        return kind(name, folder, problems=(str(error),))


def _kind(folder: Path) -> type[Prior] | type[Decoder] | None:
    """Which part of a Kandinsky 2 the folder holds, if any."""
    index = folder / INDEX
    if index.is_file():
        pipeline = _PIPELINE.fullmatch(str(read_json(index).get("_class_name")))
        return None if pipeline is None else Prior if pipeline["prior"] else Decoder
    unet, prior = folder / "unet" / "config.json", folder / "prior" / "config.json"
    if unet.is_file() and read_json(unet).get("encoder_hid_dim_type") in _TOKENS:
        return Decoder
    if prior.is_file() and read_json(prior).get("_class_name") == "PriorTransformer":
        # Karlo's lies beside its decoder, and its schedule is called after it.
        others = ("unet", "decoder", "text_proj", "prior_scheduler")
        return None if any((folder / other).is_dir() for other in others) else Prior
    return None


def _networks(folder: Path) -> tuple[str, ...]:
    """The names of the folder's networks: those that it has, and those that its index says it should have."""
    index = folder / INDEX
    listed = read_json(index).items() if index.is_file() else ()
    names = [name for name, value in listed if isinstance(value, list) and value and value[0] is not None]
    return tuple(dict.fromkeys([*names, *sorted(path.name for path in folder.iterdir() if path.is_dir())]))


def _read_prior(source: DiffusersFolder) -> dict[str, StageFile]:
    clip = read_clip(source, "image_processor")
    network = source.config("prior", "PriorTransformer")
    config = prior_config(*network, source.schedule("scheduler"), clip.clip_id)
    path = network[0]
    if config.clip_dim != clip.embed_dim or config.text_width != clip.text_width:
        raise CheckpointError(
            f"{path}: embedding_dim is {config.clip_dim}, but the text_encoder beside it gives {clip.embed_dim}-d "
            f"embeddings; this is another model's prior, download the folder 'prior' of this model again"
        )
    for published in (KANDINSKY_2_1.prior, KANDINSKY_2_2.prior):
        if replace(config, prior_id=published.prior_id, schedule=published.schedule) == published:
            config = replace(config, prior_id=published.prior_id)
    return {
        "clip": source.stage("clip", clip, *source.towers()),
        "prior": source.stage("prior", config, "prior"),
    }


def _read_decoder(source: DiffusersFolder) -> tuple[StageFile, str]:
    """The decoder's stage, and the published stack that such a decoder belongs to."""
    path, config = source.config("unet", "UNet2DConditionModel")
    kind = (config.get("encoder_hid_dim_type"), config.get("addition_embed_type"))
    if kind not in _KINDS:
        known = " or ".join("/".join(each) for each in _KINDS)
        raise CheckpointError(
            f"{path}: encoder_hid_dim_type and addition_embed_type are {shown(kind[0])} and {shown(kind[1])}, "
            f"expected {known}; this is another kind of network"
        )
    published = _KINDS[kind]
    expect(path, config, class_embed_type=None, num_class_embeds=None, time_cond_proj_dim=None)
    unet = attending_unet(path, config)
    autoencoder = autoencoder_config(*source.config("movq", "VQModel"))
    hidden = whole(path, config, "encoder_hid_dim")
    # Kandinsky 2.1's image embeddings are as wide as its tokens; of 2.2's the config says the width.
    dim = unet.context_width if kind == _FIRST else hidden
    extra = _extra_input(path, kind, unet.in_channels, autoencoder.latent_channels)
    learned = unet.out_channels == 2 * autoencoder.latent_channels
    schedule, sampling = _sampling(source, published.sampling, learned)
    words = _multilingual(source, hidden, dim) if published.text == "xlm_r" else None
    try:
        found = replace(
            published,
            clip_dim=dim,
            text_width=hidden,
            extra_tokens=_TOKENS[kind[0]],
            extra_input=extra,
            multilingual=words,
            unet=unet,
            schedule=schedule,
            sampling=sampling,
            autoencoder=autoencoder,
        )
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    name = stack_name(kind, extra)
    same = replace(published, extra_input=extra, unet=replace(published.unet, in_channels=unet.in_channels))
    alike = replace(found, schedule=same.schedule, sampling=same.sampling) == same
    kinds = {"none": "", "inpaint": "-inpaint", "hint": "-hint"}
    small = f"decoder{kinds[extra]}-{unet.channels}x{unet.depth}"
    found = replace(found, decoder_id=f"{name}/decoder" if alike else small)
    stage = source.stage("decoder", found, decoder="unet", autoencoder="movq", **_TEXT_PARTS[words is not None])
    return (stage if words is None else replace(stage, tokenizer=_tokenizer(source))), name


_TEXT_PARTS = {True: {"text_tower": "text_encoder"}, False: {}}


def _multilingual(source: DiffusersFolder, width: int, dim: int) -> MultilingualConfig:
    """The text encoder of Kandinsky 2.1's decoder, whose states are `width` and pooled states `dim` wide."""
    path, config = source.config("text_encoder", "MultilingualCLIP")
    expect(path, config, hidden_act="gelu", position_embedding_type="absolute", type_vocab_size=1)
    expect(path, config, hidden_size=width, transformerDimensions=width, numDims=dim)
    given = _XLM_R | config
    padding = given["pad_token_id"]
    if type(padding) is not int or not 0 <= padding < whole(path, given, "vocab_size"):
        raise CheckpointError(f"{path}: pad_token_id is {shown(padding)}, expected a token's id")
    found = MultilingualConfig(
        vocabulary_size=whole(path, given, "vocab_size"),
        positions=whole(path, given, "max_position_embeddings"),
        width=width,
        depth=whole(path, given, "num_hidden_layers"),
        heads=whole(path, given, "num_attention_heads"),
        mlp_width=whole(path, given, "intermediate_size"),
        padding=padding,
        norm_eps=number(path, given, "layer_norm_eps", positive=True),
    )
    if width % found.heads or found.positions <= found.context_length + padding:
        raise CheckpointError(
            f"{path}: num_attention_heads {found.heads} must divide hidden_size {width}, and max_position_embeddings "
            f"{found.positions} be more than {found.context_length + padding}"
        )
    return found


def _tokenizer(source: DiffusersFolder) -> Path:
    path = source.folder / "tokenizer" / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; download the folder 'tokenizer' of this model again")
    return path


def stack_name(kind: tuple[str, str], extra: str) -> str:
    """What `unclip pull` calls the stack."""
    name = KANDINSKY_2_1.name if kind == _FIRST else KANDINSKY_2_2.name
    return name + {"none": "", "inpaint": "-inpaint", "hint": "-controlnet-depth"}[extra]


def _extra_input(path: Path, kind: tuple[str, str], channels: int, latent: int) -> str:
    """What the network reads besides x_t, by the channels of its input."""
    known = {2 * latent: "hint"} if kind == _HINTED else {latent: "none", 2 * latent + 1: "inpaint"}
    if channels not in known:
        raise CheckpointError(
            f"{path}: in_channels is {channels}, expected {' or '.join(map(str, known))} with latents of {latent} "
            "channels; this is another kind of network"
        )
    return known[channels]


def _sampling(
    source: DiffusersFolder, published: SamplingConfig, learned: bool
) -> tuple[ScheduleConfig, SamplingConfig]:
    """Kandinsky 2.1's folders hold a DDPM scheduler besides their default, which alone knows the learned variance and
    the bound of x_0 that the network was tuned with."""
    name = "ddpm_scheduler" if source.has("ddpm_scheduler") else "scheduler"
    path, config = source.config(name, *SCHEDULERS, file="scheduler_config.json")
    return schedule_config(path, config, learned), replace(published, sampler=sampler_of(path, config))


Part = Prior | Decoder


def named_after(folder: str, parts: list[Part]) -> list[Part]:
    """Parts that lie side by side in a folder: its only decoder goes by its name, one of several by its own if that
    says more than "decoder"."""
    decoders = [part for part in parts if isinstance(part, Decoder)]
    if len(decoders) <= 1:
        return [replace(part, name=folder) for part in parts]
    return [
        replace(part, name=part.name.replace("decoder", folder, 1) if part.name.startswith("decoder") else part.name)
        for part in parts
    ]


def join(parts: Iterable[Part]) -> list[Joined]:
    """The stacks that the parts make, in the order of the parts: each decoder with the prior that speaks its CLIP, of
    several the one of the closest place and name. A decoder without a prior, and a prior without a decoder, is a stack
    with a problem that names the missing part and the command that gets it.
    """
    parts = list(parts)
    priors = [part for part in parts if isinstance(part, Prior)]
    used: list[Prior] = []
    stacks = []
    for part in parts:
        if isinstance(part, Decoder):
            prior = _choose(part, priors)
            used += [prior] if prior is not None else []
            stacks.append(_joined(part, prior, priors))
    # A decoder that lacks its prior has told of it, under the same name.
    names = {stack.name for stack in stacks}
    return stacks + [_alone(prior) for prior in priors if prior not in used and _stack_of(prior) not in names]


def join_of(parts: Iterable[Part], folder: Path) -> Joined:
    """The stack that a part in `folder` makes with the others; of a prior that may be its name's broken decoder's."""
    parts = list(parts)
    stacks = join(parts)
    names = {_stack_of(part) for part in parts if part.folder.is_relative_to(folder)}
    named = (stack for stack in stacks if stack.name in names)
    return next((stack for stack in stacks if stack.is_of(folder)), None) or next(named)


def _stack_of(part: Part) -> str:
    """The name of the part's stack."""
    return part.name.replace("-decoder", "", 1) if isinstance(part, Decoder) else part.name.removesuffix("-prior")


def _choose(decoder: Decoder, priors: list[Prior]) -> Prior | None:
    """The prior of the decoder's dimension that lies and is called closest to it; the first of equals."""
    if decoder.stage is None:
        return None
    dim = decoder.stage.config.clip_dim
    fitting = [prior for prior in priors if prior.clip is not None and prior.clip.embed_dim == dim]
    return max(fitting, key=lambda prior: _closeness(decoder, prior), default=None)


def _closeness(decoder: Decoder, prior: Prior) -> tuple[bool, int]:
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(decoder.name, prior.name, strict=False))
    return decoder.folder.parent == prior.folder.parent, len(list(alike))


def _joined(decoder: Decoder, prior: Prior | None, priors: list[Prior]) -> Joined:
    name, folder = _stack_of(decoder), decoder.folder
    if decoder.stage is None:
        others = [problem for each in priors if _stack_of(each) == name for problem in each.problems]
        return Joined(name, folder, {}, (*decoder.problems, *others))
    if prior is None:
        return Joined(name, folder, {"decoder": decoder.stage}, (_missing_prior(decoder, priors),))
    clip_id, decoder_id = prior.clip.clip_id, decoder.stage.config.decoder_id
    # Sizes that nobody published: the same may lie over another CLIP.
    decoder_id = decoder_id if "/" in decoder_id else f"{clip_id}/{decoder_id}"
    config = replace(decoder.stage.config, clip_id=clip_id, decoder_id=decoder_id)
    return Joined(name, folder, {**prior.stages, "decoder": replace(decoder.stage, config=config)}, ())


def _missing_prior(decoder: Decoder, priors: list[Prior]) -> str:
    dim, pull = decoder.stage.config.clip_dim, f"`unclip pull {decoder.stack}`"
    broken = [problem for prior in priors if prior.clip is None for problem in prior.problems]
    if broken:
        return f"{decoder.folder}: its prior cannot be used ({broken[0]}); get it again with {pull}"
    others = [f"{prior.folder} speaks {prior.clip.clip_id}, {prior.clip.embed_dim}-d" for prior in priors]
    found = f" ({'; '.join(others)})" if others else ""
    return (
        f"{decoder.folder}: this decoder reads {dim}-d image embeddings, and no prior with a CLIP of {dim} dimensions "
        f"is installed{found}; get the missing part with {pull}"
    )


def _alone(prior: Prior) -> Joined:
    name = _stack_of(prior)
    if prior.problems:
        return Joined(name, prior.folder, {}, prior.problems)
    known = [stack.name for stack in (KANDINSKY_2_1, KANDINSKY_2_2) if stack.clip.clip_id == prior.clip.clip_id]
    pull = f"get the missing part with `unclip pull {known[0]}`" if known else "put the decoder's folder beside it"
    return Joined(
        name, prior.folder, prior.stages, (f"{prior.folder}: a prior without a decoder for its embeddings; {pull}",)
    )
