"""The other end of catalog.compile_in_child: a pickled Request on stdin, frames of pickled jobs on stdout."""

import os
import pickle
import resource
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, BinaryIO

from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.sources.catalog import FRAME_JOBS, Request, compile_files
from vmsh_scheduler.sources.compiled import JobSet

NICENESS = 10
"""A reload may take longer; the daemon beside it may not."""
CPU_SECONDS = 150
ADDRESS_SPACE = 4 << 30


def main() -> None:
    """Always ends with one frame `end`, `problems` or `failed`, unless it is killed."""
    _confine()
    # the parent went away, or has all it wants
    with suppress(BrokenPipeError):
        answer(sys.stdin.buffer, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _confine() -> None:
    os.nice(NICENESS)
    for kind, most in ((resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_AS, ADDRESS_SPACE)):
        _, hard = resource.getrlimit(kind)
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def answer(source: BinaryIO, sink: BinaryIO) -> None:
    """One request, its frames; never raises for what the files say, nor for a fault of ours."""
    request: Request = pickle.load(source)  # noqa: S301  written by the daemon that started us
    try:
        result = compile_files(request, request.wanted, request.environ)
    except ConfigError as error:
        _frame(sink, "problems", (error.message, error.problems))
    except Exception as error:  # a fault of ours: where it happened may be told, values may not
        where = "".join(traceback.format_tb(error.__traceback__)[-3:])
        _frame(sink, "failed", f"{type(error).__name__} at\n{where[-2_000:]}")
    else:
        _send(sink, result)


def _send(sink: BinaryIO, result: JobSet) -> None:
    for jobs in _portions(iter(result.jobs.values())):
        _frame(sink, "jobs", jobs)
    _frame(sink, "end", (result.config_hash, result.warnings, dict(result.counts)))


def _portions(jobs: Iterator[Job]) -> Iterator[list[Job]]:
    while portion := list(islice(jobs, FRAME_JOBS)):
        yield portion


def _frame(sink: BinaryIO, kind: str, body: Any) -> None:
    raw = pickle.dumps((kind, body), pickle.HIGHEST_PROTOCOL)
    sink.write(len(raw).to_bytes(4) + raw)


if __name__ == "__main__":
    main()
