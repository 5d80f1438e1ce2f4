"""What is left of a run whose daemon was killed (G4, decisions 9 and 10).

A `host` process plays the daemon that dies; the executor on stage is the one that comes after it."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.integration.children.stage import BOOT, Stage, alive, eventually, eventually_async, job_of, on_stage, shell
from tests.support.daemon import UNMEASURED
from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.run import Recovery, Run, Status, Trace
from vmsh_scheduler.domain.trigger import DAY, HOUR

ROOT = Path(__file__).parents[2]
KILLED = {**os.environ, **UNMEASURED}


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with on_stage(tmp_path) as ready:
        yield ready


@dataclass
class Host:
    """The daemon that dies, and the one run it has started."""

    process: subprocess.Popen[str]
    job: Job
    run: Run
    record: Path

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def file(self, suffix: str) -> Path:
        return self.record.with_name(self.record.name + suffix)

    def said(self, text: bytes) -> bool:
        return self.file(".out").exists() and text in self.file(".out").read_bytes()

    def shim(self) -> int:
        return int(self.record.read_text().split()[1])


def text_of(job: Job) -> str:
    """What the shell is given."""
    assert isinstance(job.action, Command)
    return job.action.argv[2]


@contextlib.contextmanager
def host(stage: Stage, text: str, *, limit: int = 20_000, ready: bytes = b"up") -> Iterator[Host]:
    """Up and running: the command has said `ready`."""
    job = job_of(shell(f"cd '{stage.directory}'; {text}"), timeout=limit, crash_exact=True)
    run = stage.start(job)
    command = text_of(job)
    module = "tests.integration.children.host"
    argv = [sys.executable, "-m", module, str(stage.directory), run.id, str(run.started_at), command]
    process = subprocess.Popen(argv, cwd=ROOT, env=KILLED, stdout=subprocess.PIPE, text=True)
    dying = Host(process, job, run, stage.directory / "runs" / run.id)
    try:
        eventually(lambda: dying.said(ready), 30)
        yield dying
    finally:
        process.kill()
        process.communicate()


class TestAdopted:
    async def test_g4_a_living_run_is_adopted_and_its_result_found(self, stage: Stage) -> None:
        os.mkfifo(stage.directory / "go")
        with host(stage, "cat; echo up; read x < go; echo '{\"n\":1}'; echo err >&2") as dead:
            dead.kill()
            assert await stage.executor.recover(dead.job, dead.run) == Recovery(Trace.RUNNING)
            adopted = asyncio.ensure_future(stage.executor.adopt(dead.job, dead.run))
            await asyncio.sleep(0)
            (stage.directory / "go").write_text("x")
            outcome = await adopted
        assert (outcome.status, outcome.flags, outcome.result) == (Status.OK, ("adopted",), {"n": 1})
        assert f'"run_id":"{dead.run.id}"' in outcome.output
        assert outcome.output.endswith("--- stderr\nerr\n")

    async def test_g4_a_failure_is_classified(self, stage: Stage) -> None:
        os.mkfifo(stage.directory / "go")
        with host(stage, "echo up; read x < go; echo ECONNREFUSED >&2; exit 4") as dead:
            dead.kill()
            adopted = asyncio.ensure_future(stage.executor.adopt(dead.job, dead.run))
            await asyncio.sleep(0)
            (stage.directory / "go").write_text("x")
            outcome = await adopted
        assert (outcome.status, outcome.exit_code, outcome.message) == (Status.FAILED, 4, "exit 4: ECONNREFUSED")
        assert outcome.error is not None
        assert outcome.error.value == "network"

    async def test_g4_its_deadline_still_holds(self, stage: Stage) -> None:
        with host(stage, 'trap "" TERM; sleep 60 & echo up; sleep 60', limit=1_500) as dead:
            dead.kill()
            run = replace(dead.run, deadline=stage.clock.now() + 300)
            begun = time.monotonic()
            outcome = await stage.executor.adopt(dead.job, run)
            took = time.monotonic() - begun
        assert (outcome.status, outcome.code) == (Status.FAILED, "timeout")
        assert set(outcome.flags) == {"adopted", "killed"}
        assert 0.8 <= took < 2
        await eventually_async(lambda: not alive(dead.run.id))

    async def test_g4_a_deadline_that_has_passed_ends_it_at_once(self, stage: Stage) -> None:
        with host(stage, "echo up; exec sleep 60") as dead:
            dead.kill()
            outcome = await stage.executor.adopt(dead.job, replace(dead.run, deadline=1))
        assert (outcome.code, outcome.exit_code) == ("timeout", 143)

    @pytest.mark.parametrize("by", [-120_000, 3_600_000], ids=["forward", "back"])
    async def test_t1_its_limit_is_that_of_its_process_whatever_the_clock_did(self, stage: Stage, by: int) -> None:
        """Its start was written down by another clock than the one that is read now."""
        os.mkfifo(stage.directory / "go")
        with host(stage, "echo up; read x < go", limit=60_000) as dead:
            dead.kill()
            run = replace(dead.run, started_at=dead.run.started_at + by, deadline=dead.run.deadline + by)
            adopted = asyncio.ensure_future(stage.executor.adopt(dead.job, run))
            await asyncio.sleep(0.05)
            with (stage.directory / "go").open("r+b", buffering=0) as go:  # waits for no reader
                go.write(b"x\n")
                outcome = await adopted
        assert (outcome.status, outcome.code) == (Status.OK, "exit")

    async def test_t1_the_time_before_its_adoption_counts_whatever_the_clock_did(self, stage: Stage) -> None:
        with host(stage, "echo up; exec sleep 60", limit=3_000) as dead:
            dead.kill()
            await asyncio.sleep(2.5)
            run = replace(dead.run, started_at=dead.run.started_at + DAY, deadline=dead.run.deadline + DAY)
            adopted = time.monotonic()
            outcome = await stage.executor.adopt(dead.job, run)
            ended = time.monotonic()
        assert outcome.code == "timeout"
        assert ended - adopted < 3, "not from its adoption on"

    async def test_hurry_ends_it_too(self, stage: Stage) -> None:
        with host(stage, "echo up; exec sleep 60") as dead:
            dead.kill()
            adopted = asyncio.ensure_future(stage.executor.adopt(dead.job, dead.run))
            await asyncio.sleep(0.05)
            stage.executor.hurry()
            outcome = await adopted
        assert outcome.code == "cancelled"

    async def test_a_background_process_is_swept(self, stage: Stage) -> None:
        os.mkfifo(stage.directory / "go")
        with host(stage, "echo up; sleep 60 & read x < go; true") as dead:
            dead.kill()
            adopted = asyncio.ensure_future(stage.executor.adopt(dead.job, dead.run))
            await asyncio.sleep(0)
            (stage.directory / "go").write_text("x")
            assert (await adopted).status is Status.OK
        await eventually_async(lambda: not alive(dead.run.id))

    async def test_g4_a_shim_that_is_killed_leaves_an_unknown(self, stage: Stage) -> None:
        with host(stage, "echo up; exec sleep 60") as dead:
            dead.kill()
            adopted = asyncio.ensure_future(stage.executor.adopt(dead.job, dead.run))
            await asyncio.sleep(0.05)
            os.killpg(dead.shim(), signal.SIGKILL)
            outcome = await adopted
        assert (outcome.status, outcome.code, outcome.flags) == (Status.UNKNOWN, "lost", ("adopted",))
        assert outcome.output == "up\n"

    async def test_g4_what_ended_meanwhile_is_not_waited_for(self, stage: Stage) -> None:
        with host(stage, "echo up") as dead:
            eventually(lambda: len(dead.record.read_text().split()) == 3)
            dead.kill()
            outcome = await stage.executor.adopt(dead.job, dead.run)
        assert (outcome.status, outcome.flags) == (Status.OK, ("adopted",))

    async def test_a_flood_is_trimmed_after_adoption(self, stage: Stage) -> None:
        os.mkfifo(stage.directory / "go")
        text = "echo up; read x < go; head -c 33554432 /dev/zero; sleep 0.5; echo; echo '{\"n\":2}'"
        with host(stage, text) as dead:
            dead.kill()
            adopted = asyncio.ensure_future(stage.executor.adopt(dead.job, dead.run))
            await asyncio.sleep(0)
            (stage.directory / "go").write_text("x")
            outcome = await adopted
            assert dead.file(".out").stat().st_blocks * 512 < 4 << 20
        assert (outcome.result, outcome.output_bytes) == ({"n": 2}, 3 + 33554432 + 1 + 8)

    async def test_cancelling_the_adoption_lets_it_go_on(self, stage: Stage) -> None:
        """Whoever stops waiting (a command line that only changes the state) must not end somebody's anchor."""
        with host(stage, "echo up; sleep 60") as dead:
            dead.kill()
            adopted = asyncio.ensure_future(stage.executor.adopt(dead.job, dead.run))
            await asyncio.sleep(0.05)
            adopted.cancel()
            with pytest.raises(asyncio.CancelledError):
                await adopted
            assert alive(dead.run.id)
            assert (await stage.executor.recover(dead.job, dead.run)).trace is Trace.RUNNING
            outcome = await stage.executor.adopt(dead.job, replace(dead.run, deadline=dead.run.started_at))
        assert outcome.code == "timeout"


class TestRecovered:
    async def test_g4_finished(self, stage: Stage) -> None:
        with host(stage, "echo up; sleep 0.2; echo '{\"n\":3}'; exit 75") as dead:
            dead.kill()
            await eventually_async(lambda: dead.record.read_text().endswith("\n75\n"))
            await eventually_async(lambda: not alive(dead.run.id))
            recovery = await stage.executor.recover(dead.job, dead.run)
        assert recovery.trace is Trace.FINISHED
        assert recovery.outcome is not None
        assert (recovery.outcome.exit_code, recovery.outcome.result) == (75, {"n": 3})
        assert recovery.outcome.flags == ("recovered",)

    async def test_g4_a_killed_shim_is_unknown(self, stage: Stage) -> None:
        with host(stage, "echo up; exec sleep 60") as dead:
            dead.kill()
            os.killpg(dead.shim(), signal.SIGKILL)
            await eventually_async(lambda: not alive(dead.run.id))
            recovery = await stage.executor.recover(dead.job, dead.run)
        assert recovery.trace is Trace.UNKNOWN

    async def test_another_boot_proves_nothing(self, stage: Stage) -> None:
        with host(stage, "echo up") as dead:
            eventually(lambda: len(dead.record.read_text().split()) == 3)
            for boot in ("another", ""):
                recovery = await stage.executor.recover(dead.job, replace(dead.run, boot_id=boot))
                assert recovery.trace is Trace.UNKNOWN
                assert recovery.outcome is not None
                assert "started anew" in recovery.outcome.message

    async def test_never_began_without_a_record(self, tmp_path: Path) -> None:
        async with on_stage(tmp_path) as first:
            job = job_of(shell(":"), crash_exact=True)
            run = first.start(job)
        async with on_stage(tmp_path) as second:
            assert await second.executor.recover(job, run) == Recovery(Trace.NEVER_BEGAN)

    async def test_never_began_with_an_empty_record(self, stage: Stage) -> None:
        job = job_of(shell(":"), crash_exact=True)
        run = stage.start(job)
        (stage.directory / "runs" / run.id).touch()
        assert await stage.executor.recover(job, run) == Recovery(Trace.NEVER_BEGAN)

    @pytest.mark.parametrize("content", ["S", "S 1", "S x\n0\n", "S 1\n0", "S 1\n0\n0\n", "0\n", "\0" * 300])
    async def test_a_torn_record_is_unknown(self, stage: Stage, content: str) -> None:
        job = job_of(shell(":"), crash_exact=True)
        run = stage.start(job)
        (stage.directory / "runs" / run.id).write_text(content)
        assert (await stage.executor.recover(job, run)).trace is Trace.UNKNOWN

    @pytest.mark.parametrize("by", [-HOUR, 0, HOUR], ids=["back", "still", "forward"])
    async def test_t1_never_began_whatever_the_clock_did_meanwhile(self, tmp_path: Path, by: int) -> None:
        """The daemon started, somebody set the clock, the intent was written, the daemon was killed."""
        async with on_stage(tmp_path) as first:
            job = job_of(shell(":"), crash_exact=True)
            run = first.start(job)
        run = replace(run, started_at=run.started_at + by, deadline=run.deadline + by)
        async with on_stage(tmp_path, fence=2) as second:
            assert await second.executor.recover(job, run) == Recovery(Trace.NEVER_BEGAN)

    async def test_an_emptied_directory_proves_nothing(self, tmp_path: Path) -> None:
        async with on_stage(tmp_path) as first:
            job = job_of(shell(":"), crash_exact=True)
            run = first.start(job)
        for path in (tmp_path / "runs").iterdir():
            path.unlink()
        async with on_stage(tmp_path, fence=2) as second:
            recovery = await second.executor.recover(job, run)
            assert recovery.trace is Trace.UNKNOWN
            later = second.start(job)
        async with on_stage(tmp_path, fence=3) as third:
            assert (await third.executor.recover(job, run)).trace is Trace.UNKNOWN
            assert (await third.executor.recover(job, later)).trace is Trace.NEVER_BEGAN

    async def test_a_directory_that_is_removed_is_made_anew_and_proves_nothing_of_before(self, tmp_path: Path) -> None:
        async with on_stage(tmp_path, fence=5) as first:
            job = job_of(shell("echo x"), crash_exact=True)
            before = first.start(job)
            shutil.rmtree(tmp_path / "runs")
            run = first.start(job)
            assert (await first.executor.run(job, run)).status is Status.OK
            first.executor.forget(run)
            assert [path.name for path in (tmp_path / "runs").iterdir()] == [f".begun-{BOOT}"]
            assert (tmp_path / "runs").stat().st_mode & 0o777 == 0o700
            after = first.start(job)
        async with on_stage(tmp_path, fence=6) as second:
            assert (await second.executor.recover(job, before)).trace is Trace.UNKNOWN
            assert (await second.executor.recover(job, after)).trace is Trace.UNKNOWN
            own = second.start(job)
        async with on_stage(tmp_path, fence=7) as third:
            assert (await third.executor.recover(job, own)).trace is Trace.NEVER_BEGAN

    @pytest.mark.parametrize("text", ["1", "fence 1", ""], ids=["a time, of an earlier version", "torn", "empty"])
    async def test_a_marker_that_says_no_whole_fence_proves_nothing(self, tmp_path: Path, text: str) -> None:
        async with on_stage(tmp_path, fence=2) as first:
            job = job_of(shell(":"), crash_exact=True)
            run = first.start(job)
        (tmp_path / "runs" / f".begun-{BOOT}").write_text(text)
        async with on_stage(tmp_path, fence=3) as second:
            assert (await second.executor.recover(job, run)).trace is Trace.UNKNOWN
            own = second.start(job)
        async with on_stage(tmp_path, fence=4) as third:
            assert (await third.executor.recover(job, own)).trace is Trace.NEVER_BEGAN

    async def test_fences_that_begin_anew_with_lost_states_count_anew(self, tmp_path: Path) -> None:
        async with on_stage(tmp_path, fence=90):
            pass
        async with on_stage(tmp_path, fence=1) as anew:
            job = job_of(shell(":"), crash_exact=True)
            run = anew.start(job)
        async with on_stage(tmp_path, fence=2) as second:
            assert await second.executor.recover(job, run) == Recovery(Trace.NEVER_BEGAN)
            assert (await second.executor.recover(job, replace(run, fence=0))).trace is Trace.UNKNOWN

    async def test_g4_without_crash_exact_nothing_is_known(self, stage: Stage) -> None:
        job = job_of(shell(":"))
        recovery = await stage.executor.recover(job, stage.start(job))
        assert recovery.trace is Trace.UNKNOWN
        assert recovery.outcome is not None
        assert "crash_exact is off" in recovery.outcome.message

    async def test_a_planted_link_is_not_followed(self, stage: Stage, tmp_path: Path) -> None:
        victim = tmp_path / "victim"
        victim.write_text("precious")
        job = job_of(shell(":"), crash_exact=True)
        for suffix in ("", ".in", ".out", ".err"):
            run = stage.start(job)
            (tmp_path / "runs" / f"{run.id}{suffix}").symlink_to(victim)
            outcome = await stage.executor.run(job, run)
            assert (outcome.code, "symbolic links" in outcome.message) == ("spawn_error", True)
            if not suffix:
                assert (await stage.executor.recover(job, run)).trace is Trace.UNKNOWN
            if suffix in (".out", ".err"):
                assert (await stage.executor.adopt(job, run)).status is Status.UNKNOWN
        assert victim.read_text() == "precious"

    async def test_g4_a_run_that_is_running_is_not_started_again(self, stage: Stage) -> None:
        with host(stage, "echo up; exec sleep 60") as dead:
            outcome = await stage.executor.run(dead.job, dead.run)
            assert (outcome.code, "running already" in outcome.message) == ("spawn_error", True)
            dead.kill()
            os.killpg(dead.shim(), signal.SIGKILL)


class TestForgotten:
    async def test_forget_leaves_only_the_marker(self, stage: Stage) -> None:
        job = job_of(shell("echo x"), crash_exact=True)
        run = stage.start(job)
        assert (await stage.executor.run(job, run)).status is Status.OK
        names = {path.name for path in (stage.directory / "runs").iterdir()}
        assert names == {f".begun-{BOOT}", run.id, f"{run.id}.in", f"{run.id}.out", f"{run.id}.err"}
        modes = {path.stat().st_mode & 0o777 for path in (stage.directory / "runs").iterdir()}
        assert modes == {0o600}
        stage.executor.forget(run)
        stage.executor.forget(run)
        assert [path.name for path in (stage.directory / "runs").iterdir()] == [f".begun-{BOOT}"]

    async def test_forget_what_an_earlier_daemon_started(self, tmp_path: Path) -> None:
        async with on_stage(tmp_path) as first:
            job = job_of(shell(":"), crash_exact=True)
            run = first.start(job, id="odd/../name")
            await first.executor.run(job, run)
        async with on_stage(tmp_path) as second:
            assert (await second.executor.recover(job, run)).trace is Trace.FINISHED
            second.executor.forget(run)
        assert [path.name for path in (tmp_path / "runs").iterdir()] == [f".begun-{BOOT}"]

    async def test_sweep_takes_old_records_of_no_open_run(self, stage: Stage) -> None:
        job = job_of(shell(":"), crash_exact=True)
        kept, old, young = (stage.start(job) for _ in range(3))
        for run in (kept, old, young):
            await stage.executor.run(job, run)
        for path in (stage.directory / "runs").iterdir():
            if not path.name.startswith(young.id):
                os.utime(path, (1, 1))
        with host(stage, "echo up; exec sleep 60") as dead:
            for path in (stage.directory / "runs").glob(f"{dead.run.id}*"):
                os.utime(path, (1, 1))
            assert stage.executor.sweep([kept.id]) == 4
            assert dead.record.exists()
            dead.kill()
            os.killpg(dead.shim(), signal.SIGKILL)
        names = {path.name for path in (stage.directory / "runs").iterdir()}
        assert {kept.id, young.id, f".begun-{BOOT}"} <= names
        assert old.id not in names


class TestKilledAnywhere:
    async def test_s1_twenty_kills_no_duplicate_and_no_unknown(self, stage: Stage) -> None:
        """The ledger has one line for each run that is found finished or running, none for one that never began."""
        ledger = stage.directory / "ledger"
        found: dict[Trace, int] = {}
        for number in range(20):
            job = job_of(shell(f"echo {number} >> {ledger}; sleep 0.05; echo up"), crash_exact=True)
            run = stage.start(job)
            self._start_and_kill(stage, job, run, number)
            stage.executor.prepare(1)  # the daemon that comes after finds the marker of the one that died
            recovery = await stage.executor.recover(job, run)
            if recovery.trace is Trace.RUNNING:
                assert (await stage.executor.adopt(job, run)).status is Status.OK
            found[recovery.trace] = found.get(recovery.trace, 0) + 1
            lines = ledger.read_text().split().count(str(number)) if ledger.exists() else 0
            assert lines == (0 if recovery.trace is Trace.NEVER_BEGAN else 1), recovery
        assert found.get(Trace.UNKNOWN, 0) == 0
        assert sum(found.values()) == 20
        assert len(found) > 1

    def _start_and_kill(self, stage: Stage, job: Job, run: Run, number: int) -> None:
        module = "tests.integration.children.host"
        argv = [sys.executable, "-m", module, str(stage.directory), run.id, str(run.started_at), text_of(job)]
        process = subprocess.Popen(argv, cwd=ROOT, env=KILLED, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + number * 0.004
        while time.monotonic() < deadline:
            pass
        process.kill()
        process.communicate()
