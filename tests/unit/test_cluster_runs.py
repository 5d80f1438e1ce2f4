"""Runs that one instance hands out and others carry out: in virtual time, over the memory twins."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from tests.support.builders import NOON, agent, cadence
from tests.support.cluster import LEASE, Crew, Member, Term
from tests.support.world import CALLBACK
from vmsh_scheduler.domain.events import Recovered, Trouble
from vmsh_scheduler.domain.job import OnUnknown
from vmsh_scheduler.domain.run import Outcome, Run, Status, Trace
from vmsh_scheduler.domain.trigger import SECOND
from vmsh_scheduler.engine.bounds import Pool
from vmsh_scheduler.engine.handed import MEND, Collector
from vmsh_scheduler.errors import NotLeading
from vmsh_scheduler.ports import Claim, Place, Task

JOB = cadence(60)


def troubles(events: list[object]) -> Counter[str]:
    return Counter(event.what for event in events if isinstance(event, Trouble))


def nothing_is_left(crew: Crew) -> bool:
    """But outcomes that the states' own store takes out as it settles, which MemoryStates does not know of."""
    return not crew.table.ready and not crew.table.claimed


async def one_running(**policy: object) -> tuple[Crew, Run]:
    """One worker of two runs the first slot."""
    crew = Crew(cadence(60, **policy))
    crew.join("a")
    crew.join("b")
    await crew.lead()
    await crew.step()
    (run,) = crew.members[0].runs
    return crew, run


async def one_unanswered() -> tuple[Crew, Term, Member]:
    """The first slot's run has been handed out, which the leader could not hear."""
    crew = Crew(cadence(60))
    term, member = await crew.lead(), crew.join()
    term.dispatch.deaf = True
    await term.engine.tick()
    await crew.settle()
    await term.collector.tick()
    return crew, term, member


class TestHandOver:
    async def test_a_worker_carries_out_and_the_leader_settles(self) -> None:
        crew, run = await one_running()
        (open_run,) = crew.state.runs
        assert (open_run.id, open_run.key) == (run.id, run.key)
        await crew.finish(crew.members[0])
        state = crew.state
        assert (state.runs, state.succeeded, state.failed) == ((), 1, 0)
        assert crew.members[0].executor.forgotten == [run.id]
        assert crew.members[1].runs == []
        assert nothing_is_left(crew)

    async def test_a_failure_comes_back_as_it_was(self) -> None:
        crew, run = await one_running()
        crew.members[0].executor.finish(run, Outcome(Status.FAILED, code="exit", message="boom", exit_code=3))
        await crew.settle()
        await crew.step()
        state = crew.state
        assert (state.failed, state.last_error) == (1, "boom")

    async def test_permits_are_the_sum_over_all_and_nobody_takes_more_than_its_own(self) -> None:
        jobs = [cadence(60, id=f"ns/{n}") for n in range(10)]
        crew = Crew(*jobs, concurrency=5)
        crew.join("a", **{"": 2})
        crew.join("b", **{"": 3})
        await crew.lead()
        await crew.step()
        assert [len(member.runs) for member in crew.members] == [2, 3]
        assert crew.members[1].worker.load("") == (0, 3)
        for _ in range(5):
            for member in crew.members:
                for run_id in list(member.executor._open):
                    member.executor.finish(next(run for run in member.runs if run.id == run_id))
            await crew.settle()
            await crew.step()
        assert sorted(run.job_id for member in crew.members for run in member.runs) == sorted(crew.jobs)
        assert nothing_is_left(crew)

    async def test_users_take_turns_across_workers(self) -> None:
        many = [replace(agent(60, id=f"_agents/a/{n}"), pool="agents", share="a") for n in range(20)]
        few = [replace(agent(60, id=f"_agents/b/{n}"), pool="agents", share="b") for n in range(2)]
        crew = Crew(*many, *few, agents=Pool(4, 100))
        crew.join("a", agents=2)
        crew.join("b", agents=2)
        await crew.lead()
        await crew.step()
        running = Counter(run.job_id.split("/")[1] for member in crew.members for run in member.runs)
        assert running == {"a": 2, "b": 2}

    async def test_the_newest_fence_goes_with_a_run_of_an_older_leader(self) -> None:
        crew = Crew(cadence(60))
        await crew.lead(fence=3)
        await crew.step()
        await crew.lead(fence=9)
        member = crew.join()
        await crew.step()
        assert [run.fence for run in member.runs] == [9]

    async def test_the_deadline_counts_from_the_start_and_the_callback_names_the_leader(self) -> None:
        job = replace(agent(60), action=CALLBACK)
        crew = Crew(job)
        await crew.lead(fence=4)
        await crew.step()
        member = crew.join()
        await crew.step(5 * SECOND)
        assert member.runs[0].deadline == crew.clock.now() + job.policy.timeout
        assert member.executor.jobs[0].labels["instance"] == "leader-4"


class TestHandedBack:
    async def test_another_configuration_counts_nothing_and_is_tried_again_in_a_second(self) -> None:
        crew = Crew(cadence(60))
        stranger = crew.join("old", jobs={JOB.id: replace(JOB, revision="r0")})
        await crew.lead()
        await crew.step()
        assert stranger.runs == []
        state = crew.state
        assert (state.attempt, state.started, state.failed, state.runs) == (0, 0, 0, ())
        crew.members.clear()
        member = crew.join("new")
        await crew.step(SECOND)
        assert [(run.slot, run.attempt) for run in member.runs] == [(NOON, 1)]
        assert crew.table.outcomes == {}

    async def test_whoever_hands_back_twice_leaves_the_next_tries_to_others(self) -> None:
        """However much quicker it is to claim."""
        crew = Crew(cadence(60))
        stranger, member = crew.join("old", jobs={}), crew.join("new")
        await crew.lead()
        await crew.step()
        await crew.step(SECOND)
        assert (stranger.worker.claimed, len(member.runs)) == (2, 0)
        await crew.step(SECOND)
        assert (stranger.worker.claimed, len(member.runs)) == (2, 1)

    async def test_handed_back_once_is_a_change_under_way_that_holds_nothing_up(self) -> None:
        crew = Crew(cadence(60))
        member = crew.join("w", jobs={JOB.id: replace(JOB, revision="r0")})
        await crew.lead()
        await crew.step()
        member.jobs = dict(crew.jobs)
        await crew.step(SECOND)
        assert len(member.runs) == 1

    async def test_a_job_that_the_worker_does_not_have(self) -> None:
        crew = Crew(cadence(60))
        stranger = crew.join("other", jobs={})
        await crew.lead()
        await crew.step()
        assert stranger.runs == []
        assert stranger.worker.running == 0

    async def test_a_task_that_cannot_be_read_fails(self) -> None:
        crew = Crew(cadence(60))
        term, member = await crew.lead(), crew.join()
        await term.dispatch.push([Task("x", "", "", {"job": JOB.id, "revision": "r1", "run": {"id": "x"}})])
        await crew.step()
        assert crew.table.outcomes["x"]["code"] == "bad_task"
        assert "x" not in [run.id for run in member.runs]

    async def test_a_document_that_cannot_be_read_fails_and_the_worker_goes_on(self) -> None:
        crew = Crew(cadence(60))
        member = crew.join()
        member.worker._find_job = lambda claim: crew.jobs[str(claim.task.body["agent"])]  # raises KeyError
        await crew.lead()
        await crew.step()
        assert (crew.state.failed, crew.state.runs) == (1, ())
        member.worker._find_job = member.find
        await crew.go(120 * SECOND)
        assert len(member.runs) >= 1

    async def test_a_task_of_the_original_is_carried_out_for_nobody(self) -> None:
        crew = Crew(cadence(60))
        term, member = await crew.lead(), crew.join()
        member.find = lambda claim: crew.jobs[JOB.id]  # type: ignore[method-assign]  # as the composition finds agents
        member.worker._find_job = member.find
        body = {"foreign": {"enqueuedAt": NOON - 5, "leaderFenceToken": 99}}
        await term.dispatch.push([Task("f", "", "u:a", body)])
        await crew.step()
        run = next(run for run in member.runs if run.id == "f")
        assert (run.slot, run.fence, run.attempt) == (NOON - 5, 99, 1)


class TestLostWorkers:
    async def test_a_dead_workers_run_goes_to_another_under_its_key(self) -> None:
        crew, run = await one_running()
        dead = crew.members.pop(0)
        await crew.go(LEASE - 1)
        assert crew.members[0].runs == []
        await crew.go(2 * SECOND)
        (again,) = crew.members[0].runs
        assert (again.key, again.attempt, again.cause.value) == (run.key, 2, "retry")
        assert again.id != run.id
        assert again.previous == "unknown"
        await crew.finish(crew.members[0])
        state = crew.state
        assert (state.unknown, state.succeeded, state.runs) == (1, 1, ())
        assert dead.worker.running == 1

    async def test_five_deaths_and_still_the_same_key(self) -> None:
        crew = Crew(cadence(600))
        await crew.lead()
        runs = []
        for _ in range(5):
            member = crew.join()
            await crew.step()
            runs += member.runs
            crew.members.clear()
            await crew.go(LEASE + SECOND)
        assert [run.attempt for run in runs] == [1, 2, 3, 4, 5]
        assert len({run.key for run in runs}) == 1
        assert len({run.id for run in runs}) == 5

    async def test_a_job_that_holds_is_held(self) -> None:
        crew, run = await one_running(on_unknown=OnUnknown.HOLD)
        crew.members.pop(0)
        await crew.go(LEASE + 5 * SECOND)
        state = crew.state
        assert state.held is not None
        assert state.held.id == run.id
        assert crew.members[0].runs == []

    @pytest.mark.parametrize(("landed", "counts"), [(True, (1, 0)), (False, (0, 0))])
    async def test_the_leader_asks_the_probe(self, landed: bool, counts: tuple[int, int]) -> None:
        crew, run = await one_running()
        assert crew.term is not None
        crew.probes[run.id] = landed
        crew.members.clear()
        await crew.go(LEASE + SECOND)
        state = crew.state
        assert (state.succeeded, state.unknown) == counts
        assert run.id not in crew.table.outcomes or landed

    async def test_a_worker_that_was_paused_starts_nothing_it_claimed_before(self) -> None:
        crew = Crew(cadence(60))
        member = crew.join()
        await crew.lead()
        await crew.term.engine.tick()  # type: ignore[union-attr]  # it leads
        await crew.settle()
        await crew.term.collector.tick()  # type: ignore[union-attr]  # as above
        await member.worker.tick()  # claims; its task has not had its turn yet
        assert member.worker.running == 1
        crew.clock.move(LEASE)
        await crew.settle()
        assert member.runs == []
        assert member.worker.running == 0

    async def test_a_worker_that_wakes_too_late_ends_its_run_and_posts_nothing(self) -> None:
        crew, run = await one_running()
        late = crew.members[0]
        late.asleep = True
        await crew.go(LEASE + SECOND)
        assert len(crew.members[1].runs) == 1
        late.asleep = False
        await crew.step()
        assert late.worker.running == 0
        assert troubles(late.events) == {"claim_lost": 1}
        assert late.executor._open[run.id].cancelled()
        await crew.finish(crew.members[1])
        state = crew.state
        assert (state.succeeded, state.unknown) == (1, 1)

    async def test_claims_are_kept_as_long_as_the_run_takes(self) -> None:
        crew, _ = await one_running(timeout=3600 * SECOND)
        await crew.go(10 * LEASE)
        assert [len(member.runs) for member in crew.members] == [1, 0]
        assert troubles(crew.members[0].events) == {}
        before = crew.members[0].dispatch.calls
        await crew.finish(crew.members[0])
        assert crew.members[0].dispatch.calls > before
        assert crew.state.succeeded >= 1


class TestAnotherLeader:
    async def test_what_runs_goes_on_and_is_settled_by_the_new_one(self) -> None:
        crew, run = await one_running()
        await crew.lead(fence=2)
        assert crew.state.runs[0].id == run.id
        await crew.step(5 * SECOND)
        assert len(crew.members[0].runs) == 1
        await crew.finish(crew.members[0])
        state = crew.state
        assert (state.succeeded, state.started, state.runs) == (1, 1, ())
        assert crew.members[1].runs == []

    async def test_what_is_ready_is_waited_for(self) -> None:
        crew = Crew(cadence(60))
        await crew.lead(fence=1)
        await crew.step()
        await crew.lead(fence=2)
        await crew.step()
        member = crew.join()
        await crew.step()
        await crew.finish(member)
        assert len(member.runs) == 1
        assert crew.state.succeeded == 1

    async def test_what_ended_meanwhile_is_settled(self) -> None:
        crew, _run = await one_running()
        assert crew.term is not None
        await crew.term.end()
        crew.term = None
        await crew.finish(crew.members[0])
        assert crew.state.runs != ()
        await crew.lead(fence=2)
        state = crew.state
        assert (state.succeeded, state.runs) == (1, ())

    async def test_what_was_lost_meanwhile_is_unknown(self) -> None:
        crew, run = await one_running()
        assert crew.term is not None
        await crew.term.end()
        crew.term = None
        crew.members.pop(0)
        crew.clock.move(LEASE + 1)
        await crew.lead(fence=2)
        assert [event.unknown for event in crew.events if isinstance(event, Recovered)] == [1]
        await crew.step()
        (again,) = crew.members[0].runs
        assert (again.key, again.attempt) == (run.key, 2)

    async def test_the_new_one_asks_the_probe_of_what_was_lost(self) -> None:
        crew, run = await one_running()
        assert crew.term is not None
        await crew.term.end()
        crew.members.clear()
        crew.clock.move(LEASE + 1)
        crew.probes[run.id] = True
        await crew.lead(fence=2)
        assert (crew.state.succeeded, crew.state.unknown) == (1, 0)

    async def test_the_new_one_asks_the_probe_of_what_it_adopted_and_then_lost(self) -> None:
        crew, run = await one_running()
        crew.probes[run.id] = True
        await crew.lead(fence=2)
        crew.members.clear()
        await crew.go(LEASE + SECOND)
        assert (crew.state.succeeded, crew.state.unknown) == (1, 0)

    async def test_what_a_term_had_not_pushed_when_it_ended_is_not_pushed_in_the_next(self) -> None:
        """One collector serves all terms of an instance."""
        crew = Crew(cadence(60))
        term = await crew.lead()
        await term.engine.tick()
        await crew.settle()
        await term.engine.leave(0)
        await term.collector.tick()
        assert crew.table.ready == {}

    async def test_what_the_old_one_saw_lost_and_did_not_settle_is_unknown(self) -> None:
        """Its answer to `lost` came, then it died: the run may have had its effect."""
        crew, run = await one_running(on_unknown=OnUnknown.HOLD)
        assert crew.term is not None
        await crew.term.end()
        crew.members.pop(0)
        crew.clock.move(LEASE + 1)
        assert await crew.term.dispatch.lost() == [run.id]
        crew.term = None
        await crew.lead(fence=2)
        assert crew.state.held is not None

    async def test_what_was_never_pushed_never_began(self) -> None:
        crew = Crew(cadence(60))
        term = await crew.lead(fence=1)
        await term.engine.tick()
        await crew.settle()
        assert crew.table.ready == {}
        await crew.lead(fence=2)
        state = crew.state
        assert (state.started, state.attempt) == (0, 0)
        member = crew.join()
        await crew.step()
        assert [(run.slot, run.attempt) for run in member.runs] == [(NOON, 1)]

    async def test_a_deposed_leader_hands_nothing_out_and_settles_nothing(self) -> None:
        crew = Crew(cadence(10))
        old = await crew.lead(fence=1)
        crew.term = None
        member = crew.join()
        await crew.lead(fence=2)
        await old.engine.tick()
        await crew.settle()
        with pytest.raises(NotLeading):
            await old.collector.tick()
        await crew.settle()
        assert old.engine.running == 0
        assert crew.table.ready == {}
        assert member.runs == []

    async def test_what_is_left_of_runs_that_no_state_knows_is_swept(self) -> None:
        crew = Crew(cadence(60))
        term = await crew.lead()
        collector = Collector(term.dispatch, crew.clock, crew.events.append, lambda: {"open"})
        await term.dispatch.withdraw(["of a former term", "open"])
        await collector.tick()
        assert list(crew.table.outcomes) == ["open"]
        await term.dispatch.withdraw(["of this one"])
        crew.clock.move(MEND)
        await collector.tick()
        assert list(crew.table.outcomes) == ["open"]

    async def test_a_run_that_has_just_ended_is_missed_by_nobody(self) -> None:
        """Its outcome may be settled, and gone, before it is looked whether the store has all that it was given."""
        crew = Crew(cadence(60))
        term = await crew.lead()
        collector = Collector(term.dispatch, crew.clock, crew.events.append)
        waiting = asyncio.create_task(collector.outcome("x"))
        await crew.settle()
        await term.dispatch.withdraw(["x"])
        await collector.tick()
        await term.dispatch.forget(["x"])
        crew.clock.move(MEND)
        await collector.tick()
        assert (await waiting).code == "resources"
        assert crew.table.outcomes == {}

    async def test_what_a_removed_job_still_waits_for_is_not_swept(self) -> None:
        crew = Crew(cadence(60))
        term = await crew.lead()
        collector = Collector(term.dispatch, crew.clock, crew.events.append, lambda: ())
        await term.dispatch.withdraw(["removed"])
        waiting = asyncio.create_task(collector.outcome("removed"))
        await crew.settle()
        await collector.tick()
        assert (await waiting).code == "resources"


class TestStoreDown:
    async def test_a_push_without_an_answer_is_withdrawn_and_tried_again(self) -> None:
        crew, term, member = await one_unanswered()
        assert len(crew.table.ready) == 1
        term.dispatch.deaf = False
        await crew.go(3 * SECOND)
        assert [(run.slot, run.attempt) for run in member.runs] == [(NOON, 1)]
        state = crew.state
        assert (state.started, state.failed, state.unknown) == (1, 0, 0)

    async def test_a_push_that_did_not_arrive_is_tried_again(self) -> None:
        crew = Crew(cadence(60))
        term, member = await crew.lead(), crew.join()
        term.dispatch.down = True
        await crew.step()
        assert crew.table.ready == {}
        term.dispatch.down = False
        await crew.go(3 * SECOND)
        assert [(run.slot, run.attempt) for run in member.runs] == [(NOON, 1)]
        assert (crew.state.started, crew.state.failed, crew.state.unknown) == (1, 0, 0)
        assert crew.table.outcomes == {}

    async def test_a_leader_asks_a_silent_store_once_a_second(self) -> None:
        crew, _ = await one_running()
        assert crew.term is not None
        crew.term.dispatch.down = True
        before = crew.term.dispatch.calls
        for _ in range(50):
            crew.clock.move(100)
            await crew.term.collector.tick()
        assert 4 <= crew.term.dispatch.calls - before <= 6

    async def test_a_push_without_an_answer_that_was_claimed_is_waited_for(self) -> None:
        crew, term, member = await one_unanswered()
        await member.worker.tick()
        await crew.settle()
        term.dispatch.deaf = False
        await crew.go(3 * SECOND)
        await crew.finish(member)
        assert len(member.runs) == 1
        assert crew.state.succeeded == 1

    async def test_an_outcome_is_posted_when_the_store_is_back_within_the_lease(self) -> None:
        crew, _ = await one_running()
        member = crew.members[0]
        member.dispatch.down = True
        await crew.finish(member)
        await crew.go(2 * SECOND)
        assert member.worker.running == 1
        member.dispatch.down = False
        await crew.go(2 * SECOND)
        assert member.worker.running == 0
        state = crew.state
        assert (state.succeeded, state.unknown) == (1, 0)

    async def test_a_store_that_stays_away_is_asked_once_a_second_and_runs_end_with_their_lease(self) -> None:
        crew, run = await one_running()
        member = crew.members[0]
        crew.members = [member]
        member.dispatch.down = True
        before = member.dispatch.calls
        await crew.go(LEASE - SECOND, every=100)
        assert member.worker.running == 1
        assert member.dispatch.calls - before <= LEASE / SECOND
        await crew.go(2 * SECOND, every=100)
        assert member.worker.running == 0
        assert member.executor._open[run.id].cancelled()
        assert troubles(member.events) == {"claim_lost": 1, "dispatch_down": 1}

    async def test_nothing_is_claimed_meanwhile(self) -> None:
        crew = Crew(cadence(60))
        member = crew.join()
        member.dispatch.down = True
        await crew.lead()
        await crew.go(3 * SECOND)
        assert member.worker.running == 0
        member.dispatch.down = False
        await crew.go(2 * SECOND)
        assert len(member.runs) == 1


class TestStopping:
    async def test_nothing_is_claimed_before_the_first_tick(self) -> None:
        crew = Crew(cadence(60))
        member = crew.join()
        member.worker.start_after = crew.clock.elapsed() + 2 * SECOND
        await crew.lead()
        await crew.go(2 * SECOND - 1, every=500)
        assert member.runs == []
        await crew.step(1)
        assert len(member.runs) == 1

    async def test_a_worker_drains_and_claims_no_more(self) -> None:
        crew = Crew(cadence(60, id="ns/a"), cadence(60, id="ns/b"))
        member = crew.join("w", **{"": 1})
        await crew.lead()
        await crew.step()
        draining = asyncio.ensure_future(member.worker.drain(60 * SECOND))
        await crew.settle()
        assert not draining.done()
        (run,) = member.runs
        member.executor.finish(run)
        assert await draining
        await crew.step()
        assert crew.state_of(run.job_id).succeeded == 1
        assert member.runs == [run]

    async def test_a_worker_that_is_hurried_posts_what_it_cut_short(self) -> None:
        crew, _ = await one_running()
        member = crew.members[0]
        assert not await member.worker.drain(0)
        assert member.executor.hurried
        await crew.step()
        state = crew.state
        assert (state.failed, state.last_error) == (1, "hurried")

    async def test_hurried_without_a_store_it_waits_for_nobody(self) -> None:
        crew, _ = await one_running()
        member = crew.members[0]
        member.dispatch.down = True
        assert not await member.worker.drain(0)
        assert member.worker.running == 0

    async def test_a_run_that_is_recalled_never_began_unless_somebody_has_it(self) -> None:
        crew = Crew(cadence(60, id="ns/a"), cadence(60, id="ns/b"))
        member = crew.join("w", **{"": 1})
        term = await crew.lead()
        await crew.step()
        (running,) = member.runs
        open_runs = [run.id for state in crew.states.all().values() for run in state.runs]
        term.collector.recall([*open_runs, "settled long ago"])
        await crew.step()
        (waiting,) = set(crew.jobs) - {running.job_id}
        assert crew.state_of(waiting).started == 0
        assert [run.id for run in crew.state_of(running.job_id).runs] == [running.id]
        assert crew.table.outcomes == {}

    async def test_a_run_that_is_recalled_on_its_way_never_begins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        crew = Crew(cadence(60))
        term, member = await crew.lead(), crew.join()
        push = term.dispatch.push

        async def paused_meanwhile(tasks: Sequence[Task]) -> None:
            await push(tasks)
            term.collector.recall([task.id for task in tasks])

        monkeypatch.setattr(term.dispatch, "push", paused_meanwhile)
        await term.engine.tick()
        await crew.settle()
        await term.collector.tick()
        assert len(crew.table.ready) == 1
        await term.collector.tick()
        await crew.settle()
        await member.worker.tick()
        assert (member.runs, crew.state.started) == ([], 0)

    @pytest.mark.parametrize("claimed", [False, True])
    async def test_what_is_recalled_while_it_is_asked_where_it_is_never_begins_unless_somebody_has_it(
        self, claimed: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its job was removed, with its state."""
        crew = Crew(cadence(60))
        term = await crew.lead()
        collector = Collector(term.dispatch, crew.clock, crew.events.append, lambda: ())
        await term.dispatch.push([Task("x", "", "", {})])
        await term.dispatch.claim("", int(claimed), LEASE)
        answered, places = asyncio.Event(), term.dispatch.places

        async def slowly(ids: Sequence[str]) -> Mapping[str, Place]:
            await answered.wait()
            return await places(ids)

        monkeypatch.setattr(term.dispatch, "places", slowly)
        recovering = asyncio.create_task(collector.recovery("x"))
        await crew.settle()
        collector.recall({"x"})
        await collector.tick()
        answered.set()
        assert (await recovering).trace is Trace.RUNNING
        adopted = asyncio.create_task(collector.outcome("x"))
        await crew.settle()
        await collector.tick()
        await crew.settle()
        assert adopted.done() is not claimed
        assert (list(crew.table.ready), list(crew.table.claimed)) == ([], ["x"] * claimed)
        adopted.cancel()

    async def test_what_was_recalled_is_remembered_while_it_is_open(self) -> None:
        """A run may be settled and forgotten before those hear of it who paused its job; terms last for months."""
        crew = Crew(cadence(60))
        term = await crew.lead()
        collector = Collector(term.dispatch, crew.clock, crew.events.append, lambda: {"open"})
        collector.recall({"open", "settled"})
        await collector.tick()
        handed = [asyncio.create_task(collector.hand_over(Task(id, "", "", {}))) for id in ("open", "settled")]
        await crew.settle()
        await collector.tick()
        assert [one.done() for one in handed] == [True, False]
        assert list(crew.table.ready) == ["settled"]
        handed[1].cancel()

    async def test_a_hurried_leader_withdraws_what_waits_and_leaves_what_runs(self) -> None:
        crew = Crew(cadence(60, id="ns/a"), cadence(60, id="ns/b"))
        member = crew.join("w", **{"": 1})
        term = await crew.lead(fence=1)
        await crew.step()
        assert len(crew.table.ready) == 1
        term.engine.halt()
        await term.collector.tick()
        await crew.settle()
        assert crew.table.ready == {}
        assert term.engine.running == 0
        running = member.runs[0].job_id
        (waiting,) = set(crew.jobs) - {running}
        assert crew.state_of(waiting).started == 0
        await crew.lead(fence=2)
        await crew.finish(member)
        await crew.go(2 * SECOND)
        assert crew.state_of(running).succeeded == 1
        assert [run.job_id for run in member.runs] == [running, waiting]

    async def test_a_hurried_leader_without_a_store_lets_go_of_everything(self) -> None:
        crew, _ = await one_running()
        assert crew.term is not None
        crew.term.dispatch.down = True
        crew.term.engine.halt()
        await crew.term.collector.tick()
        await crew.settle()
        assert crew.term.engine.running == 0
        assert crew.state.runs != ()


class TestLoops:
    async def test_a_claim_that_is_on_its_way_when_draining_begins_is_drained_too(self) -> None:
        crew = Crew(cadence(60))
        member = crew.join()
        await crew.lead()
        assert crew.term is not None
        await crew.term.engine.tick()
        await crew.settle()
        await crew.term.collector.tick()
        gate, claim = asyncio.Event(), member.dispatch.claim

        async def slowly(pool: str, limit: int, lease: int) -> Sequence[Claim]:
            claims = await claim(pool, limit, lease)
            await gate.wait()
            return claims

        member.dispatch.claim = slowly  # type: ignore[method-assign]  # a server that takes its time
        claiming = asyncio.ensure_future(member.worker.tick())
        await crew.settle()
        draining = asyncio.ensure_future(member.worker.drain(60 * SECOND))
        await crew.settle()
        assert not draining.done()
        gate.set()
        await claiming
        await crew.settle()
        member.executor.finish(member.runs[0])
        assert await draining
        await crew.step()
        assert crew.state.succeeded == 1

    async def test_worker_and_collector_run_by_themselves(self) -> None:
        crew = Crew(cadence(60))
        term, member = await crew.lead(), crew.join()
        member.executor.hold = False
        stop = asyncio.Event()
        collecting = asyncio.ensure_future(term.collector.run())
        working = asyncio.ensure_future(member.worker.run(stop))
        await term.engine.tick()
        async with asyncio.timeout(30):
            while crew.state.succeeded == 0:  # noqa: ASYNC110 - two loops do it, and there is no event
                await asyncio.sleep(0.01)
        stop.set()
        member.worker.wake()
        await working
        collecting.cancel()
