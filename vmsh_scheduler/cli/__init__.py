"""The command line: parse, one call, render, exit code. Every command is a few lines; the library does the work."""

import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from vmsh_scheduler import __version__
from vmsh_scheduler.cli import act, evidence, inspect, setup
from vmsh_scheduler.cli.context import Context
from vmsh_scheduler.errors import ConfigError, Exit, SchedulerError, StateWriteFailed

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


for module in (setup, inspect, act, evidence):
    module.register(app)


def start() -> int:
    """Run the command line; our own errors become one line on stderr and their exit code, never a traceback."""
    try:
        _prepare_streams()
        result = app(standalone_mode=False)
        sys.stdout.flush()
    except SchedulerError as error:
        _complain(error)
        return int(error.exit)
    except typer.TyperException as error:  # wrong use; without any argument the help was the message
        if text := error.format_message():
            sys.stderr.write(f"vmsh-scheduler: {text.rstrip('.')}; `vmsh-scheduler --help` lists what there is\n")
        return error.exit_code
    except typer.Abort:
        return 130
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        _complain(StateWriteFailed(f"{error.filename or 'output'}: {error.strerror or error}", hint="see df and mount"))
        return int(Exit.IO_ERROR)
    return result if isinstance(result, int) else 0


def _prepare_streams() -> None:
    """Closed ones become /dev/null; what a terminal's encoding lacks is escaped, not refused."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  lives as long as we do
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _complain(error: SchedulerError) -> None:
    """Problems of files begin with file:line:col, for people and for tools that jump there; all else with our name."""
    lines = list(error.problems) if isinstance(error, ConfigError) else []
    if error.message not in lines:
        lines.append(f"vmsh-scheduler: {error}")
    sys.stderr.write("".join(f"{line}\n" for line in lines))
