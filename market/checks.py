"""Checks of arguments that could otherwise give a wrong answer without a word.

Money and the books are exact, so a float, a bool or a numpy integer is never taken for an int.
"""

from decimal import Decimal

import msgspec

from market.errors import QuaverError

_INFINITE = (float("inf"), float("-inf"))
LOWEST = -(1 << 63)  # Of an int64, as every number of ticks, lots and nanoseconds is.


def whole(name: str, value: int, least: int = 0, error: type[Exception] = ValueError) -> int:
    """Return an int from `least` that an int64 can hold; an `error` for anything else."""
    if type(value) is not int or not least <= value < -LOWEST:
        bound = "" if least == LOWEST else f" from {least}"
        raise error(f"{name} must be an int{bound}, below 2^63, got {value!r}")
    return value


def number(name: str, value: float) -> float:
    """Return an int or float from 0; ValueError for anything else, NaN included."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= 0:
        raise ValueError(f"{name} must be a number from 0, got {value!r}")
    return value


def money(
    name: str, value: Decimal, least: int | None = 0, error: type[Exception] = ValueError
) -> Decimal:
    """Return a finite Decimal from `least` (None: of any sign); an `error` for anything else."""
    sound = isinstance(value, Decimal) and value.is_finite()
    if not sound or (least is not None and value < least):
        bound = "" if least is None else f" from {least}"
        raise error(f"{name} must be a finite Decimal{bound}, got {value!r}")
    return value


def check_settings(name: str, settings: msgspec.Struct) -> None:
    """Raise QuaverError unless all fields are as annotated, and finite: constructors look at none.

    Decoding checks the annotations too, but TOML has infinities.
    """
    for field in msgspec.structs.fields(settings):
        value = getattr(settings, field.name)
        try:
            msgspec.convert(value, field.type)
            why = "it must be finite" if value in _INFINITE else ""
            if not isinstance(value, (int, float, msgspec.Struct)):  # What only convert reads.
                why = "it has the wrong type"
        except msgspec.ValidationError as problem:
            why = str(problem)
        if why:
            raise QuaverError(f"{name}: {field.name} is {value!r}: {why}")
