"""Settings of the API: raised to their floor, judged together, secrets never shown."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from vmsh_scheduler.api_settings import auth_settings, is_loopback, judge
from vmsh_scheduler.environment import VARIABLES
from vmsh_scheduler.errors import ConfigError, Usage
from vmsh_scheduler.settings import SECRETS, Settings
from vmsh_scheduler.settings_file import load_settings
from vmsh_scheduler.settings_sections import FLOORS

LONG = "hunter2-" * 4
NUMBERS = [variable for variable in VARIABLES if variable.setting in FLOORS]
WITHOUT_EFFECT = ("SCHEDULER_LEADER_LOCK_RENEW_JITTER_MS", "SCHEDULER_MAX_DUE_CLAIMS_PER_TICK")
SWITCHES = ("SCHEDULER_AUTH_READS", "SCHEDULER_JWKS_REQUIRE_PINNED_KID")
ALONE = "an address that others reach, without authentication: set SCHEDULER_AUTH_TOKENS"


def loaded(directory: Path, environ: Mapping[str, str] | None = None, text: str = "") -> Settings:
    (directory / "config").mkdir(exist_ok=True)
    (directory / "config/scheduler.yaml").write_text(text)
    return load_settings({}, environ or {}, directory, judge)


def refused(directory: Path, environ: Mapping[str, str] | None = None, text: str = "") -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        loaded(directory, environ, text)
    return error.value.problems


def test_d24_every_number_has_a_floor_or_is_the_port() -> None:
    mine = {v.name for v in VARIABLES if v.setting.partition(".")[2] and v.default.isdigit()}
    assert mine == {variable.name for variable in NUMBERS} | {"PORT", "SCHEDULER_MAX_AGENTS_PER_USER"}  # 0 = no limit


@pytest.mark.parametrize("variable", NUMBERS, ids=lambda variable: variable.name)
@pytest.mark.parametrize("text", ["0", "-5"])
def test_d24_a_small_number_is_raised_to_its_floor(tmp_path: Path, variable: object, text: str) -> None:
    (found,) = [each for each in NUMBERS if each is variable]
    assert loaded(tmp_path, {found.name: text}).sections[found.setting] == FLOORS[found.setting]
    section, key = found.setting.split(".")
    assert loaded(tmp_path, text=f"{section}: {{{key}: {text}}}").sections[found.setting] == FLOORS[found.setting]


@pytest.mark.parametrize("text", ["NaN", "abc", "1e3", "10s", "Infinity", "1.5", " 5", "0x10"])
@pytest.mark.parametrize("name", [*(variable.name for variable in NUMBERS), "PORT", *WITHOUT_EFFECT])
def test_d24_what_is_no_number_is_refused_by_name(tmp_path: Path, name: str, text: str) -> None:
    assert refused(tmp_path, {name: text}) == (f"{name}: must be a whole number",)


@pytest.mark.parametrize("name", SWITCHES)
def test_switches(tmp_path: Path, name: str) -> None:
    environ = {
        "SCHEDULER_AUTH_TOKENS": "t",
        "SCHEDULER_JWKS_URL": "https://i.example/keys",
        "SCHEDULER_JWKS_ALLOWED_KIDS": "k",
    }
    setting = next(variable.setting for variable in VARIABLES if variable.name == name)
    for text, wanted in {"TRUE": True, "Yes": True, "1": True, "False": False, "nO": False, "0": False}.items():
        assert loaded(tmp_path, {**environ, name: text}).sections[setting] is wanted
    for text in ("on", "off", "y", "2", " true"):
        assert refused(tmp_path, {**environ, name: text}) == (f"{name}: must be true or false",)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PORT", "9000"),
        ("SCHEDULER_INSTANCE_ID", "a"),
        ("SCHEDULER_TICK_MS", "5"),
        ("KAS_API_BASE", "http://m.example"),
    ],
)
def test_any_variable_turns_the_api_on(tmp_path: Path, name: str, text: str) -> None:
    assert loaded(tmp_path, {name: text}).api_is_on
    assert not loaded(tmp_path, {name: "tcp://10.0.0.1:9000"}).api_is_on
    assert not loaded(tmp_path, {name: ""}).api_is_on


def test_which_variable_names_redis(tmp_path: Path) -> None:
    parts = {"PORT": "0", "REDIS_HOST": "h", "REDIS_PORT": "7", "REDIS_PASSWORD": "p@/ss", "REDIS_DB": "2"}
    stronger = {"REDIS_ADDR": "a:1", "REDIS_URL": "rediss://u", "SCHEDULER_REDIS_URL": "redis://s"}
    wanted = {"REDIS_HOST": "redis://:p%40%2Fss@h:7/2"} | stronger | {"REDIS_ADDR": "redis://a:1"}
    environ = dict(parts)
    for name, url in wanted.items():
        environ |= {name: stronger.get(name, "h")}
        found = loaded(tmp_path, environ, "redis: {url: 'redis://file'}\n")
        assert (found.sections["redis.url"], found.origins["redis.url"]) == (url, f"env {name}")
    assert loaded(tmp_path, {"PORT": "0", "REDIS_HOST": "::1"}).sections["redis.url"] == "redis://[::1]:6379/0"
    assert loaded(tmp_path, {"PORT": "0", "REDIS_PORT": "7"}).sections["redis.url"] == ""
    assert loaded(tmp_path, text="redis: {url: 'redis://file'}\n").sections["redis.url"] == "redis://file"


def test_service_links_name_no_redis(tmp_path: Path) -> None:
    links = {"REDIS_PORT": "tcp://10.0.0.9:6379", "REDIS_HOST": "h", "SCHEDULER_REDIS_URL": "tcp://10.0.0.9:1"}
    assert loaded(tmp_path, {"PORT": "0", **links}).sections["redis.url"] == "redis://h:6379/0"


@pytest.mark.parametrize(("name", "text"), [("REDIS_URL", "redis://r"), ("REDIS_ADDR", "r:1"), ("REDIS_HOST", "r")])
def test_a_redis_of_other_programs_counts_only_beside_something_of_ours(tmp_path: Path, name: str, text: str) -> None:
    alone = loaded(tmp_path, {name: text, "HOST": "machine.example"})
    assert (alone.sections["redis.url"], alone.api_is_on) == ("", False)
    assert alone.sections["api.host"] == "127.0.0.1"
    assert loaded(tmp_path, {name: text, "PORT": "0"}).sections["redis.url"]
    meant = loaded(tmp_path, {name: text}, "redis: {prefix: p}\n")
    assert meant.sections["redis.url"]
    assert not meant.api_is_on


def test_redis_in_the_file_is_no_api_and_by_its_variable_it_is(tmp_path: Path) -> None:
    assert not loaded(tmp_path, text="redis: {url: 'redis://r'}\n").api_is_on
    assert loaded(tmp_path, {"SCHEDULER_REDIS_URL": "redis://r"}).api_is_on


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"SCHEDULER_REDIS_URL": "http://:hunter2@r"}, "SCHEDULER_REDIS_URL: "),
        ({"PORT": "0", "REDIS_URL": "redis://:hunter2@r:port"}, "REDIS_URL: "),
        ({"SCHEDULER_REDIS_URL": "redis://r", "SCHEDULER_REDIS_AUTHORITATIVE_QUEUE": "0"}, "SCHEDULER_REDIS_AUTH"),
        (
            {"SCHEDULER_REDIS_URL": "redis://r", "SCHEDULER_REDIS_RESET_EXEC_QUEUE_ON_BOOT": "1"},
            "SCHEDULER_REDIS_RESET",
        ),
        ({"SCHEDULER_REDIS_ON_DOWN": "hope"}, "SCHEDULER_REDIS_ON_DOWN: "),
        ({"SCHEDULER_REDIS_PREFIX": "a b"}, "SCHEDULER_REDIS_PREFIX: "),
    ],
)
def test_settings_of_redis_that_make_no_sense_refuse_to_start(
    tmp_path: Path, environ: dict[str, str], problem: str
) -> None:
    (told,) = refused(tmp_path, environ)
    assert told.startswith(problem)
    assert "hunter2" not in told


def test_without_the_client_the_line_that_installs_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*sys.modules]:
        if name == "redis" or name.startswith(("redis.", "vmsh_scheduler.stores.redis")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    (told,) = refused(tmp_path, {"SCHEDULER_REDIS_URL": "redis://r"})
    assert told.startswith("SCHEDULER_REDIS_URL: ")
    assert "pip install 'vmsh-scheduler[redis]'" in told


def test_the_machine_s_name_in_host_does_not(tmp_path: Path) -> None:
    """tcsh, conda and some CI export it: a daemon of anchors must not refuse to start for that."""
    alone = loaded(tmp_path, {"HOST": "machine.example"})
    assert not alone.api_is_on
    assert alone.sections["api.host"] == "127.0.0.1"


def test_so_does_an_empty_section_and_nothing_of_the_daemon(tmp_path: Path) -> None:
    on = loaded(tmp_path, text="tick_ms: 1000\napi: {}\n")
    assert on.api_is_on
    assert on.sections["api.port"] == 8790
    assert not loaded(tmp_path, {"VMSH_TICK_MS": "1000"}, "metrics_port: 1\n").api_is_on


def test_a_link_in_place_of_a_port_leaves_the_file_s(tmp_path: Path) -> None:
    found = loaded(tmp_path, {"PORT": "tcp://10.0.0.1:80", "HOST": "udp://10.0.0.1:80"}, "api:\n  port: 1\n")
    assert (found.sections["api.port"], found.origins["api.port"]) == (1, "config/scheduler.yaml:2:3")
    assert (found.sections["api.host"], found.origins["api.host"]) == ("127.0.0.1", "default")


def test_sections_may_use_the_environment_and_are_shown_as_written(tmp_path: Path) -> None:
    found = loaded(tmp_path, {"P": "7", "T": "hunter2"}, "api:\n  port: ${P}\nauth:\n  tokens: ['${T}']\n")
    assert (found.sections["api.port"], found.sections["auth.tokens"]) == (7, ("hunter2",))
    rows = {row["name"]: (row["value"], row["origin"]) for row in found.rows()}
    assert rows["api.port"] == ("${P}", "config/scheduler.yaml:2:3")
    assert rows["auth.tokens"] == ("(set, not shown)", "config/scheduler.yaml:4:3")


def test_one_key_from_the_environment_leaves_the_others_of_its_section(tmp_path: Path) -> None:
    found = loaded(tmp_path, {"PORT": "2"}, "api:\n  port: 1\n  instance: one\n")
    assert (found.sections["api.port"], found.sections["api.instance"]) == (2, "one")


@pytest.mark.parametrize(
    ("winner", "loser", "texts"),
    [
        ("SCHEDULER_AUTH_TOKENS", "SCHEDULER_AUTH_TOKEN", ("a", "b")),
        ("KAS_API_BASE", "VITE_KAS_API_MAINNET", ("http://a.example", "http://b.example")),
        ("SCHEDULER_JWKS_URL", "SCHEDULER_OIDC_JWKS_URL", ("https://a.example", "https://b.example")),
    ],
)
def test_of_two_names_one_wins_and_nothing_is_merged(
    tmp_path: Path, winner: str, loser: str, texts: tuple[str, str]
) -> None:
    setting = next(variable.setting for variable in VARIABLES if variable.name == winner)
    found = loaded(tmp_path, {loser: texts[1], winner: texts[0]})
    assert found.sections[setting] in (texts[0], (texts[0],))
    assert found.origins[setting] == f"env {winner}"
    assert loaded(tmp_path, {loser: texts[1]}).sections[setting] in (texts[1], (texts[1],))


def test_what_access_control_is_told(tmp_path: Path) -> None:
    environ = {
        "SCHEDULER_AUTH_TOKENS": "a,b",
        "SCHEDULER_SERVICE_TOKENS_JSON": '[{"token": "c", "sub": "s", "scopes": "agent:read"}]',
        "SCHEDULER_JWT_HS256_SECRET": LONG,
        "SCHEDULER_JWT_ISSUER": "https://i.example",
        "SCHEDULER_JWT_AUDIENCE": "aud",
        "SCHEDULER_JWKS_URL": "https://i.example/keys",
        "SCHEDULER_OIDC_ISSUER": "https://o.example",
        "SCHEDULER_JWKS_CACHE_TTL_MS": "1001",
        "SCHEDULER_OIDC_DISCOVERY_TTL_MS": "1002",
        "SCHEDULER_AUTH_HTTP_TIMEOUT_MS": "1003",
        "SCHEDULER_JWKS_ALLOWED_KIDS": "k",
        "SCHEDULER_JWKS_REQUIRE_PINNED_KID": "yes",
        "SCHEDULER_AUTH_READS": "yes",
    }
    found = auth_settings(loaded(tmp_path, environ, "auth: {legacy_claims: true}").sections)
    assert (found.tokens, found.hs256_secret, found.issuer, found.audience) == (
        ("a", "b"),
        LONG,
        "https://i.example",
        "aud",
    )
    assert [(each.token, each.subject, each.scopes) for each in found.service_tokens] == [("c", "s", {"agent:read"})]
    assert (found.jwks_url, found.oidc_issuer) == ("https://i.example/keys", "https://o.example")
    assert (found.jwks_ttl_ms, found.discovery_ttl_ms, found.http_timeout_ms) == (1_001, 1_002, 1_003)
    assert (found.allowed_kids, found.require_pinned_kid, found.auth_reads, found.legacy_claims) == (
        ("k",),
        True,
        True,
        True,
    )
    assert not auth_settings(loaded(tmp_path).sections).enabled


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "scheduler.example", "127.0.0.1.example"])
def test_d12_an_open_address_needs_authentication(tmp_path: Path, host: str) -> None:
    (problem,) = refused(tmp_path, {"PORT": "0", "HOST": host})
    assert problem.startswith(f"HOST: {ALONE}")
    (problem,) = refused(tmp_path, text=f"api:\n  host: '{host}'\n")
    assert problem.startswith(f"config/scheduler.yaml:2:3: api.host: {ALONE}")
    assert loaded(tmp_path, {"HOST": host, "SCHEDULER_AUTH_TOKENS": "t"}).api_is_on
    assert loaded(tmp_path, {"HOST": host}, "api: {allow_unauthenticated: true}").api_is_on


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LocalHost"])
def test_a_loopback_address_does_not(tmp_path: Path, host: str) -> None:
    assert is_loopback(host)
    assert loaded(tmp_path, {"PORT": "0", "HOST": host}).sections["api.host"] == host


PROBLEMS = [
    ("SCHEDULER_AUTH_TOKENS", "a b\x01", "auth.tokens", "token 1 must be printable ASCII"),
    ("SCHEDULER_AUTH_TOKEN", "hunter2\x7f", "auth.tokens", "token 1 must be printable ASCII"),
    ("SCHEDULER_SERVICE_TOKENS_JSON", '{"hunter2": 1}', "auth.service_tokens", "entry 1: must be an object"),
    ("SCHEDULER_SERVICE_TOKENS_JSON", "{hunter2", "auth.service_tokens", "is not JSON: line 1 column 2"),
    ("SCHEDULER_JWT_HS256_SECRET", "hunter2", "auth.jwt_hs256_secret", "has 7 bytes and needs 32"),
    ("SCHEDULER_JWT_ISSUER", "https://i.example", "auth.jwt_issuer", "a JWT issuer or audience is set, but nothing"),
    ("SCHEDULER_JWT_AUDIENCE", "hunter2", "auth.jwt_audience", "a JWT issuer or audience is set, but nothing"),
    ("SCHEDULER_JWKS_URL", "http://hunter2.example", "auth.jwks_url", "must begin with https://"),
    ("SCHEDULER_OIDC_JWKS_URL", "https://u:hunter2@i.example", "auth.jwks_url", "must not carry a user name"),
    ("SCHEDULER_OIDC_ISSUER", "hunter2", "auth.oidc_issuer", "is not a URL with a host"),
    ("SCHEDULER_AUTH_READS", "true", "auth.reads", "is set, but no token, secret or key set"),
    ("SCHEDULER_CALLBACK_ALLOW", "a.example,hunter2 b", "callbacks.allow", "entry 2 is no host, host:port"),
    ("SCHEDULER_CALLBACK_SECRET", "hunter2-hunter2", "callbacks.secret", "needs 16 bytes or more"),
    ("KAS_API_BASE", "ftp://hunter2", "market.base", "must be the http:// or https:// URL of a host"),
    ("KAS_API_BASE", "https:///hunter2", "market.base", "must be the http:// or https:// URL of a host"),
    ("KAS_API_BASE", "https://u:hunter2@a.example", "market.base", "must be the http:// or https:// URL of a host"),
    ("KAS_API_BASE", "https://a.example/?k=hunter2", "market.base", "must be the http:// or https:// URL of a host"),
    ("VITE_KAS_API_MAINNET", "hunter2", "market.base", "must be the http:// or https:// URL of a host"),
]


@pytest.mark.parametrize(("name", "text", "setting", "problem"), PROBLEMS)
def test_values_are_judged_where_they_stand_and_never_shown(
    tmp_path: Path, name: str, text: str, setting: str, problem: str
) -> None:
    (told,) = refused(tmp_path, {name: text})
    assert told.startswith(f"{name}: {problem}")
    section, key = setting.split(".")
    written = [part.strip() for part in text.split(",")] if setting in ("auth.tokens", "callbacks.allow") else text
    written = True if setting == "auth.reads" else written
    (from_file,) = refused(tmp_path, {"V": text}, f"{section}:\n  # why\n  {key}: {json.dumps(written)}\n")
    assert from_file.startswith(f"config/scheduler.yaml:3:3: {setting}: {problem}")
    assert "hunter2" not in told + from_file


def test_every_problem_of_every_kind_at_once(tmp_path: Path) -> None:
    environ = {"HOST": "0.0.0.0", "SCHEDULER_CALLBACK_SECRET": "s", "SCHEDULER_AUTH_READS": "1"}
    found = refused(tmp_path, environ, "market: {base: x}\n")
    assert [problem.partition(": ")[0] for problem in found] == [
        "config/scheduler.yaml:1:10",
        "SCHEDULER_CALLBACK_SECRET",
        "SCHEDULER_AUTH_READS",
        "HOST",
    ]


def test_what_was_refused_is_not_missed_too(tmp_path: Path) -> None:
    """The tokens are there, if only the file could be read."""
    problems = refused(tmp_path, {"HOST": "0.0.0.0"}, "auth:\n  tokens: [t]\n  prot: 1\n")
    assert problems == ("config/scheduler.yaml:3:3: auth.prot: unknown key",)


def test_a_list_of_tokens_without_one_is_refused(tmp_path: Path) -> None:
    """Somebody believes that access is controlled."""
    assert refused(tmp_path, {"SCHEDULER_AUTH_TOKENS": " , "}) == ("SCHEDULER_AUTH_TOKENS: holds no token",)


def test_one_token_twice_is_told_at_the_tokens(tmp_path: Path) -> None:
    environ = {"SCHEDULER_AUTH_TOKENS": LONG, "SCHEDULER_SERVICE_TOKENS_JSON": f'{{"{LONG}": {{}}}}'}
    (problem,) = refused(tmp_path, environ)
    assert problem.startswith("SCHEDULER_AUTH_TOKENS: one token is given twice")


def test_d23_an_issuer_alone_discovers_nothing(tmp_path: Path) -> None:
    found = loaded(tmp_path, {"SCHEDULER_JWT_ISSUER": "https://i.example", "SCHEDULER_JWT_HS256_SECRET": LONG})
    assert auth_settings(found.sections).oidc_issuer == ""


def test_c12_secrets_are_never_shown(tmp_path: Path) -> None:
    environ = {
        "SCHEDULER_AUTH_TOKENS": LONG,
        "SCHEDULER_SERVICE_TOKENS_JSON": f'{{"{LONG}x": {{}}}}',
        "SCHEDULER_CALLBACK_SECRET": LONG,
        "SCHEDULER_REDIS_URL": f"redis://:{LONG}@r/0",
    }
    text = f"auth:\n  jwt_hs256_secret: '{LONG}${{MORE}}'\n"
    found = loaded(tmp_path, {**environ, "MORE": "hunter2"}, text)
    shown = {row["name"]: row["value"] for row in found.rows()}
    assert {name for name, value in shown.items() if value == "(set, not shown)"} == SECRETS
    assert "hunter2" not in repr(found) + repr(shown) + repr(found.as_written) + repr(auth_settings(found.sections))
    assert {row["value"] for row in loaded(tmp_path).rows() if row["name"] == "callbacks.secret"} == {""}


def test_sections_are_no_flags(tmp_path: Path) -> None:
    with pytest.raises(Usage):
        load_settings({"api": "x"}, {}, tmp_path)


def test_problems_of_sections_have_places(tmp_path: Path) -> None:
    assert refused(tmp_path, text="api: {prot: 1}\nquota:\n  read_max: many\nauth:\n") == (
        "config/scheduler.yaml:1:7: api.prot: unknown key; did you mean `port`?",
        "config/scheduler.yaml:3:13: quota.read_max: must be a whole number, not text (unquoted, and nothing but that)",
        "config/scheduler.yaml:4:6: auth: must be a mapping, not empty",
    )


@pytest.mark.parametrize(("program", "loaded"), [("", False), ("api_settings.auth_settings(found.sections)", True)])
def test_settings_load_neither_the_http_library_nor_jwt(tmp_path: Path, program: str, loaded: bool) -> None:
    """And what access control is made of only when something of the API is set."""
    environ = {"PORT": "1"} if loaded else {}
    code = (
        "import sys; from pathlib import Path\n"
        "from vmsh_scheduler.cli.context import judge\nfrom vmsh_scheduler.settings_file import load_settings\n"
        f"found = load_settings({{}}, {environ!r}, Path({str(tmp_path)!r}), judge)\n"
        + (f"from vmsh_scheduler import api_settings\n{program}\n" if program else "")
        + "print(*sys.modules, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    modules = set(done.stdout.splitlines())
    assert modules.isdisjoint({"aiohttp", "jwt", "asyncio"})
    assert ("vmsh_scheduler.api.principal" in modules) is loaded
