"""open_clip's tokenizers: the token ids of captions for CLIPs without a vocabulary of their own."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

OPENAI = "ViT-L-14"  # a model that spells by OpenAI's byte pairs


def byte_pair_ids(captions: list[str], context_length: int, padding: int) -> tuple[Tensor, Tensor]:
    """Ids (B, context_length) int64 and mask, True up to and including the end token. What does not fit is cut off."""
    return padded(tokenizer()(captions, context_length=context_length).long(), padding)


def padded(ids: Tensor, padding: int) -> tuple[Tensor, Tensor]:
    """Ids (B, T) as open_clip gives them -> ids filled up with `padding` behind the end token, and the mask."""
    ends = ids.argmax(dim=-1, keepdim=True)  # open_clip's own convention: the end token has the largest id
    mask = torch.arange(ids.shape[1])[None, :] <= ends
    return torch.where(mask, ids, padding), mask


@cache  # reading the merges takes a good part of a second
def tokenizer(architecture: str = OPENAI):
    """The tokenizer of an open_clip model, by its name."""
    import open_clip

    return open_clip.get_tokenizer(architecture)
