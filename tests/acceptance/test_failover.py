"""A leader that goes without a word is replaced within its lock's life and a second."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.failovers import TTL_S, failovers
from tests.support.redis_server import serving


@pytest.mark.timeout(240)
def test_another_one_leads_within_the_ttl_and_a_second(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with serving(tmp_path / "redis") as server:
        played = failovers(tmp_path, server, {"kill": 3, "freeze": 2}, seed=5)
    record_property("failover", f"lock of {TTL_S:g} s; {played.figure()}")
    assert max(played.took["kill"] + played.took["freeze"]) <= TTL_S + 1
    assert played.fences == sorted(played.fences)
    assert len(set(played.fences)) == 6, "each leader under a fence of its own"
