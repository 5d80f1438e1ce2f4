"""A chain in memory behind `anchors.chain.Chain`: mempool, blocks, reorganisations, a node that fails at a chosen
moment, miners that also mine what was replaced. Coins are spent once; with `sequential` they are nonces."""

import errno
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from unittest import mock

from vmsh_scheduler.anchors import confirm, disk, transact
from vmsh_scheduler.anchors.chain import Anchor, Refused, Seen, Signed, Unreachable
from vmsh_scheduler.errors import Denied

NEED = 3
FEE_CAP = 16


class Crash(BaseException):
    """kill -9: nothing in the program may catch it."""


@dataclass(frozen=True, slots=True)
class Tx:
    """What stands in the raw bytes; `root` "" = somebody else's."""

    root: str
    coin: int
    fee: int
    salt: int

    @property
    def raw(self) -> str:
        return json.dumps([self.root, self.coin, self.fee, self.salt]).encode().hex()

    @property
    def id(self) -> str:
        return sha256(bytes.fromhex(self.raw)).hexdigest()

    @classmethod
    def read(cls, raw: str) -> "Tx":
        return cls(*json.loads(bytes.fromhex(raw)))


@dataclass
class Network:
    """Everything outside the process: our node's mempool, and what the world's miners ever saw."""

    sequential: bool = False
    blocks: list[list[Tx]] = field(default_factory=lambda: [[]])
    mempool: dict[str, Tx] = field(default_factory=dict)
    seen: dict[str, Tx] = field(default_factory=dict)
    floor: int = 1
    funded: int = 1000
    """Coins below this number are ours to spend."""
    salt: int = 0

    def mined(self) -> dict[int, tuple[Tx, int]]:
        """Coin -> who spent it, height."""
        return {tx.coin: (tx, height) for height, block in enumerate(self.blocks) for tx in block}

    def depth(self, height: int) -> int:
        return len(self.blocks) - height

    def place(self, tx_id: str) -> int:
        """Height, 0 = in no block."""
        return next((height for tx, height in self.mined().values() if tx.id == tx_id), 0)

    def take(self, tx: Tx) -> None:
        """Into the mempool, as a node would."""
        if self.place(tx.id):
            return
        rival = next((one for one in self.mempool.values() if one.coin == tx.coin and one != tx), None)
        if tx.coin in self.mined() or tx.coin >= self.funded:
            raise Refused("its coin is spent, or never was")
        if tx.fee < self.floor or (rival is not None and rival.fee >= tx.fee):
            raise Refused("too cheap")
        if rival is not None:
            del self.mempool[rival.id]
        self.mempool[tx.id] = self.seen[tx.id] = tx

    def mine(self, *, stale: bool = False, empty: bool = False) -> None:
        """`stale`: the miner never heard of replacements, and takes what was seen first."""
        spent, block = set(self.mined()), []
        for tx in () if empty else (*self.seen.values(),) if stale else (*self.mempool.values(),):
            if tx.coin not in spent and (not self.sequential or all(coin in spent for coin in range(tx.coin))):
                block.append(tx)
                spent.add(tx.coin)
        self.blocks.append(block)
        self.mempool = {key: tx for key, tx in self.mempool.items() if tx.coin not in spent}

    def mine_on(self) -> None:
        """Our process was asleep: what miners saw first is final when it wakes."""
        for _ in range(NEED):
            self.mine(stale=True)

    def reorganise(self, depth: int, **how: bool) -> None:
        """Another branch, one longer; never so deep that what was final is undone."""
        depth = min(depth, NEED - 1, len(self.blocks) - 1)
        gone = [self.blocks.pop() for _ in range(depth)]
        for tx in (tx for block in gone for tx in block):
            self.mempool.setdefault(tx.id, tx)
        for _ in range(depth + 1):
            self.mine(**how)

    def stranger(self) -> None:
        """Somebody else with our key spends a coin that one of ours spends: in their miner's pool, not our node's."""
        ours = next(iter(self.mempool.values()), None)
        if ours is not None:
            self.salt += 1
            thief = Tx("", ours.coin, 99, self.salt)
            del self.mempool[ours.id]
            self.mempool[thief.id] = self.seen[thief.id] = thief

    def forget(self) -> None:
        self.mempool.clear()

    def raise_floor(self) -> None:
        self.floor = 4
        self.mempool = {key: tx for key, tx in self.mempool.items() if tx.fee >= self.floor}

    def payments(self, root: str) -> int:
        return sum(tx.root == root for tx, _ in self.mined().values())


@dataclass
class Moment:
    """At the `at`th step of a verb (a call of the node or a write), `what` happens; 0 = never."""

    at: int = 0
    what: str = ""
    count: int = 0

    def __call__(self, network: Network, act: Callable[[], None]) -> None:
        self.count += 1
        what = self.what if self.count == self.at else ""
        if what == "crash before":
            raise Crash
        if what == "full disk":
            raise OSError(errno.ENOSPC, "full")
        if what in WORLD:
            WORLD[what](network)
        act()
        if what == "crash after":
            raise Crash


WORLD: dict[str, Callable[[Network], None]] = {
    "block": Network.mine,
    "stale block": lambda network: network.mine(stale=True),
    "long sleep": Network.mine_on,
    "reorganisation": lambda network: network.reorganise(2),
    "empty reorganisation": lambda network: network.reorganise(2, empty=True),
    "stale reorganisation": lambda network: network.reorganise(1, stale=True),
    "stranger": Network.stranger,
    "forgotten mempool": Network.forget,
    "higher floor": Network.raise_floor,
}
"""What can happen between any two steps."""
FAULTS = (
    *("crash before", "crash after", "down", "silent after it acted", "denied", "denied after it acted", "full disk"),
    *WORLD,
)


class ModelChain:
    """`Chain` over `network`."""

    target = "model:1"
    account = "acct"
    need = NEED

    def __init__(self, network: Network, moment: Moment) -> None:
        self.network = network
        self.moment = moment

    def meet(self) -> None:
        self._do(lambda: None)

    def sign(self, anchor: Anchor) -> Signed:
        out: list[Signed] = []
        self._do(lambda: out.append(self._signed(anchor, self._coin(), self.network.floor)))
        return out[0]

    def send(self, signed: Signed) -> None:
        self._do(lambda: self.network.take(Tx.read(signed.raw)))

    def find(self, signed: Signed, anchor: Anchor) -> Seen | None:
        out: list[Seen | None] = []
        self._do(lambda: out.append(self._found(signed)))
        return out[0]

    def lost(self, signed: Signed) -> bool:
        out: list[bool] = []
        self._do(lambda: out.append(self._lost(Tx.read(signed.raw))))
        return out[0]

    def hurried(self, signed: Signed, anchor: Anchor) -> Signed | None:
        tx = Tx.read(signed.raw)
        fee = max(tx.fee * 2, self.network.floor)
        return None if fee > FEE_CAP else self._signed(anchor, tx.coin, fee)

    def _do(self, act: Callable[[], None]) -> None:
        what = self.moment.what if self.moment.count + 1 == self.moment.at else ""
        if what in ("down", "denied", "full disk"):
            self.moment.count += 1
            raise Denied("401") if what == "denied" else Unreachable("down")
        self.moment(self.network, act)
        if what.endswith("after it acted"):
            raise Unreachable("no answer") if what.startswith("silent") else Denied("401")

    def _signed(self, anchor: Anchor, coin: int, fee: int) -> Signed:
        self.network.salt += 1
        tx = Tx(anchor.root.hex(), coin, fee, self.network.salt)
        return Signed(tx.id, tx.raw, {"fee": fee})

    def _coin(self) -> int:
        used = {*self.network.mined(), *(tx.coin for tx in self.network.mempool.values())}
        return next(coin for coin in range(10_000) if coin not in used)

    def _found(self, signed: Signed) -> Seen | None:
        height = self.network.place(signed.tx)
        if height:
            fork = "".join(tx.id for block in self.network.blocks[: height + 1] for tx in block)
            digest = sha256(f"{height}{fork}".encode()).hexdigest()
            return Seen(self.network.depth(height), height, digest, 1_000 + height)
        return Seen() if signed.tx in self.network.mempool else None

    def _lost(self, tx: Tx) -> bool:
        spender, height = self.network.mined().get(tx.coin, (tx, 0))
        return spender != tx and self.network.depth(height) >= NEED


@contextmanager
def written_by_moment(network: Network, moment: Moment, clock: Callable[[], int]) -> Iterator[None]:
    """Every write of the anchors is a step of `moment`; none waits for the disk."""

    def replace(path: Path, data: bytes, **_: object) -> None:
        moment(network, lambda: _put(path, data))

    def synced(_: Path) -> None:
        moment(network, lambda: None)

    with (
        mock.patch.object(disk, "replace", replace),
        mock.patch.object(disk, "sync_directory", synced),
        mock.patch.object(transact, "now_s", clock),
        mock.patch.object(confirm, "now_s", clock),
    ):
        yield


def _put(path: Path, data: bytes) -> None:
    beside = disk.temporary(path)  # whole or not at all, as the real one: others read without a lock
    beside.write_bytes(data)
    beside.rename(path)
