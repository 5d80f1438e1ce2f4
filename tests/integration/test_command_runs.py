"""What a command gets, and what comes back from it."""

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.children.stage import ENVIRON, Stage, alive, eventually_async, job_of, on_stage, script, shell
from tests.support.builders import NOON
from vmsh_scheduler.domain.action import Callback, Command, ErrorRule, Limits
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.run import Cause, Found, Status
from vmsh_scheduler.errors import CannotCreate, Unavailable
from vmsh_scheduler.executors import records
from vmsh_scheduler.executors.environment import rfc3339


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with on_stage(tmp_path) as ready:
        yield ready


both_ways = pytest.mark.parametrize("crash_exact", [False, True], ids=["piped", "recorded"])


def _own(name: str) -> str:
    return Path("/proc/self", name).read_text()


FOUND = Found("b1", "sha256:00", "x", {"file": "/b/b1.json", "count": 3})


class TestInput:
    @both_ways
    async def test_stdin_is_the_payload_and_the_facts_of_the_run(self, stage: Stage, crash_exact: bool) -> None:
        job = job_of(shell("cat", payload={"target": "local:t", "attempt": "mine"}), crash_exact=crash_exact)
        run = stage.start(
            job, attempt=2, cause=Cause.RETRY, previous="failed", fence=7, found=FOUND, started_at=1, deadline=NOON + 1
        )
        outcome = await stage.executor.run(job, run)
        assert outcome.result == {
            "target": "local:t",
            "job": "ns/fast",
            "run_id": run.id,
            "idempotency_key": f"ns/fast/{NOON}",
            "slot": "2026-11-21T12:00:00.000Z",
            "slot_ms": NOON,
            "attempt": 2,
            "cause": "retry",
            "fence": 7,
            "deadline": "2026-11-21T12:00:00.001Z",
            "previous_outcome": "failed",
            "batch": {"id": "b1", "root": "sha256:00", "file": "/b/b1.json", "count": 3},
        }

    async def test_stdin_is_one_line_of_ascii(self, stage: Stage) -> None:
        outcome = await stage.run(shell("cat", payload={"x": "\u00fc\n"}))
        assert outcome.output.isascii()
        assert outcome.output.count("\n") == 1
        assert outcome.result["x"] == "\u00fc\n"

    @both_ways
    @pytest.mark.parametrize("size", [0, 4_000, 5_000, 70_000, 2_000_000])
    async def test_stdin_of_any_size_ends(self, stage: Stage, size: int, crash_exact: bool) -> None:
        outcome = await stage.run(shell("wc -c", payload={"x": "y" * size}), crash_exact=crash_exact)
        assert size < int(outcome.output) < size + 1_000

    @both_ways
    async def test_stdin_that_nobody_reads_holds_nothing_up(self, stage: Stage, crash_exact: bool) -> None:
        outcome = await stage.run(shell(":", payload={"x": "y" * 1_000_000}), crash_exact=crash_exact)
        assert (outcome.status, stage.took < 2) == (Status.OK, True)

    @both_ways
    async def test_environment_is_the_allow_list_and_the_run(self, stage: Stage, crash_exact: bool) -> None:
        command = Command(
            ("env", "-0"),
            env={"MINE": "1", "VMSH_SLOT": "forged", "VMSH_POLICY_OID": "1.2"},
            pass_env=("CANARY_TOKEN", "ABSENT"),
        )
        job = job_of(command, crash_exact=crash_exact)
        run = stage.start(job, found=FOUND, previous="unknown", fence=9)
        outcome = await stage.executor.run(job, run)
        pairs = dict(item.split("=", 1) for item in outcome.output.split("\0") if item)
        pairs.pop("PWD", None)  # dash exports it
        assert pairs == {
            **ENVIRON,
            "MINE": "1",
            "VMSH_NAMESPACE": "ns",
            "VMSH_CADENCE": "fast",
            "VMSH_TARGET": "local:t",
            "VMSH_POLICY_OID": "1.2",
            "VMSH_BATCH_ID": "b1",
            "VMSH_BATCH_ROOT": "sha256:00",
            "VMSH_BATCH_FILE": "/b/b1.json",
            "VMSH_RUN_ID": run.id,
            "VMSH_IDEMPOTENCY_KEY": run.key,
            "VMSH_SLOT": "2026-11-21T12:00:00.000Z",
            "VMSH_ATTEMPT": "1",
            "VMSH_FENCE_TOKEN": "9",
            "VMSH_DEADLINE": rfc3339(run.deadline),
            "VMSH_PREVIOUS_OUTCOME": "unknown",
        }

    @both_ways
    async def test_p12_nothing_else_of_the_environment(self, stage: Stage, crash_exact: bool) -> None:
        outcome = await stage.run(Command(("env",)), crash_exact=crash_exact)
        assert "canary" not in outcome.output.lower()

    @both_ways
    async def test_p13_three_descriptors(self, stage: Stage, crash_exact: bool) -> None:
        inherited = os.open(os.devnull, os.O_RDONLY)
        os.set_inheritable(inherited, True)
        try:
            stage.executor.prepare(1)
            outcome = await stage.run(
                Command((sys.executable, "-c", "import os; print(os.listdir('/proc/self/fd'))")),
                crash_exact=crash_exact,
            )
        finally:
            os.close(inherited)
        # The fourth is the listing itself.
        assert outcome.output.strip() == "['0', '1', '2', '3']"

    @both_ways
    async def test_signals_are_as_a_command_expects_them(self, stage: Stage, crash_exact: bool) -> None:
        outcome = await stage.run(Command(("grep", "^Sig[BI]", "/proc/self/status")), crash_exact=crash_exact)
        masks = [int(line.split()[1], 16) for line in outcome.output.splitlines()]
        assert [mask & 0x7FFFFFFF for mask in masks] == [0, 0]  # 32 and 33 are the C library's own

    @both_ways
    async def test_a_session_of_its_own(self, stage: Stage, crash_exact: bool) -> None:
        outcome = await stage.run(shell("cut -d' ' -f6 /proc/self/stat"), crash_exact=crash_exact)
        assert int(outcome.output) != os.getsid(0)

    def test_an_instant_outside_of_the_calendar(self) -> None:
        assert rfc3339(10**18) == str(10**18)

    async def test_p11_dies_before_the_daemon_when_memory_runs_out(self, stage: Stage) -> None:
        before = _own("oom_score_adj")
        outcome = await stage.run(shell("cat /proc/self/oom_score_adj"))
        assert int(outcome.output) == max(500, int(before))
        assert _own("oom_score_adj") == before


class TestSettings:
    @both_ways
    async def test_directory_umask_and_limits(self, stage: Stage, crash_exact: bool, tmp_path: Path) -> None:
        place = tmp_path / "a $(touch x) 'b"
        place.mkdir()
        limits = Limits(cpu_seconds=20, file_size=1 << 20, open_files=64, processes=5000)
        command = shell("pwd; umask; ulimit -t; ulimit -f; ulimit -n; ulimit -p", cwd=str(place), umask=0o027)
        outcome = await stage.run(replace(command, limits=limits), crash_exact=crash_exact)
        assert outcome.output.splitlines() == [str(place), "0027", "20", "2048", "64", "5000"]
        assert not (place / "x").exists()

    async def test_our_own_directory_needs_no_shim(self, stage: Stage) -> None:
        outcome = await stage.run(shell("cat /proc/$PPID/comm; pwd", cwd=str(Path.cwd())))
        assert outcome.output.splitlines()[1] == str(Path.cwd())
        assert outcome.output.splitlines()[0] == _own("comm").strip()

    @both_ways
    @pytest.mark.parametrize(
        ("hog", "limits", "died"),
        [
            ("import mmap; mmap.mmap(-1, 1 << 30)", Limits(address_space=256 << 20), "Cannot allocate memory"),
            ("open('big', 'wb').truncate(1 << 20)", Limits(file_size=1 << 16), "SIGXFSZ"),
            ("[open('/dev/null') for _ in range(100)]", Limits(open_files=64), "Too many open files"),
        ],
        ids=["memory", "disk", "descriptors"],
    )
    async def test_p11_a_hog_dies_of_its_limit(
        self, stage: Stage, crash_exact: bool, hog: str, limits: Limits, died: str
    ) -> None:
        text = f"import signal; signal.signal(signal.SIGXFSZ, signal.SIG_DFL); {hog}"
        command = Command((sys.executable, "-c", text), cwd=str(stage.directory))
        assert (await stage.run(command, crash_exact=crash_exact)).status is Status.OK
        outcome = await stage.run(replace(command, limits=limits), crash_exact=crash_exact)
        assert outcome.status is Status.FAILED
        assert died in outcome.message

    @both_ways
    async def test_p11_a_swarm_is_killed_to_the_last(self, stage: Stage, crash_exact: bool) -> None:
        """Every process makes two more, five times."""
        text = '[ $1 -eq 0 ] || { sh "$0" $(($1 - 1)) & sh "$0" $(($1 - 1)) & }; wait; sleep 60'
        bomb = Command(("sh", script(stage.directory / "bomb", text), "5"), cwd=str(stage.directory), grace=500)
        outcome = await stage.run(bomb, limit=1_000, crash_exact=crash_exact)
        assert outcome.code == "timeout"
        await eventually_async(lambda: not alive(stage.mark))

    @both_ways
    async def test_arguments_are_never_interpreted(self, stage: Stage, crash_exact: bool) -> None:
        evil = ("$(id)", "`id`", "a b", "*", "-n", "'", '"', "\n", "")
        code = "import json, sys; print(json.dumps({'argv': sys.argv[1:]}))"
        outcome = await stage.run(Command((sys.executable, "-c", code, *evil), cwd="/"), crash_exact=crash_exact)
        assert outcome.result == {"argv": list(evil)}

    async def test_a_limit_above_the_hard_limit_is_refused(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)  # root may raise limits
        outcome = await stage.run(shell(":", limits=Limits(open_files=1 << 40)))
        assert outcome.code == "spawn_error"


class TestResult:
    async def test_the_last_line_that_is_an_object(self, stage: Stage) -> None:
        outcome = await stage.run(shell("""echo '{"a":1}'; echo '[2]'; echo '{"b":'; echo '{"c":NaN}'; echo bye"""))
        assert outcome.result == {"a": 1}

    @pytest.mark.parametrize("line", ['{"a":"\\ud800"}', '{"a":%s}' % ("[" * 30_000), "{}x", ""])
    async def test_what_is_no_result(self, stage: Stage, line: str) -> None:
        outcome = await stage.run(Command(("cat",)))
        assert outcome.result["job"] == "ns/fast"
        outcome = await stage.run(Command(("printf", "%s\n", line)))
        assert (outcome.status, outcome.result) == (Status.OK, {})

    async def test_a_result_in_front_of_a_cut_is_whole(self, stage: Stage) -> None:
        outcome = await stage.run(
            shell("""head -c 300000 /dev/zero | tr '\\0' 'a'; echo '{"cut":1}'; echo '{"a":1}'""")
        )
        assert outcome.result == {"a": 1}
        outcome = await stage.run(shell("""head -c 300000 /dev/zero | tr '\\0' 'a'; echo '{"cut":1}'"""))
        assert outcome.result == {}

    @both_ways
    async def test_both_streams_and_the_last_words(self, stage: Stage, crash_exact: bool) -> None:
        outcome = await stage.run(shell("echo out; echo ECONNREFUSED >&2; exit 3"), crash_exact=crash_exact)
        assert (outcome.status, outcome.code, outcome.exit_code) == (Status.FAILED, "exit", 3)
        assert outcome.output == "--- stdout\nout\n--- stderr\nECONNREFUSED\n"
        assert outcome.output_bytes == 17
        assert outcome.message == "exit 3: ECONNREFUSED"
        assert outcome.error is ErrorClass.NETWORK

    async def test_rules_of_the_job(self, stage: Stage) -> None:
        outcome = await stage.run(shell("exit 3", rules=(ErrorRule(ErrorClass.AUTH, exit_code=3),)))
        assert outcome.error is ErrorClass.AUTH

    async def test_a_long_last_line_is_cut(self, stage: Stage) -> None:
        outcome = await stage.run(shell("head -c 5000 /dev/zero | tr '\\0' x; exit 1"))
        assert len(outcome.message) < 220
        assert outcome.message.endswith("x...")

    async def test_secrets_are_masked_everywhere(self, tmp_path: Path) -> None:
        async with on_stage(tmp_path, mask=lambda text: text.replace("s3cret", "***")) as stage:
            outcome = await stage.run(shell("""echo '{"key":"s3cret"}'; echo s3cret >&2; exit 1"""))
        assert "s3cret" not in repr(outcome)
        assert outcome.result == {"key": "***"}


class TestEnds:
    @both_ways
    @pytest.mark.parametrize(
        ("end", "code", "message"),
        [
            ("exit 127", "exit", "exit 127"),
            ("exit 126", "exit", "exit 126"),
            ("exit 124", "exit", "exit 124"),
            ("exit 0", "exit", ""),
        ],
    )
    async def test_p8_exit_codes(self, stage: Stage, end: str, code: str, message: str, crash_exact: bool) -> None:
        outcome = await stage.run(shell(end), crash_exact=crash_exact)
        assert (outcome.code, outcome.message, outcome.exit_code) == (code, message, int(end.split()[1]))

    async def test_p8_137_and_signal_9_differ_when_run_directly(self, stage: Stage) -> None:
        outcome = await stage.run(shell("exit 137"))
        assert (outcome.code, outcome.message, outcome.exit_code) == ("exit", "exit 137", 137)
        outcome = await stage.run(shell("kill -9 $$"))
        assert (outcome.code, outcome.message, outcome.exit_code) == ("signal", "signal 9 (SIGKILL)", None)

    @pytest.mark.parametrize("end", ["exit 137", "kill -9 $$"])
    async def test_p8_through_the_record_nobody_can_tell(self, stage: Stage, end: str) -> None:
        outcome = await stage.run(shell(end), crash_exact=True)
        assert outcome.exit_code == 137
        assert outcome.message.startswith("137 (exit or SIGKILL/OOM)")

    async def test_a_real_time_signal_has_no_name(self, stage: Stage) -> None:
        outcome = await stage.run(shell("kill -40 $$"))
        assert outcome.message == "signal 40"

    async def test_only_commands(self, stage: Stage) -> None:
        job = replace(job_of(shell(":")), action=Callback("http://x"))
        with pytest.raises(TypeError, match="Callback"):
            await stage.executor.run(job, stage.start(job))


class TestProbe:
    @pytest.mark.parametrize(
        ("text", "answer"), [("exit 0", True), ("exit 1", False), ("exit 2", None), ("kill $$", None)]
    )
    async def test_answers(self, stage: Stage, text: str, answer: bool | None) -> None:
        job = job_of(shell(":", probe=("/bin/sh", "-c", text)))
        assert await stage.executor.probe(job, stage.start(job)) is answer

    async def test_none_when_there_is_none_or_it_cannot_start(self, stage: Stage) -> None:
        for probe in ((), ("/nonexistent",)):
            job = job_of(shell(":", probe=probe))
            assert await stage.executor.probe(job, stage.start(job)) is None

    async def test_a_probe_that_hangs_is_stopped(self, stage: Stage) -> None:
        job = job_of(shell(":", probe=("sleep", "60")), timeout=200)
        assert await stage.executor.probe(job, stage.start(job)) is None

    async def test_sees_the_run(self, stage: Stage) -> None:
        job = job_of(shell(":", probe=("/bin/sh", "-c", 'grep -q "\\"run_id\\":\\"$VMSH_RUN_ID\\""')))
        assert await stage.executor.probe(job, stage.start(job)) is True


class TestResources:
    def test_r3_no_descriptors_left(self, tmp_path: Path) -> None:
        code = """
import asyncio, os, resource, sys
from pathlib import Path
from tests.integration.children.stage import executor, job_of, shell
from tests.support.builders import NOON, run_of
from vmsh_scheduler.clock import SystemClock
async def main():
    host = executor(Path(sys.argv[1]), SystemClock()); host.prepare(1)
    seen = set()
    for exact in (False, True):
        job = job_of(shell(':'), crash_exact=exact)
        base = len(os.listdir('/proc/self/fd')) - 1
        for room in range(12):
            taken = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (base + room, 4096))
            outcome = await host.run(job, run_of(job, NOON))
            seen.add((exact, outcome.status.value, outcome.code))
            resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
            assert len(os.listdir('/proc/self/fd')) - 1 == base, (exact, room)
    print(sorted(seen))
asyncio.run(main())
"""
        found = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert found.returncode == 0, found.stderr
        wanted = [
            (False, "failed", "resources"),
            (False, "ok", "exit"),
            (True, "failed", "resources"),
            (True, "ok", "exit"),
        ]
        assert found.stdout.strip() == str(wanted)

    @pytest.mark.parametrize(
        ("number", "code"),
        [
            (errno.ENOSPC, "resources"),
            (errno.EDQUOT, "resources"),
            (errno.EMFILE, "resources"),
            (errno.EACCES, "spawn_error"),
            (errno.EROFS, "spawn_error"),
            (errno.EIO, "spawn_error"),
        ],
    )
    async def test_a_full_disk_means_later_what_does_not_pass_means_failed(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch, number: int, code: str
    ) -> None:
        def refuse(path: str, content: bytes) -> None:
            raise OSError(number, os.strerror(number), path)

        monkeypatch.setattr(records, "_write_private", refuse)
        outcome = await stage.run(shell(":"), crash_exact=True)
        assert (outcome.code, outcome.status) == (code, Status.FAILED)
        assert os.strerror(number) in outcome.message
        monkeypatch.undo()
        assert (await stage.run(shell(":"), crash_exact=True)).status is Status.OK

    def test_records_are_private(self, stage: Stage) -> None:
        mode = stat.S_IMODE((stage.directory / "runs").stat().st_mode)
        assert mode == 0o700

    async def test_runs_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "runs").touch()
        with pytest.raises(CannotCreate, match="runs"):
            async with on_stage(tmp_path):
                pass

    async def test_a_kernel_without_pidfd_is_refused(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(pid: int) -> int:
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(os, "pidfd_open", missing)
        with pytest.raises(Unavailable, match=r"pidfd_open.*5\.3"):
            stage.executor.prepare(1)

    async def test_sigchld_is_restored(self, stage: Stage) -> None:
        before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        try:
            stage.executor.prepare(1)
            assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
            assert (await stage.run(shell("exit 3"))).exit_code == 3
        finally:
            signal.signal(signal.SIGCHLD, before)
