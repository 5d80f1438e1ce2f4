"""The HTTP rows at full figure, against a running daemon."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.corpus import paths
from tests.support.faults import Cadence, Site, site
from tests.support.http import exchange
from tests.support.siege import check_manners, fuzz_bodies, fuzz_heads, slow_readers, slowloris

SEED = 1
Record = Callable[[str, object], None]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Site]:
    """A daemon with the job h/fast; at the end it stops in good order."""
    made = site(tmp_path)
    made.configure(Cadence("h", ("true",), "1h"))
    try:
        daemon = made.place.daemon().ready()
        daemon.wait_line("anchor success")
        yield made
        assert not daemon.lines("request failed")
        daemon.stop()
    finally:
        made.place.close()


@pytest.mark.parametrize("again_s", [3600.0, 1.0], ids=["a burst", "and they come back"])
def test_h1_two_thousand_half_open_connections(scene: Site, again_s: float, record_property: Record) -> None:
    found = slowloris(scene.place.started[0], 2_000, seconds=30, again_s=again_s)
    record_property(
        "H1",
        f"{found.seen['opened']:,} opened, {found.seen['cut']:,} put out, {found.seen['told']} told 408; "
        f"{found.probe.told()}; RSS {found.peak_kb / 1024:.1f} MiB (+{found.growth_kb} KiB)",
    )
    assert found.probe.errors == []
    assert found.probe.p99_ms <= found.probe.bar_ms
    assert found.peak_kb <= 64 << 10
    assert found.seen["cut"] >= 2_000 - 256
    if again_s > 60:
        assert found.seen["told"] > 200


def test_h3_a_hundred_thousand_bodies(scene: Site, record_property: Record) -> None:
    rounds = 100_000
    seen = fuzz_bodies(scene, rounds, SEED)
    record_property("H3", f"{rounds:,} bodies: 0 x 500, " + ", ".join(f"{seen[s]:,} x {s}" for s in sorted(seen)))
    assert seen.total() == rounds


def test_h5_two_hundred_paths_in_every_method(scene: Site, record_property: Record) -> None:
    addresses = (scene.place.started[0].port, str(scene.place.state.with_name("control.sock")))
    asked = [(path, method, address) for path in paths() for method in ("GET", "HEAD", "POST") for address in addresses]
    for path, method, address in asked:
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        reply = exchange(address, head.encode("latin-1"))
        assert reply.status in {400, 404, 405}, (path, method)
        assert len(reply.body) < 200
        check_manners(reply)
    record_property("H5", f"{len(paths())} paths, {len(asked):,} requests: 0 files, 0 answers but 400, 404, 405")


def test_h7_twenty_thousand_heads(scene: Site, record_property: Record) -> None:
    rounds = 10_000
    seen = fuzz_heads(scene.place.started[0].port, rounds, SEED)
    seen += fuzz_heads(str(scene.place.state.with_name("control.sock")), rounds, SEED + 1)
    told = ", ".join(f"{seen[status]:,} x {status}" for status in sorted(seen))
    record_property("H7", f"{2 * rounds:,} heads: 0 x 5xx, 0 banners, {told}")


def test_h8_slow_readers(tmp_path: Path, record_property: Record) -> None:
    made = site(tmp_path)
    made.configure(*(Cadence(f"n{number:04}", ("true",), "1h", ("enabled: false",)) for number in range(1_000)))
    try:
        daemon = made.place.daemon().ready()
        size = max(len(daemon.get("/metrics").body) for _ in range(20))
        rounds = [slow_readers(daemon, 256) for _ in range(4)][1:]
        daemon.stop()
    finally:
        made.place.close()
    growth, last = max(found.growth_kb for found in rounds), max(found.seconds for found in rounds)
    errors = [error for found in rounds for error in found.probe.errors]
    asked = sum(len(found.probe.seconds) for found in rounds)
    record_property(
        "H8",
        f"256 readers of {size:,} B at 1 B/s, {len(rounds)} rounds: RSS +{growth} KiB at most, all cut off after "
        f"{last:.1f} s; healthz beside them {asked - len(errors)} good of {asked}",
    )
    assert size > 500_000
    assert growth <= 4 << 10
    assert 9 < last < 12
    assert errors == []
