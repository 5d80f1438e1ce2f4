"""Agents registered and changed over the API while their cycles begin and end, and while a disk refuses."""

import asyncio
from collections.abc import Callable

import pytest

from tests.support.world import FailingStates, World
from vmsh_scheduler.domain.action import Callback
from vmsh_scheduler.domain.spec import Spec
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import SECOND
from vmsh_scheduler.engine.bounds import Pool
from vmsh_scheduler.engine.control import Control
from vmsh_scheduler.errors import StateWriteFailed
from vmsh_scheduler.registry import Registry, Rules
from vmsh_scheduler.stores.memory import MemorySpecs

JOB = "_agents/u/a"
BODY = {"agentId": "a", "walletAddress": "kaspa:q", "cycleIntervalMs": 1_000, "callbackUrl": "http://localhost/x"}


class SlowSpecs(MemorySpecs):
    """A disk that makes one wait while `gate` is closed, and that may be full."""

    full = False

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def save(self, spec: Spec) -> bool:
        await self._disk()
        return await super().save(spec)

    async def delete(self, kind: str, id: str) -> bool:
        await self._disk()
        return await super().delete(kind, id)

    async def _disk(self) -> None:
        await self.gate.wait()
        if self.full:
            raise StateWriteFailed("the document cannot be stored: database or disk is full")


class Scene:
    """One user's registry over an engine in virtual time, whose runs end when the test says so."""

    def __init__(self) -> None:
        self.states = FailingStates()
        self.world = World(states=self.states, pools={"agents": Pool(4, 100)})
        self.world.engine.carrier.executors = self.world.engine.executors = {Callback: self.world.executor}
        self.specs = SlowSpecs()
        rules = Rules(most=10, most_per_user=0, timeout=30 * SECOND, url_problem=lambda url: "")
        self.registry = Registry(self.specs, self.world.engine, rules)
        self.world.executor.hold = True

    @property
    def state(self) -> JobState:
        return self.world.state(JOB)

    async def register(self, **other: object) -> None:
        await self.registry.register({**BODY, **other}, "u", by="test")

    async def control(self, action: str) -> object:
        return (await self.registry.control("u", "a", action, by="test"))[1]

    async def meanwhile(self, change: Callable[[], object], happens: Callable[[], object]) -> None:
        """`happens` while the change waits for its document's disk."""
        self.specs.gate.clear()
        changing = asyncio.ensure_future(change())  # type: ignore[arg-type]  # a coroutine of either kind
        await self.world.settle()
        done = happens()
        if asyncio.iscoroutine(done):
            await done
        await self.world.settle()
        self.specs.gate.set()
        await changing

    def finish(self) -> None:
        self.world.executor.finish(self.world.executor.runs[-1])

    async def shown(self) -> dict[str, object]:
        ((view,),) = [some async for some in self.registry.views("u")]
        return view


@pytest.fixture
async def scene() -> Scene:
    scene = Scene()
    await scene.world.start()
    await scene.register()
    return scene


@pytest.mark.parametrize("action", ["pause", "resume"])
async def test_a_cycle_that_ends_while_a_change_is_stored_has_ended(scene: Scene, action: str) -> None:
    await scene.world.go(2 * SECOND)
    assert len(scene.state.runs) == 1
    await scene.meanwhile(lambda: scene.control(action), scene.finish)
    assert (scene.state.runs, scene.state.succeeded) == ((), 1)


async def test_a_cycle_that_ends_while_its_agent_is_registered_anew_has_ended(scene: Scene) -> None:
    await scene.world.go(2 * SECOND)
    await scene.meanwhile(scene.register, scene.finish)
    assert scene.state.runs == ()


@pytest.mark.parametrize("change", ["register", "resume"])
async def test_a_cycle_that_begins_while_a_change_is_stored_is_not_forgotten(scene: Scene, change: str) -> None:
    act = scene.register if change == "register" else lambda: scene.control(change)
    await scene.meanwhile(act, lambda: scene.world.go(2 * SECOND))
    assert len(scene.state.runs) == 1
    await scene.world.go(5 * SECOND)
    assert len(scene.world.executor.runs) == 1, "no second one beside it"


async def test_what_the_log_of_states_refuses_is_not_done_half(scene: Scene) -> None:
    before = scene.specs.get("agent", JOB)
    assert before is not None
    scene.states.full = True
    for change in (
        lambda: scene.register(cycleIntervalMs=5_000),
        lambda: scene.control("pause"),
        lambda: scene.control("remove"),
    ):
        with pytest.raises(StateWriteFailed, match="not done: no space left"):
            await change()
        kept = scene.specs.get("agent", JOB)
        assert kept is not None
        assert kept.document == before.document
        assert scene.world.engine.board.jobs[JOB].enabled
    with pytest.raises(StateWriteFailed):
        await scene.register(agentId="new")
    assert scene.specs.get("agent", "_agents/u/new") is None
    scene.states.full = False
    await scene.control("pause")
    await scene.control("resume")
    await scene.register(agentId="new")


async def test_a_refusal_that_cannot_be_taken_back_says_so(scene: Scene) -> None:
    scene.states.full = True
    original = scene.specs.save

    async def save(spec: Spec) -> bool:
        done = await original(spec)
        scene.specs.full = True
        return done

    scene.specs.save = save  # type: ignore[method-assign]  # the disk fills up between the two
    with pytest.raises(StateWriteFailed, match="counts from the next start on"):
        await scene.control("pause")


async def test_an_agent_whose_document_cannot_be_removed_stays(scene: Scene) -> None:
    scene.specs.full = True
    with pytest.raises(StateWriteFailed):
        await scene.control("remove")
    assert (await scene.shown())["id"] == "a"
    scene.specs.full = False
    await scene.control("remove")
    assert scene.registry.counts()["count"] == 0


async def test_what_an_operator_holds_is_shown_as_paused_and_stays_held(scene: Scene) -> None:
    control = Control(scene.world.engine)
    await control.pause(JOB, until=None, note="incident", by="op")
    assert (await scene.shown())["status"] == "PAUSED"
    assert scene.registry.counts() == {"count": 1, "running": 0, "paused": 1}
    answer = await scene.control("resume")
    assert isinstance(answer, dict)
    assert answer["status"] == "PAUSED"
    await scene.register()
    await scene.world.go(5 * SECOND)
    assert scene.world.executor.runs == []
    await control.resume(JOB, by="op")
    assert (await scene.shown())["status"] == "RUNNING"
    await scene.world.go(2 * SECOND)
    assert len(scene.world.executor.runs) == 1
