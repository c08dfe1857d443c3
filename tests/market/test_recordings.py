"""From a capture to windows: the product's own path equals the plain-dict rebuild in every field.

Real recordings first; then captures made here, in both wire formats, with everything that can go
wrong on a connection. Windows start with the beat of the connection's first timed frame.
"""

import gzip
import json
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from actors import advanced_trade, exchange_feed
from actors.reader import Reader
from market.products import product_of
from market.windows import WINDOW, WindowBuilder
from tests.helpers import replay_windows
from tests.reference.book import books_after_frames, grid, lines_of, products_of, windows_of

DATA = Path(__file__).parents[3] / "shared" / "data"
BTC = ("0.01", "0.00000001")
THIN = ("0.00000001", "0.00000001")
THIN_PRODUCTS = "BAND-GBP BAND-BTC YFI-BTC NU-GBP CRV-EUR SKL-GBP SKL-USD SKL-BTC NMR-EUR DASH-BTC"
INCREMENTS = {"BTC-USD": BTC, **dict.fromkeys(THIN_PRODUCTS.split(), THIN)}
RECORDINGS = {
    "advanced-btc-usd-180s": 1,
    "advanced-btc-usd-60s": 1,
    "exchange-btc-usd-2018-45min": 1,
    "exchange-btc-usd-2018-2min-trades": 1,
    "exchange-btc-usd-2018-1min-trades": 1,
    "exchange-10-products-31s": 10,
}
BEAT_NS = 4_000_000_000
START_NS = 1_786_253_020 * 10**9
MIDNIGHT_NS = 1_786_320_000 * 10**9
MADE = {"AAA-USD": ("0.01", "0.001"), "BBB-USD": ("0.1", "1")}

Windows = dict[str, list[dict[str, Any]]]


def product_windows(path: Path, increments: dict[str, tuple[str, str]]) -> dict[str, np.ndarray]:
    """WINDOW rows per product: imported, stored as raw partitions and rebuilt from those."""
    # An import asks for the grid of every product in the capture, wanted or not.
    grids = {"OTHER-USD": ("1", "1"), **increments} if increments is MADE else increments
    with TemporaryDirectory() as root:
        found = replay_windows(path, grids, Path(root))
    return {name: windows for name, windows in found.items() if name in increments}


def live_windows(path: Path, increments: dict[str, tuple[str, str]]) -> dict[str, np.ndarray]:
    """WINDOW rows per product, frame by frame as the live actors make them."""
    wire = advanced_trade if path.name.startswith("advanced") else exchange_feed
    names = products_of(path)
    products = {name: product_of(name, *increments[name]) for name in increments if name in names}
    reader = Reader(wire.decoder, products)
    builders = {name: WindowBuilder() for name in products}
    found = {name: [np.zeros(0, dtype=WINDOW)] for name in products}
    for recv_ns, line in enumerate(lines_of(path)):
        text = line.strip()
        lost = text.replace(" ", "") == '{"type":"disconnect"}'
        events = reader.disconnected(recv_ns) if lost else reader.frame(text.encode(), recv_ns)
        for name, rows in events:
            found[name].append(builders[name].feed(rows))
    return {name: np.concatenate(windows) for name, windows in found.items()}


PATHS = {"live": live_windows, "stored": product_windows}


def as_dicts(products: dict[str, np.ndarray]) -> Windows:
    """Window rows as plain dicts; null trade extremes where there was no trade."""
    found: Windows = {}
    for name, windows in products.items():
        found[name] = []
        for window in windows:
            record = {field: window[field].tolist() for field in WINDOW.names or ()}
            if record["trades"] == 0:
                record["trade_low"] = record["trade_high"] = None
            found[name].append(record)
    return found


def assert_same(found: Windows, wanted: Windows) -> None:
    """Equal products, beats and fields; names the first difference."""
    assert set(found) == set(wanted)
    for name, records in wanted.items():
        for ours, record in zip(found[name], records, strict=False):
            differing = {k: (ours[k], v) for k, v in record.items() if ours[k] != v}
            assert not differing, f"{name} beat {record['beat']}: (found, wanted) {differing}"
        assert len(found[name]) == len(records), name


def recording(name: str) -> Path:
    """The path of a real recording; skips the test where the folder is absent."""
    path = DATA / f"{name}.jsonl.gz"
    if not path.exists():
        pytest.skip(f"the recording {name} is not here (../shared/data)")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDINGS)
def test_a_real_recording_gives_the_reference_windows(name: str) -> None:
    path = recording(name)
    wanted = windows_of(path, INCREMENTS)
    assert len(wanted) == RECORDINGS[name]
    assert all(any(record["valid"] for record in records) for records in wanted.values())
    for windows in PATHS.values():
        assert_same(as_dicts(windows(path, INCREMENTS)), wanted)


@pytest.mark.slow
def test_the_reference_book_equals_the_books_fetched_over_rest() -> None:
    path = recording("advanced-btc-usd-180s")
    with gzip.open(recording("advanced-btc-usd-180s.books"), "rt", encoding="utf-8") as file:
        fetched = [json.loads(line) for line in file]
    tops = {}
    for frames, books in enumerate(books_after_frames(path, INCREMENTS), start=1):
        if any(book["after_frames"] - 30 <= frames <= book["after_frames"] for book in fetched):
            book = books["BTC-USD"]
            tops[frames] = (
                sorted(book.bids.items(), reverse=True)[:50],
                sorted(book.asks.items())[:50],
            )
    for book in fetched:
        wanted = tuple(
            [(grid(x["price"], BTC[0]), grid(x["size"], BTC[1])) for x in book["pricebook"][side]]
            for side in ("bids", "asks")
        )
        wanted = (wanted[0][:50], wanted[1][:50])
        assert len(wanted[0]) == len(wanted[1]) == 50
        after = book["after_frames"]
        assert any(tops[frames] == wanted for frames in range(after - 30, after + 1))


def write(path: Path, lines: Iterable[str]) -> None:
    """Write a capture."""
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("".join(line + "\n" for line in lines))


class Venue:
    """A venue that misbehaves: two products' true books and the frames it sends about them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lines: list[str] = []
        # Two of three cross midnight, where a partition ends and the next one starts.
        self.ns = (MIDNIGHT_NS - 120 * 10**9 if seed % 3 else START_NS) + self.random.randrange(
            BEAT_NS
        )
        self.sent_time = ""
        self.trade_id = 5_000
        self.waiting = False
        self.books: dict[str, dict[str, dict[int, int]]] = {}
        for name, middle in (("AAA-USD", 2_000), ("BBB-USD", 50_000)):
            self.books[name] = {
                "bids": {middle - 1 - i * 2: 5 + i for i in range(12)},
                "asks": {middle + 1 + i * 2: 9 + i for i in range(12)},
            }

    def capture(self, path: Path, steps: int) -> Path:
        """Write a capture of this many steps."""
        self.connect()
        for _ in range(steps):
            self.step()
        write(path, self.lines)
        return path

    def step(self) -> None:
        """Let some time pass, then send one thing."""
        self.pass_time()
        name = self.random.choice(list(self.books))
        common: list[tuple[Callable[[str], None], float]] = [
            (self.update, 60),
            (self.trade, 14),
            (self.heartbeat, 10),
            (self.snapshot, 7),
            (self.noise, 5),
            (self.crossing, 1),
            (self.emptied, 0.5),
            (self.corrupt, 1),
            (self.unreadable, 0.3),
            (self.history, 1),
            (self.disconnect, 0.5),
            *self.own_trouble(),
        ]
        actions, weights = zip(*common, strict=True)
        self.random.choices(actions, weights)[0](name)

    def pass_time(self) -> None:
        draw = self.random.random()
        if draw < 0.02:
            self.ns += self.random.randrange(3 * BEAT_NS)
        elif draw < 0.05:
            self.ns = (self.ns // BEAT_NS + 1) * BEAT_NS
        elif draw < 0.08:
            self.ns -= self.random.randrange(BEAT_NS)
        else:
            self.ns += self.random.randrange(500_000_000)

    def time(self, ns: int | None = None) -> str:
        """A time as the venue writes it, with some or no digits after the second."""
        seconds, rest = divmod(self.ns if ns is None else ns, 10**9)
        fraction = f"{rest:09d}"[: self.random.choice([0, 3, 6, 7, 8, 9, 9])]
        whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return whole + ("." + fraction if fraction else "") + "Z"

    def text(self, name: str, index: int, units: int) -> str:
        """Whole increments as a decimal text, with spare zeros at times; 0 in several spellings."""
        if units == 0:
            return self.random.choice(["0", "0.0", "0.00000000"])
        places = len(MADE[name][index].partition(".")[2])
        digits = f"{units:0{places + 1}d}"
        if not places:
            return digits + self.random.choice(["", ".0", ".000"])
        return f"{digits[:-places]}.{digits[-places:]}" + self.random.choice(["", "", "000"])

    def moves(self, name: str) -> list[tuple[str, int, int]]:
        """Sound changes of the true book, and deletes of what is not there."""
        book, found = self.books[name], []
        for _ in range(self.random.randrange(1, 6)):
            side = self.random.choice(["bids", "asks"])
            own, other = book[side], book["asks" if side == "bids" else "bids"]
            sign = -1 if side == "bids" else 1
            best, facing = min(sign * p for p in own), max(sign * p for p in other)
            price = sign * self.random.randrange(max(facing + 1, best - 2), best + 30)
            lots = 0 if self.random.random() < 0.35 else self.random.randrange(1, 10**6)
            if lots:
                own[price] = lots
            elif price in own and len(own) > 3:
                del own[price]
            elif price in own:
                continue
            found.append((side, price, lots))
        return found

    def own_trouble(self) -> list[tuple[Callable[[str], None], float]]:
        """What can only happen in this wire format, with weights."""
        return []

    def new_trades(self, name: str) -> list[tuple[int, str, int, int]]:
        """(id, maker's side bids | asks, price, lots), some already sent, newest first."""
        middle = min(self.books[name]["asks"])
        trades = []
        for _ in range(self.random.randrange(1, 4)):
            self.trade_id += self.random.choice([1, 1, 1, 2])
            trades.append(self.trade_id)
        if self.random.random() < 0.3:
            trades.append(self.trade_id - self.random.randrange(1, 4))
        return [
            (
                trade_id,
                self.random.choice(["bids", "asks"]),
                middle + self.random.randrange(-3, 4),
                self.random.randrange(1, 9999),
            )
            for trade_id in sorted(set(trades), reverse=True)
        ]

    def disconnect(self, _: str) -> None:
        self.lines.append(json.dumps({"type": "disconnect"}))
        self.waiting = False
        self.pass_time()
        self.connect()

    def crossing(self, name: str) -> None:
        best = min(self.books[name]["asks"])
        self.send_changes(name, [("bids", best + self.random.randrange(3), 4)])

    def emptied(self, name: str) -> None:
        # More than the true book can be left over from an older snapshot; it is deleted as well.
        middle = min(self.books[name]["asks"])
        levels = [("asks", price, 0) for price in range(middle - 400, middle + 400)]
        self.send_changes(name, levels)

    def update(self, name: str) -> None:
        changes = self.moves(name)
        if changes:
            self.send_changes(name, changes)

    def unreadable(self, _: str) -> None:
        if not self.waiting:
            self.lines.append('{"channel":"l2_data","timest' if self.random.random() < 0.5 else "[")

    connect: Callable[[], None]
    snapshot: Callable[[str], None]
    trade: Callable[[str], None]
    heartbeat: Callable[[str], None]
    noise: Callable[[str], None]
    corrupt: Callable[[str], None]
    history: Callable[[str], None]
    send_changes: Callable[[str, list[tuple[str, int, int]]], None]


class AdvancedVenue(Venue):
    """The Advanced Trade wire format."""

    sequence = 0

    def send(self, channel: str, events: list[Any], when: str | None = None) -> None:
        frame = {
            "channel": channel,
            "timestamp": self.time() if when is None else when,
            "sequence_num": self.sequence,
            "events": events,
        }
        self.sequence += 1
        self.sent_time = frame["timestamp"]
        self.lines.append(json.dumps(frame))

    def connect(self) -> None:
        self.sequence = 0
        asked = {"level2": list(MADE), "market_trades": list(MADE), "heartbeats": ["heartbeats"]}
        self.send("subscriptions", [{"subscriptions": asked}])

    def levels(self, name: str, levels: list[tuple[str, int, int]]) -> list[dict[str, str]]:
        return [
            {
                "side": {"bids": "bid", "asks": "offer"}[side],
                "event_time": "1970-01-01T00:00:00Z",
                "price_level": self.text(name, 0, price),
                "new_quantity": self.text(name, 1, lots),
            }
            for side, price, lots in levels
        ]

    def event(self, kind: str, name: str, levels: list[tuple[str, int, int]]) -> dict[str, Any]:
        return {"type": kind, "product_id": name, "updates": self.levels(name, levels)}

    def send_changes(self, name: str, changes: list[tuple[str, int, int]]) -> None:
        events = [self.event("update", name, changes)]
        if self.random.random() < 0.05:
            other = "BBB-USD" if name == "AAA-USD" else "AAA-USD"
            events.append(self.event("update", other, self.moves(other)))
        self.send("l2_data", events)

    def snapshot(self, name: str) -> None:
        levels = [(side, p, s) for side, held in self.books[name].items() for p, s in held.items()]
        self.random.shuffle(levels)
        self.send("l2_data", [self.event("snapshot", name, levels)])

    def trades(self, name: str) -> list[dict[str, str]]:
        return [
            {
                "trade_id": str(trade_id),
                "product_id": name,
                "price": self.text(name, 0, price),
                "size": self.text(name, 1, lots),
                "side": {"bids": "BUY", "asks": "SELL"}[side],
                "time": self.time(self.ns - 10**8),
            }
            for trade_id, side, price, lots in self.new_trades(name)
        ]

    def trade(self, name: str) -> None:
        self.send("market_trades", [{"type": "update", "trades": self.trades(name)}])

    def history(self, name: str) -> None:
        events = [{"type": "snapshot", "trades": self.trades(name)}]
        self.send("market_trades", events, self.sent_time)

    def heartbeat(self, _: str) -> None:
        self.send("heartbeats", [{"current_time": "whenever", "heartbeat_counter": 3}])

    def noise(self, _: str) -> None:
        choice = self.random.randrange(4)
        if choice == 0:
            self.lines.append(json.dumps({"type": "error", "message": "authentication failure"}))
        elif choice == 1:
            self.send("status", [{"type": "snapshot", "products": [{"id": "AAA-USD"}]}])
        elif choice == 2:
            self.send("a channel of tomorrow", [{"anything": 1}])
        else:
            level = {"side": "bid", "event_time": "", "price_level": "1", "new_quantity": "1"}
            self.send(
                "l2_data", [{"type": "update", "product_id": "OTHER-USD", "updates": [level]}]
            )

    def corrupt(self, name: str) -> None:
        event = self.event("update", name, self.moves(name) or [("bids", 3, 1)])
        bad = self.random.choice(event["updates"])
        spoilt = [
            ("price_level", "20.0001"),
            ("new_quantity", "0.00001"),
            ("new_quantity", "-1"),
            ("price_level", "-20"),
            ("price_level", "NaN"),
            ("price_level", ""),
            ("new_quantity", "1" * 40),
            ("side", "ask"),
            ("side", None),
        ]
        key, value = self.random.choice(spoilt)
        if value is None or self.random.random() < 0.2:
            del bad[key]
        else:
            bad[key] = value
        self.send("l2_data", [event], self.sent_time)

    def own_trouble(self) -> list[tuple[Callable[[str], None], float]]:
        return [(self.gap, 1), (self.again, 3)]

    def gap(self, name: str) -> None:
        self.update(name)
        self.lines.pop()

    def again(self, _: str) -> None:
        """A frame of this connection once more, the last one or an older one."""
        numbered = []
        for line in reversed(self.lines):
            if '"disconnect"' in line:
                break
            if line.startswith('{"channel"') and line.endswith("}"):
                numbered.append(line)
        self.lines.append(self.random.choice(numbered[:5]))


class ExchangeVenue(Venue):
    """The Exchange wire format: no sequence to check, snapshots without a time."""

    SIDES: dict[str, str] = {"bids": "buy", "asks": "sell"}  # noqa: RUF012

    def send(self, kind: str, name: str, when: str | None = None, **fields: Any) -> None:
        self.sent_time = self.time() if when is None else when
        self.waiting = False
        frame = {"type": kind, "product_id": name, "time": self.sent_time, **fields}
        self.lines.append(json.dumps(frame))

    def connect(self) -> None:
        channels = [{"name": "level2", "product_ids": list(MADE)}]
        self.lines.append(json.dumps({"type": "subscriptions", "channels": channels}))

    def rendered(self, name: str, levels: list[tuple[str, int, int]]) -> list[list[str]]:
        return [
            [self.SIDES[side], self.text(name, 0, price), self.text(name, 1, lots)]
            for side, price, lots in levels
        ]

    def send_changes(self, name: str, changes: list[tuple[str, int, int]]) -> None:
        self.send("l2update", name, changes=self.rendered(name, changes))

    def snapshot(self, name: str) -> None:
        sides = {
            side: [[self.text(name, 0, p), self.text(name, 1, s)] for p, s in held.items()]
            for side, held in self.books[name].items()
        }
        self.lines.append(json.dumps({"type": "snapshot", "product_id": name, **sides}))
        self.waiting = True

    def trade(self, name: str) -> None:
        for trade in reversed(self.new_trades(name)):
            self.match("match", name, trade)

    def match(
        self, kind: str, name: str, trade: tuple[int, str, int, int], when: str | None = None
    ) -> None:
        trade_id, side, price, lots = trade
        fields = {
            "trade_id": trade_id,
            "side": self.SIDES[side],
            "price": self.text(name, 0, price),
            "size": self.text(name, 1, lots),
            "sequence": 1,
        }
        self.send(kind, name, when, **fields)

    def history(self, name: str) -> None:
        """A `last_match`, which moves no clock, whatever its time says."""
        held, sent = self.waiting, self.sent_time
        when = self.time(self.ns + self.random.choice([-5, 5]) * 10**9)
        self.match("last_match", name, self.new_trades(name)[0], when)
        self.waiting, self.sent_time = held, sent

    def heartbeat(self, name: str) -> None:
        self.send("heartbeat", name, sequence=4, last_trade_id=self.trade_id)

    def noise(self, name: str) -> None:
        choice = self.random.randrange(3)
        if choice == 0:
            self.send("ticker", name, price="1", side="buy", last_size="3", trade_id=self.trade_id)
        elif choice == 1:
            self.lines.append(json.dumps({"type": "error", "message": "no", "reason": "so"}))
        else:
            self.send("l2update", "OTHER-USD", changes=[["buy", "1", "1"]])

    def corrupt(self, name: str) -> None:
        if self.waiting or not self.sent_time:
            return
        changes = self.rendered(name, self.moves(name) or [("bids", 3, 1)])
        bad = self.random.choice(changes)
        spoilt = [(0, "bid"), (1, "20.0001"), (1, "-20"), (2, "0.00001"), (2, "-1"), (2, "x")]
        place, value = self.random.choice(spoilt)
        bad[place] = value
        self.send("l2update", name, self.sent_time, changes=changes)


VENUES = {"advanced": AdvancedVenue, "exchange": ExchangeVenue}


@pytest.mark.parametrize(
    "seed", [seed if seed < 5 else pytest.param(seed, marks=pytest.mark.slow) for seed in range(12)]
)
@pytest.mark.parametrize("wire", VENUES)
def test_a_hostile_connection_gives_the_reference_windows_live_and_stored(
    wire: str, seed: int, tmp_path: Path
) -> None:
    path = VENUES[wire](seed).capture(tmp_path / f"{wire}.jsonl.gz", 900)
    wanted = windows_of(path, MADE)
    assert set(wanted) == set(MADE)
    for windows in PATHS.values():
        assert_same(as_dicts(windows(path, MADE)), wanted)


@pytest.mark.parametrize("wire", VENUES)
def test_the_hostile_connections_have_beats_of_every_sort(wire: str, tmp_path: Path) -> None:
    records = []
    for seed in range(6):
        path = VENUES[wire](seed).capture(tmp_path / f"{wire}.jsonl.gz", 900)
        records += [r for rows in windows_of(path, MADE).values() for r in rows]
    valid = sum(record["valid"] for record in records)
    assert valid > 200 and len(records) - valid > 200
    assert any(record["bid"] == 0 and record["updates"] for record in records)
    assert any(record["trades"] for record in records)
    assert sum(record["updates"] for record in records) > 3_000
    first_of_the_day = [r for r in records if r["beat"] == MIDNIGHT_NS // BEAT_NS]
    assert {record["valid"] for record in first_of_the_day} == {True, False}


def frame(sequence: int, seconds: float, channel: str = "heartbeats", *events: Any) -> str:
    """An Advanced Trade frame at this many seconds after the start of the first beat."""
    stamp = f"2026-08-09T05:24:{seconds:06.3f}Z"
    return json.dumps(
        {"channel": channel, "timestamp": stamp, "sequence_num": sequence, "events": list(events)}
    )


def level(side: str, price: str, size: str) -> dict[str, str]:
    """One level of an Advanced Trade frame."""
    return {"side": side, "event_time": "", "price_level": price, "new_quantity": size}


def levels(kind: str, *content: dict[str, str], name: str = "AAA-USD") -> dict[str, Any]:
    """The event of a level2 frame."""
    return {"type": kind, "product_id": name, "updates": list(content)}


BOOK = (level("bid", "9.99", "1"), level("offer", "10.01", "2.5"))


def windows_by_hand(tmp_path: Path, *lines: str) -> list[dict[str, Any]]:
    """AAA-USD's windows of these lines; see below."""
    return all_windows_by_hand(tmp_path, *lines)["AAA-USD"]


def all_windows_by_hand(tmp_path: Path, *lines: str) -> Windows:
    """The windows of these lines; both paths of the product and the reference must agree."""
    wire = "advanced" if any('"channel"' in line for line in lines) else "exchange"
    path = tmp_path / f"{wire}.jsonl.gz"
    write(path, lines)
    wanted = windows_of(path, MADE)
    for windows in PATHS.values():
        assert_same(as_dicts(windows(path, MADE)), wanted)
    return wanted


def valid_beats(records: list[dict[str, Any]]) -> list[bool]:
    """Which beats were valid."""
    return [record["valid"] for record in records]


def test_a_gap_spoils_the_beat_still_open_and_acks_and_heartbeats_are_counted(
    tmp_path: Path,
) -> None:
    found = windows_by_hand(
        tmp_path,
        frame(0, 0.5, "l2_data", levels("snapshot", *BOOK)),
        frame(1, 4.5, "subscriptions", {"subscriptions": {"level2": ["AAA-USD"]}}),
        frame(2, 5.5),
        frame(4, 13.0),  # 3 is lost: beats 1 and 2 were open when it was due
        frame(5, 17.0, "l2_data", levels("snapshot", *BOOK)),
        frame(6, 25.0),
    )
    assert valid_beats(found) == [False, False, False, False, False, True]


def test_a_repeated_frame_moves_nothing(tmp_path: Path) -> None:
    found = windows_by_hand(
        tmp_path,
        frame(0, 0.5, "l2_data", levels("snapshot", *BOOK)),
        frame(1, 5.0, "l2_data", levels("update", level("bid", "10", "3"))),
        frame(1, 9.0, "l2_data", levels("update", level("bid", "10", "0"))),
        frame(0, 9.0, "l2_data", levels("snapshot", *BOOK)),
        frame(2, 9.5),
    )
    assert valid_beats(found) == [False, True]
    assert (found[1]["bid"], found[1]["updates"]) == (1000, 1)


def test_time_going_back_stays_in_the_open_beat(tmp_path: Path) -> None:
    found = windows_by_hand(
        tmp_path,
        frame(0, 0.5, "l2_data", levels("snapshot", *BOOK)),
        frame(1, 9.0),
        frame(2, 5.0, "l2_data", levels("update", level("bid", "10", "3"))),
        frame(3, 13.0),
    )
    assert [record["updates"] for record in found] == [0, 0, 1]


def test_a_disconnect_unsyncs_now_and_the_new_connection_never_sets_the_clock_back(
    tmp_path: Path,
) -> None:
    found = windows_by_hand(
        tmp_path,
        frame(0, 0.5, "l2_data", levels("snapshot", *BOOK)),
        frame(1, 9.0),
        json.dumps({"type": "disconnect"}),
        frame(0, 8.0 - 0.5, "l2_data", levels("snapshot", *BOOK)),
        frame(1, 17.0),
    )
    assert [record["beat"] - found[0]["beat"] for record in found] == [0, 1, 2, 3]
    assert valid_beats(found) == [False, True, False, True]


@pytest.mark.parametrize(
    "spoilt",
    [
        {"price_level": "9.995"},
        {"new_quantity": "0.0001"},
        {"new_quantity": "-1"},
        {"side": "ask"},
        {"price_level": None},
        {"new_quantity": "1e999"},
    ],
)
def test_a_corrupt_frame_is_dropped_whole_and_unsyncs_its_book_only(
    spoilt: dict[str, str | None], tmp_path: Path
) -> None:
    bad = {key: value for key, value in {**BOOK[0], **spoilt}.items() if value is not None}
    lines = [
        frame(0, 0.5, "l2_data", levels("snapshot", *BOOK)),
        frame(1, 0.6, "l2_data", levels("snapshot", *BOOK[:1], BOOK[1], name="BBB-USD")),
        frame(2, 5.0, "l2_data", levels("update", level("bid", "10", "3"), bad)),
        frame(3, 12.0),
    ]
    lines[1] = lines[1].replace("9.99", "9.9").replace("10.01", "10.1").replace('"2.5"', '"2"')
    found = all_windows_by_hand(tmp_path, *lines)
    assert valid_beats(found["AAA-USD"]) == [False, False, False]
    assert valid_beats(found["BBB-USD"]) == [False, True, True]
    assert [record["updates"] for record in found["AAA-USD"]] == [0, 0, 0]
    assert found["AAA-USD"][1]["high_bid"] == 999


def trades(kind: str, *content: tuple[int, str, str, str]) -> dict[str, Any]:
    """The event of a market_trades frame: (id, maker's side, price, size)."""
    return {
        "type": kind,
        "trades": [
            {"trade_id": str(i), "product_id": "AAA-USD", "price": p, "size": s, "side": side}
            | {"time": "2026-08-09T05:24:01Z"}
            for i, side, p, s in content
        ],
    }


def test_trades_by_hand_takers_duplicates_late_ones_and_history(tmp_path: Path) -> None:
    found = windows_by_hand(
        tmp_path,
        frame(0, 0.5, "market_trades", trades("snapshot", (7, "BUY", "9.90", "50"))),
        frame(1, 0.5),
        frame(2, 1.0, "market_trades", trades("update", (12, "SELL", "10.01", "1"))),
        frame(3, 2.0, "market_trades", trades("update", (13, "BUY", "9.99", "0.002"))),
        frame(4, 2.5, "market_trades", trades("update", (12, "SELL", "10.01", "1"))),
        frame(5, 3.0, "market_trades", trades("update", (11, "SELL", "10.02", "0.5"))),
        frame(6, 5.0),
    )
    # The maker sold 12 and 11, so their takers bought; 11 is late and no duplicate; 7 is history.
    first = found[0]
    assert (first["trades"], first["buy_lots"], first["sell_lots"]) == (3, 1500, 2)
    assert (first["trade_low"], first["trade_high"]) == (999, 1002)


def test_an_exchange_snapshot_takes_the_time_of_the_next_timed_frame(tmp_path: Path) -> None:
    def timed(seconds: int, kind: str, name: str, **fields: Any) -> str:
        stamp = f"2026-08-09T05:24:{seconds:02d}.5Z"
        return json.dumps({"type": kind, "product_id": name, "time": stamp, **fields})

    book = {"bids": [["9.99", "1"]], "asks": [["10.01", "2.5"]]}
    snapshot = json.dumps({"type": "snapshot", "product_id": "AAA-USD", **book})
    old_trade = {"trade_id": 3, "side": "buy", "price": "10", "size": "1"}
    found = windows_by_hand(
        tmp_path,
        snapshot,
        timed(40, "last_match", "AAA-USD", **old_trade),
        timed(1, "heartbeat", "BBB-USD"),
        timed(9, "ticker", "BBB-USD"),
        snapshot,
        timed(13, "l2update", "BBB-USD", changes=[["buy", "9.9", "1"]]),
        timed(21, "match", "BBB-USD", **old_trade),
        snapshot,
        json.dumps({"type": "disconnect"}),
        timed(29, "heartbeat", "BBB-USD"),
    )
    assert valid_beats(found) == [False, True, True, False, True, False, False]
    assert [record["trades"] for record in found] == [0] * 7
    assert found[2]["bid"] == 999 and found[6]["bid"] == 0


def test_a_corrupt_frame_after_an_exchange_snapshot_leaves_the_book_unsynced(
    tmp_path: Path,
) -> None:
    def update(seconds: int, size: str) -> str:
        stamp = f"2026-08-09T05:24:{seconds:02d}Z"
        change = ["buy", "9.98", size]
        return json.dumps(
            {"type": "l2update", "product_id": "AAA-USD", "time": stamp, "changes": [change]}
        )

    book = {"bids": [["9.99", "1"]], "asks": [["10.01", "2.5"]]}
    # What the extremes of the spoilt beat say is not defined; that the book is not known is.
    path = tmp_path / "exchange.jsonl.gz"
    lines = [
        update(1, "1"),
        json.dumps({"type": "snapshot", "product_id": "AAA-USD", **book}),
        update(2, "0.0000001"),
        update(3, "2"),
        update(9, "2"),
        update(13, "2"),
    ]
    write(path, lines)
    for windows in PATHS.values():
        found = as_dicts(windows(path, MADE))["AAA-USD"]
        assert valid_beats(found) == [False, False, False]
        assert [record["bid"] for record in found] == [0, 0, 0]


STAMP = "2026-08-09T05:24:09Z"
TRADE = {"trade_id": 3, "side": "buy", "price": "10", "size": "1", "product_id": "BBB-USD"}


@pytest.mark.parametrize(
    ("last", "moves"),
    [
        (frame(1, 9.0), True),
        (frame(1, 9.0, "subscriptions", {"subscriptions": {}}), True),
        (frame(1, 9.0, "a channel of tomorrow", {"anything": 1}), True),
        (frame(1, 9.0, "l2_data", levels("update", *BOOK, name="BBB-USD")), True),
        (frame(0, 9.0), False),
        (json.dumps({"type": "error", "message": "no", "timestamp": STAMP}), False),
        (json.dumps({"type": "ticker", "time": STAMP, "product_id": "BBB-USD"}), True),
        (json.dumps({"type": "heartbeat", "time": STAMP, "product_id": "BBB-USD"}), True),
        (json.dumps({"type": "match", "time": STAMP, **TRADE}), True),
        (json.dumps({"type": "last_match", "time": STAMP, **TRADE}), False),
        (json.dumps({"type": "subscriptions", "channels": [], "time": STAMP}), False),
    ],
)
def test_which_frames_move_the_clock_of_every_product(
    last: str, moves: bool, tmp_path: Path
) -> None:
    if "sequence_num" in last or "error" in last:
        lines = [frame(0, 0.5, "l2_data", levels("snapshot", *BOOK)), last]
    else:
        first = {"type": "l2update", "time": STAMP.replace("09Z", "00Z"), "product_id": "AAA-USD"}
        changes = [["buy", "9.99", "1"]]
        named = {"type": "subscriptions", "channels": [{"product_ids": ["AAA-USD"]}]}
        lines = [json.dumps(named), json.dumps({**first, "changes": changes}), last]
    assert len(windows_by_hand(tmp_path, *lines)) == (2 if moves else 0)
