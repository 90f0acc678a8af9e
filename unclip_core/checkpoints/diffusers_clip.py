"""The configs of transformers' two CLIP towers -> ClipConfig, without torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..config import ClipConfig, ClipTextConfig, ClipVisionConfig
from ..presets import KARLO
from ..texts import shown
from .diffusers_configs import expect, listed, number, whole
from .header import CheckpointError

# The vocabulary of open_clip's own tokenizer, which is OpenAI's.
VOCABULARY_SIZE = 49408
# By the padding token's spelling.
PADDING = {"!": 0, "<|endoftext|>": 49407}
_SIZES = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048}
_TEXT_DEFAULTS = _SIZES | {"projection_dim": 512, "vocab_size": VOCABULARY_SIZE, "max_position_embeddings": 77}
_VISION_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "projection_dim": 512,
    "patch_size": 32,
    "image_size": 224,
}


@dataclass(frozen=True)
class _Published:
    """The sizes of a CLIP; a tower that is not there is None."""

    dim: int
    quick_gelu: bool
    text: ClipTextConfig | None
    vision: ClipVisionConfig | None

    def is_of(self, other: _Published) -> bool:
        """Whether the towers that are there are those of `other`."""
        same = (self.dim, self.quick_gelu) == (other.dim, other.quick_gelu)
        return same and self.text in (None, other.text) and self.vision in (None, other.vision)


# By clip_id, and open_clip's names of architecture and weights.
_PUBLISHED = {
    ("ViT-L-14/openai", "ViT-L-14-quickgelu", "openai"): _Published(
        768, True, ClipTextConfig(768, 12, 12), ClipVisionConfig(1024, 24, 64, 14, 224)
    ),
    ("ViT-H-14/laion2b_s32b_b79k", "ViT-H-14", "laion2b_s32b_b79k"): _Published(
        1024, False, ClipTextConfig(1024, 24, 16), ClipVisionConfig(1280, 32, 80, 14, 224)
    ),
    ("ViT-bigG-14/laion2b_s39b_b160k", "ViT-bigG-14", "laion2b_s39b_b160k"): _Published(
        1280, False, ClipTextConfig(1280, 32, 20), ClipVisionConfig(1664, 48, 104, 14, 224, mlp_width=8192)
    ),
}


def clip_config(
    text: tuple[Path, dict] | None,
    image: tuple[Path, dict] | None,
    tokens: tuple[Path, dict],
    pictures: tuple[Path, dict],
) -> ClipConfig:
    """The towers' configs (path, content) -> ClipConfig; a missing tower is left out of `towers`.

    tokens: special_tokens_map.json; pictures: preprocessor_config.json; either may be empty. A CLIP of a published
    one's sizes goes by open_clip's name for it, whatever folder it lies in. Raises CheckpointError for a CLIP that
    open_clip cannot build.
    """
    text_tower, text_dim, context = _text(*text) if text else (None, None, 77)
    vision_tower, image_dim = _vision(*image) if image else (None, None)
    if text_dim is not None and image_dim is not None and text_dim != image_dim:
        raise CheckpointError(f"{image[0]}: projection_dim is {image_dim}, expected the text encoder's {text_dim}")
    quick = {_is_quick(*tower) for tower in (text, image) if tower}
    if len(quick) > 1:
        raise CheckpointError(f"{image[0]}: hidden_act is not the text encoder's; they belong to different CLIPs")
    dim = text_dim if text_dim is not None else image_dim
    config = replace(
        KARLO.clip,
        embed_dim=dim,
        text_width=text_tower.width if text else dim,
        context_length=context,
        towers=tuple(name for name, there in (("text", text), ("image", image)) if there),
        padding=padding_id(*tokens),
        image_mean=_colour(*pictures, "image_mean", ClipConfig.image_mean),
        image_std=_colour(*pictures, "image_std", ClipConfig.image_std),
    )
    return named(config, text_tower, vision_tower, quick.pop())


def named(
    config: ClipConfig, text: ClipTextConfig | None, vision: ClipVisionConfig | None, quick_gelu: bool
) -> ClipConfig:
    """The config with the towers that are there, and the id of the published CLIP that has them, or one that says its
    sizes."""
    found = _Published(config.embed_dim, quick_gelu, text, vision)
    for names, published in _PUBLISHED.items():
        if config.context_length == 77 and found.is_of(published):
            clip_id, architecture, pretrained = names
            width = published.text.width
            return replace(config, clip_id=clip_id, architecture=architecture, pretrained=pretrained, text_width=width)
    parts = [f"T{text.width}x{text.layers}"] if text else []
    parts += [f"V{vision.width}x{vision.layers}-{vision.patch_size}"] if vision else []
    return replace(
        config,
        clip_id=f"clip-{'-'.join(parts)}/{config.embed_dim}",
        architecture=None,
        pretrained=None,
        vision=vision or ClipVisionConfig(),
        text=text or ClipTextConfig(),
        quick_gelu=found.quick_gelu,
    )


def _text(path: Path, config: dict) -> tuple[ClipTextConfig, int, int]:
    config = _TEXT_DEFAULTS | config
    width = _check(path, config)
    expect(path, config, vocab_size=VOCABULARY_SIZE)
    layers, heads = whole(path, config, "num_hidden_layers"), whole(path, config, "num_attention_heads")
    tower = ClipTextConfig(width, layers, heads, mlp_width=_mlp_width(path, config, width))
    return tower, whole(path, config, "projection_dim"), whole(path, config, "max_position_embeddings")


def _vision(path: Path, config: dict) -> tuple[ClipVisionConfig, int]:
    config = _VISION_DEFAULTS | config
    width = _check(path, config)
    tower = ClipVisionConfig(
        width,
        whole(path, config, "num_hidden_layers"),
        width // whole(path, config, "num_attention_heads"),
        whole(path, config, "patch_size"),
        whole(path, config, "image_size"),
        _mlp_width(path, config, width),
    )
    return tower, whole(path, config, "projection_dim")


def _check(path: Path, config: dict) -> int:
    """The tower's width, once its shape is one that open_clip builds."""
    expect(path, config, layer_norm_eps=1e-5, num_channels=3)
    width, heads = whole(path, config, "hidden_size"), whole(path, config, "num_attention_heads")
    if width % heads:
        raise CheckpointError(f"{path}: num_attention_heads is {heads}, expected a divisor of hidden_size {width}")
    return width


def _mlp_width(path: Path, config: dict, width: int) -> int:
    mlp = whole(path, config, "intermediate_size")
    return 0 if mlp == 4 * width else mlp


def _is_quick(path: Path, config: dict) -> bool:
    """Whether the activation is OpenAI's approximation of GELU."""
    kind = config.get("hidden_act", "quick_gelu")
    if kind not in ("gelu", "quick_gelu"):
        raise CheckpointError(f"{path}: hidden_act is {shown(kind)}, expected gelu or quick_gelu")
    return kind == "quick_gelu"


def padding_id(path: Path, tokens: dict) -> int:
    """Token ids of captions are filled up with this one; by default as transformers does it."""
    token = tokens.get("pad_token", "<|endoftext|>")
    token = token.get("content") if isinstance(token, dict) else token
    if token is not None and not isinstance(token, str):
        raise CheckpointError(f"{path}: pad_token is {shown(token)}, expected a token's text; download it again")
    return PADDING.get(token, PADDING["<|endoftext|>"])


def _colour(path: Path, pictures: dict, key: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
    """Three numbers, for red, green and blue."""
    values = listed(path, pictures, key)
    if values and len(values) != 3:
        raise CheckpointError(f"{path}: {key} is {shown(values)}, expected three numbers; download it again")
    return tuple(number(path, {key: value}, key) for value in values) or default
