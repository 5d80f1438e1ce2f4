"""Consumer of callbacks and market upstream: as little as HTTP takes, and each arrival noted.

POST /after/MS is answered after MS milliseconds, any other at once. GET /marks: the arrivals so far, as lines of
time in ns, agent, slot and attempt. GET /sample: headers and body of the last POST, as JSON.
"""

import asyncio
import json
import signal
import time
from urllib.parse import urlsplit

MARKET = {
    "/info/price": {"price": 0.12},
    "/info/blockdag": {"networkName": "kaspa-mainnet", "virtualDaaScore": "98765"},
}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}"

marks: list[tuple[int, str]] = []
"""Arrival and idempotency key with attempt; taken apart only when somebody asks."""
sample: dict[str, object] = {}


class Connection(asyncio.Protocol):
    """HTTP/1.1 with Content-Length, one request after the other; nothing is refused."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]  # what a server gives
        self.waiting = b""

    def data_received(self, data: bytes) -> None:
        at = time.time_ns()
        self.waiting += data
        while (end := self.waiting.find(b"\r\n\r\n")) >= 0:
            first, *lines = self.waiting[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            whole = end + 4 + int(headers.get("content-length", 0))
            if len(self.waiting) < whole:
                return
            body, self.waiting = self.waiting[end + 4 : whole], self.waiting[whole:]
            self.answer(*first.split(" ")[:2], headers, body, at=at)

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes, *, at: int) -> None:
        path = urlsplit(target).path
        if method != "POST":
            self.reply(self.known(path))
            return
        marks.append((at, f"{headers.get('x-forgeos-idempotency-key', '')} {headers.get('x-forgeos-attempt', '')}"))
        sample.update(headers=headers, body=body.decode())
        if path.startswith("/after/"):
            asyncio.get_running_loop().call_later(int(path.split("/")[2]) / 1000, self.transport.write, OK)
        else:
            self.transport.write(OK)

    def known(self, path: str) -> bytes:
        if path == "/marks":
            return "\n".join(line(at, key) for at, key in marks).encode()
        if path == "/sample":
            return json.dumps(sample).encode()
        return json.dumps(MARKET.get(path, {"balance": 250_000_000})).encode()

    def reply(self, body: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nContent-Type: application/json\r\n\r\n"
        self.transport.write(head.encode() + body)


def line(at: int, key: str) -> str:
    """`forgeos.scheduler:user:agent:slot:task attempt`; the bench's ids hold no colon."""
    parts, _, attempt = key.rpartition(" ")
    agent, slot = (parts.split(":") + [""] * 5)[2:4]
    return f"{at} {agent or '-'} {slot or 0} {attempt or 0}"


async def main() -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=1024)
    print("ready", server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()


asyncio.run(main())
