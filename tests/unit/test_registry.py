"""Agents registered and changed over the API while their cycles begin and end, and while a disk refuses."""

import asyncio
from collections.abc import Callable

import pytest

from tests.support.world import SlowStates, World
from vmsh_scheduler.domain.action import Callback
from vmsh_scheduler.domain.run import Outcome, Recovery, Run, Status, Trace
from vmsh_scheduler.domain.spec import Spec
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import DAY, MINUTE, SECOND
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
        self.states = SlowStates()
        self.world = World(states=self.states, pools={"agents": Pool(4, 100)})
        self.world.executor.hold = True
        self.specs = SlowSpecs()
        self.registry = self._opened()

    def _opened(self) -> Registry:
        engine = self.world.engine
        engine.carrier.executors = engine.executors = {Callback: self.world.executor}
        rules = Rules(most=10, most_per_user=0, timeout=30 * SECOND, url_problem=lambda url: "")
        return Registry(self.specs, engine, rules)

    async def restart(self) -> None:
        """As after kill -9: the states are there, and every document is gone."""
        self.specs = SlowSpecs()
        self.world.boot(2)
        self.registry = self._opened()
        await self.world.start()

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


class TestOpenSince:
    """A run that was open when the daemon died, of an agent that came back only with a registration."""

    async def reopened(self, scene: Scene, trace: Trace) -> Run:
        await scene.world.go(2 * SECOND)
        (old,) = scene.state.runs
        await scene.restart()
        outcome = Outcome(Status.OK) if trace is Trace.FINISHED else None
        scene.world.executor.traces[old.id] = Recovery(trace, outcome)
        await scene.register()
        return old

    @pytest.mark.parametrize("trace", [Trace.UNKNOWN, Trace.NEVER_BEGAN, Trace.FINISHED])
    async def test_it_is_settled_and_the_agent_runs(self, scene: Scene, trace: Trace) -> None:
        old = await self.reopened(scene, trace)
        assert scene.state.runs == ()
        assert scene.world.executor.forgotten == [old.id]
        await scene.world.go(2 * SECOND)
        assert [run.slot > old.slot for run in scene.world.executor.runs] == [False, True]

    async def test_one_that_goes_on_is_waited_for(self, scene: Scene) -> None:
        old = await self.reopened(scene, Trace.RUNNING)
        await scene.world.go(5 * SECOND)
        assert [run.id for run in scene.world.executor.runs] == [old.id, old.id], "begun once, adopted once"
        scene.world.executor.finish(old)
        await scene.world.go(2 * SECOND)
        assert len(scene.world.executor.runs) == 3

    async def test_one_of_a_registration_that_is_refused_stays_open(self, scene: Scene) -> None:
        await scene.world.go(2 * SECOND)
        await scene.restart()
        scene.states.full = True
        with pytest.raises(StateWriteFailed):
            await scene.register()
        scene.states.full = False
        assert len(scene.states.all()[JOB].runs) == 1
        await scene.register()
        assert scene.state.runs == ()


@pytest.mark.parametrize("slow", ["document", "state"])
@pytest.mark.parametrize("change", ["register", "resume"])
async def test_t2_a_clock_set_back_while_a_change_is_stored_freezes_no_agent(change: str, slow: str) -> None:
    scene = Scene()
    scene.world.executor.hold = False
    await scene.world.start()
    await scene.register()
    await scene.world.go(3 * SECOND)
    if change == "resume":
        await scene.control("pause")
    gate = scene.specs.gate if slow == "document" else scene.states.gate
    gate.clear()
    changing = asyncio.ensure_future(scene.register() if change == "register" else scene.control(change))
    await scene.world.settle()
    scene.world.clock.step(-DAY)
    ticking = asyncio.ensure_future(scene.world.engine.tick())
    await scene.world.settle()
    gate.set()
    await asyncio.gather(changing, ticking)
    before = len(scene.world.executor.runs)
    await scene.world.go(MINUTE)
    assert len(scene.world.executor.runs) - before > 50
    assert scene.world.engine.board.unplanned == {}


async def test_t2_a_refused_registration_during_a_clock_step_leaves_no_plan(scene: Scene) -> None:
    gate = scene.states.gate
    gate.clear()
    scene.states.full = True
    changing = asyncio.ensure_future(scene.register(agentId="new"))
    await scene.world.settle()
    scene.world.clock.step(-DAY)
    ticking = asyncio.ensure_future(scene.world.engine.tick())
    await scene.world.settle()
    gate.set()
    with pytest.raises(StateWriteFailed):
        await changing
    await ticking
    scene.states.full = False
    await scene.world.tick()
    assert "_agents/u/new" not in scene.world.engine.board.unplanned


@pytest.mark.parametrize("outcome", [Outcome(Status.OK), Outcome(Status.FAILED, message="boom")])
@pytest.mark.parametrize("ended", [True, False])
async def test_g8_registered_anew_behind_the_clock_no_key_is_used_again(
    scene: Scene, outcome: Outcome, ended: bool
) -> None:
    """The clock is set back so far that the next slot would be the last one again."""
    await scene.world.go(SECOND)
    (run,) = scene.world.executor.runs
    if ended:
        scene.world.executor.finish(run, outcome)
        await scene.world.settle()
    for _ in range(2):
        scene.world.clock.step(run.slot - SECOND - scene.world.clock.wall)
        await scene.world.tick()
        await scene.register()
    if not ended:
        scene.world.executor.finish(run, outcome)
    scene.world.executor.hold = False
    await scene.world.go(3 * SECOND)
    slots = [run.slot for run in scene.world.executor.runs]
    assert len(slots) > 2, "and nothing is frozen"
    assert slots == sorted(set(slots))
