"""Counts what happens in plain numbers; the exposition is made at scrape time (docs/metrics.md lists every series)."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from vmsh_scheduler.domain.decision import Reason, Verdict
from vmsh_scheduler.domain.events import (
    ClockStepped,
    ConfigRejected,
    Decided,
    Event,
    Finished,
    Recovered,
    Started,
    StateFailed,
    Synced,
    Ticked,
    Trouble,
)
from vmsh_scheduler.domain.health import NEW, backoff_level, cadences, is_agent
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.run import Execution, Status
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import Interval, Millis
from vmsh_scheduler.observe.attestations import Attestations
from vmsh_scheduler.observe.histogram import Histogram
from vmsh_scheduler.observe.snapshot import AGENTS, CadenceSample, Snapshot

DURATION_BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
DELAY_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
TROUBLE_LIMIT = 32
"""Different `what` labels; more of them are counted as `other`."""

_EXPECTED_DECISIONS = (
    (Verdict.FIRED, (Reason.DUE, Reason.FIRST_SIGHT, Reason.CATCH_UP, Reason.MANUAL, Reason.NEW_ROOT)),
    (Verdict.SKIPPED, (Reason.DISABLED, Reason.PAUSED, Reason.CAPACITY, Reason.OVERLAP)),
    (Verdict.SKIPPED, (Reason.NO_BATCH, Reason.UNCHANGED, Reason.NOT_CONFIGURED, Reason.KILL_SWITCH)),
    (Verdict.DEFERRED, (Reason.BACKOFF, Reason.HELD)),
    (Verdict.MISSED, (Reason.WINDOW, Reason.LIMIT, Reason.STATE_LOST)),
    (Verdict.SUPERSEDED, (Reason.COALESCED, Reason.NEW_ROOT)),
)
"""Zero from the start, so that an increase can be seen; other pairs appear when they happen."""


class Extra(NamedTuple):
    """What only the process knows at scrape time; None where it does not."""

    last_tick: Millis | None = None
    config_valid: bool | None = None
    ready: int | None = None
    state_writes: int | None = None
    state_write_seconds: float = 0.0
    log_lines_dropped: int = 0


class Metrics:
    """An Observer with a memory. `take` copies it for a scrape, `render` turns the copy into text."""

    def __init__(self, *, version: str, python: str) -> None:
        self._build = {"version": version, "python": python}
        self._durations: dict[tuple[str, bool], Histogram] = {}
        self._delays: dict[str, Histogram] = {}
        self._decisions = Counter({(v.value, r.value): 0 for v, reasons in _EXPECTED_DECISIONS for r in reasons})
        self._runs = Counter({status.value: 0 for status in Status})
        self._reloads = Counter({"applied": 0, "rejected": 0})
        self._recovered = Counter({"finished": 0, "never_began": 0, "adopted": 0, "unknown": 0})
        self._troubles: Counter[str] = Counter()
        self._write_errors = 0
        self._clock_steps = 0
        self._writes = 0
        self._write_seconds = 0.0
        self._last_tick: Millis | None = None
        self._last_reload: Millis | None = None
        self._config_valid = True
        self._waiting = 0
        self.attestations = Attestations()

    def observe(self, event: Event) -> None:
        """Numbers and dicts only: this runs several times per run."""
        match event:
            case Ticked():
                self._last_tick, self._waiting = event.at, event.waiting
            case Decided():
                self._decisions[event.decision.verdict.value, event.decision.reason.value] += event.decision.count
            case Started():
                self._delay(event.job).observe(max(0, event.start_delay) / 1000)
            case Finished():
                self._finished(event.job, event.execution)
            case _:
                self._rare(event)

    def wrote_state(self, seconds: float) -> None:
        """One durable write of the state took this long (fsync included)."""
        self._writes += 1
        self._write_seconds += seconds

    def take(
        self,
        jobs: Iterable[Job],
        states: Mapping[str, JobState],
        now: Millis,
        extra: Extra,
    ) -> Snapshot:
        """A copy for `render`; histograms are shared, which another thread may read while the engine goes on."""
        jobs = tuple(jobs)
        self.attestations.keep(frozenset(job.labels["confirms"] for job in jobs if "confirms" in job.labels))
        known = [states[job.id] for job in jobs if job.id in states]
        writes = self._writes if extra.state_writes is None else extra.state_writes
        return Snapshot(
            at=now,
            build=self._build,
            cadences=tuple(self._cadence(job, states.get(job.id, NEW)) for job in cadences(jobs)),
            agents_delay=self._delays.get(AGENTS),
            agents=sum(is_agent(job) for job in jobs),
            last_tick=self._last_tick if extra.last_tick is None else extra.last_tick,
            running=sum(len(state.runs) for state in known),
            held=sum(bool(state.held) for state in known),
            paused=sum(state.pause is not None for state in known),
            ready=self._waiting if extra.ready is None else extra.ready,
            decisions=dict(self._decisions),
            runs=dict(self._runs),
            recovered=dict(self._recovered),
            reloads=dict(self._reloads),
            last_reload=self._last_reload,
            config_valid=self._config_valid if extra.config_valid is None else extra.config_valid,
            write_errors=self._write_errors,
            writes=writes,
            write_seconds=self._write_seconds if extra.state_writes is None else extra.state_write_seconds,
            clock_steps=self._clock_steps,
            troubles=dict(self._troubles),
            log_lines_dropped=extra.log_lines_dropped,
            attestations=self.attestations.taken(now),
        )

    @staticmethod
    def render(snapshot: Snapshot, accept: str = "") -> tuple[bytes, str]:
        """Text and content type as the Accept header wants them; heavy, so run it in a thread."""
        # prometheus_client costs 0.1 s to import: paid by the first scrape, never by the first run.
        from vmsh_scheduler.observe.exposition import expose

        return expose(snapshot, accept)

    def _cadence(self, job: Job, state: JobState) -> CadenceSample:
        durations = {
            "success": self._durations.get((job.id, True)),
            "failure": self._durations.get((job.id, False)),
        }
        return CadenceSample(
            namespace=job.labels["namespace"],
            cadence=job.labels.get("cadence", job.name),
            target=job.labels.get("target", ""),
            attempted=state.started,
            succeeded=state.succeeded,
            failed=state.failed,
            backoff=backoff_level(job, state),
            last_success=state.last_success,
            period=job.trigger.every if isinstance(job.trigger, Interval) else 0,
            durations={status: seen for status, seen in durations.items() if seen is not None},
            delay=self._delays.get(job.id),
        )

    def _delay(self, job: Job) -> Histogram:
        key = AGENTS if is_agent(job) else job.id
        found = self._delays.get(key)
        if found is None:
            found = self._delays[key] = Histogram(DELAY_BOUNDS)
        return found

    def _finished(self, job: Job, execution: Execution) -> None:
        status = execution.outcome.status
        self._runs[status.value] += 1
        if "confirms" in job.labels:
            self.attestations.passed(job, execution)
        else:
            self.attestations.anchored(job, execution)
        if is_agent(job) or status is Status.SUPERSEDED:
            return
        key = job.id, status in {Status.OK, Status.SKIPPED}
        found = self._durations.get(key)
        if found is None:
            found = self._durations[key] = Histogram(DURATION_BOUNDS)
        found.observe(max(0, execution.finished_at - execution.run.started_at) / 1000)

    def _rare(self, event: Event) -> None:
        match event:
            case Synced():
                self._synced(event)
            case ConfigRejected():
                self._reloads["rejected"] += 1
                self._config_valid = False
            case ClockStepped():
                self._clock_steps += 1
            case StateFailed():
                self._write_errors += 1
            case Recovered():
                self._recovered.update({name: getattr(event, name) for name in self._recovered})
            case Trouble():
                known = event.what in self._troubles or len(self._troubles) < TROUBLE_LIMIT
                self._troubles[event.what if known else "other"] += 1
            case _:
                pass

    def _synced(self, event: Synced) -> None:
        self._reloads["applied"] += 1
        self._config_valid, self._last_reload = True, event.at
        for job_id in (*event.changed, *event.removed):
            self._delays.pop(job_id, None)
            self._durations.pop((job_id, True), None)
            self._durations.pop((job_id, False), None)
