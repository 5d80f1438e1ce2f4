"""Several instances over one Redis: twenty minutes of chaos, and fifty failovers."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.broken import command
from tests.support.failovers import TTL_S, failovers
from tests.support.havoc import havoc
from tests.support.redis_server import serving

Record = Callable[[str, object], None]
MINUTE = 60


@pytest.mark.timeout(30 * MINUTE)
def test_twenty_minutes_of_chaos(tmp_path: Path, record_property: Record) -> None:
    """Every slot of 200 jobs is explained by the journal; nothing is acknowledged or accepted twice."""
    record_property("chaos", havoc(tmp_path, 20 * MINUTE, 20261122, commands=100, agents=100))


@pytest.mark.timeout(5 * MINUTE)
def test_the_chaos_bites_a_leader_that_forgets_open_runs(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="said to have never begun"):
        havoc(tmp_path, MINUTE, 20261123, commands=60, agents=20, program=command("forgets open runs"))


@pytest.mark.timeout(30 * MINUTE)
def test_fifty_failovers(tmp_path: Path, record_property: Record) -> None:
    with serving(tmp_path / "redis") as server:
        played = failovers(tmp_path, server, {"kill": 50, "freeze": 20}, seed=50)
    record_property("failover", f"lock of {TTL_S:g} s; {played.figure()}")
    assert max(played.took["kill"] + played.took["freeze"]) <= TTL_S + 1
    assert played.fences == sorted(played.fences)
    assert len(set(played.fences)) == 71
