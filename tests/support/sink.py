"""A callback consumer on a real socket: keeps what was asked byte for byte, answers whatever a test wants."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def reply(status: int = 200, body: bytes = b'{"ok":true}', *more: str) -> bytes:
    head = [f"HTTP/1.1 {status} Some Reason", f"Content-Length: {len(body)}", *more]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


@dataclass(slots=True)
class Asked:
    """One request."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Sink:
    """`answer` is bytes, or a function that writes; the connection stays open after bytes, closes after a function."""

    answer: bytes | Answer = field(default_factory=reply)
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    open: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/cycle"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open.add(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                self.asked.append(await _request(reader))
                if not isinstance(self.answer, bytes):
                    await self.answer(writer)
                    break
                writer.write(self.answer)
        self.open.discard(writer)
        writer.close()


@asynccontextmanager
async def sink(answer: bytes | Answer | None = None) -> AsyncIterator[Sink]:
    made = Sink() if answer is None else Sink(answer)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for writer in list(made.open):
            writer.transport.abort()
        await server.wait_closed()


async def _request(reader: asyncio.StreamReader) -> Asked:
    line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
    headers = dict(text.split(": ", 1) for text in lines)
    return Asked(line, headers, await reader.readexactly(int(headers.get("Content-Length", "0"))))
