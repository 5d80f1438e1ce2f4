"""A site whose batches go onto an EVM chain: facts of a run, its key in the environment, what the chain has then."""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.evm import ETHER, Node, ask, send, transactions
from tests.support.rpc_door import Door
from tests.support.site import Answer, Site
from vmsh_scheduler.anchors.deploy import BYTECODE
from vmsh_scheduler.anchors.ethereum import Key, checksummed, keccak, rlp
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.anchors.online import Online
from vmsh_scheduler.anchors.report import Report
from vmsh_scheduler.anchors.verify import verify

Document = dict[str, Any]


def deployed(node: Node, code: bytes | None = None, *, by: str = "deployer") -> str:
    """Address of the shipped contract, or of one with this init code."""
    key = a_key(by)
    node.fund(key.address, ETHER)
    nonce = transactions(node, key.address)
    send(node, key, "", bytes.fromhex(BYTECODE.read_text()) if code is None else code, nonce=nonce)
    return checksummed("0x" + keccak(rlp([bytes.fromhex(key.address[2:]), nonce]))[-20:].hex())


def secret_of(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def a_key(name: str) -> Key:
    return Key(secret_of(name))


@dataclass
class Paying:
    """`account` has one ether; `entry` is what anchors.yaml says."""

    site: Site
    node: Node
    door: Door
    secret: bytes
    entry: Document = field(default_factory=dict)
    target: str = ""

    def __post_init__(self) -> None:
        self.target = self.target or f"eip155:{self.node.chain_id}"
        self.entry = {"rpcUrl": self.door.url, "key": "${EVM_KEY}", "confirmations": 3, **self.entry}

    @property
    def account(self) -> str:
        return Key(self.secret).address

    @property
    def environ(self) -> dict[str, str]:
        return {"EVM_KEY": "0x" + self.secret.hex()}

    def request(self, batch: Document, **more: Any) -> Document:
        about = {"target": self.target, "rail": self.entry, "railName": "default", "waitS": "0"}
        return self.site.request(batch, **{**about, **more})

    def anchor(self, batch: Document, **more: Any) -> Answer:
        return self.site.ask("evm", self.request(batch, **more), self.environ)

    def probe(self, batch: Document) -> Answer:
        return self.site.ask("probe", self.request(batch), self.environ)

    def confirm(self) -> Answer:
        return self.site.ask("confirm", self.request({}), self.environ)

    def start(self, batch: Document) -> "subprocess.Popen[bytes]":
        """As a process of its own."""
        argv = [sys.executable, "-P", "-m", "vmsh_scheduler.anchors", "evm"]
        pipe = subprocess.PIPE
        process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, env=self.environ)
        assert process.stdin
        process.stdin.write(json.dumps({"root": str(self.site.root), **self.request(batch)}).encode())
        process.stdin.close()
        process.stdin = None
        return process

    def phase(self, batch: Document) -> str:
        return str(self.submission(batch)["phase"])

    def submission(self, batch: Document) -> Document:
        place = f"out/submissions/{self.target.replace(':', '-')}/{batch['id']}.json"
        return self.site.read(place)

    def receipt(self, batch: Document) -> Document:
        return self.site.read(f"out/receipts/batches/{batch['id']}.json")

    def receipt_path(self, batch: Document) -> Path:
        return self.site.out / "receipts/batches" / f"{batch['id']}.json"

    def paid(self) -> int:
        """How many of the account's transactions stand in the chain."""
        return transactions(self.node, self.account)

    def online(self, what: str = "all") -> Report:
        def asked(target: str) -> Facts | None:
            told = {"target": target, "rail": self.entry, "railName": "default", "root": str(self.site.root)}
            return Facts(told) if target == self.target else None

        return verify(self.site.root, what, Online(asked))

    def mined(self, tx: str) -> bool:
        receipt = ask(self.node, "eth_getTransactionReceipt", tx)
        return receipt is not None and receipt["blockNumber"] is not None
