"""What the documentation promises, against the code, both ways: nothing undocumented, nothing made up.

Changing anything here is a change of contract: it belongs into CHANGELOG.md."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from tests.support.builders import NOON, agent, cadence, run_of
from tests.support.sections import SECTIONS
from vmsh_scheduler import environment, settings_sections
from vmsh_scheduler.api.errors import STATUS
from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.classify import EXIT_CODES
from vmsh_scheduler.domain.decision import Reason, Verdict
from vmsh_scheduler.domain.events import Finished, Started, Trouble
from vmsh_scheduler.domain.explain import TEXTS
from vmsh_scheduler.domain.retry import ErrorClass, PhiBackoff
from vmsh_scheduler.domain.run import Cause, Execution, Found, Outcome, Run, Status
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.errors import Exit, SchedulerError
from vmsh_scheduler.executors.environment import facts_of, lasting
from vmsh_scheduler.observe.metrics import _EXPECTED_DECISIONS, Extra, Metrics
from vmsh_scheduler.settings_file import LOCAL_COMMAND, SettingsFile
from vmsh_scheduler.sources.documents import (
    AgentSpec,
    CadenceSpec,
    CallbackSpec,
    CommandSpec,
    LimitsSpec,
    NamespaceSpec,
    RetrySpec,
)

pytestmark = pytest.mark.no_cover  # it reads the program rather than running it

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

DEFAULTS = {
    "tick_ms": 10_000,
    "metrics_host": "127.0.0.1",
    "metrics_port": 9090,
    "base_backoff": 5,
    "max_backoff": 7,
    "log_level": "info",
    "log_format": "auto",
    "drain_ms": 330_000,
    "on_state_loss": "wait",
    "anchor_write_enabled": True,
    "retention_rows": 1_000,
    "retention_days": 30,
    "retention_bytes": 1 << 30,
    "commands": {"local": LOCAL_COMMAND},
    "pass_env": (),
}
"""Of scheduler.yaml; `concurrency` depends on the machine (4 per core)."""

FROM_THE_SEEDS = {
    "VMSH_ROOT": "root",
    "VMSH_NAMESPACES": "namespaces_path",
    "VMSH_STATE": "state_path",
    "VMSH_TICK_MS": "tick_ms",
    "METRICS_PORT": "metrics_port",
    "VMSH_BASE_BACKOFF": "base_backoff",
    "VMSH_MAX_BACKOFF": "max_backoff",
    "LOG_LEVEL": "log_level",
    "ANCHOR_WRITE_ENABLED": "anchor_write_enabled",
}
OWN_ENVIRONMENT = {
    "VMSH_AGENTS": "agents_path",
    "VMSH_ANCHORS": "anchors_path",
    "VMSH_CONFIG": "scheduler_path",
    "VMSH_METRICS_HOST": "metrics_host",
    "VMSH_METRICS_PORT": "metrics_port",
    "VMSH_LOG_LEVEL": "log_level",
    "VMSH_LOG_FORMAT": "log_format",
    "LOG_FORMAT": "log_format",
    "VMSH_CONCURRENCY": "concurrency",
    "VMSH_DRAIN_MS": "drain_ms",
    "VMSH_ON_STATE_LOSS": "on_state_loss",
    "VMSH_PASS_ENV": "pass_env",
}
FROM_FORGE = {
    "PORT": "api.port",
    "HOST": "api.host",
    "SCHEDULER_ALLOWED_ORIGINS": "api.origins",
    "SCHEDULER_INSTANCE_ID": "api.instance",
    "SCHEDULER_TICK_MS": "agents.tick_ms",
    "SCHEDULER_CYCLE_CONCURRENCY": "agents.concurrency",
    "SCHEDULER_MAX_AGENTS": "agents.max",
    "SCHEDULER_MAX_AGENTS_PER_USER": "agents.max_per_user",
    "SCHEDULER_MAX_QUEUE": "agents.queue",
    "SCHEDULER_CALLBACK_TIMEOUT_MS": "callbacks.timeout_ms",
    "KAS_API_BASE": "market.base",
    "VITE_KAS_API_MAINNET": "market.base",
    "KAS_API_TIMEOUT_MS": "market.timeout_ms",
    "SCHEDULER_MARKET_CACHE_TTL_MS": "market.ttl_ms",
    "SCHEDULER_BALANCE_CACHE_TTL_MS": "market.balance_ttl_ms",
    "SCHEDULER_AUTH_TOKENS": "auth.tokens",
    "SCHEDULER_AUTH_TOKEN": "auth.tokens",
    "SCHEDULER_AUTH_READS": "auth.reads",
    "SCHEDULER_SERVICE_TOKENS_JSON": "auth.service_tokens",
    "SCHEDULER_JWT_HS256_SECRET": "auth.jwt_hs256_secret",
    "SCHEDULER_JWT_ISSUER": "auth.jwt_issuer",
    "SCHEDULER_JWT_AUDIENCE": "auth.jwt_audience",
    "SCHEDULER_JWKS_URL": "auth.jwks_url",
    "SCHEDULER_OIDC_JWKS_URL": "auth.jwks_url",
    "SCHEDULER_JWKS_CACHE_TTL_MS": "auth.jwks_ttl_ms",
    "SCHEDULER_OIDC_ISSUER": "auth.oidc_issuer",
    "SCHEDULER_OIDC_DISCOVERY_TTL_MS": "auth.oidc_ttl_ms",
    "SCHEDULER_AUTH_HTTP_TIMEOUT_MS": "auth.http_timeout_ms",
    "SCHEDULER_JWKS_ALLOWED_KIDS": "auth.allowed_kids",
    "SCHEDULER_JWKS_REQUIRE_PINNED_KID": "auth.require_pinned_kid",
    "SCHEDULER_QUOTA_WINDOW_MS": "quota.window_ms",
    "SCHEDULER_QUOTA_READ_MAX": "quota.read_max",
    "SCHEDULER_QUOTA_WRITE_MAX": "quota.write_max",
    "SCHEDULER_QUOTA_TICK_MAX": "quota.tick_max",
    "SCHEDULER_REDIS_URL": "redis.url",
    "REDIS_URL": "redis.url",
    "SCHEDULER_REDIS_PREFIX": "redis.prefix",
    "SCHEDULER_REDIS_CONNECT_TIMEOUT_MS": "redis.connect_timeout_ms",
    "SCHEDULER_REDIS_AUTHORITATIVE_QUEUE": "redis.authoritative",
    "SCHEDULER_REDIS_RESET_EXEC_QUEUE_ON_BOOT": "redis.reset_on_boot",
    "SCHEDULER_LEADER_LOCK_TTL_MS": "redis.lock_ttl_ms",
    "SCHEDULER_LEADER_LOCK_RENEW_MS": "redis.lock_renew_ms",
    "SCHEDULER_LEADER_LOCK_RENEW_JITTER_MS": "redis.renew_jitter_ms",
    "SCHEDULER_LEADER_ACQUIRE_BACKOFF_MIN_MS": "redis.backoff_min_ms",
    "SCHEDULER_LEADER_ACQUIRE_BACKOFF_MAX_MS": "redis.backoff_max_ms",
    "SCHEDULER_JOB_LEASE_TTL_MS": "redis.job_lease_ms",
    "SCHEDULER_MAX_DUE_CLAIMS_PER_TICK": "redis.max_claims",
    "SCHEDULER_REDIS_EXEC_LEASE_TTL_MS": "redis.exec_lease_ms",
    "SCHEDULER_REDIS_EXEC_REQUEUE_BATCH": "redis.requeue_batch",
    "SCHEDULER_CALLBACK_IDEMPOTENCY_TTL_MS": "redis.dedupe_ttl_ms",
}
"""Of the Forge.OS scheduler: all of its variables."""
OWN_OF_REDIS = {
    "REDIS_ADDR": "redis.url",
    "REDIS_HOST": "redis.url",
    "SCHEDULER_REDIS_PASSWORD_FILE": "redis.password_file",
    "SCHEDULER_REDIS_TLS_CA": "redis.tls_ca",
    "SCHEDULER_REDIS_COMMAND_TIMEOUT_MS": "redis.command_timeout_ms",
    "SCHEDULER_REDIS_ON_DOWN": "redis.on_down",
}
OWN_OF_THE_API = {
    "SCHEDULER_ALLOWED_HOSTS": "api.hosts",
    "SCHEDULER_JWKS_ALLOWED_KIDS_FILE": "auth.allowed_kids_file",
    "SCHEDULER_CALLBACK_ALLOW": "callbacks.allow",
    "SCHEDULER_CALLBACK_SECRET": "callbacks.secret",
}
TOLD_TO_COMMANDS = {
    "VMSH_NAMESPACE",
    "VMSH_CADENCE",
    "VMSH_TARGET",
    "VMSH_BATCH_ID",
    "VMSH_BATCH_ROOT",
    "VMSH_BATCH_FILE",
    "VMSH_IDEMPOTENCY_KEY",
    "VMSH_ATTEMPT",
    "VMSH_SLOT",
    "VMSH_FENCE_TOKEN",
    "VMSH_PREVIOUS_OUTCOME",
    "VMSH_RUN_ID",
    "VMSH_DEADLINE",
}
"""By the executor, whatever the configuration says; the rest of the contract's section 3 by the compiled command."""

CODES = {
    "OK": 0,
    "FAILED": 1,
    "USAGE": 2,
    "STATE_UNREADABLE": 65,
    "UNAVAILABLE": 69,
    "CANNOT_CREATE": 73,
    "IO_ERROR": 74,
    "BUSY": 75,
    "DENIED": 77,
    "CONFIG": 78,
}
BACKOFF_TABLE = {
    ErrorClass.NETWORK: (8, 13, 21, 34, 55, 90, 145),
    ErrorClass.UNKNOWN: (8, 13, 21, 34, 55, 90, 145),
    ErrorClass.AUTH: (16, 26, 42, 69, 111, 179, 290),
    ErrorClass.VALIDATION: (4, 7, 11, 17, 28, 45, 73),
}
"""Seconds after the k-th failure in a row, k = 1..7 (contract, section 8)."""


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """From a heading to the next one of any level."""
    after = text.split(f"{heading}\n", 1)[1]
    return re.split(r"^#+ ", after, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """Cells of every table row but heads and rulers."""
    cells = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    rulers = [index for index, row in enumerate(cells) if all(re.fullmatch(":?-+:?", cell) for cell in row)]
    heads = {index - 1 for index in rulers}
    return [row for index, row in enumerate(cells) if index not in heads and index not in rulers]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def documented_fields(*headings: str) -> set[str]:
    text = page("config.md")
    return {name for heading in headings for row in rows(section(text, heading)) for name in names(row[0])}


def fields(model: type[BaseModel]) -> set[str]:
    """As they are written in the file."""
    return {field.alias or name for name, field in model.model_fields.items()}


def test_defaults_of_the_daemon() -> None:
    found = SettingsFile().model_dump()
    assert found.pop("concurrency") >= 4
    sections = {f"{name}.{key}": value for name in settings_sections.SECTIONS for key, value in found.pop(name).items()}
    assert {**found, "commands": SettingsFile().commands} == DEFAULTS
    assert sections == SECTIONS


def test_the_shipped_file_shows_every_default() -> None:
    """`# name: value` in config/scheduler.yaml; `commands` stands there itself."""
    text = (ROOT / "config" / "scheduler.yaml").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^(?:# )?([a-z_]+): *([^#\n]*?) *(?:#.*)?$", text, re.MULTILINE))
    assert shown.keys() == SettingsFile.model_fields.keys()
    for name, value in DEFAULTS.items():
        if name not in ("commands", "pass_env"):
            assert shown[name] == (str(value).lower() if isinstance(value, bool) else str(value)), name


def test_the_shipped_file_shows_every_default_of_the_sections() -> None:
    text = (ROOT / "config" / "scheduler.yaml").read_text(encoding="utf-8")
    for section in settings_sections.SECTIONS:
        (block,) = re.findall(rf"^# {section}:.*\n((?:#   .*\n)+)", text, re.MULTILINE)
        shown = yaml.safe_load(re.sub("^#   ", "", block, flags=re.MULTILINE))
        assert {f"{section}.{key}": value for key, value in shown.items()} == {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in SECTIONS.items()
            if name.startswith(f"{section}.")
        }


def test_environment_names() -> None:
    settings = {variable.name: variable.setting for variable in environment.VARIABLES if variable.setting}
    assert settings == FROM_THE_SEEDS | OWN_ENVIRONMENT | FROM_FORGE | OWN_OF_THE_API | OWN_OF_REDIS


def test_the_example_file_names_every_setting_of_the_environment() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    settings = {variable.name for variable in environment.VARIABLES if variable.setting}
    assert {name for name in settings if not re.search(rf"\b{name}\b", text)} == set()
    ours = r"^# ((?:(?:VMSH|ANCHOR|SCHEDULER|KAS)_[A-Z0-9_]+|HOST|PORT))=(\S+)"
    assigned = dict(re.findall(ours, text, re.MULTILINE))
    assert assigned.keys() <= settings
    for name, value in assigned.items():
        known = next(v.default for v in environment.VARIABLES if v.name == name)
        if re.fullmatch(r"[a-z0-9.:/*]+", known):
            assert value in (known, "EVM_RPC,EVM_ANCHOR_KEY", "consumer.internal:3001"), name


@pytest.mark.parametrize("variable", [v for v in environment.VARIABLES if v.setting], ids=lambda v: str(v.name))
def test_the_table_of_variables_tells_the_real_default(variable: environment.Variable) -> None:
    default = DEFAULTS.get(variable.setting)
    if isinstance(default, bool):
        assert variable.default == str(int(default))
    elif isinstance(default, (int, str)):
        assert variable.default == str(default)


def test_no_variable_is_read_behind_the_table() -> None:
    """Every VMSH_ name in the daemon's code is in the table, or is told to commands."""
    known = {variable.name for variable in environment.VARIABLES} | TOLD_TO_COMMANDS
    known |= {"VMSH_CONFIRMATIONS", "VMSH_POLICY_OID"}
    read: set[str] = set()
    for path in (ROOT / "vmsh_scheduler").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                read.update(re.findall(r"^VMSH_[A-Z_]+$", node.value))
    assert read <= known


def test_what_commands_are_told() -> None:
    found = Found("b1", "sha256:" + "0" * 64, details={"file": "/out/b1.json"})
    job = cadence()
    env = lasting({}, {}, Command(("true",)), job) | facts_of(replace(run_of(job, NOON), found=found))
    assert env.keys() == TOLD_TO_COMMANDS


def test_exit_codes() -> None:
    assert {code.name: code.value for code in Exit} == CODES
    assert [int(row[0]) for row in rows(page("exit-codes.md"))] == sorted(CODES.values())


def test_exit_codes_of_commands() -> None:
    text = page("exit-codes.md").replace("\n", " ")
    told = re.search(r"0 is success; 65 and 78 validation; 69 and 75 network; 77 auth; 124 .* network", text)
    assert told
    assert EXIT_CODES == {
        65: ErrorClass.VALIDATION,
        78: ErrorClass.VALIDATION,
        69: ErrorClass.NETWORK,
        75: ErrorClass.NETWORK,
        77: ErrorClass.AUTH,
        124: ErrorClass.NETWORK,
    }


def test_backoff_to_the_second() -> None:
    retry = PhiBackoff()
    told = {error: tuple((retry.delay(k, k, error) or 0) // 1000 for k in range(1, 8)) for error in BACKOFF_TABLE}
    assert told == BACKOFF_TABLE
    assert retry.delay(8, 8, ErrorClass.AUTH) == 290_000


def test_every_reason_is_documented_and_every_documented_one_exists() -> None:
    documented = {(row[0], names(row[1])[0]) for row in rows(page("decisions.md"))}
    assert {reason for _, reason in documented} == {reason.value for reason in Reason}
    assert {verdict for verdict, _ in documented} == {verdict.value for verdict in Verdict}
    assert set(TEXTS) == set(Reason)


def test_decisions_that_are_counted_from_zero_are_the_documented_ones() -> None:
    documented = {(row[0], names(row[1])[0]) for row in rows(page("decisions.md"))}
    counted = {(verdict.value, reason.value) for verdict, reasons in _EXPECTED_DECISIONS for reason in reasons}
    assert documented - counted == set()
    assert counted - documented <= {("superseded", "new_root")}, "fired/new_root tells of both"


def families(job_ids: tuple[str, ...] = ("ns/fast", "_agents/u/a")) -> set[str]:
    """Names of everything that can be exported, as they stand in the text."""
    metrics = Metrics(version="0", python="3")
    jobs = [cadence(id=job_ids[0]), agent(id=job_ids[1])]
    for job in jobs:
        run = run_of(job, NOON)
        metrics.observe(Started(job, run, 5))
        metrics.observe(Finished(job, Execution(run, Outcome(Status.OK), NOON + 10), JobState()))
    metrics.observe(Trouble(NOON, "bad_batch"))
    text, _ = metrics.render(metrics.take(jobs, {}, NOON, Extra()))
    return set(re.findall(r"^# TYPE (\S+)", text.decode(), re.MULTILINE))


def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    text = page("metrics.md")
    both = section(text, "## Under both prefixes, `vmsh_` and `scheduler_`, from the same values")
    own = section(text, "## Under `vmsh_` only")
    documented = {
        f"{prefix}_{name}" for prefix in ("vmsh", "scheduler") for row in rows(both) for name in names(row[0])
    }
    documented |= {f"vmsh_{name}" for row in rows(own) for name in names(row[0])}
    documented |= {name for name in names(own) if name.startswith("process_")}
    assert families() == documented


def test_labels_with_a_closed_list_are_documented() -> None:
    own = {names(row[0])[0]: row[2] for row in rows(section(page("metrics.md"), "## Under `vmsh_` only"))}
    assert own["runs_total"] == "status: " + ", ".join(status.value for status in Status)


def test_fields_of_the_files() -> None:
    command = documented_fields("### Cadence") & fields(CommandSpec)
    assert documented_fields("### Cadence") == fields(CadenceSpec)
    assert documented_fields("### Namespace") == fields(NamespaceSpec)
    assert documented_fields("### Retry") == fields(RetrySpec)
    assert documented_fields("## agents.yaml") == fields(AgentSpec)
    assert command == fields(CommandSpec)
    beside = section(page("config.md"), "## agents.yaml")
    assert [name for name in fields(CallbackSpec) if f"`{name}`" not in beside] == []
    limits = next(row for row in rows(section(page("config.md"), "### Cadence")) if row[0] == "`limits`")
    assert set(names(limits[2])) == fields(LimitsSpec)


def test_errors_of_the_control_socket() -> None:
    text = section(page("http.md"), "## Control socket")
    cells = [pair for row in rows(text) if len(row) == 4 for pair in (row[:2], row[2:])]
    documented = {
        name: int(status)
        for codes, statuses in cells
        for name, status in zip(names(codes), _each(statuses, len(names(codes))), strict=True)
    }
    kinds = [kind for kind in SchedulerError.__subclasses__() if kind.__module__ == SchedulerError.__module__]
    ours = {error.code: STATUS[error.code] for error in (SchedulerError, *kinds)}
    assert ours.items() <= documented.items()


def _each(statuses: str, count: int) -> list[str]:
    found = re.findall(r"\d{3}", statuses)
    return found * count if len(found) == 1 else found


def test_log_lines() -> None:
    """Every fixed event name in the code stands in the table."""
    text = section(page("http.md"), "## Log lines")
    documented = {name for row in rows(text) for name in names(row[0])}
    said: set[object] = set()
    for path in (ROOT / "vmsh_scheduler").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("say", "self._say"):
                levelled = "logging." in " ".join(map(ast.unparse, node.args[:2]))
                said.update(arg.value for arg in node.args if levelled and isinstance(arg, ast.Constant))
    assert len(said) > 10
    assert said <= documented
    assert {"anchor success", "anchor failed", "namespaces config loaded", "scheduler starting"} <= documented


def test_causes_and_statuses_are_fixed() -> None:
    """They stand in state files and journals: a renamed one would make old files unreadable."""
    assert [status.value for status in Status] == ["ok", "failed", "unknown", "superseded", "skipped"]
    assert {cause.value for cause in Cause} >= {"schedule", "catch_up", "retry", "manual"}
    assert Run.__dataclass_fields__.keys() >= {"id", "job_id", "slot", "attempt", "fence"}


def test_the_settings_page_lists_what_there_is() -> None:
    text = page("settings.md")
    for variable in environment.VARIABLES:
        assert f"| `{variable.name}` | {variable.default} | {variable.meaning} |" in text
    keys = dict(SettingsFile.model_fields)
    for section, model in settings_sections.SECTIONS.items():
        keys |= {f"{section}.{key}": field for key, field in model.model_fields.items()}
    for name, field in keys.items():
        assert f"| `{name}` | {field.description} |" in text
    rows_told = re.findall(r"^\| `([A-Za-z0-9_.]+)` \|", text, re.MULTILINE)
    assert set(rows_told) == {v.name for v in environment.VARIABLES} | keys.keys()
