"""Models without structure: an MLP over all inputs side by side, and a linear one, a baseline."""

from typing import Annotated

import msgspec
import torch
from torch import Tensor, nn

from market.book import BUCKETS
from tune.scaled import ACTIONS, MEDIANS, Layers, Positive, ScaledModel, SizesOfAny, mlp

INPUTS = MEDIANS + 2 * BUCKETS


class MlpConfig(SizesOfAny, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="mlp"):
    """Sizes of the plain MLP."""

    hidden: Annotated[Layers, msgspec.Meta(description="its layers")] = (128, 64)
    embedding_dim: Annotated[Positive, msgspec.Meta(description="numbers per product")] = 16


class LinearConfig(SizesOfAny, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="linear"):
    """The linear model has no sizes of its own."""


class MlpModel(ScaledModel):
    """An MLP over medians, book, signals and the embedding of the product."""

    def __init__(self, config: MlpConfig, signals: int) -> None:
        """See ScaledModel."""
        super().__init__(config, signals)
        self.embedding = nn.Embedding(config.products, config.embedding_dim)
        self.layers = mlp(INPUTS + signals + config.embedding_dim, config.hidden)
        self.head = nn.Linear(config.hidden[-1], ACTIONS)

    def values(self, steps: Tensor, book: Tensor, signals: Tensor, product: Tensor) -> Tensor:
        """See ScaledModel."""
        inputs = torch.cat([steps, book, signals, self.embedding(product)], dim=1)
        return self.head(self.layers(inputs))


class LinearModel(ScaledModel):
    """A weight per input and action, and an offset per product and action."""

    def __init__(self, config: LinearConfig, signals: int) -> None:
        """See ScaledModel."""
        super().__init__(config, signals)
        self.weight = nn.Linear(INPUTS + signals, ACTIONS, bias=False)
        self.offset = nn.Embedding(config.products, ACTIONS)
        nn.init.zeros_(self.offset.weight)

    def values(self, steps: Tensor, book: Tensor, signals: Tensor, product: Tensor) -> Tensor:
        """See ScaledModel."""
        return self.weight(torch.cat([steps, book, signals], dim=1)) + self.offset(product)
