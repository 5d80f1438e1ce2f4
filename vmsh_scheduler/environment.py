"""Every environment variable the program reads, once."""

from collections.abc import Mapping
from typing import NamedTuple


class Variable(NamedTuple):
    """`setting` is the field of Settings it sets; "" = read where it is needed, not a setting."""

    name: str
    setting: str
    default: str
    meaning: str


VARIABLES: tuple[Variable, ...] = (
    Variable("VMSH_ROOT", "root", "working directory", "where out/ is; set, it also moves config and state (below)"),
    Variable(
        "VMSH_NAMESPACES",
        "namespaces_path",
        "config/namespaces.yaml; with VMSH_ROOT $VMSH_ROOT/vmsh/config/namespaces.yaml",
        "what is anchored",
    ),
    Variable("VMSH_AGENTS", "agents_path", "agents.yaml beside it", "agents to wake"),
    Variable("VMSH_CONFIG", "scheduler_path", "scheduler.yaml beside it", "settings of the daemon itself"),
    Variable(
        "VMSH_STATE",
        "state_path",
        "state/scheduler.json; with VMSH_ROOT $VMSH_ROOT/out/state/scheduler.json",
        "the state file; everything else that is kept lies beside it",
    ),
    Variable("VMSH_TICK_MS", "tick_ms", "10000", "longest nap in ms; runs start on time whatever it is"),
    Variable("VMSH_METRICS_HOST", "metrics_host", "127.0.0.1", "address for health and metrics"),
    Variable("VMSH_METRICS_PORT", "metrics_port", "9090", "port for health and metrics; 0 = any free one"),
    Variable("METRICS_PORT", "metrics_port", "9090", "the same; VMSH_METRICS_PORT wins"),
    Variable("VMSH_BASE_BACKOFF", "base_backoff", "5", "seconds that backoff begins with"),
    Variable("VMSH_MAX_BACKOFF", "max_backoff", "7", "failures in a row after which waits grow no more"),
    Variable("VMSH_LOG_LEVEL", "log_level", "info", "trace, debug, info, warn, error, fatal or silent"),
    Variable("LOG_LEVEL", "log_level", "info", "the same; VMSH_LOG_LEVEL wins"),
    Variable("VMSH_LOG_FORMAT", "log_format", "auto", "json, console, or auto: console on a terminal"),
    Variable("LOG_FORMAT", "log_format", "auto", "the same; VMSH_LOG_FORMAT wins"),
    Variable("VMSH_CONCURRENCY", "concurrency", "4 per core", "most runs at the same time, 1 to 1024"),
    Variable("VMSH_DRAIN_MS", "drain_ms", "330000", "how long a stop waits for runs, in ms"),
    Variable("VMSH_ON_STATE_LOSS", "on_state_loss", "wait", "after lost state: wait one period, or run at once"),
    Variable("ANCHOR_WRITE_ENABLED", "anchor_write_enabled", "1", "0 = anchor nothing (kill switch)"),
    Variable("VMSH_PASS_ENV", "pass_env", "none", "names that commands may see, separated by commas"),
    Variable("VMSH_LEDGER_ORIGIN", "", "made from the ledger's name", "origin line of local: checkpoints"),
    Variable("VMSH_KEYS", "", "keys/ beside the state file", "where the local: anchor keeps its keys"),
    Variable("NO_COLOR", "", "unset", "any value: no colour"),
    Variable("VMSH_NO_COLOR", "", "unset", "the same, for this program alone"),
    Variable("TERM", "", "unset", "dumb: no colour"),
    Variable("NOTIFY_SOCKET", "", "set by systemd", "where readiness is reported"),
    Variable("WATCHDOG_USEC", "", "set by systemd", "how often it wants to hear from us"),
    Variable("WATCHDOG_PID", "", "set by systemd", "who is meant by it"),
    Variable("JOURNAL_STREAM", "", "set by systemd", "tells whether stderr is the journal"),
)


_SERVICE_LINKS = ("tcp://", "udp://", "sctp://")


def value_of(variable: Variable, environ: Mapping[str, str]) -> str | None:
    """None: not set. Empty counts as not set; so does `tcp://...`, which Kubernetes sets for a service of that name."""
    value = environ.get(variable.name, "")
    return None if value == "" or value.startswith(_SERVICE_LINKS) else value
