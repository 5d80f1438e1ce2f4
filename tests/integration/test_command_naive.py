"""The faults of P1-P14 bite: what becomes of supervisors as they are written at first."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.children.faults import FOREVER
from tests.integration.children.stage import alive, eventually
from tests.support.faults import alive as lives

HANGS_S = 0.3


@pytest.fixture
def started(tmp_path: Path) -> Iterator["list[subprocess.Popen[bytes]]"]:
    """Killed afterwards with everything they started: all carry the test's directory in their environment."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _carries(entry, str(tmp_path)):
            os.kill(int(entry.name), signal.SIGKILL)
    for process in processes:
        with process:
            process.kill()


def _carries(process: Path, mark: str) -> bool:
    try:
        return f"NAIVE={mark}".encode() in (process / "environ").read_bytes()
    except OSError:
        return False


class Naive:
    """Popen, its own pipe, everything inherited."""

    def __init__(self, started: "list[subprocess.Popen[bytes]]", mark: Path) -> None:
        self._started = started
        self._env = {**os.environ, "NAIVE": str(mark)}

    def start(self, *argv: str, **options: Any) -> "subprocess.Popen[bytes]":
        options = {"stdout": subprocess.PIPE, "env": self._env, **options}
        self._started.append(subprocess.Popen(argv, **options))
        return self._started[-1]

    def shell(self, text: str, **options: Any) -> "subprocess.Popen[bytes]":
        return self.start("/bin/sh", "-c", text, **options)


@pytest.fixture
def naive(started: "list[subprocess.Popen[bytes]]", tmp_path: Path) -> Naive:
    return Naive(started, tmp_path)


def still_waits(process: "subprocess.Popen[bytes]") -> bool:
    try:
        process.communicate(timeout=HANGS_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def test_p1_bites_who_has_no_deadline(naive: Naive) -> None:
    assert still_waits(naive.shell(f"exec {FOREVER}"))


def test_p2_bites_who_asks_politely_and_who_kills_the_leader_only(naive: Naive) -> None:
    process = naive.shell(f'trap "" TERM; {FOREVER} & echo $!; wait')
    assert process.stdout is not None
    grandchild = int(process.stdout.readline())
    process.terminate()
    assert still_waits(process)
    process.kill()
    process.wait()
    assert lives(grandchild)


def test_p3_bites_who_asks_politely(naive: Naive) -> None:
    process = naive.shell("kill -STOP $$")
    os.waitpid(process.pid, os.WUNTRACED)
    process.terminate()
    assert still_waits(process)


def test_p4_bites_who_reads_to_the_end(naive: Naive) -> None:
    process = naive.shell(f"{FOREVER} & exit 0")
    assert process.wait() == 0
    assert still_waits(process)


def test_p5_bites_who_trusts_the_group(naive: Naive) -> None:
    process = naive.shell(f'setsid sh -c "echo \\$\\$; exec {FOREVER}" &', start_new_session=True)
    assert process.stdout is not None
    escapee = int(process.stdout.readline())
    os.killpg(process.pid, signal.SIGKILL)
    assert lives(escapee)


def test_p6_bites_who_keeps_it_all(naive: Naive) -> None:
    output, _ = naive.start("head", "-c", "8000000", "/dev/zero").communicate()
    assert len(output) == 8_000_000


async def test_p7_bites_who_reads_lines_and_who_decodes_strictly() -> None:
    process = await asyncio.create_subprocess_exec("head", "-c", "80000", "/dev/zero", stdout=subprocess.PIPE)
    assert process.stdout is not None
    with pytest.raises(ValueError, match="limit"):
        await process.stdout.readline()
    await process.communicate()
    with pytest.raises(UnicodeDecodeError):
        await asyncio.to_thread(subprocess.run, ["printf", "a\\377"], capture_output=True, text=True, check=True)


def test_p8_bites_who_has_a_shell_between(naive: Naive) -> None:
    codes = [naive.shell(f"sh -c '{end}'; exit $?").wait() for end in ("exit 137", "kill -9 $$")]
    assert codes == [137, 137]


def test_p9_bites_who_passes_the_error_on(tmp_path: Path) -> None:
    """Nothing but a look at `filename` tells a missing directory from a missing command."""
    for argv, cwd in ((["/no/such-command"], None), (["true"], tmp_path / "gone")):
        with pytest.raises(FileNotFoundError):
            subprocess.run(argv, cwd=cwd, check=False)
    with pytest.raises(ValueError, match="null"):
        subprocess.run(["true", "a\0b"], check=False)


def test_p10_bites_who_passes_stdin_on(naive: Naive) -> None:
    reader, writer = os.pipe()
    try:
        assert still_waits(naive.start("cat", stdin=reader))
    finally:
        os.close(reader)
        os.close(writer)


def test_p11_bites_who_sets_no_limit(naive: Naive) -> None:
    assert naive.start(sys.executable, "-c", "import mmap; mmap.mmap(-1, 1 << 30)").wait() == 0


def test_p12_bites_who_passes_the_environment_on(naive: Naive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_TOKEN", "canary-0451")
    output, _ = naive.start("env", env=None).communicate()
    assert b"canary-0451" in output


def test_p13_bites_who_passes_descriptors_on(naive: Naive) -> None:
    fd = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(fd, True)
    try:
        output, _ = naive.start("ls", "/proc/self/fd", close_fds=False).communicate()
    finally:
        os.close(fd)
    assert str(fd).encode() in output.split()


async def test_p14_bites_who_waits_in_threads(naive: Naive) -> None:
    threads = threading.active_count()
    sleepers = [naive.start("sleep", "0.5") for _ in range(4)]
    waits = [asyncio.create_task(asyncio.to_thread(sleeper.wait)) for sleeper in sleepers]
    await asyncio.sleep(0)
    assert threading.active_count() - threads > 1
    await asyncio.gather(*waits)


def test_what_is_left_of_them_can_be_seen(naive: Naive, tmp_path: Path) -> None:
    """The stage's own look finds survivors: else its verdict would mean nothing."""
    naive.shell(f"exec {FOREVER}")
    eventually(lambda: alive(f"NAIVE={tmp_path}"))
