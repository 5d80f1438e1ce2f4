"""Names that take for ever to look up: how many threads they hold, and what becomes of everybody else."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.callbacks import Desks, many_desks, until
from tests.support.sink import sink
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.run import Status
from vmsh_scheduler.net.calls import CallFailed
from vmsh_scheduler.net.client import HttpClient
from vmsh_scheduler.net.resolver import THREADS, BoundedResolver, Infos, LookupsStuck, look_up

PATIENCE_S = 60.0


class Library:
    """getaddrinfo that does not come back for some names until `gate` is opened; localhost answers for all others."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.asked: list[str] = []
        self.inside = 0
        self.most = 0
        self._lock = threading.Lock()

    def __call__(self, host: str, port: int, family: int) -> Infos:
        with self._lock:
            self.asked.append(host)
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            if host.startswith("hung"):
                assert self.gate.wait(PATIENCE_S)
            return look_up("127.0.0.1", port, family)
        finally:
            with self._lock:
                self.inside -= 1


@pytest.fixture
def library() -> Iterator[Library]:
    made = Library()
    yield made
    made.gate.set()


@pytest.fixture
async def desks() -> AsyncIterator[Desks]:
    async with many_desks() as make:
        yield make


async def test_hung_names_hold_so_many_threads_and_one_more_is_refused_at_once(library: Library) -> None:
    resolver = BoundedResolver(library, threads=2, waiting=3)
    before = threading.active_count()
    waiting = [asyncio.ensure_future(resolver.resolve(f"hung{n}", 80)) for n in range(5)]
    await until(lambda: library.inside == 2)
    with pytest.raises(LookupsStuck, match="2 lookups of names hang and 3 wait"):
        await resolver.resolve("good", 80)
    assert threading.active_count() <= before + 2
    library.gate.set()
    found = await asyncio.gather(*waiting)
    assert [[one[4][0] for one in each] for each in found] == [["127.0.0.1"]] * 5
    assert (library.most, sorted(library.asked)) == (2, [f"hung{n}" for n in range(5)])
    assert (await resolver.resolve("good", 80))[0][4][0] == "127.0.0.1"
    await resolver.close()


async def test_a_name_takes_one_thread_however_often_it_is_asked_for(library: Library) -> None:
    resolver = BoundedResolver(library, longest_s=0.05)
    for _ in range(2 * THREADS):
        with pytest.raises(LookupsStuck, match=r"looking up hung takes over 0\.05 s"):
            await resolver.resolve("hung", 80)
    assert library.asked == ["hung"]
    assert (await resolver.resolve("good", 80))[0][4][1] == 80
    await resolver.close()


async def test_threads_are_made_when_they_are_needed_and_end(library: Library) -> None:
    before = threading.active_count()
    resolver = BoundedResolver(library)
    assert threading.active_count() == before
    for _ in range(5):
        await resolver.resolve("good", 80)
    assert threading.active_count() <= before + 2
    await resolver.close()
    await until(lambda: threading.active_count() <= before)


async def test_an_unknown_name_is_an_os_error() -> None:
    def unknown(host: str, port: int, family: int) -> Infos:
        raise socket.gaierror(-2, "Name or service not known")

    resolver = BoundedResolver(unknown)
    with pytest.raises(OSError, match="not known"):
        await resolver.resolve("nowhere.example", 80)
    with pytest.raises(OSError, match="cannot be looked up"):
        await BoundedResolver().resolve("a" * 70 + ".example", 80)
    await resolver.close()


@pytest.mark.parametrize("trusted", [True, False])
async def test_it_is_a_failed_cycle_with_a_text_that_says_so(desks: Desks, library: Library, trusted: bool) -> None:
    resolver = BoundedResolver(library, threads=1, waiting=1)
    desk = desks(HttpClient(resolver=resolver, loopback_ok=True))
    hung = [asyncio.ensure_future(desk.run(f"http://hung{n}.example/", trusted=trusted)) for n in range(2)]
    await until(lambda: library.inside == 1 and len(resolver._line) == 1)
    outcome = await desk.run("http://third.example/", trusted=trusted)
    assert (outcome.status, outcome.error) == (Status.FAILED, ErrorClass.NETWORK)
    assert (outcome.code, outcome.message) == ("lookups_stuck", "callback_lookups_stuck")
    for one in hung:
        one.cancel()
    await asyncio.gather(*hung, return_exceptions=True)


async def test_strangers_names_that_hang_keep_no_operator_from_anything(
    monkeypatch: pytest.MonkeyPatch, library: Library
) -> None:
    """As wired: every thread of the strangers' is taken, and so is every place in their queue."""
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, family: int, kind: int, flags: int = 0) -> Infos:
        library(host, port, family) if host.startswith("hung") else None
        return list(real("127.0.0.1" if host == "own.example" else host, port, family, kind, flags=flags))

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    client = HttpClient(limit=200)
    async with sink() as upstream:
        calls = [
            asyncio.ensure_future(client.post(f"http://hung{n}.example/", b"", {}, timeout_s=60, trusted=False))
            for n in range(100)
        ]
        done, _ = await asyncio.wait(calls, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        await until(lambda: sum(call.done() for call in calls) >= 100 - 64 - 2 * THREADS)
        kinds = {failed.kind for call in calls if call.done() and isinstance(failed := call.exception(), CallFailed)}
        reply = await client.get(f"http://own.example:{upstream.port}/", {}, timeout_s=PATIENCE_S, limit=100)
    assert done
    assert (kinds, library.most, reply.status) == ({"lookup"}, THREADS, 200)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    library.gate.set()
    await client.close()


def test_a_process_that_ends_does_not_wait_for_a_name() -> None:
    program = """
import asyncio, threading, time
from vmsh_scheduler.net.resolver import BoundedResolver, LookupsStuck
async def main():
    try:
        await BoundedResolver(lambda *_: threading.Event().wait(), longest_s=0.05).resolve("hung", 80)
    except LookupsStuck:
        print("stuck")
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert (done.stdout, done.stderr) == ("stuck\n", "")
