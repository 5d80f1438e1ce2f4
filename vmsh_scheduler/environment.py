"""Every environment variable the program reads, once."""

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote


class Variable(NamedTuple):
    """`setting` is the field of Settings it sets, or section.key; "" = read where it is needed, not a setting."""

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
    Variable("VMSH_ANCHORS", "anchors_path", "anchors.yaml beside it", "how each rail is reached"),
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
    Variable("PORT", "api.port", "8790", "port of the API, which setting it turns on"),
    Variable("HOST", "api.host", "127.0.0.1", "address of the API; by itself it turns nothing on"),
    Variable("SCHEDULER_ALLOWED_ORIGINS", "api.origins", "*", "origins that browsers may call from, by commas"),
    Variable("SCHEDULER_ALLOWED_HOSTS", "api.hosts", "none", "further names in Host on loopback, by commas"),
    Variable("SCHEDULER_INSTANCE_ID", "api.instance", "made at start", "name of this instance"),
    Variable("SCHEDULER_TICK_MS", "agents.tick_ms", "1000", "how long agents wait after a start, in ms, 250 or more"),
    Variable("SCHEDULER_CYCLE_CONCURRENCY", "agents.concurrency", "4", "most cycles at the same time"),
    Variable("SCHEDULER_MAX_AGENTS", "agents.max", "5000", "most agents registered over the API"),
    Variable("SCHEDULER_MAX_AGENTS_PER_USER", "agents.max_per_user", "0", "most of them of one user; 0 = no limit"),
    Variable("SCHEDULER_MAX_QUEUE", "agents.queue", "10000", "most cycles that wait"),
    Variable("SCHEDULER_CALLBACK_TIMEOUT_MS", "callbacks.timeout_ms", "4000", "per callback in ms, 500 or more"),
    Variable("SCHEDULER_CALLBACK_ALLOW", "callbacks.allow", "none", "hosts, host:port, CIDRs to call, by commas"),
    Variable("SCHEDULER_CALLBACK_SECRET", "callbacks.secret", "none", "signs callbacks (X-VMSH-Signature)"),
    Variable("KAS_API_BASE", "market.base", "https://api.kaspa.org", "base URL of the market upstream"),
    Variable("VITE_KAS_API_MAINNET", "market.base", "https://api.kaspa.org", "the same; KAS_API_BASE wins"),
    Variable("KAS_API_TIMEOUT_MS", "market.timeout_ms", "5000", "per upstream request in ms, 1000 or more"),
    Variable("SCHEDULER_MARKET_CACHE_TTL_MS", "market.ttl_ms", "2000", "age of price and blockdag in ms"),
    Variable("SCHEDULER_BALANCE_CACHE_TTL_MS", "market.balance_ttl_ms", "2500", "age of balances in ms"),
    Variable("SCHEDULER_AUTH_TOKENS", "auth.tokens", "none", "shared tokens of administrators, by commas"),
    Variable("SCHEDULER_AUTH_TOKEN", "auth.tokens", "none", "the same; SCHEDULER_AUTH_TOKENS wins"),
    Variable("SCHEDULER_AUTH_READS", "auth.reads", "false", "true: reading needs a token too"),
    Variable("SCHEDULER_SERVICE_TOKENS_JSON", "auth.service_tokens", "none", "tokens with their scopes"),
    Variable("SCHEDULER_JWT_HS256_SECRET", "auth.jwt_hs256_secret", "none", "secret of HS256 tokens, 32 bytes or more"),
    Variable("SCHEDULER_JWT_ISSUER", "auth.jwt_issuer", "none", "iss that tokens must have"),
    Variable("SCHEDULER_JWT_AUDIENCE", "auth.jwt_audience", "none", "aud that tokens must have"),
    Variable("SCHEDULER_JWKS_URL", "auth.jwks_url", "none", "key set of RS256 and ES256 tokens"),
    Variable("SCHEDULER_OIDC_JWKS_URL", "auth.jwks_url", "none", "the same; SCHEDULER_JWKS_URL wins"),
    Variable("SCHEDULER_JWKS_CACHE_TTL_MS", "auth.jwks_ttl_ms", "300000", "age of the key set in ms, 1000 or more"),
    Variable("SCHEDULER_OIDC_ISSUER", "auth.oidc_issuer", "none", "issuer whose key set is discovered"),
    Variable("SCHEDULER_OIDC_DISCOVERY_TTL_MS", "auth.oidc_ttl_ms", "300000", "age of the discovery in ms"),
    Variable("SCHEDULER_AUTH_HTTP_TIMEOUT_MS", "auth.http_timeout_ms", "5000", "per fetch of keys in ms, 500 or more"),
    Variable("SCHEDULER_JWKS_ALLOWED_KIDS", "auth.allowed_kids", "all", "only these keys count, by commas"),
    Variable("SCHEDULER_JWKS_ALLOWED_KIDS_FILE", "auth.allowed_kids_file", "none", "file of them, one a line; watched"),
    Variable(
        "SCHEDULER_JWKS_REQUIRE_PINNED_KID", "auth.require_pinned_kid", "false", "true: foreign keys fetch nothing"
    ),
    Variable("SCHEDULER_QUOTA_WINDOW_MS", "quota.window_ms", "60000", "length of a quota window in ms, 1000 or more"),
    Variable("SCHEDULER_QUOTA_READ_MAX", "quota.read_max", "600", "reads per principal and window"),
    Variable("SCHEDULER_QUOTA_WRITE_MAX", "quota.write_max", "240", "writes per principal and window"),
    Variable("SCHEDULER_QUOTA_TICK_MAX", "quota.tick_max", "60", "ticks per principal and window"),
    Variable("SCHEDULER_REDIS_URL", "redis.url", "none", "the Redis that instances share; it turns the API on"),
    Variable("REDIS_URL", "redis.url", "none", "the same, if the API is on; SCHEDULER_REDIS_URL wins"),
    Variable("REDIS_ADDR", "redis.url", "none", "host:port of it, if the API is on; REDIS_URL wins"),
    Variable("REDIS_HOST", "redis.url", "none", "host of it, if the API is on; REDIS_ADDR wins"),
    Variable("REDIS_PORT", "", "6379", "port beside REDIS_HOST"),
    Variable("REDIS_PASSWORD", "", "none", "password beside REDIS_HOST"),
    Variable("REDIS_DB", "", "0", "database beside REDIS_HOST"),
    Variable("SCHEDULER_REDIS_PREFIX", "redis.prefix", "forgeos:scheduler", "what every key begins with"),
    Variable("SCHEDULER_REDIS_PASSWORD_FILE", "redis.password_file", "none", "file of the password of Redis"),
    Variable(
        "SCHEDULER_REDIS_TLS_CA", "redis.tls_ca", "the system's", "file of the authorities to trust with rediss://"
    ),
    Variable(
        "SCHEDULER_REDIS_CONNECT_TIMEOUT_MS", "redis.connect_timeout_ms", "2000", "to connect, in ms, 250 or more"
    ),
    Variable("SCHEDULER_REDIS_COMMAND_TIMEOUT_MS", "redis.command_timeout_ms", "1000", "per command in ms, 50 or more"),
    Variable("SCHEDULER_REDIS_ON_DOWN", "redis.on_down", "wait", "without Redis at start: wait, standalone or exit"),
    Variable("SCHEDULER_REDIS_AUTHORITATIVE_QUEUE", "redis.authoritative", "true", "false is refused"),
    Variable("SCHEDULER_REDIS_RESET_EXEC_QUEUE_ON_BOOT", "redis.reset_on_boot", "false", "true is refused"),
    Variable("SCHEDULER_LEADER_LOCK_TTL_MS", "redis.lock_ttl_ms", "5000", "life of the leader's lock in ms"),
    Variable(
        "SCHEDULER_LEADER_LOCK_RENEW_MS", "redis.lock_renew_ms", "a third of it", "how often it is renewed, in ms"
    ),
    Variable("SCHEDULER_LEADER_LOCK_RENEW_JITTER_MS", "redis.renew_jitter_ms", "not used", "renewals keep time"),
    Variable(
        "SCHEDULER_LEADER_ACQUIRE_BACKOFF_MIN_MS",
        "redis.backoff_min_ms",
        "150",
        "first wait for the lock in ms",
    ),
    Variable(
        "SCHEDULER_LEADER_ACQUIRE_BACKOFF_MAX_MS",
        "redis.backoff_max_ms",
        "2000",
        "longest wait for the lock in ms",
    ),
    Variable("SCHEDULER_JOB_LEASE_TTL_MS", "redis.job_lease_ms", "15000", "lease of a due agent in ms, 1000 or more"),
    Variable("SCHEDULER_MAX_DUE_CLAIMS_PER_TICK", "redis.max_claims", "not used", "claims follow permits"),
    Variable(
        "SCHEDULER_REDIS_EXEC_LEASE_TTL_MS",
        "redis.exec_lease_ms",
        "30000 or longer",
        "lease of a claimed run in ms, 2000 or more",
    ),
    Variable("SCHEDULER_REDIS_EXEC_REQUEUE_BATCH", "redis.requeue_batch", "not used", "all lost runs are found"),
    Variable(
        "SCHEDULER_CALLBACK_IDEMPOTENCY_TTL_MS",
        "redis.dedupe_ttl_ms",
        "86400000",
        "how long a taken callback is remembered, in ms",
    ),
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


REDIS_PARTS = frozenset({"REDIS_ADDR", "REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD", "REDIS_DB"})
"""Of an address that `redis_url` puts together; every other variable is a whole value."""


def redis_url(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Variable and URL: REDIS_ADDR, else REDIS_HOST with its port, password and database."""
    given = {variable.name: value_of(variable, environ) or "" for variable in VARIABLES if variable.name in REDIS_PARTS}
    if address := given["REDIS_ADDR"]:
        return "REDIS_ADDR", address if "://" in address else f"redis://{address}"
    if not (host := given["REDIS_HOST"]):
        return None
    login = f":{quote(given['REDIS_PASSWORD'], safe='')}@" if given["REDIS_PASSWORD"] else ""
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return "REDIS_HOST", f"redis://{login}{host}:{given['REDIS_PORT'] or 6379}/{given['REDIS_DB'] or 0}"
