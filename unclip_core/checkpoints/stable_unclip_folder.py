"""Stable unCLIP as a diffusers folder: StableUnCLIPImg2ImgPipeline or, with a prior, StableUnCLIPPipeline; no torch.

Recognised by model_index.json, or without one by the config.json of UNet and normalizer. Its CLIP reads pictures, and
captions are read by its decoder's own text encoder. The published ones have no prior: `borrow` gives
stable-diffusion-2-1-unclip-small Karlo's, and the text half of the CLIP that both speak.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..config import ClipConfig, DecoderConfig, ScheduleConfig, TextTowerConfig
from ..presets import KANDINSKY_2_1, KANDINSKY_2_2, STABLE_UNCLIP_H, STABLE_UNCLIP_L
from ..texts import shown
from .diffusers_clip import VOCABULARY_SIZE, clip_config, padding_id
from .diffusers_configs import (
    SCHEDULERS,
    autoencoder_config,
    expect,
    latent_diffusion_unet,
    prior_config,
    sampler_of,
    schedule_config,
    whole,
)
from .diffusers_folder import INDEX, DiffusersFolder, read_settings, read_stages
from .diffusers_folder import LAYOUT as DIFFUSERS
from .header import NATIVE, CheckpointError, StageFile, guarded, read_json

LAYOUT = "stable-unclip"
PIPELINES = ("StableUnCLIPPipeline", "StableUnCLIPImg2ImgPipeline")
# Where the decoder's parts lie in a folder.
PARTS = {"network": "unet", "autoencoder": "vae", "text_tower": "text_encoder", "normalizer": "image_normalizer"}
FILE = "file"  # the part of what comes from a single file
NATIVE_CLIP = "clip"  # the part of a text half that comes from a file of our own

# Prefixes in a single file.
UNET, AUTOENCODER = "model.diffusion_model.", "first_stage_model."
TEXT, VISION = "cond_stage_model.model.", "embedder.model."

_TEXT_DEFAULTS = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
}


def read_folder(folder: Path) -> tuple[dict[str, StageFile], tuple[str, ...]] | None:
    """Stages and problems of a Stable unCLIP folder; None for a folder that is none."""
    try:
        with guarded(folder):
            if not _is_own(folder):
                return None
    except CheckpointError:  # anybody's folder
        return None
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
    return read_stages(DiffusersFolder(folder, names, LAYOUT), (_clip, _prior, _decoder))


def _is_own(folder: Path) -> bool:
    index = folder / INDEX
    if index.is_file():
        return read_json(index).get("_class_name") in PIPELINES
    unet, normalizer = folder / "unet" / "config.json", folder / "image_normalizer"
    return unet.is_file() and normalizer.is_dir() and read_json(unet).get("class_embed_type") == "projection"


def _clip(source: DiffusersFolder) -> StageFile:
    towers = {"text_encoder": "prior_text_encoder", "image_encoder": "image_encoder"}
    there = {part: folder for part, folder in towers.items() if source.has(folder)}
    return source.stage("clip", _clip_config(source), **there)


def _clip_config(source: DiffusersFolder) -> ClipConfig:
    """The CLIP whose embeddings the decoder reads: its image half, and its text half where there is a prior."""
    text = image = None
    if source.has("prior_text_encoder"):
        text = source.config("prior_text_encoder", "CLIPTextModelWithProjection")
    if source.has("image_encoder") or text is None:
        image = source.config("image_encoder", "CLIPVisionModelWithProjection")
    tokens = read_settings(source.folder / "prior_tokenizer", "special_tokens_map.json", "tokenizer_config.json")
    return clip_config(
        text, image, tokens, read_settings(source.folder / "feature_extractor", "preprocessor_config.json")
    )


def _prior(source: DiffusersFolder) -> StageFile | None:
    if not source.has("prior"):
        return None
    schedule = source.schedule("prior_scheduler")
    config = prior_config(*source.config("prior", "PriorTransformer"), schedule, _clip_config(source).clip_id)
    return source.stage("prior", config, "prior")


def _decoder(source: DiffusersFolder) -> StageFile:
    clip = _clip_config(source)
    path, config = source.config("unet", "UNet2DConditionModel")
    _check_conditioning(path, config, clip.embed_dim)
    normalizer, numbers = source.config("image_normalizer", "StableUnCLIPImageNormalizer")
    expect(normalizer, {"embedding_dim": 768, **numbers}, embedding_dim=clip.embed_dim)
    schedule_path, schedule = source.config("scheduler", *SCHEDULERS, file="scheduler_config.json")
    tower, unet = _text_tower(source), latent_diffusion_unet(path, config)
    published = STABLE_UNCLIP_H if clip.embed_dim == STABLE_UNCLIP_H.clip.embed_dim else STABLE_UNCLIP_L
    try:
        found: DecoderConfig = replace(
            published.decoder,
            clip_id=clip.clip_id,
            clip_dim=clip.embed_dim,
            text_width=tower.width,
            text_tower=tower,
            embed_noise=_noise(source),
            unet=unet,
            schedule=schedule_config(schedule_path, schedule, learned=False),
            sampling=replace(published.decoder.sampling, sampler=sampler_of(schedule_path, schedule)),
            autoencoder=autoencoder_config(*source.config("vae", "AutoencoderKL")),
        )
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    alike = replace(found, schedule=published.decoder.schedule, sampling=published.decoder.sampling)
    if alike != published.decoder:
        found = replace(found, decoder_id=f"{clip.clip_id}/stable-{unet.channels}x{unet.depth}")
    return source.stage("decoder", found, *PARTS.values())


def _check_conditioning(path: Path, config: dict, dim: int) -> None:
    """The embedding, with sinusoids of its noise level as wide behind it, takes a class's place."""
    expect(path, config, encoder_hid_dim=None, addition_embed_type=None, num_class_embeds=None)
    expect(path, config, class_embeddings_concat=False, time_cond_proj_dim=None)
    if config.get("class_embed_type") != "projection":
        raise CheckpointError(
            f"{path}: class_embed_type is {shown(config.get('class_embed_type'))}, expected 'projection'; this is "
            "another kind of network"
        )
    if config.get("projection_class_embeddings_input_dim") != 2 * dim:
        raise CheckpointError(
            f"{path}: projection_class_embeddings_input_dim is "
            f"{shown(config.get('projection_class_embeddings_input_dim'))}, expected {2 * dim}, twice the {dim} of the "
            "folder's CLIP; its networks belong to different models, download it again"
        )


def _noise(source: DiffusersFolder) -> ScheduleConfig:
    """How embeddings are noised: of that scheduler the forward process alone counts."""
    found = source.schedule("image_noising_scheduler")
    return ScheduleConfig(found.name, found.beta_start, found.beta_end, found.timesteps)


def _text_tower(source: DiffusersFolder) -> TextTowerConfig:
    path, config = source.config("text_encoder", "CLIPTextModel")
    config = _TEXT_DEFAULTS | config
    width = whole(path, config, "hidden_size")
    expect(path, config, hidden_act="gelu")
    expect(path, config, vocab_size=VOCABULARY_SIZE, intermediate_size=4 * width, layer_norm_eps=1e-5)
    tokens = read_settings(source.folder / "tokenizer", "special_tokens_map.json", "tokenizer_config.json")
    return TextTowerConfig(
        vocabulary_size=VOCABULARY_SIZE,
        context_length=whole(path, config, "max_position_embeddings"),
        width=width,
        depth=whole(path, config, "num_hidden_layers"),
        heads=whole(path, config, "num_attention_heads"),
        padding=padding_id(*tokens),
    )


def borrows(stages: dict[str, StageFile]) -> bool:
    """Whether these are the stages of a Stable unCLIP without a prior."""
    own = {"clip", "decoder"} <= stages.keys() and stages["decoder"].config.text == "own_clip"
    return own and stages["clip"].layout == LAYOUT and "prior" not in stages


def borrow(stages: dict[str, StageFile], lenders: Iterable[dict[str, StageFile]]) -> dict[str, StageFile]:
    """The stages of a Stable unCLIP with prior and text half of CLIP of the first Karlo that speaks its CLIP.

    lenders: other stacks' stages. The same stages where it has a prior, is no Stable unCLIP, or none can lend.
    """
    if not borrows(stages):
        return stages
    decoder, clip = stages["decoder"], stages["clip"]
    for lender in lenders:
        prior, spoken = lender.get("prior"), lender.get("clip")
        if prior is None or spoken is None or not _is_karlos(prior, spoken):
            continue
        if _same_space(clip.config, spoken.config):
            return {"clip": _joined(clip, spoken), "prior": prior, "decoder": _speaking(decoder, spoken)}
    return stages


def _is_karlos(prior: StageFile, clip: StageFile) -> bool:
    """Whether it is Karlo's prior, as it was published or converted, with the text half of its CLIP."""
    layouts = {DIFFUSERS, NATIVE}
    others = prior.config.prior_id.startswith((KANDINSKY_2_1.name, KANDINSKY_2_2.name))
    return {prior.layout, clip.layout} <= layouts and not others and "text" in clip.config.towers


def _same_space(own: ClipConfig, other: ClipConfig) -> bool:
    """Whether embeddings of the one are the other's. CLIPs that were never published are known by their sizes alone."""
    if own.architecture or other.architecture:
        return own.clip_id == other.clip_id
    return (own.embed_dim, own.quick_gelu) == (other.embed_dim, other.quick_gelu)


def _joined(own: StageFile, lender: StageFile) -> StageFile:
    """The image half of one CLIP's files, the text half of the other's."""
    parts = dict(own.parts)
    if "text_encoder" in lender.parts:
        parts["text_encoder"] = lender.parts["text_encoder"]
    else:
        parts[NATIVE_CLIP] = lender.parts["clip"]
    image, text = own.config, lender.config
    config = replace(
        text, vision=image.vision, towers=("text", "image"), image_mean=image.image_mean, image_std=image.image_std
    )
    return replace(own, config=config, parts=parts)


def _speaking(decoder: StageFile, clip: StageFile) -> StageFile:
    return replace(decoder, config=replace(decoder.config, clip_id=clip.config.clip_id))
