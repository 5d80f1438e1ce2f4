"""Redis that is down, slow, empty, full, foreign or behind a password (reliability family D, the stores' part)."""

import asyncio
import re
import socket
import ssl
import subprocess
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError, ResponseError

from tests.contract.world import NOW, FixedClock, decision, execution
from tests.integration.test_callback_tls import certificate
from tests.support.redis_keys import SharedRedis
from tests.support.redis_server import RedisServer, binary, free_port, serving
from tests.support.underway import Underway
from vmsh_scheduler.clock import SystemClock
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.errors import ConfigError, NotLeading, StateWriteFailed, StoreDown
from vmsh_scheduler.ports import Change, Lease
from vmsh_scheduler.stores.redis.connect import Client, RedisOptions, connect, connect_sync, guarded, guarding
from vmsh_scheduler.stores.redis.journal import RedisJournal
from vmsh_scheduler.stores.redis.leases import RedisLeases
from vmsh_scheduler.stores.redis.states import RedisStates

SECRET = "hunter2-and-more"
WITHIN_MS = 300
"""What commands may take in these tests."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with serving(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as running:
        yield running


@pytest.fixture
def shared(server: RedisServer) -> SharedRedis:
    return SharedRedis(server, "{p}:q", command_timeout_ms=WITHIN_MS, connect_timeout_ms=WITHIN_MS)


@pytest.fixture
async def client(shared: SharedRedis) -> AsyncIterator[Client]:
    async with shared.client() as connected:
        yield connected


def contender(client: Client, shared: SharedRedis, instance: str = "a", ttl_ms: int = 60_000) -> RedisLeases:
    return RedisLeases(client, shared.keys, SystemClock(), instance=instance, ttl_ms=ttl_ms)


async def leading(client: Client, shared: SharedRedis, instance: str = "a") -> tuple[RedisStates, RedisLeases, Lease]:
    leases = contender(client, shared, instance)
    lease = await leases.acquire("engine")
    assert lease is not None
    states = RedisStates(client, shared.keys, FixedClock())
    await states.load()
    states.lead(leases.lock_value(lease))
    return states, leases, lease


async def tick_of(client: Client) -> None:
    """A wiped server is never back within the same millisecond of its clock."""
    began = await milliseconds(client)
    async with asyncio.timeout(30):
        now = began
        while now == began:
            now = await milliseconds(client)


async def milliseconds(client: Client) -> int:
    seconds, micros = await guarded(client.time())
    return int(seconds) * 1000 + int(micros) // 1000


async def until_answering(client: Client) -> None:
    async with asyncio.timeout(30):
        while True:
            with suppress(RedisError):
                await client.ping()
                return
            await asyncio.sleep(0.01)


async def test_d3_fences_rise_through_a_hundred_wipes(client: Client, shared: SharedRedis) -> None:
    """By turns one that has led before, one that has only lost, and one that knows nothing."""
    old, watching = contender(client, shared, "old"), contender(client, shared, "watching")
    fences = []
    for n in range(100):
        leases = (old, watching, contender(client, shared, f"new{n}"))[n % 3]
        lease = await leases.acquire("engine")
        assert lease is not None
        fences.append(lease.fence)
        assert leases is watching or await watching.acquire("engine") is None
        await client.flushall()
        assert not await leases.renew(lease)
        await tick_of(client)
    assert fences == sorted(set(fences))


async def test_d3_fences_rise_though_the_server_restarts_empty_with_an_earlier_clock(
    client: Client, shared: SharedRedis
) -> None:
    leases = contender(client, shared)
    ahead = int(time.time() * 1000) + 3_600_000
    await client.set(shared.keys.leader_fence, ahead)
    first = await leases.acquire("engine")
    assert first is not None
    assert first.fence == ahead + 1
    for _ in range(3):
        shared.server.kill()
        (shared.server.place / "appendonly.aof").unlink()
        shared.server.start()
        await until_answering(client)
        assert not await leases.renew(first)
        again = await leases.acquire("engine")
        assert again is not None
        assert again.fence > first.fence
        first = again


async def test_a_fence_that_is_no_number_is_none(client: Client, shared: SharedRedis) -> None:
    await client.set(shared.keys.leader_fence, "nonsense")
    lease = await contender(client, shared).acquire("engine")
    assert lease is not None
    assert lease.fence > NOW - 86_400_000 * 3_650
    assert await client.get(shared.keys.leader_fence) == str(lease.fence)


async def test_the_lock_reads_as_the_original_writes_it(client: Client, shared: SharedRedis) -> None:
    leases = contender(client, shared, "pod-1")
    lease = await leases.acquire("engine")
    assert lease is not None
    value = await client.get(shared.keys.leader_lock)
    assert re.fullmatch(rf"pod-1:[0-9a-f-]{{36}}\|{lease.fence}\|pod-1", value)
    assert leases.lock_value(lease) == value
    assert await client.get(shared.keys.leader_fence) == str(lease.fence)
    assert 0 < await client.pttl(shared.keys.leader_lock) <= 60_000
    left = await contender(client, shared).pttl()
    assert left is not None
    assert 0 < left <= 60_000
    await leases.release(lease)
    assert await contender(client, shared).pttl() is None


async def test_a_lease_never_lasts_longer_here_than_there(client: Client, shared: SharedRedis) -> None:
    """Its end is counted from before it was asked for."""
    clock = SystemClock()
    before = clock.elapsed()
    lease = await contender(client, shared).acquire("engine")
    assert lease is not None
    assert lease.until is not None
    assert before + 60_000 <= lease.until <= clock.elapsed() + await client.pttl(shared.keys.leader_lock)


async def test_d4_a_stopped_server_costs_no_more_than_its_timeout(client: Client, shared: SharedRedis) -> None:
    states, leases, lease = await leading(client, shared)
    shared.server.pause()
    try:
        for work in (
            lambda: leases.renew(lease),
            lambda: contender(client, shared, "b").acquire("engine"),
            lambda: states.apply([Change("a/b", JobState())]),
            states.load,
        ):
            began = time.monotonic()
            with pytest.raises((StoreDown, StateWriteFailed), match="did not answer in time"):
                await work()
            assert time.monotonic() - began < 2 * WITHIN_MS / 1000
    finally:
        shared.server.resume()


async def test_an_acquisition_that_is_answered_late_is_found_and_counts_once(
    client: Client, shared: SharedRedis
) -> None:
    leases = contender(client, shared)
    first = await leases.acquire("engine")
    assert first is not None
    await leases.release(first)  # now the server knows the script, and a connection that it reads from later
    shared.server.pause()
    with pytest.raises(StoreDown):
        await leases.acquire("engine")
    shared.server.resume()
    await until_answering(client)
    async with asyncio.timeout(30):
        late = None
        while late is None:
            late = await guarded(client.get(shared.keys.leader_lock))
    lease = await leases.acquire("engine")
    assert lease is not None
    assert leases.lock_value(lease) == late == await client.get(shared.keys.leader_lock)
    assert await client.get(shared.keys.leader_fence) == str(lease.fence)
    assert lease.fence > first.fence


async def test_a_released_lock_is_not_taken_for_ones_own_again(client: Client, shared: SharedRedis) -> None:
    """The release was lost: the old lock has to run out like anybody's."""
    leases = contender(client, shared)
    lease = await leases.acquire("engine")
    assert lease is not None
    shared.server.pause()
    with pytest.raises(StoreDown):
        await leases.release(lease)
    shared.server.resume()
    await until_answering(client)
    await client.set(shared.keys.leader_lock, leases.lock_value(lease), px=60_000)
    assert not await leases.renew(lease)


class Twice:
    """A client whose scripts all arrive twice."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def evalsha(self, *words: Any) -> Any:
        first = await self._client.evalsha(*words)
        again = await self._client.evalsha(*words)
        assert first == again
        return again


async def test_what_arrives_twice_happens_once(client: Client, shared: SharedRedis) -> None:
    twice: Any = Twice(client)
    states, _, lease = await leading(twice, shared)
    assert await client.get(shared.keys.leader_fence) == str(lease.fence)
    for n in range(3):
        await states.apply([Change("a/b", JobState(level=n), (decision("a/b", n),), execution("a/b", n))])
    with shared.reader() as reader:
        journal = RedisJournal(reader, shared.keys)
        assert [row.slot for row in journal.decisions("a/b")] == [NOW + 2, NOW + 1, NOW]
        assert len(journal.executions()) == 3
        assert journal.verify() == []


async def test_scripts_that_the_server_forgot_are_sent_again(client: Client, shared: SharedRedis) -> None:
    states, leases, lease = await leading(client, shared)
    await client.script_flush()
    await states.apply([Change("a/b", JobState(level=1))])
    await client.script_flush()
    assert await leases.renew(lease)


async def test_d5_writes_of_a_leader_that_was_replaced_are_refused(client: Client, shared: SharedRedis) -> None:
    old, _, first = await leading(client, shared, "old")
    await old.apply([Change("a/b", JobState(level=1))])
    await client.delete(shared.keys.leader_lock)  # as if it had run out while the old one was stopped
    new, _, second = await leading(client, shared, "new")
    assert second.fence > first.fence
    assert new.get("a/b") == JobState(level=1)
    await new.apply([Change("a/b", JobState(level=2))])
    with pytest.raises(NotLeading):
        await old.apply([Change("a/b", JobState(level=3)), Change("c/d", JobState())])
    assert old.all() == {"a/b": JobState(level=1)}
    with pytest.raises(NotLeading):
        await old.apply([Change("a/b", JobState(level=3))])
    await new.load()
    assert new.all() == {"a/b": JobState(level=2)}
    assert await old.refresh() is False  # it still believes to lead: it has to be told
    old.follow()
    assert await old.refresh() is True
    assert await old.refresh() is False
    assert old.all() == {"a/b": JobState(level=2)}


async def test_who_does_not_lead_writes_nothing(client: Client, shared: SharedRedis) -> None:
    states, leases, lease = await leading(client, shared)
    waiting = asyncio.ensure_future(states.apply([Change("a/b", JobState(level=1))]))
    await asyncio.sleep(0)
    states.follow()
    with pytest.raises(NotLeading):
        await waiting
    assert states.all() == {}
    with pytest.raises(NotLeading):
        await states.apply([Change("a/b", JobState(level=1))])
    states.lead(leases.lock_value(lease))
    with pytest.raises(NotLeading):
        await states.apply([Change("a/b", JobState(level=1))])
    await states.load()
    await states.apply([Change("a/b", JobState(level=1))])
    assert await client.hlen(shared.keys.states) == 1


async def test_a_server_that_dies_takes_back_what_it_did_not_acknowledge(client: Client, shared: SharedRedis) -> None:
    states, _, _ = await leading(client, shared)
    await states.apply([Change("a/b", JobState(level=1)), Change("c/d", JobState(level=1))])
    shared.server.kill()
    failing = [states.apply([Change("a/b", JobState(level=n)), Change(f"e/{n}", JobState())]) for n in (2, 3)]
    assert states.get("a/b") == JobState(level=1)
    tasks = [asyncio.ensure_future(work) for work in failing]
    await asyncio.sleep(0)
    assert states.get("a/b") == JobState(level=3)
    assert states.get("e/2") == JobState()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [StateWriteFailed, StateWriteFailed]
    assert states.all() == {"a/b": JobState(level=1), "c/d": JobState(level=1)}
    shared.server.start()
    await until_answering(client)
    with pytest.raises(StateWriteFailed):
        await states.apply([Change("c/d", JobState(level=9))])
    await states.load()
    assert states.all() == {"a/b": JobState(level=1), "c/d": JobState(level=1)}
    await states.apply([Change("c/d", JobState(level=4), (decision("c/d", 1),))])
    assert states.get("c/d") == JobState(level=4)


async def test_a_batch_that_arrives_late_never_undoes_a_newer_one(client: Client, shared: SharedRedis) -> None:
    """Given up by us while the server was stopped, carried out by it afterwards: before or after we looked."""
    states, _, _ = await leading(client, shared)
    for n in range(8):
        shared.server.pause()
        with pytest.raises(StateWriteFailed):
            await states.apply([Change("a/b", JobState(level=100 + n), (decision("a/b", n),))])
        shared.server.resume()
        await until_answering(client)
        while True:
            await states.load()
            with suppress(StateWriteFailed):  # the late one came between the two: look again
                await states.apply([Change("a/b", JobState(level=n), (decision("a/b", n),))])
                break
    assert states.get("a/b") == JobState(level=7)
    await states.load()
    assert states.get("a/b") == JobState(level=7)
    with shared.reader() as reader:
        journal = RedisJournal(reader, shared.keys)
        assert journal.verify() == []
        assert 8 <= len(journal.decisions("a/b")) <= 16


@pytest.mark.parametrize("when", ["before the next change", "after the next change"])
async def test_a_batch_that_arrives_after_we_looked_is_refused_or_refuses_ours(
    client: Client, shared: SharedRedis, when: str
) -> None:
    underway: Any = Underway(client)
    states, _, _ = await leading(underway, shared)
    await states.apply([Change("a/b", JobState(level=1))])
    underway.hold = True
    with pytest.raises(StateWriteFailed):
        await states.apply([Change("a/b", JobState(level=2), (decision("a/b", 2),))])
    await states.load()
    assert states.get("a/b") == JobState(level=1)
    if when == "before the next change":
        await underway.arrive()
        with pytest.raises(StateWriteFailed):
            await states.apply([Change("a/b", JobState(level=3), (decision("a/b", 3),))])
        await states.load()
        assert states.get("a/b") == JobState(level=2)
    await states.apply([Change("a/b", JobState(level=4), (decision("a/b", 4),))])
    if when == "after the next change":
        with pytest.raises(ResponseError, match="STALE"):
            await underway.arrive()
    await states.load()
    assert states.get("a/b") == JobState(level=4)
    with shared.reader() as reader:
        assert RedisJournal(reader, shared.keys).verify() == []


@pytest.mark.parametrize("refused", [False, True], ids=["answered", "refused"])
async def test_a_command_that_is_cancelled_at_any_moment_is_cancelled(client: Client, refused: bool) -> None:
    """Up to Python 3.11 a cancellation could get lost in the library; a term that ended while Redis was loading so
    went on for ever, and no other one began."""

    async def ask_for_ever() -> None:
        while True:
            with suppress(StoreDown):
                await guarded(client.llen("{p}:x") if refused else client.get("{p}:x"))

    await client.set("{p}:x", "no list")
    for n in range(300):
        task = asyncio.ensure_future(ask_for_ever())
        for _ in range(5 + n % 23):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=5)
        assert done == {task}, n


async def test_changes_that_come_at_once_share_a_script(client: Client, shared: SharedRedis) -> None:
    states, _, _ = await leading(client, shared)
    await asyncio.gather(*(states.apply([Change(f"j/{n}", JobState(level=n))]) for n in range(1000)))
    assert await client.hlen(shared.keys.states) == 1000
    assert states.writes[0] == 5


async def test_a_caller_that_gave_up_waiting_undoes_nothing(client: Client, shared: SharedRedis) -> None:
    states, _, _ = await leading(client, shared)
    task = asyncio.ensure_future(states.apply([Change("a/b", JobState(level=3))]))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    await states.close()
    await states.load()
    assert states.get("a/b") == JobState(level=3)


Harm = Callable[[RedisServer], None]


def read_only(server: RedisServer) -> None:
    with server.client() as admin:
        admin.execute_command("REPLICAOF", "127.0.0.1", free_port())


def no_memory(server: RedisServer) -> None:
    with server.client() as admin:
        admin.set("ballast", "x" * 100_000)
        admin.config_set("maxmemory", "1")


def no_disk(server: RedisServer) -> None:
    """The directory of its snapshots is gone."""
    gone = server.place / "gone"
    gone.mkdir()
    with server.client() as admin:
        admin.config_set("dir", str(gone))
        admin.config_set("save", "3600 1")
        gone.rmdir()
        admin.execute_command("BGSAVE")
        until = time.monotonic() + 60
        while admin.info("persistence")["rdb_last_bgsave_status"] == "ok":
            assert time.monotonic() < until
            time.sleep(0.01)


def foreign_type(server: RedisServer) -> None:
    with server.client() as admin:
        admin.hset("{p}:q:leader_lock", "x", "1")


def no_permission(server: RedisServer) -> None:
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "default", "-evalsha", "-eval")


def password_set(server: RedisServer) -> None:
    with server.client() as admin:
        admin.config_set("requirepass", SECRET)


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (read_only, "replica and takes no writes"),
        (no_memory, "out of memory"),
        (no_disk, "cannot save to its disk"),
        (foreign_type, "another type"),
        (no_permission, "may not do"),
        (password_set, "wants a password"),
    ],
    ids=["READONLY", "OOM", "MISCONF", "WRONGTYPE", "NOPERM", "NOAUTH"],
)
async def test_d8_each_error_is_named(tmp_path: Path, harm: Harm, named: str) -> None:
    with serving(tmp_path / "redis") as server:
        harm(server)
        shared = SharedRedis(server, "{p}:q")
        try:
            async with shared.client() as client:
                with pytest.raises(StoreDown, match=named) as caught:
                    await contender(client, shared).acquire("engine")
        finally:
            server.kill()  # one that cannot save refuses to end
        assert caught.value.hint


async def test_d8_a_key_of_somebody_else_is_named_before_anything_is_written(
    client: Client, shared: SharedRedis
) -> None:
    await client.rpush(shared.keys.states, "x")
    with pytest.raises(StoreDown, match=r"\{p\}:q:states holds a list"):
        await leading(client, shared)


async def test_d8_a_server_that_loads_says_so(tmp_path: Path) -> None:
    with serving(tmp_path / "redis", "--rdbcompression", "no") as server, server.client() as admin:
        for n in range(30):
            admin.set(f"k{n}", "x" * 1_000_000)
        admin.save()
    again = RedisServer(tmp_path / "redis", "--key-load-delay", "100000")
    again.start(wait=False)
    try:
        shared = SharedRedis(again, "{p}:q")
        async with shared.client() as client, asyncio.timeout(30):
            while True:
                try:
                    await contender(client, shared).acquire("engine")
                except StoreDown as down:
                    if "still loading" in down.message:
                        break
                await asyncio.sleep(0.01)
    finally:
        again.kill()


@contextmanager
def clustered(place: Path) -> Iterator[RedisServer]:
    """Its bus is 10,000 ports above, and below those of outgoing connections too."""
    port = next(port for port in iter(free_port, 0) if port < 22_000)
    server = RedisServer(place, "--cluster-enabled", "yes", port=port).start()
    try:
        yield server
    finally:
        server.kill()


async def test_d8_a_cluster_without_its_slots_and_a_prefix_without_a_tag(tmp_path: Path) -> None:
    with clustered(tmp_path / "redis") as server, server.client() as admin:
        shared = SharedRedis(server, "{p}:q")
        async with shared.client() as client:
            with pytest.raises(StoreDown, match="cluster is down"):
                await contender(client, shared).acquire("engine")
            admin.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
            async with asyncio.timeout(30):
                while "cluster_state:ok" not in str(admin.execute_command("CLUSTER", "INFO")):  # noqa: ASYNC110  it has no event
                    await asyncio.sleep(0.01)
            untagged = SharedRedis(server, "p:q")
            with pytest.raises(StoreDown, match="spread over the cluster"):
                await contender(client, untagged).acquire("engine")
            states, _, _ = await leading(client, shared)
            rows = [Change(f"j/{n}", JobState(), (decision(f"j/{n}", n),), execution(f"j/{n}", n)) for n in range(5)]
            await states.apply(rows)
            assert await client.hlen(shared.keys.states) == 5


@asynccontextmanager
async def asked(options: RedisOptions) -> AsyncIterator[str]:
    """What is said of Redis with these options, first line to last cause."""
    async with connect(options) as client:
        try:
            await guarded(client.ping())
        except StoreDown as down:
            yield str(down) + "".join(traceback.format_exception(down))
        else:
            yield "PONG"


async def test_users_and_passwords_of_every_kind_and_none_is_ever_shown(tmp_path: Path) -> None:
    with serving(tmp_path / "redis", "--requirepass", SECRET) as server:
        with server.client(password=SECRET) as admin:
            admin.execute_command("ACL", "SETUSER", "worker", "on", f">{SECRET}-2", "~*", "+@all")
        host, file = f"127.0.0.1:{server.port}", tmp_path / "password"
        file.write_text(f"{SECRET}-2\n")
        good = [
            RedisOptions(f"redis://:{SECRET}@{host}/0"),
            RedisOptions(f"redis://worker:{SECRET}-2@{host}"),
            RedisOptions(f"redis://{host}", username="worker", password_file=file),
            RedisOptions(f"redis://worker@{host}", password_file=file),
            RedisOptions(f"unix://{server.socket}?db=1", password=SECRET),
        ]
        bad = [
            (RedisOptions(f"redis://{host}"), "wants a password"),
            (RedisOptions(f"redis://:{SECRET}-3@{host}/0"), "refuses this user and password"),
            (RedisOptions(f"redis://worker:{SECRET}-3@{host}/0"), "refuses this user and password"),
            (RedisOptions(f"redis://{host}", password_file=tmp_path / "none"), "No such file"),
            (RedisOptions(f"redis://:{SECRET}@127.0.0.1:{free_port()}"), "nothing listens there"),
            (RedisOptions(f"unix://{tmp_path}/none.sock", password=SECRET), "socket of Redis does not exist"),
            (RedisOptions(f"redis://:{SECRET}@none.invalid"), "host of Redis is not known"),
        ]
        for options in good:
            async with asked(options) as said:
                assert said == "PONG"
            with connect_sync(options) as reader:
                assert reader.ping()
        for options, named in bad:
            async with asked(options) as said:
                assert named in said
                assert SECRET not in said
            with connect_sync(options) as reader, pytest.raises(StoreDown, match=named), guarding():
                reader.ping()
        for options, _ in [*((options, "") for options in good), *bad]:
            assert SECRET not in f"{options!r} {options} {options.address}"


async def test_a_changed_password_needs_no_restart(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET)
    with serving(tmp_path / "redis", "--requirepass", SECRET) as server:
        options = RedisOptions(server.url, password_file=file)
        async with connect(options) as client:
            assert await guarded(client.ping())
            with server.client(password=SECRET) as admin:
                admin.config_set("requirepass", "new")
                file.write_text("new")
                admin.client_kill_filter(_type="normal", skipme=True)
            with suppress(StoreDown):  # the connection that was cut
                await guarded(client.ping())
            assert await guarded(client.ping())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://h",
        "redis+sentinel://h",
        "redis+sentinel:///s",
        f"redis+sentinel://:{SECRET}@h/s/zero",
        f"redis://:{SECRET}@h:port/0",
        f"redis://:{SECRET}@h/zero",
        f"redis://:{SECRET}@h/0?socket_timeout=1000",
        f"redis://:{SECRET}@h/-1",
        f"redis://:{SECRET}@h/999999999999",
        f"redis://:{SECRET}@h/0?db=-1",
        f"unix://:{SECRET}@/tmp/redis.sock?db=-1",
        f"redis+sentinel://:{SECRET}@h/s/-1",
        f"redis://:{SECRET}@ho st",
        f"redis://:{SECRET}@h%00",
        f"redis://:{SECRET}@h\n",
        f"redis+sentinel://:{SECRET}@g,ho st/s",
    ],
)
def test_a_url_that_cannot_be_understood_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        connect(RedisOptions(url))
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@contextmanager
def watching(place: Path, server: RedisServer) -> Iterator[int]:
    """A sentinel's port."""
    place.mkdir()
    conf, port = place / "sentinel.conf", free_port()
    conf.write_text(f"port {port}\nbind 127.0.0.1\ndir {place}\nsentinel monitor main 127.0.0.1 {server.port} 1\n")
    with (place / "log").open("ab") as log:
        process = subprocess.Popen([binary(), str(conf), "--sentinel"], stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert time.monotonic() < until
            time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        process.wait()


async def test_sentinels_tell_where_the_primary_is(tmp_path: Path) -> None:
    with serving(tmp_path / "redis") as server, watching(tmp_path / "sentinel", server) as port:
        url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{port}/main/2"
        shared = SharedRedis(server, "{p}:q", url=url)
        async with shared.client() as client:
            assert await contender(client, shared).acquire("engine")
        with shared.reader() as reader:
            assert reader.exists(shared.keys.leader_lock)
        with server.client(db=2) as admin:
            assert admin.exists(shared.keys.leader_lock)
        async with asked(RedisOptions(url.replace("/main/", "/other/"))) as said:
            assert "no Sentinel names a primary" in said


async def test_tls_is_checked(tmp_path: Path) -> None:
    """In front of the server stands what speaks TLS for it: not every build of it does."""
    (tmp_path / "right").mkdir()
    right, wrong = certificate(tmp_path / "right"), certificate(tmp_path)
    with serving(tmp_path / "redis") as server:
        async with tls_before(server, right) as port:
            async with asked(RedisOptions(f"rediss://localhost:{port}/0", tls_ca=right)) as said:
                assert said == "PONG"
            async with asked(RedisOptions(f"rediss://localhost:{port}/0", tls_ca=wrong)) as said:
                assert "no TLS with Redis: " in said.splitlines()[0]
            async with asked(RedisOptions(f"rediss://127.0.0.1:{port}/0", tls_ca=right)) as said:
                assert "no TLS with Redis: " in said.splitlines()[0]


@asynccontextmanager
async def tls_before(server: RedisServer, pem: Path) -> AsyncIterator[int]:
    """Its port."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pump(reader, outer), pump(inner, writer))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as listener:
        yield listener.sockets[0].getsockname()[1]
