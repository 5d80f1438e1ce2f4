"""namespaces.yaml and agents.yaml as pydantic models: every field, its limits, its JSON Schema.

What needs two fields at once (levels, names, the choice of a callback) is judged by namespaces.py and agents.py."""

import re
from collections.abc import Callable
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.sources import grammar
from vmsh_scheduler.sources.model import Model

REGEX_LIMIT = 500
ARGUMENT_LIMIT = 8_192
_URL = r"https?://[^\s/?#@]+([/?#]\S*)?"
_URL_WANTED = "not a URL: http:// or https://, a host, no user information in front of it"


def _text(check: Callable[[str], object]) -> AfterValidator:
    """Keeps the text as written if `check` does not raise."""

    def keep(text: str) -> str:
        check(text)
        return text

    return AfterValidator(keep)


def _matching(pattern: str, otherwise: str) -> AfterValidator:
    """Refuses text that `pattern` does not cover, in the words of `otherwise`."""

    def check(text: str) -> None:
        if re.fullmatch(pattern, text) is None:
            raise ValueError(otherwise)

    return _text(check)


def _period(text: object) -> object:
    """Before the type check, so that a bare number is told what it lacks."""
    grammar.every(text)
    return text


def _regex(pattern: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        # the reason quotes names of groups, which are a part of the value
        reason = re.sub("'.*'", "'...'", error.msg) if isinstance(error, re.error) else "too large"
        raise ValueError(f"not a regular expression: {reason}") from None


def _argument(text: str) -> None:
    if "\0" in text:
        raise ValueError("a command's argument cannot hold a NUL character")


def _program(argv: tuple[str, ...]) -> tuple[str, ...]:
    if not argv[0].strip():
        raise ValueError("the first item is the program to start and cannot be empty")
    return argv


def _glob(pattern: str) -> None:
    if pattern.startswith("/") or ".." in pattern.split("/"):
        raise ValueError("a glob is relative to `base` and has no `..`")


def _wallet(text: str) -> str:
    """Trimmed and lower-cased (forge-os section 5)."""
    wallet = text.strip().lower()
    if not re.fullmatch(r"kaspa(test)?:[a-z0-9]+", wallet):
        raise ValueError("must be kaspa:<address> or kaspatest:<address>")
    return wallet


def _identity(text: str) -> None:
    grammar.plain_name(text, longest=120)
    if "/" in text:
        raise ValueError("`/` separates the parts of a job's id and cannot be inside one")


Duration = Annotated[
    Millis,
    BeforeValidator(grammar.duration),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]+([mM][sS]|[sSmMhHdD])$", "examples": ["30s", "5m"]}),
]
Argument = Annotated[str, Field(max_length=ARGUMENT_LIMIT), _text(_argument)]
Argv = Annotated[tuple[Argument, ...], Field(strict=False, min_length=1, max_length=256), AfterValidator(_program)]
Texts = Annotated[tuple[str, ...], Field(strict=False)]
VariableName = Annotated[
    str,
    Field(max_length=200),
    _matching("[A-Za-z_][A-Za-z0-9_]*", "not a variable's name: letters, digits and `_`, no digit in front"),
]
Globs = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=1_024), _text(_argument), _text(_glob)], ...],
    Field(strict=False, min_length=1, max_length=1_000),
]
Count = Annotated[int, Field(ge=1, le=2**63 - 1)]


class LimitsSpec(Model):
    """setrlimit(2) for a command."""

    cpu_seconds: Count | None = Field(default=None, description="CPU time, seconds.")
    address_space: Count | None = Field(default=None, description="Virtual memory, bytes.")
    file_size: Count | None = Field(default=None, description="Largest file it may write, bytes.")
    open_files: Count | None = Field(default=None, description="Open descriptors.")
    processes: Count | None = Field(default=None, description="Processes of the user.")


class MultipliersSpec(Model):
    """Factor on the wait by class of error (defaults: vaultmesh section 8)."""

    network: float = Field(default=1.0, gt=0, le=1_000)
    auth: float = Field(default=2.0, gt=0, le=1_000)
    validation: float = Field(default=0.5, gt=0, le=1_000)
    unknown: float = Field(default=1.0, gt=0, le=1_000)


class RuleSpec(Model):
    """First match wins: an exit code or a pattern on the output's tail names the class of the error."""

    exit: int | None = Field(default=None, ge=1, le=255, description="Exit code.")
    stderr: Annotated[str, Field(min_length=1, max_length=REGEX_LIMIT), _text(_regex)] | None = Field(
        default=None, description="Python regular expression, searched in the last 4 KiB of output."
    )
    error: Literal["network", "auth", "validation", "unknown"] = Field(alias="class")

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.exit is None) is (self.stderr is None):
            raise ValueError("takes either `exit` or `stderr`")
        return self


class RetrySpec(Model):
    """phi-backoff: base * 1.618^k * multiplier, k at most `max`; retries never stop."""

    base: Duration | None = Field(default=None, description="Default: VMSH_BASE_BACKOFF (5s).")
    max: int | None = Field(default=None, ge=0, le=30, description="Largest k. Default: VMSH_MAX_BACKOFF (7).")
    multipliers: MultipliersSpec = MultipliersSpec()
    jitter: float = Field(default=0.0, ge=0, le=1, description="Largest share of each wait that is added. Default: 0.")
    rules: Annotated[tuple[RuleSpec, ...], Field(strict=False, max_length=100)] = ()


class CommandSpec(Model):
    """How a command is run, whatever it is for."""

    timeout: Duration | None = Field(default=None, description="TERM to the process group after this long.")
    grace: Duration | None = Field(default=None, description="From TERM to KILL. Default: 10s.")
    env: dict[VariableName, Argument] = Field(default={}, description="Added to the allow-listed environment.")
    pass_env: Annotated[tuple[VariableName, ...], Field(strict=False, max_length=200)] = Field(
        default=(), description="Names let through from the daemon's environment."
    )
    cwd: Annotated[str, Field(min_length=1, max_length=4_096), _text(_argument)] | None = Field(
        default=None, description="Working directory, relative to the root. Default: the root."
    )
    umask: Annotated[str, _matching("0?[0-7]{3}", 'not a umask: three octal digits, such as "077"')] | None = Field(
        default=None, description='Octal, quoted: "077".', json_schema_extra={"pattern": "^0?[0-7]{3}$"}
    )
    limits: LimitsSpec | None = None
    outlive: bool = Field(default=False, description="Leave processes it put in the background alone when it ends.")


class CadenceSpec(CommandSpec):
    """One level: what is anchored where, how often, by which command."""

    target: Annotated[str, _text(grammar.target)] = Field(
        description="eip155:<chainId> | btc:<network> | rfc3161:<name> | ots:<name> | local:<ledger>",
        json_schema_extra={"pattern": "^(eip155:[1-9][0-9]*|btc:[a-z0-9]+|rfc3161:.+|ots:.+|local:.+)$"},
    )
    every: Annotated[str, BeforeValidator(_period)] = Field(
        description="<n>s|m|h|d, or <n>*<level> of the same namespace.",
        json_schema_extra={"pattern": r"^([0-9]+[sSmMhHdD]|[0-9]+\*[a-z][a-z0-9_-]*)$"},
        examples=["89s", "1d", "34*fast"],
    )
    confirmations: int | None = Field(default=None, ge=0, le=1_000_000, description="Handed to the command.")
    policy_oid: (
        Annotated[
            str,
            Field(max_length=200),
            _matching(r"([0-2](\.[0-9]+)+)?", 'not an OID: dotted numbers, such as "1.2.3.4", or ""'),
        ]
        | None
    ) = Field(default=None, alias="policyOID", description='TSA policy; "" = none.')
    command: Argv | None = Field(
        default=None,
        description="argv, no shell. Default: `commands.<scheme>` of scheduler.yaml, else anchors.yaml's rail.",
    )
    misfire_grace: Duration | None = Field(
        default=None, description="Slots older than this are not run. Default: one period (all: ten; skip: 10s)."
    )
    catch_up: Literal["once", "skip", "all"] = Field(default="once", description="What to do with missed slots.")
    overlap: Literal["skip", "wait", "allow"] = Field(
        default="skip", description="What a slot does while the last run is not over."
    )
    splay: Duration | None = Field(default=None, description="Shift by a stable hash of the name, less than this.")
    probe: Argv | None = Field(default=None, description="argv asking whether an unknown run landed: 0 yes, 1 no.")
    on_unknown: Literal["retry", "hold"] | None = Field(
        default=None, description="A run whose end nobody saw. Default: hold for eip155 and btc, else retry."
    )
    reanchor: bool = Field(default=False, description="Run again though nothing changed.")
    crash_exact: bool = Field(default=True, description="Outcomes survive the daemon's death (run records).")
    retry: RetrySpec = RetrySpec()
    enabled: bool = True


class WitnessesSpec(Model):
    """Kept for the readers of the file that judge events; the scheduler does not use it."""

    min_required: int = Field(ge=1, le=10_000)
    allowlist: Texts


class SchemaPolicySpec(Model):
    """Kept for the readers of the file that judge events; the scheduler does not use it."""

    allow: Texts


class SealSpec(Model):
    """Each due slot seals a batch first: over files, or over the heads of the scheduler's own journal."""

    files: Globs | None = Field(default=None, description="Globs, relative to `base`; `**` crosses directories.")
    journal: bool = Field(default=False, description="In place of `files`: the journal of all other jobs.")
    base: Annotated[str, Field(min_length=1, max_length=4_096), _text(_argument)] = Field(
        default=".", description="Relative to the root."
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.files is None) is not self.journal:
            raise ValueError("takes either `files` or `journal: true`")
        if self.journal and "base" in self.model_fields_set:
            raise ValueError("`base` is for `files`: the journal is found by itself")
        return self


class NamespaceSpec(Model):
    """What is anchored under one name."""

    description: str | None = None
    witnesses: WitnessesSpec | None = None
    schema_policy: SchemaPolicySpec | None = None
    seal: SealSpec | None = None
    on_anchor: Argv | None = Field(
        default=None, description="argv, no shell: run after each anchor, the attestation as JSON on its stdin."
    )
    cadence: dict[str, CadenceSpec] = Field(
        description="Level -> cadence; `fast` is required, others may have any lower-case name.",
        json_schema_extra={
            "propertyNames": {"pattern": "^[a-z][a-z0-9_-]{0,63}$"},
            "required": ["fast"],
        },
    )


class NamespacesFile(Model):
    """namespaces.yaml: what is anchored where, how often."""

    namespaces: dict[str, NamespaceSpec] = Field(json_schema_extra={"propertyNames": {"pattern": "^[^_].*$"}})


class CallbackSpec(CommandSpec):
    """What a cycle does: `command` (a subprocess, JSON on stdin) or `url` (an HTTP POST)."""

    command: Argv | None = Field(default=None, description="argv, no shell.")
    url: Annotated[str, Field(max_length=500), _matching(_URL, _URL_WANTED)] | None = Field(
        default=None, description="http or https, without user information."
    )


class AgentSpec(Model):
    """One Forge agent; field names as in its registration over HTTP."""

    agent_id: Annotated[str, Field(min_length=1), _text(_identity)] = Field(alias="agentId")
    user_id: Annotated[str, Field(min_length=1), _text(_identity)] = Field(default="anon", alias="userId")
    name: Annotated[str, Field(min_length=1, max_length=120)] | None = Field(
        default=None, description="Default: agentId."
    )
    wallet_address: Annotated[str, AfterValidator(_wallet)] = Field(alias="walletAddress")
    strategy_label: Annotated[str, Field(max_length=120)] = Field(default="Custom", alias="strategyLabel")
    cycle_interval_ms: int = Field(
        default=15_000, alias="cycleIntervalMs", ge=1, le=grammar.LONGEST, description="ms; raised to 1000."
    )
    status: Literal["RUNNING", "PAUSED"] = "RUNNING"
    callback: CallbackSpec


class AgentsFile(Model):
    """agents.yaml: Forge agents woken by this scheduler without an API."""

    agents: Annotated[tuple[AgentSpec, ...], Field(strict=False)] = ()
