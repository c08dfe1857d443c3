"""What can happen to an order book, each act aimed at the state that the plain reference is in.

So deletes hit the best level, levels land on bucket borders, and a move of the price starts where
the price is. Prices go where a store made for near prices has its edges: powers of two from the
touch, drifts of thousands of ticks, leaps of 10x, a next best level that is very far.
"""

import random
from collections import Counter
from typing import NamedTuple

from market.events import ASK, BID, Kind, Reason
from tests.reference.events import EventReference

BEAT_NS = 4_000_000_000
START_NS = 446_563_257 * BEAT_NS
HIGHEST = 2**57  # Ticks; also the largest size, in lots.

Row = tuple[int, int, int, int]  # kind, side, price, size; of a mark, size is the reason.
Levels = list[tuple[int, int, int]]  # side, price, size


class Scenario(NamedTuple):
    """What a stream is made of; everything else follows from the seed."""

    seed: int
    middle: int  # Ticks where the price starts.
    spread: int  # Ticks between the sides of a new book.
    reach: int  # How far from the touch its levels usually lie, in ticks.
    size: int  # The largest usual size, in lots.
    stress: str  # The act that this stream is full of.
    calm: bool  # Whether the book is left in peace: no gaps, no crossings, no snapshots.
    pace_ns: int  # Usual time between frames.
    frames: int


class Acts:
    """A book's past and present, and the rows of one frame that may come next."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.random = random.Random(repr(scenario))
        self.reference = EventReference()
        self.ns = START_NS + self.random.choice([0, 0, 1, BEAT_NS // 3, BEAT_NS - 1])
        self.middle = scenario.middle
        self.batches: list[tuple[int, list[int]]] = []  # Sides and prices put there by `crowd`.
        self.recent: list[Row] = []
        self.huge = 10  # How many more sizes of HIGHEST; a side's sum is to stay below 2^61.
        self.reached: Counter[str] = Counter()  # Acts done to a synced book that stayed synced.

    # What the book is like.

    def touch(self) -> tuple[int, int]:
        """Best bid and ask, or where they would be."""
        if self.reference.synced:
            bid, ask = self.reference.best()
            self.middle = (bid + ask) // 2
            return bid, ask
        half = max(self.scenario.spread // 2, 1)
        bid = max(self.middle - half, 1)
        return bid, bid + self.scenario.spread

    def held(self, side: int) -> list[int]:
        """Prices in the book, best first."""
        return sorted(self.reference.book[side], reverse=side == BID)

    def size(self) -> int:
        choices = [1, 7, self.random.randrange(self.scenario.size), self.scenario.size]
        if self.scenario.size <= 10**13 or self.random.random() > 0.02 or not self.huge:
            return self.random.choice(choices) + 1
        self.huge -= 1
        return HIGHEST

    def away(self) -> int:
        """A distance from the touch: mostly small, at times anywhere, or beside a power of two."""
        if self.random.random() < 0.9:
            return self.random.randrange(self.scenario.reach)
        power = 2 ** self.random.randrange(1, 57)
        return self.random.choice([self.random.randrange(power), power - 1, power, power + 1])

    def at(self, side: int, distance: int) -> int:
        """The price at this distance behind the best of a side."""
        bid, ask = self.touch()
        price = bid - distance if side == BID else ask + distance
        return min(max(price, 1), HIGHEST)

    def sets(self, levels: Levels) -> list[Row]:
        """Level changes as rows; a delete of nothing where there are none."""
        possible = [level for level in levels if 0 < level[1] <= HIGHEST]
        return [(Kind.CHANGE, *level) for level in possible] or [(Kind.CHANGE, ASK, 1, 0)]

    # What happens to it.

    def near(self) -> list[Row]:
        """Sizes set and deleted around the touch, some inside the spread on one side."""
        bid, ask = self.touch()
        inner = self.random.randrange(2)
        levels: Levels = []
        for _ in range(self.random.randrange(1, 8)):
            side = self.random.randrange(2)
            price = self.at(side, self.away())
            if side == inner and ask - bid > 1 and self.random.random() < 0.3:
                inside = min(1 + self.away(), ask - bid - 1)
                price = bid + inside if self.random.random() < 0.5 else ask - inside
            elif self.random.random() < 0.4 and self.reference.book[side]:
                price = self.random.choice(list(self.reference.book[side]))
            keep = len(self.reference.book[side]) < 4 or self.random.random() < 0.6
            levels.append((side, price, self.size() if keep else 0))
        return self.sets(levels)

    def move(self, to: int, tidy: bool) -> list[Row]:
        """Carry the touch to another price, one frame; the far side's levels stay unless tidy."""
        bid, _ = self.touch()
        new_bid = min(max(to, 1), HIGHEST - self.scenario.spread - 40)
        new_ask = new_bid + self.scenario.spread
        levels = [(BID, p, 0) for p in self.held(BID) if p >= new_ask or tidy]
        levels += [(ASK, p, 0) for p in self.held(ASK) if p <= new_bid or tidy]
        levels += [(BID, max(new_bid - i * i, 1), self.size()) for i in range(5)]
        levels += [(ASK, new_ask + i * i, self.size()) for i in range(5)]
        levels += [(ASK, min(new_ask + self.away(), HIGHEST), self.size()) for _ in range(3)]
        if self.random.random() < 0.3:
            self.random.shuffle(
                levels
            )  # A level may then be set and deleted; absolute all the same.
        self.reached["up" if new_bid > bid else "down"] += abs(new_bid - bid) > 1000
        return self.sets(levels)

    def drift(self) -> list[Row]:
        """A step of up to a few thousand ticks, at times more."""
        bid, _ = self.touch()
        step = self.random.randrange(1, 2 ** self.random.choice([3, 8, 10, 12, 12, 14, 16, 18, 21]))
        up = bid <= step or self.random.random() < 0.6
        return self.move(bid + step if up else bid - step, self.random.random() < 0.2)

    def leap(self) -> list[Row]:
        """The whole price ten or a thousand times up or down."""
        bid, _ = self.touch()
        factor = self.random.choice([10, 10, 1000])
        up = bid < 2**40 and self.random.random() < 0.5
        return self.move(bid * factor if up else bid // factor, self.random.random() < 0.5)

    def lonely(self) -> list[Row]:
        """A side loses all but one level, which is very far."""
        side = self.random.randrange(2)
        far = self.at(side, self.random.choice([10**3, 10**6, 10**9, 10**12, HIGHEST]))
        return self.sets(
            [(side, far, self.size()), *[(side, p, 0) for p in self.held(side) if p != far]]
        )

    def refill(self) -> list[Row]:
        """Levels right across the spread from one side's best: the way back from far."""
        bid, ask = self.touch()
        side = self.random.randrange(2)
        steps = {1, *(self.random.randrange(1, 30) for _ in range(5))}
        prices = [bid + step if side == ASK else ask - step for step in steps]
        return self.sets(
            [(side, p, self.size()) for p in prices if (p > bid if side else p < ask) and p > 0]
        )

    def powers(self) -> list[Row]:
        """Levels a power of two from the touch, or on a multiple of one, and beside it."""
        levels = []
        for _ in range(self.random.randrange(1, 9)):
            side, power = self.random.randrange(2), 2 ** self.random.randrange(57)
            beside = self.random.choice([-1, 0, 1])
            price = self.at(side, power + beside)
            if self.random.random() < 0.3:
                back = 0 if side == BID else power
                price = max(self.at(side, 0) // power * power + back + beside, 1)
                bid, ask = self.touch()
                price = min(price, bid) if side == BID else max(price, ask)
            levels.append(
                (side, min(price, HIGHEST), 0 if self.random.random() < 0.2 else self.size())
            )
        return self.sets(levels)

    def borders(self) -> list[Row]:
        """Levels exactly on the borders of the 0.1 % buckets, and one tick to either side."""
        bid, ask = self.touch()
        mid2 = bid + ask
        levels: Levels = []
        for _ in range(self.random.randrange(1, 6)):
            i = self.random.randrange(22)
            outer = -(-i * mid2 // 1000)  # The least 2p - mid2 of bucket i.
            for beside in (-1, 0, 1):
                levels.append((ASK, -(-(mid2 + outer) // 2) + beside, self.size()))
                levels.append((BID, (mid2 - outer) // 2 + beside, self.size()))
        sound = [(s, p, n) for s, p, n in levels if p > 0 and (p >= ask if s == ASK else p <= bid)]
        return self.sets(sound)

    def crowd(self) -> list[Row]:
        """Many distinct prices far from the touch, in steps that collide if they can."""
        side = self.random.randrange(2)
        step = self.random.choice([1, 3, 997, 2**10, 2**16, 2**20, 2**32, 10**9])
        first = self.at(side, 2 ** self.random.randrange(10, 50))
        count = 40 if self.scenario.size > 10**13 else self.random.choice([60, 60, 600])
        away = -step if side == BID else step
        prices = [first + i * away for i in range(count) if 0 < first + i * away <= HIGHEST]
        self.batches.append((side, prices))
        return self.sets([(side, price, self.size()) for price in prices])

    def uncrowd(self) -> list[Row]:
        """Delete what `crowd` once put there, all of it or every second one, present or not."""
        if not self.batches:
            return self.absent()
        side, prices = self.batches.pop(self.random.randrange(len(self.batches)))
        best = self.at(side, 0)
        step = self.random.choice([1, 2])
        return self.sets([(side, price, 0) for price in prices[::step] if price != best])

    def flood(self) -> list[Row]:
        """Hundreds or levels without a gap, from the touch outwards."""
        count = 40 if self.scenario.size > 10**13 else self.random.choice([60, 60, 60, 1500])
        return self.sets(
            [(side, self.at(side, i), 1 + i) for side in (BID, ASK) for i in range(count)]
        )

    def clear_touch(self) -> list[Row]:
        """Delete every level within some distance, but for the last one."""
        distance = 2 ** self.random.randrange(1, 20)
        levels = []
        for side in self.random.choice([(BID,), (ASK,), (BID, ASK)]):
            held = self.held(side)
            levels += [(side, p, 0) for p in held[:-1] if abs(p - held[0]) <= distance]
        return self.sets(levels)

    def absent(self) -> list[Row]:
        """Deletes of what is not there."""
        drawn = [(self.random.randrange(2), self.random.randrange(1, HIGHEST)) for _ in range(4)]
        drawn += [(side, self.at(side, self.away())) for side in (BID, ASK)]
        return self.sets([(s, p, 0) for s, p in drawn if p not in self.reference.book[s]])

    def mended(self) -> list[Row]:
        """Crossed, or emptied, within the frame, and sound at its end."""
        bid, ask = self.touch()
        draw = self.random.randrange(4)
        if draw == 0:
            through = min(ask + self.away(), HIGHEST)
            return self.sets([(BID, through, 3), (ASK, ask + 1, 2), (BID, through, 0)])
        if draw == 1:
            best = [(ASK, p, 0) for p in self.held(ASK) if p <= ask + 3]
            return self.sets([(BID, ask + 3, 3), *best, (ASK, ask + 9, 4)])
        side = self.random.randrange(2)
        held = [(side, p, n) for p, n in self.reference.book[side].items()]
        if draw == 2:
            return self.sets([*[(s, p, 0) for s, p, _ in held], (side, (bid, ask)[side], 5)])
        return self.sets(
            [(side, 1 if side == ASK else HIGHEST, 4), (side, 1 if side == ASK else HIGHEST, 0)]
        )

    def again(self) -> list[Row]:
        """The last frame once more, whole or every row twice."""
        rows = self.recent
        enough = len(rows) > 400 or any(size == HIGHEST for *_, size in rows)
        if not rows or rows[0][0] == Kind.CARRIED or enough:
            rows = self.near()
        return rows if self.random.random() < 0.5 else [row for row in rows for _ in range(2)]

    def trade(self) -> list[Row]:
        bid, _ = self.touch()
        prices = [bid, bid + 1, self.at(ASK, self.away()), self.at(BID, self.away())]
        count = self.random.randrange(1, 4)
        return [
            (Kind.TRADE, self.random.randrange(2), self.random.choice(prices), self.size())
            for _ in range(count)
        ]

    def clock(self) -> list[Row]:
        return [(Kind.CLOCK, 0, 0, Reason.NONE)]

    def unsync(self) -> list[Row]:
        return [(Kind.UNSYNC, 0, 0, self.random.choice(list(Reason)[1:]))]

    def end(self) -> list[Row]:
        return [(Kind.END, 0, 0, Reason.NONE)]

    def crossed(self) -> list[Row]:
        bid, ask = self.touch()
        if self.random.random() < 0.5:
            return self.sets([(BID, min(ask + self.random.choice([0, 1, 10**6]), HIGHEST), 2)])
        return self.sets([(ASK, max(bid - self.random.choice([0, 1, 10**6]), 1), 2)])

    def emptied(self) -> list[Row]:
        side = self.random.randrange(2)
        return self.sets([(side, price, 0) for price in self.held(side)])

    def whole_book(self) -> Levels:
        """A book; unless the stream is calm at times crossed, with a side missing, or one level."""
        if self.random.random() < 0.2:
            self.middle = self.random.choice([3, self.scenario.middle, self.scenario.middle * 10])
            self.middle = min(self.middle, HIGHEST // 2)
        half = self.scenario.spread // 2
        bid = max(self.middle - half, 1)
        ask = bid + self.scenario.spread
        sides, count = [BID, ASK], self.random.choice([1, 2, 20, 20, 20, 60])
        if self.scenario.size <= 10**13 and self.random.random() < 0.04:
            count = 1500
        if not self.scenario.calm:
            sides = self.random.choice([[BID], [ASK], *[sides] * 20])
            ask = bid if self.random.random() < 0.05 else ask
        levels = []
        for side in sides:
            for away in [0, *(self.away() for _ in range(count - 1))]:
                price = bid - away if side == BID else ask + away
                levels.append((side, min(max(price, 1), HIGHEST), self.size()))
        self.random.shuffle(levels)
        return levels

    def snapshot(self) -> list[Row]:
        """A venue snapshot, with prices named twice and levels of size zero."""
        levels = self.whole_book()
        if self.random.random() < 0.5:
            levels += [(side, price, self.size()) for side, price, _ in levels[::3]]
            levels += [(side, price, 0) for side, price, _ in levels[1::7]]
        return [(Kind.SNAPSHOT, *level) for level in levels]

    def snapshot_and_changes(self) -> list[Row]:
        """One frame with a snapshot and changes to it, which may be what makes it sound."""
        rows = self.snapshot()
        top = max(price for _, _, price, _ in rows)
        rows += [(Kind.CHANGE, *row[1:3], self.random.choice([0, 9])) for row in rows[::5]]
        if top < HIGHEST and self.random.random() < 0.3:
            rows.insert(0, (Kind.SNAPSHOT, BID, top + 1, 3))
            rows.append((Kind.CHANGE, BID, top + 1, 0))
        return rows

    def carried(self) -> list[Row]:
        """Our own book as a partition starts with it, mostly at the border; else any book.

        A book that was lost is never carried on: what its beat would be is not defined.
        """
        lost = self.reference.beat is not None and not self.reference.synced
        if not lost and self.random.random() < 0.8:
            self.ns = (self.ns // BEAT_NS + 1) * BEAT_NS
        elif lost and self.ns % BEAT_NS == 0:
            self.ns += 1
        held = [
            (side, p, self.reference.book[side][p]) for side in (BID, ASK) for p in self.held(side)
        ]
        levels = held if self.reference.synced else self.whole_book()
        return [(Kind.CARRIED, *level) for level in levels]
