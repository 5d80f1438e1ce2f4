"""The audit log's bound, in virtual time."""

from collections.abc import Callable, Mapping

import pytest

from vmsh_scheduler.api.audit import LINES, WINDOW_S, BoundedAudit
from vmsh_scheduler.api.surface import Audited


def call(status: int, number: int = 0) -> Audited:
    return Audited("ana", "agent.register", "", "", "127.0.0.1", status, f"r{number}")


class Time:
    """What is to be done later, and whether it still is."""

    def __init__(self) -> None:
        self.waits: list[tuple[float, Callable[[], None]]] = []
        self.now = 0.0

    def later(self, seconds: float, work: Callable[[], None]) -> "Time.Handle":
        handle = Time.Handle(self, (self.now + seconds, work))
        self.waits.append(handle.wait)
        return handle

    def pass_(self, seconds: float) -> None:
        self.now += seconds
        for at, work in [wait for wait in self.waits if wait[0] <= self.now]:
            self.waits.remove((at, work))
            work()

    class Handle:
        def __init__(self, time: "Time", wait: tuple[float, Callable[[], None]]) -> None:
            self.time, self.wait = time, wait

        def cancel(self) -> None:
            if self.wait in self.time.waits:
                self.time.waits.remove(self.wait)


class World:
    def __init__(self) -> None:
        self.time = Time()
        self.lines: list[Audited] = []
        self.counted: list[Mapping[int, int]] = []
        self.audit = BoundedAudit(self.lines.append, self.counted.append, self.time.later)


@pytest.mark.parametrize("status", [401, 403, 429])
def test_a_flood_of_refusals_is_twenty_lines_and_a_count(status: int) -> None:
    world = World()
    for number in range(LINES + 980):
        world.audit(call(status, number))
    assert [line.request_id for line in world.lines] == [f"r{number}" for number in range(LINES)]
    assert world.counted == []
    world.time.pass_(WINDOW_S)
    assert world.counted == [{status: 980}]


def test_each_status_has_lines_of_its_own() -> None:
    world = World()
    for status in (401, 403, 429):
        for _ in range(LINES + 1):
            world.audit(call(status))
    assert len(world.lines) == 3 * LINES
    world.audit.close()
    assert world.counted == [{401: 1, 403: 1, 429: 1}]
    assert world.time.waits == []


@pytest.mark.parametrize("status", [0, 200, 400, 404, 500, 503])
def test_what_was_let_in_is_always_written(status: int) -> None:
    world = World()
    for _ in range(10 * LINES):
        world.audit(call(status))
    assert len(world.lines) == 10 * LINES
    assert world.time.waits == []


def test_the_next_window_begins_anew() -> None:
    world = World()
    for _ in range(LINES):
        world.audit(call(401))
    world.time.pass_(WINDOW_S)
    assert world.counted == []
    world.audit(call(401))
    assert len(world.lines) == LINES + 1
    world.audit.close()
    world.audit.close()
    assert world.counted == []
