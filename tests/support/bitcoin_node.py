"""A real bitcoind on regtest, with a miner's wallet; found by VMSH_TEST_BITCOIND or on PATH."""

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.redis_server import free_port

USER, PASSWORD = "anchor", "canary-of-the-node"
STARTS_WITHIN_S = 60.0
MATURE = 101


def binary() -> str | None:
    return os.environ.get("VMSH_TEST_BITCOIND") or shutil.which("bitcoind")


class Failed(Exception):
    """The node's own error."""


class BitcoinNode:
    """Its mempool is not kept over a restart."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "BitcoinNode":
        exe = binary()
        assert exe is not None
        self.place.mkdir(parents=True, exist_ok=True)
        words = [
            "-regtest",
            f"-datadir={self.place}",
            "-server",
            "-listen=0",
            f"-rpcport={self.port}",
            "-persistmempool=0",
        ]
        words += [f"-rpcuser={USER}", f"-rpcpassword={PASSWORD}", "-fallbackfee=0.0001", "-walletbroadcast=0"]
        words += ["-addresstype=bech32", "-changetype=bech32"]
        with (self.place / "log").open("ab") as log:
            self.process = subprocess.Popen([exe, *words], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        until = time.monotonic() + STARTS_WITHIN_S
        while True:
            with suppress(OSError, Failed, ValueError):
                self.call("getblockchaininfo")
                return self
            assert self.process.poll() is None, (self.place / "log").read_text()
            assert time.monotonic() < until, "bitcoind does not start"
            time.sleep(0.05)

    def fund(self) -> None:
        """A miner's wallet with ripe coins."""
        self.call("createwallet", "miner")
        self.mine(MATURE + 30)

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(STARTS_WITHIN_S)

    def call(self, method: str, *params: Any, wallet: str = "") -> Any:
        url = f"http://127.0.0.1:{self.port}/" + (f"wallet/{wallet}" if wallet else "")
        body = json.dumps({"jsonrpc": "1.0", "id": 1, "method": method, "params": params}).encode()
        pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(url, body, {"Authorization": f"Basic {pair}"})  # our own node
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  # our own node
                return json.load(answer)["result"]
        except urllib.error.HTTPError as error:
            raise Failed(error.read().decode()) from None

    def mine(self, blocks: int = 1) -> None:
        self.call("generatetoaddress", blocks, self.call("getnewaddress", wallet="miner"))

    def mine_empty(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self.call("generateblock", self.call("getnewaddress", wallet="miner"), [])

    def reorganise(self, depth: int, *, empty: bool = True) -> None:
        """Another branch, one longer."""
        self.call("invalidateblock", self.call("getblockhash", self.call("getblockcount") - depth + 1))
        (self.mine_empty if empty else self.mine)(depth + 1)

    def wallet(self, name: str, coins: int = 1, amount: float = 0.01) -> None:
        """Makes it, with so many confirmed coins."""
        self.call("createwallet", name)
        for _ in range(coins):
            self.call("sendrawtransaction", self._gift(self.call("getnewaddress", wallet=name), amount))
        self.mine()

    def watch(self, name: str) -> None:
        """A wallet that sees coins and has no keys."""
        self.call("createwallet", name, True)
        address = self.call("getnewaddress", wallet="miner")
        key = self.call("getaddressinfo", address, wallet="miner")["pubkey"]
        words = self.call("getdescriptorinfo", f"wpkh({key})")["descriptor"]
        self.call("importdescriptors", [{"desc": words, "timestamp": "now"}], wallet=name)
        self.call("sendrawtransaction", self._gift(address, 0.01))
        self.mine()

    def _gift(self, address: str, amount: float) -> str:
        empty = self.call("createrawtransaction", [], [{address: amount}])
        funded = self.call("fundrawtransaction", empty, {"fee_rate": 20}, wallet="miner")["hex"]
        signed: str = self.call("signrawtransactionwithwallet", funded, wallet="miner")["hex"]
        return signed

    def steal(self, name: str, raw: str) -> None:
        """Somebody else with the wallet's key spends what `raw` spends, at a better fee."""
        coins = [{"txid": one["txid"], "vout": one["vout"]} for one in self.call("decoderawtransaction", raw)["vin"]]
        empty = self.call("createrawtransaction", coins, [{self.call("getnewaddress", wallet="miner"): 0.001}])
        funded = self.call("fundrawtransaction", empty, {"fee_rate": 200, "add_inputs": False}, wallet=name)["hex"]
        self.call("sendrawtransaction", self.call("signrawtransactionwithwallet", funded, wallet=name)["hex"])

    def mine_these(self, raws: list[str]) -> None:
        """A miner that never heard of replacements."""
        self.call("generateblock", self.call("getnewaddress", wallet="miner"), raws)

    def forget(self, name: str) -> None:
        """Started anew, without its mempool."""
        self.stop()
        self.start()
        for wallet in ("miner", name):
            self.call("loadwallet", wallet)

    def sweep(self, name: str) -> None:
        self.call("sendall", [self.call("getnewaddress", wallet="miner")], None, "unset", 20, wallet=name)

    def payments(self, name: str, root: bytes) -> int:
        """Transactions of the active chain that say this root."""
        listed = self.call("listtransactions", "*", 1000, 0, wallet=name)
        mined = {one["txid"] for one in listed if one["confirmations"] > 0}
        return sum(f"6a225256{root.hex()}" in self.call("gettransaction", tx, wallet=name)["hex"] for tx in mined)
