"""Routes of the control socket: everything the CLI asks of a running daemon (docs/http.md)."""

from collections.abc import Awaitable, Callable
from typing import Any

from vmsh_scheduler.api.messages import Handler, Reply, Request, Routes, int_of, json_object, json_reply, only, text_of
from vmsh_scheduler.api.operations import HistoryQuery, Json, Operations

MOST_ROWS = 10_000

AGENT_FIELDS = ("id", "walletAddress", "cycleIntervalMs", "callbackUrl", "name", "strategyLabel", "status")

Values = dict[str, Any]


def control_routes(operations: Operations) -> Routes:
    return {
        "/status": {"GET": _read(lambda v: _plain(v, operations.status))},
        "/health": {"GET": _read(lambda v: _health(v, operations))},
        "/next": {"GET": _read(lambda v: _next(operations, v))},
        "/why": {"GET": _read(lambda v: _why(operations, v))},
        "/history": {"GET": _read(lambda v: _history(operations, v))},
        "/trigger": {"POST": _change(lambda v: _named(v, operations.trigger))},
        "/resume": {"POST": _change(lambda v: _named(v, operations.resume))},
        "/reset": {"POST": _change(lambda v: _named(v, operations.reset))},
        "/pause": {"POST": _change(lambda v: _pause(operations, v))},
        "/resolve": {"POST": _change(lambda v: _resolve(operations, v))},
        "/agents": {"GET": _read(lambda v: _plain(v, operations.agents.list))},
        "/agents/register": {"POST": _change(lambda v: _register_agent(operations, v))},
        "/agents/control": {"POST": _change(lambda v: _control_agent(operations, v))},
        "/reload": {"POST": _change(lambda v: _reload(operations, v))},
    }


def _read(answer: Callable[[Values], Awaitable[Json]]) -> Handler:
    async def handle(request: Request) -> Reply:
        return json_reply(200, await answer(dict(request.query)))

    return handle


def _change(carry_out: Callable[[Values], Awaitable[Json]]) -> Handler:
    async def handle(request: Request) -> Reply:
        return json_reply(200, await carry_out(json_object(request.body)))

    return handle


async def _plain(values: Values, answer: Callable[[], Awaitable[Json]]) -> Json:
    only(values)
    return await answer()


async def _health(values: Values, operations: Operations) -> Json:
    only(values)
    return operations.health()


async def _next(operations: Operations, values: Values) -> Json:
    only(values, "job", "limit")
    return await operations.next(text_of(values, "job", ""), _limit(values, 10))


async def _why(operations: Operations, values: Values) -> Json:
    only(values, "job", "at")
    return await operations.why(text_of(values, "job"), int_of(values, "at", None))


async def _history(operations: Operations, values: Values) -> Json:
    only(values, "job", "before", "limit")
    before = int_of(values, "before", None)
    return await operations.history(HistoryQuery(text_of(values, "job", ""), before, _limit(values, 50)))


async def _named(values: Values, operation: Callable[..., Awaitable[Json]]) -> Json:
    only(values, "job", "by")
    return await operation(text_of(values, "job"), by=text_of(values, "by", ""))


async def _pause(operations: Operations, values: Values) -> Json:
    only(values, "job", "until", "note", "by")
    note, by = text_of(values, "note", ""), text_of(values, "by", "")
    return await operations.pause(text_of(values, "job"), until=int_of(values, "until", None), note=note, by=by)


async def _resolve(operations: Operations, values: Values) -> Json:
    only(values, "run", "as", "by")
    return await operations.resolve(text_of(values, "run"), text_of(values, "as"), by=text_of(values, "by", ""))


async def _register_agent(operations: Operations, values: Values) -> Json:
    only(values, "user", "by", *AGENT_FIELDS)
    body = {name: text_of(values, name, "") for name in AGENT_FIELDS}
    return await operations.agents.register(body, text_of(values, "user"), by=text_of(values, "by", ""))


async def _control_agent(operations: Operations, values: Values) -> Json:
    only(values, "user", "id", "action", "by")
    user, id, action = (text_of(values, name) for name in ("user", "id", "action"))
    return await operations.agents.control(user, id, action, by=text_of(values, "by", ""))


async def _reload(operations: Operations, values: Values) -> Json:
    only(values, "by")
    return await operations.reload(by=text_of(values, "by", ""))


def _limit(values: Values, default: int) -> int:
    return min(int_of(values, "limit", default) or default, MOST_ROWS)
