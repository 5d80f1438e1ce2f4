"""Agents that were registered over the API, where no daemon runs: `status`, `why`, `next`, `history`, `tick`."""

import signal

import pytest

from tests.support.daemon import Place, until
from tests.support.forge import WALLET, Forge, Stub, forge, stub

ALPHA = "_agents/user-123/alpha"
ON = {"PORT": "0"}
TAKEN = f"agents: [{{agentId: alpha, userId: user-123, walletAddress: '{WALLET}', callback: {{command: ['true']}}}}]\n"


@pytest.fixture
def env(upstream: Stub) -> dict[str, str]:
    return ON | {"KAS_API_BASE": upstream.url}


@pytest.fixture
def api(place: Place, upstream: Stub) -> Forge:
    """With one agent that has had its cycle, and one that is paused."""
    made = forge(place, upstream)
    made.register(id="alpha", cycleIntervalMs=3_600_000)
    made.register(id="beta", status="PAUSED")
    # its row: what is only shown may not be on the disk yet, where a kill loses it
    until(lambda: place.cli("history", ALPHA, "--json", env=ON).ok().json["executions"], "a cycle")
    return made


def files(place: Place) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in place.state.parent.iterdir()}


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_they_are_shown_as_by_the_daemon(place: Place, api: Forge, end: int) -> None:
    live = place.cli("status", "--json").ok().json
    api.daemon.signal(end)
    api.daemon.wait()
    before = files(place)
    disk = place.cli("status", "--json", env=ON).ok().json
    assert disk["source"] == "no daemon is running (from disk)"
    assert disk["agents"] == live["agents"] == {"count": 2, "running": 1, "paused": 1, "failing": []}
    for there, here in zip(live["jobs"], disk["jobs"], strict=True):
        shown = ("job", "agent", "condition", "last_success", "next", "started", "succeeded", "every_ms")
        assert [there[name] for name in shown] == [here[name] for name in shown]
    assert "alpha" in place.cli("status", "--agents", env=ON).ok().out
    assert place.cli("why", ALPHA, env=ON).ok().out.strip()
    (planned,) = place.cli("next", "-n", "1", "--json", env=ON).ok().json["slots"]
    assert planned["job"] == ALPHA
    if end == signal.SIGTERM:
        assert files(place) == before
        assert len(place.cli("history", ALPHA, "--json", env=ON).ok().json["executions"]) == 1


def test_while_the_api_is_off_they_are_counted_only(place: Place, api: Forge) -> None:
    api.daemon.stop()
    place.configure("namespaces: {}\n")
    disk = place.cli("status", "--json").ok().json
    assert disk["jobs"] == []
    assert "2 agents were registered over the API, which is off here: not shown" in disk["findings"]
    assert place.cli("why", ALPHA).code == 1


def test_a_damaged_file_is_a_finding(place: Place, api: Forge) -> None:
    api.daemon.stop()
    place.state.with_name("scheduler-specs.db").write_bytes(b"no database at all" * 100)
    done = place.cli("status", "--json", env=ON).ok()
    (finding,) = [line for line in done.json["findings"] if "registered agents are not shown" in line]
    assert "scheduler-specs.db cannot be read" in finding


def test_one_that_a_file_takes_over_is_named(place: Place, api: Forge) -> None:
    """In the log and in `status`, until one of the two is gone."""
    place.write("config/agents.yaml", TAKEN)
    api.daemon.signal(signal.SIGHUP)
    told = api.daemon.wait_line("trouble", what="agents_hidden")
    assert (told["agents"], told["count"]) == (["user-123/alpha"], 1)
    (finding,) = [line for line in place.cli("status", "--json").ok().json["findings"] if "in a file now" in line]
    assert finding == "1 agents that were registered stand in a file now, which counts: user-123/alpha"
    place.write("config/agents.yaml", "agents: []\n")
    api.daemon.signal(signal.SIGHUP)
    until(lambda: not any("in a file" in line for line in place.cli("status", "--json").ok().json["findings"]), "rest")


def test_an_idle_tick_sees_them_and_writes_nothing(place: Place, api: Forge, env: dict[str, str]) -> None:
    api.daemon.stop()
    place.cli("tick", env=env).ok()
    before = files(place)
    assert place.cli("tick", env=env).ok().err == "0 run: 0 ok, 0 failed\n"
    assert files(place) == before


def test_a_tick_wakes_one_that_is_due(place: Place, api: Forge, env: dict[str, str]) -> None:
    with stub() as consumer:
        api.register(id="quick", cycleIntervalMs=1_000, callbackUrl=f"{consumer.url}/quick")
        until(lambda: consumer.received, "a cycle")
        api.daemon.stop()
        count = len(consumer.received)
        place.cli("tick", env=env).ok()  # at least brings the configuration into the snapshot

        def woken() -> bool:
            place.cli("tick", env=env).ok()
            return len(consumer.received) > count

        until(woken, "a tick that wakes it")
