"""Commands about what is remembered and handed on: record deploy, receipt, verify-audit, bundle."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vmsh_scheduler import render
from vmsh_scheduler.cli.context import Context
from vmsh_scheduler.cli.evidence import rail_facts, reading_disk
from vmsh_scheduler.cli.options import AsJson, utf8
from vmsh_scheduler.cli.output import as_json
from vmsh_scheduler.errors import ConfigError, Denied, Usage

if TYPE_CHECKING:
    from vmsh_scheduler.anchors.bundle import Bundle


def register(app: typer.Typer) -> None:
    record = typer.Typer(help="Write down what was done outside of the scheduler.", no_args_is_help=True)
    record.command()(deploy)
    app.add_typer(record, name="record")
    app.command()(receipt)
    app.command(name="verify-audit")(verify_audit)
    app.command()(bundle)


def deploy(
    ctx: typer.Context,
    component: Annotated[str, typer.Option("--component", help="What was deployed.")],
    version: Annotated[str, typer.Option("--version", help="Which one.")],
    sha256: Annotated[str, typer.Option("--sha256", help="Of the artifact, 64 hex digits.")] = "",
    evidence: Annotated[Path | None, typer.Option("--evidence", help="The artifact, where it is a file.")] = None,
    note: Annotated[str, typer.Option("--note", help="For people.")] = "",
) -> None:
    """Write ops/receipts/deploy/COMPONENT-VERSION.receipt and remember it; never over another content."""
    from vmsh_scheduler.anchors.remembrancer import Remembrancer, deploy_evidence

    if not sha256 and evidence is None:
        raise Usage("record deploy needs --sha256, --evidence or both")
    if evidence is not None:
        utf8(str(evidence))  # the receipt says where it is
    context: Context = ctx.obj
    root = context.settings.root
    with reading_disk():
        proven = deploy_evidence(root, evidence, sha256)
        memory = Remembrancer(root)
        added = memory.deployed(component, version, proven, note)
    name = f"ops/receipts/deploy/{component}-{version}.receipt"
    typer.echo(f"{name}: sha256 {proven.sha256} ({'recorded' if added else 'recorded before'})")


def receipt(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A batch id, or TYPE/NAME below ops/receipts.")],
    v1: Annotated[
        bool, typer.Option("--v1", help="As receipt.v1: the strongest anchor that the format knows.")
    ] = False,
    chain: Annotated[str, typer.Option("--chain", help="With --v1: the anchor on this chain.")] = "",
    manifest: Annotated[bool, typer.Option("--manifest", help="All of a batch, as batch-manifest.v1.")] = False,
) -> None:
    """Show a receipt: of a batch as JSON, of a deployment as it stands on disk."""
    from vmsh_scheduler.anchors import receipt_text, receipt_v1

    context: Context = ctx.obj
    root = context.settings.root
    if chain and not v1:
        raise Usage("--chain says which anchor --v1 shows")
    with reading_disk():
        if manifest:
            as_json(receipt_v1.manifest_v1(root, receipt_text.batch_id(name)))
        elif v1:
            as_json(receipt_v1.receipt_v1(root, receipt_text.batch_id(name), chain))
        else:
            typer.echo(receipt_text.text(root, name), nl=False)


def verify_audit(
    ctx: typer.Context,
    kept: Annotated[str, typer.Option("--root", help="A root that you kept.")] = "",
    json: AsJson = False,
) -> int:
    """Recompute the Merkle root of what is remembered; compare it with the published one. Exit 1 on a difference."""
    from vmsh_scheduler.anchors.audit import audit
    from vmsh_scheduler.anchors.report import Report

    context: Context = ctx.obj
    with reading_disk():
        report = Report.of(audit(context.settings.root, kept))
    if json:
        as_json(report.to_json())
    else:
        render.console().print(render.report(report.to_json()["rows"]))
    return int(report.exit)


def bundle(
    ctx: typer.Context,
    what: Annotated[str, typer.Argument(help="A batch id, or a sealed file.")] = "",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The tar to write.")] = None,
    script_sha256: Annotated[bool, typer.Option("--script-sha256", help="Print that of verify.py instead.")] = False,
) -> None:
    """One tar with all the evidence of a batch, and a verify.py that needs nothing but Python."""
    from vmsh_scheduler.anchors import bundle as bundles

    context: Context = ctx.obj
    if script_sha256:
        typer.echo(bundles.script_sha256())
        return
    if not what or out is None:
        raise Usage("bundle needs WHAT and -o FILE.tar")
    with reading_disk():
        made = bundles.collect(context.settings.root, what)
        made.certificates(_trust_bundles(context, made))
        made.write(out)
    for missing in made.missing:
        typer.echo(f"not in it: {missing}", err=True)
    typer.echo(f"{out}: batch {made.batch.id}, {len(made.members)} members; check it with: python3 -I verify.py")


def _trust_bundles(context: Context, made: "Bundle") -> dict[str, Path]:
    """Of the authorities that anchors.yaml has now; what is wrong with it is said, and no reason for no bundle."""
    from vmsh_scheduler.anchors.rail_entry import tsa_rail

    found: dict[str, Path] = {}
    for name in made.authorities:
        try:
            facts = rail_facts(context, f"rfc3161:{name}")
            authorities = tsa_rail(facts).authorities if facts is not None else ()
        except (ConfigError, Denied, Usage) as error:
            made.missing.append(f"rfc3161:{name}: {error.message}")
            continue
        found |= {one.name: one.trust_bundle for one in authorities if one.name == name}
    return found
