"""A snapshot as Prometheus or OpenMetrics text. Import this at the first scrape: prometheus_client costs 0.1 s."""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from vmsh_scheduler.observe.histogram import Histogram
from vmsh_scheduler.observe.snapshot import AGENTS, CadenceSample, Snapshot

PREFIXES = ("vmsh_", "scheduler_")
"""The names of seed 001 and of seed 003, from the same values."""
ANCHOR = ("namespace", "cadence", "target")

Value = tuple[tuple[str, ...], float]


def expose(snapshot: Snapshot, accept: str = "") -> tuple[bytes, str]:
    """The text and its content type, as the Accept header wants it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(snapshot))
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Families(Collector):
    """Hands one snapshot to the encoders of prometheus_client."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        for prefix in PREFIXES:
            yield from _anchors(prefix, self._snapshot)
        yield from _cadences(self._snapshot.cadences)
        yield from _delays(self._snapshot)
        yield from _counters(self._snapshot)
        yield from _gauges(self._snapshot)
        yield from _attestations(self._snapshot)


def _anchors(prefix: str, shot: Snapshot) -> Iterator[Metric]:
    """Section 10 of the contract."""
    rows = [((c.namespace, c.cadence, c.target), c) for c in shot.cadences]
    counters = (
        ("attempted", "Anchor attempts begun", [(key, c.attempted) for key, c in rows]),
        ("succeeded", "Anchor attempts that succeeded", [(key, c.succeeded) for key, c in rows]),
        ("failed", "Anchor attempts that failed", [(key, c.failed) for key, c in rows]),
    )
    for name, text, values in counters:
        yield _counter(f"{prefix}anchors_{name}_total", text, ANCHOR, values)
    backoff = _highest_backoff(shot.cadences)
    yield _gauge(f"{prefix}backoff_state", "Highest backoff level of any cadence", ("namespace",), backoff)
    durations = [((*key, status), h) for key, c in rows for status, h in c.durations.items()]
    name, labels = f"{prefix}anchor_duration_seconds", (*ANCHOR, "status")
    yield _histogram(name, "Length of an anchor attempt", labels, durations)
    tick = [((), (shot.last_tick or 0) / 1000)]
    yield _gauge(f"{prefix}last_tick_timestamp_seconds", "When the engine last looked at its agenda", (), tick)


def _highest_backoff(cadences: Iterable[CadenceSample]) -> list[Value]:
    levels: dict[str, int] = {}
    for sample in cadences:
        levels[sample.namespace] = max(levels.get(sample.namespace, 0), sample.backoff)
    return [((name,), level) for name, level in levels.items()]


def _cadences(cadences: tuple[CadenceSample, ...]) -> Iterator[Metric]:
    rows = [((c.namespace, c.cadence, c.target), c) for c in cadences]
    last = [(key, (c.last_success or 0) / 1000) for key, c in rows]
    period = [(key, c.period / 1000) for key, c in rows]
    yield _gauge("vmsh_last_success_timestamp_seconds", "When a cadence last succeeded; 0 = never", ANCHOR, last)
    yield _gauge("vmsh_cadence_period_seconds", "Configured period", ANCHOR, period)


def _delays(shot: Snapshot) -> Iterator[Metric]:
    seen = [((c.namespace, c.cadence), c.delay) for c in shot.cadences if c.delay is not None]
    if shot.agents_delay is not None:
        seen.append(((AGENTS, "cycle"), shot.agents_delay))
    yield _histogram("vmsh_start_delay_seconds", "From due to process start", ("namespace", "cadence"), seen)


def _counters(shot: Snapshot) -> Iterator[Metric]:
    labelled = (
        ("runs_total", "Runs ended, by status", "status", shot.runs),
        ("runs_recovered_total", "Open runs found at start, by what became of them", "result", shot.recovered),
        ("config_reloads_total", "Configurations read", "result", shot.reloads),
        ("troubles_total", "Other things worth a log line", "what", shot.troubles),
    )
    for name, text, label, counts in labelled:
        yield _counter(f"vmsh_{name}", text, (label,), _by_label(counts))
    decisions = [(pair, float(count)) for pair, count in shot.decisions.items()]
    yield _counter("vmsh_decisions_total", "Due slots decided", ("verdict", "reason"), decisions)
    plain = (
        ("runs_unknown_total", "Runs whose end nobody saw", shot.runs.get("unknown", 0)),
        ("state_write_errors_total", "State writes that failed", shot.write_errors),
        ("clock_steps_total", "Steps of the wall clock", shot.clock_steps),
        ("log_lines_dropped_total", "Log lines lost to a slow reader", shot.log_lines_dropped),
    )
    for name, text, count in plain:
        yield _counter(f"vmsh_{name}", text, (), [((), count)])
    writes = SummaryMetricFamily("vmsh_state_write_seconds", "Durable state writes, fsync included")
    writes.add_metric((), shot.writes, shot.write_seconds)
    yield writes


def _gauges(shot: Snapshot) -> Iterator[Metric]:
    plain = (
        ("runs_running", "Runs going on", shot.running),
        ("runs_held", "Unknown runs that wait for `resolve`", shot.held),
        ("jobs_paused", "Jobs that a person paused", shot.paused),
        ("agents", "Configured agents", shot.agents),
        ("ready_depth", "Slots that wait for a permit", shot.ready),
        ("config_last_reload_successful", "1: the file on disk is in force", int(shot.config_valid)),
        ("config_last_reload_success_timestamp_seconds", "When that was", (shot.last_reload or 0) / 1000),
    )
    for name, text, value in plain:
        yield _gauge(f"vmsh_{name}", text, (), [((), value)])
    yield InfoMetricFamily("vmsh_build", "What is running", value=dict(shot.build))


def _attestations(shot: Snapshot) -> Iterator[Metric]:
    seen = shot.attestations
    phases = [((each.target, phase), float(count)) for each in seen for phase, count in each.phases.items()]
    yield _gauge("vmsh_attestations", "Anchors of a target, by how far they have come", ("target", "phase"), phases)
    gauges = (
        ("oldest_open_seconds", "Age of the oldest one that is not final", [((e.target,), e.oldest_s) for e in seen]),
        ("overdue", "In no block for too long", [((e.target,), float(e.overdue)) for e in seen]),
    )
    for name, text, values in gauges:
        yield _gauge(f"vmsh_attestations_{name}", text, ("target",), values)
    reorgs = [((e.target,), float(e.reorgs)) for e in seen]
    yield _counter("vmsh_attestations_reorged_total", "Anchors that lost their block", ("target",), reorgs)
    final = [((e.target,), e.final) for e in seen if e.final is not None]
    yield _histogram("vmsh_attestation_final_seconds", "From signing until final", ("target",), final)


def _by_label(counts: Mapping[str, int]) -> list[Value]:
    return [((label,), float(count)) for label, count in counts.items()]


def _counter(name: str, text: str, labels: tuple[str, ...], values: Iterable[Value]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values:
        family.add_metric(_safe(key), value)
    return family


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Iterable[Value]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values:
        family.add_metric(_safe(key), value)
    return family


def _histogram(
    name: str, text: str, labels: tuple[str, ...], seen: Iterable[tuple[tuple[str, ...], Histogram]]
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for key, histogram in seen:
        family.add_metric(_safe(key), histogram.buckets(), histogram.total)
    return family


def _safe(key: tuple[str, ...]) -> tuple[str, ...]:
    """Lone surrogates cannot be encoded; everything else the encoder escapes."""
    return tuple(value.encode("utf-8", "backslashreplace").decode() for value in key)
