"""Models of sections: one encodes the medians, an MLP the book, and a last MLP joins them.

The seed's encodes the medians with an LSTM, the TCN with convolutions over time. All else is equal,
so the two compare the encoders.
"""

from typing import Annotated

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional

from market.book import BUCKETS
from tune.scaled import ACTIONS, MEDIANS, Layers, Positive, ScaledModel, SizesOfAny, mlp


class SectionSizes(SizesOfAny, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes of the sections beside the encoder of the medians."""

    book_hidden: Annotated[Layers, msgspec.Meta(description="layers of the MLP over the book")] = (
        64,
        64,
    )
    embedding_dim: Annotated[Positive, msgspec.Meta(description="numbers per product")] = 16
    interaction_hidden: Annotated[
        Layers, msgspec.Meta(description="layers of the MLP over all of these")
    ] = (64,)


class SeedConfig(SectionSizes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="seed"):
    """Sizes of the seed model."""

    lstm_hidden: Annotated[Positive, msgspec.Meta(description="state of the LSTM")] = 64
    lstm_layers: Annotated[Positive, msgspec.Meta(description="stacked LSTM layers")] = 1


class TcnConfig(SectionSizes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="tcn"):
    """Sizes of the temporal convolutional network."""

    channels: Annotated[Positive, msgspec.Meta(description="of every convolution")] = 32
    kernel: Annotated[int, msgspec.Meta(ge=2, le=MEDIANS, description="steps it looks at")] = 3
    layers: Annotated[
        Positive, msgspec.Meta(le=8, description="each looks at steps twice as far apart")
    ] = 3

    def __post_init__(self) -> None:
        """Raise a ValueError unless the newest state sees every median."""
        seen = 1 + (self.kernel - 1) * (2**self.layers - 1)
        if seen < MEDIANS:
            raise ValueError(
                f"tcn: {self.layers} `layers` of `kernel` {self.kernel} see {seen} of {MEDIANS} "
                "medians; raise one of them"
            )


class SectionModel(ScaledModel):
    """Encoder of the medians, MLP over the book, embedding of the product, MLP over all of these.

    Signals, if there are any, enter the last MLP as they are, standardised.
    """

    def _add_sections(self, config: SectionSizes, encoded: int, signals: int) -> None:
        """Make all but the encoder, which comes first and gives `encoded` numbers."""
        self.book = mlp(2 * BUCKETS, config.book_hidden)
        self.embedding = nn.Embedding(config.products, config.embedding_dim)
        width = encoded + config.book_hidden[-1] + config.embedding_dim + signals
        self.interaction = mlp(width, config.interaction_hidden)
        self.head = nn.Linear(config.interaction_hidden[-1], ACTIONS)

    def encode(self, steps: Tensor) -> Tensor:
        """Return what is to be known of the medians, [n, encoded], from [n, 10]."""
        raise NotImplementedError

    def values(self, steps: Tensor, book: Tensor, signals: Tensor, product: Tensor) -> Tensor:
        """See ScaledModel."""
        sections = [self.encode(steps), self.book(book), self.embedding(product), signals]
        return self.head(self.interaction(torch.cat(sections, dim=1)))


class SeedModel(SectionModel):
    """LSTM over the medians."""

    def __init__(self, config: SeedConfig, signals: int) -> None:
        """See ScaledModel."""
        super().__init__(config, signals)
        self.lstm = nn.LSTM(1, config.lstm_hidden, config.lstm_layers)
        self._add_sections(config, config.lstm_hidden, signals)

    def encode(self, steps: Tensor) -> Tensor:
        """Return the last layer's state after the newest median."""
        _, (state, _) = self.lstm(steps.T.unsqueeze(-1))
        return state[-1]


class TcnModel(SectionModel):
    """Convolutions over the medians, each seeing only its own and older steps."""

    def __init__(self, config: TcnConfig, signals: int) -> None:
        """See ScaledModel."""
        super().__init__(config, signals)
        widths = [1, *[config.channels] * config.layers]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(widths[i], widths[i + 1], config.kernel, dilation=2**i)
            for i in range(config.layers)
        )
        self._add_sections(config, config.channels, signals)

    def encode(self, steps: Tensor) -> Tensor:
        """Return the last layer's channels at the newest median."""
        state = steps.unsqueeze(1)
        for index, convolution in enumerate(self.convolutions):
            reach = (self.config.kernel - 1) * 2**index
            found = functional.relu(convolution(functional.pad(state, (reach, 0))))
            # From the second layer on, a layer adds to what it was given.
            state = found + state if index else found
        return state[:, :, -1]
