"""How each program is given a workload and started."""

import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench import stamps
from bench.processes import Running, running
from bench.workload import Work, write_plain

OURS = str(Path(sys.executable).with_name("vmsh-scheduler"))
CRONSTABLE = str(Path(sys.executable).with_name("cronstable"))
PEERS = Path(__file__).with_name("peers")


@dataclass(frozen=True, slots=True)
class Site:
    """One fresh directory of one measurement of one program; `stamps` is where the jobs leave their marks."""

    path: Path
    stamps: Path


Start = Callable[[Sequence[Work], Site], AbstractContextManager[Running]]


@dataclass(frozen=True, slots=True)
class Program:
    """`start` returns when the program follows the whole workload."""

    name: str
    start: Start


def ours(name: str = "ours", *, crash_exact: bool = False, ballast_mb: int = 0) -> Program:
    command = [sys.executable, str(PEERS / "ballast.py"), str(ballast_mb)] if ballast_mb else [OURS]

    @contextlib.contextmanager
    def start(jobs: Sequence[Work], site: Site) -> Iterator[Running]:
        env = our_site(jobs, site.path, crash_exact=crash_exact)
        with running([*command, "run"], site.path / "log", env) as program:
            # a cadence seen for the first time runs at once
            program.until(lambda: len(stamps.read(site.stamps)) >= len(jobs), "a first run of every job")
            yield program

    return Program(name, start)


def our_site(jobs: Sequence[Work], root: Path, *, crash_exact: bool = False, batch: bool = True) -> dict[str, str]:
    """Configuration (and one batch, without which there is nothing to run about) under `root`; the environment."""
    batches = root / "out" / "batches"
    batches.mkdir(parents=True, exist_ok=True)
    (root / "config").mkdir(exist_ok=True)
    if batch:
        document = {"id": "1", "root": "sha256:" + "0" * 64, "leaves": ["sha256:" + "0" * 64], "createdAt": 1}
        (batches / "1.json").write_text(json.dumps(document), encoding="utf-8")
    config = "namespaces:\n" + "".join(_namespace(job, crash_exact=crash_exact) for job in jobs)
    file = root / "config" / "namespaces.yaml"
    file.write_text(config, encoding="utf-8")
    return {
        "PATH": os.environ["PATH"],
        "VMSH_ROOT": str(root),
        "VMSH_NAMESPACES": str(file),
        "VMSH_STATE": str(root / "state" / "scheduler.json"),
        "METRICS_PORT": "0",
    }


def _namespace(job: Work, *, crash_exact: bool) -> str:
    fields = {
        "target": "local:bench",
        "every": f"{job.every_ms // 1000}s",
        "command": list(job.argv),
        "crash_exact": crash_exact,
        "reanchor": True,
    }
    if job.phase_ms:
        fields["splay"] = f"{job.every_ms // 1000}s"
    lines = "".join(f"        {key}: {json.dumps(value)}\n" for key, value in fields.items())
    return f"  {json.dumps(job.id)}:\n    cadence:\n      fast:\n{lines}"


def floor(name: str = "floor", cap: int | None = None) -> Program:
    extra = [] if cap is None else [str(cap)]
    return Program(name, _plain([sys.executable, "-I", str(PEERS / "floor.py")], extra))


def apscheduler() -> Program:
    return Program("APScheduler", _plain([sys.executable, str(PEERS / "apsched.py")], []))


def _plain(argv: list[str], extra: list[str]) -> Start:
    @contextlib.contextmanager
    def start(jobs: Sequence[Work], site: Site) -> Iterator[Running]:
        file = write_plain(jobs, site.path / "workload.json")
        with running([*argv, str(file), *extra], site.path / "log") as program:
            program.until(lambda: program.said("ready"), "being ready")
            yield program

    return start


def cronstable(schedule: str = "") -> Program:
    """Whole seconds that divide a minute, or whole days, without phases; or all on one `schedule`."""

    @contextlib.contextmanager
    def start(jobs: Sequence[Work], site: Site) -> Iterator[Running]:
        file = site.path / "cronstable.yaml"
        file.write_text("jobs:\n" + "".join(_cronstable_job(job, schedule) for job in jobs), encoding="utf-8")
        env = {"PATH": os.environ["PATH"], "HOME": str(site.path)}
        with running([CRONSTABLE, "-c", str(file)], site.path / "log", env) as program:
            yield program

    return Program("cronstable", start)


def _cronstable_job(job: Work, schedule: str) -> str:
    own = f"*/{job.every_ms // 1000} * * * * * *" if job.every_ms <= 60_000 else "0 0 1 1 *"
    command = "".join(f"      - {json.dumps(word)}\n" for word in job.argv)
    return (
        f'  - name: "{job.id}"\n    command:\n{command}    schedule: "{schedule or own}"\n'
        "    captureStdout: true\n    captureStderr: true\n    utc: true\n"
    )


def has_apscheduler() -> bool:
    return importlib.util.find_spec("apscheduler") is not None


def has_cronstable() -> bool:
    return os.access(CRONSTABLE, os.X_OK)
