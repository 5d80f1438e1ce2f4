"""What the command line may do with agents, over the control socket: the words of a terminal for the registry's."""

import logging
from collections.abc import Mapping

from vmsh_scheduler.api.operations import Json
from vmsh_scheduler.app import App
from vmsh_scheduler.domain.agents import LONGEST_ID, LONGEST_WALLET, Refused, job_id
from vmsh_scheduler.domain.job import Origin
from vmsh_scheduler.errors import NotFound, Usage
from vmsh_scheduler.observe.logs import say
from vmsh_scheduler.registry import Configured, Registry
from vmsh_scheduler.settings import display

_AUDIT = logging.getLogger("vmsh_scheduler.audit")
_REFUSED: Mapping[str, str] = {
    "agent_id_required": "an agent needs an id",
    "agent_id_invalid": f"an agent's id has at most {LONGEST_ID} characters, all printable",
    "user_id_invalid": f"a user's id has 1 to {LONGEST_ID} characters, all printable",
    "wallet_address_required": "an agent needs a wallet that begins with kaspa: or kaspatest:",
    "wallet_address_invalid": f"a wallet has at most {LONGEST_WALLET} characters, all printable ASCII",
    "cycle_interval_invalid": "the interval must be a number of ms, of at most ten years",
    "invalid_action": "an agent can be paused, resumed or removed",
}


def audited(verb: str, by: str, **about: str) -> None:
    """Whoever may use the control socket asked for a change; written down before it is tried."""
    plain = {name: _plain(text) for name, text in {"who": by, "verb": verb, **about}.items()}
    say(_AUDIT, logging.INFO, "audit", **plain, peer="control socket")


def _plain(text: str) -> str:
    """Names as people give them; of anything else only that it was there."""
    return "".join(char if char.isprintable() else "?" for char in text[:LONGEST_ID])


class AgentOperations:
    """Implements the agents' part of api.Operations."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def list(self) -> Json:
        """Everybody's: whoever may use the socket owns the state."""
        if self._app.cluster is not None:
            await self._app.cluster.facts.fresh()
        views = self._registry().views(None)
        rows = [{**view, "source": self._source(view)} async for some in views for view in some]
        return {"now": self._app.clock.now(), "agents": rows}

    async def register(self, body: Mapping[str, object], user: str, *, by: str) -> Json:
        audited("register", by, user=user, agent=str(body.get("id", "")))
        try:
            key, agent = await self._registry().register(body, user, by=by)
        except Refused as refused:
            raise self._refusal(refused.code, str(body.get("callbackUrl") or "")) from refused
        except Configured as configured:
            raise self._configured(configured) from configured
        return {"key": key, "agent": agent}

    async def control(self, user: str, id: str, action: str, *, by: str) -> Json:
        audited(action, by, user=user, agent=id)
        try:
            key, agent = await self._registry().control(user, id, action, by=by)
        except NotFound as missing:
            hint = "`vmsh-scheduler agents list` shows every agent and its user"
            raise NotFound(f"no agent {missing.message}", hint=hint) from missing
        except Refused as refused:
            raise self._refusal(refused.code) from refused
        except Configured as configured:
            raise self._configured(configured) from configured
        return {"key": key, "action": action, "agent": agent}

    def _registry(self) -> Registry:
        if self._app.registry is None:
            raise Usage(
                "the API is off, so there are no registered agents",
                hint="set PORT=8790, or `api: {}` in scheduler.yaml, and start the daemon again",
            )
        return self._app.registry

    def _source(self, view: Mapping[str, object]) -> str:
        job = self._app.engine.board.jobs.get(job_id(str(view["userId"]), str(view["id"])))
        return self._file() if job is not None and job.origin is Origin.FILE else "api"

    def _file(self) -> str:
        return display(self._app.settings.agents_path, self._app.settings.cwd)

    def _refusal(self, code: str, url: str = "") -> Usage:
        if code == "max_agents_reached":
            most = self._app.settings.sections["agents.max"]
            hint = "raise SCHEDULER_MAX_AGENTS, or SCHEDULER_MAX_AGENTS_PER_USER if that is set"
            return Usage(f"as many agents are registered as may be (of all users {most})", hint=hint)
        if code == "callback_url_invalid":
            return Usage(f"the callback cannot be called: {self._app.cycles.url_problem(url)}")
        return Usage(_REFUSED.get(code, code))

    def _configured(self, configured: Configured) -> Usage:
        return Usage(f"{configured} stands in {self._file()}", hint="change it there; the file alone says what it is")
