"""Block headers from a bitcoind: all that an OpenTimestamps proof needs to be checked by."""

from dataclasses import dataclass
from typing import Any

from vmsh_scheduler.anchors.btc_errors import BAD_PARAMETER, NETWORKS
from vmsh_scheduler.anchors.chain import Seen
from vmsh_scheduler.anchors.ots_proof import InBlock
from vmsh_scheduler.anchors.rpc import NotRpc, Rpc, RpcError, block_time
from vmsh_scheduler.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Headers:
    """Of one node, on one network."""

    rpc: Rpc
    network: str

    def meet(self) -> None:
        """ConfigError unless the node is on that network."""
        answer = self.rpc.call("getblockchaininfo")
        chain = answer.get("chain") if isinstance(answer, dict) else None
        found = NETWORKS.get(str(chain), str(chain))
        if found != self.network:
            raise ConfigError(
                f"{self.rpc.where} is on {found}, not on {self.network}", hint="see `btc` of the rail in anchors.yaml"
            )

    def judge(self, claim: InBlock) -> Seen | None:
        """None: the node has no block of that height yet. `fault`: the block's merkle root is another."""
        try:
            digest = self.rpc.call("getblockhash", claim.height)
        except RpcError as error:
            if error.number == BAD_PARAMETER:  # "out of range"
                return None
            raise
        header = self.rpc.call("getblockheader", digest)
        root, depth, ts = (_of(header, name, kind) for name, kind in _FIELDS)
        ts = block_time(self.rpc.where, ts)
        if root != claim.merkle_root:
            said = "that block has another merkle root than the proof leads to"
            return Seen(depth=max(1, depth), block=claim.height, block_hash=str(digest), ts=ts, fault=said)
        return Seen(depth=max(0, depth), block=claim.height, block_hash=str(digest), ts=ts)


_FIELDS: tuple[tuple[str, type], ...] = (("merkleroot", str), ("confirmations", int), ("time", int))


def _of(header: Any, name: str, kind: type) -> Any:
    value = header.get(name) if isinstance(header, dict) else None
    if type(value) is not kind:
        raise NotRpc(f"the node's block header has no {name}")
    return value
