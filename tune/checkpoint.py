"""Two kinds of file: the state of a training run, and the one file a model is shipped as.

A state can go on exactly where it stopped. A model file carries all that its user must agree with
(products, features, fees) in its header, and is refused where they do not agree. Neither is ever
unpickled: both may come from a bucket that others write to.
"""

import contextlib
import functools
import io
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from datasets.recipe import Recipe
from market.errors import QuaverError
from tune.config import TrainConfig
from tune.models import ModelConfig, build
from tune.objectives import Objective
from tune.scaled import ScaledModel

MODEL_FILE = "model.safetensors"
FEATURES_VERSION = "1"  # Raised with every change to sections 3 to 6 of the definitions.
_META_KEY = "quaver"


@dataclass
class TrainState:
    """All of a training run after `epoch` epochs and `batch` batches of the next one.

    It also holds the weights of the best epoch so far, and what the figures of the unfinished epoch
    add up from: `loss_sum` and `norm_sum` over `rows` samples.
    """

    config: TrainConfig
    data_sha256: str
    git_commit: str  # Of the program that trained last, or unknown.
    epoch: int
    batch: int
    loss_sum: float
    norm_sum: float
    rows: int
    weights: dict[str, Tensor]
    optimiser: dict[str, Any]  # With its learning-rate schedule.
    rng: Tensor
    best_value_bps: float
    best_epoch: int
    best_weights: dict[str, Tensor]

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to train."""
        patience = self.config.patience_epochs
        is_exhausted = 0 < patience <= self.epoch - self.best_epoch
        return is_exhausted or self.epoch >= self.config.epochs


class ModelMeta(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the header of a model file says."""

    model: ModelConfig
    objective: Objective
    products: tuple[str, ...]
    trained: tuple[str, ...]  # Those that it was shown in training; of others it knows nothing.
    recipe: Recipe  # Of the samples; it says which signals the model takes.
    features_version: str = FEATURES_VERSION


@functools.cache
def git_commit() -> str:
    """Return the commit of this program's working tree, `-dirty` if changed, or `unknown`."""
    tree = Path(__file__).parents[1]
    if not (tree / ".git").exists():  # Installed: git would look in the folders above.
        return "unknown"
    command = ("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    try:
        found = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def pack(state: TrainState) -> bytes:
    """Return `state` as bytes, which `unpack` reads and `training.train` goes on from."""
    content = {field.name: getattr(state, field.name) for field in fields(state)}
    # Only tensors and plain values are loaded again.
    content["config"] = msgspec.json.encode(state.config).decode()
    packed = io.BytesIO()
    torch.save(content, packed)
    return packed.getvalue()


def unpack(packed: bytes) -> TrainState:
    """Return a state that was packed; QuaverError where it is damaged."""
    try:
        content = torch.load(io.BytesIO(packed), weights_only=True)
        content["config"] = msgspec.json.decode(content["config"], type=TrainConfig)
        return TrainState(**content)
    except msgspec.DecodeError as error:
        raise QuaverError("checkpoint: its config is of another version; train anew") from error
    except Exception as error:  # What torch raises follows from the bytes.
        raise QuaverError(f"checkpoint: it is damaged ({error}); train anew") from error


def export(weights: dict[str, Tensor], meta: ModelMeta) -> bytes:
    """Return a model file: these weights (a state dict of `meta.model`) with `meta` in its header.

    QuaverError where a weight is not finite.
    """
    _require_finite(weights, "export")
    tensors = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    header = {_META_KEY: msgspec.json.encode(meta).decode()}
    return safetensors.torch.save(tensors, header)


def load_model(
    source: Path | bytes, *, products: Sequence[str] | None = None
) -> tuple[ScaledModel, ModelMeta]:
    """Return the model of a model file, ready to predict, and what its header says.

    QuaverError where the file is missing or damaged, where its features are of another version, or
    where its products are not `products` in the same order (None: any).
    """
    where = "model file" if isinstance(source, bytes) else str(source)
    content = source if isinstance(source, bytes) else _read(source)
    meta = _meta(content, where)
    if meta.features_version != FEATURES_VERSION:
        raise QuaverError(
            f"{where}: made for features of version {meta.features_version}, this program computes "
            f"version {FEATURES_VERSION}; train the model anew"
        )
    if products is not None and meta.products != tuple(products):
        raise QuaverError(
            f"{where}: made for {_listed(meta.products)}, but {_listed(products)} are asked for; "
            "the order counts"
        )
    unfit = f"{where}: the weights do not fit its header"
    if meta.model.products != len(meta.products):
        raise QuaverError(
            f"{unfit} (a model of {meta.model.products} products, which names {len(meta.products)})"
        )
    signals = len(meta.recipe.signal_names)
    try:
        weights = safetensors.torch.load(content)
        # Without memory first: a header may claim any size.
        with torch.device("meta"):
            build(meta.model, signals).load_state_dict(weights, assign=True)
        # Building draws random weights: the caller's generator stays as it is.
        with torch.random.fork_rng(devices=[]):
            model = build(meta.model, signals)
        model.load_state_dict(weights)
    except (safetensors.SafetensorError, RuntimeError, TypeError, ValueError, KeyError) as error:
        raise QuaverError(f"{unfit} ({error})") from error
    _require_finite(weights, where)
    return model.eval(), meta


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise QuaverError(f"{path}: cannot be read ({error.strerror}); train a model") from error


def _meta(content: bytes, where: str) -> ModelMeta:
    # safetensors gives a header's metadata for paths only: 8 bytes of length, then JSON.
    length = int.from_bytes(content[:8], "little")
    header: Any = None
    if 0 < length <= len(content) - 8:
        with contextlib.suppress(ValueError, RecursionError):
            header = json.loads(content[8 : 8 + length])
    if not isinstance(header, dict):
        raise QuaverError(f"{where}: is damaged or no model file")
    try:
        return msgspec.json.decode(header["__metadata__"][_META_KEY], type=ModelMeta)
    except (KeyError, TypeError, RecursionError, msgspec.DecodeError) as error:
        raise QuaverError(f"{where}: is not a model of this program ({error})") from error


def _require_finite(weights: dict[str, Tensor], where: str) -> None:
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise QuaverError(f"{where}: holds weights that are not finite; its training diverged")


def _listed(products: Sequence[str]) -> str:
    shown = ", ".join(products[:3]) + (", ..." if len(products) > 3 else "")
    return f"{len(products)} products ({shown})"
