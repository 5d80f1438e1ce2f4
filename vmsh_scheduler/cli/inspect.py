"""Commands that only look: status, next, why, history."""

from typing import Annotated

import typer

from vmsh_scheduler import render
from vmsh_scheduler.api.operations import HistoryQuery
from vmsh_scheduler.cli import daily
from vmsh_scheduler.cli.context import Context
from vmsh_scheduler.cli.options import AsJson, Job, moment
from vmsh_scheduler.cli.output import as_json
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.errors import Exit, Usage
from vmsh_scheduler.wallclock import wall_clock


def register(app: typer.Typer) -> None:
    app.command()(status)
    app.command("next")(next_slots)
    app.command()(why)
    app.command()(history)


def status(
    ctx: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing it until Ctrl-C.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 unless healthy.")] = False,
    agents: Annotated[bool, typer.Option("--agents", help="A row for every agent, however many.")] = False,
    json: AsJson = False,
) -> int:
    """Every job: last success, next start, backoff. From the daemon, or from disk without one."""
    return daily.status(ctx.obj, watch=watch, check=check, agents=agents, json=json)


def next_slots(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="[JOB]", help="Only this job.")] = "",
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, max=10_000)] = 10,
    json: AsJson = False,
) -> None:
    """The next slots over all jobs, were every run to succeed at once."""
    context: Context = ctx.obj
    view = context.ask("/next", lambda disk: disk.next(job, limit), job=job or None, limit=limit)
    if json:
        as_json(view)
    else:
        render.console().print(render.upcoming(view["slots"], view["now"]))


def why(
    ctx: typer.Context,
    job: Job,
    at: Annotated[str | None, typer.Option(help="An instant in the past: 2026-11-21T10:00:00Z, -15m.")] = None,
    json: AsJson = False,
) -> None:
    """Why a job did or did not run, will or will not, and what would have to change."""
    context: Context = ctx.obj
    when = None if at is None else _past(at)
    view = context.ask("/why", lambda disk: disk.why(job, when), job=job, at=when)
    if json:
        as_json(view)
    else:
        render.console().print(render.why(view, view["now"]))


def _past(text: str) -> Millis:
    now = wall_clock()
    when = moment(text, now)
    if when > now:
        hint = "give one in the past, such as -15m; without --at, `why` tells what comes next"
        raise Usage(f"--at {text!r} is yet to come", hint=hint)
    return when


def history(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="[JOB]", help="Only this job.")] = "",
    before: Annotated[str | None, typer.Option(help="Only rows older than this.")] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, max=10_000)] = 20,
    verify: Annotated[bool, typer.Option("--verify", help="Check the hash chains instead.")] = False,
    json: AsJson = False,
) -> int:
    """Decisions and executions, newest first."""
    context: Context = ctx.obj
    if verify:
        return _verify_history(context, job, json=json)
    query = HistoryQuery(job, None if before is None else moment(before, wall_clock()), limit)
    view = context.ask("/history", lambda disk: disk.history(query), job=job or None, before=query.before, limit=limit)
    if json:
        as_json(view)
    else:
        render.console().print(render.history(view))
    return 0


def _findings(context: Context, job: str) -> list[str]:
    """Of the journal where it is: in Redis, or on this disk."""
    if context.settings.is_shared:
        from vmsh_scheduler.redis_settings import options
        from vmsh_scheduler.stores.redis import admin

        return admin.verify_journal(options(context.settings.sections), job)
    from vmsh_scheduler.disk_view import DiskView

    return DiskView(context.settings, context.environ).verify_history(job)


def _verify_history(context: Context, job: str, *, json: bool) -> int:
    findings = _findings(context, job)
    if json:
        as_json({"findings": findings, "ok": not findings})
    else:
        typer.echo("\n".join(findings) or "every hash chain is intact")
    return int(Exit.FAILED if findings else Exit.OK)
