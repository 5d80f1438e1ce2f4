"""What a run does. A union; app.py maps each member to its Executor."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from sys import intern
from urllib.parse import urlsplit

from vmsh_scheduler.domain.retry import ErrorClass


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """First match wins: an exit code, or a regex on the output's tail, names the class."""

    error: ErrorClass
    exit_code: int | None = None
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Resource limits of a command, in the units of setrlimit(2); None = inherited."""

    cpu_seconds: int | None = None
    address_space: int | None = None
    file_size: int | None = None
    open_files: int | None = None
    processes: int | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """A subprocess: argv, never a shell. `payload` goes to stdin as JSON together with the run's own facts."""

    argv: tuple[str, ...]
    payload: Mapping[str, object] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the allow-listed environment; VMSH_* of the run win."""
    pass_env: tuple[str, ...] = ()
    """Names let through from the daemon's environment besides the built-in allow-list."""
    cwd: str | None = None
    umask: int | None = None
    limits: Limits | None = None
    rules: tuple[ErrorRule, ...] = ()
    probe: tuple[str, ...] = ()
    """argv asking "did it happen?": exit 0 yes, 1 no, else not known."""
    outlive: bool = False
    """Leave processes it put in the background alone when it ends."""
    grace: int = 10_000
    """ms between TERM and KILL."""


@dataclass(frozen=True, slots=True)
class Callback:
    """An HTTP POST per cycle (forge-os section 7)."""

    url: str = field(repr=False)
    """"" = the cycle succeeds without a POST. Not shown: consumers take `?token=` in it."""
    payload: Mapping[str, object] = field(default_factory=dict)
    """`event` and `agent` of the body."""
    trusted: bool = True
    """From a configuration file: every address may be called, and what the other side says is shown."""
    wallet: str = ""
    """What the market snapshot is about."""
    user: str = ""
    agent: str = ""
    """Its ids as registered, uncut."""

    @property
    def host(self) -> str:
        """Host and port as the URL writes them; "" without a URL, or with one that cannot be read."""
        try:
            where = urlsplit(self.url).netloc
        except ValueError:
            return ""
        return intern(where.rpartition("@")[2].lower())  # thousands of agents have the same


Action = Command | Callback
