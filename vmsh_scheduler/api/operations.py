"""What the HTTP surfaces ask of the program; the composition root answers. Every result is a JSON object."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from vmsh_scheduler.domain.health import Health
from vmsh_scheduler.domain.trigger import Millis

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """`before`: only rows older than this instant; newest first."""

    job: str = ""
    before: Millis | None = None
    limit: int = 50


class Probes(Protocol):
    """What anybody who reaches the metrics listener may read."""

    def health(self) -> Health:
        """Without error texts or paths."""
        ...

    def ready(self) -> Mapping[str, bool]:
        """Named conditions (`config`, `lock`); ready when all hold."""
        ...

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Exposition text and its content type for this Accept header; off the loop's thread."""
        ...


class AgentOperations(Protocol):
    """Agents of the API, in a terminal's words. All raise Usage while the API is off."""

    async def list(self) -> Json: ...

    async def register(self, body: Mapping[str, object], user: str, *, by: str) -> Json:
        """`body`: as POST /v1/agents/register takes it."""
        ...

    async def control(self, user: str, id: str, action: str, *, by: str) -> Json:
        """`action`: pause | resume | remove."""
        ...


class Operations(Protocol):
    """What the owner may do through the control socket. All raise SchedulerError kinds; `by` names who asked."""

    async def status(self) -> Json: ...

    def health(self) -> Json:
        """The public body plus what only the owner may read (problems, paths, errors)."""
        ...

    async def next(self, job: str, limit: int) -> Json:
        """Planned slots of one job, or of all (job = "")."""
        ...

    async def why(self, job: str, at: Millis | None) -> Json: ...

    async def history(self, query: HistoryQuery) -> Json: ...

    async def trigger(self, job: str, *, by: str) -> Json: ...

    async def pause(self, job: str, *, until: Millis | None, note: str, by: str) -> Json: ...

    async def resume(self, job: str, *, by: str) -> Json: ...

    async def resolve(self, run: str, verdict: str, *, by: str) -> Json:
        """`verdict`: ok | failed | retry."""
        ...

    async def reset(self, job: str, *, by: str) -> Json: ...

    @property
    def agents(self) -> AgentOperations: ...

    async def reload(self, *, by: str) -> Json:
        """Read the configuration now; raises ConfigError with every problem if it is refused."""
        ...
