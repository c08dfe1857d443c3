"""What all models share: raw features and signals in, five numbers out, with all scaling inside.

The statistics of the scaling are buffers of the model, fitted on train alone, and travel in its
checkpoint: no caller has to know them, so none can get them wrong.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import msgspec
import torch
from torch import Tensor, nn

from market.actions import Action
from market.book import BUCKETS
from market.features import MEDIAN_LAGS
from market.products import UNIVERSE

ACTIONS = len(Action)
MEDIANS = len(MEDIAN_LAGS)
MIN_DEVIATION = 1e-9  # Below this an input is a constant: it is centred and otherwise left alone.
# Standardised inputs end here. One that hardly moves in train may later move by millions of its
# deviations there, and no weight has learnt what that means.
MAX_DEVIATIONS = 20.0

Positive = Annotated[int, msgspec.Meta(ge=1)]
Layers = Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1)]


class SizesOfAny(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="name"
):
    """What every model's config has; the tag `name` tells them apart."""

    products: Annotated[Positive, msgspec.Meta(description="products in the universe")] = len(
        UNIVERSE
    )


class ScaledModel(nn.Module):
    """A model of scaled inputs; a subclass says in `values` what it makes of them.

    A subclass takes the config of its own type and the number of signals.
    """

    has_gradient: ClassVar[bool] = True  # Else an optimiser has nothing to do.

    median_mean: Tensor
    median_scale: Tensor
    book_mean: Tensor
    book_scale: Tensor
    signal_mean: Tensor
    signal_scale: Tensor
    output_mean: Tensor
    output_scale: Tensor

    def __init__(self, config: Any, signals: int) -> None:
        """Make the model, for so many signals, with random weights and scaling of no effect."""
        super().__init__()
        self.config = config
        self.register_buffer("median_mean", torch.zeros(MEDIANS))
        self.register_buffer("median_scale", torch.ones(MEDIANS))
        self.register_buffer("book_mean", torch.zeros(2 * BUCKETS))
        self.register_buffer("book_scale", torch.ones(2 * BUCKETS))
        # Without signals a model's file is without their scaling.
        self.register_buffer("signal_mean", torch.zeros(signals), persistent=signals > 0)
        self.register_buffer("signal_scale", torch.ones(signals), persistent=signals > 0)
        self.register_buffer("output_mean", torch.zeros(ACTIONS))
        self.register_buffer("output_scale", torch.ones(()))

    @torch.no_grad()
    def fit_scaling(
        self,
        medians: Tensor,
        bids: Tensor,
        asks: Tensor,
        signals: Tensor,
        output_mean: Tensor,
        output_scale: float,
    ) -> None:
        """Take the scaling of the inputs from these (of train), and set the output's.

        Outputs are `output_mean` ([5]) + `output_scale` * what the last layer gives.
        """
        for name, values in (
            ("median", log_ratios(medians)),
            ("book", _book(bids, asks)),
            ("signal", signals),
        ):
            if not values.shape[1]:
                continue  # The deviation of nothing is a warning.
            deviation = values.double().std(dim=0, correction=0)
            deviation[deviation < MIN_DEVIATION] = 1.0
            getattr(self, f"{name}_mean").copy_(values.double().mean(dim=0))
            getattr(self, f"{name}_scale").copy_(deviation)
        self.output_mean.copy_(output_mean)
        self.output_scale.fill_(output_scale)

    def scaled(
        self, medians: Tensor, bids: Tensor, asks: Tensor, signals: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the standardised log ratios [n, 10], shares [n, 40] (bids first), signals."""
        return (
            _standardised(log_ratios(medians), self.median_mean, self.median_scale),
            _standardised(_book(bids, asks), self.book_mean, self.book_scale),
            _standardised(signals.float(), self.signal_mean, self.signal_scale),
        )

    def values(self, steps: Tensor, book: Tensor, signals: Tensor, product: Tensor) -> Tensor:
        """Return five numbers per sample, [n, 5], before the output's scaling.

        `steps`, `book` and `signals` as `scaled` returns them, `product` i64[n].
        """
        raise NotImplementedError

    def forward(
        self, medians: Tensor, bids: Tensor, asks: Tensor, signals: Tensor, product: Tensor
    ) -> Tensor:
        """Return five numbers per sample, f32[n, 5]: basis points or logits (`in_bps`).

        `medians` [n, 10] in quote currency, oldest first, best as f64; `bids` and `asks` [n, 20]
        shares; `signals` [n, s], those that the model was made for; `product` int[n], the index in
        the universe.
        """
        inputs = self.scaled(medians, bids, asks, signals)
        return self.values(*inputs, product.long()) * self.output_scale + self.output_mean


def log_ratios(medians: Tensor) -> Tensor:
    """Return log(median / newest median), f32[n, 10].

    The ratio is taken in f64: at a price of 1e5 the steps of f32 are as large as a real move.
    """
    exact = medians.double()
    return (exact / exact[:, -1:]).log().float()


def mlp(width: int, hidden: Sequence[int]) -> nn.Sequential:
    """Return linear layers of these sizes over `width` inputs, each followed by a ReLU."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU()]
        width = size
    return nn.Sequential(*layers)


def _book(bids: Tensor, asks: Tensor) -> Tensor:
    return torch.cat([bids.float(), asks.float()], dim=1)


def _standardised(values: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    found = (values - mean) / scale
    # What is infinite is wrong, not large.
    return found.clamp(-MAX_DEVIATIONS, MAX_DEVIATIONS).where(found.isfinite(), torch.nan)
