"""A CLIP as a handle, through open_clip: text -> TextEncoding, image -> Embedding.

open_clip is imported when a model is first used: that takes seconds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ClipConfig
from ..pictures.resizing import resize_for_gradient
from ..runtime.device import overflow_advice
from ..runtime.estimates import (
    ImageTower,
    bytes_to_ask_for,
    clip_row_bytes,
    does_not_fit,
    halves,
    image_tower_gradient_bytes,
    image_tower_row_bytes,
    is_out_of_memory,
    rows_that_fit,
    split_rows,
)
from ..runtime.placement import Manager, Placed
from ..types import Embedding, PCABasis, TextEncoding
from . import byte_pairs
from .networks import build_network, empty_network, keep_towers, text_states
from .new_words import NewWords
from .preprocessing import preprocess
from .streaming import encode_streamed
from .words import WordTokenizer

StateDict = dict[str, Tensor]
ReadWeights = Callable[..., StateDict]
Result = TypeVar("Result")


def _assigned(network: nn.Module, state: StateDict, dtype: torch.dtype | None) -> nn.Module:
    """The network with these weights. Assigned, not copied: those of this dtype, None for any, stay in their mapped
    file."""
    if dtype is not None:
        state = {name: value.to(dtype) for name, value in state.items()}
    network.load_state_dict(state, strict=True, assign=True)
    return network


class Clip:
    """A CLIP handle. The network is built and its weights are read on first use, and placed as every stage's is.

    weights: a state dict, or a function from the empty network to one; None downloads what `config.pretrained` names
    through open_clip. manager: see `Placed`. pca: reads the PCA basis of this CLIP's image embeddings (§4).
    dtype: of the weights. apart: whether the towers are two networks, each read when it is first used; `weights` must
    then be a function that takes `read_state`'s `part` and `without`. captions_alone: whether captions may be left
    unencoded, see `read_captions`. read_text_half: reads a network that encodes captions as the whole one does and is
    faster to read. read_with_halves: as `weights`, but large ones that are stored in half precision are as they are; a
    network in float32 may then widen them as they are used, see `Placed`.

    Attributes: `placed` holds the network, or the image tower alone; `text_placed` the same network, or the text tower.
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
        read_with_halves: ReadWeights | None = None,
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self.apart = apart
        self.captions_alone = captions_alone

        def place(load: Callable[..., nn.Module]) -> Placed[nn.Module]:
            with_halves = None if read_with_halves is None else partial(load, None, read_with_halves)
            return Placed(load, self.device, dtype, manager, with_halves=with_halves)

        self.placed = place(self._load_image_tower if apart else self._load)
        self.text_placed = place(self._load_text_tower) if apart else self.placed
        self._captions = Placed(read_text_half, self.device, dtype, manager) if read_text_half else self.text_placed
        self.pca = pca
        self._weights = weights
        self._tokenizer = WordTokenizer.of(config) if config.vocabulary else None
        self._new_words: NewWords | None = None

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

    def _load(self, dtype: torch.dtype | None, read: ReadWeights | None = None) -> nn.Module:
        import open_clip

        if self._weights is None and self.config.architecture:
            return open_clip.create_model(self.config.architecture, pretrained=self.config.pretrained)
        if self._weights is None:
            network = build_network(self.config)
            self._weights = network.state_dict()  # read again, it must not draw other weights
            return network
        network = empty_network(self.config)
        weights = read or self._weights
        state = weights(network) if callable(weights) else weights
        return _assigned(network, state, dtype)

    def _load_text_tower(self, dtype: torch.dtype | None, read: ReadWeights | None = None) -> nn.Module:
        network = empty_network(self.config)
        state = (read or self._weights)(network, without="visual")
        keep_towers(network, ("text",))
        return _assigned(network, state, dtype)

    def _load_image_tower(self, dtype: torch.dtype | None, read: ReadWeights | None = None) -> nn.Module:
        network = empty_network(self.config)
        found = (read or self._weights)(network, part="visual")
        state = {f"visual.{name}": value for name, value in found.items()}
        keep_towers(network, ("image",))
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
        ids, places = self._new_words.by_byte_pairs(captions, self._byte_pairs())
        mask = torch.arange(ids.shape[1])[None, :] <= ids.argmax(dim=-1, keepdim=True)
        return torch.where(mask, ids, self.config.padding), mask, places

    def _known_ids(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        if self._tokenizer:
            ids = torch.tensor([self._tokenizer.encode(caption) for caption in captions])
            return ids, ids != 0
        tokenizer = self._byte_pairs()
        ids = tokenizer(captions, context_length=self.config.context_length).long()
        padding = getattr(getattr(tokenizer, "tokenizer", None), "pad_token_id", None)
        if padding is not None:  # a Hugging Face tokenizer, whose end token need not be the largest
            return ids, (ids != padding) | (torch.arange(ids.shape[1]) == 0)
        return byte_pairs.padded(ids, self.config.padding)

    def _byte_pairs(self):
        """open_clip's tokenizer of this architecture."""
        return byte_pairs.tokenizer(self.config.architecture or byte_pairs.OPENAI)

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
        """Encode captions. Raises ValueError for an empty list, what is no text, or a CLIP without a text tower,
        FloatingPointError for NaN, MemoryError where one caption does not fit."""
        who, captions = "CLIP Text Encode", _check_captions(captions)
        self._require("text", who, "text_encoder")
        ids, mask, places = self.tokenize_all(captions)
        words = None if places is None else self._new_words.stacked().to(self.device)

        def encode(network: nn.Module, rows: slice) -> tuple[Tensor, Tensor]:
            new = None if words is None else (places[rows].to(self.device), words)
            tokens, embed = text_states(network, ids[rows].to(self.device), new)
            return tokens.float().cpu(), self._scale(embed).cpu()

        row_bytes = clip_row_bytes(ids.shape[1], self.config.text_width, self._captions.dtype.itemsize)
        found = self._in_parts(who, self._captions, len(captions), row_bytes, encode)
        tokens, embed = (torch.cat(parts) for parts in zip(*found, strict=True))
        self._check_finite(who, self.text_placed.dtype, tokens, embed)
        return TextEncoding(
            tokens=tokens,
            embed=embed,
            mask=mask,
            ids=ids,
            clip_id=self.clip_id,
            captions=tuple(captions),
            normalised=self.config.normalised,
        )

    @torch.no_grad()
    def encode_image(self, image: Tensor, crop: str = "center") -> Embedding:
        """Encode IMAGE (B, H, W, C) in 0..1; crop: "center" or "squash". Raises ValueError as `preprocess`,
        FloatingPointError for NaN, MemoryError where one picture does not fit."""
        who, dtype = "CLIP Image Encode", self.placed.dtype
        pixels = preprocess(image, self.image_size, self.config.image_mean, self.config.image_std, crop)

        def encode(network: nn.Module, rows: slice) -> Tensor:
            return self._scale(network.encode_image(pixels[rows].to(self.device, dtype))).cpu()

        row_bytes = image_tower_row_bytes(self._image_tower(), dtype.itemsize)
        vector = torch.cat(self._in_parts(who, self.placed, len(pixels), row_bytes, encode))
        self._check_finite(who, dtype, vector)
        return Embedding(vector, self.clip_id, "image")

    def _in_parts(
        self, who: str, placed: Placed, count: int, row_bytes: int, encode: Callable[[nn.Module, slice], Result]
    ) -> list[Result]:
        """`encode(network, rows)` for slices of a batch in order, of fewer rows where memory runs out."""
        network, found = placed.on_device(need=bytes_to_ask_for(count, row_bytes)), []
        parts = split_rows(count, rows_that_fit(self.device, row_bytes))
        while len(found) < len(parts):
            rows = parts[len(found)]
            try:
                found.append(encode(network, rows))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if rows.stop - rows.start == 1:
                    dtype = None if placed.dtype == torch.float32 else placed.dtype
                    raise MemoryError(does_not_fit(who, dtype, self.device)) from error
                parts[len(found) : len(found) + 1] = halves(rows)
        return found

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

    def gradient_bytes(self) -> int:
        """What `embed_pixels` of one row takes on CLIP's device until its gradient is known: an estimate."""
        return image_tower_gradient_bytes(self._image_tower(), self.placed.dtype.itemsize)

    def _image_tower(self) -> ImageTower:
        if (vision := self.config.vision) is not None:
            layers, patch, width = 0 if vision.trunk else vision.layers, vision.patch_size, vision.width
        else:
            import open_clip

            named = open_clip.get_model_config(self.config.architecture)["vision_cfg"]
            layers, patch, width = (named.get(name) for name in ("layers", "patch_size", "width"))
        if not (isinstance(layers, int) and layers and patch):  # a ResNet, or a network of timm's
            return ImageTower(self.image_size)
        return ImageTower(self.image_size, layers, (self.image_size // patch) ** 2 + 1, width)

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

    def _check_finite(self, who: str, dtype: torch.dtype, *found: Tensor) -> None:
        if not all(each.isfinite().all() for each in found):
            raise FloatingPointError(f"{who}: {self.clip_id} makes NaN or infinity {overflow_advice(dtype)}")

    def _scale(self, vector: Tensor) -> Tensor:
        return F.normalize(vector.float(), dim=-1) if self.config.normalised else vector.float()

    def unknown_words(self, caption: str) -> list[str]:
        """Words of `caption` outside a small vocabulary; always [] for CLIPs that spell by sub-words."""
        return self._speller.unknown(caption) if self._tokenizer else []

    @property
    def _speller(self) -> WordTokenizer:
        """The tokenizer by whole words that knows the new ones too."""
        return self._tokenizer if self._new_words is None else self._new_words.tokenizer

    def truncated(self, caption: str) -> str:
        """The end of `caption` that does not fit the context, "" if all of it does."""
        if self._tokenizer:
            return self._speller.dropped(caption)
        tokenizer = self._byte_pairs()
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
