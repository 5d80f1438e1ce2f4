"""Requests, replies and refusals of every route as models, for the API's description and its tests.

Load it only where it is needed: nothing that answers a request is built on it, as what is accepted is wider than
what is recommended (forge-os section 5).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
Instant = Annotated[int, Field(ge=0, description="Milliseconds since 1970, UTC.")]
Number = int | float


class Reply(BaseModel):
    """What we send: exactly these fields."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Asked(BaseModel):
    """What is sent to us: further fields are ignored."""

    model_config = ConfigDict(extra="ignore")


class RegisterRequest(Asked):
    """`agentId` or `id`, and `walletAddress`, are needed; what is left out has its default."""

    agentId: str | Number | None = Field(default=None, description="1 to 120 printable characters.")
    id: str | Number | None = Field(default=None, description="Counts if agentId is absent.")
    walletAddress: str | None = Field(default=None, description="Begins with kaspa: or kaspatest:.")
    cycleIntervalMs: str | Number | None = Field(default=None, description="Default 15000; at least 1000.")
    cycleMs: str | Number | None = Field(default=None, description="Counts if cycleIntervalMs is absent.")
    name: str | None = Field(default=None, description="Default: the id; cut to 120 characters.")
    strategyLabel: str | None = Field(default=None, description="Default: Custom; cut to 120 characters.")
    callbackUrl: str | None = Field(default=None, description="http or https; empty: cycles run without a POST.")
    status: str | None = Field(default=None, description="PAUSED pauses; anything else runs.")
    userId: str | None = Field(default=None, description="The owner, where access is open and no header says it.")


class ControlRequest(Asked):
    """What to do with the agent."""

    action: Literal["pause", "resume", "remove"] = Field(description="In any case.")
    userId: str | None = Field(default=None, description="The owner, where access is open and no header says it.")


class Problem(Reply):
    """Why not."""

    message: str = Field(description="A stable code; of 502 a sentence.")
    required_scope: str | None = None
    bucket: str | None = None
    limit: int | None = None
    key: str | None = None
    file: str | None = None


class Error(Reply):
    """The shape of every answer that is no success."""

    error: Problem


class Dispatched(Reply):
    """The last cycle went well."""

    ok: Literal[True]
    ts: Instant
    durationMs: Count
    callbackUrl: str | None = None
    callbackIdempotencyKey: str
    callbackDeduped: bool
    snapshotDaa: Number | None
    snapshotPriceUsd: Number | None


class NotDispatched(Reply):
    """The last cycle failed; without a duration, it was turned away by a full queue."""

    ok: Literal[False]
    ts: Instant
    durationMs: Count | None = None
    error: str


LastDispatch = Annotated[Dispatched | NotDispatched | None, Field(description="null before the first cycle.")]


class Agent(Reply):
    """What the list and the record have in common."""

    id: str
    userId: str
    name: str
    walletAddress: str
    strategyLabel: str
    status: Literal["RUNNING", "PAUSED"]
    cycleIntervalMs: Count
    nextRunAt: Instant
    lastCycleAt: Instant
    failureCount: Count
    queuePending: bool
    lastDispatch: LastDispatch
    updatedAt: Instant


class AgentRecord(Agent):
    """An agent as register and control answer it."""

    callbackUrl: str
    createdAt: Instant


class AgentView(Agent):
    """An agent as the list shows it: without the callback's URL."""

    callbackConfigured: bool


class AgentList(Reply):
    """The agents that the caller may see."""

    agents: list[AgentView]
    ts: Instant


class Registered(Reply):
    """A new agent, or the one that took its place."""

    ok: Literal[True]
    key: str
    agent: AgentRecord


class Controlled(Reply):
    """null: removed."""

    ok: Literal[True]
    action: Literal["pause", "resume", "remove"]
    key: str
    agent: AgentRecord | None


class Ticked(Reply):
    """The engine has looked."""

    ok: Literal[True]
    ts: Instant
    queueDepth: Count
    inFlight: Count
    agents: Count


class Dag(Reply):
    """Of the block DAG."""

    daaScore: Number
    network: str


class Snapshot(Reply):
    """Of one wallet."""

    ts: Instant
    address: str
    priceUsd: Number
    dag: Dag
    walletKas: Number


class SnapshotAges(Reply):
    """How old each part is."""

    priceAgeMs: Count
    blockdagAgeMs: Count
    balanceAgeMs: Count


class MarketSnapshot(Reply):
    """What an agent's callback gets, and how old it is."""

    snapshot: Snapshot
    cache: SnapshotAges


class Load(Reply):
    """Of the pool that cycles run in."""

    queueDepth: Count
    queueCapacity: Count
    inFlight: Count
    concurrency: Count
    saturated: bool
    redisAuthoritativeQueue: bool


class TelemetryLoad(Load):
    """With one figure for it all."""

    saturationProxyPct: Annotated[int, Field(ge=0, le=100)]
    redisExecQueue: dict[str, Any] | None


class Callbacks(Reply):
    """Since the start."""

    successTotal: Count
    errorTotal: Count
    dedupeSkippedTotal: Count
    latencyP95BucketMs: Number | None


class Telemetry(Reply):
    """For those who decide how much more to send."""

    ok: Literal[True]
    service: str
    scheduler: TelemetryLoad
    callbacks: Callbacks
    ts: Instant


class Leader(Reply):
    """Who works on the agents."""

    instanceId: str
    active: bool
    lastRenewedAt: Instant | None
    nextRenewAt: Instant | None
    lockTtlMs: Count | None
    fenceToken: Count
    acquireBackoffUntil: Instant | None


class HealthLoad(Load):
    """With who leads."""

    tickMs: Count
    redisQueue: dict[str, Any] | None
    leader: Leader


class AgentCounts(BaseModel):
    """How many there are."""

    count: Count
    running: Count
    paused: Count


class MarketAges(Reply):
    """null: nothing yet."""

    priceAgeMs: Count | None
    blockdagAgeMs: Count | None
    balanceEntries: Count


class Health(BaseModel):
    """Always 200. Further fields say how anchoring is doing; `status` sums it up."""

    ok: Literal[True]
    service: str
    kasApiBase: str
    status: Literal["healthy", "degraded", "unhealthy"]
    uptime: Number
    lastTick: Instant
    namespaces: dict[str, dict[str, Any]]
    scheduler: HealthLoad
    auth: dict[str, Any]
    redis: dict[str, Any]
    agents: AgentCounts
    cache: MarketAges
    ts: Instant


@dataclass(frozen=True, slots=True)
class Contract:
    """Of one route: `reply` is a model, or the content type of what is no JSON; `refusals`: status -> its codes."""

    reply: type[BaseModel] | str
    refusals: Mapping[int, tuple[str, ...]]
    request: type[BaseModel] | None = None
    query: Mapping[str, str] | None = None
    """Name -> what it is; all are needed."""


ANY = "*"
"""Among codes: the text is not fixed."""
EVERYWHERE: Mapping[int, tuple[str, ...]] = {
    400: ("bad_request",),
    401: ("unauthorized",),
    403: ("forbidden",),
    421: ("misdirected",),
    429: ("quota_exceeded",),
}
"""Of every route; 401 and 403 where a token is needed, 429 where there is a quota, 421 on loopback listeners."""
_BODY: Mapping[int, tuple[str, ...]] = {
    403: ("origin_not_allowed", "json_required"),
    408: ("request_timeout",),
    413: ("payload_too_large",),
    503: (ANY,),
}
_REGISTER = (
    "invalid_json",
    "invalid_body",
    "agent_id_required",
    "agent_id_invalid",
    "user_id_invalid",
    "wallet_address_required",
    "wallet_address_invalid",
    "cycle_interval_invalid",
    "callback_url_invalid",
    "max_agents_reached",
)
_WRITE = {**_BODY, 403: (*_BODY[403], "agent_is_configured")}

CONTRACTS: Mapping[str, Contract] = {
    "GET /health": Contract(Health, {}),
    "GET /metrics": Contract("text/plain", {}),
    "GET /v1/telemetry-summary": Contract(Telemetry, {}),
    "GET /v1/agents": Contract(AgentList, {}),
    "POST /v1/agents/register": Contract(Registered, {**_WRITE, 400: _REGISTER}, RegisterRequest),
    "POST /v1/agents/{id}/control": Contract(
        Controlled,
        {**_WRITE, 400: ("invalid_json", "invalid_body", "invalid_path", "invalid_action"), 404: ("agent_not_found",)},
        ControlRequest,
    ),
    "GET /v1/market-snapshot": Contract(
        MarketSnapshot, {400: ("address_required",), 502: (ANY,)}, query={"address": "kaspa: or kaspatest: address"}
    ),
    "POST /v1/scheduler/tick": Contract(Ticked, {**_BODY, 400: ("invalid_body",)}),
    "GET /openapi.json": Contract("application/json", {}),
    "GET /docs": Contract("text/html", {}),
}
"""By label of the route."""
