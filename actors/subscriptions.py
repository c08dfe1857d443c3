"""What one connection has asked the venue for, what the venue says it has, and what is due.

A refusal leaves the socket open and silent, so nothing is taken for granted: an answer is compared
with the request, and a book counts as subscribed only once its snapshot came in time.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from actors.notices import Refusal

CHANNELS = ("heartbeats", "market_trades", "level2")  # In the order of asking, books last.
_RAREST_ASK_S = 600.0
_ASKS_BEFORE_RECONNECT = 2


class Request(NamedTuple):
    """One message to the venue: it names one channel."""

    action: str  # "subscribe" or "unsubscribe".
    channel: str
    product_ids: tuple[str, ...]

    def encode(self) -> str:
        """Return the message; `heartbeats` takes no products."""
        fields: dict[str, object] = {"type": self.action, "channel": self.channel}
        if self.channel != "heartbeats":
            fields["product_ids"] = self.product_ids
        return msgspec.json.encode(fields).decode()


class _Asked(NamedTuple):
    at_s: float  # When last.
    times: int  # Since it was last there.
    most: int  # The largest set it may be asked in: smaller than any that was refused.


_NEVER = _Asked(0.0, 0, 1 << 30)
_Key = tuple[str, str]  # (channel, product id, or the channel again where it takes none)


class Subscriptions:
    """The subscriptions of one connection; `begin` starts anew with each socket.

    Times are seconds of a clock that only goes forward. `synced` says whether a book is known.
    """

    def __init__(
        self, product_ids: list[str], synced: Callable[[str], bool], snapshot_s: float
    ) -> None:
        self._product_ids = product_ids
        self._synced = synced
        self._snapshot_s = snapshot_s
        self.begin()

    def begin(self) -> None:
        """Forget everything: a new socket has no subscriptions."""
        self._asked: dict[_Key, _Asked] = {}
        self._unanswered: deque[Request] = deque()
        self._last_request_s = -math.inf
        self._has: dict[str, list[str]] = {}  # By the last acknowledgement.
        self._last_ack = -1
        self._answered = False
        self._had: set[str] = set()  # Books that were known on this socket.
        self._doubted: set[str] = set()  # Books that came, but were not listed.
        self._open: set[str] = set()  # Books asked for on this socket.

    @property
    def acknowledged(self) -> int:
        """How many books the venue says it sends."""
        return len(set(self._has.get("level2", [])) & set(self._product_ids))

    @property
    def begun(self) -> bool:
        """Whether anything was asked for on this socket."""
        return self._last_request_s > -math.inf

    def first(self, with_books: bool) -> list[Request]:
        """Return what a new socket is asked for; heartbeats close beats in quiet markets."""
        channels = CHANNELS if with_books else CHANNELS[:-1]
        return [Request("subscribe", c, tuple(self._product_ids)) for c in channels]

    def sent(self, request: Request, now: float) -> None:
        """Note that a request went out."""
        self._unanswered.append(request)
        self._last_request_s = now
        if request.action == "unsubscribe":
            return
        if request.channel == "level2":
            self._open |= set(request.product_ids)
        for key in _keys(request):
            before = self._asked.get(key, _NEVER)
            self._asked[key] = _Asked(now, before.times + 1, before.most)

    def acknowledge(self, has: dict[str, list[str]], sequence: int) -> None:
        """Note the venue's answer: the whole set of each channel. A repeated one says nothing."""
        if sequence <= self._last_ack:
            return
        self._last_ack, self._has = sequence, has
        self._answered = True
        if self._unanswered:
            self._unanswered.popleft()
        for channel in CHANNELS[:-1]:
            lacking = set(self._lacking(channel))
            for key in [k for k in self._asked if k[0] == channel and k[1] not in lacking]:
                del self._asked[key]

    def refused(self, why: Refusal) -> None:
        """Note an error frame: the oldest unanswered request was not granted.

        The products of a refused set are asked for in smaller ones, never in as large a one, until
        the venue takes those that it will and only the others are left.
        """
        self._answered = True
        refused = self._refused_request(why)
        if refused is None or refused.action == "unsubscribe":
            return
        keys = _keys(refused)
        for key in keys:
            before = self._asked.get(key, _NEVER)
            times = before.times if len(keys) == 1 else 1
            self._asked[key] = before._replace(times=times, most=max(1, len(keys) // 2))

    def settled(self, now: float) -> bool:
        """Whether all that was asked has been answered, or an answer that is lost waited for."""
        if now - self._last_request_s > self._snapshot_s:
            self._unanswered.clear()
        return not self._unanswered

    def note_books(self) -> None:
        """Forget how often a book was asked for once it is known."""
        for product_id in self._product_ids:
            if self._synced(product_id):
                self._had.add(product_id)
                self._asked.pop(("level2", product_id), None)

    def forget_books(self) -> None:
        """Forget when books were asked for: those still missing are due at once."""
        for key, asked in self._asked.items():
            if key[0] == "level2":
                self._asked[key] = asked._replace(times=0)

    def doubt_snapshots(self) -> None:
        """Note that frames were lost: snapshots on their way may have been among them.

        Waiting for those would cost the whole wait, asking again a second snapshot at most. Not for
        books that were asked for in vain more than twice: they are refused or gone.
        """
        for key, asked in self._asked.items():
            if key[0] == "level2" and asked.times <= _ASKS_BEFORE_RECONNECT:
                self._asked[key] = asked._replace(at_s=-math.inf)

    def unsent(self, now: float) -> list[str]:
        """Return the books that are taken for known although the venue says it does not send them.

        Nothing is concluded from a venue that acknowledges nothing. Each book is doubted once: if
        it then comes and is still not listed, the data are believed.
        """
        if self._last_ack < 0 or not self.settled(now):
            return []
        unsent = [p for p in self._lacking("level2") if self._synced(p) and p not in self._doubted]
        self._doubted |= set(unsent)
        return unsent

    def due(self, now: float) -> list[Request]:
        """Return what must be asked for now, the least that must: at most one set of books."""
        requests = []
        for channel in CHANNELS[:-1]:
            known = self._last_ack >= 0 and self.settled(now)
            lacking = [(channel, name) for name in self._lacking(channel) if known]
            if wanted := self._largest(lacking, now):
                requests.append(Request("subscribe", channel, wanted))
        missing = [("level2", p) for p in self._product_ids if not self._synced(p)]
        if wanted := self._largest(missing, now):
            # Repeating a subscribe brings no snapshot; unsubscribing first does.
            if reopened := tuple(p for p in wanted if p in self._open):
                requests.append(Request("unsubscribe", "level2", reopened))
            requests.append(Request("subscribe", "level2", wanted))
        return requests

    def hopeless(self, requests: Iterable[Request]) -> list[str]:
        """Return the books of due requests that only a new connection may still bring.

        That is so if none comes at all, or for one that this connection has brought before. One
        that never came is refused or gone: breaking the others for it would bring nothing.
        """
        wanted = {p for r in requests if r.channel == "level2" for p in r.product_ids}
        asked = {p: self._asked.get(("level2", p), _NEVER).times for p in wanted}
        tired = [p for p, times in asked.items() if times >= _ASKS_BEFORE_RECONNECT]
        if any(self._synced(p) for p in self._product_ids):
            tired = [p for p in tired if p in self._had]
        return sorted(tired)

    def patience_s(self, times: int) -> float:
        """How long to wait for what has been asked for so many times."""
        return min(_RAREST_ASK_S, self._snapshot_s * 2.0 ** min(times - 1, 16))

    def _largest(self, keys: list[_Key], now: float) -> tuple[str, ...]:
        """Return the names that are due and may be asked for together, most at once."""
        due = [key for key in keys if self._is_due(key, now)]
        most = max((self._asked.get(key, _NEVER).most for key in due), default=0)
        together = [key for key in due if self._asked.get(key, _NEVER).most == most]
        return tuple(name for _, name in together[:most])

    def _is_due(self, key: _Key, now: float) -> bool:
        asked = self._asked.get(key, _NEVER)
        if asked.times == 0:
            return True
        if asked.times == 1 and self._answered and self.settled(now):
            if key[1] in self._lacking(key[0]):
                return True  # It was not granted, so there is nothing to wait for.
        return now - asked.at_s > self.patience_s(asked.times)

    def _lacking(self, channel: str) -> list[str]:
        """Return what the last acknowledgement does not list of what is wanted."""
        if channel == "heartbeats":
            return [] if channel in self._has else [channel]
        has = set(self._has.get(channel, []))
        return [product_id for product_id in self._product_ids if product_id not in has]

    def _refused_request(self, why: Refusal) -> Request | None:
        while self._unanswered:
            request = self._unanswered.popleft()
            about_books = (request.action, request.channel) == ("subscribe", "level2")
            if why is not Refusal.CAPACITY or about_books:
                return request
        return None


def _keys(request: Request) -> list[_Key]:
    names = (request.channel,) if request.channel == "heartbeats" else request.product_ids
    return [(request.channel, name) for name in names]
