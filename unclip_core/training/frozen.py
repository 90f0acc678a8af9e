"""What stands beside a decoder while it learns: the autoencoder of its latents, its own text encoder, the units in
which its embeddings are noised, and CLIP's embedding of no picture. None of them learns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..clip.model import Clip
from ..clip.multilingual import MultilingualTokenizer
from ..config import DecoderConfig
from ..models.decoder import Autoencoder, build_autoencoder
from ..models.empty import without_contents
from ..models.multilingual import MultilingualEncoder
from ..models.text_encoder import TextTower
from ..runtime.device import pick_dtype
from ..runtime.placement import Placed
from ..stages.own_text import OwnText, own_clip_text, own_multilingual_text
from ..types import TextEncoding

NETWORK, AUTOENCODER, TEXT_TOWER, NORMALIZER = "network.", "autoencoder.", "text_tower.", "normalizer."  # as stored
OWN_TEXT = ("own_clip", "xlm_r")  # decoders' ways to read captions without the stack's CLIP
State = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Frozen:
    """What a decoder has besides the network that learns.

    autoencoder: of a latent decoder. null_embed: (1, D), CLIP's of an all-zero picture, where that is the null.
    own_text: its own text encoder. tokenizer: the file of that one's words, where it has one. units: mean and standard
    deviation (D,) in which embeddings are noised. stored: gives the state dict of the decoder as it is stored.
    """

    autoencoder: Autoencoder | None = None
    null_embed: Tensor | None = None
    own_text: OwnText | None = None
    tokenizer: Path | None = None
    units: tuple[Tensor, Tensor] | None = None
    stored: Callable[[], State] | None = None

    def whole(self, network: State) -> State:
        """The state dict to store, of the network's: that, with all that did not learn as it was."""
        if self.autoencoder is None:
            return network
        stays = {name: value for name, value in self.stored().items() if not name.startswith(NETWORK)}
        return {**{f"{NETWORK}{name}": value for name, value in network.items()}, **stays}

    def read_captions(self, tokens: tuple[Tensor, Tensor]) -> TextEncoding:
        """What the decoder's own text encoder makes of captions' ids and mask (B, T), on their device."""
        ids, mask = tokens
        with torch.no_grad(), torch.autocast(ids.device.type, enabled=False):  # as when pictures are made
            states, embed = self.own_text.run(self.own_text.network.on_device(), ids, mask)
        return TextEncoding(states.float(), embed.float(), torch.ones_like(mask), ids, "", ())


def frozen_parts(config: DecoderConfig, read: Callable[[], State] | None, clip: Clip) -> Frozen:
    """read: gives the state dict of the decoder as it is stored, None where there is none yet. Its own text encoder is
    not among what is found, see `with_own_text`.

    Raises ValueError for a latent decoder that has no autoencoder: that is not trained here.
    """
    null = clip.encode_null_image().vector if config.null_embed == "zero_picture" else None
    if config.autoencoder is None:
        return Frozen(None, null)
    stored = part_of(read(), AUTOENCODER) if read is not None else {}
    if not stored:
        raise ValueError(
            f"train decoder: {config.decoder_id} paints latents, whose autoencoder is not trained here; begin with "
            "weights that have it, as --init kandinsky-2-2:decoder (a run that is not finished has none)"
        )
    with without_contents():
        autoencoder = build_autoencoder(config.autoencoder)
    state = {name: value.float() for name, value in stored.items()}
    autoencoder.load_state_dict(state, strict=True, assign=True)
    return Frozen(autoencoder.eval().requires_grad_(False), null, stored=read)


def with_own_text(frozen: Frozen, config: DecoderConfig, device: torch.device, tokenizer: Path | None) -> Frozen:
    """`frozen` with the text encoder of a decoder that has its own, and the units of noise on its embeddings; as it is
    for one that reads CLIP's captions or none.

    tokenizer: the file of words of Kandinsky 2.1's. Raises ValueError where that is needed and cannot be read.
    """
    if config.text not in OWN_TEXT:
        return frozen
    dtype = torch.float32 if device.type == "cpu" else pick_dtype("auto", device)

    def build(dtype: torch.dtype) -> nn.Module:
        with without_contents():
            tower = own_text_tower(config)
        state = {name: value.to(dtype) for name, value in part_of(frozen.stored(), TEXT_TOWER).items()}
        tower.load_state_dict(state, strict=True, assign=True)
        return tower

    network = Placed(build, device, dtype)
    if config.text == "own_clip":
        units = part_of(frozen.stored(), NORMALIZER)
        scale = (units["mean"].float().to(device), units["std"].float().to(device))
        return dataclasses.replace(frozen, own_text=own_clip_text(config.text_tower, network), units=scale)
    words = config.multilingual
    if tokenizer is None or not tokenizer.is_file():
        raise ValueError(
            f"train decoder: {config.decoder_id} reads captions by XLM-R, whose tokenizer.json is not there "
            f"({tokenizer}); begin with a model that has it, as --init kandinsky-2-1:decoder"
        )
    spell = MultilingualTokenizer(tokenizer, words.context_length, words.padding)
    spell([""])  # which says what is wrong with it
    return dataclasses.replace(frozen, own_text=own_multilingual_text(spell, network), tokenizer=tokenizer)


def own_text_tower(config: DecoderConfig) -> nn.Module | None:
    """The text encoder of a decoder's own, with fresh weights."""
    if config.text == "own_clip":
        return TextTower(config.text_tower)
    return None if config.multilingual is None else MultilingualEncoder(config.multilingual, config.clip_dim)


def part_of(state: State, part: str) -> dict[str, Tensor]:
    """The tensors of one part, by their names in it."""
    return {name.removeprefix(part): value for name, value in state.items() if name.startswith(part)}


def network_state(config: object, state: State) -> State:
    """Of a stage as it is stored what the network that learns has. config: the stage's."""
    return state if getattr(config, "autoencoder", None) is None else part_of(state, NETWORK)
