"""Commands over the agents that the API knows: list, register, pause, resume, remove. The daemon does it."""

from typing import Annotated, Any

import typer

from vmsh_scheduler import render
from vmsh_scheduler.cli.context import Context
from vmsh_scheduler.cli.options import AsJson, length
from vmsh_scheduler.cli.output import as_json

Id = Annotated[str, typer.Argument(metavar="ID", help="The agent's id.")]
User = Annotated[str, typer.Option("--user", help="Whose agent it is.")]
ANYBODY = "anon"
"""As the API takes it when nobody is named (forge-os section 3)."""
SAID = {"pause": "paused", "resume": "resumed", "remove": "removed"}


def register(app: typer.Typer) -> None:
    agents = typer.Typer(help="Agents that the API registered; `status` shows how they do.", no_args_is_help=True)
    agents.command("list")(list_agents)
    agents.command("register")(register_agent)
    for command in (pause, resume, remove):
        agents.command()(command)
    app.add_typer(agents, name="agents")


def list_agents(ctx: typer.Context, json: AsJson = False) -> None:
    """Every agent, of files and of the API: last cycle, next one, failures in a row."""
    context: Context = ctx.obj
    view = context.live("GET", "/agents")
    if json:
        as_json(view)
    else:
        render.console().print(render.agent_list(view))


def register_agent(
    ctx: typer.Context,
    id: Id,
    wallet: Annotated[str, typer.Option(help="Its address: kaspa:... or kaspatest:...")],
    user: User = ANYBODY,
    every: Annotated[str, typer.Option(help="From the end of one cycle to the next: 15s, 5m.")] = "15s",
    callback: Annotated[str, typer.Option(help="URL that each cycle is posted to; none: no POST.")] = "",
    name: Annotated[str, typer.Option(help="For people; default: the id.")] = "",
    strategy: Annotated[str, typer.Option(help="Label of its strategy; default: Custom.")] = "",
    paused: Annotated[bool, typer.Option("--paused", help="Registered, and not woken yet.")] = False,
    json: AsJson = False,
) -> None:
    """Register an agent; one of this id and user is replaced, and counts from zero."""
    context: Context = ctx.obj
    status = "PAUSED" if paused else "RUNNING"
    values = {"id": id, "user": user, "walletAddress": wallet, "callbackUrl": callback, "name": name}
    more = {"strategyLabel": strategy, "status": status, "cycleIntervalMs": str(length(every, "--every"))}
    done = context.live("POST", "/agents/register", **values, **more, by=context.who)
    agent = done["agent"]
    new = "registered" if agent["createdAt"] == agent["updatedAt"] else "replaced"
    when = "" if paused else f", first cycle at {render.instant(agent['nextRunAt'])}"
    _say(done, json, f"{done['key']}: {new}, {agent['status']}{when}")


def pause(ctx: typer.Context, id: Id, user: User = ANYBODY, json: AsJson = False) -> None:
    """Wake it no more until it is resumed. A cycle that runs goes on."""
    _control(ctx.obj, "pause", id, user, json=json)


def resume(ctx: typer.Context, id: Id, user: User = ANYBODY, json: AsJson = False) -> None:
    """Wake it again, a second from now."""
    _control(ctx.obj, "resume", id, user, json=json)


def remove(ctx: typer.Context, id: Id, user: User = ANYBODY, json: AsJson = False) -> None:
    """Forget it, with its counters; its history stays."""
    _control(ctx.obj, "remove", id, user, json=json)


def _control(context: Context, action: str, id: str, user: str, *, json: bool) -> None:
    done = context.live("POST", "/agents/control", user=user, id=id, action=action, by=context.who)
    _say(done, json, f"{done['key']}: {SAID[action]}")


def _say(done: dict[str, Any], json: bool, text: str) -> None:
    if json:
        as_json({**done, "agent": _without_urls(done["agent"])})
    else:
        typer.echo(text)


def _without_urls(agent: dict[str, Any] | None) -> dict[str, Any] | None:
    """As in lists: the token in a callback's URL is not for terminals and logs of whoever runs this."""
    if agent is None:
        return None
    last = agent["lastDispatch"]
    shown = {**agent, "callbackConfigured": bool(agent["callbackUrl"])}
    shown["lastDispatch"] = last and {name: value for name, value in last.items() if name != "callbackUrl"}
    del shown["callbackUrl"]
    return shown
