"""All files of one reading -> one JobSet, in this process or, for large files, in a child (decision 21)."""

import asyncio
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.sources.compiled import JobSet, Readable, Wanted

BIG = 16 * 1024
"""Bytes of all files together from which on a child compiles them: about 30 ms of work."""
DEADLINE_S = 120.0
FRAME_LIMIT = 8 << 20
FRAME_JOBS = 50
"""Jobs per frame: unpickling one frame must not be felt by a start that comes due meanwhile."""

Child = subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True)
class Request:
    """Everything a compilation depends on, in a form that can be sent to another process."""

    raw: Mapping[str, bytes]
    names: Mapping[str, str]
    sha256: str
    wanted: "Defaults"
    environ: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Defaults:
    """The part of the settings that decides how files compile (compiled.Wanted)."""

    root: Path
    keys_dir: Path
    base_backoff: int
    max_backoff: int
    commands: Mapping[str, tuple[str, ...]]
    pass_env: tuple[str, ...]

    @classmethod
    def of(cls, wanted: Wanted) -> "Defaults":
        commands = {scheme: tuple(argv) for scheme, argv in wanted.commands.items()}
        numbers = wanted.base_backoff, wanted.max_backoff
        return cls(wanted.root, wanted.keys_dir, *numbers, commands, tuple(wanted.pass_env))


async def compile_reading(reading: Readable, wanted: Wanted, environ: Mapping[str, str], *, big: int = BIG) -> JobSet:
    """The way that fits the size; raises ConfigError with all problems of all files."""
    if sum(map(len, reading.raw.values())) < big:
        return compile_files(reading, wanted, environ)
    return await compile_in_child(reading, wanted, environ)


def compile_files(reading: Readable, wanted: Wanted, environ: Mapping[str, str]) -> JobSet:
    """Here and now; raises ConfigError with all problems of all files."""
    # pydantic and YAML: a daemon whose files are always compiled by a child never loads them for this
    from vmsh_scheduler.sources.pipeline import compile_all

    return compile_all(reading, wanted, environ)


async def compile_in_child(
    reading: Readable, wanted: Wanted, environ: Mapping[str, str], *, deadline_s: float = DEADLINE_S
) -> JobSet:
    """The same in a process of its own, which cancelling kills; the loop takes over one small frame at a time."""
    request = Request(dict(reading.raw), dict(reading.names), reading.sha256, Defaults.of(wanted), dict(environ))
    # a thread of its own: it waits for the child's answer, and those of the loop have other work
    pool = ThreadPoolExecutor(1, "compile")
    try:
        return await _asked(pool, request, deadline_s)
    finally:
        pool.shutdown(wait=False)


async def _asked(pool: Executor, request: Request, deadline_s: float) -> JobSet:
    child = await _started(pool)
    try:
        async with asyncio.timeout(deadline_s):
            await asyncio.wrap_future(pool.submit(_send, child, request))
            return await _received(pool, child)
    except TimeoutError:
        raise ConfigError(f"compiling the configuration took longer than {deadline_s:g} s") from None
    finally:
        _kill(child)
        await asyncio.shield(asyncio.wrap_future(pool.submit(_reap, child)))


async def _started(pool: Executor) -> Child:
    """Starting takes milliseconds, so it is off the loop; cancelled meanwhile, the child is ended all the same."""
    start = pool.submit(_start)
    try:
        return await asyncio.wrap_future(start)
    except asyncio.CancelledError:
        start.add_done_callback(_abandoned)
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"no process could be started to compile the configuration: {reason}") from error


def _abandoned(start: Future[Child]) -> None:
    if not start.cancelled() and start.exception() is None:
        _kill(start.result())
        _reap(start.result())


def _start() -> Child:
    package_parent = str(Path(__file__).resolve().parents[2])
    searched = [package_parent, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        # -P: a yaml.py in the working directory must not be imported
        [sys.executable, "-P", "-m", "vmsh_scheduler.sources.compile_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(searched)},
        start_new_session=True,
    )


def _send(child: Child, request: Request) -> None:
    """A child that is gone already is noticed when its answer is missing."""
    assert child.stdin is not None  # noqa: S101  Popen gave it a pipe
    with suppress(BrokenPipeError):
        child.stdin.write(pickle.dumps(request, pickle.HIGHEST_PROTOCOL))
        child.stdin.close()


async def _received(pool: Executor, child: Child) -> JobSet:
    assert child.stdout is not None  # noqa: S101  Popen gave it a pipe
    jobs: dict[str, Job] = {}
    while True:
        frame = await asyncio.wrap_future(pool.submit(_read_frame, child.stdout))
        kind, body = _opened(frame)
        match kind:
            case "jobs":
                jobs.update((job.id, job) for job in body)
                await asyncio.sleep(0)
            case "end":
                return JobSet(jobs, *body)
            case "problems":
                message, problems = body
                raise ConfigError(message, problems=problems)
            case _:
                raise ConfigError(f"compiling the configuration failed: {body}")


def _read_frame(pipe: IO[bytes]) -> bytes:
    """Empty at the end of the stream, also at one in the middle of a frame."""
    head = pipe.read(4)
    length = int.from_bytes(head)
    body = pipe.read(length) if len(head) == 4 and length <= FRAME_LIMIT else b""
    return body if len(body) == length else b""


def _opened(frame: bytes) -> tuple[str, Any]:
    if not frame:
        return "died", "its process ended without an answer (killed, or out of memory?)"
    kind, body = pickle.loads(frame)  # noqa: S301  written by our own child from our own classes
    return kind, body


def _kill(child: Child) -> None:
    """All of its session; one that has ended but is not reaped yet is a no-op."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _reap(child: Child) -> None:
    child.wait()
    for pipe in (child.stdin, child.stdout):
        with suppress(OSError):
            if pipe is not None:
                pipe.close()
