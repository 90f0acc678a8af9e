"""open_clip's networks: built from a config, without the weights, and run for the states of their text tokens."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from ..config import ClipConfig, ClipTextConfig, ClipVisionConfig
from ..models.empty import without_contents
from .words import WordTokenizer

MAP_SIDE = 2  # cells a side of the image head "map"


def build_network(config: ClipConfig) -> nn.Module:
    """The open_clip model that `config` describes, with fresh weights, also where it names an architecture."""
    import open_clip

    if config.architecture:
        # create_model would move what was built on the meta device to the CPU. get_default_device() does not see a
        # `with torch.device(...)` in PyTorch 2.7; a tensor does.
        where = torch.empty(0).device
        return open_clip.create_model(config.architecture, pretrained=None, pretrained_hf=False, device=where)
    if config.vision is None or config.text is None:
        raise ValueError(
            f"CLIP {config.clip_id}: the config has neither an architecture name nor vision and text towers"
        )
    vision, text = config.vision, config.text
    words = WordTokenizer.of(config).size if config.vocabulary else text.vocabulary_size
    network = open_clip.CLIP(
        config.embed_dim,
        {**_image_tower(config), "image_size": vision.image_size},
        {
            "context_length": config.context_length,
            "vocab_size": words,
            "width": text.width,
            "heads": text.heads,
            "layers": text.layers,
            "mlp_ratio": _mlp_ratio(text),
        },
        quick_gelu=config.quick_gelu,
    )
    if vision.trunk and vision.head == "map":
        _project_map(network.visual.trunk, config)
    return network


def _project_map(trunk: nn.Module, config: ClipConfig) -> None:
    """Let the trunk's classifier read 2 x 2 cells, channels outermost, where it read their mean."""
    head = getattr(trunk, "head", None)
    if not (hasattr(head, "global_pool") and isinstance(getattr(head, "fc", None), nn.Linear)):
        raise ValueError(
            f"CLIP {config.clip_id}: timm's {config.vision.trunk} has no head that pools and projects, so it cannot "
            "keep a map; set ClipVisionConfig.head to 'mean' or choose a ConvNeXt"
        )
    head.global_pool = nn.AdaptiveAvgPool2d(MAP_SIDE)
    head.fc = nn.Linear(head.fc.in_features * MAP_SIDE**2, config.embed_dim)


def _image_tower(config: ClipConfig) -> dict[str, object]:
    """open_clip's words for the image tower. Raises ValueError for a trunk that the installed timm does not know."""
    vision = config.vision
    if not vision.trunk:
        sizes = {name: getattr(vision, name) for name in ("layers", "width", "head_width", "patch_size")}
        return sizes | {"mlp_ratio": _mlp_ratio(vision)}
    import timm

    if not timm.is_model(vision.trunk):
        raise ValueError(
            f"CLIP {config.clip_id}: timm {timm.__version__} has no network {vision.trunk!r}; `pip install -U timm`"
        )
    return {"timm_model_name": vision.trunk, "timm_pool": "avg", "timm_proj": ""}


def _mlp_ratio(tower: ClipVisionConfig | ClipTextConfig) -> float:
    """open_clip rounds width times ratio down."""
    return (tower.mlp_width + 0.5) / tower.width if tower.mlp_width else 4.0


def empty_network(config: ClipConfig) -> nn.Module:
    """`build_network` on the meta device, for weights to be assigned to, without the towers that `config` lacks."""
    with without_contents(), _random_weights_unsaid():
        network = build_network(config)
    keep_towers(network, config.towers)
    # No part of the weights, so nothing would be assigned to it: a token sees those before it.
    length = config.context_length
    network.attn_mask = torch.full((length, length), float("-inf")).triu(1)
    return network


def keep_towers(network: nn.Module, towers: Iterable[str]) -> None:
    """Drop the towers of an open_clip model that are not named: "text", "image"."""
    if "image" not in towers:
        network.visual = None
    if "text" not in towers:
        network.transformer = network.token_embedding = network.ln_final = None
        network.positional_embedding = network.text_projection = None


@contextlib.contextmanager
def _random_weights_unsaid() -> Iterator[None]:
    """Without open_clip's warning that a model was initialised randomly, for one whose weights are yet to come."""

    def lets_pass(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No pretrained weights loaded for model")

    root = logging.getLogger()  # which open_clip writes to
    root.addFilter(lets_pass)
    try:
        yield
    finally:
        root.removeFilter(lets_pass)


def text_states(network: nn.Module, ids: Tensor, new: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """(tokens after the final LayerNorm (B, T, W), projected embedding (B, D)) of any open_clip text tower.

    new: (places (B, T), rows (words, W)); where a place is not -1, that row is the token's embedding. Gradients reach
    the rows. Raises ValueError for towers without a per-token final LayerNorm (Hugging Face text models).
    """
    tower = getattr(network, "text", network)
    norm = getattr(tower, "ln_final", None)
    if norm is None:
        raise ValueError(
            f"CLIP text tower {type(tower).__name__} has no final LayerNorm over tokens; use a ViT open_clip model"
        )
    caught: list[Tensor] = []
    hooks = [norm.register_forward_hook(lambda module, inputs, output: caught.append(output))]
    if new is not None:
        places, rows = new

        def replaced(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            return torch.where(places[..., None] >= 0, rows[places.clamp(min=0)].to(output.dtype), output)

        hooks.append(tower.token_embedding.register_forward_hook(replaced))
    try:
        embed = network.encode_text(ids)
    finally:
        for hook in hooks:
            hook.remove()
    if caught[0].ndim != 3:
        raise ValueError(
            f"CLIP text tower {type(tower).__name__} normalises after pooling; it has no token states to give"
        )
    return caught[0], embed
