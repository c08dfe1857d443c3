"""What the products of a simulated market are like: price, pace, depth and spread.

Prices are typical ones, lifted where a tick would be more than 2 bp. The pace is the `l2_data`
frames a second that were counted on the venue on 2026-09-08. Depth and distances follow a
recorded BTC-USD book of 2026; other coins have fewer levels, placed alike.
"""

from decimal import Decimal
from typing import NamedTuple

from market.products import Product

MIN_START_TICKS = 5_000  # Start prices are lifted to this, so that one tick is at most 2 bp.
UNLISTED_START_TICKS = 20_000
UNLISTED_FRAMES_PER_S = 5.0
CHANGES_PER_FRAME = 7.4

# Coin, typical price in USD, `l2_data` frames per second.
_TABLE = """
ZEC 350 16.37   BTC 90000 16.27 ETH 3100 15.98  XRP 2.1 15.05   SOL 140 14.87   LTC 85 13.49
AERO 0.65 12.44 MORPHO 1.6 12.03 XLM 0.25 11.76 ADA 0.55 10.97  TAO 300 10.87   BCH 550 10.70
ICP 5.2 10.48   UNI 6.3 9.61    LINK 13.5 9.42  DOGE 0.15 9.35  SUI 1.7 9.27    DOT 5.5 9.14
ONDO 0.52 8.95  AVAX 60 8.65    FIL 5.4 8.05    HBAR 0.15 7.99  NEAR 5.1 7.79   PENGU 0.06 7.76
WLD 5.3 7.72    ZRO 5.2 7.55    YFI 4200 7.44   PAXG 4100 7.27  COOKIE 0.07 7.25 ARB 0.7 7.17
COTI 0.6 6.64   AAVE 180 6.55   APE 5.6 6.52    FET 0.6 6.18    BICO 0.6 6.11   SEI 0.55 6.10
ETC 55 6.00     ATOM 5.5 5.98   AUCTION 52 5.90 DASH 65 5.89    TRUMP 58 5.63   INJ 6.2 5.33
APT 56 5.24     JTO 0.7 5.22    FIDA 0.6 5.09   PENDLE 5.4 5.07 WIF 5.2 4.97    PYTH 0.6 4.82
ALGO 0.6 4.61   KAITO 0.7 4.50  LDO 5.3 4.47    TIA 5.4 4.44    OP 5.3 4.41     CRV 0.6 4.19
STRK 5.1 4.10
"""
_WORDS = _TABLE.split()
_USD = dict(zip(_WORDS[::3], map(Decimal, _WORDS[1::3]), strict=True))
_FRAMES_PER_S = dict(zip(_WORDS[::3], map(float, _WORDS[2::3]), strict=True))
_LEVELS = {"BTC": 20_000, "ETH": 12_000}  # A side.
_ONE_TICK = ("BTC", "ETH")  # Their spread, at rest.

# Share of a side's levels that lie within a distance of the mid, in bp.
DISTANCE_BPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 20000)
LEVEL_SHARE = (
    0.0003, 0.0007, 0.0017, 0.003, 0.0065, 0.0135, 0.0285, 0.06, 0.144, 0.25, 0.43, 0.66, 1.0,
)  # fmt: skip


class Profile(NamedTuple):
    """One product: where it starts and how busy and deep it is."""

    start_ticks: int
    changes_per_s: float  # Level changes that the feed shows, at activity 1.
    levels: int  # A side.
    spread_bps: float  # At rest; at least one tick.
    order_lots: float  # Median size of an order near the touch.


def start_ticks(product: Product) -> int:
    """Return where a product's price starts, in ticks."""
    usd = _USD.get(_coin(product))
    if usd is None:
        return UNLISTED_START_TICKS
    return max(MIN_START_TICKS, round(usd / product.quote_increment))


def profile_of(product: Product) -> Profile:
    """Return a product's profile; one that is not in the table is a thin coin."""
    ticks, coin = start_ticks(product), _coin(product)
    frames_per_s = _FRAMES_PER_S.get(coin, UNLISTED_FRAMES_PER_S)
    lot_usd = float(ticks * product.quote_increment * product.base_increment)
    return Profile(
        start_ticks=ticks,
        changes_per_s=frames_per_s * CHANGES_PER_FRAME,
        levels=_LEVELS.get(coin, round(400 + 250 * frames_per_s)),
        spread_bps=0.0 if coin in _ONE_TICK else 20 / frames_per_s,
        order_lots=max(1.0, 250 * frames_per_s / lot_usd),
    )


def _coin(product: Product) -> str:
    return product.id.partition("-")[0]
