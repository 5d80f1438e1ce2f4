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
    started: dict[str, Forge] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

    def place(self, name: str) -> Place:
        if name not in self.places:
            place = self.places[name] = Place(self.root / name)
            place.configure(self.namespaces)
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
        """The one that says so itself, among those that live."""

        def found() -> str | None:
            living = [name for name, each in self.started.items() if each.daemon.alive]
            leading = [name for name in living if self.condition(name)["role"] == "leader"]
            assert len(leading) <= 1, leading
            return next(iter(leading), None)

        return until(found, "a leader")

    def follower(self) -> str:
        leader = self.leader()
        return next(name for name, each in self.started.items() if name != leader and each.daemon.alive)

    def close(self) -> None:
        for place in self.places.values():
            place.close()
