"""After the warm-up no frame waits for a compiler."""

import subprocess
import sys

import pytest

_SCRIPT = """
import gc
from numba.core.dispatcher import Dispatcher
from actors.formats import FORMATS
from actors.reader import Reader
from actors.stream import ProductStream
from actors.warm_up import warm_up
from market.products import product
from sim.wire import Listing, shared_frame

def compiled():
    return {id(d): len(d.overloads) for d in gc.get_objects() if isinstance(d, Dispatcher)}

btc = product("BTC-USD")
reader, stream = Reader(FORMATS["coinbase-advanced"], {btc.id: btc}), ProductStream(None, btc)
warm_up("coinbase-advanced")
before = compiled()
book = {6_000_000 - i: 5 for i in range(2_000)}, {6_000_001 + 9 * i: 5 for i in range(2_000)}
listing, ns = Listing(btc), 10**18
events = [listing.snapshot(*book), listing.updates([(0, 5_999_999, 0), (1, 9_000_000, 7)], ns)]
for number, event in enumerate(events):
    frame = shared_frame("level2", ns + number * 5 * 10**9, event, btc.id).numbered(number)
    for _, rows in reader.frame(frame, ns):
        stream.apply(rows)
assert stream.builder.synced and len(stream.builder.carried(2 * 10**18, 0)) == 4_000
print(compiled() == before)
"""


@pytest.mark.slow
def test_neither_a_frame_nor_a_book_that_grows_compiles_or_loads_anything() -> None:
    command = [sys.executable, "-c", _SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "True", done.stdout + done.stderr
