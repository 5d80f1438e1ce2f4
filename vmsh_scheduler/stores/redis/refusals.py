"""What Redis answered that it will not do, by what was asked: shown as long as it is lately so."""

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from vmsh_scheduler.domain.trigger import SECOND, Millis
from vmsh_scheduler.stores.redis.connect import Client

LATELY: Millis = 15 * SECOND
"""How long a refusal counts of something that was not asked for again."""


@dataclass(slots=True)
class _Refusal:
    why: str
    at: Millis
    done_since: bool = False


class Refusals:
    """Of one client. Something else of the same kind may go through meanwhile, so one that does ends nothing at once:
    `calm` ms without a refusal do."""

    def __init__(self, elapsed: Callable[[], Millis], calm: Millis) -> None:
        self._elapsed = elapsed
        self._calm = calm
        self._found: dict[str, _Refusal] = {}

    def refused(self, what: str, why: str) -> None:
        self._found[what] = _Refusal(why, self._elapsed())

    def done(self, what: str) -> None:
        found = self._found.get(what)
        if found is not None:
            found.done_since = True

    def now(self) -> list[str]:
        """Each reason once."""
        for what, found in list(self._found.items()):
            lasts = self._calm if found.done_since else max(self._calm, LATELY)
            if self._elapsed() - found.at > lasts:
                del self._found[what]
        return sorted({found.why for found in self._found.values()})


_WATCHED: WeakKeyDictionary[Client, Refusals] = WeakKeyDictionary()


def watch(client: Client, refusals: Refusals) -> None:
    """Whatever is asked of this client from now on."""
    _WATCHED[client] = refusals


def refused(client: Client, what: str, why: str) -> None:
    """`what`: name of a script, or of anything that is asked again and again."""
    if client in _WATCHED:
        _WATCHED[client].refused(what, why)


def done(client: Client, what: str) -> None:
    """It went through."""
    if client in _WATCHED:
        _WATCHED[client].done(what)
