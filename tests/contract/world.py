"""Values the contract suites share."""

import asyncio

from vmsh_scheduler.domain.decision import Decision, Reason, Verdict
from vmsh_scheduler.domain.run import Cause, Execution, Found, Outcome, Run, Status
from vmsh_scheduler.domain.state import JobState, Pause
from vmsh_scheduler.domain.trigger import Millis, Next

NOW = 1_800_000_000_000


class FixedClock:
    """A wall clock that stands at `at`."""

    def __init__(self, at: Millis = NOW) -> None:
        self.at = at

    def now(self) -> Millis:
        return self.at

    def elapsed(self) -> Millis:
        return self.at

    async def sleep_until(self, when: Millis, wakeup: asyncio.Event) -> None:
        await wakeup.wait()


def decision(job_id: str, n: int, *, slot: Millis | None = None) -> Decision:
    at = NOW + n
    return Decision(job_id, at if slot is None else slot, Verdict.FIRED, Reason.DUE, at, inputs={"n": n})


def run(job_id: str, n: int) -> Run:
    found = Found("batch", "sha256:00", "key", {"count": n})
    return Run(f"run-{n}", job_id, NOW + n, Cause.SCHEDULE, 1, 7, NOW + n, NOW + n + 5, boot_id="b", found=found)


def execution(job_id: str, n: int) -> Execution:
    outcome = Outcome(Status.OK, exit_code=0, output="ä", output_bytes=2, result={"tx": "1"}, flags=("recovered",))
    return Execution(run(job_id, n), outcome, NOW + n + 2, worker="w", start_delay=1)


def busy_state() -> JobState:
    """One value in every kind of field."""
    return JobState(
        revision="r",
        first_seen=1,
        upcoming=Next(5, 6),
        slot=4,
        attempt=2,
        level=8,
        runs=(run("dao:x/fast", 1),),
        newest_slot=3,
        pause=Pause(1, 2, "because", "me"),
        last_success=NOW,
        mean_ms=1.5,
        result={"chain": "local:x", "n": [1, 2]},
    )
