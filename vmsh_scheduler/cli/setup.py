"""Commands that start or check the program: run, tick, validate-config, schema, config show, doctor."""

import sys
from typing import Annotated

import typer

from vmsh_scheduler import render
from vmsh_scheduler.cli import daily
from vmsh_scheduler.cli.context import Context
from vmsh_scheduler.cli.options import AsJson
from vmsh_scheduler.cli.output import as_json
from vmsh_scheduler.errors import ConfigError, Exit

FILES = ("namespaces", "agents", "anchors", "scheduler")


def register(app: typer.Typer) -> None:
    for command in (run, tick, schema, doctor):
        app.command()(command)
    app.command("validate-config")(validate_config)
    config = typer.Typer(help="The settings in force.", no_args_is_help=True)
    config.command("show")(config_show)
    app.add_typer(config, name="config")


def run(ctx: typer.Context) -> int:
    """Start the daemon. SIGTERM drains, a second one hurries, SIGHUP reloads."""
    return daily.run(ctx.obj)


def tick(
    ctx: typer.Context,
    quiet_if_running: Annotated[bool, typer.Option(help="Exit with 0 when a daemon is running.")] = False,
    json: AsJson = False,
) -> int:
    """One look at the agenda, for cron: run what is due, wait for it, save, exit. 1 if a command failed."""
    return daily.tick(ctx.obj, quiet_if_running=quiet_if_running, json=json)


def validate_config(ctx: typer.Context, json: AsJson = False) -> None:
    """Check every file; every problem at once as file:line:col: path: message. Exit 78 if there is one."""
    from vmsh_scheduler.sources.catalog import compile_files
    from vmsh_scheduler.sources.watch import ConfigWatch

    context: Context = ctx.obj
    try:
        reading = ConfigWatch(context.settings.config_paths).read_now()
        jobs = compile_files(reading, context.settings, context.environ)
    except ConfigError as error:
        if json:
            as_json({"ok": False, "problems": error.problems})
        raise
    sys.stderr.write("".join(f"warning: {line}\n" for line in jobs.warnings))
    if json:
        as_json({"ok": True, "warnings": jobs.warnings, "config_hash": jobs.config_hash, **jobs.counts})
    else:
        typer.echo("valid: " + ", ".join(f"{count} {name}" for name, count in jobs.counts.items()))


def schema(file: Annotated[str, typer.Argument(help=" | ".join(FILES))]) -> None:
    """JSON Schema of a configuration file, for editors."""
    from vmsh_scheduler.errors import Usage
    from vmsh_scheduler.sources.schema import schema as schema_of

    if file not in FILES:
        raise Usage(f"no schema of {file!r}", hint=f"use one of {', '.join(FILES)}")
    as_json(schema_of(file))


def config_show(
    ctx: typer.Context,
    origin: Annotated[bool, typer.Option("--origin/--no-origin", help="Where each value came from.")] = True,
    json: AsJson = False,
) -> None:
    """Every setting in force."""
    context: Context = ctx.obj
    rows = context.settings.rows()
    if not origin:
        rows = [{**row, "origin": ""} for row in rows]
    if json:
        as_json(rows)
    else:
        render.console().print(render.settings(rows))


def doctor(ctx: typer.Context, json: AsJson = False) -> int:
    """Look for what is wrong with this installation and say what to do. Exit 1 if anything is."""
    from vmsh_scheduler.doctor import examine

    context: Context = ctx.obj
    rows = examine(context.settings, context.environ)
    if json:
        as_json(rows)
    else:
        render.console().print(render.report(rows))
    return int(Exit.OK if all(row["ok"] for row in rows) else Exit.FAILED)
