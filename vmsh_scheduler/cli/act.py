"""Commands that change something: trigger, pause, resume, resolve, reset, reload."""

from typing import Annotated, Any

import typer

from vmsh_scheduler import render
from vmsh_scheduler.api.messages import TEXT_LIMIT
from vmsh_scheduler.cli.context import Context
from vmsh_scheduler.cli.options import AsJson, Job, moment
from vmsh_scheduler.cli.output import as_json
from vmsh_scheduler.errors import Usage
from vmsh_scheduler.wallclock import wall_clock


def register(app: typer.Typer) -> None:
    for command in (trigger, pause, resume, resolve, reset, reload):
        app.command()(command)


def trigger(ctx: typer.Context, job: Job, json: AsJson = False) -> None:
    """Run a job now. One that waits out a backoff keeps its slot and idempotency key."""
    context: Context = ctx.obj
    done = context.tell("/trigger", lambda ops: ops.trigger(job, by=context.who), job=job)
    _say(done, json, f"{job}: triggered, slot {render.instant(done['slot'])}")


def pause(
    ctx: typer.Context,
    job: Job,
    until: Annotated[str | None, typer.Option(help="When it goes on by itself: 30m, 2026-11-21T10:00:00Z.")] = None,
    note: Annotated[str, typer.Option(help=f"Why, in at most {TEXT_LIMIT} characters; shown by `why`.")] = "",
    json: AsJson = False,
) -> None:
    """Hold a job: its slots are skipped and journaled. What runs goes on."""
    context: Context = ctx.obj
    if len(note) > TEXT_LIMIT:
        raise Usage(f"--note has {len(note)} characters", hint=f"at most {TEXT_LIMIT} are kept")
    end = None if until is None else moment(until, wall_clock())
    done = context.tell(
        "/pause", lambda ops: ops.pause(job, until=end, note=note, by=context.who), job=job, until=end, note=note
    )
    _say(done, json, f"{job}: paused" + (f" until {render.instant(end)}" if end else ""))


def resume(ctx: typer.Context, job: Job, json: AsJson = False) -> None:
    """Let a paused job go on with its next slot."""
    context: Context = ctx.obj
    _say(context.tell("/resume", lambda ops: ops.resume(job, by=context.who), job=job), json, f"{job}: resumed")


def resolve(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Id of the unknown run; `status` shows it.")],
    verdict: Annotated[str, typer.Option("--as", help="ok | failed | retry")],
    json: AsJson = False,
) -> None:
    """Say what became of a run that nobody saw end and that is held."""
    context: Context = ctx.obj
    done = context.tell(
        "/resolve", lambda ops: ops.resolve(run, verdict, by=context.who), **{"run": run, "as": verdict}
    )
    _say(done, json, f"{done['job']}: run {run} resolved as {verdict}")


def reset(ctx: typer.Context, job: Job, json: AsJson = False) -> None:
    """Clear a job's backoff; its open slot is tried at once."""
    context: Context = ctx.obj
    _say(context.tell("/reset", lambda ops: ops.reset(job, by=context.who), job=job), json, f"{job}: backoff cleared")


def reload(ctx: typer.Context, json: AsJson = False) -> None:
    """Have the daemon read its configuration now (as SIGHUP does); every problem is listed if it is refused."""
    context: Context = ctx.obj
    done = context.tell("/reload", lambda ops: ops.reload(by=context.who))
    _say(done, json, f"configuration {done['config_hash'][:12]}: {done['jobs']} jobs in force")


def _say(done: dict[str, Any], json: bool, text: str) -> None:
    if json:
        as_json(done)
    else:
        typer.echo(text)
