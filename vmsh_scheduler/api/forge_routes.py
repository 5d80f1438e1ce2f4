"""The routes of the Forge.OS scheduler (forge-os section 5), over whatever implements `Forge`."""

from collections.abc import Mapping
from typing import Protocol

from vmsh_scheduler.api.auth import owner, visible_to
from vmsh_scheduler.api.surface import Answer, Call, Problem, Route, Text
from vmsh_scheduler.domain.agents import text
from vmsh_scheduler.domain.text import printable


class Forge(Protocol):
    """What the routes need of the program."""

    async def register(self, body: Mapping[str, object], user: str, *, by: str) -> Answer:
        """Raises Problem."""
        ...

    async def control(self, user: str, agent: str, action: str, *, by: str) -> Answer:
        """Raises Problem."""
        ...

    async def agents(self, user: str | None) -> Text:
        """None: everybody's."""
        ...

    async def tick(self) -> Answer: ...

    async def market(self, address: str) -> Answer:
        """Raises Problem."""
        ...

    def health(self) -> Answer: ...

    def telemetry(self) -> Answer: ...

    def metrics(self, accept: str) -> Text: ...


def forge_routes(forge: Forge, *, guarded: bool = False) -> tuple[Route, ...]:
    """In the order of the specification. `guarded`: access control is on."""

    async def health(_: Call) -> Answer:
        return forge.health()

    async def metrics(call: Call) -> Text:
        return forge.metrics(call.headers.get("accept", ""))

    async def telemetry(_: Call) -> Answer:
        return forge.telemetry()

    async def agents(call: Call) -> Text:
        return await forge.agents(visible_to(call.principal, guarded=guarded))

    async def register(call: Call) -> Answer:
        body = call.document()
        return await forge.register(body, owner(call.principal, call.headers, _user(body)), by=_by(call))

    async def control(call: Call) -> Answer:
        body = call.document()
        user = owner(call.principal, call.headers, _user(body))
        return await forge.control(user, call.parts[0], _action(body), by=_by(call))

    async def market(call: Call) -> Answer:
        return await forge.market(call.query.get("address", ""))

    async def tick(_: Call) -> Answer:
        return await forge.tick()

    return (
        Route("GET", "/health", health, "Health of the daemon: always 200"),
        Route("GET", "/metrics", metrics, "Prometheus text"),
        Route("GET", "/v1/telemetry-summary", telemetry, "Saturation and callback latency"),
        Route("GET", "/v1/agents", agents, "The agents that the caller may see"),
        Route("POST", "/v1/agents/register", register, "Register an agent, or replace it from zero", "register"),
        Route("POST", "/v1/agents/{id}/control", control, "pause, resume or remove an agent", "control"),
        Route("GET", "/v1/market-snapshot", market, "Price, block DAG and balance of a wallet"),
        Route("POST", "/v1/scheduler/tick", tick, "Look at what is due now", "tick"),
    )


def _user(body: Mapping[str, object]) -> str:
    return text(body.get("userId") or "")


def _action(body: Mapping[str, object]) -> str:
    found = body.get("action")
    return found.lower() if isinstance(found, str) else ""


def _by(call: Call) -> str:
    """For the journal: who did it, and from where."""
    who = call.principal.sub if call.principal else "anonymous"
    return f"{who}@{call.peer}"[:120]


def not_found(key: str) -> Problem:
    """A header of other bytes than UTF-8 would be no text in JSON."""
    return Problem(404, "agent_not_found", key=printable(key))
