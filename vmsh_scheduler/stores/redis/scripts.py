"""Lua scripts: each is one step, sent by its digest and loaded again where the server has forgotten it."""

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from redis.exceptions import NoScriptError

from vmsh_scheduler.errors import StoreRefuses
from vmsh_scheduler.stores.redis import refusals
from vmsh_scheduler.stores.redis.connect import Client, guarded

Argument = str | int | float


class Script:
    """`scripts/<name>.lua`, behind `scripts/<before>.lua`. Safe to run again: every script may be sent twice."""

    def __init__(self, name: str, before: str = "") -> None:
        self.name = name
        self.text = "".join(_text(part) for part in (before, name) if part)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, client: Client, keys: Sequence[str], args: Sequence[Argument] = ()) -> Any:
        """The script's answer. Raises StoreDown, and NotLeading where it answers `NOTLEADING ...`."""
        try:
            answer = await guarded(self._run(client, keys, args))
        except StoreRefuses as refused:
            refusals.refused(client, self.name, str(refused))
            raise
        refusals.done(client, self.name)
        return answer

    async def _run(self, client: Client, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """NOSCRIPT proves that nothing ran, so it is the one error after which a command is sent again."""
        try:
            return await client.evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await client.eval(self.text, len(keys), *keys, *args)


def _text(name: str) -> str:
    return resources.files(__package__).joinpath("scripts", f"{name}.lua").read_text("utf-8")
