"""The autoregressive prior: a causal transformer over [text tokens, text embedding, z_i . z_t, codes] (§2.2, App. C).

Each position predicts what comes next: the text embedding z_i . z_t, that the first code, each code the following one.
`prefix` and `step` keep keys and values, so that a sample costs one token per code; the result is that of `forward`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ARPriorConfig
from .ar_codes import BucketTable, Quantiser, bucket_logits
from .layers import KeyValue, TransformerBlock, zero_init
from .text_encoder import TextEncoder

DOT_POSITION = 1  # of z_i . z_t after the text tokens; 0 is the text embedding


@dataclass(frozen=True)
class ARCache:
    """What is behind: keys and values per block (B, heads, P, c), which of the P are real (B, P), and the position of
    the next token. code_rows: the code tables' rows, worked out once."""

    blocks: tuple[KeyValue, ...]
    mask: Tensor
    position: int
    code_rows: tuple[Tensor, Tensor]

    def __len__(self) -> int:
        return self.mask.shape[0]

    def take(self, rows: Tensor) -> ARCache:
        """Rows by index: several items and candidates per text."""
        blocks = tuple((k[rows], v[rows]) for k, v in self.blocks)
        return ARCache(blocks, self.mask[rows], self.position, self.code_rows)


class ARPriorNetwork(nn.Module):
    """Predicts z_i . z_t and the codes of an image embedding from a caption, one after another."""

    def __init__(self, config: ARPriorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.quantiser = Quantiser(config)
        encoder = config.text_encoder
        self.text_encoder = TextEncoder(encoder) if encoder else None
        self.text_in = nn.Linear(encoder.width if encoder else config.text_width, width)
        self.embed_in = nn.Linear(config.clip_dim, width)
        self.dot_in, self.dot_out, self.code_in, self.code_out = (
            BucketTable(config.buckets, width, config.bucket_features) for _ in range(4)
        )
        for table in (self.dot_out, self.code_out):  # every bucket equally likely at the start
            zero_init(table)
        self.null_state = nn.Parameter(torch.randn(width))
        self.null_embed = nn.Parameter(torch.zeros(config.clip_dim))
        self.position_embedding = nn.Parameter(torch.empty(config.context_length, width))
        self.blocks = nn.ModuleList(
            TransformerBlock(width, config.heads, config.depth, config.dropout) for _ in range(config.depth)
        )
        self.norm_out = nn.LayerNorm(width)
        nn.init.normal_(self.position_embedding, std=0.01)

    def forward(
        self,
        tokens: Tensor,
        embed: Tensor,
        mask: Tensor,
        dot: Tensor,
        codes: Tensor,
        *,
        ids: Tensor | None = None,
        drop: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits, float32: of z_i . z_t (B, buckets) and of the codes (B, K, buckets), each given all before it.

        tokens (B, T, W), embed (B, D) native, mask (B, T) bool: a TextEncoding's; ids (B, T) for a prior with a text
        encoder of its own. dot (B,) and codes (B, K) int64. drop (B,) bool: rows that take the learned null text.
        """
        text, mask = self._text(tokens, mask, ids, drop)
        ahead = torch.cat([self._dot_token(dot)[:, None], self._code_tokens(codes[:, :-1])], dim=1)
        summary = self._summary(embed, drop)
        x = torch.cat([text, summary[:, None], ahead.to(summary.dtype)], dim=1)
        visible = _causal(F.pad(mask, (0, x.shape[1] - mask.shape[1]), value=True))
        for block in self.blocks:
            x, _ = block(x, visible)
        x = self.norm_out(x[:, text.shape[1] :])  # (B, K + 1, width)
        return bucket_logits(x[:, 0], self.dot_out.rows()), bucket_logits(x[:, 1:], self.code_out.rows())

    def prefix(
        self,
        tokens: Tensor,
        embed: Tensor,
        mask: Tensor,
        *,
        ids: Tensor | None = None,
        drop: Tensor | None = None,
    ) -> tuple[Tensor, ARCache]:
        """(logits of z_i . z_t (B, buckets), cache) of the caption. Arguments as in `forward`."""
        text, mask = self._text(tokens, mask, ids, drop)
        x = torch.cat([text, self._summary(embed, drop)[:, None]], dim=1)
        keys = F.pad(mask, (0, 1), value=True)
        visible, caches = _causal(keys), []
        for index, block in enumerate(self.blocks):
            x, cache = block(x, visible, last=index == len(self.blocks) - 1)
            caches.append(cache)
        logits = bucket_logits(self.norm_out(x[:, -1]), self.dot_out.rows())
        rows = (self.code_in.rows(), self.code_out.rows())
        return logits, ARCache(tuple(caches), keys, DOT_POSITION, rows)

    def step(self, bucket: Tensor, cache: ARCache) -> tuple[Tensor, ARCache]:
        """Take bucket (B,) at the cache's position (first z_i . z_t, then the codes): (next code's logits, cache)."""
        if cache.position == DOT_POSITION:
            x = self._dot_token(bucket)
        else:
            x = cache.code_rows[0][bucket] + self.position_embedding[cache.position]
        x = x.to(self.text_in.weight.dtype)[:, None]
        keys, blocks = F.pad(cache.mask, (0, 1), value=True), []
        for block, past in zip(self.blocks, cache.blocks, strict=True):
            x, own = block(x, keys[:, None, None, :], past=past)
            blocks.append(tuple(torch.cat(pair, dim=2) for pair in zip(past, own, strict=True)))
        logits = bucket_logits(self.norm_out(x[:, 0]), cache.code_rows[1])
        return logits, ARCache(tuple(blocks), keys, cache.position + 1, cache.code_rows)

    def _text(self, tokens: Tensor, mask: Tensor, ids: Tensor | None, drop: Tensor | None) -> tuple[Tensor, Tensor]:
        """The caption's states (B, T', width) with nulls in place, and which are real. Columns that no row uses go."""
        self._check_text(tokens, ids)
        used = int(torch.where(mask.any(0), torch.arange(1, mask.shape[1] + 1, device=mask.device), 0).max())
        mask = mask[:, : max(1, used)]
        if self.text_encoder is not None:
            states = self.text_encoder(ids[:, : mask.shape[1]], mask)
        else:
            states = tokens[:, : mask.shape[1]]
        states = self.text_in(states.to(self.text_in.weight.dtype))
        if drop is None:
            return states, mask
        first = torch.arange(mask.shape[1], device=mask.device) == 0
        states = torch.where(drop[:, None, None], self.null_state.to(states.dtype), states)
        return states, torch.where(drop[:, None], first, mask)

    def _check_text(self, tokens: Tensor, ids: Tensor | None) -> None:
        config = self.config
        if self.text_encoder is None and tokens.shape[-1] != config.text_width:
            raise ValueError(
                f"ARPriorNetwork: {config.ar_prior_id} reads token states of width {config.text_width}, but got "
                f"{tokens.shape[-1]}; encode with the stack's own CLIP"
            )
        if self.text_encoder is not None and ids is None:
            raise ValueError(f"ARPriorNetwork: {config.ar_prior_id} has a text encoder of its own; pass the token ids")

    def _summary(self, embed: Tensor, drop: Tensor | None) -> Tensor:
        """The text embedding's token (B, width)."""
        embed = embed.float() * self.config.embed_scale
        if drop is not None:
            embed = torch.where(drop[:, None], self.null_embed.float(), embed)
        return self.embed_in(embed.to(self.embed_in.weight.dtype)) + self.position_embedding[0]

    def _dot_token(self, dot: Tensor) -> Tensor:
        return self.dot_in.rows()[dot] + self.position_embedding[DOT_POSITION]

    def _code_tokens(self, codes: Tensor) -> Tensor:
        """Codes (B, n), the first of them first -> (B, n, width)."""
        first = DOT_POSITION + 1
        return self.code_in.rows()[codes] + self.position_embedding[first : first + codes.shape[1]]


def _causal(keys: Tensor) -> Tensor:
    """keys (B, S) bool, real tokens -> (B, 1, S, S) bool. A token always sees itself, so that padding stays finite."""
    length = keys.shape[1]
    ones = torch.ones(length, length, dtype=torch.bool, device=keys.device)
    return ones.tril() & (keys[:, None, None, :] | torch.eye(length, dtype=torch.bool, device=keys.device))
