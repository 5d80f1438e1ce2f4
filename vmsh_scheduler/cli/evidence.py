"""Commands about what was anchored: seal, proof, verify. They load the anchors' library; the daemon never does."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from vmsh_scheduler import render
from vmsh_scheduler.cli.context import Context
from vmsh_scheduler.cli.options import AsJson
from vmsh_scheduler.cli.output import as_json, json_text
from vmsh_scheduler.errors import Usage

if TYPE_CHECKING:
    from vmsh_scheduler.anchors.facts import Facts
    from vmsh_scheduler.anchors.report import Row

SHOW_AFTER_S = 1.0
SHOWN = 40


def register(app: typer.Typer) -> None:
    for command in (seal, proof, verify, deploy_contract):
        app.command()(command)


def seal(
    ctx: typer.Context,
    namespace: Annotated[str, typer.Argument(help="A namespace with `seal`; all of them without it.")] = "",
    json: AsJson = False,
) -> None:
    """Seal a batch now: a Merkle tree over the files that `seal.files` names, or over the journal's heads."""
    from vmsh_scheduler.anchors.sealing import Wanted
    from vmsh_scheduler.anchors.sealing import seal as seal_now
    from vmsh_scheduler.disk_view import DiskView

    context: Context = ctx.obj
    subjects = {
        job.subject.namespace: job.subject
        for job in DiskView(context.settings, context.environ).valid_jobs().values()
        if job.subject is not None and job.subject.seals and namespace in ("", job.subject.namespace)
    }
    if not subjects:
        raise Usage(
            f"namespace {namespace!r} has no `seal`" if namespace else "no namespace has `seal`",
            hint="add `seal: {files: [...]}` or `seal: {journal: true}` to it in namespaces.yaml",
        )
    root, now = context.settings.root, int(time.time())
    own = (root / "out", context.settings.state_path.parent)
    with reading_disk():
        results = {}
        for name, s in subjects.items():
            what = Wanted(name, s.files, Path(s.base), Path(s.directory), root, own)
            if s.kind == "journal":
                what = replace(what, base=root, journal=Path(s.base))
            results[name] = seal_now(what, now)
    if json:
        as_json(results)
        return
    for name, result in results.items():
        told = f"batch {result['id']} {result['root']}" if result["count"] else "no row is in the journal yet"
        typer.echo(f"{name}: {told} ({result['status']})")


def proof(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A sealed file.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write the proof here instead of stdout.")] = None,
) -> None:
    """A self-contained proof that a file is in an anchored batch; always JSON."""
    from vmsh_scheduler.anchors import disk
    from vmsh_scheduler.anchors.proof import proof as make_proof

    context: Context = ctx.obj
    with reading_disk():
        document = make_proof(context.settings.root, file.absolute())
    if out is None:
        as_json(document)
    else:
        with reading_disk():
            disk.write_out(out, json_text(document).encode())
        typer.echo(f"proof written to {out}", err=True)


def verify(
    ctx: typer.Context,
    what: Annotated[str, typer.Argument(help="A file, a batch id, a proof, local:LEDGER, or all.")] = "all",
    json: AsJson = False,
    online: Annotated[
        bool, typer.Option("--online", help="Ask the nodes of anchors.yaml for each transaction.")
    ] = False,
    trust: Annotated[
        Path | None, typer.Option(help="PEM file of the roots to believe time stamps by, in place of anchors.yaml's.")
    ] = None,
) -> int:
    """Recompute batches, receipts, ledgers and proofs from the bytes on disk. Exit 1 if anything does not hold."""
    from vmsh_scheduler.anchors.online import Online
    from vmsh_scheduler.anchors.report import Report
    from vmsh_scheduler.anchors.trust import Trust
    from vmsh_scheduler.anchors.verify import checks

    context: Context = ctx.obj
    with reading_disk():
        asking = Online(partial(rail_facts, context)) if online else None
        trusted = Trust(context.settings.root, context.settings.anchors_path, context.environ, trust)
        rows = _with_progress(checks(context.settings.root, what, asking, trust=trusted))
    report = Report(tuple(rows))
    if json:
        as_json(report.to_json())
    else:
        _show(report.to_json())
    return int(report.exit)


def deploy_contract(
    ctx: typer.Context,
    target: Annotated[str, typer.Option("--target", help="eip155:<chainId>, with an entry in anchors.yaml.")],
    again: Annotated[bool, typer.Option("--again", help="Another one, although one is there.")] = False,
    json: AsJson = False,
) -> None:
    """Put the BatchAnchor contract onto a chain, at the cost of its entry's key. Said twice, it is done once."""
    from vmsh_scheduler.anchors.facts import Facts
    from vmsh_scheduler.anchors.pays import deploy

    context: Context = ctx.obj
    facts = rail_facts(context, target)
    if facts is None:
        raise Usage(f"anchors.yaml has no entry for {target}", hint="add one below `eip155`")
    settings = context.settings
    off = "" if settings.anchor_write_enabled else settings.origins["anchor_write_enabled"]
    with reading_disk():
        result = deploy(Facts({**facts.document, "again": again, "off": off}, facts.environ))
    if json:
        as_json(result)
        return
    typer.echo(f"BatchAnchor is at {result['address']} on {target}, since block {result['block']} ({result['tx']})")
    typer.echo(f"for its entry in anchors.yaml:\n    {result['line']}")


def rail_facts(context: Context, target: str) -> "Facts | None":
    """What a run of this target would be told of its rail; None: anchors.yaml has no entry for it."""
    from vmsh_scheduler.anchors.facts import Facts
    from vmsh_scheduler.sources import grammar
    from vmsh_scheduler.sources.anchors_file import read_anchors
    from vmsh_scheduler.sources.config_files import look
    from vmsh_scheduler.sources.marks import config_error

    file = next(each for each in context.settings.config_paths if each.role == "anchors")
    found = look([file])
    if found.problems:
        raise config_error(found.problems.values())
    if file.role not in found.raw:
        return None
    try:
        wanted = grammar.target(target)
    except grammar.GrammarError as error:
        raise Usage(f"target {error}") from None
    rail = read_anchors(found.raw[file.role], file.name, context.environ).rail(wanted)
    if rail is None:
        return None
    about = {"root": str(context.settings.root), "target": target, **rail.told}
    return Facts(about, context.environ)


@contextmanager
def reading_disk() -> Iterator[None]:
    """A file that cannot be read or written is told as one line."""
    from vmsh_scheduler.anchors.failures import of_os

    try:
        yield
    except OSError as error:
        raise of_os(error) from error


def _with_progress(rows: "Iterable[Row]") -> "list[Row]":
    """Shows what is being looked at once that takes longer than a second."""
    began, seen = time.monotonic(), []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    progress = Progress(*columns, console=render.console(stderr=True), transient=True)
    task = progress.add_task("verifying")
    try:
        for row in rows:
            seen.append(row)
            if not progress.live.is_started and time.monotonic() - began > SHOW_AFTER_S:
                progress.start()
            progress.update(task, description=f"verifying: {len(seen)} things looked at")
    finally:
        progress.stop()
    return seen


def _show(report: dict[str, Any]) -> None:
    """Everything that failed, and a screenful of what holds."""
    failed = [row for row in report["rows"] if not row["ok"]]
    good = [row for row in report["rows"] if row["ok"]]
    console = render.console()
    console.print(render.report([*good[:SHOWN], *failed]))
    if len(good) > SHOWN:
        console.print(f"... and {len(good) - SHOWN} more that hold")
    verdict = "all good" if report["ok"] else f"{report['failed']} FAILED"
    console.print(f"{report['checked']} things checked: {verdict}")
