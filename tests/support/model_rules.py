"""The engine in virtual time beside the model: Hypothesis chooses what happens, every step is compared."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support.builders import agent, cadence
from tests.support.ledger import slots_of
from tests.support.model import NOT_A_STEP, Model, Told
from tests.support.world import ScriptedExecutor, World
from vmsh_scheduler.domain import plan
from vmsh_scheduler.domain.decision import Reason
from vmsh_scheduler.domain.job import CatchUp, Job, OnUnknown, Overlap, Subject
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.run import Found, Outcome, Recovery, Run, Status, Trace
from vmsh_scheduler.domain.trigger import DAY, HOUR, MINUTE, SECOND, Interval, Millis, Since
from vmsh_scheduler.engine.control import Control

EVERYTHING = 1_000_000
OK = Outcome(Status.OK)
LOST = Outcome(Status.UNKNOWN, code="lost")
FAILURES = [Outcome(Status.FAILED, error, "exit") for error in (ErrorClass.NETWORK, ErrorClass.AUTH)]
OUTCOMES = st.sampled_from([OK, OK, *FAILURES])
ENDS = st.sampled_from(
    [
        Recovery(Trace.NEVER_BEGAN),
        Recovery(Trace.RUNNING),
        Recovery(Trace.UNKNOWN),
        Recovery(Trace.FINISHED, OK),
        Recovery(Trace.FINISHED, FAILURES[0]),
    ]
)
PASSING = st.one_of(st.integers(1, 2 * SECOND), st.integers(SECOND, 4 * MINUTE), st.integers(MINUTE, 3 * HOUR))
STEPS = st.sampled_from([40, -40, 700, -700, 1_500, -1_500, -20 * SECOND, HOUR, -HOUR, 5 * HOUR, -30 * DAY, DAY])
PERIODS = (60, 89, 97, 300)


def jobs() -> list[Job]:
    """One of each kind; those of one namespace share a lane."""
    rooted = replace(cadence(89), subject=Subject("batches", "ns", "out/batches"))
    laned = [cadence(60, id="x/one"), cadence(97, id="x/two", on_unknown=OnUnknown.HOLD)]
    return [
        rooted,
        *(replace(job, lane="x") for job in laned),
        cadence(60, id="wait/fast", overlap=Overlap.WAIT),
        cadence(60, id="all/fast", catch_up=CatchUp.ALL, misfire_grace=20 * MINUTE),
        agent(15, id="_agents/u/a", misfire_grace=366 * DAY),
        replace(cadence(60, id="y/beside", overlap=Overlap.ALLOW), lane="y"),
        replace(cadence(300, id="y/long"), lane="y"),
    ]


IDS = [job.id for job in jobs()]
ANY = st.sampled_from(IDS)


class Watched(ScriptedExecutor):
    """Keeps every run going until it is told how it ends, and cries when a run starts beside another one."""

    def __init__(self) -> None:
        super().__init__(hold=True)
        self.begun: list[Run] = []
        self.going: dict[str, Run] = {}
        self.done: dict[str, Millis] = {}
        self.wrong: list[str] = []

    async def run(self, job: Job, run: Run) -> Outcome:
        self.begun.append(run)
        beside = run.key if job.policy.overlap is Overlap.ALLOW else job.id
        if beside in self.going:
            self.wrong.append(f"{run.key} started while {self.going[beside].key} went on")
        if run.slot <= self.done.get(job.id, 0):
            self.wrong.append(f"{run.key} started though slot {self.done[job.id]} had succeeded")
        self.going[beside] = run
        return await super().run(job, run)

    async def adopt(self, job: Job, run: Run) -> Outcome:
        return await super().run(job, run)

    def gone(self, run: Run) -> None:
        self.going = {beside: other for beside, other in self.going.items() if other.id != run.id}

    def ended(self, run: Run, outcome: Outcome) -> None:
        self.gone(run)
        if outcome.status is Status.OK:
            self.done[run.job_id] = max(run.slot, self.done.get(run.job_id, 0))


class EngineBesideModel(RuleBasedStateMachine):
    """Every rule does the same to both, and then they are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = World(*jobs(), concurrency=1_000)
        self.world.executor = self.executor = Watched()
        self.clock = self.world.clock
        self.fence = 1
        self.revision = 1
        self.skew = self.clock.wall - self.clock.boot
        self.compared = 0
        self.corrected = NOT_A_STEP
        self.models: dict[str, Model] = {}
        self.told: dict[str, list[Told]] = {id: [] for id in IDS}

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @initialize(after=st.integers(0, 2 * MINUTE))
    def start(self, after: Millis) -> None:
        self.clock.move(after)
        self.boot()
        self.models = {job.id: Model(job, self.clock.wall) for job in self.world.jobs.values()}
        self.tick()

    def boot(self) -> None:
        self.world.boot(self.fence)
        self.do(self.world.start())
        self.skew = self.clock.wall - self.clock.boot

    @property
    def control(self) -> Control:
        return Control(self.world.engine)

    # what may happen

    @rule(by=PASSING)
    def advance(self, by: Millis) -> None:
        self.clock.move(by)
        self.tick()

    @rule()
    def advance_to_the_next(self) -> None:
        """To the instant at which the engine would wake up by itself."""
        due = self.do(self.world.engine.board.agenda.next_due())
        self.clock.move(max(0, min(due or self.clock.wall, self.clock.wall + HOUR) - self.clock.wall))
        self.tick()

    @rule(by=STEPS)
    def step_clock(self, by: Millis) -> None:
        self.set_clock(by)
        self.tick()

    def set_clock(self, by: Millis) -> None:
        """Steps too small to be noticed add up to a longer wait: grids follow the wall clock."""
        self.clock.step(by)
        self.corrected = self.corrected + max(0, -by) if abs(by) < NOT_A_STEP else NOT_A_STEP

    @rule(by=STEPS, after=st.integers(0, 3 * MINUTE))
    def sleep_unticked(self, by: Millis, after: Millis) -> None:
        """A blocked loop: time passes and the clock steps before anybody looks."""
        self.set_clock(by)
        self.clock.move(after)
        self.tick()

    @rule(job_id=ANY, outcome=OUTCOMES, oldest=st.booleans())
    def finish(self, job_id: str, outcome: Outcome, oldest: bool) -> None:
        runs = self.models[job_id].runs
        if runs:
            self.finish_run(runs[0 if oldest else -1], outcome)

    @rule(outcome=OUTCOMES)
    def finish_all(self, outcome: Outcome) -> None:
        for model in self.models.values():
            for run in list(model.runs):
                self.finish_run(run, outcome)
        self.tick()

    @rule(job_id=ANY, times=st.integers(2, 9), outcome=st.sampled_from(FAILURES))
    def fail_streak(self, job_id: str, times: int, outcome: Outcome) -> None:
        """As often as it is tried, each time at its instant; the last millisecond before it is looked at too."""
        model = self.models[job_id]
        for _ in range(times):
            if model.running is not None:
                self.finish_run(model.running, outcome)
            if model.open is None or model.ready <= self.clock.wall:
                break
            self.clock.move(model.ready - self.clock.wall - 1)
            self.tick()
            self.clock.move(1)
            self.tick()

    @rule(
        ends=st.lists(ENDS, min_size=len(IDS), max_size=len(IDS)), down=PASSING, by=st.sampled_from([0, 0, HOUR, -HOUR])
    )
    def crash(self, ends: list[Recovery], down: Millis, by: Millis) -> None:
        self.die(down, by)
        self.boot()
        for model, end in zip(self.models.values(), ends, strict=True):
            model.restore() if model.queued else None
            model.clamp(self.clock.wall, NOT_A_STEP)
            model.save()
            self.executor.traces |= {run.id: end for run in model.runs}
        self.do(self.world.engine.recover())
        self.do(self.world.settle())
        for model, end in zip(self.models.values(), ends, strict=True):
            self.recovered(model, end)
        self.compare()

    @rule(job_id=ANY, down=st.integers(0, HOUR), period=st.sampled_from(PERIODS), enabled=st.booleans())
    def restart_with_another_configuration(self, job_id: str, down: Millis, period: int, enabled: bool) -> None:
        self.crash([Recovery(Trace.UNKNOWN)] * len(IDS), down, 0)
        self.reload_changed(job_id, period, enabled)

    @rule(job_id=ANY, period=st.sampled_from(PERIODS), enabled=st.booleans())
    def reload_changed(self, job_id: str, period: int, enabled: bool) -> None:
        self.revision += 1
        old = self.world.jobs[job_id]
        assert isinstance(old.trigger, Interval)
        every = old.trigger.every if old.trigger.since is Since.FINISH else period * SECOND
        trigger = replace(old.trigger, every=every)
        grace = max(every, old.policy.misfire_grace)
        policy = replace(old.policy, misfire_grace=grace)
        job = replace(old, trigger=trigger, policy=policy, revision=f"r{self.revision}", enabled=enabled)
        self.reload(job)
        self.planned_anew(job_id)

    def planned_anew(self, job_id: str) -> None:
        """From now: slots that were skipped ahead of a clock that was set back are decided again (guarantee 7)."""
        known = max(self.clock.wall, self.world.state(job_id).newest_slot or 0)
        self.told[job_id] = [one for one in self.told[job_id] if one.slot <= known or one.verdict == "fired"]

    @rule(job_id=ANY)
    def reload_same_trigger(self, job_id: str) -> None:
        """A new command, say: no slot of the grid may be decided again, none may be forgotten."""
        self.revision += 1
        strayed = self.models[job_id].strayed
        self.reload(replace(self.world.jobs[job_id], revision=f"r{self.revision}"))
        self.models[job_id].strayed = strayed

    @rule(job_id=ANY)
    def switch(self, job_id: str) -> None:
        job = self.world.jobs[job_id]
        self.reload(replace(job, enabled=not job.enabled))

    @rule()
    def reload_unchanged(self) -> None:
        self.do(self.world.engine.sync({id: replace(job) for id, job in self.world.jobs.items()}, "same"))
        self.compare()

    @rule(job_id=ANY)
    def pause(self, job_id: str) -> None:
        self.do(self.control.pause(job_id, until=None, note="", by="test"))
        self.said(job_id).paused = True

    @rule(job_id=ANY)
    def resume(self, job_id: str) -> None:
        self.do(self.control.resume(job_id, by="test"))
        self.said(job_id).paused = False

    @rule(job_id=ANY)
    def reset(self, job_id: str) -> None:
        self.do(self.control.reset(job_id, by="test"))
        model = self.said(job_id)
        model.level, model.kind = 0, ""
        if model.open is not None and not model.held:
            model.ready = self.clock.wall
            model.save()

    @rule(job_id=ANY)
    def trigger(self, job_id: str) -> None:
        model = self.models[job_id]
        refused = not model.job.enabled or model.paused or model.held or model.queued
        if not refused and (model.allow or not model.running):
            self.clock.move(1)
            self.do(self.control.fire(job_id, by="test"))
            model.trigger(self.clock.wall)
            self.tick()

    @rule(verdict=st.sampled_from(["ok", "failed", "retry"]))
    def resolve(self, verdict: str) -> None:
        held = next((model for model in self.models.values() if model.held), None)
        if held is None or held.held is None:
            return
        self.do(self.control.resolve(held.held.id, verdict, by="test"))
        run, held.held = held.held, None
        held.now = held.ready = self.clock.wall
        if verdict == "ok":
            self.executor.ended(run, OK)
            held.kind = ""
            held.shut()
        elif verdict == "failed":
            held.failed(Outcome(Status.FAILED, ErrorClass.UNKNOWN), self.clock.wall)
        held.save()
        self.compare()

    @rule(number=st.integers(1, 5))
    def new_root(self, number: int) -> None:
        self.models[IDS[0]].root = root = f"sha256:{number:064x}"
        self.world.subjects.found[IDS[0]] = Found(str(number), root)

    # the same, told to both

    def said(self, job_id: str) -> Model:
        """A person's word takes the job out of the queue."""
        model = self.models[job_id]
        model.queued = False
        model.save()
        return model

    def reload(self, job: Job) -> None:
        """Never in the very millisecond of a tick."""
        self.tick()
        self.clock.move(1)
        self.world.jobs[job.id] = job
        self.do(self.world.engine.sync(dict(self.world.jobs), "changed"))
        self.models[job.id].reload(job, self.clock.wall)
        self.tick()

    def die(self, down: Millis, by: Millis) -> None:
        """Whatever the engine was doing ends here; its states are all that is left."""
        self.world.engine.stopping = True
        self.do(bury(self.loop))
        self.executor._open.clear()
        self.clock.move(down)
        self.clock.step(by)
        self.fence += 1

    def recovered(self, model: Model, end: Recovery) -> None:
        if end.trace is Trace.RUNNING:
            return
        outcome = end.outcome or LOST
        for run in list(model.runs):
            if end.trace is Trace.NEVER_BEGAN:
                self.executor.gone(run)
                model.never_began(run, self.clock.wall)
            else:
                self.executor.ended(run, outcome)
                model.end(run, outcome, self.clock.wall)

    def finish_run(self, run: Run, outcome: Outcome) -> None:
        self.executor.ended(run, outcome)
        self.executor.finish(run, outcome)
        self.do(self.world.settle())
        self.models[run.job_id].end(run, outcome, self.clock.wall)
        self.compare()

    def tick(self) -> None:
        """Both look; whatever starts has to be what the model expects, and one of each free lane has to."""
        seen, now = len(self.executor.begun), self.clock.wall
        if abs(now - self.clock.boot - self.skew) >= NOT_A_STEP:
            for model in self.models.values():
                model.step(now)
        self.skew = now - self.clock.boot
        holders = {model.job.lane: model for model in self.models.values() if model.running}
        wanted = [model for model in self.models.values() if model.look(now) or model.queued]
        self.do(self.world.tick())
        begun = {run.job_id: run for run in self.executor.begun[seen:]}
        for lane in {model.job.lane for model in self.models.values()}:
            self.lane_moved([model for model in wanted if model.job.lane == lane], begun, holders.get(lane))
        assert not begun, f"nobody expected {begun}"
        self.compare()

    def lane_moved(self, wanted: Sequence[Model], begun: dict[str, Run], holder: Model | None) -> None:
        """A lane that is held is free for runs of its holder only, and for no more of them once somebody is in line."""
        started = [model for model in wanted if model.job.id in begun]
        closing = [model for model in wanted if not holder and model.nothing_to_do()]
        for model in closing:
            model.close(model.nothing_to_do() or "")
        wanted = [model for model in wanted if model not in closing]
        free = (
            holder in wanted and not any(model.queued for model in wanted if model is not holder)
            if holder
            else bool(wanted)
        )
        outrun = bool(holder) and wanted != [holder] and not started  # another came in the same tick, before it
        assert outrun or len(started) == free, (
            f"{[m.job.id for m in wanted]} may start, {[m.job.id for m in started]} did"
        )
        for model in wanted:
            model.queued = True
        for model in started:
            self.started(model, begun.pop(model.job.id))

    def started(self, model: Model, run: Run) -> None:
        model.supersede()
        expected = (model.open, model.attempt + 1)
        assert (run.slot, run.attempt) == expected, f"{run} instead of slot, attempt {expected}"
        model.begin(run)

    # what must hold

    def compare(self) -> None:
        """The journal says of every slot what the model says."""
        assert self.executor.wrong == []
        rows = [row for _, row in self.world.states.journal._decisions[self.compared :]]
        self.compared += len(rows)
        said = [(row.job_id, slot, row.verdict.value, reason(row.reason)) for row in rows for slot in slots_of(row)]
        told = [told for model in self.models.values() for told in model.told]
        for model in self.models.values():
            self.told[model.job.id] += model.told
            model.told = []
        assert sorted(map(Told._make, said)) == sorted(told)

    @invariant()
    def every_slot_has_one_decision(self) -> None:
        for job_id, told in self.told.items():
            slots = Counter(one.slot for one in told)
            assert not (twice := [slot for slot, count in slots.items() if count > 1]), f"{job_id} twice: {twice}"

    @invariant()
    def no_slot_of_a_grid_is_left_out(self) -> None:
        for job_id, told in self.told.items():
            model = self.models[job_id]
            if model.delay or model.strayed:
                continue
            slots = {one.slot for one in told} | ({model.open} if model.open else set())
            grid = {slot for slot in slots if slot % model.every == 0}
            if grid:
                missing = (max(grid) - min(grid)) // model.every + 1 - len(grid)
                assert missing == 0, f"{job_id}: {missing} slots were never decided"

    @invariant()
    def nothing_freezes(self) -> None:
        """Whatever the clock did: planned within a period, and the engine wakes up for it."""
        wakes = self.do(self.world.engine.board.agenda.next_due())
        for job_id, model in self.models.items():
            due = plan.next_due(model.job, self.world.state(job_id), queued=model.queued)
            if model.queued or model.running or due is None:
                continue
            longest = max(model.every, model.backoff() if model.open else 0) + self.corrected
            assert due - self.clock.wall <= longest, f"{job_id} waits for {due - self.clock.wall} ms"
            assert wakes is not None, job_id
            assert wakes <= due, job_id

    def teardown(self) -> None:
        self.world.engine.stopping = True
        self.do(bury(self.loop))
        self.loop.close()


def reason(given: Reason) -> str:
    return "due" if given is Reason.FIRST_SIGHT else given.value


async def bury(loop: asyncio.AbstractEventLoop) -> None:
    """End every task as a killed process does: nothing is written, nothing is said."""
    tasks = [task for task in asyncio.all_tasks(loop) if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
