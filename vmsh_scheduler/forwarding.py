"""What only the leader may do: a follower's registry and controls ask it, and this is how it answers."""

from collections.abc import Awaitable, Callable, Mapping

from vmsh_scheduler.domain.agents import Refused
from vmsh_scheduler.domain.shape import WRONG
from vmsh_scheduler.domain.trigger import SECOND, Millis
from vmsh_scheduler.engine.control import Control
from vmsh_scheduler.errors import NotFound, SchedulerError, StateWriteFailed, Unavailable, Usage
from vmsh_scheduler.registry import Configured, Registry, View

Document = Mapping[str, object]
Ask = Callable[[str, Document], Awaitable[Document]]

ANSWERED_WITHIN: Millis = 8 * SECOND
"""Longer than it takes to elect another leader."""
_KINDS: tuple[type[SchedulerError], ...] = (NotFound, Usage, StateWriteFailed, Unavailable)


class FarControl:
    """engine.control.Control of an instance that does not lead."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def fire(self, job_id: str, *, by: str) -> Millis:
        return _number((await _asked(self._ask, "fire", job=job_id, by=by))["slot"])

    async def pause(self, job_id: str, *, until: Millis | None, note: str, by: str) -> None:
        await _asked(self._ask, "pause", job=job_id, until=until, note=note, by=by)

    async def resume(self, job_id: str, *, by: str) -> None:
        await _asked(self._ask, "resume", job=job_id, by=by)

    async def reset(self, job_id: str, *, by: str) -> None:
        await _asked(self._ask, "reset", job=job_id, by=by)

    async def resolve(self, run_id: str, verdict: str, *, by: str) -> str:
        return str((await _asked(self._ask, "resolve", run=run_id, verdict=verdict, by=by))["job"])


class FarRegistry(Registry):
    """Shows what it knows, changes nothing itself."""

    def ask_with(self, ask: Ask) -> "FarRegistry":
        self._ask = ask
        return self

    async def register(self, body: Document, user: str, *, by: str) -> tuple[str, View]:
        answer = await _asked(self._ask, "register", body=dict(body), user=user, by=by)
        return str(answer["key"]), _view(answer["agent"]) or {}

    async def control(self, user: str, id: str, action: str, *, by: str) -> tuple[str, View | None]:
        answer = await _asked(self._ask, "agent", user=user, id=id, action=action, by=by)
        return str(answer["key"]), _view(answer["agent"])


async def answer(control: Control, registry: Registry | None, verb: str, document: Document) -> Document:
    """The leader's part. Never raises: what went wrong is an answer too."""
    try:
        return {"done": await _carry_out(control, registry, verb, dict(document))}
    except Refused as refused:
        return {"refused": refused.code}
    except Configured as configured:
        return {"configured": str(configured)}
    except SchedulerError as error:
        kind = next((kind for kind in _KINDS if isinstance(error, kind)), Unavailable)
        return {"error": kind.code, "message": error.message, "hint": error.hint}
    except WRONG as error:
        return {"error": Usage.code, "message": f"not understood: {verb}: {type(error).__name__}", "hint": ""}


async def _carry_out(control: Control, registry: Registry | None, verb: str, given: dict[str, object]) -> Document:
    by = str(given["by"])
    match verb:
        case "fire":
            return {"slot": await control.fire(str(given["job"]), by=by)}
        case "pause":
            until = None if given["until"] is None else _number(given["until"])
            await control.pause(str(given["job"]), until=until, note=str(given["note"]), by=by)
        case "resume":
            await control.resume(str(given["job"]), by=by)
        case "reset":
            await control.reset(str(given["job"]), by=by)
        case "resolve":
            return {"job": await control.resolve(str(given["run"]), str(given["verdict"]), by=by)}
        case "register" | "agent" if registry is not None:
            return await _change(registry, verb, given, by)
        case _:
            raise Usage("the leader's API is off, so it registers no agents", hint="configure all instances alike")
    return {}


async def _change(registry: Registry, verb: str, given: dict[str, object], by: str) -> Document:
    user = str(given["user"])
    if verb == "register":
        body = given["body"]
        key, record = await registry.register(body if isinstance(body, Mapping) else {}, user, by=by)
        return {"key": key, "agent": record}
    key, changed = await registry.control(user, str(given["id"]), str(given["action"]), by=by)
    return {"key": key, "agent": changed}


async def _asked(ask: Ask, verb: str, **document: object) -> Document:
    """Raises what the leader met."""
    answered = await ask(verb, document)
    if "refused" in answered:
        raise Refused(str(answered["refused"]))
    if "configured" in answered:
        raise Configured(str(answered["configured"]))
    if "error" in answered:
        kind = next((kind for kind in _KINDS if kind.code == answered["error"]), Unavailable)
        raise kind(str(answered["message"]), hint=str(answered["hint"]))
    done = answered["done"]
    return done if isinstance(done, Mapping) else {}


def _view(value: object) -> View | None:
    return dict(value) if isinstance(value, Mapping) else None


def _number(value: object) -> int:
    return int(value) if isinstance(value, int | float | str) else 0
