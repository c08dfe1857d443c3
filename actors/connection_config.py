"""How a connection lives (its configuration) and what it shows of itself (states, status)."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import msgspec
from websockets.exceptions import InvalidURI
from websockets.uri import parse_uri

from actors.pace import Pace, default_folder
from market.errors import QuaverError

# What our exchange calls itself in its handshake, so that no recording of it passes for real.
SIMULATED_SERVER = "quaver simulated exchange"


class ConnectionState(Enum):
    """Every state that a connection can be in; `ConnectionStatus` shows it to the outside."""

    WAITING = "waiting"
    """Not begun, or waiting until the host's pace allows another connect."""
    CONNECTING = "connecting"
    """TCP, TLS and the websocket's handshake are under way."""
    SUBSCRIBING = "subscribing"
    """The socket is open, requests are being sent, no frame has come."""
    SYNCING = "syncing"
    """Frames come; at least one book is not known."""
    STREAMING = "streaming"
    """Frames come and every book is known."""
    BACKING_OFF = "backing off"
    """The connection was lost or could not be made; the next try comes after a pause."""
    CLOSED_BY_VENUE = "closed by venue"
    """The venue has ended the market (`follow_end`); nothing more comes."""
    STOPPED = "stopped"
    """Cancelled, or ended by an error that is not the network's."""


class ConnectionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a connection lives."""

    silence_s: Annotated[
        float, msgspec.Meta(gt=0, description="reconnect after this long without any frame")
    ] = 5.0
    snapshot_s: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            description="ask again for a book that has not come by then; if none has come after a "
            "second wait, reconnect",
        ),
    ] = 15.0
    open_s: Annotated[
        float, msgspec.Meta(gt=0, description="give up a connect that takes longer")
    ] = 10.0
    ping_s: Annotated[
        float,
        msgspec.Meta(
            gt=0, description="ping this often; no answer within as long breaks the connection"
        ),
    ] = 20.0
    max_backoff_s: Annotated[
        float, msgspec.Meta(gt=0, description="longest wait between two tries to connect")
    ] = 30.0
    connects_per_s: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=8,
            description="new connections a second of all processes of this machine (the venue "
            "takes 8; each brings three of its 8 messages a second with it)",
        ),
    ] = 2
    messages_per_s: Annotated[
        int,
        msgspec.Meta(ge=4, le=8, description="requests a second of all processes of this machine"),
    ] = 8
    pace_folder: Annotated[
        str | None,
        msgspec.Meta(
            description="where the processes of this machine share those two limits, none: in the "
            "system's folder for temporary files"
        ),
    ] = None
    follow_end: Annotated[
        bool, msgspec.Meta(description="a normal close ends the recording (a replayed market)")
    ] = False


class ConnectionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection is doing, for people and for metrics."""

    state: ConnectionState
    in_state_s: float
    products: int
    synced: int
    subscribed: int  # Books, by the venue's last acknowledgement on this socket.
    connects: int  # Sockets that were opened.
    disconnects: dict[int, int]  # Sockets lost, by close code; 1006: without a closing handshake.
    errors: dict[str, int]  # `Refusal` values, and "connect", "silence" and "no book".
    last_error: str | None
    last_frame_age_s: float | None


def check_url(url: str) -> None:
    """Raise a QuaverError if this is no websocket address."""
    try:
        parse_uri(url)
    except (InvalidURI, ValueError):  # ValueError: a port that is none.
        raise QuaverError(
            f"{url!r} is no websocket address; write it like wss://host or ws://host:port"
        ) from None


def paces(url: str, config: ConnectionConfig) -> tuple[Pace, Pace]:
    """Return the limiters of connects and of messages that this machine shares for a venue."""
    venue = parse_uri(url)
    folder = Path(config.pace_folder) if config.pace_folder else default_folder()
    name = f"{venue.host}_{venue.port}".replace(":", "_")
    return (
        Pace(folder / f"{name}.connects", config.connects_per_s),
        Pace(folder / f"{name}.messages", config.messages_per_s),
    )
