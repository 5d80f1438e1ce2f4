"""The engine over memory stores in virtual time: starts, waits, overlaps, crashes, full disks."""

import asyncio
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from tests.support.builders import NOON, agent, cadence
from tests.support.ledger import slots_of
from tests.support.virtual_time import run_virtual
from tests.support.world import CALLBACK, FailingStates, SlowStates, World
from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.decision import Note, Reason, Verdict
from vmsh_scheduler.domain.events import ClockStepped, Recovered, StateFailed, StateRestored, Trouble
from vmsh_scheduler.domain.explain import covers
from vmsh_scheduler.domain.job import OnUnknown, Origin, Overlap, Subject
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.run import Found, Nothing, Outcome, Recovery, Status, Trace
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import HOUR, SECOND
from vmsh_scheduler.engine import carry
from vmsh_scheduler.engine.control import Control
from vmsh_scheduler.engine.upkeep import MOST_KEPT
from vmsh_scheduler.errors import NotFound, StateWriteFailed, Usage
from vmsh_scheduler.ports import Change

DOWN = Outcome(Status.FAILED, ErrorClass.NETWORK, "exit", "connection refused")
SUBJECT = Subject("batches", "ns", "out/batches")


async def test_a_cadence_keeps_its_grid() -> None:
    world = World(cadence(10))
    await world.start()
    await world.go(60 * SECOND)
    assert world.slots() == [NOON + n * 10_000 for n in range(7)]
    assert [d.verdict for d in world.decisions] == [Verdict.FIRED] * 7
    assert world.decisions[0].reason is Reason.FIRST_SIGHT
    assert {d.reason for d in world.decisions[1:]} == {Reason.DUE}


async def test_every_slot_has_exactly_one_decision_through_failures() -> None:
    world = World(cadence(10))
    world.executor.script["ns/fast"] = [DOWN, DOWN, DOWN]
    await world.start()
    await world.go(120 * SECOND)
    for n in range(13):
        slot = NOON + n * 10_000
        assert sum(covers(d, slot) for d in world.decisions) == 1, n
    assert [run.attempt for run in world.executor.runs][:4] == [1, 2, 3, 4]
    assert {run.key for run in world.executor.runs[:4]} == {f"ns/fast/{NOON}"}


async def test_backoff_is_waited_out_to_the_second() -> None:
    world = World(cadence(3600))
    world.executor.script["ns/fast"] = [DOWN] * 8
    await world.start()
    await world.go(600 * SECOND)
    starts = [run.started_at for run in world.executor.runs]
    assert [(b - a) // 1000 for a, b in pairwise(starts)][:7] == [8, 13, 21, 34, 55, 90, 145]


async def test_backoff_survives_a_crash() -> None:
    world = World(cadence(3600))
    world.executor.script["ns/fast"] = [DOWN]
    await world.start()
    await world.tick()
    world.boot(fence=2)
    await world.start()
    await world.tick()
    assert len(world.executor.runs) == 1
    await world.go(8 * SECOND)
    assert [run.attempt for run in world.executor.runs] == [1, 2]


async def test_a_hung_cadence_blocks_no_other() -> None:
    world = World(cadence(10), cadence(10, id="ns/strong"))
    world.executor.hold = True
    await world.start()
    await world.tick()
    hung = world.executor.runs[0]
    world.executor.hold = False
    world.executor.finish(world.executor.runs[1])
    await world.go(30 * SECOND)
    other = world.executor.runs[1].job_id
    assert len(world.slots(other)) == 4
    assert world.slots(hung.job_id) == [NOON]
    overlaps = [d for d in world.decisions if d.job_id == hung.job_id and d.reason is Reason.OVERLAP]
    assert [d.slot for d in overlaps] == [NOON + 10_000, NOON + 20_000, NOON + 30_000]


async def test_concurrency_is_bounded_and_waiting_slots_are_accounted_for() -> None:
    jobs = [cadence(10, id=f"n{i}/fast") for i in range(5)]
    world = World(*jobs, concurrency=2)
    world.executor.hold = True
    await world.start()
    await world.tick()
    assert len(world.executor.runs) == 2
    world.clock.move(10_000)
    await world.tick()
    reasons = sorted(d.reason.value for d in world.decisions if d.slot == NOON + 10_000)
    assert reasons == ["capacity"] * 3 + ["overlap"] * 2
    while world.executor.runs and world.engine.running:
        for run in [r for r in world.executor.runs if r.id in world.executor._open]:
            world.executor.finish(run)
        await world.tick()
    assert sorted({run.job_id for run in world.executor.runs}) == sorted(job.id for job in jobs)


async def test_jobs_of_one_lane_take_turns() -> None:
    first, second = (replace(cadence(60, id=f"ns/{n}"), lane="ns|btc") for n in ("fast", "strong"))
    world = World(first, second)
    world.executor.hold = True
    await world.start()
    await world.tick()
    assert len(world.executor.runs) == 1
    world.executor.finish(world.executor.runs[0])
    await world.tick()
    assert len(world.executor.runs) == 2


async def test_runs_that_overlap_without_end_keep_nobody_from_their_lane() -> None:
    often, seldom = cadence(10, overlap=Overlap.ALLOW, misfire_grace=HOUR), cadence(3600, id="ns/cold")
    world = World(replace(often, lane="ns|btc"), replace(seldom, lane="ns|btc"), concurrency=9)
    world.executor.hold = True
    await world.start()
    await world.go(10 * SECOND)
    first = world.executor.runs[0]
    assert [run.job_id for run in world.executor.runs] == ["ns/fast"]
    world.executor.finish(first)
    await world.tick()
    assert [run.job_id for run in world.executor.runs] == ["ns/fast", "ns/cold"]
    world.executor.finish(world.executor.runs[1])
    await world.go(10 * SECOND)
    assert world.slots() == [NOON, NOON + 10_000, NOON + 20_000]


@pytest.mark.parametrize("word", ["pause", "reload"])
async def test_a_slot_that_stood_behind_a_withdrawn_job_starts_beside_its_own(word: str) -> None:
    often, seldom = cadence(10, overlap=Overlap.ALLOW, misfire_grace=HOUR), cadence(3600, id="ns/cold")
    world = World(replace(often, lane="ns|btc"), replace(seldom, lane="ns|btc"), concurrency=9)
    world.executor.hold = True
    await world.start()
    await world.go(10 * SECOND)
    assert world.slots() == [NOON]
    if word == "pause":
        await Control(world.engine).pause("ns/cold", until=None, note="", by="me")
    else:
        await world.engine.sync({"ns/fast": world.jobs["ns/fast"]}, "other")
    await world.go(20 * SECOND)
    assert world.slots() == [NOON + n * 10_000 for n in range(4)]
    assert {run.job_id for run in world.executor.runs} == {"ns/fast"}


async def test_a_slot_that_stood_behind_a_withdrawn_job_keeps_its_place_before_a_third() -> None:
    rules: dict[str, Any] = {"misfire_grace": HOUR, "timeout": 6 * HOUR}
    jobs = [cadence(3600, id="ns/a", overlap=Overlap.ALLOW, **rules)]
    jobs += [cadence(7200, id=id, **rules) for id in ("ns/b", "ns/c")]
    world = World(*(replace(job, lane="ns|btc") for job in jobs), concurrency=9)
    await world.start()
    await world.go(10 * SECOND)
    world.executor.hold = True
    before, control = len(world.executor.runs), Control(world.engine)
    for id in ("ns/a", "ns/b", "ns/a", "ns/c"):
        await control.fire(id, by="me")
        await world.tick()
    await control.pause("ns/b", until=None, note="", by="me")
    await world.tick()
    for n in range(2):
        world.executor.finish(world.executor.runs[before + n])
        await world.tick()
    assert [run.job_id for run in world.executor.runs[before:]] == ["ns/a", "ns/a", "ns/c"]


async def test_a_withdrawn_job_in_a_lane_does_not_strand_the_others() -> None:
    names = ("a", "b", "c")
    world = World(*(replace(cadence(600, id=f"ns/{n}"), lane="ns|btc") for n in names))
    world.executor.hold = True
    await world.start()
    await world.tick()
    running = world.executor.runs[0]
    waiting = [job_id for job_id in world.jobs if job_id != running.job_id]
    await Control(world.engine).pause(waiting[0], until=None, note="", by="me")
    world.executor.finish(running)
    await world.tick()
    assert [run.job_id for run in world.executor.runs] == [running.job_id, waiting[1]]


async def test_the_end_of_a_pause_leaves_the_engine_free_for_others() -> None:
    world = World(cadence(3600), cadence(10, id="b/fast"))
    await world.start()
    await world.tick()
    await Control(world.engine).pause("ns/fast", until=NOON + 3_000, note="", by="me")
    await world.go(30 * SECOND)
    assert len(world.slots("b/fast")) == 4
    assert world.state().pause is None
    await Control(world.engine).pause("ns/fast", until=world.clock.wall + 3_000, note="", by="me")
    world.clock.move(10 * SECOND)
    world.boot(fence=2)
    await world.start()
    await world.go(20 * SECOND)
    assert world.slots("b/fast")[-1] == NOON + 60_000


async def test_nothing_is_decided_while_stopping() -> None:
    world = World(cadence(10))
    world.executor.hold = True
    await world.start()
    await world.tick()
    world.engine.stopping = True
    world.clock.move(25_000)
    await world.engine.tick()
    assert [d.slot for d in world.decisions] == [NOON]


async def test_overlap_allow_runs_beside() -> None:
    world = World(cadence(10, overlap=Overlap.ALLOW))
    world.executor.hold = True
    await world.start()
    await world.go(20 * SECOND)
    assert world.slots() == [NOON, NOON + 10_000, NOON + 20_000]
    for run in list(world.executor.runs):
        world.executor.finish(run)
    await world.settle()
    assert world.state().runs == ()
    assert world.state().newest_slot == NOON + 20_000


async def test_fixed_delay_counts_from_completion() -> None:
    world = World(agent(15))
    world.executor.on_run = lambda run: world.clock.move(2_000)
    await world.start()
    await world.go(60 * SECOND)
    slots = world.slots("_agents/u/a")
    assert [b - a for a, b in pairwise(slots)] == [17_000] * (len(slots) - 1)
    assert len(slots) == 4


async def test_an_agent_that_is_switched_off_has_no_slots_and_starts_at_once_when_switched_on() -> None:
    job = agent(15)
    world = World(replace(job, enabled=False))
    await world.start()
    await world.go(60 * SECOND)
    assert world.decisions == []
    await world.engine.sync({job.id: job}, "cfg2")
    await world.tick()
    assert len(world.slots(job.id)) == 1


async def test_catch_up_after_downtime_runs_once() -> None:
    world = World(cadence(10))
    await world.start()
    await world.tick()
    world.clock.move(HOUR + 5_000)
    world.boot(fence=2)
    await world.start()
    await world.tick()
    assert world.slots() == [NOON, NOON + HOUR]
    assert sum(d.count for d in world.decisions) == 361


class TestClock:
    async def test_t1_forward_one_catch_up(self) -> None:
        world = World(cadence(10))
        await world.start()
        await world.tick()
        world.clock.step(HOUR)
        await world.tick()
        assert world.slots() == [NOON, NOON + HOUR]
        assert [e.by for e in world.events if isinstance(e, ClockStepped)] == [HOUR]

    @pytest.mark.parametrize("by", [HOUR, 30 * 24 * HOUR])
    async def test_t2_back_next_start_within_one_period_and_no_key_twice(self, by: int) -> None:
        world = World(cadence(89))
        await world.start()
        await world.go(89 * SECOND)
        world.clock.step(-by)
        await world.tick()
        before = len(world.executor.runs)
        await world.go(89 * SECOND)
        assert len(world.executor.runs) == before + 1
        keys = [run.key for run in world.executor.runs]
        assert len(keys) == len(set(keys))
        assert world.slots() == sorted(world.slots())

    async def test_t7_an_unset_clock_starts_nothing(self) -> None:
        world = World(cadence(10))
        world.clock.wall = 5_000
        await world.start()
        await world.tick()
        assert world.executor.runs == []
        world.clock.step(NOON)
        await world.tick()
        assert len(world.executor.runs) == 1


class TestReload:
    async def test_unchanged_keep_their_plan_removed_stop_added_start(self) -> None:
        world = World(cadence(10), cadence(10, id="old/fast"))
        await world.start()
        await world.tick()
        world.clock.move(5_000)
        world.jobs = {job.id: job for job in (cadence(10), cadence(10, id="new/fast"))}
        synced = await world.engine.sync(world.jobs, "cfg2")
        assert (synced.added, synced.changed, synced.removed) == (("new/fast",), (), ("old/fast",))
        await world.go(10 * SECOND)
        assert world.slots("old/fast") == [NOON]
        assert world.slots() == [NOON, NOON + 10_000]
        assert world.slots("new/fast")[0] == NOON

    async def test_a_job_removed_while_queued_does_not_start(self) -> None:
        world = World(cadence(10), cadence(10, id="b/fast"), concurrency=1)
        world.executor.hold = True
        await world.start()
        await world.tick()
        running = world.executor.runs[0]
        world.jobs = {running.job_id: world.jobs[running.job_id]}
        await world.engine.sync(world.jobs, "cfg2")
        world.executor.finish(running)
        await world.tick()
        assert len(world.executor.runs) == 1

    async def test_a_run_of_a_removed_job_is_still_settled(self) -> None:
        world = World(cadence(10))
        world.executor.hold = True
        await world.start()
        await world.tick()
        await world.engine.sync({}, "cfg2")
        world.executor.finish(world.executor.runs[0])
        await world.settle()
        assert world.states.get("ns/fast") is not None
        assert world.state().succeeded == 1


async def test_states_of_removed_jobs_go_after_a_month_where_there_are_very_many() -> None:
    world = World(cadence(10), cadence(10, id="old/fast"))
    await world.start()
    await world.tick()
    later = JobState(last_finish=world.clock.wall + HOUR)
    await world.states.apply([Change(f"gone/{n}", later) for n in range(MOST_KEPT)])
    await world.engine.sync({"ns/fast": world.jobs["ns/fast"]}, "cfg2")
    world.clock.move(29 * 24 * HOUR)
    await world.engine.forget_removed()
    assert world.states.get("old/fast") is not None
    world.clock.move(2 * 24 * HOUR)
    await world.engine.forget_removed()
    assert world.states.get("old/fast") is None
    assert world.states.get("ns/fast") is not None


class TestSubjects:
    def world(self, **subject: bool) -> World:
        job = replace(cadence(10), subject=replace(SUBJECT, **subject))  # type: ignore[arg-type]  # flags by name
        return World(job)

    async def test_no_batch_is_a_skip_with_a_reason(self) -> None:
        world = self.world()
        await world.start()
        await world.go(20 * SECOND)
        assert [(d.verdict, d.reason) for d in world.decisions] == [(Verdict.SKIPPED, Reason.NO_BATCH)] * 3
        assert world.executor.runs == []

    async def test_unchanged_is_not_paid_for_twice(self) -> None:
        world = self.world()
        world.subjects.found["ns/fast"] = Found("1", "sha256:aa", "k1")
        await world.start()
        await world.go(30 * SECOND)
        assert len(world.executor.runs) == 1
        assert [d.reason for d in world.decisions[1:]] == [Reason.UNCHANGED] * 3

    async def test_reanchor_runs_again(self) -> None:
        world = self.world(reanchor=True)
        world.subjects.found["ns/fast"] = Found("1", "sha256:aa", "k1")
        await world.start()
        await world.go(30 * SECOND)
        assert len(world.executor.runs) == 4

    async def test_a_new_root_supersedes_a_failing_one_under_a_new_key(self) -> None:
        world = self.world()
        world.subjects.found["ns/fast"] = Found("1", "sha256:aa", "k1")
        world.executor.script["ns/fast"] = [DOWN]
        await world.start()
        await world.tick()
        world.subjects.found["ns/fast"] = Found("2", "sha256:bb", "k2")
        await world.go(8 * SECOND)
        first, second = world.executor.runs
        assert second.attempt == 1
        assert second.key != first.key
        assert second.slot > first.slot
        assert world.decisions[-1].reason is Reason.NEW_ROOT
        assert world.decisions[-1].inputs["supersedes"] == first.slot

    async def test_a_reload_while_looking_starts_only_the_new_command(self) -> None:
        world = self.world()
        job = world.jobs["ns/fast"]
        gate = world.subjects.gate = asyncio.Event()
        world.subjects.found["ns/fast"] = Found("1", "sha256:aa", "k1")
        await world.start()
        await world.tick()
        assert job.subject is not None
        changed = replace(job, action=Command(("new",)), subject=replace(job.subject, target="b"), revision="r2")
        await world.engine.sync({"ns/fast": changed}, "cfg2")
        await world.tick()
        gate.set()
        await world.tick()
        assert len(world.executor.runs) == 1
        assert world.executor.jobs[0].action == Command(("new",))
        assert world.state().covered_for == "b"

    async def test_failing_to_look_backs_off(self) -> None:
        world = self.world()
        world.subjects.found["ns/fast"] = Nothing("seal_failed", "cannot read", failed=True)
        await world.start()
        await world.tick()
        assert world.executor.runs == []
        state = world.state()
        assert (state.level, state.last_error, state.error_class) == (1, "cannot read", "validation")


class TestCrash:
    async def crashed(self, **policy: object) -> World:
        world = World(cadence(10, **policy))
        world.executor.hold = True
        await world.start()
        await world.tick()
        world.executor.hold = False
        world.boot(fence=2)
        await world.start()
        return world

    async def recover(self, world: World, recovery: Recovery) -> Recovered:
        world.executor.traces[world.executor.runs[0].id] = recovery
        return await world.engine.recover()

    async def test_finished_is_settled_and_not_run_again(self) -> None:
        world = await self.crashed()
        report = await self.recover(world, Recovery(Trace.FINISHED, Outcome(Status.OK)))
        assert (report.finished, report.unknown, report.never_began, report.adopted) == (1, 0, 0, 0)
        await world.tick()
        assert world.slots() == [NOON]
        assert world.state().succeeded == 1

    async def test_never_began_runs_under_the_same_key_with_one_decision(self) -> None:
        world = await self.crashed()
        report = await self.recover(world, Recovery(Trace.NEVER_BEGAN))
        assert report.never_began == 1
        await world.tick()
        assert [run.attempt for run in world.executor.runs] == [1, 1]
        assert len({run.key for run in world.executor.runs}) == 1
        assert len([d for d in world.decisions if d.slot == NOON]) == 1

    async def test_running_is_adopted(self) -> None:
        world = await self.crashed()
        world.executor.hold = True
        report = await self.recover(world, Recovery(Trace.RUNNING))
        assert report.adopted == 1
        world.executor.finish(world.executor.runs[0])
        await world.tick()
        assert world.state().succeeded == 1

    async def test_unknown_is_retried_and_counted(self) -> None:
        world = await self.crashed()
        report = await self.recover(world, Recovery(Trace.UNKNOWN))
        assert report.unknown == 1
        await world.tick()
        assert [(run.attempt, run.previous) for run in world.executor.runs] == [(1, ""), (2, "unknown")]
        assert world.state().unknown == 1

    async def test_each_run_of_a_job_is_counted_as_what_became_of_it(self) -> None:
        world = World(cadence(10, overlap=Overlap.ALLOW), concurrency=9)
        world.executor.hold = True
        await world.start()
        await world.go(40 * SECOND)
        ends = [Recovery(trace) for trace in (Trace.UNKNOWN, Trace.RUNNING, Trace.NEVER_BEGAN, Trace.NEVER_BEGAN)]
        ends.append(Recovery(Trace.FINISHED, Outcome(Status.OK)))
        world.executor.traces = {run.id: end for run, end in zip(world.executor.runs, ends, strict=True)}
        world.boot(fence=2)
        await world.start()
        assert await world.engine.recover() == Recovered(
            world.clock.wall, finished=1, never_began=2, adopted=1, unknown=1
        )

    def test_what_is_not_written_in_time_is_called_nothing_else(self) -> None:
        async def recovered() -> Recovered:
            states, names = SlowStates(), ("a", "b", "c")
            world = World(*(cadence(10, id=f"ns/{name}") for name in names), states=states, concurrency=9)
            world.executor.hold = True
            await world.start()
            await world.tick()
            ends = [Recovery(Trace.FINISHED, Outcome(Status.OK)), Recovery(Trace.UNKNOWN), Recovery(Trace.RUNNING)]
            world.executor.traces = {run.id: end for run, end in zip(world.executor.runs, ends, strict=True)}
            world.boot(fence=2)
            await world.start()
            states.gate.clear()
            report = await world.engine.recover()
            assert world.finished == []
            states.gate.set()
            await world.settle()
            assert len(world.finished) == 2
            return replace(report, at=NOON)

        assert run_virtual(recovered()) == Recovered(NOON, adopted=1, pending=2)

    @pytest.mark.parametrize(("landed", "told"), [(True, "finished"), (False, "never_began"), (None, "unknown")])
    async def test_what_a_probe_found_is_counted(self, landed: bool | None, told: str) -> None:
        world = await self.crashed()
        world.executor.probes[world.executor.runs[0].id] = landed
        report = await self.recover(world, Recovery(Trace.UNKNOWN))
        assert report == Recovered(world.clock.wall, **{told: 1})

    @pytest.mark.parametrize("trace", [Trace.UNKNOWN, Trace.NEVER_BEGAN])
    async def test_the_former_run_of_an_agent_registered_anew_is_counted_too(self, trace: Trace) -> None:
        """Its new life knows nothing of it, so the state does not show what became of it."""
        world = await self.crashed()
        former = world.executor.runs[0]
        world.executor.traces[former.id] = Recovery(trace)
        job = replace(agent(), origin=Origin.API, id=former.job_id)
        assert await world.engine.put(job, JobState(runs=(former,)), Note("registered", NOON, job.id))
        (event,) = [event for event in world.events if isinstance(event, Recovered)]
        assert (event.unknown, event.never_began) == (trace is Trace.UNKNOWN, trace is Trace.NEVER_BEGAN)
        assert event.finished == 0

    async def test_unknown_is_held_until_resolved(self) -> None:
        world = await self.crashed(on_unknown=OnUnknown.HOLD)
        await self.recover(world, Recovery(Trace.UNKNOWN))
        await world.go(20 * SECOND)
        assert len(world.executor.runs) == 1
        control = Control(world.engine)
        with pytest.raises(Usage):
            await control.fire("ns/fast", by="me")
        await control.resolve(world.executor.runs[0].id, "retry", by="me")
        await world.tick()
        assert [run.attempt for run in world.executor.runs] == [1, 2]

    @pytest.mark.parametrize(("landed", "runs", "succeeded"), [(True, 1, 1), (False, 2, 1), (None, 2, 1)])
    async def test_a_probe_is_asked_before_anything_is_sent_again(
        self, landed: bool | None, runs: int, succeeded: int
    ) -> None:
        world = await self.crashed()
        world.executor.probes[world.executor.runs[0].id] = landed
        await self.recover(world, Recovery(Trace.UNKNOWN))
        await world.tick()
        assert len(world.executor.runs) == runs
        assert world.state().succeeded == succeeded


class TestFullDisk:
    async def test_nothing_starts_while_intents_cannot_be_written(self) -> None:
        states = FailingStates()
        world = World(cadence(10), states=states)
        await world.start()
        states.full = True
        await world.tick()
        assert world.executor.runs == []
        assert any(isinstance(event, StateFailed) for event in world.events)
        states.full = False
        await world.go(1 * SECOND)
        assert world.slots() == [NOON]
        assert any(isinstance(event, StateRestored) for event in world.events)

    async def test_an_outcome_is_not_shown_before_it_is_written(self) -> None:
        states = FailingStates()
        world = World(cadence(10), states=states)
        world.executor.hold = True
        await world.start()
        await world.tick()
        states.full = True
        world.executor.finish(world.executor.runs[0])
        await world.tick()
        assert world.finished == []
        states.full = False

    async def test_a_person_is_told(self) -> None:
        states = FailingStates()
        world = World(cadence(10), states=states)
        await world.start()
        states.full = True
        with pytest.raises(StateWriteFailed):
            await Control(world.engine).pause("ns/fast", until=None, note="", by="me")


class TestControl:
    async def test_trigger_runs_now_under_its_own_slot(self) -> None:
        world = World(cadence(3600))
        await world.start()
        await world.tick()
        world.clock.move(1_000)
        slot = await Control(world.engine).fire("ns/fast", by="me")
        await world.tick()
        assert world.slots() == [NOON, slot]
        assert world.decisions[-1].reason is Reason.MANUAL

    async def test_trigger_ends_a_backoff_under_the_same_key(self) -> None:
        world = World(cadence(3600))
        world.executor.script["ns/fast"] = [DOWN]
        await world.start()
        await world.tick()
        await Control(world.engine).fire("ns/fast", by="me")
        await world.tick()
        assert [run.attempt for run in world.executor.runs] == [1, 2]

    async def test_trigger_refuses_what_would_start_nothing(self) -> None:
        world = World(replace(cadence(10), enabled=False), cadence(10, id="b/fast"))
        await world.start()
        control = Control(world.engine)
        with pytest.raises(Usage, match="switched off"):
            await control.fire("ns/fast", by="me")
        await control.pause("b/fast", until=None, note="", by="me")
        with pytest.raises(Usage, match="paused"):
            await control.fire("b/fast", by="me")
        with pytest.raises(Usage, match="past"):
            await control.pause("b/fast", until=NOON - 1, note="", by="me")

    async def test_trigger_refuses_a_running_job(self) -> None:
        world = World(cadence(10))
        world.executor.hold = True
        await world.start()
        await world.tick()
        with pytest.raises(Usage, match="running already"):
            await Control(world.engine).fire("ns/fast", by="me")

    async def test_pause_and_resume(self) -> None:
        world = World(cadence(10))
        await world.start()
        control = Control(world.engine)
        await control.pause("ns/fast", until=None, note="deploy", by="me")
        await world.go(20 * SECOND)
        assert world.executor.runs == []
        assert {d.reason for d in world.decisions} == {Reason.PAUSED}
        await control.resume("ns/fast", by="me")
        await world.go(10 * SECOND)
        assert world.slots() == [NOON + 30_000]

    async def test_pause_reaches_a_queued_job(self) -> None:
        world = World(cadence(10), cadence(10, id="b/fast"), concurrency=1)
        world.executor.hold = True
        await world.start()
        await world.tick()
        queued = next(iter(world.engine.board.waiting))
        await Control(world.engine).pause(queued, until=None, note="", by="me")
        world.executor.finish(world.executor.runs[0])
        await world.tick()
        assert len(world.executor.runs) == 1

    async def test_reset(self) -> None:
        world = World(cadence(3600))
        world.executor.script["ns/fast"] = [DOWN]
        await world.start()
        await world.tick()
        await Control(world.engine).reset("ns/fast", by="me")
        await world.tick()
        assert len(world.executor.runs) == 2

    async def test_unknown_names(self) -> None:
        world = World(cadence(10))
        await world.start()
        control = Control(world.engine)
        with pytest.raises(NotFound):
            await control.fire("nope/fast", by="me")
        for run in ("nope", ""):
            with pytest.raises(NotFound):
                await control.resolve(run, "ok", by="me")
        with pytest.raises(Usage):
            await control.resolve("nope", "maybe", by="me")


async def test_lost_state_starts_nothing_in_the_first_period_and_says_so() -> None:
    world = World(cadence(10), cadence(3600, id="ns/cold"))
    world.clock.move(3_000)
    await world.start(lost=True)
    await world.go(10 * SECOND)
    assert world.executor.runs == []
    assert {d.reason for d in world.decisions} == {Reason.STATE_LOST}
    assert slots_of(world.decisions[0]) == [NOON + 10_000, NOON]
    await world.go(10 * SECOND)
    assert world.slots() == [NOON + 20_000]


async def test_an_action_nobody_carries_out_is_skipped_with_a_reason() -> None:
    world = World(replace(cadence(10), action=CALLBACK))
    await world.start()
    await world.tick()
    assert [(d.verdict, d.reason) for d in world.decisions] == [(Verdict.SKIPPED, Reason.NOT_CONFIGURED)]


async def test_exhausted_resources_are_retried_and_never_counted() -> None:
    world = World(cadence(10))
    world.executor.script["ns/fast"] = [Outcome(Status.FAILED, None, "resources", "EAGAIN")]
    await world.start()
    await world.go(1 * SECOND)
    assert [run.attempt for run in world.executor.runs] == [1, 1]
    assert world.state().level == 0
    assert len(world.decisions) == 1
    told = [event for event in world.events if isinstance(event, Trouble)]
    assert [(event.what, event.details["why"]) for event in told] == [("start_refused", "EAGAIN")]


@pytest.mark.parametrize("recorded", [True, False])
async def test_a_stop_waits_for_no_disk_to_say_that_a_recorded_run_never_began(
    monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    """The next start sees so by itself. What keeps no record would be unknown to it."""
    monkeypatch.setattr(carry, "WRITE_RETRY", 1)
    states = FailingStates()
    world = World(cadence(10, crash_exact=recorded), states=states)
    world.executor.script["ns/fast"] = [Outcome(Status.FAILED, None, "resources", "no space left on device")]
    world.executor.on_run = lambda _run: setattr(states, "full", True)
    await world.start()
    await world.tick()
    (run,) = world.state().runs
    assert world.engine.board.told("ns/fast").runs == (), "nothing runs that people could wait for"
    assert await world.engine.drain(20_000 if recorded else 50) is recorded
    assert world.executor.hurried is not recorded
    states.full = False
    world.executor.traces[run.id] = Recovery(Trace.NEVER_BEGAN)
    world.boot(2)
    await world.start()
    await world.engine.recover()
    assert (world.state().runs, world.state().attempt, world.state().unknown) == ((), 0, 0)


async def test_drain_waits_then_hurries() -> None:
    world = World(cadence(10))
    world.executor.hold = True
    await world.start()
    await world.tick()
    assert not await world.engine.drain(20)
    assert world.executor.hurried
    state = world.state()
    assert (state.level, state.slot, state.runs) == (0, NOON, ())


async def test_drain_is_clean_when_runs_end_in_time() -> None:
    world = World(cadence(10))
    await world.start()
    await world.tick()
    assert await world.engine.drain(1000)
    assert not world.executor.hurried


async def test_a_defect_in_the_engine_is_loud() -> None:
    world = World(replace(cadence(10), subject=SUBJECT))
    world.subjects.found = None  # type: ignore[assignment]  # breaks the seam on purpose
    await world.start()
    await world.engine.tick()
    await world.settle()
    with pytest.raises(AttributeError):
        await world.engine.tick()
