"""The command in a directory of a test's own: run it, wait for what it says, signal it, see it end."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from tests.support.warm import source

T = TypeVar("T")

UNMEASURED = {"COVERAGE_PROCESS_CONFIG": "", "COVERAGE_PROCESS_START": ""}
"""For processes of which many run, or for long, and others measure the same lines, and for those that are killed, of
which nothing would be kept: coverage takes half of their time."""
_started: Counter[tuple[str, str]] = Counter()

COMMAND = Path(sys.executable).with_name("vmsh-scheduler")
PATIENCE_S = 60.0
"""Far above what anything takes: only a broken program, or a machine on its knees, gets here."""
LOOK_EVERY_S = 0.02

_OURS = ("VMSH_", "SCHEDULER_", "METRICS_", "LOG_", "API_", "EVM_", "BTC_", "TSA_", "KAS_")
_ALSO = {"PORT", "HOST", "NO_COLOR", "NOTIFY_SOCKET", "WATCHDOG_USEC", "JOURNAL_STREAM", "ANCHOR_WRITE_ENABLED"}

Document = dict[str, Any]


def _is_first_of(word: str) -> bool:
    """Only the first command of a word in a file is the installed command, and measured: loading and coverage cost many
    times what a command does, and the next ones run much the same lines. In the soak all are."""
    file = os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[0]
    _started[file, word] += 1
    return _started[file, word] == 1 or file.startswith("tests/soak/")


def until(look: Callable[[], T | None], what: str, timeout: float = PATIENCE_S) -> T:
    """The first truthy answer of `look`; fails with `what` when none comes."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(LOOK_EVERY_S)
    return found


class Process(Protocol):
    """A Popen, or what was forked."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, number: int, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def ok(self) -> "Done":
        assert self.code == 0, f"exit {self.code}\n{self.out}\n{self.err}"
        return self


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP reply."""

    status: int
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Place:
    """A root with `config/` and `state/` (or the seed's layout), and everything that was started in it.

    `environ` is on top of a cleaned copy of the test's own; METRICS_PORT is 0 so that no two tests meet.
    """

    root: Path
    environ: dict[str, str] = field(default_factory=lambda: {"METRICS_PORT": "0"})
    config: str = "config"
    started: list["Daemon"] = field(default_factory=list)
    command: Sequence[str | Path] = (COMMAND,)
    """What `daemon` starts: a wrapper before it, or the program with a defect."""
    prefix: str = ""
    """Of its logs' names, where several share a root."""

    @property
    def state(self) -> Path:
        return self.root / "state" / "scheduler.json"

    @property
    def namespaces(self) -> Path:
        return self.root / self.config / "namespaces.yaml"

    def write(self, name: str, text: str) -> Path:
        """Atomic, by rename; `name` is relative to the root."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.fresh")
        fresh.write_text(text, encoding="utf-8")
        return fresh.replace(path)

    def configure(self, namespaces: str, **files: str) -> None:
        """`namespaces.yaml`, and others by their stem: `scheduler=`, `agents=`."""
        for stem, text in {"namespaces": namespaces, **files}.items():
            self.write(f"{self.config}/{stem}.yaml", text)

    def env(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS) and name not in _ALSO}
        return {**kept, **self.environ, **(more or {})}

    def cli(self, *args: str, env: Mapping[str, str] | None = None, timeout: float = PATIENCE_S) -> Done:
        """Run the command to its end, in the root."""
        word = "--help" if "--help" in args else "".join(args[:1])
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = self._start([COMMAND, *args], env, (out, err), measured=_is_first_of(word))
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                raise
            return Done(code, *(_text(sink) for sink in (out, err)))

    def daemon(self, *args: str, env: Mapping[str, str] | None = None, verb: str = "run") -> "Daemon":
        """Start `vmsh-scheduler run` (or a tick); it may not be ready yet (`.ready()` waits)."""
        log = self.root / f"{self.prefix}daemon-{len(self.started)}.log"
        with log.open("wb") as sink:
            argv = [*self.command, *args, verb]
            process = self._start(argv, env, (sink, sink), measured=_is_first_of(verb))
        daemon = Daemon(self, process, log)
        self.started.append(daemon)
        return daemon

    def _start(
        self, argv: Sequence[str | Path], more: Mapping[str, str] | None, sinks: Sequence[IO[bytes]], *, measured: bool
    ) -> Process:
        """In a session of its own, with nothing on stdin."""
        env = self.env({**({} if measured else UNMEASURED), **(more or {})})
        words, (out, err) = [str(word) for word in argv], sinks
        if not measured and argv[0] == COMMAND and source().is_for(env):
            return source().start(words, self.root, env, out.fileno(), err.fileno())
        return subprocess.Popen(
            words, cwd=self.root, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )

    def close(self) -> None:
        """Kill what is left: the daemons, and every command that still works below the root."""
        for daemon in self.started:
            daemon.kill()
        for pid in processes_below(self.root):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@dataclass
class Daemon:
    """One `vmsh-scheduler run`; its stderr is a file, read as JSON lines."""

    place: Place
    process: Process
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def lines(self, msg: str = "", **fields: object) -> list[Document]:
        """Log lines so far with this `msg` and these fields, oldest first; what is no JSON is left out."""
        wanted = {**fields, **({"msg": msg} if msg else {})}
        return [line for line in _documents(self.text(), msg) if wanted.items() <= _flat(line).items()]

    def wait_line(self, msg: str, /, *, after: int = 0, timeout: float = PATIENCE_S, **fields: object) -> Document:
        """The (after + 1)th such line; fails if the daemon ends first without it."""

        def look() -> Document | None:
            ended = not self.alive
            found = self.lines(msg, **fields)
            if len(found) > after:
                return found[after]
            assert not ended, f"ended with {self.process.returncode} before {msg!r} {fields}:\n{self.text()}"
            return None

        try:
            return until(look, f"log line {msg!r} {fields}", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text()[-4000:]}") from None

    def wait_until(self, look: Callable[[], T | None], what: str, timeout: float = PATIENCE_S) -> T:
        """`until`, with the log in the failure."""
        try:
            return until(look, what, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text()[-4000:]}") from None

    def ready(self) -> "Daemon":
        """Both listeners answer from here on."""
        self.wait_line("metrics/health server started")
        return self

    @property
    def port(self) -> int:
        return int(self.wait_line("metrics/health server started")["port"])

    def get(self, path: str) -> Answer:
        """From the metrics listener."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as reply:
                return Answer(reply.status, reply.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read().decode())

    def health(self) -> Document:
        document: Document = self.get("/health").json
        return document

    def samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """/metrics by name and labels."""
        rows = (line.rpartition(" ") for line in self.get("/metrics").body.splitlines() if line[:1] not in ("", "#"))
        return {_series(name): float(value) for name, _, value in rows}

    def value(self, name: str, **labels: str) -> float | None:
        """One series of /metrics; None: it is not there."""
        return self.samples().get((name, frozenset(labels.items())))

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = PATIENCE_S) -> int:
        """The exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end within {timeout:g} s\n{self.text()[-4000:]}") from None

    def stop(self, expect: int = 0) -> None:
        """SIGTERM, and the end it should have; nothing may be left running and no traceback in the log."""
        self.signal(signal.SIGTERM)
        code = self.wait()
        assert code == expect, f"exit {code}, expected {expect}\n{self.text()[-4000:]}"
        assert "Traceback" not in self.text(), self.text()[-4000:]

    def kill(self) -> None:
        """SIGKILL to its group; no error if it is gone."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)


def processes_below(root: Path) -> Iterator[int]:
    """Processes whose working directory lies in `root`: anchor commands leave the daemon's session and group."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if (entry / "cwd").readlink().is_relative_to(root):
                    yield int(entry.name)


def _text(sink: IO[bytes]) -> str:
    sink.seek(0)
    return sink.read().decode()


def _documents(text: str, part: str) -> Iterator[Document]:
    """Lines that hold this part, which has no character that JSON escapes. Tests look often, and parsing every line of
    a long log takes longest."""
    for line in text.splitlines():
        if part not in line:
            continue
        with suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                yield found


def _series(text: str) -> tuple[str, frozenset[tuple[str, str]]]:
    """`name{label="value",...}`; the tests' own labels have no escapes in them."""
    name, _, labels = text.partition("{")
    return name, frozenset(re.findall(r'(\w+)="([^"]*)"', labels))


def _flat(line: Document) -> Document:
    """Only what can be compared in a set of items."""
    return {name: value for name, value in line.items() if not isinstance(value, (list, dict))}
