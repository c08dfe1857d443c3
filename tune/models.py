"""Models from raw features and signals to five numbers per sample, with all scaling inside.

The statistics of the scaling are buffers of the model, fitted on train alone, and travel in its
checkpoint: no caller has to know them, so none can get them wrong.
"""

from collections.abc import Sequence
from typing import Annotated

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

Positive = Annotated[int, msgspec.Meta(ge=1)]


class SeedConfig(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    tag_field="name",
    tag="seed",
):
    """Sizes of the seed model."""

    products: Annotated[Positive, msgspec.Meta(description="products in the universe")] = len(
        UNIVERSE
    )
    lstm_hidden: Annotated[Positive, msgspec.Meta(description="state of the LSTM")] = 64
    lstm_layers: Annotated[Positive, msgspec.Meta(description="stacked LSTM layers")] = 1
    book_hidden: Annotated[
        tuple[Positive, ...],
        msgspec.Meta(min_length=1, description="layers of the MLP over the book"),
    ] = (64, 64)
    embedding_dim: Annotated[Positive, msgspec.Meta(description="numbers per product")] = 16
    interaction_hidden: Annotated[
        tuple[Positive, ...],
        msgspec.Meta(min_length=1, description="layers of the MLP over all of these"),
    ] = (64,)


ModelConfig = SeedConfig  # A second model makes this a union; the tag `name` tells them apart.


class SeedModel(nn.Module):
    """LSTM over the medians, MLP over the book, embedding of the product, MLP over all of these.

    Signals, if there are any, enter the last MLP as they are, standardised.
    """

    median_mean: Tensor
    median_scale: Tensor
    book_mean: Tensor
    book_scale: Tensor
    signal_mean: Tensor
    signal_scale: Tensor
    output_mean: Tensor
    output_scale: Tensor

    def __init__(self, config: SeedConfig, signals: int) -> None:
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
        self.lstm = nn.LSTM(1, config.lstm_hidden, config.lstm_layers)
        self.book = _mlp(2 * BUCKETS, config.book_hidden)
        self.embedding = nn.Embedding(config.products, config.embedding_dim)
        width = config.lstm_hidden + config.book_hidden[-1] + config.embedding_dim + signals
        self.interaction = _mlp(width, config.interaction_hidden)
        self.head = nn.Linear(config.interaction_hidden[-1], ACTIONS)

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

    def forward(
        self, medians: Tensor, bids: Tensor, asks: Tensor, signals: Tensor, product: Tensor
    ) -> Tensor:
        """Return five numbers per sample, f32[n, 5]: basis points, or logits if trained with BCE.

        `medians` [n, 10] in quote currency, oldest first, best as f64; `bids` and `asks` [n, 20]
        shares; `signals` [n, s], those that the model was made for; `product` int[n], the index in
        the universe.
        """
        steps = (log_ratios(medians) - self.median_mean) / self.median_scale
        _, (state, _) = self.lstm(steps.T.unsqueeze(-1))
        book = self.book((_book(bids, asks) - self.book_mean) / self.book_scale)
        rest = (signals.float() - self.signal_mean) / self.signal_scale
        joined = torch.cat([state[-1], book, self.embedding(product.long()), rest], dim=1)
        return self.head(self.interaction(joined)) * self.output_scale + self.output_mean


MODELS: dict[str, type[SeedModel]] = {"seed": SeedModel}


def build(config: ModelConfig, signals: int) -> SeedModel:
    """Return the model `config` describes, for so many signals.

    Its weights are random, from torch's global generator.
    """
    return MODELS[str(config.__struct_config__.tag)](config, signals)


def log_ratios(medians: Tensor) -> Tensor:
    """Return log(median / newest median), f32[n, 10].

    The ratio is taken in f64: at a price of 1e5 the steps of f32 are as large as a real move.
    """
    exact = medians.double()
    return (exact / exact[:, -1:]).log().float()


def _book(bids: Tensor, asks: Tensor) -> Tensor:
    return torch.cat([bids.float(), asks.float()], dim=1)


def _mlp(width: int, hidden: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU()]
        width = size
    return nn.Sequential(*layers)
