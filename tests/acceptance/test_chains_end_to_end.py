"""One namespace on a time-stamping authority and on chains: sealed, anchored, confirmed, checked; and all that goes
wrong on the way."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chained import Chained, EvmRail, PowerCut, TsaRail, a_bitcoin, a_chain, evm_moments, killed
from tests.support.daemon import Place, until
from tests.support.evm import Node
from tests.support.rpc_door import Door
from tests.support.tsa import Tsa
from vmsh_scheduler.anchors.verify import verify
from vmsh_scheduler.domain.batch import slug

pytestmark = pytest.mark.needs("openssl")

FLIPS = 6
"""Places over each artefact."""
MOMENTS = (
    "refused eth_chainId",
    "lost eth_getTransactionCount",
    "refused eth_sendRawTransaction",
    "lost eth_sendRawTransaction",
    "lost eth_blockNumber",
)


@pytest.fixture(scope="module")
def chain() -> Iterator[tuple[Node, Door, str]]:
    with a_chain() as made:
        yield made


@pytest.fixture
def evm(chain: tuple[Node, Door, str], request: pytest.FixtureRequest) -> Iterator[EvmRail]:
    """With an account of this test's own."""
    node, door, contract = chain
    node.automine(True)
    yield EvmRail(node, door, request.node.name, contract)
    door.reset()


@pytest.fixture
def chained(place: Place, tsa: Tsa, evm: EvmRail) -> Chained:
    return Chained(place, [TsaRail(tsa), evm]).configured()


def test_submitted_verified_final_and_checked(chained: Chained, evm: EvmRail) -> None:
    evm.node.automine(False)
    chained.write("a")
    daemon = chained.place.daemon().ready()
    until(lambda: [one for one in chained.kept(evm.target) if one.phase == "submitted"], "something submitted")
    chained.confirm(evm.target, daemon)
    chained.wait_phases(evm.target, daemon, submitted=1)
    evm.node.automine(True)
    chained.wait_anchored()
    chained.confirm(evm.target, daemon)
    chained.wait_phases(evm.target, daemon, verified=1)
    assert "has 1 of 3 confirmations" in "".join(chained.failing("--online"))
    assert daemon.health()["attestations"][evm.target]["open"] == 1
    evm.node.mine(2)
    chained.confirm(evm.target, daemon)
    chained.wait_phases(evm.target, daemon, final=1)
    assert daemon.value("vmsh_attestation_final_seconds_count", target=evm.target) == 1
    assert daemon.value("vmsh_attestations_oldest_open_seconds", target=evm.target) == 0
    _shown(chained.place, evm.target)
    daemon.stop()
    assert evm.paid() == 1
    assert chained.failing("--online") == []
    _any_flipped_byte_shows(chained, evm)


def _shown(place: Place, target: str) -> None:
    """By `status`, in words and for machines."""
    told = place.cli("status", "--json").ok().json["attestations"]
    assert told == {target: {"open": 0, "oldestOpenS": 0, "final": 1, "faulty": 0, "overdue": 0, "backoff": 0}}
    lines = place.cli("status").ok().out.partition("anchors on chains and calendars")[2].splitlines()
    assert [line.split() for line in lines if line.startswith(target)] == [[target, "0", "-", "0", "1", "0", "0"]]


def _any_flipped_byte_shows(chained: Chained, evm: EvmRail) -> None:
    root = chained.place.root
    (batch,), (receipt,) = (root / "out/batches").glob("*.json"), (root / "out/receipts/batches").glob("*.json")
    (submission,) = (root / "out/submissions" / slug(evm.target)).glob("*.json")
    token = receipt.read_bytes().index(b'"sig"')
    places = [(batch, 0), (receipt, 0), (receipt, token + 9), (submission, 0)]
    for path, first in places:
        whole = path.read_bytes()
        last = len(whole) if not first else whole.index(b'"', first)
        for part in range(FLIPS):
            _flip(path, whole, first + (last - first) * part // FLIPS)
            assert not verify(root).ok, f"{path.name}, part {part}"
        assert chained.failing("--online")
        path.write_bytes(whole)
    assert chained.failing("--online") == []


def _flip(path: Path, whole: bytes, position: int) -> None:
    changed = bytearray(whole)
    changed[position] ^= 1
    path.write_bytes(changed)


@pytest.mark.timeout(300)
@pytest.mark.needs("bitcoind")
def test_bitcoin_beside_them(place: Place, tsa: Tsa, evm: EvmRail, tmp_path_factory: pytest.TempPathFactory) -> None:
    with a_bitcoin(tmp_path_factory.mktemp("bitcoin"), 2) as btc:
        chained = Chained(place, [TsaRail(tsa), evm, btc]).configured()
        chained.write("a")
        daemon = place.daemon().ready()
        chained.wait_anchored()
        for mined, phase in ((0, "submitted"), (1, "verified"), (2, "final")):
            btc.node.mine(mined)
            chained.confirm(btc.target, daemon)
            chained.wait_phases(btc.target, daemon, **{phase: 1})
        evm.node.mine(2)
        chained.confirm(evm.target, daemon)
        daemon.stop()
        assert (btc.paid(), evm.paid()) == (1, 1)
        assert chained.failing("--online") == []
        (receipt,) = chained.receipts()
        assert receipt["anchor"]["chain"] == btc.target


def test_out_of_its_block_and_back(chained: Chained, evm: EvmRail) -> None:
    evm.node.mark()
    chained.write("a")
    daemon = chained.place.daemon().ready()
    chained.wait_anchored()
    chained.confirm(evm.target, daemon)
    evm.door.fail("eth_sendRawTransaction", "401", times=10_000)  # the daemon's own next pass would end the phase
    evm.node.reorg()
    chained.confirm(evm.target, daemon)
    chained.wait_phases(evm.target, daemon, reorged=1)
    assert daemon.value("vmsh_attestations_reorged_total", target=evm.target) == 1
    evm.door.reset()
    for _ in ("sent again", "seen"):
        chained.confirm(evm.target, daemon)
    chained.wait_phases(evm.target, daemon, verified=1)
    evm.node.mine(2)
    chained.confirm(evm.target, daemon)
    chained.wait_phases(evm.target, daemon, final=1)
    daemon.stop()
    assert chained.failing("--online") == []
    assert evm.paid() == 1


def test_overdue_degrades_even_while_the_node_is_down(chained: Chained, evm: EvmRail) -> None:
    """A run waits for its first block for longer than two of its namespace's seconds, which is stale by itself: here
    the namespace takes its time, so that nothing but the alarm degrades."""
    chained.configured(every="10m")
    evm.node.automine(False)
    chained.write("a")
    daemon = chained.place.daemon().ready()
    until(lambda: chained.kept(evm.target), "something signed")
    chained.confirm(evm.target, daemon)
    assert daemon.health()["status"] == "healthy"
    chained.aged(evm.target, 25)
    evm.door.fail("*", "refused", times=10_000)
    chained.trigger(evm.target)
    daemon.wait_line("confirmation failed")
    found = daemon.health()
    assert (found["status"], found["attestations"][evm.target]["overdue"]) == ("degraded", 1)
    assert found["attestations"][evm.target]["backoff"] == 1
    daemon.wait_until(lambda: daemon.value("vmsh_attestations_overdue", target=evm.target), "an alarm")
    evm.door.reset()
    evm.node.automine(True)
    chained.place.cli("reset", f"_anchors/{evm.target}").ok()
    daemon.wait_until(lambda: not daemon.health()["attestations"][evm.target]["overdue"], "no alarm")
    daemon.wait_until(lambda: daemon.health()["status"] == "healthy", "health")
    daemon.stop()


@pytest.mark.timeout(120)
def test_killed_anywhere_it_pays_once_and_loses_nothing(chained: Chained, evm: EvmRail) -> None:
    moments = dict(evm_moments(evm))
    daemon = killed(chained, [(name, moments[name]) for name in MOMENTS])
    evm.node.mine(2)
    chained.confirm(evm.target, daemon)
    chained.wait_phases(evm.target, daemon, final=len(MOMENTS))
    daemon.stop()
    assert evm.paid() == len(MOMENTS)
    assert chained.failing("--online") == []


def test_what_fails_backs_off_in_words_and_a_new_entry_mends_it(place: Place, tsa: Tsa, evm: EvmRail) -> None:
    place.write("rogue.pem", tsa.rogue.read_text())
    stamps = TsaRail(tsa, bundle="rogue.pem")
    evm.url = "http://127.0.0.1:9"
    chained = Chained(place, [stamps, evm]).configured()
    chained.write("a")
    daemon = place.daemon().ready()
    down = daemon.wait_line("anchor failed", after=1, target=evm.target)
    assert "127.0.0.1:9" in down["err"]
    assert "refused" in down["err"]
    assert down["class"] == "network"
    untrusted = daemon.wait_line("anchor failed", target=stamps.target)
    assert "trust bundle" in untrusted["err"]
    daemon.wait_until(lambda: daemon.value("vmsh_backoff_state", namespace="docs"), "a backoff")
    assert evm.paid() == 0
    assert chained.receipts() == []
    stamps.bundle, evm.url = "roots.pem", ""
    chained.configured()
    chained.wait_anchored()
    daemon.stop()
    assert evm.paid() == 1


SWITCHED_OFF = ("vmsh_decisions_total", frozenset({("verdict", "skipped"), ("reason", "kill_switch")}))


def test_the_kill_switch_pays_nothing(chained: Chained, evm: EvmRail, tsa: Tsa) -> None:
    """Neither for what is new, nor for what was signed and not sent before it was thrown."""
    chained.write("a")
    cut = PowerCut(chained.place.daemon().ready())
    evm.door.fail("eth_sendRawTransaction", "refused", then=cut)
    cut.wait("before it is sent")
    assert [one.phase for one in chained.kept(evm.target)] == ["signed"]
    evm.door.reset()
    asked = len(tsa.asked)
    chained.write("b")
    chained.place.environ["ANCHOR_WRITE_ENABLED"] = "0"
    daemon = chained.place.daemon().ready()
    chained.trigger(evm.target)
    daemon.wait_until(lambda: daemon.samples().get(SWITCHED_OFF, 0) >= 5, "slots that were skipped")
    daemon.stop()
    assert (evm.paid(), evm.door.seen.calls) == (0, [])
    assert len(tsa.asked) == asked
    del chained.place.environ["ANCHOR_WRITE_ENABLED"]
    daemon = chained.place.daemon().ready()
    until(lambda: evm.paid() == 2, "both batches")
    daemon.stop()
