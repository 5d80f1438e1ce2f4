"""ports.Specs in Redis: every instance has the whole picture in memory and looks again when the number changed."""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

from vmsh_scheduler.domain import agents
from vmsh_scheduler.domain.shape import fitting
from vmsh_scheduler.domain.spec import Spec
from vmsh_scheduler.errors import NotLeading, StateWriteFailed, StoreDown
from vmsh_scheduler.stores.redis.connect import Client, guarded
from vmsh_scheduler.stores.redis.identity import Stands, always
from vmsh_scheduler.stores.redis.keys import Keys
from vmsh_scheduler.stores.redis.scan import read_hash
from vmsh_scheduler.stores.redis.scripts import Argument, Script
from vmsh_scheduler.stores.redis.values import ANEW, Unreadable, document, number, read, shown

_SPEC, _AGENT = fitting(Spec), fitting(agents.Agent)
SAVE, DELETE = Script("spec_save"), Script("spec_delete")
KINDS = ("agent",)
Key = tuple[str, str]
"""Kind and id."""


class RedisSpecs:
    """Written by the leader alone. `refresh` before the first question."""

    trouble = ""
    """Of a Redis that takes nothing the instance itself speaks (members.Members)."""

    def __init__(
        self,
        client: Client,
        keys: Keys,
        *,
        check: Callable[[Spec], None] = lambda spec: None,
        bar: Callable[[str], str] = lambda id: "",
    ) -> None:
        """`check` raises for a document that no registration made; `bar` says why an id takes none now."""
        self._client = client
        self._keys = keys
        self._check, self._bar = check, bar
        self._lock = ""
        self._specs: dict[Key, Spec] = {}
        self.harmed: dict[str, str] = {}
        """By id what of it cannot be read: it is no document here, and its text stays as it is."""
        self._seen = -1
        """The collection's number when it was read."""
        self._writes = 0
        """Of this instance."""
        self._steps = count(1)
        """What is written, in the order in which it is to be heard."""

    def lead(self, lock_value: str) -> None:
        """Documents are written as long as the lock's key holds this value."""
        self._lock = lock_value

    def follow(self) -> None:
        self._lock = ""

    def get(self, kind: str, id: str) -> Spec | None:
        return self._specs.get((kind, id))

    def all(self, kind: str) -> Mapping[str, Spec]:
        found = (spec for spec in self._specs.values() if spec.kind == kind)
        return {spec.id: spec for spec in sorted(found, key=lambda spec: (spec.created_at, spec.id))}

    async def refresh(self, stands: Stands = always) -> frozenset[Key]:
        """Kind and id of what changed since the last look; what is known is kept if the store does not stand any more.
        Raises StoreDown."""
        number = await self._number()
        if number == self._seen:
            return frozenset()
        writes, harmed = self._writes, dict[str, str]()
        fresh = {(kind, spec.id): spec for kind in KINDS for spec in await self._read(kind, harmed)}
        if not await stands() or writes != self._writes:  # written here meanwhile: the next look shows both
            return frozenset()
        changed = {key for key in fresh.keys() | self._specs.keys() if fresh.get(key) != self._specs.get(key)}
        self._specs, self._seen, self.harmed = fresh, number, harmed
        return frozenset(changed)

    async def save(self, spec: Spec) -> bool:
        barred = self.harmed.get(spec.id) or self._bar(spec.id)
        if barred:
            raise StateWriteFailed(f"the document cannot be stored: {barred}", hint="see docs/redis.md")
        request = uuid.uuid4().hex
        args: list[Argument] = [spec.id, spec.version, _text(spec, request), self._keys.wake, request]
        if await self._write(SAVE, spec.kind, args) == 0:
            return False
        self._specs[spec.kind, spec.id] = spec
        return True

    async def delete(self, kind: str, id: str) -> bool:
        """Raises StateWriteFailed also where it is another one than `get` shows."""
        known = self.get(kind, id)
        number = await self._write(DELETE, kind, [id, 0 if known is None else known.version, self._keys.wake])
        if number < 0:
            raise StateWriteFailed("the document was changed by somebody else meanwhile", hint="try again")
        self._specs.pop((kind, id), None)
        return number > 0

    def close(self) -> None:
        """The client is not ours."""

    async def _write(self, script: Script, kind: str, args: Sequence[Argument]) -> int:
        """A number that is not the next one after ours shows that others wrote too: the next look reads all."""
        if not self._lock:
            raise NotLeading("this instance does not lead", hint="only the leader writes documents")
        keys = [self._keys.specs(kind), self._keys.specs_version, self._keys.leader_lock, self._keys.meta]
        try:
            number = int(await script.run(self._client, keys, [self._lock, next(self._steps), *args]))
        except StoreDown as down:
            raise StateWriteFailed(f"the document cannot be stored: {down.message}", hint=down.hint) from down
        self._writes += 1
        if number == self._seen + 1:
            self._seen = number
        return number

    async def _number(self) -> int:
        text = await guarded(self._client.get(self._keys.specs_version))
        return number_of_specs(None if text is None else str(text), self._keys)

    async def _read(self, kind: str, harmed: dict[str, str]) -> list[Spec]:
        stored = await read_hash(self._client, self._keys.specs(kind))
        specs = []
        for id, text in stored.items():
            try:
                specs.append(parse_spec(kind, id, text, self._check))
            except Unreadable as why:
                harmed[id] = f"the field {shown(id)} of {self._keys.specs(kind)} cannot be read: {why}"
        return specs


def _text(spec: Spec, request: str) -> str:
    fields = {
        "document": dict(spec.document),
        "version": spec.version,
        "created_at": spec.created_at,
        "updated_at": spec.updated_at,
        "by": spec.by,
        "request": request,
    }
    return json.dumps(fields, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def number_of_specs(text: str | None, keys: Keys) -> int:
    """Raises StoreDown."""
    return number(text, keys.specs_version, f"{ANEW}: redis-cli SET {keys.specs_version} $(date +%s)")


def parse_spec(kind: str, id: str, text: str, check: Callable[[Spec], None] = lambda spec: None) -> Spec:
    """Raises Unreadable, also for whatever `check` raises."""

    def made(data: Any) -> Spec:
        spec = _made(kind, id, document(data))
        check(spec)
        return spec

    return read(text, made)


def check_agent(spec: Spec) -> None:
    """Raises what reading may: then no registration made this document."""
    agent = _AGENT(agents.stored(spec.document))
    if agent.job_id != spec.id or not agents.SHORTEST <= agent.interval <= agents.LONGEST:
        raise ValueError("no agent of ours")


def _made(kind: str, id: str, data: dict[str, Any]) -> Spec:
    version, created, updated = (data[name] for name in ("version", "created_at", "updated_at"))
    spec: Spec = _SPEC(Spec(kind, id, document(data["document"]), version, created, updated, str(data["by"])))
    return spec
