"""Callbacks of a cluster: a key is sent by one instance at a time, and never again once it was taken (forge-os 8)."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.contract.world import FixedClock
from tests.support.builders import NOON, run_of
from tests.support.callbacks import Desk, Desks, job_of, many_desks, until
from tests.support.sink import reply, sink
from vmsh_scheduler.domain.run import Outcome, Status, Trace
from vmsh_scheduler.errors import StoreDown
from vmsh_scheduler.executors.deduped import DedupedCallbacks
from vmsh_scheduler.ports import Known
from vmsh_scheduler.stores.memory import MemoryDedupe


@pytest.fixture
async def desks() -> AsyncIterator[Desks]:
    async with many_desks() as make:
        yield make


class DownDedupe:
    async def begin(self, key: str, owner: str) -> Known:
        raise StoreDown("it does not answer")

    async def done(self, key: str, owner: str) -> None:
        raise StoreDown("it does not answer")

    async def failed(self, key: str, owner: str) -> None:
        raise StoreDown("it does not answer")


def memory() -> MemoryDedupe:
    return MemoryDedupe(FixedClock(), lease_ms=60_000, done_ms=60_000)


class Sender:
    """One instance's executor; `skipped` counts."""

    def __init__(self, desk: Desk, dedupe: MemoryDedupe | DownDedupe, name: str) -> None:
        self.skipped = 0
        self.executor = DedupedCallbacks(desk.executor, dedupe, name, self._skip)

    def _skip(self) -> None:
        self.skipped += 1

    async def send(self, url: str, *, attempt: int = 1, instance: str = "") -> Outcome:
        job = job_of(url)
        if instance:
            job.labels["instance"] = instance  # type: ignore[index]  # the builder's dict
        return await self.executor.run(job, run_of(job, NOON, attempt=attempt))


async def test_what_was_taken_is_not_sent_again_by_anybody(desks: Desks) -> None:
    dedupe = memory()
    one, other = Sender(desks(), dedupe, "a"), Sender(desks(), dedupe, "b")
    async with sink() as consumer:
        first = await one.send(consumer.url)
        again = await other.send(consumer.url, attempt=2)
    assert len(consumer.asked) == 1
    assert (first.status, again.status, again.code) == (Status.OK, Status.OK, "deduped")
    assert again.result == {
        "callbackUrl": consumer.url,
        "callbackIdempotencyKey": first.result["callbackIdempotencyKey"],
        "callbackDeduped": True,
    }
    assert (one.skipped, other.skipped) == (0, 1)


async def test_while_one_sends_another_is_told_to_come_back(desks: Desks) -> None:
    dedupe, gate = memory(), asyncio.Event()

    async def slowly(writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.write(reply())

    one, other = Sender(desks(), dedupe, "a"), Sender(desks(), dedupe, "b")
    async with sink(slowly) as consumer:
        sending = asyncio.ensure_future(one.send(consumer.url))
        await until(lambda: len(consumer.asked) == 1)
        busy = await other.send(consumer.url, attempt=2)
        gate.set()
        assert (await sending).status is Status.OK
    assert busy.code == "resources"
    assert len(consumer.asked) == 1


async def test_what_was_refused_is_sent_again_under_the_same_key(desks: Desks) -> None:
    dedupe = memory()
    one, other = Sender(desks(), dedupe, "a"), Sender(desks(), dedupe, "b")
    async with sink(reply(503, b"no")) as consumer:
        assert (await one.send(consumer.url)).status is Status.FAILED
        consumer.answer = reply()
        assert (await other.send(consumer.url, attempt=2)).status is Status.OK
    keys = {asked.headers["X-ForgeOS-Idempotency-Key"] for asked in consumer.asked}
    assert (len(consumer.asked), len(keys)) == (2, 1)


async def test_a_send_that_is_cut_off_gives_its_key_back(desks: Desks) -> None:
    """The claim of a worker ran out while it sent: whoever has the run now need not wait."""
    dedupe = memory()

    async def never(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    one, other = Sender(desks(), dedupe, "a"), Sender(desks(), dedupe, "b")
    async with sink(never) as consumer:
        sending = asyncio.ensure_future(one.send(consumer.url))
        await until(lambda: len(consumer.asked) == 1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        consumer.answer = reply()
        assert (await other.send(consumer.url, attempt=2)).status is Status.OK


async def test_a_store_that_is_down_keeps_nothing_from_being_sent(desks: Desks) -> None:
    one = Sender(desks(), DownDedupe(), "a")
    async with sink() as consumer:
        for attempt in (1, 2):
            assert (await one.send(consumer.url, attempt=attempt)).code == "delivered"
    assert len(consumer.asked) == 2


async def test_a_cycle_without_a_url_takes_no_key(desks: Desks) -> None:
    one = Sender(desks(), memory(), "a")
    for _ in range(2):
        assert (await one.send("")).code == "no_callback"
    assert one.skipped == 0


async def test_the_receiver_is_told_who_enqueued_and_not_who_sends(desks: Desks) -> None:
    """forge-os section 7."""
    one = Sender(desks(), memory(), "worker-9")
    async with sink() as consumer:
        await one.send(consumer.url, instance="leader-3")
    (asked,) = consumer.asked
    assert asked.headers["X-ForgeOS-Scheduler-Instance"] == "leader-3"
    assert b'"instanceId":"leader-3"' in asked.body


async def test_the_rest_is_the_inner_executors(desks: Desks) -> None:
    executor = Sender(desks(), memory(), "a").executor
    job = job_of("http://127.0.0.1:1/")
    run = run_of(job, NOON)
    assert (await executor.recover(job, run)).trace is Trace.UNKNOWN
    assert (await executor.adopt(job, run)).status is Status.UNKNOWN
    assert await executor.probe(job, run) is None
    executor.forget(run)
    executor.hurry()
