"""The API at full figure, against a running daemon."""

from collections.abc import Callable
from pathlib import Path

from tests.support.api_fuzz import fuzz
from tests.support.daemon import Place
from tests.support.forge import forge, stub

Record = Callable[[str, object], None]


def test_two_thousand_requests_made_from_the_description(tmp_path: Path, record_property: Record) -> None:
    rounds = 2_000
    place = Place(tmp_path)
    try:
        with stub() as upstream:
            api = forge(place, upstream)
            seen = fuzz(api, rounds, start=1)
            assert api.get("/health")["ok"] is True
            assert not api.daemon.lines("api failed")
            api.daemon.stop()
    finally:
        place.close()
    told = ", ".join(f"{seen.statuses[status]:,} x {status}" for status in sorted(seen.statuses))
    record_property("API", f"{seen.statuses.total():,} requests made from /openapi.json: 0 x 500, {told}")
    assert seen.statuses.total() >= rounds
    assert not seen.statuses[500]
