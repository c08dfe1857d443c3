"""Window records of a recording, rebuilt with dicts and Python integers.

Reads a capture (gzip, one JSON frame a line, Advanced Trade or Exchange format; a line
`{"type":"disconnect"}` marks a lost connection) and follows the ingestion rules literally, one
frame at a time. Slow on purpose: what is compared with it may be fast.
"""

import gzip
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

BEAT_NS = 4 * 10**9
BUCKETS = 20
INT64_MAX = 2**63 - 1
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
TIME = re.compile(r"([0-9-]{10}T[0-9:]{8})(?:\.([0-9]{1,9}))?Z")
ADVANCED_SIDES = {"bid": "bids", "offer": "asks"}
EXCHANGE_SIDES = {"buy": "bids", "sell": "asks"}
ADVANCED_TAKER = {"BUY": "sell", "SELL": "buy"}
EXCHANGE_TAKER = {"buy": "sell", "sell": "buy"}

Levels = list[tuple[str, int, int]]  # (bids | asks, ticks, lots)


class Corrupt(Exception):
    """A frame that must be dropped whole."""


@cache
def grid(text: str, increment: str) -> int:
    """A decimal text in whole increments; Corrupt if off the grid, negative or not a number."""
    if not NUMBER.fullmatch(text):
        raise Corrupt(text)
    value = Fraction(text) / Fraction(increment)
    if value.denominator != 1 or not 0 <= value <= INT64_MAX:
        raise Corrupt(text)
    return int(value)


def nanoseconds(text: Any) -> int:
    """An RFC 3339 time in UTC as ns since 1970."""
    found = TIME.fullmatch(text) if isinstance(text, str) else None
    if not found:
        raise Corrupt(f"time {text!r}")
    whole = datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
    return int(whole.timestamp()) * 10**9 + int((found[2] or "").ljust(9, "0"))


def depth(levels: dict[int, int], mid2: int, sign: int) -> list[int]:
    """Lots per 0.1 % bucket from the median; sign +1 for asks, -1 for bids."""
    buckets = [0] * BUCKETS
    for price, lots in levels.items():
        index = (1000 * sign * (2 * price - mid2)) // mid2
        if index < BUCKETS:
            buckets[index] += lots
    return buckets


class Product:
    """One product's book and the beat that is open."""

    def __init__(self, price_increment: str, size_increment: str) -> None:
        self.increments = (price_increment, size_increment)
        self.bids: dict[int, int] = {}
        self.asks: dict[int, int] = {}
        self.best_bid: int | None = None
        self.best_ask: int | None = None
        self.synced = False
        self.seen_trades: set[int] = set()
        self.beat: int | None = None
        self.records: list[dict[str, Any]] = []

    def open_beat(self, beat: int) -> None:
        """Start a beat in the state the book is in."""
        self.beat = beat
        self.valid = self.synced
        self.low_asks: list[int] = []
        self.high_bids: list[int] = []
        self.trades: list[tuple[str, int, int]] = []
        self.updates = 0
        self.note_state()

    def note_state(self) -> None:
        """Remember the best prices for the extremes of the beat."""
        if self.synced and self.best_bid is not None and self.best_ask is not None:
            self.low_asks.append(self.best_ask)
            self.high_bids.append(self.best_bid)

    def unsync(self) -> None:
        """The book can no longer be trusted."""
        self.synced = False
        self.valid = False

    def close_beats(self, now: int) -> None:
        """Emit every beat whose end the clock has reached."""
        if self.beat is None:
            self.open_beat(now // BEAT_NS)
        while now >= (self.beat + 1) * BEAT_NS:
            self.records.append(self.record())
            self.open_beat(self.beat + 1)

    def record(self) -> dict[str, Any]:
        """The window record of the open beat, as if it ended now."""
        bid, ask, bid_depth, ask_depth = 0, 0, [0] * BUCKETS, [0] * BUCKETS
        if self.synced:
            bid, ask = self.best_bid, self.best_ask
            bid_depth = depth(self.bids, bid + ask, -1)
            ask_depth = depth(self.asks, bid + ask, +1)
        prices = [price for _, price, _ in self.trades]
        return {
            "beat": self.beat,
            "valid": self.valid,
            "bid": bid,
            "ask": ask,
            "low_ask": min(self.low_asks, default=0),
            "high_bid": max(self.high_bids, default=0),
            "trade_low": min(prices, default=None),
            "trade_high": max(prices, default=None),
            "buy_lots": sum(lots for side, _, lots in self.trades if side == "buy"),
            "sell_lots": sum(lots for side, _, lots in self.trades if side == "sell"),
            "trades": len(self.trades),
            "bid_depth": bid_depth,
            "ask_depth": ask_depth,
            "updates": self.updates,
        }

    def set_level(self, side: str, price: int, lots: int) -> None:
        """Set the absolute size at a price; zero deletes."""
        levels = self.bids if side == "bids" else self.asks
        if lots:
            levels[price] = lots
        else:
            levels.pop(price, None)
        # The best price is looked up again only where this level can have moved it.
        if side == "bids":
            if lots and (self.best_bid is None or price > self.best_bid):
                self.best_bid = price
            elif not lots and price == self.best_bid:
                self.best_bid = max(levels, default=None)
        elif lots and (self.best_ask is None or price < self.best_ask):
            self.best_ask = price
        elif not lots and price == self.best_ask:
            self.best_ask = min(levels, default=None)

    def snapshot(self, levels: Levels) -> None:
        """Replace the book; the beat in which this happens is invalid."""
        self.bids, self.asks, self.best_bid, self.best_ask = {}, {}, None, None
        for side, price, lots in levels:
            self.set_level(side, price, lots)
        self.synced = True
        self.valid = False

    def change(self, levels: Levels) -> None:
        """Apply level changes; those of a book that is not synced are discarded."""
        if self.synced:
            self.updates += len(levels)
            for side, price, lots in levels:
                self.set_level(side, price, lots)

    def end_of_frame(self) -> None:
        """Check the book after a whole frame."""
        if not self.synced:
            return
        if self.best_bid is None or self.best_ask is None or self.best_bid >= self.best_ask:
            self.unsync()
        self.note_state()

    def trade(self, trade_id: int, taker: str, price: int, lots: int) -> None:
        """Count a trade once."""
        if trade_id not in self.seen_trades:
            self.seen_trades.add(trade_id)
            self.trades.append((taker, price, lots))


class Rebuild:
    """The connection: sequence, clock, and the products it feeds."""

    def __init__(self, increments: dict[str, tuple[str, str]], products: set[str]) -> None:
        self.products = {
            name: Product(*increments[name]) for name in increments if name in products
        }
        self.now: int | None = None
        self.last_sequence: int | None = None
        self.waiting: list[tuple[str, Levels]] = []

    def frame(self, line: str) -> None:
        """Take in one line of a capture."""
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            self.unsync(self.products)
        elif message.get("type") == "disconnect":
            self.unsync(self.products)
            self.last_sequence = None
            self.waiting = []
        elif "channel" in message:
            self.advanced(message)
        else:
            self.exchange(message)

    def unsync(self, names: Any) -> None:
        """Stop trusting these books, at the clock as it stands."""
        for name in names:
            if name in self.products:
                self.products[name].unsync()
        self.waiting = [(name, levels) for name, levels in self.waiting if name not in names]

    def move_clock(self, when: int) -> None:
        """Move the event clock, never back, and close the beats it has passed."""
        self.now = when if self.now is None else max(self.now, when)
        for product in self.products.values():
            product.close_beats(self.now)

    def advanced(self, message: dict[str, Any]) -> None:
        """One Advanced Trade frame."""
        sequence = message.get("sequence_num")
        if not isinstance(sequence, int):
            self.unsync(named_in(message) or self.products)
            return
        if self.last_sequence is not None:
            if sequence <= self.last_sequence:
                return
            if sequence > self.last_sequence + 1:
                self.unsync(self.products)
        self.last_sequence = sequence
        try:
            if not is_history(message):
                self.move_clock(nanoseconds(message.get("timestamp")))
            if message["channel"] == "l2_data":
                self.apply_levels(self.decode_levels(message))
            elif message["channel"] == "market_trades":
                self.apply_trades(self.decode_trades(message))
        except (Corrupt, KeyError, TypeError, ValueError):
            self.unsync(named_in(message) or self.products)

    def decode_levels(self, message: dict[str, Any]) -> list[tuple[str, str, Levels]]:
        """(product, snapshot | update, levels) of every event; raises if any is bad."""
        decoded = []
        for event in message["events"]:
            product = self.products.get(event["product_id"])
            if product is None:
                continue
            price_increment, size_increment = product.increments
            if event["type"] not in ("snapshot", "update"):
                raise Corrupt(event["type"])
            levels = [
                (
                    ADVANCED_SIDES[level["side"]],
                    grid(level["price_level"], price_increment),
                    grid(level["new_quantity"], size_increment),
                )
                for level in event["updates"]
            ]
            decoded.append((event["product_id"], event["type"], levels))
        return decoded

    def decode_trades(self, message: dict[str, Any]) -> list[tuple[str, tuple[int, str, int, int]]]:
        """(product, trade) of every trade that is not history."""
        decoded = []
        for event in message["events"]:
            for trade in event["trades"]:
                product = self.products.get(trade["product_id"])
                if product is None or event["type"] == "snapshot":
                    continue
                price_increment, size_increment = product.increments
                taken = (
                    int(trade["trade_id"]),
                    ADVANCED_TAKER[trade["side"]],
                    grid(trade["price"], price_increment),
                    grid(trade["size"], size_increment),
                )
                decoded.append((trade["product_id"], taken))
        return decoded

    def apply_levels(self, decoded: list[tuple[str, str, Levels]]) -> None:
        """Apply a whole frame, then check the books that it touched."""
        for name, kind, levels in decoded:
            product = self.products[name]
            if kind == "snapshot":
                product.snapshot(levels)
            else:
                product.change(levels)
        for name in {name for name, _, _ in decoded}:
            self.products[name].end_of_frame()

    def apply_trades(self, decoded: list[tuple[str, tuple[int, str, int, int]]]) -> None:
        """Count the trades of a frame."""
        for name, trade in decoded:
            self.products[name].trade(*trade)

    def exchange(self, message: dict[str, Any]) -> None:
        """One Exchange frame; a snapshot waits for the time of the next timed frame."""
        kind, name = message.get("type"), message.get("product_id")
        if kind not in ("snapshot", "l2update", "match", "heartbeat", "ticker"):
            return
        try:
            if kind == "snapshot":
                if name in self.products:
                    self.waiting.append((name, self.decode_exchange_snapshot(message)))
                return
            self.move_clock(nanoseconds(message.get("time")))
            waiting, self.waiting = self.waiting, []
            for waiting_name, levels in waiting:
                self.apply_levels([(waiting_name, "snapshot", levels)])
            if name in self.products:
                self.exchange_record(message)
        except (Corrupt, KeyError, TypeError, ValueError):
            self.unsync([name] if name else self.products)

    def decode_exchange_snapshot(self, message: dict[str, Any]) -> Levels:
        """All levels of an Exchange snapshot."""
        price_increment, size_increment = self.products[message["product_id"]].increments
        return [
            (side, grid(price, price_increment), grid(size, size_increment))
            for side in ("bids", "asks")
            for price, size in message[side]
        ]

    def exchange_record(self, message: dict[str, Any]) -> None:
        """The level changes or the trade of a timed Exchange frame."""
        name = message["product_id"]
        price_increment, size_increment = self.products[name].increments
        if message["type"] == "l2update":
            levels = [
                (EXCHANGE_SIDES[side], grid(price, price_increment), grid(size, size_increment))
                for side, price, size in message["changes"]
            ]
            self.apply_levels([(name, "update", levels)])
        elif message["type"] == "match":
            trade = (
                int(message["trade_id"]),
                EXCHANGE_TAKER[message["side"]],
                grid(message["price"], price_increment),
                grid(message["size"], size_increment),
            )
            self.apply_trades([(name, trade)])


def is_history(message: dict[str, Any]) -> bool:
    """Whether a frame holds nothing but past trades."""
    events = message.get("events")
    return (
        message["channel"] == "market_trades"
        and bool(events)
        and all(event.get("type") == "snapshot" for event in events)
    )


def named_in(message: dict[str, Any]) -> set[str]:
    """Every product that a frame names, in data, trades or subscriptions."""
    names: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                if key == "product_id" and isinstance(value, str):
                    names.add(value)
                elif key in ("product_ids", "level2", "market_trades") and isinstance(value, list):
                    names.update(value)
                else:
                    walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(message)
    return names


def lines_of(path: Path) -> Iterator[str]:
    """The frames of a capture, as text."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield line


def products_of(path: Path) -> set[str]:
    """Every product that a capture names."""
    names: set[str] = set()
    for line in lines_of(path):
        try:
            message = json.loads(line)
        except ValueError:
            continue
        names |= named_in(message)
    return names


def windows_of(path: Path, increments: dict[str, tuple[str, str]]) -> dict[str, list[dict]]:
    """Window records per product: increments gives (quote_increment, base_increment) as text."""
    rebuild = Rebuild(increments, products_of(path))
    for line in lines_of(path):
        rebuild.frame(line)
    return {name: product.records for name, product in rebuild.products.items()}


def books_after_frames(
    path: Path, increments: dict[str, tuple[str, str]]
) -> Iterator[dict[str, Product]]:
    """The books after each frame of a capture; the objects are the live ones, not copies."""
    rebuild = Rebuild(increments, products_of(path))
    for line in lines_of(path):
        rebuild.frame(line)
        yield rebuild.products
