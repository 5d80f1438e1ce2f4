"""An OpenTimestamps calendar of ours, and block headers behind JSON-RPC, as far as a proof needs a bitcoind.

Both speak the real protocols: the official client stamps at the one and verifies against the other. The trees are built
with the library `opentimestamps`, not with our own code."""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentimestamps.core.notary import (  # type: ignore[import-untyped]  # it has no types
    BitcoinBlockHeaderAttestation,
    PendingAttestation,
)
from opentimestamps.core.op import OpAppend, OpPrepend, OpSHA256  # type: ignore[import-untyped]  # as above
from opentimestamps.core.serialize import BytesSerializationContext  # type: ignore[import-untyped]  # as above
from opentimestamps.core.timestamp import Timestamp, make_merkle_tree  # type: ignore[import-untyped]  # as above

TYPE = "application/vnd.opentimestamps.v1"
FIRST_TS = 1_700_000_000
SPACING_S = 600


@dataclass
class Headers:
    """A chain of real 80-byte headers without work in them; height 0 is its first."""

    chain: str = "regtest"
    headers: list[bytes] = field(default_factory=list)
    url: str = ""
    asked: list[str] = field(default_factory=list)
    failing: bool = False

    def __post_init__(self) -> None:
        self.mine(bytes(32))

    def mine(self, merkle_root: bytes, *, salt: int = 0) -> int:
        """Height of the new block."""
        before = self.digest(len(self.headers) - 1) if self.headers else bytes(32)
        ts = FIRST_TS + SPACING_S * len(self.headers)
        fields = (ts.to_bytes(4, "little"), (0x207FFFFF).to_bytes(4, "little"), salt.to_bytes(4, "little"))
        self.headers.append(b"\0\0\0\x20" + before + merkle_root + b"".join(fields))
        return len(self.headers) - 1

    def bury(self, blocks: int) -> None:
        for number in range(blocks):
            self.mine(sha256(b"empty %d" % number).digest())

    def reorganise(self, height: int) -> None:
        """From `height` on there are other blocks, one more than there were."""
        gone = len(self.headers) - height
        del self.headers[height:]
        for number in range(gone + 1):
            self.mine(sha256(b"other %d" % number).digest(), salt=1)

    def digest(self, height: int) -> bytes:
        return sha256(sha256(self.headers[height]).digest()).digest()

    def answer(self, method: str, params: list[Any]) -> Any:
        """Raises KeyError with bitcoind's number for what is not there."""
        self.asked.append(method)
        match method:
            case "getblockchaininfo":
                return {"chain": self.chain, "blocks": len(self.headers) - 1}
            case "getblockcount":
                return len(self.headers) - 1
            case "getblockhash":
                if not 0 <= params[0] < len(self.headers):
                    raise KeyError(-8)
                return self.digest(params[0])[::-1].hex()
            case "getblockheader":
                return self._header(params[0], verbose=params[1:] != [False])
            case _:
                raise KeyError(-32601)

    def _header(self, digest: str, *, verbose: bool) -> Any:
        heights = {self.digest(height)[::-1].hex(): height for height in range(len(self.headers))}
        if digest not in heights:
            raise KeyError(-5)
        height = heights[digest]
        header = self.headers[height]
        if not verbose:
            return header.hex()
        root, ts = header[36:68][::-1].hex(), int.from_bytes(header[68:72], "little")
        depth = len(self.headers) - height
        return {"hash": digest, "height": height, "merkleroot": root, "time": ts, "confirmations": depth}


@dataclass
class Calendar:
    """`say` gives the body, or what else happens, in place of the proper answer to a digest or a question."""

    uri: str = ""
    digests: list[bytes] = field(default_factory=list)
    asked: list[bytes] = field(default_factory=list)
    waiting: dict[bytes, Timestamp] = field(default_factory=dict)
    done: dict[bytes, Timestamp] = field(default_factory=dict)
    promises: str = ""
    """URI in its answers; "" = its own."""
    on_digest: "Callable[[BaseHTTPRequestHandler], None] | None" = None
    on_question: "Callable[[BaseHTTPRequestHandler], None] | None" = None

    def take(self, digest: bytes) -> bytes:
        self.digests.append(digest)
        timestamp = Timestamp(digest)
        promised = timestamp.ops.add(OpAppend(os.urandom(16))).ops.add(OpSHA256())
        promised.attestations.add(PendingAttestation(self.promises or self.uri))
        self.waiting[promised.msg] = Timestamp(promised.msg)
        return rendered(timestamp)

    def anchor(self, headers: Headers, *, merkle_root: bytes = b"") -> int:
        """All that waits goes into one block, whose height is given; `merkle_root`: the block has this one instead."""
        commitments = [self.waiting.pop(key) for key in sorted(self.waiting)]
        tip = make_merkle_tree(commitments)
        transaction = tip.ops.add(OpPrepend(b"a transaction, ")).ops.add(OpAppend(b", of one output"))
        root = transaction.ops.add(OpSHA256()).ops.add(OpSHA256())
        height = headers.mine(merkle_root or root.msg)
        root.attestations.add(BitcoinBlockHeaderAttestation(height))
        self.done |= {each.msg: each for each in commitments}
        return height


def rendered(timestamp: Timestamp) -> bytes:
    context = BytesSerializationContext()
    timestamp.serialize(context)
    written: bytes = context.getbytes()
    return written


@contextmanager
def calendars(count: int) -> Iterator[list[Calendar]]:
    with ExitStack() as stack:
        yield [stack.enter_context(calendar()) for _ in range(count)]


@contextmanager
def calendar() -> Iterator[Calendar]:
    one = Calendar()
    with _served(_CalendarHandler, one) as url:
        one.uri = url
        yield one


@contextmanager
def header_node(chain: str = "regtest") -> Iterator[Headers]:
    one = Headers(chain)
    with _served(_NodeHandler, one) as url:
        one.url = url
        yield one


def dead_url() -> str:
    """Nobody listens there."""
    with _served(_NodeHandler, None) as url:
        return url


def says(status: int, body: bytes = b"", **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """For `on_digest` and `on_question`."""
    return lambda handler: send(handler, status, body, headers)


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
    handler.send_response(status)
    for name, value in {"Content-Type": TYPE, "Content-Length": str(len(body)), **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler], about: Any) -> None:
        self.about = about
        super().__init__(("127.0.0.1", 0), handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that were cut off or killed: expected here."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""

    def read(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))


class _CalendarHandler(_Handler):
    def do_POST(self) -> None:
        about: Calendar = self.server.about
        digest = self.read()
        if about.on_digest:
            about.on_digest(self)
        elif self.path == "/digest" and 0 < len(digest) <= 64:
            send(self, 200, about.take(digest))
        else:
            send(self, 400, b"digest too long")

    def do_GET(self) -> None:
        about: Calendar = self.server.about
        commitment = bytes.fromhex(self.path.rpartition("/")[2])
        about.asked.append(commitment)
        if about.on_question:
            about.on_question(self)
        elif commitment in about.done:
            send(self, 200, rendered(about.done[commitment]))
        elif commitment in about.waiting:
            send(self, 404, b"Pending confirmation in Bitcoin blockchain")
        else:
            send(self, 404, b"Commitment not found")


class _NodeHandler(_Handler):
    def do_POST(self) -> None:
        about: Headers = self.server.about
        question = json.loads(self.read())
        if about.failing:
            send(self, 503, b"Work queue depth exceeded")
            return
        answer: dict[str, Any] = {"result": None, "error": None, "id": question["id"]}
        try:
            answer["result"] = about.answer(question["method"], question["params"])
        except KeyError as error:
            answer["error"] = {"code": error.args[0], "message": "not here"}
        send(self, 500 if answer["error"] else 200, json.dumps(answer).encode())


@contextmanager
def _served(handler: type[BaseHTTPRequestHandler], about: Any) -> Iterator[str]:
    with _Server(handler, about) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
