"""Agents as the original scheduler keeps them in Redis: shown to its readers, and taken over where it left some."""

import json
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace

from vmsh_scheduler.domain import agents
from vmsh_scheduler.domain.agents import RUNNING
from vmsh_scheduler.domain.decision import Note
from vmsh_scheduler.domain.shape import WRONG, whole
from vmsh_scheduler.domain.spec import Spec
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import Millis, Next
from vmsh_scheduler.ports import Change, Specs
from vmsh_scheduler.registry import KIND, Registry
from vmsh_scheduler.sources.agents import registered_job

OURS = "vmsh"
"""Key of the records that this program writes beside the original's words: they mirror, they are not read."""


class Shown:
    """Implements the states' Mirroring: what is written beside a state, for readers of forge-os section 10."""

    def __init__(self) -> None:
        self.registry: Registry | None = None

    def __call__(self, job_id: str, state: JobState | None) -> tuple[str, str, Millis | None] | None:
        found = None if self.registry is None else self.registry.shown(job_id, state)
        if found is None:
            return None
        key, record = found
        if record is None:
            return key, "", None
        due = record["nextRunAt"] if record["status"] == RUNNING else None
        return key, json.dumps({**record, OURS: 1}, separators=(",", ":")), due if isinstance(due, int) else None


async def import_agents(
    records: Iterable[str],
    specs: Specs,
    states: Mapping[str, JobState],
    cycle: Millis,
    now: Millis,
    *,
    barred: Container[str] = (),
) -> list[Change]:
    """Those that became documents, each due as it was (forge-os section 10). `cycle`: how long one may take. A record
    that cannot be read stays where it is, as does one of a job that is `barred`. Raises StateWriteFailed."""
    changes = []
    for text in records:
        record = _record(text)
        agent = _agent(record, now)
        if agent is not None and agent.job_id not in barred and specs.get(KIND, agent.job_id) is None:
            spec = Spec(KIND, agent.job_id, agent.document(), 1, agent.created_at, agent.updated_at, "import")
            await specs.save(spec)
            if agent.job_id not in states:
                state = _state(agent, record, registered_job(agent, cycle).revision, now)
                changes.append(Change(agent.job_id, state))
    return changes


def _state(agent: agents.Agent, record: Mapping[str, object], revision: str, now: Millis) -> JobState:
    """No later than an interval from now, whatever stands there."""
    due = min(max(now, whole(record.get("nextRunAt"))), now + agent.interval)
    state = agents.first_state(agent, revision, JobState(), now)
    last = min(now, whole(record.get("lastCycleAt")))
    return state._replace(upcoming=Next(due, due), last_success=last or None, level=whole(record.get("failureCount")))


def _record(text: str) -> Mapping[str, object]:
    """Empty: one of ours, or none at all."""
    try:
        record = json.loads(text)
    except WRONG:
        return {}
    return record if isinstance(record, Mapping) and OURS not in record else {}


def _agent(record: Mapping[str, object], now: Millis) -> agents.Agent | None:
    """None: nothing that a registration could have made."""
    try:
        found = agents.registered({**record, "agentId": record.get("id")}, str(record.get("userId", "")), now)
        return replace(
            found,
            created_at=whole(record.get("createdAt")) or now,
            updated_at=whole(record.get("updatedAt")) or now,
        )
    except (*WRONG, agents.Refused):
        return None


def restored(known: Mapping[str, JobState], found: Mapping[str, JobState], now: Millis) -> list[Change]:
    """States that a store lost and this instance still knows; runs that were open in them are open again."""
    note = {"from": "the memory of an instance"}
    return [
        Change(job_id, state, notes=(Note("restored", now, job_id, note),))
        for job_id, state in known.items()
        if job_id not in found
    ]
