"""The file of pinned key ids: watched as the configuration is, and never followed into locking everybody out."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from vmsh_scheduler.api.principal import LONGEST_KID
from vmsh_scheduler.domain.events import ConfigRejected, Event
from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.observe.logs import LOGGER, say
from vmsh_scheduler.ports import Clock
from vmsh_scheduler.settings import Settings, display
from vmsh_scheduler.sources.config_files import Watched
from vmsh_scheduler.sources.marks import config_error
from vmsh_scheduler.sources.watch import ConfigWatch, Reading, Trouble

MOST_KIDS = 1_000
CHANGED = "pinned keys changed"

_ROLE = "kids"
_LOG = logging.getLogger(LOGGER)


class Pinned(Protocol):
    """jwt_keys.KeySet."""

    async def repin(self, kids: tuple[str, ...]) -> str: ...


class Pins:
    """`problem`: why the file is not followed now; "" = it is."""

    def __init__(self, path: Path, shown: str, clock: Clock, observer: Callable[[Event], None]) -> None:
        """Raises ConfigError, for there is no last good list yet."""
        self.problem = ""
        self._shown = shown
        self._clock = clock
        self._observer = observer
        self._watch = ConfigWatch((Watched(_ROLE, path, shown=shown),))
        self._keys: Pinned | None = None
        self._waits = False
        """`kids` are good, and would lock everybody out."""
        self.kids = self._of(self._watch.read_now())

    def follow(self, keys: Pinned) -> None:
        """`keys` began with `kids`."""
        self._keys = keys

    async def poll(self) -> None:
        """One cheap look; never raises for what is in the file."""
        found = None if self._watch.is_quiet() else await asyncio.to_thread(self._watch.poll, self._clock.elapsed())
        try:
            if isinstance(found, Trouble):
                raise config_error(found.problems)
            if isinstance(found, Reading):
                await self._take(self._of(found))
            elif self._waits:
                await self._take(self.kids)
        except ConfigError as error:
            self._refuse(error)

    async def now(self) -> None:
        """As somebody asked; raises ConfigError if the list is refused, or has to wait."""
        try:
            await self._take(self._of(await asyncio.to_thread(self._watch.read_now)))
        except ConfigError as error:
            self._refuse(error)
            raise

    async def _take(self, kids: tuple[str, ...]) -> None:
        fresh, self.kids = kids != self.kids or bool(self.problem), kids
        warning = await self._keys.repin(kids) if self._keys is not None else ""
        self._waits = bool(warning)
        if warning:
            raise config_error([f"{self._shown}: {warning}"])
        self.problem = ""
        if fresh:
            say(_LOG, logging.INFO, CHANGED, count=len(kids))

    def _refuse(self, error: ConfigError) -> None:
        self.problem, before = "; ".join(error.problems), self.problem
        if self.problem != before:
            self._observer(ConfigRejected(self._clock.now(), error.problems))

    def _of(self, reading: Reading) -> tuple[str, ...]:
        """One kid a line; `#` begins a comment. Raises ConfigError."""
        lines = reading.raw[_ROLE].decode("utf-8", "replace").splitlines()
        named = [(number, line.partition("#")[0].strip()) for number, line in enumerate(lines, 1)]
        kids = [(number, kid) for number, kid in named if kid]
        bad = [number for number, kid in kids if len(kid) > LONGEST_KID or not kid.isprintable() or " " in kid]
        problems = [f"{self._shown}:{number}: a kid has 1 to {LONGEST_KID} characters, one a line" for number in bad]
        if not kids:
            problems = [f"{self._shown}: names no kid; every key would count"]
        if len(kids) > MOST_KIDS:
            problems = [f"{self._shown}: names {len(kids)} kids, at most {MOST_KIDS}"]
        if problems:
            raise config_error(problems)
        return tuple(dict.fromkeys(kid for _, kid in kids))


def open_pins(settings: Settings, clock: Clock, observer: Callable[[Event], None]) -> Pins | None:
    """None: no file is named. Raises ConfigError."""
    named = settings.sections["auth.allowed_kids_file"]
    if not named:
        return None
    path = settings.cwd / named
    return Pins(path, display(path, settings.cwd), clock, observer)
