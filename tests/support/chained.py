"""One namespace that seals files, on a time-stamping authority and on chains that are paid, with its daemon."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from tests.support.bitcoin_node import PASSWORD, USER, BitcoinNode
from tests.support.bitcoin_rpc import Answer, passed_on
from tests.support.bitcoin_rpc import Door as BitcoinDoor
from tests.support.daemon import PATIENCE_S, UNMEASURED, Daemon, Done, Place, processes_below, until
from tests.support.evm import ETHER, Node, node, transactions
from tests.support.paying import a_key, deployed, secret_of
from tests.support.rpc_door import Door
from tests.support.tsa import Tsa
from vmsh_scheduler.anchors.facts import now_s
from vmsh_scheduler.anchors.submission import Book, Submission

Document = dict[str, Any]

NEED = 3
EVM_CALLS = (
    "eth_chainId",
    "eth_getCode",
    "eth_getBlockByNumber",
    "eth_maxPriorityFeePerGas",
    "eth_estimateGas",
    "eth_getBalance",
    "eth_getTransactionCount",
    "eth_sendRawTransaction",
    "eth_getTransactionReceipt",
    "eth_blockNumber",
)
"""Of an anchor with a contract, in their order."""
BTC_CALLS = 6
LONGEST_TSA_RUN_MS = 300
LEVELS = ("fast", "strong", "cold")
NAMESPACES = """\
namespaces:
  docs:
    seal: {{files: ["notes/*.txt"]}}
    cadence:
{levels}"""
LEVEL = '      {name}: {{target: "{target}", every: {every}, retry: {{base: 100ms, max: 5}}}}\n'


class Rail(Protocol):
    """One target, and what a test may know of it."""

    target: str

    def entry(self) -> str:
        """Its lines of anchors.yaml."""
        ...

    def environ(self) -> dict[str, str]: ...


@dataclass
class TsaRail:
    """`rfc3161:tsa`."""

    tsa: Tsa
    path: str = "/tsr"
    bundle: str = "roots.pem"
    target: str = "rfc3161:tsa"

    def entry(self) -> str:
        return f'rfc3161:\n  tsa: {{url: "${{STAMP_URL}}", trustBundle: {self.bundle}, timeout: 30s}}\n'

    def environ(self) -> dict[str, str]:
        return {"STAMP_URL": self.tsa.url(self.path)}


@dataclass
class EvmRail:
    """`account` has one ether; the door is where the daemon's children go."""

    node: Node
    door: Door
    owner: str
    contract: str = ""
    url: str = ""

    def __post_init__(self) -> None:
        self.node.fund(self.account, ETHER)

    @property
    def target(self) -> str:
        return f"eip155:{self.node.chain_id}"

    @property
    def account(self) -> str:
        return a_key(self.owner).address

    def entry(self) -> str:
        contract = f', contract: "{self.contract}"' if self.contract else ""
        rest = f'key: "${{RAIL_KEY}}", confirmations: {NEED}{contract}'
        return f'eip155:\n  default: {{rpcUrl: "{self.url or self.door.url}", {rest}}}\n'

    def environ(self) -> dict[str, str]:
        return {"RAIL_KEY": secret_of(self.owner).hex()}

    def paid(self) -> int:
        """The account's transactions in the chain."""
        return transactions(self.node, self.account)


@dataclass
class BtcRail:
    """A real bitcoind and a wallet of `coins`; what the daemon's children ask of it passes through here."""

    node: BitcoinNode
    wallet: str
    url: str = ""
    target: str = "btc:regtest"
    deadly: int = 0
    """At the so manieth call from now on, `kill` is called."""
    before: bool = False
    kill: Callable[[], None] = lambda: None

    def entry(self) -> str:
        login = f'user: {USER}, password: "${{RAIL_PASSWORD}}", wallet: {self.wallet}'
        return f'btc:\n  regtest: {{rpcUrl: "{self.url}", {login}, confirmations: {NEED}, feeRate: 2}}\n'

    def environ(self) -> dict[str, str]:
        return {"RAIL_PASSWORD": PASSWORD}

    def answer(self, path: str, body: bytes, headers: dict[str, str]) -> Answer | None:
        self.deadly -= 1
        if self.deadly:
            return passed_on(self.node, path, body, headers)
        if not self.before:
            passed_on(self.node, path, body, headers)
        self.kill()
        return None

    def paid(self) -> int:
        """The wallet's payments in the chain."""
        listed = self.node.call("listtransactions", "*", 1000, 0, wallet=self.wallet)
        return len({one["txid"] for one in listed if one["category"] == "send" and one["confirmations"] > 0})


@contextmanager
def a_bitcoin(place: Path, coins: int) -> Iterator[BtcRail]:
    """On regtest, in blocks that tests mine."""
    node = BitcoinNode(place).start()
    try:
        node.fund()
        node.wallet("anchors", coins)
        rail = BtcRail(node, "anchors")
        with BitcoinDoor(rail.answer).open() as door:
            rail.url = f"http://127.0.0.1:{door.port}"
            yield rail
    finally:
        node.stop()


@contextmanager
def a_chain() -> Iterator[tuple[Node, Door, str]]:
    """A node of a test's own, the door before it, and the contract on it."""
    with node("py-evm") as (made, door):
        yield made, door, deployed(made)


@dataclass
class Chained:
    """A place whose one namespace is anchored on `rails`, one level each."""

    place: Place
    rails: Sequence[Rail]

    def configured(self, every: str = "1s") -> "Chained":
        named = zip(LEVELS, self.rails, strict=False)
        levels = "".join(LEVEL.format(name=name, target=rail.target, every=every) for name, rail in named)
        for rail in self.rails:
            if isinstance(rail, TsaRail) and not (self.place.root / rail.bundle).exists():
                self.place.write(rail.bundle, rail.tsa.root.read_text())
            self.place.environ |= {**rail.environ(), **UNMEASURED}
        self.place.configure(NAMESPACES.format(levels=levels), anchors=self.anchors())
        return self

    def anchors(self) -> str:
        return "".join(rail.entry() for rail in self.rails)

    def write(self, name: str) -> None:
        """A file more, so that there is another batch to anchor."""
        self.place.write(f"notes/{name}.txt", name)

    @property
    def out(self) -> Path:
        return self.place.root / "out"

    def receipts(self) -> list[Document]:
        return [json.loads(path.read_text()) for path in sorted(self.out.glob("receipts/batches/*.json"))]

    def sealed(self) -> set[str]:
        """Batches of files; those that two of them were combined into are left out."""
        every = [json.loads(path.read_text()) for path in self.out.glob("batches/*.json")]
        return {batch["id"] for batch in every if "batches" not in batch}

    def anchored(self, target: str) -> list[Document]:
        """What the receipts say of it, one for each batch that is its own subject there."""
        every = [anchor for receipt in self.receipts() for anchor in receipt["anchors"]]
        return [anchor for anchor in every if anchor["chain"] == target]

    def wait_anchored(self, count: int = 1) -> None:
        """So many receipts that name every rail."""
        for rail in self.rails:
            until(lambda rail=rail: len(self.anchored(rail.target)) >= count, f"{count} receipts of {rail.target}")  # type: ignore[misc]  # mypy cannot infer a lambda's defaults

    def confirm(self, target: str, daemon: Daemon) -> None:
        """Has the daemon make its pass now, and waits for its end; there is none when one that it made by itself has
        just settled everything."""
        told = {"job": f"_anchors/{target}", "cause": "manual"}
        before = len(daemon.lines("confirmation success", **told))
        self.trigger(target)
        settled = Book(self.out, target)
        until(
            lambda: len(daemon.lines("confirmation success", **told)) > before or not settled.unfinished(),
            f"a pass over {target}",
        )

    def trigger(self, target: str) -> None:
        """A pass that the daemon makes by itself may be under way: that one is waited for."""

        def asked() -> bool:
            done = self.place.cli("trigger", f"_anchors/{target}")
            return "is running already" not in done.err and bool(done.ok())

        until(asked, "a pass that is asked for")

    def wait_phases(self, target: str, daemon: Daemon, **wanted: int) -> None:
        """In /metrics, which answers a moment late: it keeps its text for as long as that took to make."""
        daemon.wait_until(lambda: self.phases(target, daemon) == wanted, f"{target}: {wanted}")

    def phases(self, target: str, daemon: Daemon) -> dict[str, int]:
        """Of /metrics; what there is none of is left out."""
        found = {}
        for (name, labels), value in daemon.samples().items():
            told = dict(labels)
            if name == "vmsh_attestations" and told["target"] == target and value:
                found[told["phase"]] = int(value)
        return found

    def kept(self, target: str) -> list[Submission]:
        return list(Book(self.out, target).every())

    def aged(self, target: str, hours: float) -> None:
        """Everything in the book was signed so much earlier."""
        book = Book(self.out, target)
        for one in self.kept(target):
            book.put(replace(one, signed_at=now_s() - int(hours * 3600)))

    def verify(self, *more: str) -> Done:
        done = self.place.cli("verify", *more, "--json")
        assert done.code in (0, 1), done.err
        return done

    def failing(self, *more: str) -> list[str]:
        return [row["detail"] for row in self.verify(*more).json["rows"] if not row["ok"]]


@dataclass
class PowerCut:
    """SIGKILL to a daemon and all that it started, at once, from whatever thread it is called."""

    victim: Daemon
    done: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.victim.pid, signal.SIGKILL)
        for pid in processes_below(self.victim.place.root):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.done.set()

    def wait(self, what: str) -> None:
        """Until nothing more is killed."""
        assert self.done.wait(PATIENCE_S), f"no kill: {what}\n{self.victim.text()[-4000:]}"
        self.victim.wait()


Kill = Callable[[], None]
Armed = Callable[[Kill], None]
"""Makes the next run call `Kill` at a moment of its own."""


def evm_moments(rail: EvmRail) -> list[tuple[str, Armed]]:
    """Every call of one anchor: before the node carried it out, and after."""
    return [(f"{how} {method}", _at_call(rail, method, how)) for method in EVM_CALLS for how in ("refused", "lost")]


def btc_moments(rail: BtcRail, count: int) -> list[tuple[str, Armed]]:
    """Call after call of one anchor, before and after the node carried it out, and again from the first."""
    each = [(nth, before) for nth in range(1, BTC_CALLS + 1) for before in (True, False)]
    chosen = [each[number % len(each)] for number in range(count)]
    return [(f"call {nth}, {'before' if before else 'after'}", _at_nth(rail, nth, before)) for nth, before in chosen]


def _at_nth(rail: BtcRail, nth: int, before: bool) -> Armed:
    def arm(kill: Kill) -> None:
        rail.kill, rail.before, rail.deadly = kill, before, nth

    return arm


def tsa_moments(rail: TsaRail, count: int) -> list[tuple[str, Armed]]:
    """Before the reply, and then later and later after it, until the run is over. The rail's path must be /held."""
    late_ms = [LONGEST_TSA_RUN_MS * number // count for number in range(count)]
    return [(f"{ms} ms after the reply", _after_reply(rail.tsa, ms / 1000)) for ms in late_ms]


def _after_reply(tsa: Tsa, late_s: float) -> Armed:
    def strike(kill: Kill) -> None:
        tsa.arrived.wait(PATIENCE_S)
        if late_s:
            tsa.release.set()
            time.sleep(late_s)  # the moment is the fault itself
        kill()
        tsa.release.set()

    def arm(kill: Kill) -> None:
        tsa.arrived.clear()
        tsa.release.clear()
        threading.Thread(target=strike, args=(kill,), daemon=True).start()

    return arm


def _at_call(rail: EvmRail, method: str, how: str) -> Armed:
    def arm(kill: Kill) -> None:
        rail.door.reset()
        rail.door.fail(method, how, then=kill)

    return arm


def killed(chained: Chained, moments: Sequence[tuple[str, Armed]]) -> Daemon:
    """A batch per moment; at each the power goes, and a daemon that is started again brings it to every rail."""
    daemon = chained.place.daemon().ready()
    for number, (name, arm) in enumerate(moments, 1):
        cut = PowerCut(daemon)
        arm(cut)
        chained.write(f"{number:03}")
        cut.wait(name)
        daemon = chained.place.daemon().ready()
        chained.wait_anchored(number)
    return daemon
