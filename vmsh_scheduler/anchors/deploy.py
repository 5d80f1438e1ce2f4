"""`deploy`: puts the BatchAnchor contract onto a chain, once, and remembers where.

What was signed is on disk before it is sent: a deployment that was interrupted goes on with the same bytes."""

import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from vmsh_scheduler.anchors import disk
from vmsh_scheduler.anchors.chain import Refused, Signed, Unreachable
from vmsh_scheduler.anchors.ethereum import Transaction, address_bytes, checksummed, keccak, rlp, transaction_hash
from vmsh_scheduler.anchors.evm import Evm, chain_of
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.anchors.failures import Corrupt
from vmsh_scheduler.anchors.rail_entry import evm_rail
from vmsh_scheduler.anchors.submission import Book
from vmsh_scheduler.domain.batch import Document, digest_holds, load, render, slug, with_digest
from vmsh_scheduler.errors import Usage

BYTECODE = Path(__file__).parent / "contract" / "BatchAnchor.bin"
WAIT_S = 180.0
LOOK_EVERY_S = 0.25
_RESTORE = "restore it, or move it away to deploy anew"


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
    """The verb: {target, rail, again, off}; `off` names the setting by which nothing may be written to chains.
    Unreachable when it is in no block yet: the same again goes on."""
    off = facts.text("off") or ("env ANCHOR_WRITE_ENABLED" if facts.write_off else "")
    if off:
        told = f"nothing may be written to chains: anchor_write_enabled is off ({off})"
        raise Usage(told, hint="turn it on to deploy; nothing was signed")
    chain = chain_of(facts, evm_rail(facts))
    chain.meet()
    book, path = Book(facts.root / "out", chain.target), _path(facts.root, chain.target)
    with book.signing():
        deployment = _sent(chain, path, again=facts.document.get("again") is True)
    return _awaited(chain, path, deployment).document()


def _path(root: Path, target: str) -> Path:
    return root / "out" / "deployments" / f"{slug(target)}.json"


def _sent(chain: Evm, path: Path, *, again: bool) -> Deployment:
    before = _read(path)
    if before is not None and before.done and not again:
        return before
    if before is not None and not before.done:
        return _sent_again(chain, path, before)
    fresh = _signed(chain)
    _keep(path, fresh)
    try:
        chain.send(Signed(fresh.tx, fresh.raw))
    except Refused:
        if not chain.knows(fresh.tx):
            _forget(path, before)  # nobody has it: the next one is signed anew
            raise
    return fresh


def _sent_again(chain: Evm, path: Path, known: Deployment) -> Deployment:
    """Refused now, it may have been taken then: another one is signed only once this one never can be mined."""
    try:
        chain.send(Signed(known.tx, known.raw))
    except Refused as error:
        if chain.knows(known.tx):
            return known
        if known.sender == chain.account and chain.lost(Signed(known.tx, known.raw, {"nonce": known.nonce})):
            path.unlink(missing_ok=True)
            raise
        error.hint = (
            f"{known.tx} may be mined yet, so no other is signed: say the same again later, or move {path} away"
        )
        raise
    return known


def _forget(path: Path, before: Deployment | None) -> None:
    if before is None:
        path.unlink(missing_ok=True)
    else:
        _keep(path, before)


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
            deployment = _mined(chain, path, deployment, receipt)
            _keep(path, deployment)
        elif time.monotonic() > until:
            raise Unreachable(f"{deployment.tx} is in no block yet", hint="say the same again to go on")
        else:
            time.sleep(LOOK_EVERY_S)
    return deployment


def _mined(chain: Evm, path: Path, deployment: Deployment, receipt: Any) -> Deployment:
    if receipt.get("status") != "0x1":
        path.unlink(missing_ok=True)  # it made nothing: the next one is signed anew
        raise Refused(f"{deployment.tx} was reverted", hint="say the same again: another one is signed, and paid for")
    if not chain.node.has_code(deployment.address):
        told = f"{deployment.tx} is in a block, and {chain.node.rpc.where} has no code at {deployment.address}"
        raise Unreachable(told, hint="say the same again to go on")
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
        raise Corrupt(f"{path} was changed or cut short", hint=_RESTORE)
    try:
        found = Deployment(**{name: value for name, value in document.items() if name != "digest"})
    except TypeError as error:
        raise Corrupt(f"{path} is of another format: {error}", hint=_RESTORE) from None
    for each in fields(found):
        if type(getattr(found, each.name)) is not each.type:
            raise Corrupt(f"{path} is of another format: {each.name}", hint=_RESTORE)
    return found
