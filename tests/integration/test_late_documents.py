"""Steps that write agents: which are heard, and which came too late."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from tests.support.dispatching import lock_value, take_lock
from tests.support.redis_keys import SharedRedis
from tests.support.redis_server import serving
from tests.support.underway import Underway
from vmsh_scheduler.domain.spec import Spec
from vmsh_scheduler.errors import StateWriteFailed
from vmsh_scheduler.stores.redis.specs import DELETE, SAVE, RedisSpecs

ONE = Spec("agent", "u/a", {"name": "A"}, 1, 1, 1, "u")
LATE: dict[str, Callable[[RedisSpecs], Awaitable[bool]]] = {
    "a change": lambda specs: specs.save(replace(ONE, version=2)),
    "a removal": lambda specs: specs.delete("agent", "u/a"),
}


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[SharedRedis]:
    with serving(tmp_path / "redis") as running:
        yield SharedRedis(running, "{p}:q")


@pytest.fixture
async def wire(shared: SharedRedis) -> AsyncIterator[Any]:
    async with shared.client() as client:
        for script in (SAVE, DELETE):
            await client.script_load(script.text)
        yield Underway(client)


async def leading(wire: Any, shared: SharedRedis, name: str, fence: int) -> RedisSpecs:
    await take_lock(wire, shared, name, fence)
    specs = RedisSpecs(wire, shared.keys)
    specs.lead(lock_value(name, fence))
    await specs.refresh()
    return specs


async def stored(wire: Any, shared: SharedRedis) -> Mapping[str, Spec]:
    specs = RedisSpecs(wire, shared.keys)
    await specs.refresh()
    return specs.all("agent")


async def test_what_a_leader_wrote_stops_no_first_step_of_the_next(wire: Any, shared: SharedRedis) -> None:
    """Whose steps begin at 1 again, be it a registration or a removal."""
    for fence in (7, 9):
        old = await leading(wire, shared, "a", fence)
        for version in (1, 2, 3):
            assert await old.save(replace(ONE, version=version))
        new = await leading(wire, shared, "b", fence + 1)
        assert await (new.delete("agent", "u/a") if fence == 7 else new.save(replace(ONE, version=4)))


@pytest.mark.parametrize("late", LATE)
async def test_what_arrives_late_changes_no_agent_that_was_registered_anew(
    wire: Any, shared: SharedRedis, late: str
) -> None:
    """It begins with the version that the one before had."""
    specs, again = await leading(wire, shared, "a", 7), replace(ONE, document={"name": "B"})
    assert await specs.save(ONE)
    wire.hold = True
    with pytest.raises(StateWriteFailed):
        await LATE[late](specs)
    assert await specs.delete("agent", "u/a")
    assert await specs.save(again)
    with pytest.raises(ResponseError, match="STALE"):
        await wire.arrive()
    assert await stored(wire, shared) == {"u/a": again}
    assert await specs.save(replace(ONE, id="u/b"))


async def test_a_registration_that_arrives_late_brings_no_agent_back(wire: Any, shared: SharedRedis) -> None:
    """It was sent again when no answer came, and the agent was removed."""
    specs = await leading(wire, shared, "a", 7)
    assert await specs.save(ONE)  # let its answer be lost
    wire.hold = True
    with pytest.raises(StateWriteFailed):
        await specs.save(ONE)
    assert await specs.delete("agent", "u/a")
    with pytest.raises(ResponseError, match="STALE"):
        await wire.arrive()
    assert await stored(wire, shared) == {}


@pytest.mark.parametrize("second", LATE)
async def test_of_two_late_steps_the_second_changes_no_agent_that_was_registered_between(
    wire: Any, shared: SharedRedis, second: str
) -> None:
    specs, anew = await leading(wire, shared, "a", 7), replace(ONE, document={"name": "B"})
    assert await specs.save(ONE)
    wire.hold = True
    with pytest.raises(StateWriteFailed):
        await specs.delete("agent", "u/a")
    wire.hold = True
    with pytest.raises(StateWriteFailed):
        await LATE[second](specs)
    assert await wire.arrive()
    await specs.refresh()
    assert await specs.save(anew)
    with pytest.raises(ResponseError, match="STALE"):
        await wire.arrive()
    assert await stored(wire, shared) == {"u/a": anew}


async def test_a_step_that_cannot_be_counted_changes_nothing(wire: Any, shared: SharedRedis) -> None:
    """Others would not look at what they do not see to have changed."""
    specs = await leading(wire, shared, "a", 7)
    assert await specs.save(ONE)
    before = await wire.hgetall(shared.keys.specs("agent"))
    await wire.set(shared.keys.specs_version, "no count")
    for step in (specs.save(replace(ONE, version=2)), specs.delete("agent", "u/a")):
        with pytest.raises(StateWriteFailed):
            await step
    assert await wire.hgetall(shared.keys.specs("agent")) == before
