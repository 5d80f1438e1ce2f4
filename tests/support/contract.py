"""One daemon with its market and its consumer, for a whole module of tests; names and orders of the contract."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.daemon import Daemon, Place, until
from tests.support.forge import WALLET, Forge, Got, Stub, forge, stub

RECORD = [
    "userId",
    "id",
    "name",
    "walletAddress",
    "status",
    "cycleIntervalMs",
    "callbackUrl",
    "strategyLabel",
    "createdAt",
    "updatedAt",
    "lastCycleAt",
    "nextRunAt",
    "lastDispatch",
    "failureCount",
    "queuePending",
]
VIEW = [
    "id",
    "userId",
    "name",
    "walletAddress",
    "strategyLabel",
    "status",
    "cycleIntervalMs",
    "nextRunAt",
    "lastCycleAt",
    "failureCount",
    "queuePending",
    "lastDispatch",
    "callbackConfigured",
    "updatedAt",
]
COUNTERS = [
    "http_requests_total",
    "ticks_total",
    "due_agents_total",
    "dispatch_queued_total",
    "dispatch_started_total",
    "dispatch_completed_total",
    "dispatch_failed_total",
    "callback_success_total",
    "callback_error_total",
    "callback_dedupe_skipped_total",
    "queue_full_total",
    "saturation_events_total",
    "auth_failures_total",
    "auth_success_total",
    "auth_jwks_success_total",
    "auth_scope_denied_total",
    "quota_checks_total",
    "quota_exceeded_total",
    "redis_ops_total",
    "redis_errors_total",
    "redis_exec_claimed_total",
    "redis_exec_acked_total",
    "redis_exec_requeued_expired_total",
    "redis_exec_recovered_on_boot_total",
    "redis_exec_reset_on_boot_total",
    "leader_acquired_total",
    "leader_renew_failed_total",
    "leader_acquire_backoff_total",
    "jwks_fetch_total",
    "jwks_fetch_errors_total",
    "jwks_cache_hits_total",
    "oidc_discovery_fetch_total",
    "oidc_discovery_fetch_errors_total",
    "oidc_discovery_cache_hits_total",
]
GAUGES = [
    "agents_registered",
    "cycle_queue_depth",
    "cycle_in_flight",
    "redis_enabled",
    "redis_connected",
    "redis_authoritative_queue_enabled",
    "redis_exec_queue_ready_depth",
    "redis_exec_queue_processing_depth",
    "redis_exec_queue_inflight_depth",
    "leader_active",
    "leader_fence_token",
    "uptime_seconds",
]
HISTOGRAMS = ("upstream_latency_ms", "callback_latency_ms")


@dataclass(frozen=True, slots=True)
class World:
    """A booted daemon and what is around it."""

    place: Place
    api: Forge
    upstream: Stub
    consumer: Stub

    @property
    def daemon(self) -> Daemon:
        return self.api.daemon

    def hook(self, path: str) -> str:
        """URL of a path of the consumer."""
        return f"{self.consumer.url}{path}"

    def register(self, user: str = "user-123", **body: object) -> Got:
        return self.api.ask("POST", "/v1/agents/register", {"walletAddress": WALLET, **body}, X_User_Id=user)

    def control(self, id: str, action: object, user: str = "user-123", **headers: str) -> Got:
        return self.api.ask("POST", f"/v1/agents/{id}/control", {"action": action}, X_User_Id=user, **headers)

    def dispatched(self, id: str) -> Mapping[str, Any]:
        """The agent's line, once its first dispatch is over."""
        return until(
            lambda: seen if (seen := self.api.agent(id)) and seen["lastDispatch"] else None, f"a dispatch of {id}"
        )

    def metric(self, name: str) -> float:
        """An unlabelled sample, read as the original's readers do: `^name\\s+digits(.digits)?$`."""
        text = self.api.ask("GET", "/metrics").body.decode()
        found = re.findall(rf"^forgeos_scheduler_{name}\s+([0-9]+(?:\.[0-9]+)?)$", text, re.MULTILINE)
        assert len(found) == 1, (name, found)
        return float(found[0])


@contextmanager
def world(root: Path, prepare: Callable[[Place], None] = lambda _: None, /, **env: str) -> Iterator[World]:
    """Configured by environment alone, but for what `prepare` writes."""
    place = Place(root)
    prepare(place)
    with stub() as upstream, stub() as consumer:
        try:
            yield World(place, forge(place, upstream, **env), upstream, consumer)
        finally:
            place.close()


def error(got: Got) -> tuple[int, Any]:
    """Status and what stands under `error`, which is all there is."""
    assert list(got.json) == ["error"], got
    assert got.headers["Content-Type"] == "application/json"
    return got.status, got.json["error"]
