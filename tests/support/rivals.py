"""Daemons and ticks that want the same state: scenarios of the L rows, for a few rounds and for many."""

import os

from tests.support.daemon import Daemon
from tests.support.faults import Cadence, Site
from tests.support.ledger import differences, gaps, violations
from tests.support.swarm import Swarm, swarm
from vmsh_scheduler.domain.trigger import SECOND


def start_together(place: Site, cadence: Cadence, count: int, timeout: float = 30) -> Daemon:
    """`count` daemons at once: the one that won. All others have ended as they should, naming it."""
    daemons = [place.place.daemon() for _ in range(count)]
    daemons[0].wait_until(lambda: sum(daemon.alive for daemon in daemons) == 1, "one left", timeout)
    (winner,) = (daemon for daemon in daemons if daemon.alive)
    winner.ready()
    for loser in daemons:
        if loser is not winner:
            assert loser.wait() == os.EX_TEMPFAIL, loser.text()
            assert f"pid {winner.pid}" in loser.text()
            assert "Traceback" not in loser.text()
    winner.wait_until(lambda: len(place.starts(cadence)) >= 2, "runs")
    return winner


def tick_beside(place: Site, daemon: Daemon, count: int, rate: float) -> Swarm:
    """`count` ticks beside a daemon: each said that there was nothing to do, and by whom it is done."""
    found = swarm(place.place, count, rate, "tick")
    assert found.codes == {os.EX_TEMPFAIL: count}, found
    for text in found.texts:
        assert "nothing done" in text
        assert f"pid {daemon.pid}" in text
    assert found.texts.total() == count
    return found


def one_author(place: Site, *cadences: Cadence) -> None:
    """Every slot was run once, and by one daemon."""
    entries, books = place.entries(), place.books()
    assert violations(entries) == []
    assert differences(entries, books) == []
    assert gaps(books, {cadence.job: SECOND for cadence in cadences}) == []
    assert len({entry.fence for entry in entries}) == 1
