"""Looks an installation over: each finding says what, whether it is well, and what to do."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from vmsh_scheduler.api.client import CONTROL_NAME, call
from vmsh_scheduler.api.unix_socket import check_free
from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.trigger import SANE_CLOCK
from vmsh_scheduler.errors import ConfigError, NoAnswer, SchedulerError
from vmsh_scheduler.registered import read_agents
from vmsh_scheduler.settings import Settings
from vmsh_scheduler.sources.catalog import compile_files
from vmsh_scheduler.sources.compiled import JobSet
from vmsh_scheduler.sources.watch import ConfigWatch
from vmsh_scheduler.stores.local.directory import StateDirectory, open_directory
from vmsh_scheduler.stores.local.journal import JournalReader
from vmsh_scheduler.stores.local.load import peek
from vmsh_scheduler.stores.local.store import DIRECTORIES
from vmsh_scheduler.wallclock import wall_clock

Row = dict[str, Any]
SPARE_BYTES = 64 << 20


def examine(settings: Settings, environ: Mapping[str, str]) -> list[Row]:
    """One row per thing looked at; never raises for what is wrong."""
    jobs = _compiled(settings, environ)
    rows = [*_config(jobs), *_commands(jobs, environ), *_state(settings), *_disk(settings), *_clock()]
    return [*rows, *_shared(settings), *_daemon(settings)]


def _row(subject: str, kind: str, problem: str = "", fine: str = "") -> Row:
    return {"subject": subject, "kind": kind, "ok": not problem, "detail": problem or fine}


def _compiled(settings: Settings, environ: Mapping[str, str]) -> JobSet | ConfigError:
    try:
        return compile_files(ConfigWatch(settings.config_paths).read_now(), settings, environ)
    except ConfigError as error:
        return error


def _config(jobs: JobSet | ConfigError) -> Iterator[Row]:
    if isinstance(jobs, ConfigError):
        yield from (_row("configuration", "config", problem) for problem in jobs.problems)
    else:
        yield _row("configuration", "config", fine=f"{len(jobs.jobs)} jobs")


def _commands(jobs: JobSet | ConfigError, environ: Mapping[str, str]) -> Iterator[Row]:
    """A command that cannot be found fails at its first slot; better now."""
    if isinstance(jobs, ConfigError):
        return
    programs: dict[str, str] = {}
    for job in jobs.jobs.values():
        if isinstance(job.action, Command):
            programs.setdefault(job.action.argv[0], job.id)
    for program, job_id in programs.items():
        found = shutil.which(program, path=environ.get("PATH"))
        missing = "" if found else f"not found on PATH; {job_id} runs it: install it or give its full path"
        yield _row(program, "command", missing, found or "")


def _state(settings: Settings) -> Iterator[Row]:
    path = settings.state_path
    if not path.parent.exists():
        yield _row(str(path.parent), "state", _no_place(path.parent), "not there yet; the first start makes it")
        return
    try:
        directory = open_directory(path, create=False)
    except SchedulerError as error:
        yield _row(str(path), "state", str(error))
        return
    with closing(directory):
        yield from _in_the_way(settings, directory)
        yield from _kept(path, directory)


def _no_place(directory: Path) -> str:
    """Why the first start cannot make it, if something else has its name or that of a directory above."""
    there = next(place for place in (directory, *directory.parents) if os.path.lexists(place))
    return "" if there.is_dir() else f"{there} is not a directory; move it away"


def _in_the_way(settings: Settings, directory: StateDirectory) -> Iterator[Row]:
    """What a start would refuse beside the state itself, each asked of what refuses it."""
    looks: dict[str, Callable[[str], object]] = dict.fromkeys((directory.lock, directory.previous), directory.check)
    looks |= dict.fromkeys(DIRECTORIES, directory.check_directory)
    if settings.api_is_on and not settings.is_shared:
        looks[directory.specs] = lambda _name: read_agents(directory)
    for name, look in looks.items():
        try:
            look(name)
        except SchedulerError as error:
            yield _row(str(directory.path / name), "state", str(error))
            continue
        shut = name in DIRECTORIES and directory.exists(name) and not _may_write(directory.path / name)
        if shut:
            yield _row(str(directory.path / name), "state", f"uid {os.geteuid()} cannot write there: chmod 700, chown")


def _may_write(place: Path) -> bool:
    return os.access(place, os.W_OK | os.X_OK)


def _kept(path: Path, directory: StateDirectory) -> Iterator[Row]:
    try:
        opened = peek(directory)
        broken = JournalReader(directory).verify()
        doubt = directory.doubt()
    except SchedulerError as error:
        yield _row(str(path), "state", str(error))
        return
    yield _row(str(path), "state", "; ".join(opened.findings), f"{opened.condition.value}, {len(opened.states)} jobs")
    if doubt.text:
        yield _row(str(path.parent), "state", doubt.text if doubt.grave else "", doubt.text)
    yield _row(str(path.with_suffix(".db")), "journal", "; ".join(broken[:3]), "every hash chain is intact")
    held = [
        f"run {state.held.id} of {job_id} waits for `resolve`" for job_id, state in opened.states.items() if state.held
    ]
    if held:
        yield _row("held runs", "runs", "; ".join(held[:5]))


def _disk(settings: Settings) -> Iterator[Row]:
    place = next(parent for parent in (settings.state_path.parent, *settings.state_path.parents) if parent.exists())
    free = shutil.disk_usage(place).free
    few = f"only {free >> 20} MiB free: nothing starts when it is full" if free < SPARE_BYTES else ""
    yield _row(str(place), "disk", few, f"{free >> 20} MiB free")
    if not os.access(place, os.W_OK):
        yield _row(str(place), "disk", f"not writable by uid {os.geteuid()}")


def _shared(settings: Settings) -> Iterator[Row]:
    """The Redis that instances share, if there is one."""
    if not settings.is_shared:
        return
    from vmsh_scheduler.redis_settings import options
    from vmsh_scheduler.stores.redis import admin

    try:
        view = admin.check(options(settings.sections))
    except SchedulerError as error:
        yield _row("redis", "redis", str(error))
        return
    fine = f"Redis {view['version']}, {len(view['instances'])} instances"
    yield _row(view["address"], "redis", "; ".join(view["findings"]), fine)


def _clock() -> Iterator[Row]:
    unset = "the clock is not set: nothing starts before 2020" if wall_clock() < SANE_CLOCK else ""
    yield _row("clock", "clock", unset, "set")


def _daemon(settings: Settings) -> Iterator[Row]:
    path = settings.state_path.parent / CONTROL_NAME
    try:
        health = call(str(path), "GET", "/health")
    except NoAnswer:
        yield _row("daemon", "daemon", fine="not running")
        yield from _socket(path)
        yield from _port(settings)
        return
    except SchedulerError as error:
        yield _row("daemon", "daemon", str(error))
        return
    bad = (
        "" if health["status"] == "healthy" else f"{health['status']}: {'; '.join(health['findings']) or 'see status'}"
    )
    yield _row("daemon", "daemon", bad, "running and healthy")


def _socket(path: Path) -> Iterator[Row]:
    """Nobody of ours listens, so its name has to be free."""
    try:
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return  # said of the state
    try:
        check_free(str(path.parent), fd, path.name)
    except SchedulerError as error:
        yield _row(str(path), "daemon", str(error))
    except OSError as error:
        yield _row(str(path), "daemon", f"{error.strerror}: look at it and remove it")
    finally:
        os.close(fd)


def _port(settings: Settings) -> Iterator[Row]:
    """Nobody of ours listens, so the port has to be free."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((settings.metrics_host, settings.metrics_port))
        except OSError as error:
            yield _row(f"port {settings.metrics_port}", "port", f"{error.strerror}: set METRICS_PORT to a free one")
        else:
            yield _row(f"port {settings.metrics_port}", "port", fine="free")
