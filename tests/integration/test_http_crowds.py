"""Nobody can hold the metrics listener up: half-open connections, bursts, slow readers (H1, H8)."""

import asyncio
import errno
import os
import resource
import socket
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import pytest

from tests.integration.children.stage import eventually_async
from tests.support.http import HALF, WHOLE, Reply, more_descriptors
from tests.support.probes import Told
from vmsh_scheduler.api import acceptor
from vmsh_scheduler.api.gate import Gate, Limits
from vmsh_scheduler.api.server import Address, Listener, listen_metrics

SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
PATIENCE_S = 60.0

Open = Callable[..., Awaitable[Listener]]


@pytest.fixture
def probes() -> Told:
    return Told()


@pytest.fixture
async def listen(probes: Told) -> AsyncIterator[Open]:
    """A listener with limits of the test's own."""
    async with AsyncExitStack() as stack:

        async def opened(**limits: float | None) -> Listener:
            listener = await listen_metrics(Address(port=0), probes, Limits(**limits))  # type: ignore[arg-type] # by name
            stack.push_async_callback(listener.close)
            return listener

        yield opened


class Crowd:
    """Plain sockets that are connected at once and closed at the end."""

    def __init__(self) -> None:
        self.socks: list[socket.socket] = []

    def join(self, port: int, data: bytes) -> socket.socket:
        """The kernel takes the connection and the bytes: the loop has seen nothing of it when this returns."""
        sock = socket.socket()
        self.socks.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        sock.send(data)
        return sock


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    """With room for both ends of each, where 1,024 descriptors are the usual limit."""
    made, limits = Crowd(), resource.getrlimit(resource.RLIMIT_NOFILE)
    more_descriptors(4_096)
    yield made
    for sock in made.socks:
        sock.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def answer(sock: socket.socket, *, pause_s: float = 0) -> Reply:
    """All that comes, up to the end or a reset; `pause_s`: how slow the reader is."""
    loop = asyncio.get_running_loop()
    parts = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            while part := await loop.sock_recv(sock, 65536):
                parts.append(part)
                await asyncio.sleep(pause_s)
    except ConnectionError:
        pass
    return Reply(b"".join(parts))


def ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


async def test_h1_the_oldest_half_open_connection_makes_room(listen: Open, crowd: Crowd) -> None:
    listener = await listen(connections=20, head_s=60.0)
    bad = [crowd.join(listener.port, HALF) for _ in range(50)]
    assert (await answer(crowd.join(listener.port, WHOLE))).status == 200
    await eventually_async(lambda: [ended(sock) for sock in bad] == [True] * 31 + [False] * 19, PATIENCE_S)


async def test_h1_a_head_that_does_not_come_is_408(listen: Open, crowd: Crowd) -> None:
    listener = await listen(head_s=0.2)
    for data in (b"", HALF):
        reply = await answer(crowd.join(listener.port, data))
        assert (reply.status, reply.headers["connection"]) == (408, "close")


def burst(listener: Listener, crowd: Crowd) -> socket.socket:
    """A good client in the middle of many that come before the loop has looked once."""
    for _ in range(100):
        crowd.join(listener.port, HALF)
    good = crowd.join(listener.port, WHOLE)
    for _ in range(300):
        crowd.join(listener.port, HALF)
    return good


async def test_h1_a_burst_puts_out_no_client_whose_request_has_arrived(
    listen: Open, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = await listen(connections=128, head_s=60.0)
    assert (await answer(burst(listener, crowd))).status == 200
    monkeypatch.setattr(acceptor, "ACCEPTED_AT_ONCE", 1_000)  # as a plain accept loop does it
    assert (await answer(burst(listener, crowd))).status == 0


async def test_h1_who_was_refused_and_stays_makes_room(listen: Open, crowd: Crowd) -> None:
    listener = await listen(connections=8)
    bad = [crowd.join(listener.port, b"nonsense\r\n\r\n") for _ in range(8)]
    for sock in bad:
        await began(sock)
    assert (await answer(crowd.join(listener.port, WHOLE))).status == 200


async def test_h1_full_of_exchanges_refuses_the_newcomer(listen: Open, probes: Told, crowd: Crowd) -> None:
    """Nobody is half-open, and nobody has had the time that is due to an exchange."""
    probes.text = b"x" * 20_000_000
    listener = await listen(connections=1, spared_s=60.0, exchange_s=60.0)
    slow = crowd.join(listener.port, SCRAPE)
    await began(slow)
    assert (await answer(crowd.join(listener.port, WHOLE))).status == 0
    assert not ended(slow)


async def test_h8_slow_readers_make_room(listen: Open, probes: Told, crowd: Crowd) -> None:
    probes.text = b"x" * 20_000_000
    listener = await listen(connections=4, spared_s=0.0, exchange_s=60.0)
    slow = [crowd.join(listener.port, SCRAPE) for _ in range(4)]
    for sock in slow:
        await began(sock)
    assert (await answer(crowd.join(listener.port, WHOLE))).status == 200
    assert not any(ended(sock) for sock in slow[1:])


def test_h8_what_a_person_waits_for_is_never_put_out() -> None:
    """The control socket: an exchange takes as long as it takes."""

    class Peer:
        def drop(self) -> None:
            raise AssertionError

    gate = Gate(Limits(connections=1, exchange_s=None))
    first, answering = Peer(), Peer()
    assert gate.enter(first, 0.0)
    gate.owe(first, answering, 0.0)
    assert not gate.enter(Peer(), 3600.0)
    gate.leave(answering)
    assert gate.enter(Peer(), 3600.0)


async def began(sock: socket.socket) -> None:
    await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1), PATIENCE_S)


async def kept_per_reader(port: int, crowd: Crowd, count: int) -> float:
    """Bytes that this process keeps for each of `count` clients that wait for megabytes and read nothing."""
    tracemalloc.start()
    try:
        readers = [crowd.join(port, SCRAPE) for _ in range(count)]
        for sock in readers:
            await began(sock)
        return tracemalloc.get_traced_memory()[0] / count
    finally:
        tracemalloc.stop()


async def test_h8_slow_readers_cost_little_memory(listen: Open, probes: Told, crowd: Crowd) -> None:
    """256 clients want 4 MB each: a gigabyte if each had its own copy waiting."""
    probes.text = b"x" * 4_000_000
    listener = await listen(exchange_s=60.0, spared_s=60.0)
    assert await kept_per_reader(listener.port, crowd, 256) < 32_000


async def test_h8_slow_readers_are_cut_off(listen: Open, probes: Told, crowd: Crowd) -> None:
    probes.text = b"x" * 4_000_000
    listener = await listen(exchange_s=0.2)
    # A reset is seen behind what the kernel holds for the reader already.
    assert len((await answer(crowd.join(listener.port, SCRAPE), pause_s=0.1)).raw) < 4_000_000
    probes.text = b"metric 1\n"
    assert (await answer(crowd.join(listener.port, SCRAPE))).body == probes.text


class Whole(asyncio.Protocol):
    """A server as it is written at first: everybody gets a copy of everything at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.lost = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"%b" % (b"x" * 4_000_000))


async def test_h8_bites_who_hands_the_whole_answer_over(crowd: Crowd) -> None:
    served: list[Whole] = []

    def serve() -> Whole:
        served.append(Whole())
        return served[-1]

    async with await asyncio.get_running_loop().create_server(serve, "127.0.0.1", 0) as naive:
        assert await kept_per_reader(naive.sockets[0].getsockname()[1], crowd, 16) > 500_000
        for connection in served:
            connection.transport.abort()
            await connection.lost.wait()


class Exhausted(socket.socket):
    """A listening socket that finds no descriptor free the first times."""

    left = 3

    def accept(self) -> tuple[socket.socket, object]:
        if self.left:
            self.left -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


async def test_without_descriptors_newcomers_wait_until_there_are_some(probes: Told, crowd: Crowd) -> None:
    sock = Exhausted()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    sock.setblocking(False)
    listener = await listen_metrics(Address(port=0), probes, sock=sock)
    assert (await answer(crowd.join(listener.port, WHOLE))).status == 200
    await listener.close()
    assert sock.left == 0
