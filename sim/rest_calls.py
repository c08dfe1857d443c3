"""What all REST calls share: errors, answers, pages and the key of a request."""

from typing import Any

import msgspec
from aiohttp import web

from sim.auth import ApiKey

PREFIX = "/api/v3/brokerage"
KEY = web.RequestKey("key", ApiKey)


class RestError(Exception):
    """An answer that is not 200, with the venue's body."""

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {"error": error, "error_details": message, "message": message}


def json_answer(said: dict[str, Any], status: int = 200) -> web.Response:
    """Return an answer as JSON."""
    body = msgspec.json.encode(said)
    return web.Response(body=body, status=status, content_type="application/json")


def key_of(request: web.Request) -> ApiKey:
    """Return the key that signed a request."""
    return request[KEY]


async def body_of(request: web.Request) -> dict[str, Any]:
    """Return the JSON object that a request carries; RestError if it is none."""
    try:
        return msgspec.json.decode(await request.read(), type=dict[str, Any])
    except msgspec.DecodeError as e:
        raise RestError(400, "INVALID_ARGUMENT", f"the body is no JSON object: {e}") from None


def count_of(request: web.Request, name: str, default: int) -> int:
    """Return a positive number from the query; RestError if it is none."""
    text = request.query.get(name, "") or str(default)
    if not text.isascii() or not text.isdecimal() or int(text) == 0:
        raise RestError(400, "INVALID_ARGUMENT", f"{name} must be a positive whole number")
    return int(text)


def page_of(
    request: web.Request, rows: list[dict[str, Any]], default: int
) -> tuple[list[dict[str, Any]], str]:
    """Return the page that the cursor asks for, and the cursor of the next, "" if there is none.

    A cursor counts from the oldest row, so that what is new meanwhile moves no page.
    """
    limit = count_of(request, "limit", default)
    left = count_of(request, "cursor", len(rows)) if rows else 0
    start = max(0, len(rows) - left)
    end = start + limit
    return rows[start:end], str(len(rows) - end) if end < len(rows) else ""
