"""Commands over the Redis that instances share: look at it, or begin anew."""

from typing import TYPE_CHECKING, Annotated

import typer

from vmsh_scheduler import render
from vmsh_scheduler.cli.context import Context
from vmsh_scheduler.cli.options import AsJson
from vmsh_scheduler.cli.output import as_json
from vmsh_scheduler.errors import Exit, Usage

if TYPE_CHECKING:  # the library is an extra
    from vmsh_scheduler.stores.redis.connect import RedisOptions


def register(app: typer.Typer) -> None:
    redis = typer.Typer(help="The Redis that several instances share.", no_args_is_help=True)
    redis.command()(check)
    redis.command()(reset)
    app.add_typer(redis, name="redis")


def check(ctx: typer.Context, json: AsJson = False) -> None:
    """Who leads, who is there, what waits, what is wrong. Exit 1 with findings, 69 without an answer."""
    options = _options(ctx.obj)  # first: it says what to install where the library is missing
    from vmsh_scheduler.stores.redis import admin

    view = admin.check(options)
    if json:
        as_json(view)
    else:
        render.console().print(render.shared(view))
    raise typer.Exit(int(Exit.FAILED if view["findings"] else Exit.OK))


def reset(
    ctx: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", help="Really: agents, states and history are gone.")] = False,
    json: AsJson = False,
) -> None:
    """Forget everything of this prefix, with every daemon stopped. The fence stays, so that it never falls."""
    options = _options(ctx.obj)
    from vmsh_scheduler.stores.redis import admin

    if not yes:
        raise Usage(
            f"this forgets every agent, state and history under {options.prefix} at {options.address}",
            hint="say so with --yes",
        )
    gone, left = admin.reset(options)
    if json:
        as_json({"keys": gone, "left": left})
        return
    typer.echo(f"{gone} keys are gone")
    if left:
        typer.echo(f"{left} keys whose names begin alike are not of this prefix, and stay")


def _options(context: Context) -> "RedisOptions":
    from vmsh_scheduler.redis_settings import options

    if not context.settings.is_shared:
        raise Usage("no Redis is configured", hint="set redis.url in scheduler.yaml, or SCHEDULER_REDIS_URL")
    return options(context.settings.sections)
