"""Agents that are there at start wait for the first tick, one period later (forge-os section 1, decision 7)."""

from vmsh_scheduler.domain import plan
from vmsh_scheduler.domain.agents import first_due
from vmsh_scheduler.domain.health import is_agent
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.engine.board import Board


class FirstTick:
    """Only the agenda is told: what is stored of an agent, and so its `nextRunAt`, stays as it is."""

    def __init__(self, started_at: Millis, tick: Millis) -> None:
        self._started_at = started_at
        self._tick = tick
        self._early: list[str] = []

    async def await_it(self, board: Board) -> None:
        """After the first job set came in force, before the engine runs. Who registers later is due as told."""
        for job_id, job in board.jobs.items():
            due = plan.next_due(job, board.state(job_id)) if is_agent(job) else None
            if due is not None and (first := first_due(due, self._started_at, self._tick)) > due:
                await board.agenda.schedule(job_id, first)
                self._early.append(job_id)

    async def now(self, board: Board) -> None:
        """Somebody asked for a tick: it is the first."""
        early, self._early = self._early, []
        for job_id in early:
            await board.reschedule(job_id)
