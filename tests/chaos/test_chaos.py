"""The fleet under every fault that the exchange knows, its actors killed in between.

Afterwards: windows == what an omniscient collector has, wherever ours claims validity; every gap
that it claims has a cause; nothing is there twice; what each kind of fault cost is printed. Once
into a folder, once into an S3 server that is itself killed for a while.
"""

import os
import pickle
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.raw import day_of, read_manifest, read_partition
from actors.status import CollectorStatus
from actors.store import Store
from datasets.rebuild import windows_of
from market.events import Kind, Reason
from market.windows import BEAT_NS, WINDOW
from sim.exchange_config import DEFAULT_START_NS
from sim.faults import FaultKind
from sim.tape import FaultDone, Tape, read_tape
from tests.chaos import omniscient
from tests.chaos.customer import Account
from tests.chaos.scene import (
    ACCOUNT,
    CONNECTION,
    END_NS,
    IDS,
    KILLS,
    SECOND_NS,
    SECONDS,
    SPEED,
    Kill,
    Seen,
)
from tests.s3 import S3Server

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
DAY = day_of(DEFAULT_START_NS)
SCENE_S = 400.0
# What can make a collector say that a book is lost, by the reason that it gives.
SPOILED = {FaultKind.TRUNCATED, FaultKind.BAD_BYTES, FaultKind.MISSING_FIELD, FaultKind.WRONG_TYPE}
CAUSES = {
    Reason.GAP: {FaultKind.DROP, FaultKind.REORDER} | SPOILED,
    Reason.CORRUPT: {FaultKind.OFF_GRID} | SPOILED,
    Reason.CROSSED: {FaultKind.CROSSED},
    Reason.DISCONNECT: {
        FaultKind.CLOSE,
        FaultKind.HALF_OPEN,
        FaultKind.STALL,
        FaultKind.REFUSE,
    },
}
AWAITED_S = 3 * CONNECTION.snapshot_s * SPEED  # Event time in which a book may be asked for.
HARMLESS = {
    FaultKind.DUPLICATE,
    FaultKind.LATE_TRADES,
    FaultKind.MISSING_TRADES,
    FaultKind.CLOCK_JUMP,
}


class Run(NamedTuple):
    """What a run of chaos left."""

    tape: Tape
    store: Store
    live: list[tuple[str, NDArray[np.void]]]
    kills: list[Kill]
    last: dict[str, CollectorStatus | str]
    collector_of: dict[str, str]
    account: Account


@pytest.fixture(scope="module", params=["folder", "s3"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("chaos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("HOME", str(folder / "home"))  # Where the spool of a root on S3 lies.
        server, root = None, str(folder / "root")
        if request.param == "s3":
            server = request.getfixturevalue("s3_server")
            for name, value in server.environment.items():
                patch.setenv(name, value)
            root = server.bucket("chaos")
        play(folder, root, server)
        seen: Seen = pickle.loads((folder / "seen.pickle").read_bytes())
        yield Run(read_tape(folder / "tape"), Store(root), *seen)


def play(folder: Path, root: str, server: S3Server | None) -> None:
    """Let the scene play; the server is dead from the second kill of a collector to the fourth."""
    command = [sys.executable, "-m", "tests.chaos.scene", str(folder), root]
    with (
        (folder / "errors").open("wb") as errors,
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, env=os.environ
        ) as scene,
    ):
        assert scene.stdout
        try:
            for number, _ in enumerate(scene.stdout, start=1):
                if server and number == 2:
                    server.kill9()
                elif server and number == 4:
                    server.restart()
            code = scene.wait(SCENE_S)
        finally:
            scene.kill()
            if server and not server.running:
                server.restart()
    assert code == 0, (folder / "errors").read_text()[-3000:]


def partitions_of(run: Run, name: str) -> NDArray[np.void]:
    manifest = read_manifest(run.store, name, DAY)
    assert manifest is not None, name
    return read_partition(run.store, manifest)


def rebuilt(run: Run, name: str) -> NDArray[np.void]:
    manifest = read_manifest(run.store, name, DAY)
    assert manifest is not None, name
    return windows_of(run.store, manifest)


def test_every_kind_of_fault_took_effect_and_two_hundred_in_all(run: Run) -> None:
    happened = Counter(fault.kind for fault in run.tape.faults)
    assert set(happened) == {kind.value for kind in FaultKind}
    assert sum(happened.values()) >= 200, happened
    assert len(run.kills) == KILLS


def test_wherever_ours_claims_validity_it_is_what_an_omniscient_collector_has(run: Run) -> None:
    known = omniscient.windows(run.tape, IDS)
    checked = Counter[str]()
    for name in IDS:
        windows = rebuilt(run, name)
        for window in windows[windows["valid"]]:
            beat = int(window["beat"])
            assert any(same(window, record) for record in known[name, beat]), (name, beat)
            checked[name] += 1
    assert min(checked[name] for name in IDS) > SECONDS / 4 / 4, checked


def same(window: np.void, record: dict[str, Any]) -> bool:
    """Whether a window says what a record of the reference says."""
    for field in WINDOW.names or ():
        ours, theirs = window[field].tolist(), record[field]
        if ours != (0 if theirs is None else theirs):
            return False
    return True


def test_what_was_streamed_live_is_what_the_partitions_rebuild(run: Run) -> None:
    """Where two collectors told of one beat, because one was killed, that which knew it counts."""
    for name in IDS:
        kills = sum(kill.name == run.collector_of[name] for kill in run.kills)
        kept = {int(window["beat"]): window for window in rebuilt(run, name)}
        streamed: dict[int, np.void] = {}
        for product_id, windows in run.live:
            for window in windows if product_id == name else ():
                before = streamed.get(int(window["beat"]))
                assert before is None or kills, (name, window["beat"])
                if before is None or window["valid"] or not before["valid"]:
                    streamed[int(window["beat"])] = window
        assert streamed.keys() <= kept.keys(), name
        known_since = 0
        for beat, window in streamed.items():
            if kept[beat]["valid"] and not window["valid"]:
                known_since += 1  # The killed one had recorded it, and not streamed it yet.
                continue
            for field in WINDOW.names or ():
                np.testing.assert_array_equal(window[field], kept[beat][field], err_msg=field)
        assert known_since <= 2 * kills, name


def test_every_claimed_gap_has_a_cause(run: Run) -> None:
    for name in IDS:
        rows = partitions_of(run, name)
        faults = omniscient.faults_of(run.tape, name)
        # At its end the market closes every connection.
        marks = rows[(rows["kind"] == Kind.UNSYNC) & (rows["ns"] < END_NS)]
        assert len(marks)
        for mark in marks:
            reason, ns = Reason(int(mark["reason"])), int(mark["ns"])
            close = [fault for fault in faults if near(fault, ns, faults)]
            causes = [fault for fault in close if fault.kind in CAUSES[reason]]
            # A book that is lost again while it is awaited brings a new connection in the end.
            awaited = [fault for fault in faults if near(fault, ns, faults, AWAITED_S)]
            losses = [f for f in awaited if f.kind in CAUSES[Reason.GAP] | CAUSES[Reason.CORRUPT]]
            again = reason is Reason.DISCONNECT and len(losses) >= 2
            assert causes or again, (name, reason, ns, close)


def near(fault: FaultDone, ns: int, faults: list[FaultDone], patience_s: float = 3.0) -> bool:
    """Whether a fault can have shown at this time of our clock, which a jump may have moved."""
    ahead = sum(
        float(f.detail.split()[0])
        for f in faults
        if f.kind == FaultKind.CLOCK_JUMP and f.detail[0] == "+" and 0 <= ns - f.ns < 60 * 10**9
    )
    if fault.kind == FaultKind.REFUSE:
        patience_s = AWAITED_S
    return -3 * SECOND_NS <= ns - fault.ns <= (patience_s + ahead) * SECOND_NS


def test_a_killed_collector_lost_at_most_a_second_and_its_gap_is_told(run: Run) -> None:
    for name in IDS:
        kills = [kill for kill in run.kills if kill.name == run.collector_of[name]]
        manifest = read_manifest(run.store, name, DAY)
        assert manifest is not None
        broke_off = [g for s in manifest.sessions for g in s.gaps if g.reason == "broke off"]
        assert len(broke_off) == len(kills), name
    for kill in run.kills:
        received = np.concatenate(
            [partitions_of(run, n)["recv_ns"] for n in IDS if run.collector_of[n] == kill.name]
        )
        before = received[received <= kill.ns]
        assert kill.ns - int(before.max()) < 1.2 * SECOND_NS, kill


def test_nothing_is_there_twice(run: Run) -> None:
    for name in IDS:
        rows = partitions_of(run, name)
        traded = rows["trade_id"][rows["kind"] == Kind.TRADE]
        content = rows[rows["kind"] <= Kind.TRADE]
        keys = content[["recv_ns", "kind", "side", "price", "size", "trade_id"]]
        assert len(np.unique(keys)) == len(keys), name
        assert len(np.unique(traded)) == len(traded), name


def test_a_customer_whose_calls_fail_has_each_order_once_and_its_funds_to_the_last_digit(
    run: Run,
) -> None:
    account = run.account
    taken = {client: venue for client, venue in account.answers.items() if venue}
    assert len(account.orders) == len(taken) > 50
    assert {one["client_order_id"]: one["order_id"] for one in account.orders} == taken
    assert account.failures > 20 and len(account.fills) > 20
    funds = dict(ACCOUNT.balances)
    for fill in account.fills:
        coin, usd = fill["product_id"].split("-")
        size, sign = Decimal(fill["size"]), 1 if fill["side"] == "BUY" else -1
        funds[coin] += sign * size
        funds[usd] -= sign * size * Decimal(fill["price"]) + Decimal(fill["commission"])
    for wallet in account.wallets:
        has = Decimal(wallet["available_balance"]["value"]) + Decimal(wallet["hold"]["value"])
        assert has == funds.pop(wallet["currency"]), wallet
    assert funds == {}


def test_what_each_kind_of_fault_cost_is_told(run: Run) -> None:
    lost: dict[str, list[float]] = defaultdict(list)
    for name in IDS:
        windows = rebuilt(run, name)
        valid = {int(w["beat"]) for w in windows if w["valid"]}
        faults = omniscient.faults_of(run.tape, name)
        for fault, following in zip(faults, [*faults[1:], None], strict=True):
            beat = fault.ns // BEAT_NS
            end = following.ns // BEAT_NS if following else int(windows["beat"][-1]) + 1
            beats = 0
            while beat < end and beat not in valid:
                beat, beats = beat + 1, beats + 1
            lost[fault.kind].append(beats * BEAT_NS / SECOND_NS)
    lines = [
        f"{kind:16} {len(seconds):5}  {np.mean(seconds):6.1f}"
        for kind, seconds in sorted(lost.items(), key=lambda entry: -float(np.mean(entry[1])))
    ]
    print("\nfault            times  seconds lost, per product", *lines, sep="\n")  # noqa: T201
    assert all(np.mean(lost[kind]) < 8.0 for kind in HARMLESS if kind in lost), lost
