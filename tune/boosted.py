"""Gradient-boosted trees, a baseline: grown by LightGBM, kept and read as tensors.

Predicting needs no LightGBM. A tree is stored whole, to its full depth: node i has its children at
2i + 1 and 2i + 2, and where LightGBM stopped early all that lies below has the same value.

Every epoch begins from what the stored trees give, whether the run was interrupted or not: nothing
of LightGBM's own state is kept, so nothing of it can be lost.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.batches import Batches
from datasets.samples import Samples
from market.errors import QuaverError
from tune.objectives import Objective
from tune.plain import INPUTS
from tune.scaled import ACTIONS, Positive, ScaledModel, SizesOfAny

# Those whose loss is a sum over the actions, by the name of LightGBM's loss of one action.
OBJECTIVES: dict[Objective, str] = {"mse": "regression", "advantage": "regression", "bce": "binary"}
TREES = ("feature", "threshold", "leaf")  # Buffers.
_AT_ONCE = 1 << 18  # Pairs of sample and tree; it keeps what is being looked up in the cache.


class BoostedConfig(
    SizesOfAny, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="boosted"
):
    """Sizes of the boosted trees.

    Of the training fields they take objective, epochs, patience and seed.
    """

    rounds: Annotated[Positive, msgspec.Meta(description="trees per action that an epoch adds")] = (
        20
    )
    rows: Annotated[
        Positive, msgspec.Meta(description="samples of train that an epoch draws at most")
    ] = 1 << 18
    depth: Annotated[Positive, msgspec.Meta(le=10, description="questions a tree asks")] = 5
    leaf_samples: Annotated[Positive, msgspec.Meta(description="samples in a leaf at least")] = 100
    shrinkage: Annotated[
        float, msgspec.Meta(gt=0, le=1, description="share of each tree that is taken")
    ] = 0.1
    l2: Annotated[float, msgspec.Meta(ge=0, description="regularisation of the leaves")] = 1.0


class BoostedModel(ScaledModel):
    """The trees of all actions, over the scaled inputs and the index of the product."""

    has_gradient = False

    feature: Tensor  # i64[trees, 5, nodes]: which input a node looks at,
    threshold: Tensor  # f64[trees, 5, nodes]: and up to what value it goes left.
    leaf: Tensor  # f64[trees, 5, leaves]

    def __init__(self, config: BoostedConfig, signals: int) -> None:
        """See ScaledModel; without trees every value is 0."""
        super().__init__(config, signals)
        self.width = INPUTS + signals + 1
        leaves = 2**config.depth
        self.register_buffer("feature", torch.zeros(0, ACTIONS, leaves - 1, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(0, ACTIONS, leaves - 1, dtype=torch.float64))
        self.register_buffer("leaf", torch.zeros(0, ACTIONS, leaves, dtype=torch.float64))
        self.register_load_state_dict_pre_hook(_make_room)

    @staticmethod
    def inputs(steps: Tensor, book: Tensor, signals: Tensor, product: Tensor) -> Tensor:
        """Return what the trees look at, f32[n, inputs]."""
        return torch.cat([steps, book, signals, product.unsqueeze(1).float()], dim=1)

    def values(self, steps: Tensor, book: Tensor, signals: Tensor, product: Tensor) -> Tensor:
        """See ScaledModel."""
        return self.sums(self.inputs(steps, book, signals, product)).float()

    def sums(self, inputs: Tensor) -> Tensor:
        """Return the sum of the leaves that each sample falls into, f64[n, 5]."""
        total = torch.zeros(len(inputs), ACTIONS, dtype=torch.float64)
        step = max(1, _AT_ONCE // max(1, ACTIONS * len(inputs)))
        for first in range(0, len(self.feature), step):
            total += self._leaves(inputs, slice(first, first + step)).sum(dim=1)
        # A comparison would take what is no number for a large one.
        return total.masked_fill(~inputs.isfinite().all(dim=1, keepdim=True), torch.nan)

    def _leaves(self, inputs: Tensor, trees: slice) -> Tensor:
        """Return the value of the leaf that each sample falls into, f64[n, trees, 5]."""
        feature, threshold, leaf = (
            part[trees].flatten(0, 1) for part in (self.feature, self.threshold, self.leaf)
        )
        tree = torch.arange(len(feature))
        place = torch.zeros(len(inputs), len(feature), dtype=torch.int64)
        for level in range(self.config.depth):
            node = tree * feature.shape[1] + (2**level - 1) + place
            seen = inputs.gather(1, feature.take(node))
            place = 2 * place + (seen > threshold.take(node))
        return leaf.take(tree * leaf.shape[1] + place).unflatten(1, (-1, ACTIONS))

    def append(self, *trees: Tensor) -> None:
        """Add trees, in the order and the shapes of the buffers."""
        for name, more in zip(TREES, trees, strict=True):
            setattr(self, name, torch.cat([getattr(self, name), more]))


class Draws(Batches):
    """One batch an epoch, of as many rows as the trees are grown on."""

    def epoch(self, epoch: int, from_batch: int = 0) -> Iterator[Samples]:
        """Yield the epoch's rows, or nothing if they have been used."""
        return itertools.islice(super().epoch(epoch), max(0, 1 - from_batch))


class Grower:
    """What `optimisers.Stepper` is to models with a gradient; it has no state of its own."""

    def __init__(self, model: BoostedModel, objective: Objective, seed: int) -> None:
        """Take the model that trees are to be added to."""
        self._model = model
        self._objective = objective
        self._seed = seed
        self.learning_rate = model.config.shrinkage

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the trees are the model's."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""

    def end_epoch(self, value_bps: float) -> None:
        """Do nothing: all trees are taken by the same share."""

    def grow(self, features: Sequence[Tensor], wanted: Tensor) -> None:
        """Add an epoch's trees, from `features` as the model takes them and its targets f32[n, 5].

        QuaverError where LightGBM cannot be loaded or an input is no finite number.
        """
        model = self._model
        with torch.inference_mode():
            inputs = model.inputs(*model.scaled(*features[:4]), features[4])
            wanted = (wanted - model.output_mean) / model.output_scale
        if not inputs.isfinite().all():
            raise QuaverError("training: inputs of train are not finite; build the samples anew")
        model.append(*boost(model, inputs, wanted, self._objective, self._seed))


def boost(
    model: BoostedModel, inputs: Tensor, wanted: Tensor, objective: Objective, seed: int
) -> list[Tensor]:
    """Return trees that bring the sums closer to `wanted`, shaped as the model's buffers.

    `inputs` f32[n, inputs] as of `model.inputs`, `wanted` f32[n, 5].
    """
    lightgbm = load_lightgbm()
    params = {
        "objective": OBJECTIVES[objective],
        "num_leaves": 2**model.config.depth,
        "max_depth": model.config.depth,
        "min_data_in_leaf": model.config.leaf_samples,
        "learning_rate": model.config.shrinkage,
        "lambda_l2": model.config.l2,
        "use_missing": False,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "seed": seed,
        "verbosity": -1,
    }
    # The first epoch starts from a constant of LightGBM's own, which it adds to its first tree.
    start = model.sums(inputs).T.contiguous().numpy() if len(model.feature) else None
    columns = wanted.T.contiguous().numpy()
    data = lightgbm.Dataset(inputs.numpy(), params=params, free_raw_data=False)
    grown = []
    for action in range(ACTIONS):
        data.set_label(columns[action])
        data.set_init_score(None if start is None else start[action])
        booster = lightgbm.train(params, data, model.config.rounds)
        grown.append(unpacked(booster.model_to_string(), model.config.depth, model.config.rounds))
    return [torch.from_numpy(np.stack(part, axis=1)) for part in zip(*grown, strict=True)]


def load_lightgbm() -> Any:
    """Return the module lightgbm; QuaverError where the system lacks what it needs."""
    try:
        import lightgbm
    except (ImportError, OSError) as error:
        raise QuaverError(
            f"boosted: LightGBM cannot be loaded ({error}); training this model needs the system's "
            "OpenMP library (Debian, Ubuntu: libgomp1; macOS: libomp), using it does not"
        ) from None
    return lightgbm


def unpacked(
    text: str, depth: int, trees: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return features, thresholds ([trees, nodes]) and leaves of a model in LightGBM's text form.

    Where it has fewer than `trees`, since no question was left to ask, the rest are 0.
    """
    feature = np.zeros((trees, 2**depth - 1), np.int64)
    threshold = np.zeros((trees, 2**depth - 1))
    leaf = np.zeros((trees, 2**depth))
    for index, block in enumerate(text.split("\nTree=")[1:]):
        fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        columns = {
            name: np.array(fields.get(name, "").split(), kind)
            for name, kind in (
                ("split_feature", np.int64), ("threshold", np.float64), ("leaf_value", np.float64),
                ("left_child", np.int64), ("right_child", np.int64),
            )
        }  # fmt: skip
        single = int(fields["num_leaves"]) == 1
        todo = [(-1 if single else 0, 0, 0)]  # Child as LightGBM counts, level, place in it.
        while todo:
            child, level, place = todo.pop()
            if child < 0:  # A leaf: ~child is its number.
                width = 2 ** (depth - level)
                leaf[index, place * width : (place + 1) * width] = columns["leaf_value"][~child]
                continue
            node = 2**level - 1 + place
            feature[index, node] = columns["split_feature"][child]
            threshold[index, node] = columns["threshold"][child]
            todo.append((columns["left_child"][child], level + 1, 2 * place))
            todo.append((columns["right_child"][child], level + 1, 2 * place + 1))
    return feature, threshold, leaf


def _make_room(model: BoostedModel, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
    """Make the buffers as long as those that are to be loaded, which may hold more trees.

    Where they are at odds, the buffers stay, and torch finds that they do not fit.
    """
    parts = {name: state[prefix + name] for name in TREES if prefix + name in state}
    lengths = {part.shape[:1] for part in parts.values()}
    if len(lengths) == 1:
        for name, part in parts.items():
            old = getattr(model, name)
            setattr(model, name, old.new_zeros(part.shape[:1] + old.shape[1:]))
    feature = parts.get("feature", torch.zeros(0)).long()
    if not bool(((feature >= 0) & (feature < model.width)).all()):
        errors: list[str] = rest[-1]
        errors.append(f"a tree looks at an input beyond the {model.width} that there are")
