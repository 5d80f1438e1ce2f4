"""agents.yaml -> one Job per Forge agent: `_agents/<userId>/<agentId>`, fixed delay after each cycle."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from vmsh_scheduler.domain.action import Action, Callback
from vmsh_scheduler.domain.agents import RUNNING, Agent, job_id
from vmsh_scheduler.domain.job import Job, OnUnknown, Origin, Policy
from vmsh_scheduler.domain.retry import FlatRetry
from vmsh_scheduler.domain.trigger import SECOND, Interval, Millis, Since
from vmsh_scheduler.sources import grammar
from vmsh_scheduler.sources.compiled import Compiled, Flaw, Place, Wanted, command, revision, text_of

if TYPE_CHECKING:  # the models are the compiling child's; the daemon needs `registered_job` alone
    from vmsh_scheduler.sources.documents import AgentsFile, AgentSpec

SHORTEST: Millis = 1 * SECOND
"""Floor of a cycle's interval (forge-os section 5)."""
LONGEST_WAIT: Millis = 5 * SECOND
"""A failed cycle is tried again after this or the interval, whichever is less (forge-os section 6)."""
TIMEOUT: Millis = 30 * SECOND
ANONYMOUS = "anon"
EVENT = "forgeos.scheduler.cycle"
POOL = "agents"
"""Cycles have permits of their own: slow ones never keep an anchor waiting."""
COMMAND_ONLY = ("env", "cwd", "umask", "limits", "pass_env", "grace", "outlive")


def judge(data: object) -> Iterator[Flaw]:
    """Every cross-field problem of the raw document: identities twice, a callback of both or no kind."""
    seen: dict[tuple[str, str], int] = {}
    for index, agent in _agents(data):
        user, name = agent.get("userId", ANONYMOUS), agent.get("agentId")
        if isinstance(user, str) and isinstance(name, str):
            first = seen.setdefault((user, name), index)
            if first != index:
                again = f"the same agentId and userId as agents[{first}]"
                yield Flaw(("agents", index, "agentId"), again)
        callback = agent.get("callback")
        if isinstance(callback, Mapping):
            yield from _judge_callback(callback, ("agents", index, "callback"))


def doubts(data: object) -> Iterator[Flaw]:
    """What is allowed but probably not meant."""
    for index, agent in _agents(data):
        interval = agent.get("cycleIntervalMs")
        if isinstance(interval, int) and 0 < interval < SHORTEST:
            yield Flaw(("agents", index, "cycleIntervalMs"), f"is raised to {SHORTEST}, the shortest there is")


def compile_agents(file: "AgentsFile", wanted: Wanted, into: Compiled) -> None:
    """`file` has passed `judge`."""
    for spec in file.agents:
        job = _job(spec, wanted, into)
        into.jobs[job.id] = job


def registered_job(agent: Agent, timeout: Millis) -> Job:
    """Of an agent that the API brought; its URL is a stranger's."""
    trigger, policy = _pace(agent.interval, timeout)
    about = {
        "id": agent.id,
        "userId": agent.user,
        "name": agent.name,
        "strategyLabel": agent.strategy,
        "cycleIntervalMs": agent.interval,
    }
    payload = {"event": EVENT, "agent": about}
    action = Callback(agent.url, payload, trusted=False, wallet=agent.wallet, user=agent.user, agent=agent.id)
    return Job(
        id=agent.job_id,
        name=agent.name,
        lane=agent.job_id,
        trigger=trigger,
        action=action,
        policy=policy,
        revision=revision(text_of(trigger), text_of(action), text_of(policy), text_of(None)),
        origin=Origin.API,
        labels={"user": agent.user, "agent": agent.id},
        enabled=agent.status == RUNNING,
        pool=POOL,
        share=agent.user,
        host=action.host,
    )


def _agents(data: object) -> Iterator[tuple[int, Mapping[object, object]]]:
    listed = data.get("agents") if isinstance(data, Mapping) else None
    if isinstance(listed, (list, tuple)):
        yield from ((index, agent) for index, agent in enumerate(listed) if isinstance(agent, Mapping))


def _judge_callback(callback: Mapping[object, object], place: Place) -> Iterator[Flaw]:
    chosen = [key for key in ("command", "url") if callback.get(key) is not None]
    if len(chosen) != 1:
        found = "not both" if chosen else "has neither"
        yield Flaw(place, f"takes either `command` or `url`: {found}", at_key=True)
    elif chosen == ["url"]:
        for key in COMMAND_ONLY:
            if key in callback:
                yield Flaw((*place, key), "belongs to `command`; a `url` has no use for it", at_key=True)


def _job(spec: "AgentSpec", wanted: Wanted, into: Compiled) -> Job:
    identity = job_id(spec.user_id, spec.agent_id)
    interval = max(SHORTEST, spec.cycle_interval_ms)
    trigger, when = into.part(("agent", interval), lambda: Interval(interval, since=Since.FINISH))
    timeout = spec.callback.timeout or TIMEOUT
    policy, how = into.part(("agent", interval, timeout), lambda: _cycles(interval, timeout))
    action = _action(spec, wanted, into)
    return Job(
        id=identity,
        name=spec.name or spec.agent_id,
        lane=identity,
        trigger=trigger,
        action=action,
        policy=policy,
        revision=revision(when, text_of(action), how, text_of(None)),
        labels={"user": spec.user_id, "agent": spec.agent_id},
        enabled=spec.status == RUNNING,
        pool=POOL if isinstance(action, Callback) else "",
        share=spec.user_id,
        host=action.host if isinstance(action, Callback) else "",
    )


def _action(spec: "AgentSpec", wanted: Wanted, into: Compiled) -> Action:
    if spec.callback.url is not None:
        return Callback(
            spec.callback.url, _payload(spec), wallet=spec.wallet_address, user=spec.user_id, agent=spec.agent_id
        )
    payload = _payload(spec, walletAddress=spec.wallet_address)
    return command(spec.callback, spec.callback.command or (), wanted, into, payload=payload, env=spec.callback.env)


def _payload(spec: "AgentSpec", **more: object) -> dict[str, object]:
    """The part of a cycle's body that is known before it runs (forge-os section 7); `more` about the agent."""
    return {
        "event": EVENT,
        "agent": {
            "id": spec.agent_id,
            "userId": spec.user_id,
            "name": spec.name or spec.agent_id,
            "strategyLabel": spec.strategy_label,
            "cycleIntervalMs": max(SHORTEST, spec.cycle_interval_ms),
            **more,
        },
    }


@lru_cache(maxsize=256)
def _pace(interval: Millis, timeout: Millis) -> tuple[Interval, Policy]:
    """Thousands of agents have a few intervals between them, and share these."""
    return Interval(interval, since=Since.FINISH), _cycles(interval, timeout)


def _cycles(interval: Millis, timeout: Millis) -> Policy:
    return Policy(
        retry=FlatRetry(min(interval, LONGEST_WAIT)),
        timeout=timeout,
        # a fixed delay has no later slot that could stand in for a late one
        misfire_grace=grammar.LONGEST,
        on_unknown=OnUnknown.RETRY,
        crash_exact=False,
    )
