"""The whole command line: every command and option, help, and what is said of wrong use."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from vmsh_scheduler import __version__
from vmsh_scheduler.cli import act, evidence, inspect, remembered, setup
from vmsh_scheduler.cli import agents as agents_commands
from vmsh_scheduler.cli import redis as redis_commands
from vmsh_scheduler.cli.context import Context
from vmsh_scheduler.cli.options import readable

app = typer.Typer(
    name="vmsh-scheduler",
    help="Anchors Merkle roots on cadences and wakes agents on intervals; every due slot leaves a decision.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vmsh-scheduler {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    ctx: typer.Context,
    root: Annotated[Path | None, typer.Option(help="Root of config, state and out (VMSH_ROOT).")] = None,
    namespaces: Annotated[Path | None, typer.Option(help="namespaces.yaml (VMSH_NAMESPACES).")] = None,
    agents: Annotated[Path | None, typer.Option(help="agents.yaml (VMSH_AGENTS).")] = None,
    config: Annotated[Path | None, typer.Option(help="scheduler.yaml (VMSH_CONFIG).")] = None,
    state: Annotated[Path | None, typer.Option(help="scheduler.json (VMSH_STATE).")] = None,
    env_file: Annotated[Path | None, typer.Option(help="Read more environment from this file.")] = None,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    flags = {"root": root, "namespaces": namespaces, "agents": agents, "scheduler": config, "state": state}
    ctx.obj = Context({name: str(path) for name, path in flags.items() if path is not None}, env_file)


for module in (setup, inspect, act, agents_commands, redis_commands, evidence, remembered):
    module.register(app)


def _check_texts(commands: typer.Typer) -> None:
    """Of every command, before it runs: none has to think of it."""
    for command in commands.registered_commands:
        command.callback = command.callback and readable(command.callback)
    for group in commands.registered_groups:
        if group.typer_instance is not None:
            _check_texts(group.typer_instance)


_check_texts(app)


def main(argv: Sequence[str]) -> int:
    """The exit code. Raises what the commands raise."""
    try:
        result = app(list(argv), standalone_mode=False)
    except typer.TyperException as error:  # wrong use; without any argument the help was the message
        if text := error.format_message():
            sys.stderr.write(f"vmsh-scheduler: {text.rstrip('.')}; `vmsh-scheduler --help` lists what there is\n")
        return error.exit_code
    except typer.Abort:
        return 130
    return result if isinstance(result, int) else 0
