"""The bounds of the API's listener, short ones, over real sockets: heads, bodies, readers, places."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.integration.children.stage import eventually_async
from tests.support.http import Reply
from vmsh_scheduler.api import listener as api_listener
from vmsh_scheduler.api.auth import Authenticator
from vmsh_scheduler.api.listener import ApiListener, ListenerLimits
from vmsh_scheduler.api.principal import AuthSettings
from vmsh_scheduler.api.quota import Quotas
from vmsh_scheduler.api.surface import Access, Audited, Call, Route, Surface, Tally, Text

PATIENCE_S = 60.0
LONG_S = 60.0
GET = b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n"
HALF = b"GET /x HTTP/1.1\r\nHost: loc"
POST = b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"


async def small(_: Call) -> Text:
    return Text(b"ok", "text/plain")


async def large(_: Call) -> Text:
    return Text(b"x" * 20_000_000, "text/plain")


@contextlib.asynccontextmanager
async def listening(
    tally: Tally | None = None, *, audited: list[Audited] | None = None, body_s: float = LONG_S, **limits: Any
) -> AsyncIterator[ApiListener]:
    routes = (Route("GET", "/x", small), Route("GET", "/large", large), Route("POST", "/x", small, verb="change"))
    settings = AuthSettings()
    access = Access(settings, Authenticator(settings, None, lambda: 0), Quotas(1, {}, lambda: 0), frozenset({"*"}))
    surface = Surface(
        routes, access, tally or Tally(), audit=audited.append if audited is not None else None, body_s=body_s
    )
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    listener = await ApiListener(surface, sock, ListenerLimits(**limits)).start()
    try:
        yield listener
    finally:
        await listener.close(grace_s=0.1)


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self) -> Reply:
        """To the end of a short answer."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            size = int(Reply(head).headers["content-length"])
            return Reply(head + await self.reader.readexactly(size))

    async def rest(self) -> bytes:
        """Up to the end or a reset."""
        found = bytearray()
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
                while part := await self.reader.read(65536):
                    found += part
        return bytes(found)


@contextlib.asynccontextmanager
async def connected(listener: ApiListener) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection("127.0.0.1", listener.port, limit=1024))
    try:
        yield client
    finally:
        client.writer.transport.abort()


@pytest.mark.parametrize("data", [b"", HALF])
async def test_a_head_that_does_not_come_ends_the_connection(data: bytes) -> None:
    async with listening(head_s=0.3, keepalive_s=LONG_S) as listener, connected(listener) as client:
        await client.send(data)
        assert await client.rest() == b""


async def test_a_head_that_trickles_ends_too() -> None:
    async with listening(head_s=0.3, keepalive_s=LONG_S) as listener, connected(listener) as client:
        ended = asyncio.ensure_future(client.rest())
        with contextlib.suppress(ConnectionError):
            for byte in b"GET /x HTTP/1.1\r\nX: " + b"x" * 300:
                await client.send(bytes([byte]))
                if (await asyncio.wait([ended], timeout=0.02))[0]:
                    break
        assert ended.done()
        assert await ended == b""


async def test_who_keeps_asking_is_kept() -> None:
    """Each pause is shorter than the limit, all of them together far longer."""
    async with listening(head_s=0.8, keepalive_s=LONG_S) as listener, connected(listener) as client:
        for _ in range(20):
            await client.send(GET)
            assert (await client.reply()).status == 200
            await asyncio.sleep(0.08)


async def test_a_body_that_does_not_come_is_408() -> None:
    async with listening(body_s=0.2, linger_s=0.1) as listener, connected(listener) as client:
        await client.send(POST + b"half")
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"]) == (408, "close")
        assert await client.rest() == b""


async def test_a_reader_that_does_not_read_is_cut_off() -> None:
    async with listening(head_s=0.3) as listener, connected(listener) as client:
        await client.send(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await eventually_async(lambda: listener.connections == 1, PATIENCE_S)
        await eventually_async(lambda: listener.connections == 0, PATIENCE_S)
        assert len(await client.rest()) < 20_000_000


async def test_the_longest_wait_makes_room() -> None:
    async with (
        listening(connections=3, head_s=LONG_S, keepalive_s=LONG_S) as listener,
        contextlib.AsyncExitStack() as stack,
    ):
        first, second, third = [await stack.enter_async_context(connected(listener)) for _ in range(3)]
        await first.send(GET)
        assert (await first.reply()).status == 200
        newcomer = await stack.enter_async_context(connected(listener))
        assert await second.rest() == b""
        for client in (first, third, newcomer):
            await client.send(GET)
            assert (await client.reply()).status == 200


async def burst() -> bytes:
    """What a good client gets in the middle of many that are in the kernel's queue before the loop looks once."""
    limits = {"connections": 128, "head_s": LONG_S, "keepalive_s": LONG_S}
    async with listening(**limits) as listener, contextlib.AsyncExitStack() as stack:

        def join(data: bytes) -> socket.socket:
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", listener.port), timeout=PATIENCE_S))
            sock.sendall(data)
            sock.setblocking(False)
            return sock

        for _ in range(100):
            join(HALF)
        good = join(GET)
        for _ in range(300):
            join(HALF)
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionError):
                return await asyncio.get_running_loop().sock_recv(good, 65536)
        return b""


async def test_a_burst_puts_out_no_client_whose_request_has_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await burst()).startswith(b"HTTP/1.1 200 ")
    monkeypatch.setattr(api_listener, "ACCEPTED_AT_ONCE", 1_000)  # as asyncio does it by itself
    assert await burst() == b""


async def test_full_of_requests_under_way_refuses_the_newcomer() -> None:
    """Nobody who is being served is put out for somebody who has said nothing yet."""
    async with listening(connections=2, body_s=LONG_S) as listener, contextlib.AsyncExitStack() as stack:
        busy = [await stack.enter_async_context(connected(listener)) for _ in range(2)]
        for client in busy:
            await client.send(POST)
        await eventually_async(lambda: listener.idle == 0, PATIENCE_S)
        newcomer = await stack.enter_async_context(connected(listener))
        assert await newcomer.rest() == b""
        for client in busy:
            await client.send(b"0123456789")
            assert (await client.reply()).status == 200


async def test_what_is_no_http_is_counted_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally()
    async with listening(tally) as listener, connected(listener) as client:
        await client.send(b"\x00canary\r\n\r\n")
        assert b'{"error":{"message":"bad_request"}}' in await client.rest()
    assert tally.answers == {("other", 400): 1}
    assert caplog.records == []


async def test_it_closes_while_clients_wait() -> None:
    async with listening() as listener, connected(listener) as client:
        await client.send(HALF)
        await eventually_async(lambda: listener.connections == 1, PATIENCE_S)
        async with asyncio.timeout(PATIENCE_S):
            await listener.close(grace_s=0.1)
        assert await client.rest() == b""


async def test_who_leaves_before_the_answer_is_in_the_audit_log() -> None:
    audited: list[Audited] = []
    async with listening(audited=audited) as listener:
        async with connected(listener) as client:
            await client.send(POST + b"half")
            await eventually_async(lambda: listener.connections == 1 and listener.idle == 0, PATIENCE_S)
        await eventually_async(lambda: audited, PATIENCE_S)
    assert [(call.who, call.verb, call.peer, call.status) for call in audited] == [
        ("anonymous", "change", "127.0.0.1", 0)
    ]
