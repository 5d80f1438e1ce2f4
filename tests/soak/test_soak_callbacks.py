"""A4, A6, W4, W5, W7 and W8 at full figures."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import lag
from tests.support.callbacks import many_desks, stranger
from tests.support.contract import world
from tests.support.crowds import ask_all, flood_of_kids, issued, rotated, shared
from tests.support.daemon import until
from tests.support.dead_hosts import DEAD, Plan, storm
from tests.support.faults import Site
from tests.support.floods import endure, flood, flooded
from tests.support.forge import WALLET, Received, forge
from tests.support.sink import sink

Record = Callable[[str, object], None]
GIB = 1 << 30


def test_a4_ten_thousand_kids_and_a_rotation(tmp_path: Path, record_property: Record) -> None:
    with issued(tmp_path) as (it, issuer):
        seconds = flood_of_kids(it, 10_000)
        fetches = len(issuer.at("/jwks"))
        late = rotated(it, issuer)
    record_property(
        "A4",
        f"10,000 tokens of random kids in {seconds:.0f} s: all 401, {fetches} fetches; new key after {late:.0f} s",
    )
    assert fetches <= 1 + seconds / 30
    assert late <= 60


def test_a6_ten_thousand_requests(tmp_path: Path, record_property: Record) -> None:
    with shared(tmp_path) as it:
        found = ask_all(it, 10_002)
    record_property("A6", str(found))
    assert found.error <= 0.05
    assert found.without_retry_after == 0


def test_w5_floods_of_a_gibibyte(tmp_path: Path, record_property: Record) -> None:
    with flood(GIB) as sea, flooded(tmp_path, sea, paths=sea.paths) as it:
        grown = endure(it, sea, sea.paths, warm=20, rounds=20)
        it.daemon.stop()
    record_property(
        "W5",
        f"{20 * len(sea.paths)} floods of {len(sea.paths)} kinds (bodies and bombs of 1 GiB, headers of 1 MiB), 4 at "
        f"once: RSS +{grown.floods} KiB at most, over as many short answers +{grown.short} KiB",
    )
    assert grown.more <= 1_024


@pytest.mark.parametrize("trusted", [True, False], ids=["ours", "a stranger's"])
async def test_w4_half_a_second_for_a_byte(trusted: bool, record_property: Record) -> None:
    """Each byte in time, the whole never."""

    async def drip(writer: asyncio.StreamWriter) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1_000:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.5)

    async with many_desks() as desks, sink(drip) as consumer:
        began = time.monotonic()
        outcome = await desks(stranger(loopback_ok=True)).run(consumer.url, within=10_000, trusted=trusted)
        took = time.monotonic() - began
    record_property("W4", f"a byte every 0.5 s, 10 s for the call: {outcome.code} after {took:.2f} s")
    assert outcome.code == "timeout"
    assert took <= 10.5


def test_w8_twenty_kills_in_mid_callback(tmp_path: Path, record_property: Record) -> None:
    with world(tmp_path, SCHEDULER_TICK_MS="250") as it:
        api, equal = it.api, 0
        for number in range(20):
            path = f"/killed-{number}"
            gate = it.consumer.hold(path)
            body = {"id": f"k{number}", "walletAddress": WALLET, "cycleIntervalMs": 3_600_000}
            api.ask("POST", "/v1/agents/register", {**body, "callbackUrl": it.hook(path)})
            until(lambda path=path: it.consumer.at(path), "the callback")
            api.daemon.kill()
            gate.set()
            api = forge(it.place, it.upstream, SCHEDULER_TICK_MS="250")
            first, *more = until(lambda path=path: got if len(got := it.consumer.at(path)) > 1 else None, "it again")
            until(lambda api=api, number=number: api.agent(f"k{number}")["lastCycleAt"], "its end")
            equal += [key(each) for each in more] == [key(first)]
        sent = sum(len(it.consumer.at(f"/killed-{number}")) for number in range(20))
    record_property("W8", f"20 kills before the answer was written down: {sent} calls, {equal} of 20 keys the same")
    assert (equal, sent) == (20, 40)


def key(call: Received) -> tuple[str, str]:
    return call.headers["X-ForgeOS-Idempotency-Key"], call.headers["X-ForgeOS-Queue-Task-Id"]


@pytest.mark.parametrize("kind", DEAD)
def test_w7_a_thousand_callbacks_to_a_dead_host(places: tuple[Site, Site], kind: str, record_property: Record) -> None:
    path = lag.measured(places[0].place)
    seen = storm(*places, kind, Plan(1_000))
    wall, cpu = (part.percentile(0.01) * 1_000 for part in lag.read(path))
    delay = f"{seen.p99[1]} ms late (at the same time without agents {seen.p99[0]} ms)"
    lags = f"loop lag p99 {cpu:.1f} ms in CPU time ({wall:.0f} by the clock)"
    record_property(
        "W7",
        f"1,000 agents, {kind} host: {seen.failed:,} failures in 60 s; 10 cadences of 1 s start p99 {delay}; {lags}",
    )
    assert seen.starts[1] >= seen.starts[0] - 30 > 400
    assert cpu <= 50
    assert seen.later <= 50
