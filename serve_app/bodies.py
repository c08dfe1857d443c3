"""Bodies of prediction requests: what they may hold, and the field to name where they do not."""

import json
import re
from collections.abc import Container
from typing import Annotated, Any

import msgspec

MAX_SAMPLES = 1000

Median = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Side = Annotated[list[Share], msgspec.Meta(min_length=20, max_length=20)]
Signal = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]  # The model's float32 can take these.


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One beat's features, as section 4 defines them, and the signals that the model takes."""

    product: str
    medians: Annotated[list[Median], msgspec.Meta(min_length=10, max_length=10)]
    bids: Side
    asks: Side
    signals: list[Signal] = []


class Samples(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Many samples, answered in their order."""

    samples: Annotated[list[Sample], msgspec.Meta(min_length=1, max_length=MAX_SAMPLES)]


class BadInput(Exception):
    """A request body that cannot be used; `field` is where, as in `samples[3].bids`."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field


def read_samples(body: bytes, trained: Container[str], wanted: tuple[str, ...]) -> list[Sample]:
    """Return the samples of a request body, one or many, of `trained` products.

    Each must have as many signals as are `wanted`, by name. BadInput names the first field at
    fault.
    """
    try:
        many = "samples" in msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        read = msgspec.json.decode(body, type=Samples if many else Sample)
    except msgspec.ValidationError as error:
        raise _bad_input(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _bad_json(body, str(error)) from error
    samples = read.samples if isinstance(read, Samples) else [read]
    for i, sample in enumerate(samples):
        if sample.product not in trained:
            field = f"samples[{i}].product" if many else "product"
            problem = f"{field}: the model was not trained for {sample.product!r}"
            raise BadInput(field, problem)
        if len(sample.signals) != len(wanted):
            field = f"samples[{i}].signals" if many else "signals"
            takes = f"{len(wanted)} signals ({', '.join(wanted)})" if wanted else "no signals"
            problem = f"{field}: the model takes {takes}, got {len(sample.signals)}"
            raise BadInput(field, problem)
    return samples


def body_schema() -> dict[str, Any]:
    """Return what OpenAPI is to say of the body of a prediction."""
    sample, samples = msgspec.json.schema(Sample), msgspec.json.schema(Samples)
    content = {"schema": {"oneOf": [sample, samples]}}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def _bad_input(message: str) -> BadInput:
    """Turn msgspec's `problem - at `$.path`` into the field and the problem."""
    at = re.search(r" - at `\$\.?([^`]*)`$", message)
    field, problem = (at[1], message[: at.start()]) if at else ("", message)
    named = re.search(r"(?:required|unknown) field `([^`]*)`", problem)
    if named:
        field = f"{field}.{named[1]}" if field else named[1]
    return BadInput(field or "body", f"{field or 'body'}: {problem}")


def _bad_json(body: bytes, message: str) -> BadInput:
    """Name the field of a NaN or Infinity, which some clients write though JSON has none."""
    found: list[str] = []

    def not_finite(text: str) -> str:
        found.append(text)
        return text  # A string where a number belongs: msgspec then says where.

    try:
        loose = json.loads(body, parse_constant=not_finite)
        msgspec.convert(loose, Samples if "samples" in loose else Sample)
    except msgspec.ValidationError as error:
        named = _bad_input(str(error))
        return BadInput(named.field, f"{named.field}: numbers must be finite") if found else named
    except (ValueError, TypeError, RecursionError):
        pass
    return BadInput("body", f"body: {message}")
