"""kill -9 of an anchoring process at every call that it makes: nothing is paid twice, no receipt is lost."""

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.evm import ETHER, Node, ask, node
from tests.support.paying import Document, Paying, deployed, secret_of
from tests.support.rpc_door import Door
from tests.support.site import Site
from vmsh_scheduler.domain.batch import slug

CALLS = 11
"""That one anchor makes, from `eth_chainId` to the last look."""
PATIENCE_S = 60
"""How long a process may take, on a slow machine."""


@pytest.fixture(scope="module")
def chain() -> Iterator[tuple[Node, Door]]:
    with node("py-evm") as made:
        yield made


@dataclass
class Killed:
    """Ends a process from the door's thread, once it is known."""

    known: threading.Event = field(default_factory=threading.Event)
    pid: int = 0

    def __call__(self) -> None:
        self.known.wait(PATIENCE_S)
        os.kill(self.pid, signal.SIGKILL)


def round_of(paying: Paying, batch: Document, nth: int, how: str) -> bool:
    """Was it killed? False: it had ended by then."""
    paying.door.reset()
    kill = Killed()
    paying.door.fail("*", how, nth=nth, then=kill)
    process = paying.start(batch)
    kill.pid = process.pid
    kill.known.set()
    process.communicate(timeout=PATIENCE_S)
    paying.door.reset()
    return process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("how", ["refused", "lost"])
def test_killed_at_every_call(chain: tuple[Node, Door], tmp_path: Path, how: str) -> None:
    """`refused`: before the node carried the call out; `lost`: after. Eleven rounds each."""
    chain_node, door = chain
    paying = Paying(Site(tmp_path), chain_node, door, secret_of(how))
    paying.entry["contract"] = deployed(chain_node)
    chain_node.fund(paying.account, ETHER)
    batches, killed, signed = [], 0, 0
    for nth in range(1, CALLS + 1):
        batch = paying.site.put_batch(f"1700-{nth}")
        killed += round_of(paying, batch, nth, how)
        signed += (paying.site.out / "submissions" / slug(paying.target) / f"{batch['id']}.json").exists()
        answer = paying.anchor(batch)
        assert answer.code == 0, (nth, answer.result)
        batches.append(batch)
        assert paying.paid() == len(batches), nth
    assert killed == CALLS
    assert 0 < signed < CALLS
    chain_node.mine(3)
    assert paying.confirm().result["phases"] == {"final": CALLS}
    assert paying.paid() == CALLS
    for batch in batches:
        said = paying.receipt(batch)["anchor"]
        assert (said["status"], said["chain"]) == ("final", paying.target)
        assert ask(chain_node, "eth_getTransactionReceipt", said["tx"])["status"] == "0x1"
    assert paying.online().ok
