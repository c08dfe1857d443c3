"""Products: what can be traded, on which grid of prices and sizes, and the universe of 55.

Prices and sizes are whole ticks and lots (one `quote_increment`, one `base_increment`) from the
wire decoder to the window record, so a number off its grid is an error and never a rounding.
"""

from decimal import Decimal, InvalidOperation
from functools import cached_property

import msgspec

from market.errors import QuaverError

_LONGEST = 64  # Digits of a number that is still read.
MAX_UNITS = 1 << 57  # So that bucket arithmetic on prices and sums of sizes stay inside int64.


class Product(msgspec.Struct, frozen=True, dict=True):
    """A Coinbase pair, its id kept verbatim, with its price and size grid."""

    id: str
    quote_increment: Decimal
    base_increment: Decimal
    base_min_size: Decimal

    def ticks(self, text: str) -> int:
        """Return the price `text` in ticks; ValueError if it is no number on the grid."""
        return _units(text, self._quote_digits, self.quote_increment)

    def lots(self, text: str) -> int:
        """Return the size `text` in lots; ValueError if it is no number on the grid."""
        return _units(text, self._base_digits, self.base_increment)

    def price(self, ticks: int) -> Decimal:
        """Return the price of `ticks` in quote currency, exact."""
        return ticks * self.quote_increment

    def size(self, lots: int) -> Decimal:
        """Return the size of `lots` in base currency, exact."""
        return lots * self.base_increment

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


def _decimal_digits(increment: Decimal) -> int:
    """Digits after the point if the increment is a power of ten up to 1, else -1 (general path)."""
    sign, digits, exponent = increment.normalize().as_tuple()
    power_of_ten = sign == 0 and digits == (1,) and isinstance(exponent, int) and exponent <= 0
    return -int(exponent) if power_of_ten else -1


def _units(text: str, digits: int, increment: Decimal) -> int:
    whole, _, fraction = text.partition(".")
    number = whole + fraction
    if not (number.isascii() and number.isdecimal()) or len(text) > _LONGEST:
        raise ValueError(f"{text[:_LONGEST]!r} is not a plain number")
    if digits >= 0:
        units, beyond = int(whole + fraction[:digits].ljust(digits, "0")), fraction[digits:]
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
    try:
        values = [Decimal(text) for text in (quote, base, base_min or base)]
    except InvalidOperation:
        values = []
    if not values or not all(value.is_finite() and value > 0 for value in values):
        raise QuaverError(
            f"increments of {product_id} must be positive numbers, got {quote!r} and {base!r}"
        )
    return Product(product_id, *values)


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
