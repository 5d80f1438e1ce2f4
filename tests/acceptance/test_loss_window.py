"""T6c: a daemon killed right after a run without `crash_exact` ended, inside the window of docs/guarantees.md."""

from pathlib import Path

import pytest

from tests.support.faults import site
from tests.support.kills import crash
from vmsh_scheduler.domain.run import Status


@pytest.mark.parametrize("said", [False, True])
def test_t6c_what_was_said_is_kept_and_what_was_not_is_unknown_never_lost(tmp_path: Path, said: bool) -> None:
    place = site(tmp_path)
    cadence = place.work("plain", "crash_exact: false", "on_unknown: retry", every="1h")
    place.configure(cadence)
    try:
        first = place.place.daemon()
        first.wait_until(lambda: [e for e in place.entries() if e.kind == "end"], "an end")
        if said:
            first.wait_line("anchor success")
        crash(first)
        known = bool(first.lines("anchor success"))
        second = place.place.daemon()
        second.ready()
        second.wait_until(lambda: Status.OK in [e.outcome.status for e in place.books().executions], "a success")
        second.stop()
    finally:
        place.place.close()
    starts = place.starts(cadence)
    assert len({entry.key for entry in starts}) == 1
    assert [entry.attempt for entry in starts] == list(range(1, len(starts) + 1))
    seen = [execution.outcome.status for execution in place.books().executions]
    assert seen.count(Status.OK) == 1
    assert seen.count(Status.UNKNOWN) == len(starts) - 1
    assert not (known and len(starts) > 1)
