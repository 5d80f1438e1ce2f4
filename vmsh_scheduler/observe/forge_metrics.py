"""`forgeos_scheduler_*`, in plain decimals: readers of the original match `name digits` (forge-os section 13)."""

from collections.abc import Mapping
from typing import Protocol

from vmsh_scheduler.domain.action import Callback
from vmsh_scheduler.domain.events import Event, Finished, Queued, Started, Ticked, TurnedAway
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.run import Status

PREFIX = "forgeos_scheduler_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (50, 100, 250, 500, 1_000, 2_500, 5_000)
COUNTERS = (
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
)


class Answered(Protocol):
    """What the door counted (api.surface.Tally)."""

    answers: dict[tuple[str, int], int]
    counts: dict[str, int]


class Hits(Protocol):
    """What one cache counted (market.cache.Counts)."""

    @property
    def hits(self) -> int: ...
    @property
    def inflight(self) -> int: ...
    @property
    def misses(self) -> int: ...
    @property
    def errors(self) -> int: ...


class Latency:
    """A histogram with the original's bounds."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0

    def observe(self, ms: float) -> None:
        self._counts[sum(ms > bound for bound in BUCKETS)] += 1
        self._sum += ms

    def bound(self, share: float, most: int) -> int | None:
        """The smallest bound that holds `share` of the samples; `most` if none does, None without samples."""
        total, seen = sum(self._counts), 0
        for bound, count in zip(BUCKETS, self._counts, strict=False):
            seen += count
            if total and seen >= share * total:
                return bound
        return most if total else None

    def lines(self, name: str) -> list[str]:
        seen, lines = 0, [f"# TYPE {name} histogram"]
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self._counts, strict=True):
            seen += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {seen}')
        return [*lines, f"{name}_sum {plain(self._sum)}", f"{name}_count {seen}"]


class ForgeMetrics:
    """An observer of the engine, of callbacks and of the upstream."""

    def __init__(self) -> None:
        self.callback_latency = Latency()
        self.upstream_latency = Latency()
        self._saturated = False
        self._counts = dict.fromkeys(COUNTERS, 0) | {"leader_acquired_total": 1}

    def count(self, name: str) -> int:
        return self._counts[name]

    def observe(self, event: Event) -> None:
        match event:
            case Ticked():
                self._add("ticks_total")
            case Queued():
                self._add("due_agents_total")
                self._add("dispatch_queued_total")
            case TurnedAway():
                self._add("due_agents_total")
                self._add("queue_full_total")
            case Started(job) if _is_cycle(job):
                self._add("dispatch_started_total")
            case Finished(job, execution) if _is_cycle(job):
                done = execution.outcome.status is Status.OK
                self._add("dispatch_completed_total" if done else "dispatch_failed_total")
            case _:
                pass

    def saturated(self, now: bool) -> None:
        """Counts each time that it begins."""
        if now and not self._saturated:
            self._add("saturation_events_total")
        self._saturated = now

    def called(self, kind: str, ms: float) -> None:
        """One POST, `success` or `error`."""
        self._add(f"callback_{kind}_total")
        self.callback_latency.observe(ms)

    def deduped(self) -> None:
        """A cycle that was taken already and is not sent again."""
        self._add("callback_dedupe_skipped_total")

    def fetched(self, kind: str, ms: int, ok: bool) -> None:
        self.upstream_latency.observe(ms)

    def render(self, door: Answered, gauges: Mapping[str, float], caches: Mapping[str, Hits]) -> tuple[bytes, str]:
        """Text and content type."""
        lines = [f"# TYPE {PREFIX}http_responses_total counter"]
        for (route, status), count in sorted(door.answers.items()):
            lines.append(f'{PREFIX}http_responses_total{{route="{route}",status="{status}"}} {count}')
        for name, count in (self._counts | door.counts).items():
            lines += [f"# TYPE {PREFIX}{name} counter", f"{PREFIX}{name} {count}"]
        for name, value in gauges.items():
            lines += [f"# TYPE {PREFIX}{name} gauge", f"{PREFIX}{name} {plain(value)}"]
        lines += _cache_lines(caches)
        lines += self.upstream_latency.lines(f"{PREFIX}upstream_latency_ms")
        lines += self.callback_latency.lines(f"{PREFIX}callback_latency_ms")
        return ("\n".join(lines) + "\n").encode(), CONTENT_TYPE

    def _add(self, name: str) -> None:
        self._counts[name] += 1


def _cache_lines(caches: Mapping[str, Hits]) -> list[str]:
    lines = []
    for kind, found in caches.items():
        for name, label, count in (
            ("cache_hits_total", kind, found.hits),
            ("cache_hits_total", f"{kind}:inflight", found.inflight),
            ("cache_misses_total", kind, found.misses),
            ("cache_errors_total", kind, found.errors),
        ):
            lines.append(f'{PREFIX}{name}{{kind="{label}"}} {count}')
    return sorted(lines)


def _is_cycle(job: Job) -> bool:
    return isinstance(job.action, Callback)


def plain(value: float) -> str:
    """Never an exponent: 1e+06 is no number to the original's readers."""
    return str(int(value)) if value == int(value) else f"{value:.3f}"
