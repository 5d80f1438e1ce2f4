"""Probes of the metrics listener that answer what a test told them."""

from collections.abc import Mapping

from vmsh_scheduler.domain.health import Condition, Health

BODY = {"status": "healthy", "namespaces": {}}


class Told:
    """All is well, unless it is told otherwise."""

    def __init__(self) -> None:
        self.condition = Condition.HEALTHY
        self.conditions = {"config": True, "lock": True}
        self.text = b"metric 1\n"
        self.scrapes = 0
        self.broken = False

    def health(self) -> Health:
        if self.broken:
            raise RuntimeError("canary")
        return Health(self.condition, BODY)

    def ready(self) -> Mapping[str, bool]:
        return self.conditions

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        self.scrapes += 1
        return self.text, f"text/plain; version=0.0.4; for={accept or 'any'}"
