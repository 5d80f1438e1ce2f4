"""`deploy`: puts the BatchAnchor contract onto a chain, once, and remembers where.

What was signed is on disk before it is sent: a deployment that was interrupted goes on with the same bytes."""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vmsh_scheduler.anchors import disk
from vmsh_scheduler.anchors.chain import Refused, Signed, Unreachable
from vmsh_scheduler.anchors.ethereum import Transaction, address_bytes, checksummed, keccak, rlp, transaction_hash
from vmsh_scheduler.anchors.evm import Evm
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.anchors.failures import Corrupt
from vmsh_scheduler.anchors.rails import open_chain
from vmsh_scheduler.anchors.submission import Book
from vmsh_scheduler.domain.batch import Document, digest_holds, load, render, slug, with_digest
from vmsh_scheduler.errors import ConfigError

BYTECODE = Path(__file__).parent / "contract" / "BatchAnchor.bin"
WAIT_S = 180.0
LOOK_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class Deployment:
    """Of one chain; `done` = its code was seen at `address`."""

    target: str
    sender: str
    nonce: int
    address: str
    tx: str
    raw: str
    block: int = 0
    done: bool = False

    def document(self) -> Document:
        """What is said of it: enough for anchors.yaml."""
        told = {"address": self.address, "tx": self.tx, "block": self.block, "sender": self.sender}
        return {"status": "ok", "target": self.target, **told, "line": f'contract: "{self.address}"'}


def run(facts: Facts) -> Document:
    """The verb: {target, rail, again}. Unreachable when it is in no block yet: the same again goes on."""
    chain = open_chain(facts)
    if not isinstance(chain, Evm):
        raise ConfigError(f"{chain.target} has no contracts", hint="the target must be eip155:<chainId>")
    chain.meet()
    book, path = Book(facts.root / "out", chain.target), _path(facts.root, chain.target)
    with book.signing(chain.account):
        deployment = _sent(chain, path, again=facts.document.get("again") is True)
    return _awaited(chain, path, deployment).document()


def _path(root: Path, target: str) -> Path:
    return root / "out" / "deployments" / f"{slug(target)}.json"


def _sent(chain: Evm, path: Path, *, again: bool) -> Deployment:
    known = _read(path)
    if known is not None and known.done and not again:
        return known
    if known is None or known.done:
        known = _signed(chain)
        _keep(path, known)
    try:
        chain.send(Signed(known.tx, known.raw))
    except Refused:
        path.unlink(missing_ok=True)  # nobody has it: the next one is signed anew
        raise
    return known


def _signed(chain: Evm) -> Deployment:
    code = bytes.fromhex(BYTECODE.read_text().strip())
    fees, gas, nonce = chain.node.fees(chain.caps), chain.gas("", code), chain.node.nonce(chain.account)
    chain.afford(gas * fees.most)
    raw = chain.key.signed(Transaction(chain.chain_id, nonce, fees, gas, "", code))
    address = checksummed("0x" + keccak(rlp([address_bytes(chain.account), nonce]))[-20:].hex())
    return Deployment(chain.target, chain.account, nonce, address, transaction_hash(raw), "0x" + raw.hex())


def _awaited(chain: Evm, path: Path, deployment: Deployment) -> Deployment:
    until = time.monotonic() + WAIT_S
    while not deployment.done:
        receipt = chain.node.receipt(deployment.tx)
        if receipt is not None and receipt.get("blockNumber") is not None:
            deployment = _mined(chain, deployment, receipt)
            _keep(path, deployment)
        elif time.monotonic() > until:
            raise Unreachable(f"{deployment.tx} is in no block yet", hint="say the same again to go on")
        else:
            time.sleep(LOOK_EVERY_S)
    return deployment


def _mined(chain: Evm, deployment: Deployment, receipt: Any) -> Deployment:
    if receipt.get("status") != "0x1" or not chain.node.has_code(deployment.address):
        raise Refused(f"{deployment.tx} was reverted", hint="deploy again with --again")
    return replace(deployment, block=int(receipt["blockNumber"], 16), done=True)


def _keep(path: Path, deployment: Deployment) -> None:
    disk.make_directory(path.parent)
    disk.replace(path, render(with_digest(asdict(deployment))).encode())


def _read(path: Path) -> Deployment | None:
    raw = disk.read_if_there(path, disk.SMALL_LIMIT)
    if raw is None:
        return None
    document = load(raw)
    if isinstance(document, str) or not digest_holds(document):
        raise Corrupt(f"{path} was changed or cut short", hint="restore it, or move it away to deploy anew")
    return Deployment(**{name: value for name, value in document.items() if name != "digest"})
