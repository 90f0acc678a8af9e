"""diffusers' config.json files -> our configs, without torch. Errors name file, key, expected and found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..checks import is_number, is_whole
from ..config import AutoencoderConfig, DecoderConfig, PriorConfig, ScheduleConfig, UNetConfig
from ..presets import KARLO
from ..texts import shown
from .header import CheckpointError

DIFFUSERS_MASK = -10000.0  # what diffusers adds to hide tokens, where Karlo's source has minus infinity
_LARGEST_SIZE = 2**31  # no width, depth or side comes near
_LARGEST = 1e30  # of numbers that have no natural limit
_BETAS = {"squaredcos_cap_v2": "cosine", "linear": "linear", "scaled_linear": "scaled_linear"}
_PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "fixed_large_log": "fixed_large",
    "learned_range": "learned_range",
}
_SPACINGS = {name: name for name in ("linspace", "leading", "trailing")}


@dataclass(frozen=True)
class _Scheduler:
    """What a scheduler class of diffusers stands for. sampler: ours; others: what its config.json may leave out."""

    sampler: str
    betas: str = "linear"
    variance: str = "fixed_small"
    clips: bool = False  # without thresholding, x_0 is clamped
    spacing: str = "leading"


# Sampling by another solver than the one that a stack was published with is a choice of the caller; ODE solvers that
# we lack go by the closest.
_SCHEDULERS = {
    "UnCLIPScheduler": _Scheduler("ddpm", "squaredcos_cap_v2", "fixed_small_log", clips=True, spacing="linspace"),
    "DDPMScheduler": _Scheduler("ddpm", clips=True),
    "DDIMScheduler": _Scheduler("ddim", clips=True),
    "PNDMScheduler": _Scheduler("ddim"),
    "EulerDiscreteScheduler": _Scheduler("ddim", spacing="linspace"),
    "EulerAncestralDiscreteScheduler": _Scheduler("ddpm", spacing="linspace"),
    "DPMSolverMultistepScheduler": _Scheduler("dpmpp_2m", spacing="linspace"),
    "UniPCMultistepScheduler": _Scheduler("unipc", spacing="linspace"),
}
SCHEDULERS = tuple(_SCHEDULERS)


def expect(path: Path, config: dict, **expected: object) -> None:
    """Raise CheckpointError unless each key is absent or has the expected value."""
    for key, value in expected.items():
        found = config.get(key, value)
        if found != value:
            raise CheckpointError(
                f"{path}: {key} is {shown(found)}, expected {value!r}; this is another kind of network"
            )


def whole(path: Path, config: dict, key: str) -> int:
    """A positive whole number of the config, or CheckpointError."""
    value = config.get(key)
    if not is_whole(value) or not 1 <= value <= _LARGEST_SIZE:
        raise CheckpointError(
            f"{path}: {key} is {shown(value)}, expected a positive whole number of at most {_LARGEST_SIZE}"
        )
    return value


def number(path: Path, config: dict, key: str, positive: bool = False) -> float:
    """A finite number of the config, or CheckpointError."""
    value = config.get(key)
    known = is_number(value) and abs(value) <= _LARGEST
    if not known or (positive and value <= 0):
        expected = "a positive number" if positive else "a finite number"
        raise CheckpointError(f"{path}: {key} is {shown(value)}, expected {expected}")
    return float(value)


def listed(path: Path, config: dict, key: str) -> list:
    """A list of the config, empty when it is not there, or CheckpointError."""
    value = config.get(key) or []
    if not isinstance(value, list):
        raise CheckpointError(f"{path}: {key} is {shown(value)}, expected a list")
    return value


def prior_config(path: Path, config: dict, schedule: ScheduleConfig, clip_id: str) -> PriorConfig:
    """PriorTransformer -> PriorConfig. Raises CheckpointError for the variants of other pipelines."""
    expect(path, config, additional_embeddings=4, added_emb_type="prd", encoder_hid_proj_type="linear")
    found = replace(
        KARLO.prior, clip_id=clip_id, **prior_sizes(path, config), mask_value=DIFFUSERS_MASK, schedule=schedule
    )
    alike = replace(found, mask_value=None, schedule=KARLO.prior.schedule) == KARLO.prior
    return found if alike else replace(found, prior_id=f"{clip_id}/prior-{found.width}x{found.depth}")


def prior_sizes(path: Path, config: dict) -> dict[str, int]:
    """The sizes of a PriorTransformer, as PriorConfig's fields. Raises CheckpointError as `prior_config`."""
    expect(path, config, time_embed_act_fn="silu", norm_in_type=None, embedding_proj_norm_type=None)
    dim = whole(path, config, "embedding_dim")
    for key in ("clip_embed_dim", "embedding_proj_dim"):
        if config.get(key) not in (None, dim):
            raise CheckpointError(f"{path}: {key} is {shown(config[key])}, expected embedding_dim's {dim}")
    heads = whole(path, config, "num_attention_heads")
    width = heads * whole(path, config, "attention_head_dim")
    if config.get("time_embed_dim") not in (None, width):
        raise CheckpointError(f"{path}: time_embed_dim is {shown(config['time_embed_dim'])}, expected {width}")
    return {
        "clip_dim": dim,
        "text_width": dim,
        "context_length": whole(path, config, "num_embeddings"),
        "width": width,
        "depth": whole(path, config, "num_layers"),
        "heads": heads,
    }


def decoder_config(
    path: Path, config: dict, text_path: Path, text: dict, schedule: ScheduleConfig, clip_id: str
) -> DecoderConfig:
    """UNet2DConditionModel and UnCLIPTextProjModel -> DecoderConfig."""
    expect(path, config, class_embed_type="identity", encoder_hid_dim=None, addition_embed_type=None)
    unet = attending_unet(path, config)
    expect(text_path, text, cross_attention_dim=unet.context_width, time_embed_dim=unet.time_width)
    dim = whole(text_path, text, "clip_embeddings_dim")
    try:
        found = replace(
            KARLO.decoder,
            clip_id=clip_id,
            clip_dim=dim,
            text_width=dim,
            extra_tokens=whole(text_path, text, "clip_extra_context_tokens"),
            unet=unet,
            schedule=schedule,
        )
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if replace(found, schedule=KARLO.decoder.schedule) == KARLO.decoder:
        return found
    return replace(found, decoder_id=f"{clip_id}/decoder-{unet.channels}x{unet.depth}")


def upsampler_unet(path: Path, config: dict, side: object) -> UNetConfig:
    """UNet2DModel without attention -> UNetConfig. side: the picture's, in pixels."""
    expect(path, config, add_attention=False, class_embed_type=None)
    levels = len(listed(path, config, "down_block_types"))
    return _unet(path, config, whole(path, {"sample_size": side}, "sample_size"), "Resnet", "", [False] * levels)


def schedule_config(path: Path, config: dict, learned: bool | None = None) -> ScheduleConfig:
    """A scheduler of diffusers, any of SCHEDULERS -> ScheduleConfig.

    learned: whether the network predicts a variance, which outweighs what the scheduler says (DDIM's says nothing);
    None: as the scheduler says.
    """
    kind = _scheduler(path, config)
    if config["_class_name"] == "UnCLIPScheduler":
        expect(path, config, beta_schedule="squaredcos_cap_v2")
    expect(path, config, trained_betas=None, rescale_betas_zero_snr=False, use_karras_sigmas=False)
    timesteps = whole(path, {"num_train_timesteps": 1000, **config}, "num_train_timesteps")
    name = _one_of(path, config, "beta_schedule", kind.betas, _BETAS)
    variance = _one_of(path, config, "variance_type", kind.variance, _VARIANCES)
    ends = {}
    if name != "cosine":
        given = {"beta_start": 1e-4, "beta_end": 0.02, **config}
        # Ours are those of a thousand timesteps.
        ends = {key: number(path, given, key, positive=True) * timesteps / 1000 for key in ("beta_start", "beta_end")}
    clamp, quantile = _bound(path, config, kind)
    spacing = _one_of(path, config, "timestep_spacing", kind.spacing, _SPACINGS)
    offset = config.get("steps_offset", 0) if spacing == "leading" else 0
    if type(offset) is not int or not 0 <= offset < timesteps:
        raise CheckpointError(f"{path}: steps_offset is {shown(offset)}, expected a timestep from 0 to {timesteps - 1}")
    if learned is not None:
        variance = "learned_range" if learned else "fixed_small" if variance == "learned_range" else variance
    return ScheduleConfig(
        name=name,
        **ends,
        timesteps=timesteps,
        prediction=_one_of(path, config, "prediction_type", "epsilon", _PREDICTIONS),
        variance=variance,
        x0_clamp=clamp,
        x0_quantile=quantile,
        spacing=spacing,
        first_timestep=offset,
    )


def sampler_of(path: Path, config: dict) -> str:
    """Our name of the sampler that a scheduler's config stands for."""
    return _scheduler(path, config).sampler


def _scheduler(path: Path, config: dict) -> _Scheduler:
    kind = config.get("_class_name")
    if not isinstance(kind, str) or kind not in _SCHEDULERS:
        raise CheckpointError(
            f"{path}: _class_name is {shown(kind)}, expected one of {', '.join(_SCHEDULERS)}; this is another kind of "
            "model"
        )
    return _SCHEDULERS[kind]


def _one_of(path: Path, config: dict, key: str, default: str, known: dict[str, str]) -> str:
    value = config.get(key, default)
    if not isinstance(value, str) or value not in known:
        raise CheckpointError(f"{path}: {key} is {shown(value)}, expected one of {', '.join(known)}")
    return known[value]


def _bound(path: Path, config: dict, kind: _Scheduler) -> tuple[float | None, float | None]:
    """(clamp, quantile) of x_0; where both a threshold and a clamp are asked for, the threshold is used."""
    if config.get("thresholding", False):
        given = {"sample_max_value": 1.0, "dynamic_thresholding_ratio": 0.995, **config}
        quantile = number(path, given, "dynamic_thresholding_ratio", positive=True)
        if quantile > 1.0:
            raise CheckpointError(
                f"{path}: dynamic_thresholding_ratio is {quantile:g}, expected a quantile of at most 1"
            )
        return number(path, given, "sample_max_value", positive=True), quantile
    if config.get("clip_sample", kind.clips):
        return number(path, {"clip_sample_range": 1.0, **config}, "clip_sample_range", positive=True), None
    return None, None


def autoencoder_config(path: Path, config: dict) -> AutoencoderConfig:
    """VQModel with spatial norms (MoVQ) or AutoencoderKL -> AutoencoderConfig."""
    movq = config.get("_class_name") == "VQModel"
    expect(path, config, in_channels=3, out_channels=3, act_fn="silu", mid_block_add_attention=True)
    if movq:
        expect(path, config, norm_type="spatial", lookup_from_codebook=False)
        expect(path, config, vq_embed_dim=config.get("latent_channels"))
    else:
        expect(path, config, use_quant_conv=True, use_post_quant_conv=True, shift_factor=None)
        expect(path, config, latents_mean=None, latents_std=None)
    channels, types = listed(path, config, "block_out_channels"), listed(path, config, "down_block_types")
    if not channels or not all(type(width) is int and width > 0 for width in channels) or len(channels) != len(types):
        raise CheckpointError(
            f"{path}: block_out_channels is {shown(channels)}, expected {len(types)} positive whole numbers"
        )
    attends = [kind == "AttnDownEncoderBlock2D" for kind in types]
    down = ["AttnDownEncoderBlock2D" if here else "DownEncoderBlock2D" for here in attends]
    up = ["AttnUpDecoderBlock2D" if here else "UpDecoderBlock2D" for here in reversed(attends)]
    for key, expected in (("down_block_types", down), ("up_block_types", up)):
        if listed(path, config, key) != expected:
            raise CheckpointError(f"{path}: {key} is {shown(config.get(key))}, expected {shown(expected)}")
    return AutoencoderConfig(
        kind="movq" if movq else "kl",
        latent_channels=whole(path, config, "latent_channels"),
        channels=tuple(channels),
        depth=whole(path, config, "layers_per_block"),
        attention_levels=tuple(level for level, here in enumerate(attends) if here),
        codes=whole(path, config, "num_vq_embeddings") if movq else 0,
        # MoVQ's latents are taken as they are, whatever scaling_factor its config.json carries.
        latent_scale=1.0 if movq else number(path, {"scaling_factor": 0.18215, **config}, "scaling_factor", True),
        norm_groups=whole(path, {"norm_num_groups": 32, **config}, "norm_num_groups"),
    )


def attending_unet(path: Path, config: dict) -> UNetConfig:
    """UNet2DConditionModel with added keys and values, of Karlo and Kandinsky -> UNetConfig."""
    expect(path, config, mid_block_type="UNetMidBlock2DSimpleCrossAttn", only_cross_attention=False)
    attends = [kind == "SimpleCrossAttnDownBlock2D" for kind in listed(path, config, "down_block_types")]
    return _unet(path, config, whole(path, config, "sample_size"), "Resnet", "SimpleCrossAttn", attends)


def latent_diffusion_unet(path: Path, config: dict) -> UNetConfig:
    """UNet2DConditionModel with transformer blocks, of Stable Diffusion 2 -> UNetConfig."""
    expect(path, config, mid_block_type="UNetMidBlock2DCrossAttn", only_cross_attention=False, downsample_padding=1)
    expect(path, config, dual_cross_attention=False, transformer_layers_per_block=1, conv_in_kernel=3)
    expect(
        path, config, conv_out_kernel=3, attention_type="default", time_embedding_act_fn=None, timestep_post_act=None
    )
    attends = [kind == "CrossAttnDownBlock2D" for kind in listed(path, config, "down_block_types")]
    found = {**config, "attention_head_dim": _head_channels(path, config)}
    unet = _unet(path, found, whole(path, config, "sample_size"), "", "CrossAttn", attends)
    return replace(unet, attention="cross", resblock_updown=False)


def _head_channels(path: Path, config: dict) -> int:
    """Channels of an attention's head, one number for all levels; the config says the number of heads by this name."""
    heads, channels = config.get("attention_head_dim"), listed(path, config, "block_out_channels")
    heads = heads if isinstance(heads, list) else [heads] * len(channels)
    counted = len(heads) == len(channels) and all(type(count) is int and count > 0 for count in heads)
    wide = {width / count for width, count in zip(channels, heads, strict=True)} if counted else set()
    if len(wide) != 1 or not (found := wide.pop()).is_integer():
        raise CheckpointError(
            f"{path}: attention_head_dim is {shown(config.get('attention_head_dim'))}, expected numbers of heads that "
            f"divide block_out_channels {shown(channels)} into heads of one width"
        )
    return int(found)


def _unet(path: Path, config: dict, side: int, plain: str, attending: str, attends: list[bool]) -> UNetConfig:
    """What both kinds of UNet share. attends: per level, whether it has attention."""
    expect(path, config, act_fn="silu", center_input_sample=False, flip_sin_to_cos=True, freq_shift=0)
    expect(path, config, time_embedding_type="positional", mid_block_scale_factor=1, dropout=0.0)
    expect(path, config, resnet_skip_time_act=False, resnet_out_scale_factor=1.0, time_embedding_dim=None)
    down = [f"{attending if here else plain}DownBlock2D" for here in attends]
    down = [kind.replace("ResnetDown", "ResnetDownsample") for kind in down]
    up = [kind.replace("Down", "Up") for kind in reversed(down)]
    channels = listed(path, config, "block_out_channels")
    for key, expected in (("down_block_types", down), ("up_block_types", up)):
        if listed(path, config, key) != expected:
            raise CheckpointError(f"{path}: {key} is {shown(config.get(key))}, expected {shown(expected)}")
    base = channels[0] if channels and all(type(width) is int and width > 0 for width in channels) else 0
    if not base or len(channels) != len(attends) or any(width % base for width in channels):
        raise CheckpointError(
            f"{path}: block_out_channels is {shown(channels)}, expected {len(attends)} multiples of the first"
        )
    scale_shift = config.get("resnet_time_scale_shift", "default")
    if scale_shift not in ("default", "scale_shift"):
        raise CheckpointError(
            f"{path}: resnet_time_scale_shift is {shown(scale_shift)}, expected default or scale_shift"
        )
    try:
        return UNetConfig(
            image_size=side,
            in_channels=whole(path, config, "in_channels"),
            out_channels=whole(path, config, "out_channels"),
            channels=base,
            channel_mult=tuple(width // base for width in channels),
            depth=whole(path, config, "layers_per_block"),
            attention_resolutions=tuple(side >> level for level, here in enumerate(attends) if here),
            head_channels=whole(path, config, "attention_head_dim") if any(attends) else UNetConfig.head_channels,
            context_width=whole(path, config, "cross_attention_dim") if any(attends) else 0,
            time_conditioning="scale_shift" if scale_shift == "scale_shift" else "add",
            norm_groups=whole(path, {"norm_num_groups": 32, **config}, "norm_num_groups"),
            norm_eps=number(path, {"norm_eps": 1e-5, **config}, "norm_eps", positive=True),
        )
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
