"""A Forge agent as its API shows it: what a registration may say, what became of its cycles (forge-os 5, 6)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from vmsh_scheduler.domain.job import AGENT_PREFIX
from vmsh_scheduler.domain.plan import QUEUE_FULL
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import DAY, SECOND, Millis, Next

KIND = "agent"
"""Of their documents."""
DEFAULT_INTERVAL: Millis = 15 * SECOND
SHORTEST: Millis = SECOND
LONGEST: Millis = 3_660 * DAY
SOON: Millis = SECOND
"""A new or resumed agent is due after this, or its interval if that is shorter."""
LONGEST_ID = 120
LONGEST_TEXT = 120
LONGEST_ERROR = 240
LONGEST_WALLET = 200
WALLETS = ("kaspa:", "kaspatest:")
RUNNING, PAUSED = "RUNNING", "PAUSED"


class Refused(Exception):
    """`code` is the error.message of the answer."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Agent:
    """One registration. Ids are as given: the pair is the identity, `key` only shows it (D20)."""

    user: str
    id: str
    name: str
    wallet: str
    strategy: str
    interval: Millis
    url: str
    status: str
    created_at: Millis
    updated_at: Millis

    @property
    def key(self) -> str:
        return f"{self.user}:{self.id}"

    @property
    def job_id(self) -> str:
        return job_id(self.user, self.id)

    def document(self) -> dict[str, object]:
        """What is stored."""
        return {
            "userId": self.user,
            "id": self.id,
            "name": self.name,
            "walletAddress": self.wallet,
            "status": self.status,
            "cycleIntervalMs": self.interval,
            "callbackUrl": self.url,
            "strategyLabel": self.strategy,
            "createdAt": self.created_at,
            "updatedAt": self.updated_at,
        }


def job_id(user: str, id: str) -> str:
    """No two pairs share one, whatever characters they hold."""
    return AGENT_PREFIX + "/".join(part.replace("%", "%25").replace("/", "%2F") for part in (user, id))


def named(job_id: str) -> tuple[str, str] | None:
    """User and id of an agent's job; None for any other."""
    if not job_id.startswith(AGENT_PREFIX):
        return None
    user, _, id = job_id.removeprefix(AGENT_PREFIX).partition("/")
    return tuple(part.replace("%2F", "/").replace("%25", "%") for part in (user, id))  # type: ignore[return-value]  # two


def stored(document: Mapping[str, object]) -> Agent:
    """Of `document()`; raises KeyError, TypeError, ValueError for what never was one."""
    return Agent(
        user=str(document["userId"]),
        id=str(document["id"]),
        name=str(document["name"]),
        wallet=str(document["walletAddress"]),
        strategy=str(document["strategyLabel"]),
        interval=int(str(document["cycleIntervalMs"])),
        url=str(document["callbackUrl"]),
        status=str(document["status"]),
        created_at=int(str(document["createdAt"])),
        updated_at=int(str(document["updatedAt"])),
    )


def registered(body: Mapping[str, object], user: str, now: Millis) -> Agent:
    """The fields' rules of a registration; what is absent has its default. Raises Refused."""
    id = text(body.get("agentId") or body.get("id")).strip()
    wallet = text(body.get("walletAddress")).strip().lower()
    if not id:
        raise Refused("agent_id_required")
    if len(id) > LONGEST_ID or not _plain(id):
        raise Refused("agent_id_invalid")
    if not user or len(user) > LONGEST_ID or not _plain(user):
        raise Refused("user_id_invalid")
    if not wallet.startswith(WALLETS):
        raise Refused("wallet_address_required")
    if len(wallet) > LONGEST_WALLET or not (wallet.isascii() and _plain(wallet)):
        raise Refused("wallet_address_invalid")
    return Agent(
        user=user,
        id=id,
        name=text(body.get("name") or "")[:LONGEST_TEXT] or id,
        wallet=wallet,
        strategy=text(body.get("strategyLabel") or "")[:LONGEST_TEXT] or "Custom",
        interval=_interval(body.get("cycleIntervalMs") or body.get("cycleMs") or None),
        url=text(body.get("callbackUrl") or "").strip(),
        status=PAUSED if text(body.get("status")).upper() == PAUSED else RUNNING,
        created_at=now,
        updated_at=now,
    )


def text(value: object) -> str:
    """Numbers become text as JSON writes them; nothing else but text is one."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if isinstance(value, float) and not value.is_integer():
        return str(value) if math.isfinite(value) else ""
    return str(int(value))


def _plain(text: str) -> bool:
    """No control characters and no half surrogates: it goes into headers, logs and file names."""
    return all(ch.isprintable() for ch in text)


def _interval(value: object) -> Millis:
    """Numbers, also as text; a fraction of a millisecond is dropped (ADR 1). Raises Refused (D24)."""
    if value is None:
        return DEFAULT_INTERVAL
    if isinstance(value, str) and ("_" in value or not value.isascii()):
        raise Refused("cycle_interval_invalid")  # Python would read 1_000, and other scripts' digits
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number > LONGEST:
        raise Refused("cycle_interval_invalid")
    return max(SHORTEST, int(number))


def first_state(agent: Agent, revision: str, before: JobState, now: Millis) -> JobState:
    """Registered anew, everything counts from zero; a run that goes on is not forgotten, so none starts beside it, nor
    is what an operator holds let go."""
    due, newest = now + min(agent.interval, SOON), _newest(before)
    state = JobState(revision=revision, first_seen=now, upcoming=_due(due, newest))
    return state._replace(runs=before.runs, newest_slot=newest, pause=before.pause)


def _newest(state: JobState) -> Millis | None:
    """Of all slots whose key was used, or may have been."""
    used = (state.newest_slot, state.slot, *(run.slot for run in state.runs))
    return max((slot for slot in used if slot is not None), default=None)


def _due(at: Millis, newest: Millis | None) -> Next:
    """Labelled above `newest`, also while the clock stands behind it."""
    return Next(at if newest is None else max(at, newest + 1), at)


def first_due(due: Millis, started_at: Millis, tick: Millis) -> Millis:
    """Of an agent that is there when the scheduler starts (decision 7)."""
    return max(due, started_at + tick)


def changed(agent: Agent, action: str, now: Millis) -> Agent:
    """After `pause` or `resume`."""
    return replace(agent, status=PAUSED if action == "pause" else RUNNING, updated_at=now)


def resumed(state: JobState, now: Millis) -> JobState:
    """Due after a second; a failed cycle is tried then under its own key."""
    if state.slot is not None:
        return state._replace(ready_at=now + SOON)
    return state._replace(upcoming=_due(now + SOON, _newest(state)))


def record(agent: Agent, state: JobState, *, pending: bool) -> dict[str, object]:
    """The reply of register and control."""
    return {
        "userId": agent.user,
        "id": agent.id,
        "name": agent.name,
        "walletAddress": agent.wallet,
        "status": _status(agent, state),
        "cycleIntervalMs": agent.interval,
        "callbackUrl": agent.url,
        "strategyLabel": agent.strategy,
        "createdAt": agent.created_at,
        "updatedAt": _updated(agent, state),
        "lastCycleAt": state.last_success or 0,
        "nextRunAt": next_run(state),
        "lastDispatch": last_dispatch(state),
        "failureCount": state.level,
        "queuePending": pending,
    }


def view(agent: Agent, state: JobState, *, pending: bool) -> dict[str, object]:
    """An element of the list: without the callback's URL, which may carry a token."""
    dispatch = last_dispatch(state)
    if dispatch is not None:
        dispatch.pop("callbackUrl", None)
    return {
        "id": agent.id,
        "userId": agent.user,
        "name": agent.name,
        "walletAddress": agent.wallet,
        "strategyLabel": agent.strategy,
        "status": _status(agent, state),
        "cycleIntervalMs": agent.interval,
        "nextRunAt": next_run(state),
        "lastCycleAt": state.last_success or 0,
        "failureCount": state.level,
        "queuePending": pending,
        "lastDispatch": dispatch,
        "callbackConfigured": bool(agent.url),
        "updatedAt": _updated(agent, state),
    }


def _status(agent: Agent, state: JobState) -> str:
    """Paused by its owner over the API, or held by an operator."""
    return agent.status if state.pause is None else PAUSED


def _updated(agent: Agent, state: JobState) -> Millis:
    return max(agent.updated_at, state.last_finish or 0)


def next_run(state: JobState) -> Millis:
    if state.ready_at is not None:
        return state.ready_at
    return 0 if state.upcoming is None else state.upcoming.due


def last_dispatch(state: JobState) -> dict[str, object] | None:
    """None before the first. A cycle that was refused by a full queue was no dispatch, and has no duration."""
    if not state.last_status:
        return None
    ts = state.last_finish or 0
    if state.last_error == QUEUE_FULL:
        return {"ok": False, "ts": ts, "error": QUEUE_FULL}
    took = max(0, ts - (state.last_start or 0))
    if state.last_status == "ok":
        return {"ok": True, "ts": ts, "durationMs": took, **state.result}
    return {"ok": False, "ts": ts, "durationMs": took, "error": state.last_error[:LONGEST_ERROR]}
