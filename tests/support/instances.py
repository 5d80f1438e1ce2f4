"""Several daemons over one real Redis, each in a directory of its own, as on several machines."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.daemon import Place, until
from tests.support.forge import Forge, Stub, forge
from tests.support.redis_server import RedisServer

TIMES = {
    "SCHEDULER_LEADER_LOCK_TTL_MS": "2000",
    "SCHEDULER_TICK_MS": "250",
    "SCHEDULER_REDIS_EXEC_LEASE_TTL_MS": "3000",
}
"""Short, so that tests of failovers take seconds."""


@dataclass
class Instances:
    """By name; a name that is started again goes on in its own directory."""

    root: Path
    redis: RedisServer
    upstream: Stub
    env: Mapping[str, str] = field(default_factory=dict)
    namespaces: str = "namespaces: {}\n"
    together: bool = False
    """In one directory but for their states: so their files become the same jobs, as under one path on several
    machines."""
    started: dict[str, Forge] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

    def place(self, name: str) -> Place:
        if name not in self.places:
            place = self.places[name] = Place(self.root / ("all" if self.together else name), prefix=f"{name}-")
            place.configure(self.namespaces)
            if self.together:
                place.environ["VMSH_STATE"] = f"state-{name}/scheduler.json"
        return self.places[name]

    def environ(self, name: str, **more: str) -> dict[str, str]:
        own = {"SCHEDULER_REDIS_URL": self.redis.url, "SCHEDULER_INSTANCE_ID": name}
        return {**own, **TIMES, **self.env, **more}

    def start(self, *names: str, **more: str) -> "Instances":
        """`more`: environment of these alone."""
        for name in names:
            self.started[name] = forge(self.place(name), self.upstream, **self.environ(name, **more))
        return self

    def __getitem__(self, name: str) -> Forge:
        return self.started[name]

    def condition(self, name: str) -> Any:
        return self.started[name].get("/health")["cluster"]

    def leader(self) -> str:
        """The one that says so itself, among those that live. They are asked one after another, so that two may say so
        for a moment: one that is about to hear of the other."""

        def found() -> str | None:
            leading = self._leading()
            return leading[0] if len(leading) == 1 else None

        return until(found, "one leader")

    def _leading(self) -> list[str]:
        living = [name for name, each in self.started.items() if each.daemon.alive]
        return [name for name in living if self.condition(name)["role"] == "leader"]

    def restorer(self) -> str:
        """Who gave back what an emptied Redis had held: the last leader may still say for a moment that it leads."""

        def found() -> str | None:
            told = [name for name, each in self.started.items() if each.daemon.lines("trouble", what="state_lost")]
            return next(iter(told), None)

        return until(found, "one that restores")

    def leader_now(self) -> str | None:
        """Who says so at this moment."""
        return next(iter(self._leading()), None)

    def highest_fence(self) -> int:
        """Of any leader, as those that live know it."""
        return max(int(self.condition(name)["fence"]) for name, each in self.started.items() if each.daemon.alive)

    def runs(self, name: str) -> int:
        """Cycles that it carries out at this moment."""
        found: int = self.started[name].get("/health")["scheduler"]["inFlight"]
        return found

    def answers(self, name: str) -> bool:
        """With somebody who leads, and Redis there."""
        return not self.condition(name)["problems"]

    def follower(self) -> str:
        leader = self.leader()
        return next(name for name, each in self.started.items() if name != leader and each.daemon.alive)

    def close(self) -> None:
        for place in self.places.values():
            place.close()
