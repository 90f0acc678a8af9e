"""The diffusion prior: a causal transformer over [text tokens, text embedding, time, noisy embedding, query] that
predicts the unnoised image embedding (§2.2). A one-pass prior (Patel et al. 2024, ECLIPSE) is the same without time.

Everything before the time token is the same at every diffusion step, and causality keeps the later tokens out of it:
`prefix` computes its keys and values once, `step` runs only the last tokens. The result is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..config import PriorConfig
from .layers import ExactBuffers, KeyValue, TimeEmbedding, TransformerBlock, zero_init


@dataclass(frozen=True)
class PriorCache:
    """Keys and values of the step-independent tokens, per block (B, heads, P, c), and the S last tokens' mask."""

    blocks: tuple[KeyValue, ...]
    mask: Tensor  # (B, 1, S, P + S)

    def __len__(self) -> int:
        return self.mask.shape[0]

    def take(self, rows: slice | Tensor) -> PriorCache:
        """The given rows, by slice or index (B,): parts of a batch, or several candidates per text."""
        return PriorCache(tuple((k[rows], v[rows]) for k, v in self.blocks), self.mask[rows])


class PriorNetwork(ExactBuffers):
    """Predicts the scaled image embedding x_0 from x_t, the time and a caption."""

    per_step = "step"

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.step_tokens = 2 if config.one_pass else 3  # time, noisy embedding, query
        self.text_in = nn.Linear(config.text_width, width)
        self.embed_in = nn.Linear(config.clip_dim, width)
        if not config.one_pass:
            self.time_embed = TimeEmbedding(width, width)
        self.noisy_in = nn.Linear(config.clip_dim, width)
        self.query = nn.Parameter(torch.empty(width))
        self.position_embedding = nn.Parameter(torch.empty(config.context_length + 1 + self.step_tokens, width))
        self.blocks = nn.ModuleList(
            TransformerBlock(width, config.heads, config.depth, config.dropout) for _ in range(config.depth)
        )
        self.norm_out = nn.LayerNorm(width) if config.final_norm else nn.Identity()
        self.out = zero_init(nn.Linear(width, config.clip_dim))
        nn.init.normal_(self.query, std=0.02)
        nn.init.normal_(self.position_embedding, std=0.01)
        if config.scaling == "mean_std":  # of the embeddings: the scale of what the user gets
            self.register_buffer("mean", torch.zeros(config.clip_dim))
            self.register_buffer("std", torch.ones(config.clip_dim))
        if config.null_text == "learned":
            self.null_token = nn.Parameter(torch.randn(config.text_width))
            self.null_embed = nn.Parameter(torch.zeros(config.clip_dim))

    def scale(self, z: Tensor) -> Tensor:
        """Native embeddings (B, D) -> the diffusion's own scale, float32."""
        if self.config.scaling == "constant":
            return z.float() * self.config.embed_scale
        return (z.float() - self.mean) / self.std

    def unscale(self, x: Tensor) -> Tensor:
        """The inverse of `scale`: diffusion scale (B, D) -> native embeddings, float32."""
        if self.config.scaling == "constant":
            return x.float() / self.config.embed_scale
        return x.float() * self.std + self.mean

    def null_text(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """The learned unconditional text: tokens (B, T, W), embed (B, D), mask (B, T). Gradients reach the parameters.

        Raises ValueError for a prior whose unconditional is the encoded empty caption.
        """
        if self.config.null_text != "learned":
            raise ValueError(
                f"PriorNetwork: {self.config.prior_id} has no learned null text; encode the empty caption instead"
            )
        length = self.config.context_length
        tokens = nn.functional.pad(self.null_token[None, None], (0, 0, 0, length - 1))
        mask = torch.arange(length, device=tokens.device)[None] < 1
        return tokens.expand(batch, -1, -1), self.null_embed.expand(batch, -1), mask.expand(batch, -1)

    def time_features(self, t: Tensor) -> Tensor:
        """Time tokens (N, width) of t (N,); a sampler's whole schedule in one batch; (N, 0) of a one-pass prior."""
        return t.new_empty(len(t), 0, dtype=torch.float32) if self.config.one_pass else self.time_embed(t)

    def forward(self, x_t: Tensor, t: Tensor, tokens: Tensor, embed: Tensor, mask: Tensor) -> Tensor:
        """Predict x_0 (B, D), scaled, float32.

        x_t (B, D) scaled; t (B,); tokens (B, T, W), T <= context_length; embed (B, D) native; mask (B, T) bool,
        True for real tokens. Raises ValueError for text of another CLIP's shape.
        """
        x = torch.cat([self._prefix_tokens(tokens, embed), self._step_tokens(x_t, self.time_features(t))], dim=1)
        visible = self._mask(nn.functional.pad(mask, (0, 1 + self.step_tokens), value=True))
        for block in self.blocks[:-1]:
            x, _ = block(x, visible)
        x, _ = self.blocks[-1](x, visible, last=True)
        return self.out(self.norm_out(x[:, 0])).float()

    def prefix(self, tokens: Tensor, embed: Tensor, mask: Tensor) -> PriorCache:
        """Keys and values of text tokens and text embedding, once per sampling call. Arguments as in `forward`."""
        # Columns that are padding in every row are never attended to: dropping them is exact.
        used = int(torch.where(mask.any(0), torch.arange(1, mask.shape[1] + 1, device=mask.device), 0).max())
        x = self._prefix_tokens(tokens[:, :used], embed)
        keys = nn.functional.pad(mask[:, :used], (0, 1 + self.step_tokens), value=True)
        visible = self._mask(keys)
        length = used + 1
        caches = []
        for block in self.blocks[:-1]:
            x, cache = block(x, visible[..., :length, :length])
            caches.append(cache)
        caches.append(self.blocks[-1].keys_values(x))
        return PriorCache(tuple(caches), visible[..., length:, :])

    def step(self, x_t: Tensor, t: Tensor, cache: PriorCache, *, time: Tensor | None = None) -> Tensor:
        """What `forward` gives for the cached text. time: `time_features` rows to use in place of t."""
        x = self._step_tokens(x_t, self.time_features(t) if time is None else time)
        for index, block in enumerate(self.blocks):
            x, _ = block(x, cache.mask, past=cache.blocks[index], last=index == len(self.blocks) - 1)
        return self.out(self.norm_out(x[:, 0])).float()

    def _prefix_tokens(self, tokens: Tensor, embed: Tensor) -> Tensor:
        config = self.config
        length = tokens.shape[1]
        if length > config.context_length or tokens.shape[2] != config.text_width:
            raise ValueError(
                f"PriorNetwork: {config.prior_id} reads up to {config.context_length} tokens of width "
                f"{config.text_width}, but got {length} of width {tokens.shape[2]}; encode with the stack's own CLIP"
            )
        dtype = self.text_in.weight.dtype
        # Brings a unit-norm text embedding to the variance of the noisy one beside it.
        scale = config.embed_scale if config.scaling == "constant" else 1.0
        text = self.text_in(tokens.to(dtype)) + self.position_embedding[:length]
        summary = self.embed_in((embed * scale).to(dtype)) + self.position_embedding[config.context_length]
        return torch.cat([text, summary[:, None]], dim=1)  # (B, T + 1, width)

    def _step_tokens(self, x_t: Tensor, time: Tensor) -> Tensor:
        noisy = self.noisy_in(x_t.to(self.noisy_in.weight.dtype))
        batch = noisy.shape[0]
        # One dtype for the stack: under autocast the linears give the low precision, parameters are float32.
        tokens = [noisy, self.query.to(noisy.dtype).expand(batch, -1)]
        if not self.config.one_pass:
            tokens.insert(0, time.to(noisy.dtype).expand(batch, -1))
        return torch.stack(tokens, dim=1) + self.position_embedding[-self.step_tokens :]  # (B, S, width)

    def _mask(self, keys: Tensor) -> Tensor:
        """keys (B, S) bool, real tokens -> (B, 1, S, S), causal with padding hidden: bool, or additive (mask_value)."""
        length = keys.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=keys.device).tril()
        if self.config.mask_value is not None:
            value = self.config.mask_value
            additive = torch.zeros(length, length, device=keys.device).masked_fill(~causal, value)
            return additive + torch.zeros(keys.shape, device=keys.device).masked_fill(~keys, value)[:, None, None, :]
        # A token always sees itself: padding stays finite, and nobody reads it.
        itself = torch.eye(length, dtype=torch.bool, device=keys.device)
        return causal & (keys[:, None, None, :] | itself)
