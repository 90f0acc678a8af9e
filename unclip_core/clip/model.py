"""CLIP, through open_clip: text -> TextEncoding, image -> Embedding.

The only module that imports open_clip, and only when a model is first used: importing it takes seconds.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ClipConfig, ClipTextConfig, ClipVisionConfig
from ..pictures.fitting import CROPS
from ..pictures.resizing import resize_for_gradient
from ..runtime.placement import Manager, Placed
from ..types import Embedding, PCABasis, TextEncoding, check_image, image_to_model
from .byte_pairs import padded
from .new_words import NewWords
from .streaming import encode_streamed
from .words import WordTokenizer

MAP_SIDE = 2  # cells a side of the image head "map"

StateDict = dict[str, Tensor]
ReadWeights = Callable[..., StateDict]


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
    with torch.device("meta"), _random_weights_unsaid():
        network = build_network(config)
    _keep_towers(network, config.towers)
    # No part of the weights, so nothing would be assigned to it: a token sees those before it.
    length = config.context_length
    network.attn_mask = torch.full((length, length), float("-inf")).triu(1)
    return network


def _keep_towers(network: nn.Module, towers: Iterable[str]) -> None:
    """Drop the other tower of an open_clip model."""
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


def preprocess(
    image: Tensor, size: int, mean: tuple[float, ...], std: tuple[float, ...], crop: str = "center"
) -> Tensor:
    """IMAGE (B, H, W, C) in 0..1 -> (B, 3, size, size) normalised, as CLIP was trained.

    crop: "center" scales the short side to `size` and cuts the middle out; "squash" scales both sides. Bicubic,
    antialiased. Raises ValueError for another crop or what is no picture.
    """
    if crop not in CROPS:
        raise ValueError(f"CLIP Image Encode: crop {crop!r} is unknown; choose one of {', '.join(CROPS)}")
    try:
        check_image(image)
    except ValueError as error:
        raise ValueError(f"CLIP Image Encode: {error}") from None
    if 0 in image.shape:
        raise ValueError(f"CLIP Image Encode: image is empty, shape {tuple(image.shape)}")
    if crop == "center":  # a strip of 8000 x 1 would become one of 512,000 x 64 on the way
        (top, height), (left, width) = (_middle(side, 4 * min(image.shape[1:3])) for side in image.shape[1:3])
        image = image[:, top : top + height, left : left + width]
    pixels = (image_to_model(image).clamp(-1.0, 1.0) + 1.0) * 0.5
    if not pixels.isfinite().all():
        raise ValueError("CLIP Image Encode: the image holds NaN; save it again or load another one")
    height, width = pixels.shape[-2:]
    if crop == "center":
        short = min(height, width)
        target = (int(size * height / short), int(size * width / short))  # rounded as torchvision does
    else:
        target = (size, size)
    if target != (height, width):
        pixels = F.interpolate(pixels, target, mode="bicubic", align_corners=False, antialias=True).clamp(0.0, 1.0)
    top, left = (round((side - size) / 2) for side in target)
    pixels = pixels[..., top : top + size, left : left + size]
    return (pixels - pixels.new_tensor(mean)[:, None, None]) / pixels.new_tensor(std)[:, None, None]


def _middle(side: int, most: int) -> tuple[int, int]:
    """(first, count) of at most `most` pixels in the middle of a side."""
    count = min(side, most)
    return (side - count) // 2, count


def _assigned(network: nn.Module, state: StateDict, dtype: torch.dtype) -> nn.Module:
    """The network with these weights. Assigned, not copied: those of this dtype stay in their mapped file."""
    network.load_state_dict({name: value.to(dtype) for name, value in state.items()}, strict=True, assign=True)
    return network


class Clip:
    """A CLIP handle. The network is built and its weights are read on first use, and placed as every stage's is.

    weights: a state dict, or a function from the empty network to one; None fetches what `config.pretrained` names
    through open_clip. manager: see `Placed`. pca: reads the basis of this CLIP's image embeddings (§4).
    dtype: of the weights. apart: whether the towers are two networks, each read when it is first used; `weights` must
    then be a function that takes `read_state`'s `part` and `without`.
    captions_alone: whether captions are of use without being encoded, see `read_captions`.
    read_text_half: gives a network that encodes captions as the whole one does, and is there sooner.
    placed: places the network, or the image tower. text_placed: the same, or the text tower.
    """

    def __init__(
        self,
        config: ClipConfig,
        weights: StateDict | ReadWeights | None = None,
        device: torch.device | str = "cpu",
        manager: Manager | None = None,
        pca: Callable[[], PCABasis] | None = None,
        dtype: torch.dtype = torch.float32,
        apart: bool = False,
        captions_alone: bool = False,
        read_text_half: Callable[[torch.dtype], nn.Module] | None = None,
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self.apart = apart
        self.captions_alone = captions_alone

        def place(load: Callable[[torch.dtype], nn.Module]) -> Placed[nn.Module]:
            return Placed(load, self.device, dtype, manager)

        self.placed = place(self._load_image_tower if apart else self._load)
        self.text_placed = place(self._load_text_tower) if apart else self.placed
        self._captions = place(read_text_half) if read_text_half else self.text_placed
        self.pca = pca
        self._weights = weights
        self._byte_pairs = None
        self._tokenizer = WordTokenizer.of(config) if config.vocabulary else None
        self._new_words: NewWords | None = None

    @classmethod
    def from_config(cls, config: ClipConfig, weights: StateDict | ReadWeights | None = None, **options) -> Clip:
        """A handle over given weights."""
        return cls(config, weights, **options)

    @classmethod
    def open(cls, architecture: str, pretrained: str | None = None, device: torch.device | str = "cpu") -> Clip:
        """Any open_clip model, by name; pretrained: a tag of open_clip's or the path of a local file.

        Raises ValueError if open_clip does not know the name, or for a Hugging Face text tower.
        """
        import open_clip
        from open_clip.pretrained import get_pretrained_cfg

        described = open_clip.get_model_config(architecture)
        if described is None:
            raise ValueError(f"CLIP {architecture!r} is unknown to open_clip; see open_clip.list_models()")
        text = described.get("text_cfg", {})
        if "hf_model_name" in text:
            raise ValueError(
                f"CLIP {architecture!r} has the Hugging Face text tower {text['hf_model_name']}, which gives no token "
                "states after a final LayerNorm; use an open_clip model with a text tower of its own, such as ViT-L-14"
            )
        # A path is no name: files go by what they are called.
        weights = Path(pretrained).stem if pretrained and Path(pretrained).is_file() else pretrained or "random"
        found = get_pretrained_cfg(architecture, pretrained) if pretrained else {}
        config = ClipConfig(
            clip_id=f"{architecture.removesuffix('-quickgelu')}/{weights}",
            embed_dim=described["embed_dim"],
            text_width=text.get("width", 512),
            context_length=text.get("context_length", 77),
            architecture=architecture,
            pretrained=pretrained,
            image_mean=tuple(found.get("mean") or ClipConfig.image_mean),
            image_std=tuple(found.get("std") or ClipConfig.image_std),
        )
        return cls(config, device=device)

    def with_words(self, rows: Mapping[str, Tensor]) -> Clip:
        """This CLIP with new words, {word: token embedding (W,)}, which captions may say from then on.

        It shares its network with this one. A decoder with a text encoder of its own reads a new word as an unknown
        one. Raises ValueError for a word that is none or is known already, and for an embedding of another width.
        """
        known = {} if self._new_words is None else self._new_words.rows
        clip = copy.copy(self)
        clip._new_words = NewWords(self.config, {**known, **rows})
        return clip

    @property
    def clip_id(self) -> str:
        """The name of the embedding space."""
        return self.config.clip_id

    @property
    def network(self) -> nn.Module:
        """The open_clip model, or its image tower, on its device, in evaluation mode. Evicts other large networks, see
        `Placed`."""
        return self.placed.on_device()

    def _load(self, dtype: torch.dtype) -> nn.Module:
        import open_clip

        if self._weights is None and self.config.architecture:
            return open_clip.create_model(self.config.architecture, pretrained=self.config.pretrained)
        if self._weights is None:
            network = build_network(self.config)
            self._weights = network.state_dict()  # read again, it must not draw other weights
            return network
        network = empty_network(self.config)
        state = self._weights(network) if callable(self._weights) else self._weights
        return _assigned(network, state, dtype)

    def _load_text_tower(self, dtype: torch.dtype) -> nn.Module:
        network = empty_network(self.config)
        state = self._weights(network, without="visual")
        _keep_towers(network, ("text",))
        return _assigned(network, state, dtype)

    def _load_image_tower(self, dtype: torch.dtype) -> nn.Module:
        network = empty_network(self.config)
        state = {f"visual.{name}": value for name, value in self._weights(network, part="visual").items()}
        _keep_towers(network, ("image",))
        network.logit_scale = None  # the text tower has it
        return _assigned(network, state, dtype)

    def tokenize(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Ids (B, T) int64 and mask (B, T) bool, True up to and including the end token."""
        ids, mask, _ = self.tokenize_all(captions)
        return ids, mask

    def tokenize_all(self, captions: list[str]) -> tuple[Tensor, Tensor, Tensor | None]:
        """As `tokenize`, and where new words stand (`NewWords`); None without any."""
        if self._new_words is None:
            return *self._known_ids(captions), None
        if self._tokenizer:
            ids, places = self._new_words.by_words(captions, self._tokenizer.end)
            return ids, ids != 0, places
        ids, places = self._new_words.by_byte_pairs(captions, self._open_clip_tokenizer())
        mask = torch.arange(ids.shape[1])[None, :] <= ids.argmax(dim=-1, keepdim=True)
        return torch.where(mask, ids, self.config.padding), mask, places

    def _known_ids(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        if self._tokenizer:
            ids = torch.tensor([self._tokenizer.encode(caption) for caption in captions])
            return ids, ids != 0
        tokenizer = self._open_clip_tokenizer()
        ids = tokenizer(captions, context_length=self.config.context_length).long()
        padding = getattr(getattr(tokenizer, "tokenizer", None), "pad_token_id", None)
        if padding is not None:  # a Hugging Face tokenizer, whose end token need not be the largest
            return ids, (ids != padding) | (torch.arange(ids.shape[1]) == 0)
        return padded(ids, self.config.padding)

    def _open_clip_tokenizer(self):
        import open_clip

        if self._byte_pairs is None:  # reading the merges takes a good part of a second
            self._byte_pairs = open_clip.get_tokenizer(self.config.architecture or "ViT-L-14")
        return self._byte_pairs

    def read_captions(self, captions: list[str] | str) -> TextEncoding:
        """`encode_text`; of a CLIP that reads pictures alone, the captions themselves, for a decoder that encodes them.

        Their tokens are then (B, 0, W), and their embed (B, 0), which `check_same_clip` refuses wherever it is read.
        """
        if "text" in self.config.towers or not self.captions_alone:
            return self.encode_text(captions)
        captions = _check_captions(captions)
        ids, mask = self.tokenize(captions)
        nothing = torch.empty(len(captions), 0)
        tokens = nothing.new_empty(len(captions), 0, self.config.text_width)
        return TextEncoding(tokens, nothing, mask, ids, self.clip_id, tuple(captions), self.config.normalised)

    @torch.no_grad()
    def encode_text(self, captions: list[str] | str) -> TextEncoding:
        """Encode captions. Raises ValueError for an empty list, what is no text, or a CLIP without a text tower."""
        captions = _check_captions(captions)
        self._require("text", "CLIP Text Encode", "text_encoder")
        ids, mask, places = self.tokenize_all(captions)
        new = None if places is None else (places.to(self.device), self._new_words.stacked().to(self.device))
        tokens, embed = text_states(self._captions.on_device(), ids.to(self.device), new)
        return TextEncoding(
            tokens=tokens.float().cpu(),
            embed=self._scale(embed).cpu(),
            mask=mask,
            ids=ids,
            clip_id=self.clip_id,
            captions=tuple(captions),
            normalised=self.config.normalised,
        )

    @torch.no_grad()
    def encode_image(self, image: Tensor, crop: str = "center") -> Embedding:
        """Encode IMAGE (B, H, W, C) in 0..1; crop: "center" or "squash"."""
        pixels = preprocess(image, self.image_size, self.config.image_mean, self.config.image_std, crop)
        pixels = pixels.to(self.device, self.placed.dtype)
        return Embedding(self._scale(self.network.encode_image(pixels)).cpu(), self.clip_id, "image")

    @torch.no_grad()
    def encode_null_image(self) -> Embedding:
        """The embedding of an all-zero picture, zero after normalisation: (1, D), Kandinsky's null condition.

        Raises ValueError for a CLIP without an image tower.
        """
        if "image" not in self.config.towers:
            raise ValueError(
                "Decoder Sample: this model's null embedding is CLIP's of an all-zero picture, but its CLIP has no "
                "image tower (its folder has no image_encoder); add that folder, or link both embed and negative_embed"
            )
        pixels = torch.zeros(1, 3, self.image_size, self.image_size, device=self.device, dtype=self.placed.dtype)
        if not self.apart or self.placed.loaded:
            return Embedding(self._scale(self.network.encode_image(pixels)).cpu(), self.clip_id, "image")
        network = empty_network(self.config)
        embed = encode_streamed(network, partial(self._weights, network), pixels)
        return Embedding(self._scale(embed).cpu(), self.clip_id, "image")

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) in 0..1 on CLIP's device -> (B, D) float32 on the native scale. Gradients reach the pixels.

        For runs of another network, which has loaded CLIP together with itself: `network.on_device(clip.placed)`.
        """
        pixels = resize_for_gradient(pixels, (self.image_size, self.image_size))
        # By numbers: a tensor of them would be copied to the device, and waited for, at every step.
        channels = zip(pixels.unbind(1), self.config.image_mean, self.config.image_std, strict=True)
        pixels = torch.stack([(channel - mean) / std for channel, mean, std in channels], dim=1)
        return self._scale(self.placed.read().encode_image(pixels.to(self.placed.dtype)))

    @property
    def image_size(self) -> int:
        """Pixels of the side that the image tower reads."""
        self._require("image", "CLIP Image Encode", "image_encoder")
        if self.config.vision is not None:
            return self.config.vision.image_size
        import open_clip

        size = open_clip.get_model_config(self.config.architecture)["vision_cfg"]["image_size"]
        return size[0] if isinstance(size, tuple | list) else size

    def _require(self, tower: str, who: str, folder: str) -> None:
        if tower not in self.config.towers:
            raise ValueError(
                f"{who}: this model's CLIP has no {tower} tower (its folder has no {folder}); use the CLIP of a model "
                f"that has one and speaks {self.clip_id} too"
                + (", such as karlo-v1-alpha-image-variations" if tower == "image" else "")
            )

    def _scale(self, vector: Tensor) -> Tensor:
        return F.normalize(vector.float(), dim=-1) if self.config.normalised else vector.float()

    def unknown_words(self, caption: str) -> list[str]:
        """Words of `caption` outside a small vocabulary; always [] for CLIPs that spell by sub-words."""
        return self._speller.unknown(caption) if self._tokenizer else []

    @property
    def _speller(self) -> WordTokenizer:
        """The tokenizer by whole words that knows the new ones too."""
        return self._tokenizer if self._new_words is None else self._new_words.tokenizer

    def vocabulary_summary(self) -> str:
        """What a small vocabulary can talk about; "" for CLIPs that spell by sub-words."""
        return self.config.knows

    def truncated(self, caption: str) -> str:
        """The end of `caption` that does not fit the context, "" if all of it does."""
        if self._tokenizer:
            return self._speller.dropped(caption)
        tokenizer = self._open_clip_tokenizer()
        if not hasattr(tokenizer, "encode") or not hasattr(tokenizer, "decode"):
            return ""
        rest = tokenizer.encode(caption)[self.config.context_length - 2 :]
        return tokenizer.decode(rest).strip() if rest else ""


def _check_captions(captions: list[str] | str) -> list[str]:
    captions = list(captions) if isinstance(captions, Iterable) and not isinstance(captions, str) else [captions]
    if wrong := [type(caption).__name__ for caption in captions if not isinstance(caption, str)]:
        raise ValueError(f"CLIP Text Encode: captions must be texts, got {wrong[0]}; give one or a list of them")
    if not captions:
        raise ValueError("CLIP Text Encode: no caption given; pass at least one (an empty string is the null caption)")
    return captions


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
