"""What can be asked of the program, answered from an opened App: behind the control socket, and for the CLI alone."""

import asyncio
from collections.abc import Mapping

from vmsh_scheduler.agent_operations import AgentOperations, audited
from vmsh_scheduler.answers import explain, find_job, history
from vmsh_scheduler.api.operations import HistoryQuery, Json
from vmsh_scheduler.app import App
from vmsh_scheduler.domain.health import Health
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.domain.views import agents_view, job_view, next_view
from vmsh_scheduler.engine.board import Board
from vmsh_scheduler.observe.metrics import Extra
from vmsh_scheduler.reload import Reloader


class AppProbes:
    """Implements api.Probes: what anybody who reaches the metrics listener may read."""

    def __init__(self, app: App) -> None:
        self._app = app

    def health(self) -> Health:
        return self._app.health()

    def ready(self) -> Mapping[str, bool]:
        return {"config": self._app.config.loaded, "lock": self._app.store.lock.check() == ""}

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        app = self._app
        writes, seconds = app.store.states.writes
        extra = Extra(
            last_tick=app.work.last_tick or None,
            config_valid=not app.problems,
            state_writes=writes,
            state_write_seconds=seconds,
        )
        taken = app.metrics.take(app.engine.board.jobs.values(), app.states.all(), app.clock.now(), extra)
        return await asyncio.to_thread(app.metrics.render, taken, accept)


class AppOperations:
    """Implements api.Operations over the live engine."""

    def __init__(self, app: App, reloader: Reloader) -> None:
        self._app = app
        self._reloader = reloader
        self.agents = AgentOperations(app)

    @property
    def _board(self) -> Board:
        return self._app.engine.board

    async def status(self) -> Json:
        await self._fresh()
        now = self._app.clock.now()
        rows = [
            job_view(job, self._board.told(id), now, queued=id in self._board.waiting)
            for id, job in self._board.jobs.items()
        ]
        health = self._app.health()
        return {
            "now": now,
            "source": "the daemon is running",
            "status": health.condition.value,
            "config_hash": self._app.config.config_hash,
            "findings": self._findings(),
            "fence": self._app.fence,
            "agents": agents_view(rows),
            **({"attestations": health.body["attestations"]} if "attestations" in health.body else {}),
            **({} if self._app.cluster is None else {"cluster": self._app.cluster.details()}),
            "jobs": rows,
        }

    def health(self) -> Json:
        body = dict(self._app.health().body)
        return {**body, "findings": self._findings(), "problems": list(self._app.problems)}

    async def next(self, job: str, limit: int) -> Json:
        await self._fresh()
        jobs = {job: find_job(self._board.jobs, job)} if job else self._board.jobs
        now = self._app.clock.now()
        return {"now": now, "slots": next_view(jobs, {id: self._board.told(id) for id in jobs}, now, limit)}

    async def why(self, job: str, at: Millis | None) -> Json:
        await self._fresh()
        found, now = find_job(self._board.jobs, job), self._app.clock.now()
        state = self._board.told(job)
        return {"now": now, **await asyncio.to_thread(explain, found, state, now, at, self._app.journal)}

    async def history(self, query: HistoryQuery) -> Json:
        """The journal may be far away: nothing waits for it but who asked."""
        return await asyncio.to_thread(history, dict(self._board.jobs), self._app.journal, query)

    async def _fresh(self) -> None:
        if self._app.cluster is not None:
            await self._app.cluster.facts.fresh()

    async def trigger(self, job: str, *, by: str) -> Json:
        audited("trigger", by, job=job)
        return {"job": job, "slot": await self._app.control.fire(job, by=by)}

    async def pause(self, job: str, *, until: Millis | None, note: str, by: str) -> Json:
        audited("pause", by, job=job)
        await self._app.control.pause(job, until=until, note=note, by=by)
        return {"job": job, "paused": True, "until": until}

    async def resume(self, job: str, *, by: str) -> Json:
        audited("resume", by, job=job)
        await self._app.control.resume(job, by=by)
        return {"job": job, "paused": False}

    async def resolve(self, run: str, verdict: str, *, by: str) -> Json:
        audited("resolve", by, run=run, verdict=verdict)
        return {"job": await self._app.control.resolve(run, verdict, by=by), "run": run, "as": verdict}

    async def reset(self, job: str, *, by: str) -> Json:
        audited("reset", by, job=job)
        await self._app.control.reset(job, by=by)
        return {"job": job, "backoff": 0}

    async def reload(self, *, by: str) -> Json:
        audited("reload", by)
        jobs = await self._reloader.now()
        return {"config_hash": jobs.config_hash, "jobs": len(jobs.jobs), "warnings": list(jobs.warnings)}

    def _findings(self) -> list[str]:
        off = () if self._app.settings.anchor_write_enabled else ("ANCHOR_WRITE_ENABLED is 0: nothing is anchored",)
        return [*self._app.problems, *off, *self._app.config.warnings, *self._app.store.troubles()]
