"""ports.Agenda."""

import random

import pytest

from vmsh_scheduler.ports import Agenda
from vmsh_scheduler.stores.local.agenda import HeapAgenda


@pytest.fixture
def agenda() -> Agenda:
    return HeapAgenda()


async def test_jobs_come_due_in_order_and_once(agenda: Agenda) -> None:
    for job_id, due in (("c", 30), ("a", 10), ("b", 20)):
        await agenda.schedule(job_id, due)
    assert await agenda.next_due() == 10
    assert await agenda.due(9, 10) == []
    assert await agenda.due(20, 10) == ["a", "b"]
    assert await agenda.due(20, 10) == []
    assert await agenda.next_due() == 30


async def test_due_takes_no_more_than_asked_for(agenda: Agenda) -> None:
    for n in range(5):
        await agenda.schedule(str(n), n)
    assert await agenda.due(10, 2) == ["0", "1"]
    assert await agenda.due(10, 9) == ["2", "3", "4"]


async def test_a_new_date_replaces_the_old_one(agenda: Agenda) -> None:
    await agenda.schedule("a", 10)
    await agenda.schedule("a", 50)
    assert await agenda.due(49, 9) == []
    await agenda.schedule("a", 5)
    assert await agenda.due(100, 9) == ["a"]
    assert await agenda.next_due() is None


async def test_cancelled_is_neither_due_nor_ready(agenda: Agenda) -> None:
    await agenda.schedule("a", 10)
    await agenda.release("a", 10, 1)
    await agenda.cancel("a")
    await agenda.cancel("never there")
    assert await agenda.next_due() is None
    assert await agenda.claim(9) == []
    assert await agenda.depth() == 0


async def test_claims_go_by_priority_then_by_slot_then_by_arrival(agenda: Agenda) -> None:
    for job_id, slot, priority in (("late", 9, 2), ("low", 1, 3), ("old", 1, 2), ("old too", 1, 2), ("urgent", 99, 0)):
        await agenda.release(job_id, slot, priority)
    assert await agenda.depth() == 5
    assert await agenda.claim(2) == ["urgent", "old"]
    assert await agenda.claim(9) == ["old too", "late", "low"]
    assert await agenda.depth() == 0


async def test_shares_of_a_pool_take_turns(agenda: Agenda) -> None:
    """5,000 of one user do not keep another's five waiting."""
    for n in range(5_000):
        await agenda.release(f"many/{n}", 1, 2, pool="agents", share="many")
    for n in range(5):
        await agenda.release(f"few/{n}", 9, 2, pool="agents", share="few")
    first = await agenda.claim(10, "agents")
    assert [job_id for job_id in first if job_id.startswith("few")] == [f"few/{n}" for n in range(5)]
    assert first[0] == "many/0"


async def test_pools_know_nothing_of_each_other(agenda: Agenda) -> None:
    await agenda.release("a", 1, 2, pool="agents")
    assert await agenda.claim(9) == []
    assert (await agenda.depth(), await agenda.depth("agents")) == (0, 1)
    await agenda.release("a", 1, 2)
    assert (await agenda.depth(), await agenda.depth("agents")) == (1, 0)
    await agenda.cancel("a")
    assert await agenda.claim(9) == await agenda.claim(9, "agents") == []


async def test_a_claim_is_given_once_and_may_come_again_after_ack(agenda: Agenda) -> None:
    await agenda.release("a", 1, 1)
    await agenda.release("a", 2, 1)
    assert await agenda.claim(9) == ["a"]
    assert await agenda.claim(9) == []
    await agenda.ack("a")
    await agenda.release("a", 3, 1)
    assert await agenda.claim(9) == ["a"]


async def test_it_stays_right_and_small_under_endless_rescheduling() -> None:
    agenda = HeapAgenda()
    dice = random.Random(7)  # no secret hangs on it
    dates: dict[str, int] = {}
    for _ in range(20_000):
        job_id, due = f"j{dice.randrange(50)}", dice.randrange(1000)
        dates[job_id] = due
        await agenda.schedule(job_id, due)
        await agenda.release(job_id, due, 1)
    assert len(agenda._due_heap) < 300
    assert agenda._lines[""]._entries < 300
    taken = await agenda.due(1000, 100)
    assert [dates[job_id] for job_id in taken] == sorted(dates.values())
    assert [dates[job_id] for job_id in await agenda.claim(100)] == sorted(dates.values())
