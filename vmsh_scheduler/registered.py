"""Agents that were registered over the API, read from their file where no daemon keeps them."""

import json
from collections.abc import Mapping
from contextlib import closing
from typing import Any
from urllib.parse import quote

from vmsh_scheduler.domain import agents
from vmsh_scheduler.domain.agents import Agent
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.errors import StateUnreadable
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
    import sqlite3  # most have none, and `status` is to be quick

    path = directory.path / directory.specs
    directory.check(directory.specs)
    # the log of a database that was closed well is gone, and reading it would make another one
    mode = "mode=ro" if directory.exists(f"{directory.specs}-wal") else "immutable=1"
    query = "SELECT document FROM specs WHERE kind = 'agent' ORDER BY created_at, id"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?{mode}", uri=True)) as connection:
            return [agents.stored(json.loads(text)) for (text,) in connection.execute(query)]
    except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
        raise StateUnreadable(f"{path} cannot be read: {error}", hint="a running daemon says more") from error
