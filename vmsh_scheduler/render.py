"""Results -> tables for people. No logic: what is shown was decided elsewhere."""

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from vmsh_scheduler.domain.text import one_line, printable
from vmsh_scheduler.domain.trigger import JITTER

Json = Mapping[str, Any]

COLOURS = {
    "ok": "green",
    "healthy": "green",
    "fired": "green",
    "running": "cyan",
    "waiting": "cyan",
    "backing_off": "yellow",
    "degraded": "yellow",
    "deferred": "yellow",
    "skipped": "yellow",
    "superseded": "yellow",
    "paused": "magenta",
    "off": "dim",
    "held": "red",
    "failed": "red",
    "missed": "red",
    "unknown": "red",
    "unhealthy": "red",
}


def console(*, stderr: bool = False) -> Console:
    """Colour only for terminals and never against NO_COLOR / VMSH_NO_COLOR; wide when piped."""
    plain = bool(os.environ.get("NO_COLOR") or os.environ.get("VMSH_NO_COLOR") or os.environ.get("TERM") == "dumb")
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 200
    return Console(stderr=stderr, no_color=plain or None, width=width, highlight=False, markup=False, emoji=False)


def instant(ms: int | None) -> str:
    if ms is None:
        return "-"
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"


def span(ms: float) -> str:
    """Two units at most: `1m 29s`, `3.2s`."""
    seconds = abs(ms) / 1000
    if seconds < 10:
        return f"{seconds:.1f}s"
    for unit, size, part, small in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            return f"{whole}{unit} {rest // small}{part}" if rest // small else f"{whole}{unit}"
    return f"{int(seconds)}s"


def ago(ms: int | None, now: int) -> str:
    """The clock may have been set back since; what is ahead by less than it jitters happened just now."""
    if ms is None:
        return "never"
    return f"{span(ms - now)} ahead of the clock" if ms - now > JITTER else f"{span(max(0, now - ms))} ago"


def ahead(ms: int | None, now: int) -> str:
    if ms is None:
        return "-"
    return "now" if ms <= now else f"in {span(ms - now)}"


def coloured(word: str) -> Text:
    return Text(word, style=COLOURS.get(word, ""))


def table(title: str, *columns: str) -> Table:
    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def _row(into: Table, *cells: str | Text) -> None:
    """Texts from files, people and commands cannot move the cursor, hide what follows or look like a row."""
    into.add_row(*(one_line(cell) if isinstance(cell, str) else cell for cell in cells))


FEW_AGENTS = 10
"""So many have a row each without being asked for."""
MOST_NAMES = 10


def status(view: Json, *, agents: bool = False) -> RenderableType:
    """`agents`: a row for each of them; else only if they are few."""
    now = int(view["now"])
    head = Text.assemble(
        "vmsh-scheduler ",
        (view["status"], COLOURS.get(view["status"], "")),
        f", {view['source']}",
        f", config {view['config_hash'][:12] or 'none'}",
    )
    rows = table("", "job", "target", "condition", "last success", "next", "runs", "backoff", "remark")
    every = agents or view["agents"]["count"] <= FEW_AGENTS
    for job in view["jobs"]:
        if "agent" in job and not every:
            continue
        _row(
            rows,
            job["job"],
            job.get("target", "-"),
            coloured(job["condition"]),
            ago(job["last_success"], now),
            ahead(job["next"], now),
            f"{job['succeeded']}/{job['started']}",
            str(job["backoff"]),
            _remark(job),
        )
    notes = [Text(printable(line), style="yellow") for line in view["findings"]]
    summary = [_agents_line(view["agents"])] if view["agents"]["count"] else []
    several = _several(view["cluster"]) if "cluster" in view else []
    anchors = [_attestations(view["attestations"])] if "attestations" in view else []
    return Group(head, *notes, *several, *summary, rows, *anchors)


def _attestations(view: Json) -> Table:
    """How far anchors on chains and calendars have come; what a person should look at stands out."""
    made = table(
        "\nanchors on chains and calendars", "target", "open", "oldest", "overdue", "final", "faulty", "backoff"
    )
    for target, row in view.items():
        oldest = span(row["oldestOpenS"] * 1000) if row["open"] else "-"
        alarms = {name: Text(str(row[name]), style="red" if row[name] else "") for name in ("overdue", "faulty")}
        cells = (target, str(row["open"]), oldest, alarms["overdue"], str(row["final"]), alarms["faulty"])
        _row(made, *cells, str(row["backoff"]))
    return made


def _several(view: Json) -> list[RenderableType]:
    """Who leads, who is there, what waits, as this instance knows it."""
    lines = [f"Redis at {view['redis']}, this is {view['instance']} ({view['role']})", _leader_line(view)]
    wrong = ", ".join(view["problems"]) + (f": {view['trouble']}" if view["trouble"] else "")
    made = table("", "instance", "host", "role", "version", "running", "config")
    for row in view["members"]:
        same = "the same" if row["same_config"] else "differs"
        _row(made, row["id"], row["host"], row["role"], row["version"], str(row["running"]), same)
    notes = [Text(printable(wrong), style="yellow")] if view["problems"] else []
    return [*(Text(printable(line)) for line in lines), *notes, made]


def _leader_line(view: Json) -> str:
    return f"leader: {view['leader'] or 'none'}, fence {view['fence']}; {_queues(view['queues'])}"


def _queues(queues: Json) -> str:
    return ", ".join(f"{name} {row['ready']} ready {row['running']} running" for name, row in queues.items())


def _agents_line(agents: Json) -> Text:
    line = Text(f"agents: {agents['running']} running, {agents['paused']} paused")
    failing = agents["failing"]
    if failing:
        rest = f" and {len(failing) - MOST_NAMES} more" if len(failing) > MOST_NAMES else ""
        line.append(one_line(f", {len(failing)} failing: {', '.join(failing[:MOST_NAMES])}{rest}"), style="yellow")
    return line


def agent_list(view: Json) -> RenderableType:
    """What `agents list` shows; the whole address is in --json."""
    now = int(view["now"])
    made = table("", "agent", "wallet", "every", "status", "last cycle", "next", "failures", "callback", "source", "")
    for row in view["agents"]:
        running = row["status"] == "RUNNING"
        dispatch = row["lastDispatch"] or {}
        _row(
            made,
            f"{row['userId']}:{row['id']}",
            row["walletAddress"] if len(row["walletAddress"]) <= 24 else row["walletAddress"][:21] + "...",
            span(row["cycleIntervalMs"]),
            coloured(row["status"].lower()),
            ago(row["lastCycleAt"] or None, now),
            ahead(row["nextRunAt"] or None, now) if running else "-",
            str(row["failureCount"]),
            "yes" if row["callbackConfigured"] else "-",
            row["source"],
            str(dispatch.get("error", "")),
        )
    return made


def shared(view: Json) -> RenderableType:
    """What `redis check` shows."""
    leader = view["leader"]
    queues = _queues(view["queues"])
    head = (
        f"Redis {view['version']} at {view['address']}, prefix {view['prefix']}",
        f"leader: {leader['instance'] if leader else 'none'}, fence {view['fence']}",
        f"{view['jobs']} jobs, {view['agents']} registered agents; {queues}",
    )
    made = table("", "instance", "host", "version", "leads", "running", "permits", "config")
    for row in view["instances"]:
        permits = ", ".join(f"{pool or 'commands'} {count}" for pool, count in row["permits"].items())
        leads = "yes" if row["fence"] else "-"
        _row(made, row["id"], row["host"], row["version"], leads, str(row["running"]), permits, row["config"][:12])
    notes = [Text(printable(line), style="yellow") for line in view["findings"]]
    return Group(*(Text(printable(line)) for line in head), *notes, made)


def _remark(job: Json) -> str:
    """Why it stands still, else what went wrong last."""
    if job["condition"] in ("held", "paused", "off"):
        return str(job["why"])
    return str(job["last_error"] or ("" if job["condition"] in ("ok", "waiting") else job["why"]))


def upcoming(rows: Sequence[Json], now: int) -> RenderableType:
    made = table("", "at", "", "job", "slot", "reason")
    for row in rows:
        _row(made, instant(row["at"]), ahead(row["at"], now), row["job"], instant(row["slot"]), row["reason"])
    return made


def why(view: Json, now: int) -> RenderableType:
    answer = {"will": "will run", "will_not": "will not run", "did": "did run", "did_not": "did not run"}
    verdict = answer.get(view["verdict"], view["verdict"].replace("_", " "))
    when = f" ({instant(view['at'])}, {ahead(view['at'], now)})" if view["at"] and view["at"] > now else ""
    lines = [Text.assemble((view["job_id"], "bold"), one_line(f" {verdict}{when}: {view['text']}"))]
    if view["slot"] is not None:
        lines.append(Text(f"slot: {instant(view['slot'])}"))
    if view["remedy"]:
        lines.append(Text(f"to change that: {view['remedy']}"))
    return Group(*lines)


def history(view: Json) -> RenderableType:
    decisions = table("decisions", "at", "job", "slot", "verdict", "reason", "slots", "run")
    for row in view["decisions"]:
        _row(
            decisions,
            instant(row["at"]),
            row["job"],
            instant(row["slot"]),
            coloured(row["verdict"]),
            row["reason"],
            str(row.get("count", 1)),
            row.get("run", ""),
        )
    executions = table("executions", "finished", "run", "job", "attempt", "status", "took", "message")
    for row in view["executions"]:
        run, outcome = row["run"], row["outcome"]
        _row(
            executions,
            instant(row["finished_at"]),
            run["id"],
            run["job"],
            str(run["attempt"]),
            coloured(outcome["status"]),
            span(row["finished_at"] - run["started_at"]),
            outcome.get("message", ""),
        )
    return Group(decisions, Text(), executions)


def report(rows: Sequence[Json]) -> RenderableType:
    """Rows of `verify` and `doctor`: what, whether it holds, why not."""
    made = table("", "", "what", "kind", "detail")
    for row in rows:
        mark = Text("ok", style="green") if row["ok"] else Text("FAILED", style="bold red")
        _row(made, mark, str(row["subject"]), str(row["kind"]), str(row["detail"]))
    return made


def settings(rows: Sequence[Json]) -> RenderableType:
    made = table("", "setting", "value", "origin")
    for row in rows:
        _row(made, row["name"], str(row["value"]), row["origin"])
    return made
