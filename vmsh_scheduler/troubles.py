"""What is wrong with Redis and the instances, as this one sees it: for /health, `status` and, once each, the log."""

from collections.abc import Callable, Iterable

from vmsh_scheduler.app import App
from vmsh_scheduler.domain.events import Trouble
from vmsh_scheduler.domain.trigger import MINUTE, Millis
from vmsh_scheduler.errors import SchedulerError, StoreDown, StoreRefuses
from vmsh_scheduler.members import SLOW, Members
from vmsh_scheduler.stores.redis.store import RedisStore
from vmsh_scheduler.stores.redis.values import MOST_TOLD

SHOWN = 3
"""Refusals in one line."""


class Troubles:
    """`lock`: why nobody could be asked for it, "" = somebody could."""

    def __init__(self, app: App, store: RedisStore, members: Members, lock: Callable[[], str]) -> None:
        self.errors = 0
        """Beats that failed."""
        self._app = app
        self._store = store
        self._members = members
        self._lock = lock
        self._beat = ""
        self._told: dict[str, frozenset[str]] = {}
        self._harm: frozenset[str] = frozenset()
        """What cannot be read in the store, as far as it was told."""
        self._ended: tuple[str, Millis] = ("", 0)
        """Why the last term did that ended by an error, and when."""
        store.junk.tell = lambda why: self.tell("unreadable", why)

    @property
    def down(self) -> str:
        """Why Redis cannot be asked."""
        return self._lock() or self._beat

    @property
    def text(self) -> str:
        """For the owner."""
        return self.down or "; ".join(self._store.refusals.now()[:SHOWN])

    def problems(self) -> list[str]:
        """Codes, for everybody."""
        found = {
            "redis_down": bool(self.down),
            "redis_refuses": bool(self._store.refusals.now()),
            "no_leader": not self.down and self._members.leader() is None,
            "redis_slow": not self.down and self._members.slow,
            "config_differs": bool(self._members.others()),
            "instance_id_taken": self._store.instances.shared_id,
            "state_lost": bool(self._store.identity.losses),
            "unreadable": bool(self._store.harmed),
        }
        return [code for code, wrong in found.items() if wrong]

    def beat_failed(self, down: StoreDown) -> None:
        self.errors += 1
        if isinstance(down, StoreRefuses):
            self._store.refusals.refused("beat", str(down))
        else:
            self._beat = down.message

    def beat_done(self) -> None:
        self._beat = ""
        self._store.refusals.done("beat")

    def term_ended(self, error: SchedulerError) -> None:
        """Told when the reason is a new one, or one of long ago."""
        if isinstance(error, StoreRefuses):
            self._store.refusals.refused("term", str(error))
        now, (why, at) = self._app.clock.elapsed(), self._ended
        if why != str(error) or now - at > MINUTE:
            self.tell("term_ended", str(error))
        self._ended = str(error), now

    def term_began(self) -> None:
        """All was read, and written where that was needed."""
        self._store.refusals.done("term")

    def say(self) -> None:
        """Each reason once while it lasts, and its end."""
        self._say("redis_down", filter(None, [self.down]), ("redis_back", "it answers again"))
        self._say("redis_refuses", self._store.refusals.now(), ("redis_obeys", "it does again what it is asked"))
        slow = f"its answers take more than {SLOW} ms each: fewer cycles fit into a second, see docs/redis.md"
        self._say("redis_slow", [slow] if self._members.slow else [], ("redis_fast", "its answers are quick again"))
        name = self._app.cycles.instance
        taken = f"another process says that it is {name}: give every instance a SCHEDULER_INSTANCE_ID of its own"
        self._say("instance_id_taken", [taken] if self._store.instances.shared_id else [])
        self._say_harm()

    def tell(self, what: str, why: str) -> None:
        self._app.observers(Trouble(self._app.clock.now(), what, {"why": why}))

    def _say(self, what: str, reasons: Iterable[str], back: tuple[str, str] | None = None) -> None:
        now, told = frozenset(reasons), self._told.get(what, frozenset())
        for why in sorted(now - told)[:MOST_TOLD]:
            self.tell(what, why)
        if told and not now and back is not None:
            self.tell(*back)
        self._told[what] = told | now if now else now

    def _say_harm(self) -> None:
        """Each once while it lasts."""
        harmed = self._store.harmed
        for job in sorted(harmed.keys() - self._harm)[:MOST_TOLD]:
            self.tell("unreadable", f"{harmed[job]}; the job does not start, see docs/redis.md")
        self._harm = frozenset(harmed)
