"""The commands of every day: run, tick, status. They load as little as they can."""

import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from vmsh_scheduler.cli.context import Context
from vmsh_scheduler.cli.output import as_json
from vmsh_scheduler.errors import Busy, Exit
from vmsh_scheduler.wallclock import wall_clock

if TYPE_CHECKING:
    from vmsh_scheduler.at_rest import TickReport

REFRESH_S = 1.0


def run(context: Context) -> int:
    """The child loads its libraries while we load ours."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it can be heard: a reload asked for now is not a reason to die
    from vmsh_scheduler.sources.child import Child, forked

    child = Child(forked)
    from vmsh_scheduler.daemon import run as run_daemon

    return int(run_daemon(child, context.asked))


def tick(context: Context, *, quiet_if_running: bool = False, json: bool = False) -> int:
    try:
        report = _tick(context)
    except Busy as error:
        if quiet_if_running:
            return int(Exit.OK)
        raise Busy(f"nothing done: {error.message}", hint=error.hint) from error
    if json:
        as_json(report)
    else:
        sys.stderr.write(f"{report.started} run: {report.succeeded} ok, {report.failed} failed\n")
    return int(Exit.FAILED if report.failed else Exit.OK)


def _tick(context: Context) -> "TickReport":
    from vmsh_scheduler.at_rest import TickReport, compiled, is_at_rest

    settings, environ = context.settings, context.environ
    jobs = compiled(settings, environ)
    if jobs is not None and is_at_rest(settings, jobs, wall_clock()):
        return TickReport()
    from vmsh_scheduler.oneshot import tick as tick_once

    return tick_once(settings, environ, jobs)


def status(
    context: Context, *, watch: bool = False, check: bool = False, agents: bool = False, json: bool = False
) -> int:
    """`agents`: a row for each of them, however many."""
    view = _status(context)
    if json:
        as_json(view)
    else:
        _show(context, view, watch=watch, agents=agents)
    return int(Exit.FAILED if check and view["status"] != "healthy" else Exit.OK)


def _status(context: Context) -> dict[str, Any]:
    return context.ask("/status", lambda disk: disk.status())


def _show(context: Context, view: dict[str, Any], *, watch: bool, agents: bool) -> None:
    from vmsh_scheduler import render

    if not watch:
        render.console().print(render.status(view, agents=agents))
        return
    from rich.live import Live

    with Live(render.status(view, agents=agents), console=render.console(), screen=False, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(REFRESH_S)
                live.update(render.status(_status(context), agents=agents), refresh=True)
        except KeyboardInterrupt:
            return
