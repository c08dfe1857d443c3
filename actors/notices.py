"""What the venue says besides data: acknowledgements of subscriptions, and error frames."""

from enum import Enum

import msgspec

# How frames begin that are neither; whatever begins otherwise is looked at.
_DATA = tuple(f'{{"channel":"{n}"'.encode() for n in ("l2_data", "market_trades", "heartbeats"))


class Refusal(Enum):
    """What an error frame is about, told from its text: it carries nothing else."""

    CAPACITY = "capacity"  # Too many books on this connection.
    MALFORMED = "malformed"  # The venue did not understand the request.
    AUTHENTICATION = "authentication"  # Also what a channel that does not exist is answered with.
    OTHER = "other"

    @classmethod
    def of(cls, message: str) -> "Refusal":
        """Return the class of an error frame's text."""
        text = message.lower()
        if "too many" in text and any(word in text for word in ("stream", "product", "l2")):
            return cls.CAPACITY
        if "authentication" in text:
            return cls.AUTHENTICATION
        if any(word in text for word in ("subscribe required", "malformed", "parse", "json")):
            return cls.MALFORMED
        return cls.OTHER


class Ack(msgspec.Struct, frozen=True):
    """The answer to a request: the whole set of each channel, by the name it is asked for by."""

    sequence: int
    has: dict[str, list[str]]


class ErrorFrame(msgspec.Struct, frozen=True):
    """A request was refused; which one, the venue does not say."""

    why: Refusal
    message: str


def read_notice(data: bytes) -> Ack | ErrorFrame | None:
    """Return what a frame says besides data, None if nothing. Data costs next to nothing."""
    if data.startswith(_DATA):
        return None
    try:
        notice = _notices.decode(data)
        if notice.channel == "subscriptions":
            has: dict[str, list[str]] = {}
            for event in msgspec.json.decode(notice.events, type=list[_Subscribed]):
                has |= event.subscriptions
            return Ack(notice.sequence_num, has)
    except (msgspec.DecodeError, ValueError):  # ValueError: bytes that are no text.
        return None  # The reader counts it.
    if notice.type == "error" and not notice.channel:
        message = notice.message if isinstance(notice.message, str) else ""
        return ErrorFrame(Refusal.of(message), message)
    return None


# {"channel":"subscriptions","timestamp":"...","sequence_num":0,
#  "events":[{"subscriptions":{"level2":["BTC-USD"],"market_trades":["BTC-USD","ETH-USD"]}}]}
class _Subscribed(msgspec.Struct):
    subscriptions: dict[str, list[str]]


# {"type":"error","message":"too many L2 streams requested in a single session"}
class _Notice(msgspec.Struct):
    channel: str = ""
    type: str = ""
    message: object = None
    sequence_num: int = -1
    events: msgspec.Raw = msgspec.Raw(b"[]")


_notices = msgspec.json.Decoder(_Notice)
