"""The installed command many times a second: `python -m tests.support.swarm COUNT RATE WORD...`, in a place's root.

Forked from one process that has loaded everything, for an interpreter takes longer to start than a tick takes."""

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

from tests.support.daemon import Place
from vmsh_scheduler.cli import start

ROOT = Path(__file__).parents[2]
AT_ONCE = 4
"""More would only wait for each other."""


@dataclass(frozen=True, slots=True)
class Swarm:
    """What became of them: how often each exit code and each text, and over how many seconds."""

    codes: Counter[int]
    texts: Counter[str]
    seconds: float


def swarm(place: Place, count: int, rate: float, *words: str) -> Swarm:
    """`vmsh-scheduler WORD...` `count` times in the place, `rate` a second or as fast as the machine can."""
    argv = [sys.executable, "-m", "tests.support.swarm", str(count), str(rate), *words]
    env = place.env({"PYTHONPATH": str(ROOT)})
    done = subprocess.run(argv, cwd=place.root, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    codes = Counter({int(code): times for code, times in said["codes"].items()})
    return Swarm(codes, Counter(said["texts"]), said["seconds"])


def _swarm(count: int, rate: float, words: list[str]) -> dict[str, object]:
    with redirect_stderr(io.StringIO()):
        _command(words)  # once for nothing, so that all that it needs is loaded
    began = time.monotonic()
    with tempfile.TemporaryFile() as said:
        codes = _codes(count, rate, words, said.fileno())
        seconds = time.monotonic() - began
        said.seek(0)
        texts = Counter(said.read().decode().splitlines())
    return {"codes": codes, "texts": texts, "seconds": seconds}


def _codes(count: int, rate: float, words: list[str], said: int) -> Counter[int]:
    codes: Counter[int] = Counter()
    began = time.monotonic()
    for number in range(count):
        if number >= AT_ONCE:
            codes[_reaped()] += 1
        while time.monotonic() < began + number / rate:
            time.sleep(0.001)
        if os.fork() == 0:
            _become(words, said)
    codes.update(_reaped() for _ in range(min(count, AT_ONCE)))
    return codes


def _become(words: list[str], said: int) -> None:
    """Never returns."""
    code = 70
    try:
        os.dup2(said, 1)
        os.dup2(said, 2)
        code = _command(words)
        sys.stderr.flush()
    finally:
        os._exit(code)


def _command(words: list[str]) -> int:
    sys.argv = ["vmsh-scheduler", *words]
    return start()


def _reaped() -> int:
    return os.waitstatus_to_exitcode(os.wait()[1])


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_swarm(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])))
