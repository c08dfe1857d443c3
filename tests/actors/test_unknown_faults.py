"""A frame harmed in a way that nobody thought of: never valid data that differ from the truth.

Harm is structural: a field of any frame is missing, renamed, of another type or repeated. What is
left out are changes that make another lawful frame (other digits, fewer levels, an unknown channel,
which the venue tells clients to ignore): without a checksum nobody can tell those.
"""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.windows import WINDOW
from tests.actors.wire import BTC, ETH, SECOND_NS, START_NS, Walk, live_windows

pytestmark = pytest.mark.slow


SECONDS = 60
Path = tuple[str | int, ...]


def stream(seed: int) -> list[bytes]:
    """A minute of two books, both sent again after 32 s, when any harm is past."""
    walk = Walk(seed)
    frames = walk.snapshots(START_NS)
    frames += walk.frames(START_NS + SECOND_NS, START_NS + 32 * SECOND_NS)
    frames += walk.snapshots(START_NS + 32 * SECOND_NS)
    frames += walk.frames(START_NS + 33 * SECOND_NS, START_NS + SECONDS * SECOND_NS)
    return frames


def fields(node: Any, path: Path = ()) -> list[Path]:
    """Where the fields of a frame are, at any depth."""
    found: list[Path] = []
    if isinstance(node, dict):
        for key, value in node.items():
            found += [(*path, key), *fields(value, (*path, key))]
    elif isinstance(node, list):
        for place, value in enumerate(node):
            found += fields(value, (*path, place))
    return found


def harmed(frame: bytes, draw: st.DrawFn) -> bytes:
    """One field of a frame harmed."""
    message = json.loads(frame)
    *above, key = draw(st.sampled_from([p for p in fields(message) if p != ("channel",)]))
    node = message
    for step in above:
        node = node[step]
    harm = draw(st.sampled_from(["missing", "renamed", "replaced", "wrapped", "repeated"]))
    if harm == "missing":
        del node[key]
    elif harm == "renamed":
        node[draw(st.sampled_from(["", "x", key.upper(), f"{key} "]))] = node.pop(key)
    elif harm == "wrapped":
        node[key] = draw(st.sampled_from([[node[key]], {key: node[key]}, [[node[key]]]]))
    elif harm == "replaced":
        others = [None, True, -1, 1.5, "", "x", "-1", "1e3", "NaN", {}, [None], [[]], ["x"]]
        node[key] = draw(st.sampled_from([o for o in others if lawful(key, o)]))
    else:
        text = json.dumps({key: node[key]})[1:-1]
        marked = json.dumps(message, separators=(",", ":"))
        inner = json.dumps(node, separators=(",", ":"))
        return marked.replace(inner, f"{inner[:-1]},{text}}}", 1).encode()
    return json.dumps(message, separators=(",", ":")).encode()


def lawful(key: str, other: Any) -> bool:
    """Whether this in the place of a field is harm, and not another thing that may be said."""
    return not (key in ("product_id", "type") and isinstance(other, str))


@given(data=st.data(), seed=st.integers(0, 3))
@settings(max_examples=300, derandomize=True, deadline=None)
def test_a_field_harmed_in_any_way_is_never_taken_for_the_truth(
    data: st.DataObject, seed: int
) -> None:
    frames = stream(seed)
    true = live_windows(frames)
    place = data.draw(st.integers(0, len(frames) // 2 - 4))
    frames[place] = harmed(frames[place], data.draw)
    windows = live_windows(frames)
    for name in (BTC, ETH):
        known = {int(window["beat"]): window for window in true[name]}
        for window in windows[name][windows[name]["valid"]]:
            for field in WINDOW.names or ():
                np.testing.assert_array_equal(
                    window[field],
                    known[int(window["beat"])][field],
                    err_msg=f"{name} {field} after {frames[place]!r}",
                )
        assert windows[name]["valid"][-5:].all(), name  # And then it goes on.
