"""Every network's configuration. The presets PAPER, KARLO and STORYBOOK are in presets.py.

Frozen dataclasses that travel as JSON inside a checkpoint's metadata. This module imports neither torch nor numpy:
the catalog and the node schemas read it while the editor starts. Sizes are in channels, tokens or pixels; section
numbers are those of Ramesh et al. 2022 (arXiv 2204.06125).
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field

from .checks import is_whole
from .texts import one_line

FORMAT_VERSION = 1

# Per-dimension standard deviation an embedding must have for the pixel schedules to carry over: that of ImageNet's RGB
# values in [-1, 1]. 17.2 / sqrt(1024) in App. C.
EMBED_STD = 0.5375
# Noise level from which a prior starts that is given an embedding: Kandinsky 2.2's own.
START_STRENGTH = 0.3


@dataclass(frozen=True)
class ScheduleConfig:
    """A discrete noise schedule and what the network predicts on it."""

    name: str = "cosine"  # "cosine" (Nichol & Dhariwal 2021), "linear" (Ho et al. 2020) or "scaled_linear" (LDM)
    beta_start: float = 1e-4  # of the linear ones, at T = 1000
    beta_end: float = 0.02
    timesteps: int = 1000  # training steps T
    prediction: str = "eps"  # "eps", "x0" or "v"
    variance: str = "fixed_small"  # "learned_range" (twice the output channels), "fixed_small" or "fixed_large"
    x0_clamp: float | None = 1.0  # samplers clamp the predicted x_0 to +-this; None: never
    x0_quantile: float | None = None  # dynamic threshold (Saharia et al. 2022): bound by this quantile, up to x0_clamp
    # Which timesteps n steps visit: "linspace", from T-1 to 0; "leading", multiples of T // n from 0 up, plus
    # `first_timestep`; "trailing", multiples of T / n from T down, less 1 (Lin et al. 2024, Table 2).
    # Multistep samplers leave out the step next to the picture, see `respaced_timesteps`.
    spacing: str = "linspace"
    first_timestep: int = 0

    def __post_init__(self) -> None:
        _one_of("ScheduleConfig.spacing", self.spacing, ("linspace", "leading", "trailing"))
        _one_of("ScheduleConfig.name", self.name, ("cosine", "linear", "scaled_linear"))
        _one_of("ScheduleConfig.prediction", self.prediction, ("eps", "x0", "v"))
        _one_of("ScheduleConfig.variance", self.variance, ("learned_range", "fixed_small", "fixed_large"))


@dataclass(frozen=True)
class SamplingConfig:
    """The stack's own way of sampling a stage; a caller's explicit value wins."""

    sampler: str = "ddpm"  # "ddpm", "ddim", "dpmpp_2m", "unipc" or "analytic_ddpm"
    steps: int = 25
    guidance_scale: float = 1.0  # 1.0: conditional forward only
    eta: float = 0.0  # DDIM's noise share; 1.0 is ancestral


@dataclass(frozen=True)
class ClipVisionConfig:
    """An image tower: a plain ViT, or the timm network that `trunk` names (then the other numbers but image_size do not
    apply); named open_clip models bring their own."""

    width: int = 192
    layers: int = 6
    head_width: int = 64
    patch_size: int = 8
    image_size: int = 64
    mlp_width: int = 0  # 0: four times the width
    trunk: str | None = None  # as "convnext_atto"
    # What a trunk's last feature map becomes before its classifier, the projection: its "mean", or a "map" of 2 x 2
    # cells side by side. Means lose which thing is red and which stands above. A plain ViT pools by its class token.
    head: str = "mean"

    def __post_init__(self) -> None:
        _one_of("ClipVisionConfig.head", self.head, ("mean", "map"))


@dataclass(frozen=True)
class ClipTextConfig:
    """A causal text tower; named open_clip models bring their own."""

    width: int = 128
    layers: int = 4
    heads: int = 2
    vocabulary_size: int = 49408  # token ids of open_clip's own tokenizer; a word list brings its own
    mlp_width: int = 0  # 0: four times the width


@dataclass(frozen=True)
class ClipConfig:
    """Which CLIP a stack speaks. Either `architecture` names an open_clip model, or `vision`/`text` describe one."""

    clip_id: str = "ViT-L-14/openai"
    embed_dim: int = 768  # D of the shared space
    text_width: int = 768  # W of the token states
    context_length: int = 77  # T
    normalised: bool = False  # embeddings on the wire have unit norm
    architecture: str | None = "ViT-L-14-quickgelu"
    pretrained: str | None = "openai"
    vision: ClipVisionConfig | None = None
    text: ClipTextConfig | None = None
    quick_gelu: bool = False  # of `vision` and `text`: OpenAI's activation
    towers: tuple[str, ...] = ("text", "image")  # those whose weights there are
    padding: int = 0  # of open_clip's own tokenizer: 0 (Karlo) or 49407 (transformers); masked either way
    vocabulary: tuple[str, ...] = ()  # words of the small tokenizer; empty: open_clip's own tokenizer
    knows: str = ""  # for people: what a small vocabulary can talk about
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class TextEncoderConfig:
    """The caption transformer of the paper's decoder and AR prior (Table 3)."""

    vocabulary_size: int = 49408
    context_length: int = 256
    width: int = 2048
    depth: int = 24
    heads: int = 32


@dataclass(frozen=True)
class MultilingualConfig:
    """A multilingual text encoder of a decoder's own: XLM-R large, as Kandinsky 2.1 has it."""

    vocabulary_size: int = 250002
    context_length: int = 77
    positions: int = 514  # rows of the position table
    width: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_width: int = 4096
    padding: int = 1  # captions are filled up with this id
    norm_eps: float = 1e-5


@dataclass(frozen=True)
class TextTowerConfig:
    """The text half of a CLIP that a decoder has for itself: its last states, normed, are the conditioning tokens.

    The defaults are Stable unCLIP's: OpenCLIP's ViT-H without its last block.
    """

    vocabulary_size: int = 49408  # token ids of open_clip's own tokenizer
    context_length: int = 77
    width: int = 1024
    depth: int = 23
    heads: int = 16
    padding: int = 0  # captions are filled up with this id, and every token is seen


@dataclass(frozen=True)
class PriorConfig:
    """The diffusion prior: a causal transformer over [text tokens, text embed, time, noisy embed, query] (§2.2)."""

    clip_id: str = "ViT-L-14/openai"
    prior_id: str = "karlo-v1-alpha/prior"
    clip_dim: int = 768  # D
    text_width: int = 768  # width of the incoming token states
    context_length: int = 77  # number of text tokens
    width: int = 2048
    depth: int = 20
    heads: int = 32
    final_norm: bool = True
    dropout: float = 0.0
    scaling: str = "mean_std"  # "constant": z * embed_scale; "mean_std": (z - mean) / std, held in the checkpoint
    embed_scale: float = 1.0  # only for "constant"; EMBED_STD * sqrt(D) for unit-norm embeddings (App. C)
    mask_value: float | None = (
        None  # additive value of masked tokens: None is -inf (Karlo), -10000.0 as diffusers runs it
    )
    null_text: str = "empty_caption"  # the unconditional: the encoded "" (Karlo) or a "learned" token set
    one_pass: bool = False  # ECLIPSE: no time token; one forward from pure noise gives the embedding, without guidance
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(prediction="x0", variance="fixed_small", x0_clamp=10.0)
    )
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig("ddpm", 25, 4.0))

    def __post_init__(self) -> None:
        _one_of("PriorConfig.scaling", self.scaling, ("constant", "mean_std"))
        _one_of("PriorConfig.null_text", self.null_text, ("empty_caption", "learned"))
        if self.one_pass and self.schedule.prediction != "x0":
            raise ValueError(
                f"PriorConfig.one_pass gives the embedding itself, which is prediction 'x0', got "
                f"{self.schedule.prediction!r}"
            )


@dataclass(frozen=True)
class ARSamplingConfig:
    """The stack's own way of sampling the autoregressive prior; a caller's explicit value wins."""

    guidance_scale: float = 1.0  # 1.0: conditional forward only
    temperature: float = 1.0  # divides the logits; 0.0 always takes the likeliest code
    dot_percentile: float = 50.0  # z_i . z_t is drawn above this percentile of its distribution (§2.2, footnote 2)


@dataclass(frozen=True)
class ARPriorConfig:
    """The autoregressive prior: a causal transformer over [text tokens, text embed, z_i . z_t, codes] (§2.2, App. C).

    The codes are the image embedding's principal components, largest first, each quantised.
    """

    clip_id: str = "ViT-H-16/paper"
    ar_prior_id: str = "paper/ar_prior"
    clip_dim: int = 1024  # D
    text_width: int = 1024  # width of CLIP's token states; unused with a text encoder
    components: int = 319  # principal components kept: those that explain 99 % of the variance (App. C)
    buckets: int = 1024  # quantisation levels of each component, and of z_i . z_t
    bucket_features: int = 0  # 0: a free row for each bucket; n: rows are mixtures of n smooth functions of the bucket
    context_length: int = 384  # of text embed, z_i . z_t and codes; text tokens bring positions of their own
    width: int = 1664
    depth: int = 24
    heads: int = 26
    dropout: float = 0.0
    embed_scale: float = 32.0  # multiplies the text embedding; sqrt(D) for unit-norm embeddings
    text_encoder: TextEncoderConfig | None = field(default_factory=TextEncoderConfig)  # None: CLIP's token states
    sampling: ARSamplingConfig = field(default_factory=ARSamplingConfig)

    def __post_init__(self) -> None:
        if not 1 <= self.components <= self.clip_dim:
            raise ValueError(f"ARPriorConfig.components {self.components} must be 1 to clip_dim {self.clip_dim}")
        if self.components + 1 > self.context_length:
            raise ValueError(
                f"ARPriorConfig.context_length {self.context_length} is too short for text embed, z_i . z_t and all "
                f"but the last of {self.components} components; it needs {self.components + 1}"
            )


@dataclass(frozen=True)
class UNetConfig:
    """A UNet of residual blocks and attention, of ADM's kind (Dhariwal & Nichol 2021) or latent diffusion's."""

    image_size: int = 64  # pixels of the side it was trained at
    in_channels: int = 3  # x_t, plus the low-resolution picture for upsamplers
    out_channels: int = 6  # 3, or 6 with learned variance
    channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    depth: int = 3  # residual blocks per level
    attention_resolutions: tuple[int, ...] = (32, 16, 8)  # side lengths of feature maps that attend; () for none
    head_channels: int = 64
    context_width: int = 1536  # width of the conditioning tokens; 0: attention sees pixels alone
    # "joint": over [conditioning tokens; pixels] (ADM, GLIDE); "cross": a transformer block in which pixels attend to
    # each other, then to the tokens (latent diffusion)
    attention: str = "joint"
    time_conditioning: str = "scale_shift"  # or "add"
    resblock_updown: bool = True  # resample inside residual blocks (ADM); False: one strided convolution
    patch_size: int = 1  # pixel-unshuffle before the first, pixel-shuffle after the last convolution
    # Features of full size beside the shuffled picture, from which a 3 x 3 convolution corrects it across the patches'
    # edges: each pixel of a patch has weights of its own, which shows as a lattice. 0: none.
    fine_channels: int = 0
    dropout: float = 0.0
    norm_groups: int = 32
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        _one_of("UNetConfig.time_conditioning", self.time_conditioning, ("scale_shift", "add"))
        _one_of("UNetConfig.attention", self.attention, ("joint", "cross"))
        if self.attention == "cross" and not self.context_width:
            raise ValueError("UNetConfig.attention 'cross' attends to tokens, but context_width is 0")
        if self.image_size % self.side_multiple:
            raise ValueError(
                f"UNetConfig.image_size {self.image_size} must be a multiple of {self.side_multiple} "
                f"(patch_size {self.patch_size}, {len(self.channel_mult)} levels)"
            )

    @property
    def side_multiple(self) -> int:
        """What the sides of x_t are multiples of: every level but the last halves them."""
        return self.patch_size * 2 ** (len(self.channel_mult) - 1)

    @property
    def skip_count(self) -> int:
        """Skip connections from the way down to the way up; each leads to a block there."""
        return len(self.channel_mult) * (self.depth + 1)

    @property
    def time_width(self) -> int:
        """Width of the time embedding: 4 x channels, as in ADM."""
        return 4 * self.channels


@dataclass(frozen=True)
class AutoencoderConfig:
    """What turns pictures into a latent decoder's grid and back: MoVQ (Kandinsky 2) or SD's KL autoencoder.

    Both are the convolutional network of Rombach et al. 2022; the defaults are MoVQ's.
    """

    kind: str = "movq"  # "movq": the decoder's norms are modulated by the latent; "kl": plain norms, a Gaussian latent
    latent_channels: int = 4
    channels: tuple[int, ...] = (128, 256, 256, 512)  # per level, from the picture down; each level halves the sides
    depth: int = 2  # residual blocks per level; the decoder has one more
    attention_levels: tuple[int, ...] = (3,)  # levels that attend besides the middle; MoVQ's narrowest
    codes: int = 16384  # rows of MoVQ's codebook, which latents are never snapped to here; 0 for "kl"
    latent_scale: float = 1.0  # latents on the decoder's grid are the autoencoder's times this; SD: 0.18215
    norm_groups: int = 32

    def __post_init__(self) -> None:
        _one_of("AutoencoderConfig.kind", self.kind, ("movq", "kl"))

    @property
    def factor(self) -> int:
        """Pixels of a picture's side per pixel of the latent's."""
        return 2 ** (len(self.channels) - 1)


# Layer norms that a decoder may have behind its projections: of the text tokens, of the extra image tokens, and of what
# image and text embedding add to the time embedding.
DECODER_NORMS = ("text_tokens", "image_tokens", "image_time", "text_time")


@dataclass(frozen=True)
class DecoderConfig:
    """The decoder: a UNet conditioned on an image embedding and, optionally, a caption (§2.1).

    Its grid is pixels (the paper, Karlo, storybook), or the latents of `autoencoder` (Kandinsky 2).
    """

    clip_id: str = "ViT-L-14/openai"
    decoder_id: str = "karlo-v1-alpha/decoder"
    clip_dim: int = 768
    text_width: int = 768  # width of CLIP's token states
    extra_tokens: int = 4  # image-embedding tokens put before the text tokens
    embed_scale: float = 1.0  # multiplies the embedding before its projections; sqrt(D) for unit-norm embeddings
    text_embed_in_time: bool = True  # Karlo adds the projected text embedding to the time embedding as well
    # How it reads captions: "clip", by CLIP's states or `text_encoder`; "own_clip", by those of `text_tower` (Stable
    # unCLIP); "xlm_r", by those of a multilingual encoder (Kandinsky 2.1); "none", not at all (Kandinsky 2.2).
    text: str = "clip"
    token_order: str = "feature_major"  # of the extra tokens' projection (Karlo), or "token_major" (Kandinsky)
    norms: tuple[str, ...] = ("text_tokens",)  # layer norms behind projections, any of DECODER_NORMS
    mask_text: bool = True  # padding is hidden from the attention; Kandinsky 2.1 lets it be seen
    text_encoder: TextEncoderConfig | None = None  # None: CLIP's states through Linear + LayerNorm (Karlo)
    multilingual: MultilingualConfig | None = None  # of text "xlm_r"
    text_tower: TextTowerConfig | None = None  # of text "own_clip"
    # Noise that embeddings may carry, by their own schedule; the network is told its level (Stable unCLIP).
    embed_noise: ScheduleConfig | None = None
    # The unconditional image embedding: "learned" (Karlo), "zero", or CLIP's of an all-zero normalised picture
    # ("zero_picture", Kandinsky).
    null_embed: str = "learned"
    null_text: str = "empty_caption"  # unconditional caption: the encoded "" (Karlo) or "learned"
    # Input channels after x_t's: "none"; "inpaint", the known picture and the mask of what is known; "hint", features
    # of a depth picture (Kandinsky 2.2's controlnet).
    extra_input: str = "none"
    unet: UNetConfig = field(default_factory=UNetConfig)
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(variance="learned_range"))
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig("ddpm", 25, 8.0))
    autoencoder: AutoencoderConfig | None = None

    def __post_init__(self) -> None:
        _one_of("DecoderConfig.null_embed", self.null_embed, ("learned", "zero", "zero_picture"))
        _one_of("DecoderConfig.text", self.text, ("clip", "own_clip", "xlm_r", "none"))
        _one_of("DecoderConfig.token_order", self.token_order, ("feature_major", "token_major"))
        for norm in self.norms:
            _one_of("DecoderConfig.norms", norm, DECODER_NORMS)
        _one_of("DecoderConfig.null_text", self.null_text, ("empty_caption", "learned"))
        _one_of("DecoderConfig.extra_input", self.extra_input, ("none", "inpaint", "hint"))
        _check_channels("DecoderConfig", self.unet, self.schedule, self.channels)
        expected = self.channels + self.extra_channels
        if self.unet.in_channels != expected:
            raise ValueError(
                f"DecoderConfig: extra_input {self.extra_input!r} needs unet.in_channels {expected}, got "
                f"{self.unet.in_channels}"
            )
        self._check_stable()
        if (self.text == "xlm_r") != (self.multilingual is not None):
            raise ValueError(f"DecoderConfig: text {self.text!r} and multilingual do not go together")
        if self.multilingual is not None and self.multilingual.width != self.text_width:
            raise ValueError(
                f"DecoderConfig.text_width {self.text_width} must be multilingual.width {self.multilingual.width}"
            )
        if self.extra_input == "hint" and (self.autoencoder is None or self.autoencoder.factor != 8):
            raise ValueError(
                "DecoderConfig: extra_input 'hint' needs an autoencoder of 4 levels: a hint is shrunk by 8"
            )

    def _check_stable(self) -> None:
        """What Stable unCLIP's network has comes together, and without what the others have."""
        stable = self.text == "own_clip"
        whole = self.unet.attention == "cross" and None not in (self.text_tower, self.embed_noise, self.autoencoder)
        others = self.extra_tokens, self.norms, self.text_embed_in_time, self.mask_text, self.null_embed
        if stable and (not whole or others != (0, (), False, False, "zero") or self.extra_input != "none"):
            raise ValueError(
                "DecoderConfig.text 'own_clip' needs unet.attention 'cross', text_tower, embed_noise, autoencoder, "
                "extra_tokens 0, norms (), text_embed_in_time and mask_text false, null_embed 'zero'"
            )
        if not stable and (self.unet.attention == "cross" or self.text_tower or self.embed_noise):
            raise ValueError(
                "DecoderConfig: unet.attention 'cross', text_tower and embed_noise go with text 'own_clip' alone, got "
                f"{self.text!r}"
            )
        if stable and self.text_tower.width != self.unet.context_width:
            raise ValueError(
                f"DecoderConfig: unet.context_width {self.unet.context_width} must be the text tower's width "
                f"{self.text_tower.width}"
            )

    @property
    def channels(self) -> int:
        """Channels of x_t: 3 for pixels, or the autoencoder's latent."""
        return 3 if self.autoencoder is None else self.autoencoder.latent_channels

    @property
    def extra_channels(self) -> int:
        """Channels behind x_t's in the network's input."""
        return {"none": 0, "inpaint": self.channels + 1, "hint": self.channels}[self.extra_input]


@dataclass(frozen=True)
class UpsamplerConfig:
    """A super-resolution UNet: the low-resolution picture joins x_t as extra channels; no text, no guidance (§2.1)."""

    low_size: int = 64
    high_size: int = 256
    augmentation: str = "blur"  # how the training input is degraded: "blur" (64 -> 256), "bsr" (256 -> 1024), "none"
    augmentation_level: bool = False  # the network is told the degradation's strength, 0..1
    sampling_level: float = 0.0  # the level it is told when sampling
    final_network: bool = False  # a second network makes the last step (Karlo's improved super-resolution)
    residual: bool = False  # the network corrects the enlarged picture: x_0 = low + output (x0 prediction only)
    unet: UNetConfig = field(
        default_factory=lambda: UNetConfig(
            image_size=256,
            in_channels=6,
            out_channels=3,
            attention_resolutions=(),
            context_width=0,
            time_conditioning="add",
        )
    )
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig("ddpm", 7))

    def __post_init__(self) -> None:
        _one_of("UpsamplerConfig.augmentation", self.augmentation, ("none", "blur", "bsr"))
        _check_channels("UpsamplerConfig", self.unet, self.schedule)
        if self.residual and (self.schedule.prediction != "x0" or self.schedule.variance == "learned_range"):
            raise ValueError(
                "UpsamplerConfig.residual adds the output to the enlarged picture, which needs prediction 'x0' and a "
                f"fixed variance, got {self.schedule.prediction!r} and {self.schedule.variance!r}"
            )


@dataclass(frozen=True)
class StackConfig:
    """A whole unCLIP. A stage that a stack lacks is None."""

    name: str
    clip: ClipConfig | None = None
    prior: PriorConfig | None = None
    decoder: DecoderConfig | None = None
    upsampler_256: UpsamplerConfig | None = None
    upsampler_1024: UpsamplerConfig | None = None
    ar_prior: ARPriorConfig | None = None


STAGE_CONFIGS: dict[str, type] = {
    "clip": ClipConfig,
    "prior": PriorConfig,
    "decoder": DecoderConfig,
    "upsampler_256": UpsamplerConfig,
    "upsampler_1024": UpsamplerConfig,
    "ar_prior": ARPriorConfig,
}
STAGES = tuple(STAGE_CONFIGS)
UPSAMPLERS = ("upsampler_256", "upsampler_1024")


def to_json(config: object) -> str:
    """A config as JSON; `from_json` gives an equal object back."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True, ensure_ascii=False)  # type: ignore[call-overload]


# A stranger's config is a plan to build by, so what cannot be true is refused before it takes time and memory.
_LARGEST_SIZE, _LONGEST = 2**24, 12
_LARGEST = {"layers": 128, "depth": 128, "context_length": 4096, "timesteps": 100_000, "sampling.steps": 100_000}


def from_json(cls: type, text: str):
    """Read `text` into the config class `cls`. Raises ValueError naming an unknown field or a wrong type."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{cls.__name__}: not JSON ({error})") from None
    return from_plain(cls, data, cls.__name__)


def _largest(where: str) -> int:
    """The largest number that may stand there: by the field's name, or its name in its table."""
    table, _, name = where.rpartition(".")
    return _LARGEST.get(name) or _LARGEST.get(f"{table.rpartition('.')[2]}.{name}", _LARGEST_SIZE)


def from_plain(kind, data, where: str):
    """Rebuild dataclasses and tuples from JSON's dicts and lists, checking each value against its annotation."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        if data is None:
            return None
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if dataclasses.is_dataclass(kind):
        if not isinstance(data, dict):
            raise ValueError(f"{where}: expected an object, got {data!r}")
        hints = typing.get_type_hints(kind)
        if unknown := sorted(set(data) - set(hints)):
            raise ValueError(f"{where}: unknown fields {unknown}; this checkpoint needs a newer comfyui-unclip")
        return kind(**{name: from_plain(hints[name], value, f"{where}.{name}") for name, value in data.items()})
    if typing.get_origin(kind) is tuple:
        if not isinstance(data, list | tuple):
            raise ValueError(f"{where}: expected a list, got {data!r}")
        kinds = typing.get_args(kind)
        if len(data) > _LONGEST and kinds[0] is not str:
            raise ValueError(f"{where}: {len(data)} values are more than {_LONGEST}, which no network has")
        kinds = kinds[:1] * len(data) if kinds[-1] is Ellipsis else kinds
        if len(kinds) != len(data):
            raise ValueError(f"{where}: expected {len(kinds)} values, got {data!r}")
        return tuple(map(from_plain, kinds, data, [where] * len(data)))
    if kind is float and is_whole(data):
        return float(data)
    if not isinstance(data, kind) or (kind is not bool and isinstance(data, bool)):
        raise ValueError(f"{where}: expected {kind.__name__}, got {data!r}")
    if kind is int and abs(data) > (most := _largest(where)):
        raise ValueError(f"{where}: {one_line(str(data), 20)} is more than {most}, which no network has")
    if kind is str:
        data.encode()  # a UnicodeEncodeError, which is a ValueError, for half a character that JSON's escapes spell
    return data


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} {value!r} is unknown; choose one of {', '.join(allowed)}")


def _check_channels(owner: str, unet: UNetConfig, schedule: ScheduleConfig, channels: int = 3) -> None:
    expected = 2 * channels if schedule.variance == "learned_range" else channels
    if unet.out_channels != expected:
        raise ValueError(
            f"{owner}: variance {schedule.variance!r} needs unet.out_channels {expected}, got {unet.out_channels}"
        )
