"""A transformer over medians and book.

A token is one median, or one distance from the median with the shares of both sides there: the
imbalance at a distance is then that token's own matter, and attention relates distances to each
other and to the path of the price. One more token, of product and signals, reads the others and is
read out.
"""

from typing import Annotated

import msgspec
import torch
from torch import Tensor, nn

from market.book import BUCKETS
from tune.scaled import ACTIONS, MEDIANS, Positive, ScaledModel, SizesOfAny


class TransformerConfig(
    SizesOfAny, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="transformer"
):
    """Sizes of the transformer."""

    width: Annotated[Positive, msgspec.Meta(description="numbers per token")] = 32
    heads: Annotated[Positive, msgspec.Meta(description="of attention; they divide `width`")] = 2
    layers: Annotated[Positive, msgspec.Meta(le=64, description="of attention and MLP")] = 2
    feedforward: Annotated[Positive, msgspec.Meta(description="width of the MLP of a layer")] = 64

    def __post_init__(self) -> None:
        """Raise a ValueError unless the heads divide the width."""
        if self.width % self.heads:
            raise ValueError(
                f"transformer: `heads` ({self.heads}) must divide `width` ({self.width})"
            )


class TransformerModel(ScaledModel):
    """Layers of attention over 31 tokens, normalised before each step.

    Each place has weights of its own: with common ones and learnt positions the model takes several
    times as long to tell places apart.
    """

    def __init__(self, config: TransformerConfig, signals: int) -> None:
        """See ScaledModel."""
        super().__init__(config, signals)
        width = config.width
        self.product = nn.Embedding(config.products, width)
        self.signals = nn.Linear(signals, width, bias=False) if signals else None
        self.median = _uniform(MEDIANS, width)
        self.bucket = _uniform(BUCKETS, 2, width)
        self.place = _uniform(MEDIANS + BUCKETS, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                config.heads,
                config.feedforward,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, ACTIONS)

    def values(self, steps: Tensor, book: Tensor, signals: Tensor, product: Tensor) -> Tensor:
        """See ScaledModel."""
        reader = self.product(product)
        if self.signals is not None:
            reader = reader + self.signals(signals)
        medians = steps.unsqueeze(-1) * self.median
        sides = book.unflatten(1, (2, BUCKETS)).transpose(1, 2)
        buckets = torch.einsum("nbs,bsw->nbw", sides, self.bucket)
        tokens = torch.cat([medians, buckets], dim=1) + self.place
        tokens = torch.cat([reader.unsqueeze(1), tokens], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.head(self.norm(tokens[:, 0]))


def _uniform(*shape: int) -> nn.Parameter:
    bound = shape[-1] ** -0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
