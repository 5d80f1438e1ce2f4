"""Signals by the thousand; `python -m tests.support.storms KIND` is a program that only waits for them."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tests.support.daemon import Daemon, until
from tests.support.faults import Cadence, Site
from tests.support.ledger import gaps, violations
from vmsh_scheduler.domain.trigger import SECOND
from vmsh_scheduler.signals import Signals

ROOT = Path(__file__).parents[2]
RELOADED = "namespaces config loaded"


@dataclass(frozen=True, slots=True)
class Weathered:
    """What a storm left: did TERM end the program, and what did the storm make it write."""

    ended: bool
    noise: str

    @property
    def well(self) -> bool:
        return self.ended and not self.noise


def weather(kind: str, hups: int, patience: float) -> Weathered:
    """A program that handles signals in this way gets `hups` HUPs and one TERM while its loop does something else.
    Each HUP is waited for: the kernel makes one of those that it has not delivered yet."""
    with tempfile.TemporaryFile() as err:
        argv = [sys.executable, "-m", "tests.support.storms", kind]
        process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(hups):
            process.send_signal(signal.SIGHUP)
            while _pending(process.pid):
                os.sched_yield()
        process.send_signal(signal.SIGTERM)
        process.stdin.close()
        try:
            ended = process.wait(patience) == 0
        except subprocess.TimeoutExpired:
            ended = False
        process.kill()
        process.stdout.close()
        process.wait()
        err.seek(0)
        return Weathered(ended, err.read().decode())


def farewell(kind: str, seconds: float) -> str:
    """What a program has written on stderr, after this time at most, that takes its handlers off in this way, again
    and again, in a storm."""
    argv = [sys.executable, "-m", "tests.support.storms", kind]
    with tempfile.TemporaryFile() as err:
        process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err)
        assert process.stdout is not None
        with process.stdout as out:
            out.readline()
            over = time.monotonic() + seconds
            while time.monotonic() < over and not os.fstat(err.fileno()).st_size:
                process.send_signal(signal.SIGHUP)
        assert process.poll() is None
        process.kill()
        process.wait()
        err.seek(0)
        return err.read().decode()


def storm(daemon: Daemon, hups: int) -> None:
    """`hups` HUPs as fast as they can be sent, and a TERM right behind them."""
    for number in range(hups):
        daemon.signal(signal.SIGHUP)
        if number % 1000 == 0:
            assert daemon.alive, daemon.text()[-2000:]
    daemon.stop()


def reloads(daemon: Daemon) -> int:
    """Since the start, which reads the configuration too."""
    return len(daemon.lines(RELOADED)) - 1


def calm(place: Site, cadence: Cadence) -> None:
    """The storm cost no slot and repeated none."""
    assert violations(place.entries()) == []
    assert gaps(place.books(), {cadence.job: SECOND}) == []


def freeze(place: Site, daemon: Daemon, seconds: float) -> None:
    """SIGSTOP; afterwards each cadence starts the newest slot and none of those that passed."""
    daemon.signal(signal.SIGSTOP)
    began = time.time()
    before = len(place.entries())
    until(lambda: time.time() > began + seconds, "some slots to pass", seconds + 30)
    daemon.signal(signal.SIGCONT)
    jobs = {entry.job for entry in place.entries()}
    daemon.wait_until(lambda: {e.job for e in place.entries()[before:] if e.kind == "start"} == jobs, "runs again")
    starts = [entry for entry in place.entries()[before:] if entry.kind == "start"]
    late = [entry for entry in starts if (began + 1) * SECOND < entry.slot < (began + seconds - 1) * SECOND]
    assert late == [], "slots that passed meanwhile"


def _pending(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return any(line.startswith("ShdPnd:") and int(line.split()[1], 16) for line in status.splitlines())


async def _loop(stop: asyncio.Event) -> None:
    """What asyncio offers."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, int)
    loop.add_signal_handler(signal.SIGTERM, stop.set)


async def _ours(stop: asyncio.Event) -> None:
    def on_signal(number: int) -> None:
        if number == signal.SIGTERM:
            stop.set()

    Signals(on_signal).install(asyncio.get_running_loop())


def _leave(kind: str) -> NoReturn:
    """Takes its handlers off and on again while signals arrive: "alone" does it with what Python offers."""
    loop = asyncio.new_event_loop()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.stdout.write("up\n")
    sys.stdout.flush()
    while True:
        if kind == "alone":
            signal.signal(signal.SIGHUP, lambda *_: None)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        else:
            signals = Signals(lambda _: None)
            signals.install(loop)
            signals.remove(loop)


async def _main(kind: str) -> None:
    stop = asyncio.Event()
    await {"loop": _loop, "ours": _ours}[kind](stop)
    sys.stdout.write("up\n")
    sys.stdout.flush()
    os.read(0, 1)  # what keeps the loop busy
    await stop.wait()


if __name__ == "__main__":
    if sys.argv[1] in ("alone", "leaves"):
        _leave(sys.argv[1])
    else:
        asyncio.run(_main(sys.argv[1]))
