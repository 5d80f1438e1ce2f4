"""Callbacks in a cluster: nobody sends a key that another instance sends, or that was taken (forge-os section 8)."""

import contextlib
from collections.abc import Callable

from vmsh_scheduler.domain.action import Callback
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.run import Outcome, Recovery, Run, Status
from vmsh_scheduler.errors import StoreDown
from vmsh_scheduler.executors.callback import CallbackExecutor, cycle_of
from vmsh_scheduler.ports import Dedupe, Known

BUSY = Outcome(Status.FAILED, code="resources", message="another instance is sending this cycle")
"""`resources`: not counted, tried again in a second; then it is done, or free."""


class DedupedCallbacks:
    """Executor of `Callback` around `inner`; `skipped` is told of every cycle that was not sent again."""

    def __init__(
        self, inner: CallbackExecutor, dedupe: Dedupe, instance: str, skipped: Callable[[], None] = lambda: None
    ) -> None:
        self._inner = inner
        self._dedupe = dedupe
        self._instance = instance
        self._skipped = skipped

    async def run(self, job: Job, run: Run) -> Outcome:
        if not isinstance(job.action, Callback) or not job.action.url:
            return await self._inner.run(job, run)
        key = cycle_of(job.action, run, self._instance).key
        owner = f"{self._instance}:{run.id}"
        match await self._begin(key, owner):
            case Known.DONE:
                self._skipped()
                return _deduped(job.action, key)
            case Known.BUSY:
                return BUSY
            case _:
                return await self._send(job, run, key, owner)

    async def recover(self, job: Job, run: Run) -> Recovery:
        return await self._inner.recover(job, run)

    async def adopt(self, job: Job, run: Run) -> Outcome:
        return await self._inner.adopt(job, run)

    async def probe(self, job: Job, run: Run) -> bool | None:
        return await self._inner.probe(job, run)

    def forget(self, run: Run) -> None:
        self._inner.forget(run)

    def hurry(self) -> None:
        self._inner.hurry()

    async def _begin(self, key: str, owner: str) -> Known:
        """A store that does not answer keeps nothing from being sent: the receiver knows the key."""
        try:
            return await self._dedupe.begin(key, owner)
        except StoreDown:
            return Known.NEW

    async def _send(self, job: Job, run: Run, key: str, owner: str) -> Outcome:
        taken = False
        try:
            outcome = await self._inner.run(job, run)
            taken = outcome.status is Status.OK
            return outcome
        finally:
            with contextlib.suppress(StoreDown):
                await (self._dedupe.done(key, owner) if taken else self._dedupe.failed(key, owner))


def _deduped(action: Callback, key: str) -> Outcome:
    result = {"callbackUrl": action.url, "callbackIdempotencyKey": key, "callbackDeduped": True}
    return Outcome(Status.OK, code="deduped", result=result)
