"""Tasks in a Redis that refuses a step of their way, or that somebody took one out of: none vanishes, none hangs."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.dispatching import RedisCluster, ids, redis_cluster, task
from tests.support.redis_keys import SharedRedis
from tests.support.redis_server import RedisServer, administering, serving
from vmsh_scheduler.domain.run import Trace
from vmsh_scheduler.engine.carry import RESOURCES
from vmsh_scheduler.engine.handed import LOOK, MEND, Collector
from vmsh_scheduler.errors import NotLeading, StoreRefuses
from vmsh_scheduler.ports import Place
from vmsh_scheduler.stores.redis.dispatch import DOUBTED
from vmsh_scheduler.stores.redis.keys import AGENTS, QueueKeys

OK = {"status": "ok"}
LONG, SHORT = 60_000, 50


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with serving(tmp_path / "redis") as running:
        yield running


@pytest.fixture
def admin(server: RedisServer) -> Iterator[Any]:
    with administering(server) as found:
        yield found


@pytest.fixture
async def cluster(server: RedisServer) -> AsyncIterator[RedisCluster]:
    async with redis_cluster(SharedRedis(server, "{p}:q")) as over:
        yield over


@pytest.fixture
def queue(cluster: RedisCluster) -> QueueKeys:
    return cluster.shared.keys.queue(AGENTS)


def take_away(admin: Any, command: str) -> None:
    admin.execute_command("ACL", "SETUSER", "default", f"-{command}")


def give_back(admin: Any) -> None:
    admin.execute_command("ACL", "SETUSER", "default", "+@all")


def everything(admin: Any) -> dict[str, object]:
    return {key: admin.dump(key) for key in admin.scan_iter()}


def spoil(admin: Any, key: str) -> tuple[str, Any]:
    """Somebody else writes something of another type there; what stood there comes back with `restore`."""
    stood = admin.dump(key) if admin.exists(key) else None
    kind = admin.type(key)
    admin.delete(key)
    admin.set(key, "mine") if kind != "string" else admin.rpush(key, "mine")
    return key, stood


def restore(admin: Any, spoilt: tuple[str, Any]) -> None:
    key, stood = spoilt
    admin.delete(key)
    if stood is not None:
        admin.restore(key, 0, stood)


class TestEnd:
    @pytest.mark.parametrize("command", ["hset", "hdel", "lrem", "zrem", "srem", "del"])
    async def test_d8_the_outcome_of_a_run_waits_until_it_can_be_written(
        self, cluster: RedisCluster, admin: Any, command: str
    ) -> None:
        leader, worker = await cluster.leader("l"), cluster.instance("w")
        await leader.push([task(1)])
        (claim,) = await worker.claim(AGENTS, 1, LONG)
        before = everything(admin)
        take_away(admin, command)
        with pytest.raises(StoreRefuses, match="NOPERM"):
            await worker.finish(claim, OK)
        assert everything(admin) == before
        give_back(admin)
        assert (await leader.places(["t1"]))["t1"] is Place.CLAIMED
        assert await worker.finish(claim, OK)
        assert await leader.ended(["t1"]) == {"t1": OK}
        assert await leader.depths(AGENTS) == (0, 0)

    @pytest.mark.parametrize("part", ["outcomes", "cycle_queue_processing", "cycle_queue_payloads"])
    async def test_d8_a_key_of_somebody_else_takes_no_outcome_away_and_is_named(
        self, cluster: RedisCluster, admin: Any, part: str
    ) -> None:
        leader, worker = await cluster.leader("l"), cluster.instance("w")
        await leader.push([task(1)])
        (claim,) = await worker.claim(AGENTS, 1, LONG)
        spoilt = spoil(admin, cluster.shared.keys.named(part))
        before = everything(admin)
        with pytest.raises(StoreRefuses, match=rf"{part} holds a string, not a \w+ of ours \(WRONGTYPE\)"):
            await worker.finish(claim, OK)
        assert everything(admin) == before
        restore(admin, spoilt)
        assert await worker.finish(claim, OK)
        assert await leader.ended(["t1"]) == {"t1": OK}

    async def test_an_agents_set_that_is_none_stops_no_run(
        self, cluster: RedisCluster, admin: Any, queue: QueueKeys
    ) -> None:
        leader = await cluster.leader("l")
        admin.set(cluster.shared.keys.agent_tasks("u:a"), "mine")
        await leader.push([task(1), task(2)])
        one, two = await leader.claim(AGENTS, 2, LONG)
        assert await leader.finish(one, OK)
        assert await leader.finish(two, OK)
        assert await leader.ended(["t1", "t2"]) == {"t1": OK, "t2": OK}
        assert admin.hlen(queue.task_owners) == 0

    async def test_an_overfull_redis_takes_outcomes_and_no_new_tasks(self, cluster: RedisCluster, admin: Any) -> None:
        leader = await cluster.leader("l")
        await leader.push([task(1)])
        (claim,) = await leader.claim(AGENTS, 1, LONG)
        admin.config_set("maxmemory", "1")
        before = everything(admin)
        with pytest.raises(StoreRefuses, match="out of memory"):
            await leader.push([task(2)])
        assert everything(admin) == before
        assert (await leader.extend([claim], LONG)).keys() == {"t1"}
        assert await leader.finish(claim, OK)

    @pytest.mark.parametrize("command", ["hsetnx", "hdel", "lrem", "zrem", "srem"])
    async def test_d8_a_lost_run_has_its_outcome_or_is_not_taken_out(
        self, cluster: RedisCluster, admin: Any, command: str
    ) -> None:
        leader = await cluster.leader("l")
        await leader.push([task(1)])
        await leader.claim(AGENTS, 1, SHORT)
        await cluster.wait(SHORT + 50)
        admin.get(cluster.shared.keys.exec_lease("t1"))  # expired keys go when they are looked at
        before = everything(admin)
        take_away(admin, command)
        with pytest.raises(StoreRefuses, match="NOPERM"):
            await leader.lost()
        assert everything(admin) == before
        give_back(admin)
        assert await leader.lost() == ["t1"]
        assert (await leader.ended(["t1"]))["t1"]["status"] == "unknown"

    async def test_what_ended_is_never_called_lost(self, cluster: RedisCluster, admin: Any) -> None:
        """As after a user's key patterns have let only the outcome through."""
        leader = await cluster.leader("l")
        await leader.push([task(1)])
        await leader.claim(AGENTS, 1, SHORT)
        admin.hset(cluster.shared.keys.outcomes, "t1", '{"status":"ok"}')
        await cluster.wait(SHORT + 50)
        assert await leader.lost() == []
        assert await leader.ended(["t1"]) == {"t1": OK}
        assert await leader.depths(AGENTS) == (0, 0)


class TestClaim:
    @pytest.mark.parametrize("command", ["set", "zadd", "rpush", "lpop", "hdel", "srem"])
    async def test_d8_a_claim_that_is_refused_leaves_the_tasks_ready(
        self, cluster: RedisCluster, admin: Any, command: str
    ) -> None:
        leader, worker = await cluster.leader("l"), cluster.instance("w")
        await leader.push([task(1), task(2)])
        before = everything(admin)
        take_away(admin, command)
        with pytest.raises(StoreRefuses, match="NOPERM"):
            await worker.claim(AGENTS, 5, LONG)
        assert everything(admin) == before
        give_back(admin)
        assert ids(await worker.claim(AGENTS, 5, LONG)) == ["t1", "t2"]

    @pytest.mark.parametrize("part", ["", "_processing", "_inflight", "_payloads", "_task_owners"])
    async def test_d8_a_claim_over_a_key_of_somebody_else_leaves_the_tasks_ready(
        self, cluster: RedisCluster, admin: Any, part: str
    ) -> None:
        leader = await cluster.leader("l")
        await leader.push([task(1)])
        spoilt = spoil(admin, cluster.shared.keys.named(f"cycle_queue{part}"))
        before = everything(admin)
        with pytest.raises(StoreRefuses, match=f"cycle_queue{part} holds a string"):
            await leader.claim(AGENTS, 5, LONG)
        assert everything(admin) == before
        restore(admin, spoilt)
        assert ids(await leader.claim(AGENTS, 5, LONG)) == ["t1"]

    @pytest.mark.parametrize("command", ["set", "hset", "rpush", "hdel"])
    async def test_d8_a_push_that_is_refused_leaves_nothing(
        self, cluster: RedisCluster, admin: Any, command: str
    ) -> None:
        leader = await cluster.leader("l")
        before = everything(admin)
        take_away(admin, command)
        with pytest.raises(StoreRefuses, match="NOPERM"):
            await leader.push([task(1)])
        assert everything(admin) == before

    async def test_d8_many_that_are_withdrawn_take_no_other_with_them(self, cluster: RedisCluster, admin: Any) -> None:
        leader = await cluster.leader("l")
        await leader.push([task(n) for n in range(12)])
        take_away(admin, "rpush")
        with pytest.raises(StoreRefuses, match="NOPERM"):
            await leader.withdraw([f"t{n}" for n in range(10)])
        give_back(admin)
        assert ids(await leader.claim(AGENTS, 5, LONG)) == ["t10", "t11"]

    async def test_d8_a_beat_is_kept_where_the_claims_cannot_be_counted(
        self, cluster: RedisCluster, admin: Any, queue: QueueKeys
    ) -> None:
        leader = await cluster.leader("l")
        await leader.push([task(1)])
        claims = await leader.claim(AGENTS, 1, 10_000)
        admin.delete(queue.inflight)
        admin.set(queue.inflight, "mine")
        assert (await leader.extend(claims, LONG)).keys() == {"t1"}
        assert admin.pttl(cluster.shared.keys.exec_lease("t1")) > 10_000
        admin.delete(queue.inflight)
        await leader.extend(claims, LONG)
        assert admin.zrange(queue.inflight, 0, -1) == ["t1"]


class TestMend:
    @pytest.mark.parametrize("pool", [AGENTS, ""])
    async def test_what_nobody_claimed_is_ready_again_and_is_given_once(
        self, cluster: RedisCluster, admin: Any, pool: str
    ) -> None:
        leader = await cluster.leader("l")
        await leader.push([task(1, pool=pool), task(2, pool=pool)])
        admin.delete(cluster.shared.keys.queue(pool).ready)
        assert await leader.claim(pool, 5, LONG) == []
        assert sorted(await leader.mend([])) == ["t1", "t2"]
        assert await leader.mend([]) == []
        assert sorted(ids(await leader.claim(pool, 5, LONG))) == ["t1", "t2"]
        assert await leader.mend(["t1", "t2"]) == []
        assert await leader.claim(pool, 5, LONG) == []

    async def test_whose_claim_lasts_is_watched_again_and_may_end(
        self, cluster: RedisCluster, admin: Any, queue: QueueKeys
    ) -> None:
        leader = await cluster.leader("l")
        await leader.push([task(1), task(2)])
        kept, short = await leader.claim(AGENTS, 2, LONG)
        admin.delete(queue.inflight)
        assert await leader.withdraw(["t1"]) == []
        assert (await leader.places(["t1"]))["t1"] is Place.CLAIMED
        assert sorted(await leader.mend([])) == ["t1", "t2"]
        assert await leader.lost() == []
        admin.pexpire(cluster.shared.keys.exec_lease("t2"), SHORT)
        admin.delete(queue.inflight)
        assert sorted(await leader.mend([])) == ["t1", "t2"]
        assert await leader.finish(kept, OK)
        await cluster.wait(SHORT + 50)
        assert await leader.lost() == [short.task.id]

    async def test_who_may_have_begun_is_lost_and_not_ready(
        self, cluster: RedisCluster, admin: Any, queue: QueueKeys
    ) -> None:
        """It stood in processing, without a lease: a claim of which nobody heard, or one that is over."""
        leader = await cluster.leader("l")
        await leader.push([task(1)])
        admin.rpush(queue.processing, admin.lpop(queue.ready))
        assert await leader.withdraw(["t1"]) == []
        assert await leader.mend([]) == ["t1"]
        assert await leader.lost() == ["t1"]
        assert await leader.claim(AGENTS, 5, LONG) == []
        assert (await leader.ended(["t1"]))["t1"]["status"] == "unknown"

    async def test_what_ended_is_cleared_away_and_not_begun_again(
        self, cluster: RedisCluster, admin: Any, queue: QueueKeys
    ) -> None:
        leader = await cluster.leader("l")
        await leader.push([task(1)])
        admin.delete(queue.ready)
        admin.hset(cluster.shared.keys.outcomes, "t1", '{"status":"ok"}')
        await leader.mend([])
        assert await leader.lost() == []
        assert await leader.claim(AGENTS, 5, LONG) == []
        assert await leader.ended(["t1"]) == {"t1": OK}
        assert admin.hlen(queue.payloads) == 0

    async def test_a_task_of_the_originals_that_is_in_no_list_may_be_done(
        self, cluster: RedisCluster, admin: Any, queue: QueueKeys
    ) -> None:
        leader = await cluster.leader("l")
        admin.hset(queue.payloads, "f", '{"queueKey":"u:a"}')
        assert await leader.mend([]) == []
        assert await leader.claim(AGENTS, 5, LONG) == []

    async def test_what_is_claimed_and_has_no_payload_any_more_is_lost_when_its_claim_is(
        self, cluster: RedisCluster, admin: Any, queue: QueueKeys
    ) -> None:
        leader = await cluster.leader("l")
        await leader.push([task(1)])
        await leader.claim(AGENTS, 1, SHORT)
        admin.delete(queue.payloads)
        await cluster.wait(SHORT + 50)
        assert await leader.lost() == ["t1"]
        assert (await leader.ended(["t1"]))["t1"]["status"] == "unknown"

    async def test_the_leader_gets_an_outcome_of_what_was_taken_out_in_a_while(
        self, cluster: RedisCluster, admin: Any, queue: QueueKeys
    ) -> None:
        """What is gone altogether may have a worker, which gets time to notice before anything begins in its place."""
        leader, clock = await cluster.leader("l"), Later(cluster)
        collector = Collector(leader, clock, lambda _event: None)
        waiting = [asyncio.create_task(collector.hand_over(task(n))) for n in (1, 2)]
        await asyncio.sleep(0)
        await collector.tick()
        admin.delete(queue.ready)
        admin.hdel(queue.payloads, "t2")
        clock.ahead = MEND
        for _ in range(2):
            await collector.tick()
            assert not waiting[1].done()
            assert (await leader.places(["t2"]))["t2"] is Place.LOST
            clock.ahead += MEND
        inflight = cluster.shared.keys.queue("").inflight
        assert milliseconds(admin) < admin.zscore(inflight, "t2") <= milliseconds(admin) + DOUBTED
        admin.zadd(inflight, {"t2": 1})  # that time is over
        await collector.tick()
        unknown = await asyncio.wait_for(waiting[1], 10)
        assert (unknown.status.value, unknown.code) == ("unknown", "lost")
        (claim,) = await leader.claim(AGENTS, 5, LONG)
        assert await leader.finish(claim, OK)
        await collector.tick()
        assert (await asyncio.wait_for(waiting[0], 10)).status.value == "ok"


class TestForgotten:
    """A replica that is promoted may lack the push of a run that its states say is open."""

    async def test_what_a_promoted_replica_lacks_may_have_begun(
        self, cluster: RedisCluster, server: RedisServer, tmp_path: Path
    ) -> None:
        leader = await cluster.leader("l")
        await leader.recovered([])
        assert await leader.doubt(["t1"]) == ()
        with serving(tmp_path / "replica", "--replicaof", "127.0.0.1", str(server.port)) as replica:
            other = SharedRedis(replica, cluster.shared.keys.prefix)
            with replica.client() as client:
                async with asyncio.timeout(30):
                    while client.get(other.keys.leader_lock) is None:  # noqa: ASYNC110 - another process is waited for
                        await asyncio.sleep(0.05)
                client.replicaof("NO", "ONE")
            async with redis_cluster(other) as promoted:
                await self._is_lost_and_later_ones_are_not(promoted)

    async def _is_lost_and_later_ones_are_not(self, cluster: RedisCluster) -> None:
        leader, clock = await cluster.leader("l"), Later(cluster)
        collector = Collector(leader, clock, lambda _event: None)
        await leader.recovered(["t1"])
        await collector.tick()
        assert (await collector.recovery("t1")).trace is Trace.RUNNING
        waiting = asyncio.create_task(collector.outcome("t1"))
        await cluster.client().zadd(cluster.shared.keys.queue("").inflight, {"t1": 1})  # its time is over
        clock.ahead = LOOK
        await collector.tick()
        outcome = await asyncio.wait_for(waiting, 10)
        assert (outcome.status.value, outcome.code) == ("unknown", "lost")
        assert (await collector.recovery("t2")).trace is Trace.NEVER_BEGAN

    async def test_a_server_that_was_started_again_may_lack_it_too(self, cluster: RedisCluster, admin: Any) -> None:
        """Also when its job comes later: no other term has to begin for it."""
        leader = await cluster.leader("l")
        await leader.recovered([])
        restarted(admin, cluster)
        await leader.push([task(1)])
        collector = Collector(leader, cluster.clock, lambda _event: None)
        asked = [asyncio.create_task(collector.recovery(id)) for id in ("t1", "t2")]
        assert [(await one).trace for one in asked] == [Trace.RUNNING, Trace.RUNNING]
        assert await leader.places(["t1", "t2"]) == {"t1": Place.READY, "t2": Place.LOST}
        assert await leader.withdraw(["t1", "t2"]) == ["t1"]

    async def test_what_is_open_when_a_term_begins_stays_in_doubt_whoever_asks_for_it_when(
        self, cluster: RedisCluster, admin: Any
    ) -> None:
        """Its job is in no file at the moment, or Redis stalls while its recovery is asked for."""
        leader = await cluster.leader("l")
        restarted(admin, cluster)
        await leader.push([task(1)])
        await leader.recovered(["t1", "t2"])
        assert not await leader.doubt(["t3"])
        assert admin.zrange(cluster.shared.keys.queue("").inflight, 0, -1) == ["t2"]
        admin.zadd(cluster.shared.keys.queue("").inflight, {"t2": 1})  # its time is over
        collector = Collector(leader, cluster.clock, lambda _event: None, lambda: {"t1", "t2"})
        await collector.tick()
        asked = [asyncio.create_task(collector.recovery(id)) for id in ("t1", "t2", "t3")]
        assert [(await one).trace for one in asked] == [Trace.RUNNING, Trace.UNKNOWN, Trace.NEVER_BEGAN]

    async def test_history_is_settled_only_once_every_open_run_was_looked_for(
        self, cluster: RedisCluster, admin: Any
    ) -> None:
        """A leader that fails in between leaves it to the next one."""
        leader = await cluster.leader("l")
        restarted(admin, cluster)
        take_away(admin, "zadd")
        with pytest.raises(StoreRefuses):
            await leader.recovered(["t1"])
        give_back(admin)
        await leader.recovered(["t1"])
        assert admin.zrange(cluster.shared.keys.queue("").inflight, 0, -1) == ["t1"]

    async def test_what_is_not_known_to_be_open_keeps_another_history_in_doubt_and_no_first_one(
        self, cluster: RedisCluster, admin: Any
    ) -> None:
        leader = await cluster.leader("l")
        await leader.recovered(None)
        assert admin.hexists(cluster.shared.keys.meta, "history")
        restarted(admin, cluster)
        await leader.recovered(None)
        assert await leader.doubt(["t1"]) == ["t1"]

    async def test_what_is_withdrawn_may_have_begun_before_it_was_forgotten(
        self, cluster: RedisCluster, admin: Any
    ) -> None:
        """Its push was claimed, but nobody heard the answer; `resources` would be tried again beside it."""
        leader = await cluster.leader("l")
        restarted(admin, cluster)
        await leader.push([task(2)])
        assert await leader.withdraw(["t1", "t2"]) == ["t2"]
        assert await leader.outcomes() == ["t2"]
        admin.zadd(cluster.shared.keys.queue("").inflight, {"t1": 1})  # its time is over
        assert await leader.lost() == ["t1"]

    async def test_what_is_recalled_before_it_is_pushed_is_never_pushed(
        self, cluster: RedisCluster, admin: Any
    ) -> None:
        """Doubted for what the server forgot long ago, it counted as claimed, and was pushed in the same look."""
        leader = await cluster.leader("l")
        restarted(admin, cluster)
        collector = Collector(leader, cluster.clock, lambda _event: None, lambda: {"t1"})
        handed = asyncio.create_task(collector.hand_over(task(1)))
        await asyncio.sleep(0)
        collector.recall({"t1"})
        await collector.tick()
        assert (await asyncio.wait_for(handed, 10)).code == RESOURCES
        assert await leader.places(["t1"]) == {"t1": Place.ABSENT}

    async def test_what_is_recalled_before_it_is_handed_over_is_not_pushed_either(self, cluster: RedisCluster) -> None:
        """Its state was acknowledged already; of one that is settled nothing is remembered."""
        leader = await cluster.leader("l")
        collector = Collector(leader, cluster.clock, lambda _event: None, lambda: {"t1"})
        collector.recall({"t1"})
        assert (await asyncio.wait_for(collector.hand_over(task(1)), 10)).code == RESOURCES
        await collector.tick()
        assert await leader.places(["t1"]) == {"t1": Place.ABSENT}
        collector.forget("t1")
        again = asyncio.create_task(collector.hand_over(task(1)))
        await asyncio.sleep(0)
        await collector.tick()
        again.cancel()
        assert await leader.places(["t1"]) == {"t1": Place.READY}

    async def test_only_what_the_queue_does_not_know_is_presumed_lost(self, cluster: RedisCluster) -> None:
        """As where `meta` alone was removed by hand."""
        leader, open_runs = await cluster.leader("l"), [f"t{n}" for n in range(4)]
        await leader.push([task(n) for n in range(3)])
        ended, claimed = await leader.claim(AGENTS, 2, LONG)
        assert await leader.finish(ended, OK)
        await leader.presume_lost(open_runs)
        places = await leader.places(open_runs)
        assert list(places.values()) == [Place.ENDED, Place.CLAIMED, Place.READY, Place.LOST]
        assert await leader.finish(claimed, OK)

    async def test_where_info_may_not_be_asked_nothing_is_doubted(self, cluster: RedisCluster, admin: Any) -> None:
        leader = await cluster.leader("l")
        restarted(admin, cluster)
        take_away(admin, "info")
        await leader.recovered(["t1"])
        assert admin.hget(cluster.shared.keys.meta, "history") == "0" * 40
        assert await leader.doubt(["t1"]) == ()
        assert (await leader.places(["t1"]))["t1"] is Place.ABSENT

    async def test_only_the_leader_says_that_all_is_accounted_for(self, cluster: RedisCluster, admin: Any) -> None:
        old = await cluster.leader("old", fence=1)
        await cluster.leader("new", fence=2)
        with pytest.raises(NotLeading):
            await old.recovered([])
        assert admin.hget(cluster.shared.keys.meta, "history") is None


def milliseconds(admin: Any) -> int:
    seconds, micros = admin.time()
    return int(seconds) * 1000 + int(micros) // 1000


def restarted(admin: Any, cluster: RedisCluster) -> None:
    """As if the newest leader had settled with another start of this server."""
    admin.hset(cluster.shared.keys.meta, "history", "0" * 40)


class Later:
    """The cluster's clock, `ahead` of it."""

    def __init__(self, cluster: RedisCluster) -> None:
        self.ahead = 0
        self._clock = cluster.clock

    def now(self) -> int:
        return self._clock.now() + self.ahead

    def elapsed(self) -> int:
        return self._clock.elapsed() + self.ahead

    async def sleep_until(self, when: int, wakeup: asyncio.Event) -> None:
        await self._clock.sleep_until(when, wakeup)
