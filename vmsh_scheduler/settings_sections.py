"""The sections of scheduler.yaml that the API brings: who may ask what, agents, callbacks, the market."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from vmsh_scheduler.domain.trigger import DAY, HOUR, Millis
from vmsh_scheduler.sources.model import Model

LONGEST = 8_192


class ApiSection(Model):
    """The listener."""

    port: int = Field(default=8790, ge=0, le=65_535, description="Port of the API; 0 = any free one.")
    host: str = Field(default="127.0.0.1", min_length=1, max_length=253, description="Address of the API.")
    allow_unauthenticated: bool = Field(
        default=False, description="true = serve without authentication on an address that others reach."
    )
    origins: tuple[str, ...] = Field(
        default=("*",), max_length=100, description="Origins that browsers may call from (CORS)."
    )
    hosts: tuple[str, ...] = Field(
        default=(), max_length=100, description="Further names in Host that are answered on a loopback address."
    )
    instance: str = Field(default="", max_length=120, description="Name of this instance; default: made at start.")


class AgentsSection(Model):
    """Cycles."""

    tick_ms: Millis = Field(default=1_000, le=DAY, description="How long agents wait after a start, ms; 250 or more.")
    concurrency: int = Field(default=4, le=1_024, description="Most cycles at the same time.")
    max: int = Field(default=5_000, le=1_000_000, description="Most agents registered over the API.")
    max_per_user: int = Field(default=0, ge=0, le=1_000_000, description="Most of them of one user; 0 = no limit.")
    queue: int = Field(default=10_000, le=1_000_000, description="Most cycles that wait.")


class CallbacksSection(Model):
    """Outgoing calls."""

    timeout_ms: Millis = Field(default=4_000, le=HOUR, description="Until the answer's head, ms; 500 or more.")
    allow: tuple[str, ...] = Field(
        default=(), max_length=1_000, description="Hosts, host:port and CIDRs to call in any case."
    )
    secret: str = Field(
        default="",
        max_length=LONGEST,
        repr=False,
        description="Signs callbacks (X-VMSH-Signature), 16 bytes or more; better from the environment.",
    )


class MarketSection(Model):
    """Where the snapshot comes from."""

    base: str = Field(
        default="https://api.kaspa.org", min_length=1, max_length=500, description="Base URL of the upstream."
    )
    timeout_ms: Millis = Field(default=5_000, le=HOUR, description="Per upstream request, ms; 1000 or more.")
    ttl_ms: Millis = Field(default=2_000, le=DAY, description="Age of price and blockdag, ms; 250 or more.")
    balance_ttl_ms: Millis = Field(default=2_500, le=DAY, description="Age of balances, ms; 250 or more.")
    stale_if_error_ms: Millis = Field(
        default=0, ge=0, le=DAY, description="How long older values serve when the upstream fails, ms."
    )


class AuthSection(Model):
    """Who may ask. Secrets belong into the environment or a file that `--env-file` names."""

    tokens: tuple[str, ...] = Field(
        default=(),
        max_length=1_000,
        repr=False,
        description="Shared tokens of administrators.",
    )
    service_tokens: str = Field(
        default="", max_length=1 << 20, repr=False, description="Tokens with their scopes, as JSON text."
    )
    reads: bool = Field(default=False, description="Reading needs a token too.")
    jwt_hs256_secret: str = Field(
        default="", max_length=LONGEST, repr=False, description="Secret of HS256 tokens, 32 bytes or more."
    )
    jwt_issuer: str = Field(default="", max_length=LONGEST, description="`iss` that tokens must have.")
    jwt_audience: str = Field(default="", max_length=LONGEST, description="`aud` that tokens must have.")
    jwks_url: str = Field(default="", max_length=LONGEST, description="Key set of RS256 and ES256 tokens.")
    jwks_ttl_ms: Millis = Field(default=300_000, le=DAY, description="Age of the key set, ms; 1000 or more.")
    oidc_issuer: str = Field(default="", max_length=LONGEST, description="Issuer whose key set is discovered.")
    oidc_ttl_ms: Millis = Field(default=300_000, le=DAY, description="Age of the discovery, ms; 1000 or more.")
    http_timeout_ms: Millis = Field(default=5_000, le=HOUR, description="Per fetch of keys, ms; 500 or more.")
    allowed_kids: tuple[str, ...] = Field(default=(), max_length=1_000, description="Only these keys count.")
    allowed_kids_file: str = Field(
        default="", max_length=LONGEST, description="File of the keys that count, one kid a line; watched."
    )
    require_pinned_kid: bool = Field(default=False, description="Foreign keys are refused before anything is fetched.")
    legacy_claims: bool = Field(default=False, description="Take tokens without exp and sub, as the original did.")


class QuotaSection(Model):
    """Requests per principal and window."""

    window_ms: Millis = Field(default=60_000, le=DAY, description="Length of a window, ms; 1000 or more.")
    read_max: int = Field(default=600, le=1_000_000_000, description="Reads per window.")
    write_max: int = Field(default=240, le=1_000_000_000, description="Writes per window.")
    tick_max: int = Field(default=60, le=1_000_000_000, description="Ticks per window.")


class RedisSection(Model):
    """The store that instances share; without a URL there is none."""

    url: str = Field(
        default="",
        max_length=LONGEST,
        repr=False,
        description="redis://, rediss://, unix:// or redis+sentinel:// URL; better from the environment.",
    )
    prefix: str = Field(
        default="forgeos:scheduler",
        pattern=r"^[^\s*?]{1,200}$",
        description="What every key begins with; on a Redis Cluster with a hash tag, such as {vmsh}.",
    )
    password_file: str = Field(
        default="", max_length=LONGEST, description="File of the password; read when it connects."
    )
    tls_ca: str = Field(default="", max_length=LONGEST, description="File of the authorities to trust with rediss://.")
    tls_cert: str = Field(default="", max_length=LONGEST, description="File of our own certificate.")
    tls_key: str = Field(default="", max_length=LONGEST, description="File of its key.")
    connect_timeout_ms: Millis = Field(default=2_000, le=HOUR, description="To connect, ms; 250 or more.")
    command_timeout_ms: Millis = Field(default=1_000, le=HOUR, description="Per command, ms; 50 or more.")
    on_down: Literal["wait", "standalone", "exit"] = Field(
        default="wait", description="Without Redis at start: wait for it, go on alone from disk, or exit."
    )
    authoritative: bool = Field(default=True, description="false is refused: every instance would wake every agent.")
    reset_on_boot: bool = Field(
        default=False, description="true is refused: a queue that others work on is not emptied."
    )
    lock_ttl_ms: Millis = Field(default=5_000, le=HOUR, description="Life of the leader's lock, ms; 1000 or more.")
    lock_renew_ms: Millis = Field(
        default=0, ge=0, le=HOUR, description="How often it is renewed, ms; 0 = a third of its life, which is the most."
    )
    backoff_min_ms: Millis = Field(default=150, le=HOUR, description="First wait for the lock, ms; 50 or more.")
    backoff_max_ms: Millis = Field(default=2_000, le=HOUR, description="Longest wait for the lock, ms; 50 or more.")
    job_lease_ms: Millis = Field(default=15_000, le=DAY, description="Lease of a due agent, ms; 1000 or more.")
    exec_lease_ms: Millis = Field(
        default=0, ge=0, le=DAY, description="Lease of a claimed run, ms; 0 = 30000, or longer where callbacks may be."
    )
    renew_jitter_ms: int = Field(default=0, ge=0, le=HOUR, description="Of the original; taken, without effect here.")
    requeue_batch: int = Field(default=0, ge=0, le=100_000, description="Of the original; taken, without effect here.")
    max_claims: int = Field(default=0, ge=0, le=100_000, description="Of the original; taken, without effect here.")
    dedupe_ttl_ms: Millis = Field(
        default=DAY, le=30 * DAY, description="How long a taken callback is remembered, ms; 1000 or more."
    )


SECTIONS: dict[str, type[Model]] = {
    "api": ApiSection,
    "agents": AgentsSection,
    "callbacks": CallbacksSection,
    "market": MarketSection,
    "auth": AuthSection,
    "quota": QuotaSection,
    "redis": RedisSection,
}

FLOORS: Mapping[str, int] = {
    "agents.tick_ms": 250,
    "agents.concurrency": 1,
    "agents.max": 1,
    "agents.queue": 1,
    "callbacks.timeout_ms": 500,
    "market.timeout_ms": 1_000,
    "market.ttl_ms": 250,
    "market.balance_ttl_ms": 250,
    "auth.jwks_ttl_ms": 1_000,
    "auth.oidc_ttl_ms": 1_000,
    "auth.http_timeout_ms": 500,
    "quota.window_ms": 1_000,
    "quota.read_max": 1,
    "quota.write_max": 1,
    "quota.tick_max": 1,
    "redis.connect_timeout_ms": 250,
    "redis.command_timeout_ms": 50,
    "redis.lock_ttl_ms": 1_000,
    "redis.backoff_min_ms": 50,
    "redis.backoff_max_ms": 50,
    "redis.job_lease_ms": 1_000,
    "redis.dedupe_ttl_ms": 1_000,
}
"""Smaller numbers are raised to these, not refused (forge-os section 1). Beside the models: validators of each field
would be felt at start."""
