"""Children that hang, flood, fork and escape (rows P1-P14): each ends in time and leaves nothing behind.

What is left behind is checked by the stage after every test."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.children.faults import (
    hangs,
    ignores_term_and_has_children,
    leaves_a_grandchild_on_stdout,
    lets_one_escape,
    many_at_once,
    reads_stdin,
    stops_itself,
    timed_out,
)
from tests.integration.children.stage import Stage, alive, eventually_async, job_of, on_stage, shell
from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.run import Status
from vmsh_scheduler.executors.outputs import punch_hole

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with on_stage(tmp_path) as ready:
        yield ready


both_ways = pytest.mark.parametrize("crash_exact", [False, True], ids=["piped", "recorded"])


SOON_S = 20.0
"""Far less than what the children would take if they were waited for; the exact figures are the soak's."""

KEPT = 64 << 10
LINES = {
    "one endless line": (("sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x"), 3_000_000, "x" * 50_000),
    "binary": (("head", "-c", "50000", "/dev/urandom"), 50_000, "\\x"),
    "escape codes": (("printf", "\\033[31mred\\033[0m"), 12, "\x1b[31mred\x1b[0m"),
    "invalid UTF-8": (("printf", "a\\377b"), 3, "a\\xffb"),
    "NUL": (("printf", "a\\000b"), 3, "a\0b"),
    "a character that is cut": (
        ("sh", "-c", "printf x; yes \u00e9 | tr -d '\\n' | head -c 180000"),
        180_001,
        "\\xc3\n[",
    ),
    "no line end": (("printf", "a\\rb"), 3, "a\rb"),
}
"""What is run, how many bytes that is, and a part of what is stored."""
THROTTLE = 25e6
"""Bytes a second: nobody who floods us makes us work harder than that."""


@both_ways
class TestTimeout:
    async def test_p1_hangs(self, stage: Stage, crash_exact: bool) -> None:
        assert await hangs(stage, crash_exact) < SOON_S

    async def test_p2_ignores_term_and_has_children(self, stage: Stage, crash_exact: bool) -> None:
        assert await ignores_term_and_has_children(stage, crash_exact) < SOON_S

    async def test_p3_stopped(self, stage: Stage, crash_exact: bool) -> None:
        assert await stops_itself(stage, crash_exact) < SOON_S

    async def test_ends_well_after_term(self, stage: Stage, crash_exact: bool) -> None:
        text = "trap 'echo cleaned; exit 0' TERM; while :; do sleep 0.05; done"
        outcome = await stage.run(shell(text), limit=300, crash_exact=crash_exact)
        assert timed_out(outcome)
        assert "cleaned\n" in outcome.output


class TestBackground:
    @both_ways
    async def test_p4_a_grandchild_on_stdout_is_swept(self, stage: Stage, crash_exact: bool) -> None:
        assert await leaves_a_grandchild_on_stdout(stage, crash_exact) < SOON_S

    @both_ways
    async def test_p5_an_escapee_on_stdout_is_told_and_killed(self, stage: Stage, crash_exact: bool) -> None:
        assert await lets_one_escape(stage, crash_exact) < SOON_S

    async def test_outlive_leaves_them_alone(self, stage: Stage) -> None:
        text = "sleep 60 >/dev/null 2>&1 & echo $!"
        outcome = await stage.run(shell(text, outlive=True))
        assert (outcome.status, outcome.flags) == (Status.OK, ())
        os.kill(int(outcome.output), 0)
        os.kill(int(outcome.output), signal.SIGKILL)

    async def test_outlive_with_our_pipe(self, stage: Stage) -> None:
        outcome = await stage.run(shell("sleep 60 & echo $!", outlive=True))
        assert (outcome.status, outcome.flags) == (Status.OK, ("left_background",))
        os.kill(int(outcome.output), signal.SIGKILL)


class TestOutput:
    @both_ways
    async def test_p6_a_flood_is_cut_counted_and_costs_no_memory(self, stage: Stage, crash_exact: bool) -> None:
        size = 32 << 20
        text = f"echo first; head -c {size} /dev/zero; echo; echo '{{\"done\":true}}'"
        before = _resident()
        outcome = await stage.run(shell(text), crash_exact=crash_exact)
        assert (outcome.status, outcome.flags) == (Status.OK, ("truncated",))
        assert outcome.output_bytes == size + 6 + 1 + 14
        assert outcome.output.startswith("first\n")
        assert f" of {outcome.output_bytes} bytes left out ..." in outcome.output
        assert outcome.result == {"done": True}
        assert len(outcome.output) < 70_000
        assert _resident() - before < 4 << 20
        if not crash_exact:
            assert size / stage.took < THROTTLE

    async def test_p6_a_flood_does_not_fill_the_disk(self, stage: Stage) -> None:
        flood = "for i in 1 2 3 4 5 6 7 8; do head -c 16777216 /dev/zero; sleep 0.1; done"
        text = f"{flood}; echo; echo '{{\"n\":1}}'; sleep 60"
        job = job_of(shell(text), crash_exact=True)
        run = stage.start(job)
        task = asyncio.ensure_future(stage.executor.run(job, run))
        out = stage.directory / "runs" / f"{run.id}.out"
        await eventually_async(lambda: out.exists() and b'"n"' in _tail(out), 30)
        await eventually_async(lambda: out.stat().st_blocks * 512 < 4 << 20)
        stage.executor.hurry()
        outcome = await task
        assert outcome.code == "cancelled"
        assert outcome.result == {"n": 1}

    async def test_p6_giving_disk_back_never_holds_the_loop_up(self, tmp_path: Path) -> None:
        """The kernel takes its time to free a second's flood: that is spent in a thread, which then ends."""
        seen: list[threading.Thread] = []

        def punch(fd: int, offset: int, length: int) -> bool:
            seen.append(threading.current_thread())
            return punch_hole(fd, offset, length)

        async with on_stage(tmp_path, punch=punch) as stage:
            outcome = await stage.run(shell("head -c 33554432 /dev/zero"), crash_exact=True)
            assert outcome.output_bytes == 33554432
            await eventually_async(lambda: seen and not any(thread.is_alive() for thread in seen))
        assert threading.main_thread() not in seen

    @pytest.mark.parametrize("after", ["", "until [ $(stat -Lc %s /proc/$$/fd/1) -lt 1000000 ]; do sleep 0.01; done;"])
    async def test_p6_without_holes_the_file_is_cut(self, tmp_path: Path, after: str) -> None:
        """What is written in the very instant of a cut is not counted; head and tail are kept whenever it comes."""
        text = f"echo first; head -c 8388608 /dev/zero; echo; echo '{{\"n\":1}}'; {after} :"
        async with on_stage(tmp_path, punch=lambda fd, offset, length: False) as stage:
            outcome = await stage.run(shell(text), crash_exact=True)
        assert outcome.output.startswith("first\n")
        assert 1_000_000 < outcome.output_bytes <= 8388608 + 6 + 1 + 8
        assert (outcome.flags, outcome.result) == (("truncated",), {"n": 1})

    @both_ways
    @pytest.mark.parametrize(("argv", "size", "shown"), LINES.values(), ids=LINES.keys())
    async def test_p7_whatever_bytes_come_are_kept_as_text(
        self, stage: Stage, argv: tuple[str, ...], size: int, shown: str, crash_exact: bool
    ) -> None:
        outcome = await stage.run(Command(argv), crash_exact=crash_exact)
        assert (outcome.status, outcome.output_bytes) == (Status.OK, size)
        assert len(outcome.output.encode()) < 300_000
        assert shown in outcome.output
        assert outcome.flags == (("truncated",) if size > KEPT else ())

    @both_ways
    async def test_p10_stdin_is_at_its_end(self, stage: Stage, crash_exact: bool) -> None:
        assert await reads_stdin(stage, crash_exact) < SOON_S

    async def test_closing_its_output_early_is_no_end(self, stage: Stage) -> None:
        outcome = await stage.run(shell("exec >&- 2>&-; sleep 0.2; exit 5"))
        assert outcome.exit_code == 5

    async def test_slow_output_is_read_while_it_runs(self, stage: Stage) -> None:
        text = "for i in 1 2 3 4; do head -c 60000 /dev/zero; sleep 0.02; done; echo '{\"n\":1}'"
        outcome = await stage.run(shell(text), limit=5_000)
        assert (outcome.status, outcome.output_bytes) == (Status.OK, 240_008)


class TestMany:
    @both_ways
    async def test_p14_two_hundred_at_once_without_a_thread(self, stage: Stage, crash_exact: bool) -> None:
        assert await many_at_once(stage, crash_exact, 200, seconds=0.5) < SOON_S

    async def test_hundreds_in_a_row_leave_nothing(self, stage: Stage) -> None:
        for _ in range(200):
            assert (await stage.run(Command(("/bin/true",)))).status is Status.OK
        assert not list((stage.directory / "runs").glob(f"{stage.mark}*"))


@both_ways
class TestStop:
    async def test_hurry_ends_them_and_says_so(self, stage: Stage, crash_exact: bool) -> None:
        command = shell("touch up; exec sleep 60", cwd=str(stage.directory))
        task = asyncio.ensure_future(stage.run(command, crash_exact=crash_exact))
        await eventually_async((stage.directory / "up").exists)
        stage.executor.hurry()
        stage.executor.hurry()
        outcome = await task
        assert (outcome.status, outcome.code) == (Status.FAILED, "cancelled")
        assert outcome.message.startswith("stopped by the scheduler")

    async def test_hurry_kills_after_the_grace(self, stage: Stage, crash_exact: bool) -> None:
        text = 'trap "" TERM; touch up; while :; do sleep 60; done'
        command = shell(text, cwd=str(stage.directory))
        task = asyncio.ensure_future(stage.run(command, crash_exact=crash_exact))
        await eventually_async((stage.directory / "up").exists)
        begun = time.monotonic()
        stage.executor.hurry()
        assert "killed" in (await task).flags
        assert 0.5 <= time.monotonic() - begun < SOON_S

    async def test_what_succeeds_in_its_grace_has_succeeded(self, stage: Stage, crash_exact: bool) -> None:
        text = "trap 'exit 0' TERM; touch up; while :; do sleep 0.05; done"
        command = shell(text, cwd=str(stage.directory))
        task = asyncio.ensure_future(stage.run(command, crash_exact=crash_exact))
        await eventually_async((stage.directory / "up").exists)
        stage.executor.hurry()
        assert (await task).status is Status.OK

    async def test_cancelling_kills_the_group(self, stage: Stage, crash_exact: bool) -> None:
        text = 'trap "" TERM; touch up; sleep 60 & sleep 60'
        command = shell(text, cwd=str(stage.directory))
        task = asyncio.ensure_future(stage.run(command, crash_exact=crash_exact))
        await eventually_async((stage.directory / "up").exists)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually_async(lambda: not alive(stage.mark))
        assert not _zombies()

    async def test_cancelling_twice_is_enough(self, stage: Stage, crash_exact: bool) -> None:
        task = asyncio.ensure_future(stage.run(shell("sleep 60"), crash_exact=crash_exact))
        await eventually_async(lambda: alive(stage.mark))
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually_async(lambda: not _zombies())


class TestProcessOne:
    def test_g5_orphans_are_reaped_and_others_children_are_not(self, tmp_path: Path) -> None:
        code = """
import asyncio, ctypes, os, subprocess, sys, time
from pathlib import Path
from tests.integration.children.stage import executor, job_of, shell
from tests.support.builders import NOON, run_of
from vmsh_scheduler.clock import SystemClock
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # orphans come to us, as they do to pid 1
async def main():
    host = executor(Path(sys.argv[1]), SystemClock()); host.prepare(1)
    other = subprocess.Popen(['/bin/sh', '-c', 'exit 7'])
    job = job_of(shell('for i in 1 2 3 4 5; do setsid sleep 0.2 >/dev/null 2>&1 & done; sleep 0.1'))
    outcome = await host.run(job, run_of(job, NOON))
    assert outcome.status.value == 'ok', outcome
    late = asyncio.ensure_future(host.run(job_of(shell('sleep 0.4; exit 9')), run_of(job, NOON)))
    reaped, deadline = 0, time.monotonic() + 60
    while reaped < 5:
        assert time.monotonic() < deadline, reaped
        reaped += host.reap_orphans()
        await asyncio.sleep(0.01)
    outcome = await late
    assert outcome.exit_code == 9, outcome
    assert other.wait() == 7
    print(reaped)
asyncio.run(main())
"""
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.stdout.strip(), done.returncode) == ("5", 0), done.stderr


def test_closed_standard_descriptors_are_filled(tmp_path: Path) -> None:
    code = """
import asyncio, os, sys
from pathlib import Path
from tests.integration.children.stage import executor, job_of, shell
from tests.support.builders import NOON, run_of
from vmsh_scheduler.clock import SystemClock
os.close(0); os.close(1)
host = executor(Path(sys.argv[1]), SystemClock()); host.prepare(1)
job = job_of(shell('cat; exit 3'))
outcome = asyncio.run(host.run(job, run_of(job, 1)))
sys.stderr.write(f"{outcome.exit_code} {outcome.result['job']}")
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == "3 ns/fast"


def _resident() -> int:
    """Bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 100))
        return file.read()


def _zombies() -> list[str]:
    found = []
    for path in Path("/proc/self/task").glob("*/children"):
        for pid in path.read_text().split():
            status = Path(f"/proc/{pid}/stat")
            if status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z":
                found.append(pid)
    return found
