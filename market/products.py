"""Products: what can be traded, on which grid of prices and sizes, and the universe of 55.

Prices and sizes are whole ticks and lots (one `quote_increment`, one `base_increment`) from the
wire decoder to the window record, so a number off its grid is an error and never a rounding.
"""

from decimal import Decimal, InvalidOperation
from functools import cached_property

import msgspec

from market.checks import LOWEST, whole
from market.errors import QuaverError

_LONGEST = 64  # Digits of a number that is still read.
_FINEST, _COARSEST = Decimal("1e-18"), Decimal("1e18")
_MOST_DIGITS = 9  # Of an increment: times an int64 that is within a Decimal's 28 digits, exact.
MAX_UNITS = 1 << 57  # So that bucket arithmetic on prices and sums of sizes stay inside int64.


class Product(msgspec.Struct, frozen=True, dict=True):
    """A Coinbase pair, its id kept verbatim, with its price and size grid."""

    id: str
    quote_increment: Decimal
    base_increment: Decimal
    base_min_size: Decimal

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id:
            raise ValueError(f"product: id must be text, not empty, got {self.id!r}")
        for name in ("quote_increment", "base_increment", "base_min_size"):
            value = getattr(self, name)
            sound = isinstance(value, Decimal) and value.is_finite()
            if not sound or not _FINEST <= value <= _COARSEST or _digits(value) > _MOST_DIGITS:
                raise ValueError(
                    f"product {self.id}: {name} must be a positive decimal number from {_FINEST} "
                    f"to {_COARSEST}, of at most {_MOST_DIGITS} digits, got {value!r}"
                )

    def ticks(self, text: str) -> int:
        """Return the price `text` in ticks; ValueError if it is no number on the grid."""
        return _units(text, self._quote_digits, self.quote_increment)

    def lots(self, text: str) -> int:
        """Return the size `text` in lots; ValueError if it is no number on the grid."""
        return _units(text, self._base_digits, self.base_increment)

    def price(self, ticks: int) -> Decimal:
        """Return the price of `ticks` in quote currency, exact."""
        return whole("ticks", ticks) * self.quote_increment

    def size(self, lots: int) -> Decimal:
        """Return the size of `lots` (of a position: negative if short) in base currency, exact."""
        return whole("lots", lots, LOWEST) * self.base_increment

    @cached_property
    def tick(self) -> float:
        """One tick in quote currency, as the float that features and reports multiply by."""
        return float(self.quote_increment)

    @cached_property
    def _quote_digits(self) -> int:
        return _decimal_digits(self.quote_increment)

    @cached_property
    def _base_digits(self) -> int:
        return _decimal_digits(self.base_increment)


def _digits(number: Decimal) -> int:
    return len("".join(map(str, number.as_tuple().digits)).rstrip("0"))


def _decimal_digits(increment: Decimal) -> int:
    """Digits after the point if the increment is a power of ten up to 1, else -1 (general path)."""
    sign, digits, exponent = increment.normalize().as_tuple()
    power_of_ten = sign == 0 and digits == (1,) and isinstance(exponent, int) and exponent <= 0
    return -int(exponent) if power_of_ten else -1


def _units(text: str, digits: int, increment: Decimal) -> int:
    try:
        integer, _, fraction = text.partition(".")
    except (AttributeError, TypeError):
        raise ValueError(f"text must be a str, got {text!r}") from None
    number = integer + fraction
    if not (number.isascii() and number.isdecimal()) or len(text) > _LONGEST:
        raise ValueError(f"{text[:_LONGEST]!r} is not a plain number")
    if digits >= 0:
        units, beyond = int(integer + fraction[:digits].ljust(digits, "0")), fraction[digits:]
        off_grid = bool(beyond.strip("0"))
    else:
        units, off_grid = _general_units(number, len(fraction), increment)
    if off_grid:
        raise ValueError(f"{text!r} is off the grid of {increment}")
    if units > MAX_UNITS:
        raise ValueError(f"{text!r} is larger than any price or size can be")
    return units


def _general_units(number: str, places: int, increment: Decimal) -> tuple[int, bool]:
    """Count increments that are no power of ten, in integers: no digit is lost."""
    increment_units, scale = increment.as_integer_ratio()
    units, rest = divmod(int(number) * scale, increment_units * 10**places)
    return units, rest != 0


def product_of(product_id: str, quote: str, base: str, base_min: str | None = None) -> Product:
    """Return a product from its increments as text; QuaverError unless they are positive."""
    texts = (quote, base, base_min or base)
    wrong = f"increments of {product_id}: quote, base and base_min must be"
    if not all(isinstance(text, str) for text in texts):  # A float has more digits than it shows.
        raise QuaverError(f"{wrong} text, got {texts}")
    try:
        return Product(product_id, *(Decimal(text) for text in texts))
    except InvalidOperation:
        raise QuaverError(f"{wrong} numbers, got {texts}") from None
    except ValueError as problem:
        raise QuaverError(str(problem)) from None


# id, quote_increment, base_increment, base_min_size: Coinbase as of 2025-06-03, by liquidity.
# The order is the product index that models are trained with.
_TABLE = """
ZEC-USD 0.01 0.00001 0.00001
BTC-USD 0.01 0.00000001 0.00000001
ETH-USD 0.01 0.00000001 0.00000001
XRP-USD 0.0001 0.000001 0.000001
SOL-USD 0.01 0.00000001 0.00000001
LTC-USD 0.01 0.00000001 0.00000001
AERO-USD 0.00001 0.1 0.1
MORPHO-USD 0.0001 0.01 0.01
XLM-USD 0.000001 0.00000001 0.00000001
ADA-USD 0.0001 0.00000001 0.00000001
TAO-USD 0.01 0.0001 0.0001
BCH-USD 0.01 0.00000001 0.00000001
ICP-USD 0.001 0.0001 0.0001
UNI-USD 0.001 0.000001 0.000001
LINK-USD 0.001 0.01 0.01
DOGE-USD 0.00001 0.1 0.1
SUI-USD 0.0001 0.1 0.1
DOT-USD 0.001 0.00000001 0.00000001
ONDO-USD 0.00001 0.01 0.01
AVAX-USD 0.01 0.00000001 0.00000001
FIL-USD 0.001 0.001 0.001
HBAR-USD 0.00001 0.1 0.1
NEAR-USD 0.001 0.001 0.001
PENGU-USD 0.00001 1 1
WLD-USD 0.001 0.01 0.01
ZRO-USD 0.001 0.01 0.01
YFI-USD 0.01 0.000001 0.000001
PAXG-USD 0.01 0.00001 0.00001
COOKIE-USD 0.00001 0.1 0.1
ARB-USD 0.0001 0.01 0.01
COTI-USD 0.0001 0.1 0.1
AAVE-USD 0.01 0.001 0.001
APE-USD 0.001 0.01 0.01
FET-USD 0.0001 0.1 0.1
BICO-USD 0.0001 0.01 0.01
SEI-USD 0.0001 0.1 0.1
ETC-USD 0.01 0.00000001 0.00000001
ATOM-USD 0.001 0.01 0.01
AUCTION-USD 0.01 0.001 0.001
DASH-USD 0.01 0.001 0.001
TRUMP-USD 0.01 0.001 0.001
INJ-USD 0.001 0.01 0.01
APT-USD 0.01 0.001 0.001
JTO-USD 0.0001 0.1 0.1
FIDA-USD 0.0001 0.01 0.01
PENDLE-USD 0.001 0.01 0.01
WIF-USD 0.001 0.01 0.01
PYTH-USD 0.0001 0.1 0.1
ALGO-USD 0.0001 0.1 0.1
KAITO-USD 0.0001 0.01 0.01
LDO-USD 0.001 0.01 0.01
TIA-USD 0.001 0.01 0.01
OP-USD 0.001 0.01 0.01
CRV-USD 0.0001 0.01 0.01
STRK-USD 0.001 0.01 0.01
"""
UNIVERSE: tuple[Product, ...] = tuple(
    product_of(*line.split()) for line in _TABLE.strip().splitlines()
)
_INDEX = {listed.id: index for index, listed in enumerate(UNIVERSE)}


def product_index(product_id: str) -> int | None:
    """Return the position of a product in the universe, None if it is not in it."""
    return _INDEX.get(product_id)


def product(product_id: str) -> Product:
    """Return a product of the universe; QuaverError if it is not in it."""
    index = _INDEX.get(product_id)
    if index is None:
        raise QuaverError(
            f"{product_id} is not one of the {len(UNIVERSE)} products of the universe; "
            f"give its increments, for example {product_id}=0.01,0.00000001"
        )
    return UNIVERSE[index]
