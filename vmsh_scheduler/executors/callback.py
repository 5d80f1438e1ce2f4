"""Carries out Forge cycles: the market snapshot, then one POST (forge-os sections 6, 7, 8)."""

import asyncio
import hashlib
import hmac
import math
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from vmsh_scheduler.domain.action import Callback
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.json_text import encoded
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.run import Outcome, Recovery, Run, Status, Trace
from vmsh_scheduler.domain.text import printable
from vmsh_scheduler.domain.trigger import SECOND
from vmsh_scheduler.engine.errand import INSTANCE
from vmsh_scheduler.net.calls import CallFailed, FailureKind, Poster, Reply
from vmsh_scheduler.ports import Clock

Snapshot = Callable[[str], Awaitable[Mapping[str, object]]]
"""The market as seen from a wallet (forge-os section 11); raises when it cannot be had."""
Observe = Callable[[str, float], None]
"""Told `success` or `error` and the milliseconds, once per POST (D27)."""

EXCERPT = 180
"""Characters of a refusing body that are kept (forge-os section 7)."""
ABORTED = "This operation was aborted"
_FETCH_FAILED = "fetch failed"
_CYCLES = uuid.UUID("5f0d1f4e-6f3b-5c5e-9b7e-3c9a4d1f7a52")
"""Namespace of queue task ids: never change it, keys of open cycles would change with it."""
_FAILED: Mapping[FailureKind, tuple[ErrorClass, str, str]] = {
    "timeout": (ErrorClass.NETWORK, "timeout", ABORTED),
    "lookup": (ErrorClass.NETWORK, "lookups_stuck", "callback_lookups_stuck"),
    "connect": (ErrorClass.NETWORK, "connect", _FETCH_FAILED),
    "protocol": (ErrorClass.NETWORK, "protocol", _FETCH_FAILED),
    "too_large": (ErrorClass.NETWORK, "protocol", _FETCH_FAILED),
    "refused_address": (ErrorClass.VALIDATION, "callback_address_refused", "callback_address_refused"),
}
_HURRIED = 0.0
"""Long past, as loops count: the limit of time of what has to end at once."""
_NOT_PLAIN = re.compile(r"[^ -~]|%[0-9A-Fa-f]{2}")


@dataclass(frozen=True, slots=True)
class Cycle:
    """One due cycle on the wire; all attempts at it share `task` and `key` (D7, decision 3)."""

    task: str
    key: str
    headers: Mapping[str, str]


def cycle_of(action: Callback, run: Run, instance: str) -> Cycle:
    """Minted from the slot alone, so that an attempt after a restart carries the same key."""
    task = str(uuid.uuid5(_CYCLES, run.key))
    user, agent = in_header(action.user), in_header(action.agent)
    key = f"forgeos.scheduler:{user}:{agent}:{run.slot}:{task}"
    headers = {
        "X-ForgeOS-Scheduler-Instance": in_header(instance),
        "X-ForgeOS-Leader-Fence-Token": str(run.fence),
        "X-ForgeOS-Idempotency-Key": key,
        "X-ForgeOS-Queue-Task-Id": task,
        "X-ForgeOS-Agent-Key": f"{user}:{agent}",
        "X-ForgeOS-Attempt": str(run.attempt),
    }
    return Cycle(task, key, headers)


def in_header(text: str) -> str:
    """Printable ASCII as it is, else percent-encoded UTF-8 (D26). Text that looks encoded is encoded too: two ids
    never become one."""
    return (
        quote(text, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}", errors="surrogatepass") if _NOT_PLAIN.search(text) else text
    )


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One run of the executor."""

    action: Callback
    run: Run
    instance: str
    """As the receiver is told."""
    ends: float
    """By the loop's time."""
    limit: asyncio.Timeout
    """For the market; afterwards it only ends what is hurried."""


class CallbackExecutor:
    """Executor of `Callback`. `client` is asked for at the first POST; use in one event loop."""

    def __init__(
        self,
        client: Callable[[], Poster],
        snapshot: Snapshot,
        clock: Clock,
        instance: str,
        *,
        secret: bytes = b"",
        timeout_ms: float = math.inf,
        observe: Observe = lambda _kind, _ms: None,
    ) -> None:
        self._make_client = client
        self._client: Poster | None = None
        self._snapshot = snapshot
        self._clock = clock
        self._instance = instance
        self._secret = secret
        self._timeout_s = timeout_ms / SECOND
        self._observe = observe
        self._running: set[asyncio.Timeout] = set()

    async def run(self, job: Job, run: Run) -> Outcome:
        """The market takes of the time for the whole; the POST has what is left."""
        ends = asyncio.get_running_loop().time() + job.policy.timeout / SECOND
        limit = asyncio.timeout_at(ends)
        self._running.add(limit)
        try:
            async with limit:
                return await self._cycle(_Attempt(_callback(job), run, self.enqueued_by(job), ends, limit))
        except TimeoutError as error:
            hurried = limit.when() == _HURRIED
            return _failure(ErrorClass.NETWORK, "cancelled", ABORTED) if hurried else _no_market(error)
        finally:
            self._running.discard(limit)

    def enqueued_by(self, job: Job) -> str:
        """The instance that the receiver is told: another one may have handed the run to this one (section 7)."""
        return job.labels.get(INSTANCE, self._instance)

    async def recover(self, job: Job, run: Run) -> Recovery:
        """Whether the other side got it is its own to know: the same key is sent again."""
        return Recovery(Trace.UNKNOWN)

    async def adopt(self, job: Job, run: Run) -> Outcome:
        return Outcome(Status.UNKNOWN, code="lost", message="a callback does not outlive its daemon")

    async def probe(self, job: Job, run: Run) -> bool | None:
        return None

    def forget(self, run: Run) -> None:
        """Nothing is kept of a callback."""

    def hurry(self) -> None:
        """Every call in flight ends now; each is tried again under its key."""
        while self._running:  # emptied: one that is ending already cannot be told again
            limit = self._running.pop()
            if not limit.expired():
                limit.reschedule(_HURRIED)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _cycle(self, attempt: _Attempt) -> Outcome:
        action = attempt.action
        cycle = cycle_of(action, attempt.run, attempt.instance)
        try:
            market = await self._snapshot(action.wallet)
            if attempt.limit.when() != _HURRIED:
                attempt.limit.reschedule(None)
            body = self._body(attempt, cycle, market)
        except Exception as error:  # whatever keeps the market away, nothing may be sent without it (section 6)
            return _no_market(error)
        return await self._post(attempt, cycle, body, market) if action.url else _success(action, cycle, market)

    async def _post(self, attempt: _Attempt, cycle: Cycle, body: bytes, market: Mapping[str, object]) -> Outcome:
        action, began, kind = attempt.action, self._clock.elapsed(), "error"
        left = min(self._timeout_s, max(0.0, attempt.ends - asyncio.get_running_loop().time()))
        try:
            reply = await self._http().post(
                action.url, body, self._headers(cycle, body), timeout_s=left, trusted=action.trusted
            )
            if not 200 <= reply.status < 300:
                return _not_taken(action, reply)
            kind = "success"
            return _success(action, cycle, market)
        except CallFailed as failure:
            return _failure(*_FAILED[failure.kind])
        finally:
            self._observe(kind, self._clock.elapsed() - began)

    def _http(self) -> Poster:
        if self._client is None:
            self._client = self._make_client()
        return self._client

    def _body(self, attempt: _Attempt, cycle: Cycle, market: Mapping[str, object]) -> bytes:
        payload = attempt.action.payload
        document = {
            "event": payload.get("event"),
            "ts": self._clock.now(),
            "scheduler": {
                "instanceId": attempt.instance,
                "leaderFenceToken": attempt.run.fence,
                "queueTaskId": cycle.task,
                "callbackIdempotencyKey": cycle.key,
                "callbackHeaders": cycle.headers,
            },
            "agent": payload.get("agent"),
            "market": market,
        }
        return encoded(document)

    def _headers(self, cycle: Cycle, body: bytes) -> Mapping[str, str]:
        headers = {"Content-Type": "application/json", **cycle.headers}
        if self._secret:
            headers["X-VMSH-Signature"] = signature(self._secret, self._clock.now() // SECOND, body)
        return headers


def signature(secret: bytes, seconds: int, body: bytes) -> str:
    """`t=<seconds>,v1=<hex>`: HMAC-SHA256 over "<t>.<body>", so that an old body cannot be sent as a new one."""
    digest = hmac.new(secret, b"%d." % seconds + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"


def _callback(job: Job) -> Callback:
    if not isinstance(job.action, Callback):
        raise TypeError(f"job {job.id}: {type(job.action).__name__} is not a Callback")
    return job.action


def _success(action: Callback, cycle: Cycle, market: Mapping[str, object]) -> Outcome:
    dag = market.get("dag")
    result = {
        "callbackUrl": action.url or None,
        "callbackIdempotencyKey": cycle.key,
        "callbackDeduped": False,
        "snapshotDaa": dag.get("daaScore") if isinstance(dag, Mapping) else None,
        "snapshotPriceUsd": market.get("priceUsd"),
    }
    return Outcome(Status.OK, code="delivered" if action.url else "no_callback", result=result)


def _not_taken(action: Callback, reply: Reply) -> Outcome:
    """What the other side says is shown to those only who wrote its URL into a file of ours (D10)."""
    error = ErrorClass.NETWORK
    if reply.status in (401, 403):
        error = ErrorClass.AUTH
    elif 400 <= reply.status < 500:
        error = ErrorClass.VALIDATION
    said = _excerpt(reply.head.decode("utf-8", "replace"), action)
    if 300 <= reply.status < 400:
        said = "redirect not followed"
    return _failure(error, "callback_status", f"callback_{reply.status}" + (f":{said}" if said else ""))


def _no_market(error: Exception) -> Outcome:
    """The upstream is the operator's and speaks of the agent's own wallet, so it is shown whoever wrote the URL."""
    why = printable((ABORTED if isinstance(error, TimeoutError) else str(error))[:EXCERPT])
    return _failure(ErrorClass.NETWORK, "market_unavailable", "market_unavailable" + (f":{why}" if why else ""))


def _excerpt(text: str, action: Callback) -> str:
    return printable(text[:EXCERPT]) if action.trusted else ""


def _failure(error: ErrorClass, code: str, message: str) -> Outcome:
    return Outcome(Status.FAILED, error, code, message)
