"""Settings: flags > environment > scheduler.yaml > defaults, every value with its origin, every problem at once."""

import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from tests.support.sections import SECTIONS
from vmsh_scheduler import settings_sections
from vmsh_scheduler.env_file import read_env_file
from vmsh_scheduler.environment import VARIABLES
from vmsh_scheduler.errors import ConfigError, Usage
from vmsh_scheduler.settings import Settings
from vmsh_scheduler.settings_file import LOCAL_COMMAND, SettingsFile, load_settings
from vmsh_scheduler.sources.rails import OVERRIDES

CHECKOUT = Path(__file__).parents[2]


def write(directory: Path, text: str) -> None:
    (directory / "config").mkdir(exist_ok=True)
    (directory / "config/scheduler.yaml").write_text(text)


def refused(
    directory: Path, environ: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None
) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        load_settings(flags or {}, environ or {}, directory)
    assert error.value.exit == 78
    return error.value.problems


DEFAULTS = {
    "anchor_write_enabled": True,
    "base_backoff": 5,
    "commands": {"local": LOCAL_COMMAND},
    "drain_ms": 330_000,
    "log_format": "auto",
    "log_level": "info",
    "max_backoff": 7,
    "metrics_host": "127.0.0.1",
    "metrics_port": 9090,
    "on_state_loss": "wait",
    "pass_env": (),
    "retention_bytes": 1 << 30,
    "retention_days": 30,
    "retention_rows": 1_000,
    "tick_ms": 10_000,
}


def value(settings: Settings, name: str) -> object:
    return settings.sections[name] if "." in name else getattr(settings, name)


def test_every_default(tmp_path: Path) -> None:
    found = load_settings({}, {}, tmp_path)
    per_core = min(1_024, 4 * len(os.sched_getaffinity(0)))
    assert values(found) == {**DEFAULTS, **SECTIONS, "concurrency": per_core}
    assert set(found.origins.values()) == {"default"}
    assert not found.api_is_on


def test_default_paths(tmp_path: Path) -> None:
    found = load_settings({}, {}, tmp_path)
    assert found.root == tmp_path
    assert found.namespaces_path == tmp_path / "config/namespaces.yaml"
    assert found.agents_path == tmp_path / "config/agents.yaml"
    assert found.scheduler_path == tmp_path / "config/scheduler.yaml"
    assert found.state_path == tmp_path / "state/scheduler.json"
    assert found.keys_dir == tmp_path / "state/keys"


@pytest.mark.parametrize("where", ["flag", "environment"])
def test_a_root_brings_the_layout_of_the_seed(tmp_path: Path, where: str) -> None:
    flags, environ = ({"root": "/app"}, {}) if where == "flag" else ({}, {"VMSH_ROOT": "/app"})
    found = load_settings(flags, environ, tmp_path)
    assert found.root == Path("/app")
    assert found.namespaces_path == Path("/app/vmsh/config/namespaces.yaml")
    assert found.agents_path == Path("/app/vmsh/config/agents.yaml")
    assert found.state_path == Path("/app/out/state/scheduler.json")


def test_other_files_lie_beside_namespaces(tmp_path: Path) -> None:
    found = load_settings({}, {"VMSH_NAMESPACES": "../elsewhere/n.yaml"}, tmp_path)
    assert found.namespaces_path == tmp_path.parent / "elsewhere/n.yaml"
    assert found.agents_path == tmp_path.parent / "elsewhere/agents.yaml"
    assert found.state_path == tmp_path / "state/scheduler.json"


def test_what_somebody_named_must_be_there(tmp_path: Path) -> None:
    by_default = load_settings({}, {}, tmp_path).config_paths
    assert [(file.role, file.optional, file.name) for file in by_default] == [
        ("namespaces", False, "config/namespaces.yaml"),
        ("agents", True, "config/agents.yaml"),
        ("anchors", True, "config/anchors.yaml"),
    ]
    named = load_settings({"agents": "/etc/agents.yaml"}, {}, tmp_path).config_paths[1]
    assert (named.optional, named.name) == (False, "/etc/agents.yaml")
    assert refused(tmp_path, {"VMSH_CONFIG": "mine.yaml"}) == ("mine.yaml: is missing",)


def test_flags_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    write(tmp_path, "# mine\nmetrics_port: 1\ntick_ms: 1000\nlog_level: warn\n")
    found = load_settings({"metrics_port": 3}, {"METRICS_PORT": "2", "VMSH_TICK_MS": "2000"}, tmp_path)
    picked = {name: (getattr(found, name), found.origins[name]) for name in ("metrics_port", "tick_ms", "log_level")}
    assert picked == {
        "metrics_port": (3, "--metrics-port"),
        "tick_ms": (2_000, "env VMSH_TICK_MS"),
        "log_level": ("warn", "config/scheduler.yaml:4:1"),
    }
    assert found.origins["drain_ms"] == "default"


def test_flags_as_text_are_read_like_the_environment(tmp_path: Path) -> None:
    assert load_settings({"metrics_port": "0", "anchor_write_enabled": "0"}, {}, tmp_path).metrics_port == 0
    assert refused(tmp_path, flags={"metrics_port": "0x1"}) == ("--metrics-port: must be a whole number",)


def test_an_unknown_flag_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(Usage):
        load_settings({"prot": 1}, {}, tmp_path)


SET = {
    "VMSH_ROOT": ("/r", Path("/r")),
    "VMSH_NAMESPACES": ("/n.yaml", Path("/n.yaml")),
    "VMSH_AGENTS": ("/a.yaml", Path("/a.yaml")),
    "VMSH_ANCHORS": ("/r.yaml", Path("/r.yaml")),
    "VMSH_STATE": ("/s.json", Path("/s.json")),
    "VMSH_TICK_MS": ("250", 250),
    "VMSH_METRICS_HOST": ("::", "::"),
    "VMSH_METRICS_PORT": ("0", 0),
    "METRICS_PORT": ("9091", 9091),
    "VMSH_BASE_BACKOFF": ("6", 6),
    "VMSH_MAX_BACKOFF": ("8", 8),
    "VMSH_LOG_LEVEL": ("DEBUG", "debug"),
    "LOG_LEVEL": ("warning", "warning"),
    "VMSH_LOG_FORMAT": ("json", "json"),
    "LOG_FORMAT": ("console", "console"),
    "VMSH_CONCURRENCY": ("1024", 1_024),
    "VMSH_DRAIN_MS": ("0", 0),
    "VMSH_ON_STATE_LOSS": ("run", "run"),
    "ANCHOR_WRITE_ENABLED": ("0", False),
    "VMSH_PASS_ENV": ("A, B_2,", ("A", "B_2")),
    "PORT": ("0", 0),
    "HOST": ("::1", "::1"),
    "SCHEDULER_ALLOWED_HOSTS": ("a.example, b.example", ("a.example", "b.example")),
    "SCHEDULER_ALLOWED_ORIGINS": ("https://a.example, https://b.example", ("https://a.example", "https://b.example")),
    "SCHEDULER_INSTANCE_ID": ("Pod-1", "Pod-1"),
    "SCHEDULER_TICK_MS": ("251", 251),
    "SCHEDULER_CYCLE_CONCURRENCY": ("2", 2),
    "SCHEDULER_MAX_AGENTS": ("2", 2),
    "SCHEDULER_MAX_AGENTS_PER_USER": ("2", 2),
    "SCHEDULER_MAX_QUEUE": ("2", 2),
    "SCHEDULER_CALLBACK_TIMEOUT_MS": ("501", 501),
    "SCHEDULER_CALLBACK_ALLOW": ("10.0.0.0/8,Host:1", ("10.0.0.0/8", "Host:1")),
    "SCHEDULER_CALLBACK_SECRET": ("S" * 16, "S" * 16),
    "KAS_API_BASE": ("https://Market.example/v1//", "https://Market.example/v1"),
    "VITE_KAS_API_MAINNET": ("http://127.0.0.1:1", "http://127.0.0.1:1"),
    "KAS_API_TIMEOUT_MS": ("1001", 1_001),
    "SCHEDULER_MARKET_CACHE_TTL_MS": ("251", 251),
    "SCHEDULER_BALANCE_CACHE_TTL_MS": ("252", 252),
    "SCHEDULER_AUTH_TOKENS": (" A , b,", ("A", "b")),
    "SCHEDULER_AUTH_TOKEN": ("C", ("C",)),
    "SCHEDULER_AUTH_READS": ("YES", True),
    "SCHEDULER_SERVICE_TOKENS_JSON": ('{"T": {"sub": "s"}}', '{"T": {"sub": "s"}}'),
    "SCHEDULER_JWT_HS256_SECRET": ("S" * 32, "S" * 32),
    "SCHEDULER_JWT_ISSUER": ("https://I.example/", "https://I.example/"),
    "SCHEDULER_JWT_AUDIENCE": ("Forge", "Forge"),
    "SCHEDULER_JWKS_URL": ("https://I.example/K", "https://I.example/K"),
    "SCHEDULER_OIDC_JWKS_URL": ("https://I.example/L", "https://I.example/L"),
    "SCHEDULER_JWKS_CACHE_TTL_MS": ("1001", 1_001),
    "SCHEDULER_OIDC_ISSUER": ("https://O.example", "https://O.example"),
    "SCHEDULER_OIDC_DISCOVERY_TTL_MS": ("1002", 1_002),
    "SCHEDULER_AUTH_HTTP_TIMEOUT_MS": ("501", 501),
    "SCHEDULER_JWKS_ALLOWED_KIDS": ("K1,k2", ("K1", "k2")),
    "SCHEDULER_JWKS_ALLOWED_KIDS_FILE": ("Kids.txt", "Kids.txt"),
    "SCHEDULER_JWKS_REQUIRE_PINNED_KID": ("1", True),
    "SCHEDULER_QUOTA_WINDOW_MS": ("1001", 1_001),
    "SCHEDULER_QUOTA_READ_MAX": ("2", 2),
    "SCHEDULER_QUOTA_WRITE_MAX": ("3", 3),
    "SCHEDULER_QUOTA_TICK_MAX": ("4", 4),
    "SCHEDULER_REDIS_URL": ("redis://R.example/1", "redis://R.example/1"),
    "REDIS_URL": ("unix:///run/r.sock", "unix:///run/r.sock"),
    "REDIS_ADDR": ("r.example:6380", "redis://r.example:6380"),
    "REDIS_HOST": ("r.example", "redis://r.example:6379/0"),
    "SCHEDULER_REDIS_PREFIX": ("{Vmsh}", "{Vmsh}"),
    "SCHEDULER_REDIS_PASSWORD_FILE": ("/run/P", "/run/P"),
    "SCHEDULER_REDIS_TLS_CA": ("/run/CA", "/run/CA"),
    "SCHEDULER_REDIS_CONNECT_TIMEOUT_MS": ("251", 251),
    "SCHEDULER_REDIS_COMMAND_TIMEOUT_MS": ("252", 252),
    "SCHEDULER_REDIS_ON_DOWN": ("exit", "exit"),
    "SCHEDULER_REDIS_AUTHORITATIVE_QUEUE": ("false", False),
    "SCHEDULER_REDIS_RESET_EXEC_QUEUE_ON_BOOT": ("true", True),
    "SCHEDULER_LEADER_LOCK_TTL_MS": ("1001", 1_001),
    "SCHEDULER_LEADER_LOCK_RENEW_MS": ("501", 501),
    "SCHEDULER_LEADER_ACQUIRE_BACKOFF_MIN_MS": ("51", 51),
    "SCHEDULER_LEADER_ACQUIRE_BACKOFF_MAX_MS": ("52", 52),
    "SCHEDULER_LEADER_LOCK_RENEW_JITTER_MS": ("53", 53),
    "SCHEDULER_JOB_LEASE_TTL_MS": ("1002", 1_002),
    "SCHEDULER_MAX_DUE_CLAIMS_PER_TICK": ("3", 3),
    "SCHEDULER_REDIS_EXEC_LEASE_TTL_MS": ("2001", 2_001),
    "SCHEDULER_REDIS_EXEC_REQUEUE_BATCH": ("4", 4),
    "SCHEDULER_CALLBACK_IDEMPOTENCY_TTL_MS": ("1003", 1_003),
}
SETTABLE = [variable for variable in VARIABLES if variable.setting and variable.name != "VMSH_CONFIG"]


def test_every_variable_is_listed_once() -> None:
    names = [variable.name for variable in VARIABLES]
    assert len(set(names)) == len(names)
    assert {variable.name for variable in SETTABLE} == SET.keys()
    known = {field.name for field in fields(Settings)} | SECTIONS.keys()
    assert {variable.setting for variable in VARIABLES} - {""} <= known


@pytest.mark.parametrize("variable", SETTABLE, ids=lambda variable: variable.name)
def test_every_variable_sets_its_setting(variable: object, tmp_path: Path) -> None:
    (found,) = [each for each in SETTABLE if each is variable]
    text, wanted = SET[found.name]
    generic = found.name == "HOST" or found.name.startswith("REDIS_")
    beside = {"PORT": "0"} if generic else {}  # ADR 12, and others' Redis
    settings = load_settings({}, {found.name: text, **beside}, tmp_path)
    assert value(settings, found.setting) == wanted
    assert settings.origins[found.setting] == f"env {found.name}"


def test_the_table_tells_the_defaults(tmp_path: Path) -> None:
    defaults = load_settings({}, {}, tmp_path)
    for variable in SETTABLE:
        default = value(defaults, variable.setting)
        if isinstance(default, bool):
            assert variable.default == (str(default).lower() if "." in variable.setting else str(int(default)))
        elif isinstance(default, (int, str)) and default not in ("", 0) and variable.setting != "concurrency":
            assert variable.default == str(default), variable.name


def test_our_own_name_wins_over_the_common_one(tmp_path: Path) -> None:
    environ = {"METRICS_PORT": "1", "VMSH_METRICS_PORT": "2", "LOG_LEVEL": "error", "VMSH_LOG_LEVEL": "debug"}
    found = load_settings({}, environ, tmp_path)
    assert (found.metrics_port, found.log_level) == (2, "debug")


@pytest.mark.parametrize("value", ["tcp://10.0.0.1:9090", "udp://10.0.0.1:53", ""])
def test_service_links_and_empty_values_are_not_settings(tmp_path: Path, value: str) -> None:
    assert load_settings({}, {"METRICS_PORT": value}, tmp_path).metrics_port == 9090
    both = load_settings({}, {"METRICS_PORT": "7", "VMSH_METRICS_PORT": value}, tmp_path)
    assert both.metrics_port == 7


@pytest.mark.parametrize(
    "value", ["10s", "abc", "0x10", "010", "1_000", "1e3", "+5", " 5", "5 ", "1.0", "\u0663", "--1", "9" * 30, "-0x1"]
)
def test_junk_refuses_to_start_and_names_the_variable(tmp_path: Path, value: str) -> None:
    assert refused(tmp_path, {"VMSH_TICK_MS": value}) == ("VMSH_TICK_MS: must be a whole number",)


def test_every_problem_at_once(tmp_path: Path) -> None:
    write(tmp_path, "tick_ms: fast\nprot: 1\n")
    environ = {
        "METRICS_PORT": "65536",
        "VMSH_MAX_BACKOFF": "0",
        "LOG_LEVEL": "loud",
        "ANCHOR_WRITE_ENABLED": "maybe",
        "VMSH_PASS_ENV": "A,b-c",
        "VMSH_CONCURRENCY": "1025",
        "VMSH_DRAIN_MS": "10s",
    }
    found = refused(tmp_path, environ)
    assert sorted(problem.partition(": ")[0] for problem in found) == sorted(
        ["config/scheduler.yaml:1:10", "config/scheduler.yaml:2:1", *environ]
    )
    assert "METRICS_PORT: must be at most 65535" in found
    assert "ANCHOR_WRITE_ENABLED: must be true or false" in found


def test_c12_no_problem_repeats_a_value(tmp_path: Path) -> None:
    write(tmp_path, "tick_ms: hunter2\nlog_level: [hunter2]\ncommands: {local: hunter2}\nmetrics_host: {a: hunter2}\n")
    environ = {name: "hunter2 \0" for name in SET if name not in {"VMSH_ROOT", "VMSH_NAMESPACES"}}
    assert "hunter2" not in "".join(refused(tmp_path, environ))


def test_commands_are_added_to_the_built_in_one(tmp_path: Path) -> None:
    write(tmp_path, "commands:\n  btc: [npm, run, 'anchor:btc']\n")
    commands = load_settings({}, {}, tmp_path).commands
    assert commands == {"local": LOCAL_COMMAND, "btc": ("npm", "run", "anchor:btc")}
    write(tmp_path, "commands:\n  local: [mine]\n")
    assert load_settings({}, {}, tmp_path).commands == {"local": ("mine",)}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "commands: {eip15: [x]}",
            "1:12: commands.eip15: the key is no target scheme; did you mean `eip155`?",
        ),
        ("commands: {btc: []}", "1:17: commands.btc: must have at least 1 item(s)"),
        ("commands: {btc: npm run}", "1:17: commands.btc: must be a list, not text"),
        ("pass_env: [a-b]", "1:12: pass_env[0]: has not the required form (pattern ^[A-Za-z_][A-Za-z0-9_]*$)"),
        ("tick_ms: 99", "1:10: tick_ms: must be at least 100"),
        ("tick_ms: ${NO}", "1:10: tick_ms: environment variable NO is not set; set it, or write ${NO:-default}"),
        ("log_levl: info", "1:1: log_levl: unknown key; did you mean `log_level`?"),
        ("- a", "1:1: a list at the top level; a mapping (key: value) is needed"),
    ],
)
def test_the_file_is_refused_with_places(tmp_path: Path, text: str, problem: str) -> None:
    write(tmp_path, text)
    assert refused(tmp_path) == (f"config/scheduler.yaml:{problem}",)


def test_the_file_may_use_the_environment_and_is_shown_as_written(tmp_path: Path) -> None:
    write(tmp_path, "metrics_port: ${P}\ncommands:\n  btc: [send, '${KEY}']\n")
    found = load_settings({}, {"P": "7", "KEY": "hunter2"}, tmp_path)
    assert (found.metrics_port, found.commands["btc"]) == (7, ("send", "hunter2"))
    rows = {row["name"]: (row["value"], row["origin"]) for row in found.rows()}
    assert rows["metrics_port"] == ("${P}", "config/scheduler.yaml:1:1")
    assert rows["commands"] == ({"btc": ["send", "${KEY}"]}, "config/scheduler.yaml:2:1")
    assert "hunter2" not in str(rows)


def test_rows_are_json_and_complete(tmp_path: Path) -> None:
    rows = load_settings({}, {}, tmp_path).rows()
    paths = {"root", "namespaces_path", "agents_path", "anchors_path", "scheduler_path", "state_path"}
    own = SettingsFile.model_fields.keys() - settings_sections.SECTIONS.keys()
    assert [row["name"] for row in rows] == sorted({*own, *SECTIONS, *paths})
    assert {type(row["value"]) for row in rows} == {str, int, bool, list, dict}


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n", "{}\n"])
def test_a_file_without_settings_is_fine(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    assert load_settings({}, {}, tmp_path).tick_ms == 10_000


def test_a_directory_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "config/scheduler.yaml").mkdir(parents=True)
    assert refused(tmp_path) == ("config/scheduler.yaml: is a directory; a file is needed",)


def values(settings: Settings) -> dict[str, object]:
    own = SettingsFile.model_fields.keys() - settings_sections.SECTIONS.keys()
    return {**{name: getattr(settings, name) for name in own}, **settings.sections}


def test_the_shipped_file_works_and_changes_nothing(tmp_path: Path) -> None:
    shipped = (CHECKOUT / "config/scheduler.yaml").read_text()
    without = values(load_settings({}, {}, tmp_path))
    write(tmp_path, shipped)
    assert values(load_settings({}, {}, tmp_path)) == without
    assert shipped.startswith("# yaml-language-server: $schema=schema/scheduler.json\n")


def test_what_the_shipped_file_has_in_comments_is_true(tmp_path: Path) -> None:
    shipped = (CHECKOUT / "config/scheduler.yaml").read_text()
    write(tmp_path, re.sub(r"(?m)^( *)# ((?:  )?[a-z0-9_]+:(?: +\S|$))", r"\1\2", shipped))
    found = load_settings({}, {}, tmp_path)
    assert found.commands.keys() == {"eip155", "btc", "rfc3161", "local"}
    assert found.commands["eip155"] == ("npm", "--prefix", "services/anchors", "run", "anchor:evm")
    assert found.pass_env == ("EVM_RPC", "EVM_ANCHOR_KEY", "BTC_RPC", "TSA_URL")
    examples = {"concurrency": 16, "commands": found.commands, "pass_env": found.pass_env}
    assert values(found) == {**DEFAULTS, **SECTIONS, **examples}
    assert {name for name in SECTIONS if found.origins[name] == "default"} == set()


SYNONYMS = {
    *("METRICS_PORT", "LOG_LEVEL", "LOG_FORMAT"),
    *("VITE_KAS_API_MAINNET", "SCHEDULER_AUTH_TOKEN", "SCHEDULER_OIDC_JWKS_URL"),
    *("REDIS_URL", "REDIS_ADDR", "REDIS_HOST"),
}


def test_the_shipped_env_example_names_every_variable_of_ours(tmp_path: Path) -> None:
    example = (CHECKOUT / ".env.example").read_text()
    assert read_env_file(CHECKOUT / ".env.example") == {}
    lines = [line.removeprefix("# ") for line in example.splitlines() if re.match(r"# [A-Z0-9_]+=", line)]
    (tmp_path / ".env").write_text("\n".join(lines))
    named = read_env_file(tmp_path / ".env")
    ours = {variable.name for variable in VARIABLES if variable.setting} - SYNONYMS
    of_rails = {name for names in OVERRIDES.values() for name in names}
    assert of_rails <= named.keys()
    assert ours == named.keys() - of_rails
    for variable in SETTABLE:
        default = {**DEFAULTS, **SECTIONS}.get(variable.setting)
        if variable.name in named and isinstance(default, (int, str)) and default not in ("", 0):
            assert named[variable.name] == variable.default


def env_file(path: Path, text: str | bytes) -> Path:
    (path / ".env").write_bytes(text if isinstance(text, bytes) else text.encode())
    return path / ".env"


def test_an_env_file(tmp_path: Path) -> None:
    text = "\ufeff# comment\r\nA=1\r\nexport B=two words # not three\n\n  C='# $A \\n'\n"
    text += 'D="a \\"b\\"\\n\\\\n" # why\nE=\nF=a#b\nG= # nothing\nH="\u00e9"\nI=x=y\n'
    assert read_env_file(env_file(tmp_path, text)) == {
        "A": "1",
        "B": "two words",
        "C": "# $A \\n",
        "D": 'a "b"\n\\n',
        "E": "",
        "F": "a#b",
        "G": "",
        "H": "\u00e9",
        "I": "x=y",
    }


def test_an_env_file_is_refused_with_every_line(tmp_path: Path) -> None:
    path = env_file(tmp_path, "A=1\nhunter2\n1A=x\nB='hunter2\nC=\"x\" y\nA=2\nD = 1\nE=a\0b\nF='a'b\n")
    with pytest.raises(ConfigError) as error:
        read_env_file(path)
    assert error.value.problems == (
        f"{path}:2:1: not NAME=value",
        f"{path}:3:1: not NAME=value",
        f"{path}:4:3: B: quotes that do not match, or text behind them",
        f"{path}:5:3: C: quotes that do not match, or text behind them",
        f"{path}:6:1: A: set twice in this file",
        f"{path}:7:1: not NAME=value",
        f"{path}:8:3: E: quotes that do not match, or text behind them",
        f"{path}:9:3: F: quotes that do not match, or text behind them",
    )


@pytest.mark.parametrize(("raw", "problem"), [(b"A=\xff", "not UTF-8 at byte offset 2"), (None, "is missing")])
def test_an_env_file_that_cannot_be_read(tmp_path: Path, raw: bytes | None, problem: str) -> None:
    path = tmp_path / ".env" if raw is None else env_file(tmp_path, raw)
    with pytest.raises(ConfigError) as error:
        read_env_file(path)
    assert error.value.problems == (f"{path}: {problem}",)
