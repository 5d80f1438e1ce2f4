"""Agents that were registered over the API, read from their file where no daemon keeps them."""

from collections.abc import Mapping
from typing import Any

from vmsh_scheduler.domain import agents
from vmsh_scheduler.domain.agents import Agent
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.settings import Settings
from vmsh_scheduler.sources.agents import registered_job
from vmsh_scheduler.stores.local.directory import StateDirectory


def cycle_timeout(sections: Mapping[str, Any]) -> Millis:
    """Of a registered agent's cycle: snapshot and callback."""
    return int(sections["market.timeout_ms"] + sections["callbacks.timeout_ms"])


def registered_jobs(settings: Settings, directory: StateDirectory) -> dict[str, Job]:
    """As the daemon makes them, in the order of registration. Raises StateUnreadable."""
    timeout = cycle_timeout(settings.sections)
    return {agent.job_id: registered_job(agent, timeout) for agent in read_agents(directory)}


def read_agents(directory: StateDirectory) -> list[Agent]:
    """Makes no file, and reads also where it may not write. Raises StateUnreadable."""
    if not directory.exists(directory.specs):
        return []
    from vmsh_scheduler.stores.local.spec_rows import look  # brings SQLite; most have none, and `status` is to be quick

    return look(directory, agents.KIND, agents.stored)
