"""What the autoregressive prior reads and writes: principal components in buckets (§2.2, App. C)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ARPriorConfig
from .layers import ExactBuffers


class Quantiser(ExactBuffers):
    """Image embeddings <-> codes, and z_i . z_t <-> its bucket. Basis and ranges travel in the prior's own file.

    mean (D,), basis (K, D) orthonormal rows; reach (K,): the buckets of a component are equal parts of -reach..reach;
    dot_middle, dot_reach (): those of a dot product, of dot_middle -+ dot_reach.
    """

    keeps_dtype = True  # tells readers of files what ExactBuffers tells torch: bfloat16 is coarser than a bucket

    def __init__(self, config: ARPriorConfig) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(config.clip_dim))
        self.register_buffer("basis", torch.eye(config.components, config.clip_dim))
        self.register_buffer("reach", torch.ones(config.components))
        self.register_buffer("dot_middle", torch.zeros(()))
        self.register_buffer("dot_reach", torch.ones(()))
        self.buckets = config.buckets

    def edges(self, components: slice = slice(None)) -> Tensor:
        """The buckets' edges (n, buckets + 1) of these components, ascending."""
        return self.reach[components, None] * self._line()

    def encode(self, z: Tensor) -> Tensor:
        """Native image embeddings (B, D) -> codes (B, K) int64, 0..buckets-1; what lies outside takes the end."""
        values = ((z.float() - self.mean) @ self.basis.T).T.contiguous()  # (K, B)
        return torch.searchsorted(self.edges()[:, 1:-1].contiguous(), values, right=True).T

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, K) -> embeddings (B, D) from the middles of the buckets."""
        return self.mean + self.values(codes, slice(0, codes.shape[1])) @ self.basis[: codes.shape[1]]

    def values(self, codes: Tensor, components: slice) -> Tensor:
        """Codes (B, n) of these components -> coordinates (B, n)."""
        edges = self.edges(components)
        middles = (edges[:, :-1] + edges[:, 1:]) / 2
        return middles.gather(1, codes.T).T

    def encode_dot(self, image: Tensor, text: Tensor) -> Tensor:
        """z_i . z_t of native embeddings, each (B, D) -> buckets (B,) int64."""
        dots = (image.float() * text.float()).sum(-1)
        edges = self.dot_middle + self._line() * self.dot_reach
        return torch.searchsorted(edges[1:-1].contiguous(), dots, right=True)

    def _line(self) -> Tensor:
        return torch.linspace(-1.0, 1.0, self.buckets + 1, device=self.reach.device)


class BucketTable(nn.Module):
    """A row of `width` numbers for each bucket.

    Buckets are ordered, and free rows must learn so from data. With `features` n, a row is a mixture of the first n
    Chebyshev polynomials of the bucket's place, which makes neighbours alike and takes n rows of weights.
    """

    def __init__(self, buckets: int, width: int, features: int) -> None:
        super().__init__()
        self.buckets, self.features = buckets, features
        self.weight = nn.Parameter(torch.empty(features or buckets, width))
        nn.init.normal_(self.weight, std=(features or 1) ** -0.5)

    def rows(self) -> Tensor:
        """(buckets, width)."""
        if not self.features:
            return self.weight
        place = (torch.arange(self.buckets, device=self.weight.device) + 0.5) * (2.0 / self.buckets) - 1.0
        degree = torch.arange(self.features, device=self.weight.device)
        waves = torch.cos(degree * torch.arccos(place)[:, None])  # (buckets, features)
        return (waves @ self.weight.float()).to(self.weight.dtype)


def bucket_logits(states: Tensor, rows: Tensor) -> Tensor:
    """States (..., width) against a table's rows (buckets, width): logits (..., buckets), float32."""
    return F.linear(states, rows.to(states.dtype)).float()
