"""The other end of child.Child: pickled requests on stdin, frames of pickled answers on stdout."""

import gc
import os
import pickle
import resource
import traceback
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from itertools import islice
from typing import Any, BinaryIO

from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.settings_file import load_settings
from vmsh_scheduler.sources.catalog import Request, SettingsRequest, compile_files
from vmsh_scheduler.sources.compiled import JobSet

FRAME_JOBS = 50
"""Jobs per frame: unpickling one frame must not be felt by a start that comes due meanwhile."""
CPU_SECONDS = 150
ADDRESS_SPACE = 4 << 30


def main() -> None:
    """Every request is answered with frames of which the last is `settings`, `end`, `problems` or `failed`, unless
    it is killed meanwhile."""
    _confine()
    gc.disable()  # it ends before garbage could matter, and looking for it takes a tenth of the time
    # the parent went away, or has all it wants
    with suppress(BrokenPipeError):
        answer(open(0, "rb", closefd=False), open(1, "wb", closefd=False))  # noqa: SIM115  open as long as we live


def _confine() -> None:
    for kind, most in ((resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_AS, ADDRESS_SPACE)):
        _, hard = resource.getrlimit(kind)
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def answer(source: BinaryIO, sink: BinaryIO) -> None:
    """All requests there are; never raises for what the files say, nor for a fault of ours."""
    with suppress(EOFError):
        while True:
            request = pickle.load(source)  # noqa: S301  written by the daemon that started us
            _answer(request, sink)
            sink.flush()
            import_module("vmsh_scheduler.sources.pipeline")  # the daemon opens its state meanwhile


def _answer(request: Request | SettingsRequest, sink: BinaryIO) -> None:
    try:
        if isinstance(request, SettingsRequest):
            _frame(sink, "settings", load_settings(*request))
        else:
            os.nice(request.niceness)
            _send(sink, compile_files(request, request.wanted, request.environ))
    except ConfigError as error:
        _frame(sink, "problems", (error.message, error.problems))
    except BrokenPipeError:
        raise
    except Exception as error:  # a fault of ours: where it happened may be told, values may not
        where = "".join(traceback.format_tb(error.__traceback__)[-3:])
        _frame(sink, "failed", f"{type(error).__name__} at\n{where[-2_000:]}")


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
