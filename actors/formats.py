"""The wire formats by name, as the command line and the configuration call them."""

from actors import advanced_trade, exchange_feed
from actors.frames import WireFormat

FORMATS: dict[str, WireFormat] = {
    "coinbase-advanced": advanced_trade.decoder,
    "coinbase-exchange": exchange_feed.decoder,
}
